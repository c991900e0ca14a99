"""A model behind HTTP: our task endpoints where the server has them, else any OpenAI-compatible chat endpoint."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from model.evaluation.progress import Advance
from model.evaluation.requests import (
    Analyze,
    Continue,
    GenerationRequest,
    LabelScores,
    Likelihood,
    NotSupportedError,
    Reply,
    ReplyLikelihood,
    ScoringRequest,
    Summarize,
    TextLikelihood,
    Translate,
)
from model.text.task_prompts import InstructionPrompts, Message
from server.commands.endpoints import Body, Endpoints, NoSuchEndpointError, ServerError

TASK_MAX_TOKENS = 512  # of an answer in chat form
_CONTINUE = "Continue this text. Answer with the rest of it only.\n\n"

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class UrlModel:
    """A model served at a URL. Use it in a `with` statement; up to `concurrency` requests run at once.

    A task endpoint that answers 404 is given up for the rest of the evaluation: the task is asked for in plain English
    through /v1/chat/completions. There a label is chosen, not scored: its probability is 1. Methods raise ServerError
    where the server refuses a request or fails.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 300.0,
    ) -> None:
        """`url` may end in /v1. Without `model`, the first one that the server lists is taken.

        ServerError where the server cannot be reached, ValueError for a URL without a scheme.
        """
        self._endpoints = Endpoints(url, api_key=api_key, connections=concurrency, timeout=timeout)
        self._pool = ThreadPoolExecutor(concurrency)
        self._missing: set[str] = set()
        try:
            self._model = model or str(self._endpoints.get("/v1/models")["data"][0]["id"])
        except (LookupError, ServerError) as error:
            self.close()
            raise ServerError(f"no model at {url}: {error}") from error

    def __enter__(self) -> "UrlModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the requests that run, drop those that wait."""
        self._pool.shutdown(cancel_futures=True)
        self._endpoints.close()

    @property
    def name(self) -> str:
        return self._model

    def generate(self, requests: Sequence[GenerationRequest], advance: Advance) -> list[str]:
        return self._map(self._generate, requests, advance)

    def classify(self, requests: Sequence[Analyze], advance: Advance) -> list[LabelScores]:
        return self._map(self._classify, requests, advance)

    def score(self, requests: Sequence[ScoringRequest], advance: Advance) -> list[Likelihood]:
        return self._map(self._score, requests, advance)

    def _map(self, work: Callable[[Request], Answer], requests: Sequence[Request], advance: Advance) -> list[Answer]:
        """Answers in the order of the requests. The first failure cancels what has not begun."""
        jobs = [self._pool.submit(work, request) for request in requests]
        answers = []
        try:
            for job in jobs:
                answers.append(job.result())
                advance(1)
        finally:
            for job in jobs:
                job.cancel()
        return answers

    def _generate(self, request: GenerationRequest) -> str:
        if isinstance(request, Translate):
            return self._translate(request)
        if isinstance(request, Summarize):
            return self._summarize(request)
        if isinstance(request, Reply):
            return self._chat(_messages(request), **_sampling(request))
        return self._continue(request)

    def _translate(self, request: Translate) -> str:
        body = {"text": request.text, "source_lang": request.source_lang, "target_lang": request.target_lang}
        found = self._try("/v1/translate", body)
        if found is None:
            return self._instruct(
                InstructionPrompts().translate(request.text, request.source_lang, request.target_lang)
            )
        return str(found["translations"][0]["text"])

    def _summarize(self, request: Summarize) -> str:
        body = {"text": request.text, "language": request.language, "length": request.length}
        found = self._try("/v1/summarize", body)
        if found is None:
            return self._instruct(InstructionPrompts().summarize(request.text, request.language, request.length))
        return str(found["summary"])

    def _continue(self, request: Continue) -> str:
        body = {"model": self._model, "prompt": request.prompt, **_sampling(request)}
        found = self._try("/v1/completions", body)
        if found is None:
            return self._chat([{"role": "user", "content": _CONTINUE + request.prompt}], **_sampling(request))
        return str(found["choices"][0]["text"])

    def _classify(self, request: Analyze) -> LabelScores:
        found = self._try("/v1/analyze", {"text": request.text, "labels": list(request.labels)})
        if found is None:
            return _chosen(self._instruct(InstructionPrompts().analyze(request.text, request.labels)), request.labels)
        scores: dict[str, float] = found["results"][0]["scores"]
        return scores

    def _score(self, request: ScoringRequest) -> Likelihood:
        if isinstance(request, TextLikelihood):
            return _text_likelihood(self._echo(request.text), request.text)
        return self._reply_likelihood(request)

    def _reply_likelihood(self, request: ReplyLikelihood) -> Likelihood:
        prompt = self._tokenize({"messages": _messages(request)})
        answer = self._tokenize({"prompt": request.reply})
        logprobs = self._echo([*prompt, *answer])["token_logprobs"][len(prompt) : len(prompt) + len(answer)]
        return Likelihood(sum(logprobs), len(answer), len(request.reply.encode()))

    def _tokenize(self, body: Body) -> list[int]:
        """Token ids of a text, or of a conversation up to where the answer begins: an endpoint of ours."""
        found = self._try("/v1/tokenize", body)
        if found is None:
            raise NotSupportedError(f"{self._model} has no /v1/tokenize: answers in a conversation cannot be scored")
        ids: list[int] = found["tokens"]
        return ids

    def _echo(self, prompt: str | list[int]) -> Body:
        """The log-probabilities of a prompt, and of one token after it: some servers insist on generating."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0}
        try:
            found = self._try("/v1/completions", body)
        except ServerError as error:
            if error.status not in (400, 422):
                raise
            raise NotSupportedError(f"{self._model} does not score prompts: {error}") from error
        logprobs: Body | None = found and found["choices"][0].get("logprobs")
        if not logprobs or not logprobs.get("token_logprobs"):
            raise NotSupportedError(f"{self._model} gives no likelihoods of prompts (/v1/completions with echo)")
        return logprobs

    def _instruct(self, messages: Sequence[Message]) -> str:
        return self._chat(messages, max_tokens=TASK_MAX_TOKENS, temperature=0).strip()

    def _chat(self, messages: Sequence[Message], **fields: Any) -> str:
        found = self._try("/v1/chat/completions", {"model": self._model, "messages": list(messages), **fields})
        if found is None:
            raise NotSupportedError(f"{self._model} has no /v1/chat/completions")
        return str(found["choices"][0]["message"]["content"] or "")

    def _try(self, path: str, body: Body) -> Body | None:
        """The answer of an endpoint that not every server has, None where it has not."""
        if path in self._missing:
            return None
        try:
            return self._endpoints.post(path, body)
        except NoSuchEndpointError:
            self._missing.add(path)
            return None


def _messages(request: Reply | ReplyLikelihood) -> list[Message]:
    return [dict(message) for message in request.messages]


def _sampling(request: Continue | Reply) -> Body:
    given = {"max_tokens": request.max_tokens, "seed": request.seed}
    return given if request.temperature is None else {**given, "temperature": request.temperature}


def _chosen(answer: str, labels: Sequence[str]) -> LabelScores:
    """The label that the answer is or, failing that, names first. An answer without a label counts as a wrong one."""
    said = answer.casefold().strip(" .\"'")
    named = [label for label in labels if label.casefold() in said]
    best = min(named, key=lambda label: (said.index(label.casefold()), -len(label)), default="")
    return {best: 1.0} | {label: 0.0 for label in labels if label != best}


def _text_likelihood(logprobs: Body, text: str) -> Likelihood:
    """Sum over the prompt's tokens. A first token without a log-probability is left out, with its bytes."""
    if logprobs.get("text_offset") is None:
        raise NotSupportedError("the server answers without text_offset: the prompt's tokens cannot be told")
    pairs = zip(logprobs["text_offset"], logprobs["token_logprobs"], strict=True)
    scored = [(start, value) for start, value in pairs if start < len(text) and value is not None]
    if not scored:
        return Likelihood(0.0, 0, 0)
    return Likelihood(sum(value for _, value in scored), len(scored), len(text[scored[0][0] :].encode()))
