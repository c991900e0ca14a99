"""The message format of gpt-oss ("harmony"): an answer is a series of messages, each in a named channel.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>

Only the channel "final" is meant for the user. See https://github.com/openai/harmony.
"""

from collections.abc import Mapping, Sequence

from model.text.detokenizer import Detokenizer

START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
FINAL = "final"


def uses_harmony(special_tokens: Mapping[str, int]) -> bool:
    """Whether a tokenizer has the special tokens of the format."""
    return special_tokens.keys() >= {START, CHANNEL, MESSAGE, END}


class FinalChannelDetokenizer:
    """Keeps the text of the channel "final", and text outside of any message (a continued text has no messages).

    Two messages in a row would otherwise read as one text. `context` are the ids before the first one that is pushed.
    """

    def __init__(
        self, text: Detokenizer, header: Detokenizer, special_tokens: Mapping[str, int], context: Sequence[int] = ()
    ) -> None:
        self._text, self._header = text, header
        self._marks = {special_tokens[mark]: mark for mark in (START, CHANNEL, MESSAGE, END)}
        self._state = MESSAGE  # the mark that came last; text is shown after <|message|>
        self._channel = FINAL
        self.push(_last_message(context, self._marks))

    def push(self, ids: Sequence[int]) -> str:
        return "".join(map(self._step, ids))

    def finish(self) -> str:
        return self._text.finish()

    def _step(self, token_id: int) -> str:
        mark = self._marks.get(token_id)
        if mark is not None:
            return self._begin(mark)
        if self._state == CHANNEL:
            self._channel += self._header.push([token_id])
        shown = self._state == MESSAGE and self._channel == FINAL
        return self._text.push([token_id]) if shown else ""

    def _begin(self, mark: str) -> str:
        if mark == START:
            self._channel = FINAL  # a message without a channel is meant for the user
        elif mark == CHANNEL:
            self._channel = ""
        elif mark == MESSAGE:
            self._channel = (self._channel + self._header.finish()).split(" ")[0].strip()
        self._state = mark
        return self._text.finish() if mark == END else ""


def _last_message(ids: Sequence[int], marks: Mapping[int, str]) -> Sequence[int]:
    """The ids from the last <|channel|> on, or from the last mark if there is none; empty without any mark."""
    places = [place for place, token_id in enumerate(ids) if token_id in marks]
    channels = [place for place in places if marks[ids[place]] == CHANNEL]
    return ids[channels[-1] if channels else places[-1] :] if places else ()
