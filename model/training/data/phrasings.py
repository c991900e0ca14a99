"""Task requests in plain language: some training examples use them instead of task tags."""

from collections.abc import Sequence

from model.text.task_prompts import LANGUAGE_NAMES

# {0} is the name of the target language in the language of the phrase, {1} the text.
_TRANSLATE = {
    "en": (
        "Translate to {0}: {1}",
        "Translate into {0}:\n{1}",
        "Please translate this to {0}: {1}",
        "How do you say this in {0}?\n{1}",
        "{1}\n\nTranslate the text above to {0}.",
    ),
    "zh": ("翻译成{0}：{1}", "请把下面的话翻译成{0}：\n{1}", "用{0}怎么说？\n{1}"),
    "de": ("Übersetze ins {0}e: {1}", "Bitte ins {0}e übersetzen:\n{1}", "Wie sagt man das auf {0}?\n{1}"),
    "fr": ("Traduis en {0} : {1}", "Traduisez en {0} :\n{1}", "Comment dit-on cela en {0} ?\n{1}"),
}
# by the language of the phrase
_NAMES = {
    "en": LANGUAGE_NAMES,
    "zh": {"en": "英语", "zh": "中文", "de": "德语", "fr": "法语"},
    "de": {"en": "Englisch", "zh": "Chinesisch", "de": "Deutsch", "fr": "Französisch"},
    "fr": {"en": "anglais", "zh": "chinois", "de": "allemand", "fr": "français"},
}
# {0} is the document.
_SUMMARIZE = {
    "short": ("Write a headline for this text:\n{0}", "Summarize in a few words: {0}", "Give this text a title:\n{0}"),
    "medium": (
        "Summarize in one sentence: {0}",
        "Summarize this text:\n{0}",
        "Write a short summary:\n{0}",
        "{0}\n\nSummarize the text above.",
    ),
    "long": ("Summarize this text:\n{0}", "Write a summary:\n{0}", "{0}\n\nWhat does this text say, in short?"),
}
# {0} is the label set, {1} the text.
_ANALYZE = {
    "en": (
        "Choose one of {0} for this text:\n{1}",
        "Classify the text as one of: {0}.\n{1}",
        "Which label fits: {0}?\n{1}",
        "{1}\n\nWhich of these fits the text above: {0}?",
    ),
    "zh": ("从{0}中选一个：\n{1}", "这段话属于哪一类：{0}？\n{1}"),
}


def ask_translate(text: str, source: str, target: str, choice: int) -> str:
    """Return the user's request, in English or in one of the two languages. `choice` is any number from 0."""
    languages = ["en", *(language for language in (source, target) if language != "en")]
    phrases = [(language, phrase) for language in languages for phrase in _TRANSLATE[language]]
    language, phrase = phrases[choice % len(phrases)]
    return phrase.format(_NAMES[language][target], text)


def ask_summarize(text: str, length: str, choice: int) -> str:
    phrases = _SUMMARIZE[length]
    return phrases[choice % len(phrases)].format(text)


def ask_analyze(text: str, labels: Sequence[str], language: str, choice: int) -> str:
    phrases = _ANALYZE["zh" if language == "zh" else "en"]
    return phrases[choice % len(phrases)].format(", ".join(labels), text)
