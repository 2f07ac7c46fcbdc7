"""Locum's engines as a model of EleutherAI's lm-evaluation-harness: ``HarnessModel``.

Notable: continuations of one prompt are scored together, so the prompt is read once; several prompts are under way at
the same time, as many as the engine has slots. Every answer is kept as it comes. A conversation travels through the
harness as JSON text, because its tasks only know strings, and is put through the chat template by the engine. Not
here: tasks and their data (``harness_tasks``), perplexity of whole texts, which costs a request a token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import replace
from itertools import islice
from typing import Any, NoReturn, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from locum.core.errors import LocumError, UserError
from locum.core.progress import note, track
from locum.evaluate.harness_answers import AnswerFile
from locum.evaluate.spending import Spending, forecast
from locum.runtime.completion import Completion, CompletionRequest
from locum.runtime.protocol import Generator, GreedyScorer
from locum.schema.message import Message

_CHAT = "\x02chat\x03"
_MAX_TOKENS = 256
"""The harness's own default for answers that a task does not bound."""
_STOPS_MAX = 4
"""OpenAI's API takes no more; the text is cut here at all of them."""
_WRITING = {"until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks", "max_tokens", "max_new_tokens"}

T = TypeVar("T")
R = TypeVar("R")


class HarnessModel(LM):
    """An engine that the harness can ask.

    Args:
        generator: a GGUF file, or the LLM behind its URL.
        answers: where answers are kept; open.
        concurrency: requests under way at once.
        spending: price and cap; None for a model on this machine.

    Attributes:
        chosen: by task, the numbers of the documents that are asked about; a task that lacks here is asked about all.
    """

    def __init__(
        self, generator: Generator, answers: AnswerFile, *, concurrency: int = 4, spending: Spending | None = None
    ) -> None:
        super().__init__()
        self._generator = generator
        self._answers = answers
        self._concurrency = max(1, concurrency)
        self._spending = spending
        self.chosen: Mapping[str, Sequence[int]] = {}

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy decoding would write it.

        Spaces at the end of a context go to the continuation, as the harness does for its own models.

        Raises:
            UserError: ``runtime-unsupported-option``: the model tells no probabilities of given texts, or a context is
                empty.
            LocumError: the engine failed; what came before is kept.
        """
        pairs = [_moved_spaces(*_asked(request)) for request in requests]
        keys = [self._answers.key("loglikelihood", *pair) for pair in pairs]
        missing: dict[str, dict[str, str]] = {}
        about: dict[str, Instance] = {}
        for request, (context, continuation), key in zip(requests, pairs, keys, strict=True):
            if key not in self._answers:
                missing.setdefault(context, {})[continuation] = key
                about.setdefault(context, request)
        if missing:
            self._score(missing, about)
        return [(float(logprob), bool(greedy)) for logprob, greedy in (self._answers[key] for key in keys)]

    def _score(self, missing: dict[str, dict[str, str]], about: dict[str, Instance]) -> None:
        scorer = self._generator
        if not isinstance(scorer, GreedyScorer):
            _unsupported(
                f"{scorer.model} does not tell how probable a given text is, and multiple choice is scored by that",
                "take tasks that write their answer (gsm8k), or a GGUF file of the model",
            )
        if "" in missing:
            _unsupported("the task asks how probable a text is that follows nothing", "leave that task out")

        def ask(context: str) -> list[tuple[float, bool]]:
            found = scorer.score_greedy(_request(context), list(missing[context]))
            return list(zip(found.logprobs.tolist(), found.greedy.tolist(), strict=True))

        def keep(context: str, scores: list[tuple[float, bool]]) -> None:
            for key, score in zip(missing[context].values(), scores, strict=True):
                self._answers.add(key, list(score), **self._place(about[context]))

        self._each(f"score {scorer.model}", missing, ask, keep)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the model writes after each context, up to a stop.

        Raises:
            UserError: ``runtime-unsupported-option``: a task asks for decoding that is not known here.
            UpstreamError: the cap on the cost is reached; what came before is kept.
            LocumError: the engine failed; what came before is kept.
        """
        asked: dict[str, CompletionRequest] = {}
        about: dict[str, Instance] = {}
        turns: dict[tuple[str, str], int] = {}
        keys: list[str] = []
        for instance in requests:
            context, settings = _asked(instance)
            turn = turns[context, repr(settings)] = turns.get((context, repr(settings)), -1) + 1
            request = _writing_request(context, settings, turn)
            keys.append(self._answers.key("generate", context, settings, turn if request.temperature else 0))
            asked[keys[-1]], about[keys[-1]] = request, instance
        missing = {key: request for key, request in asked.items() if key not in self._answers}
        if missing:
            self._write(missing, about)
        return [str(self._answers[key]) for key in keys]

    def _write(self, missing: dict[str, CompletionRequest], about: dict[str, Instance]) -> None:
        spending = self._spending
        if spending is not None:
            expected = forecast(list(missing.values()), spending.price)
            note(f"{self._generator.model}: {expected.line()}")
            spending.check(expected)

        def ask(key: str) -> str:
            completion = self._complete(missing[key])
            return _cut(completion.text, missing[key].stop)

        def keep(key: str, text: str) -> None:
            self._answers.add(key, text, **self._place(about[key]))

        self._each(f"ask {self._generator.model}", missing, ask, keep)

    def _complete(self, request: CompletionRequest) -> Completion:
        spending = self._spending
        if spending is None:
            return self._generator.complete(request)
        return spending.complete(self._generator, replace(request, stop=request.stop[:_STOPS_MAX]))

    def loglikelihood_rolling(self, requests: list[Instance]) -> NoReturn:
        """Refused: the probability of a whole text costs the engine a request a token.

        Raises:
            UserError: ``runtime-unsupported-option``.
        """
        _unsupported("the perplexity of whole texts costs a request for each token", "leave that task out")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text that this model's other methods read back.

        Raises:
            UserError: ``runtime-unsupported-option``: the answer's beginning is given.
        """
        if not add_generation_prompt:
            _unsupported("the task begins the model's answer itself, which a chat cannot say", "add --no-chat")
        return _CHAT + json.dumps(chat_history)

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its cache of requests by; ours are keyed by their text."""
        return self._generator.model

    def _place(self, instance: Instance) -> dict[str, Any]:
        """Which document of which task a question is about; the harness counts only those that were chosen."""
        task, place = str(instance.task_name), int(instance.doc_id or 0)
        return {"task": task, "document": self.chosen[task][place] if task in self.chosen else place}

    def _each(self, label: str, items: Collection[T], ask: Callable[[T], R], keep: Callable[[T, R], None]) -> None:
        """Ask about every item with a bounded number under way; answers are kept by the calling thread alone.

        After a failure nothing more is asked, and what is under way is kept: it may have been paid for.
        """
        waiting = iter(items)
        flying: dict[Future[R], T] = {}
        failure: LocumError | None = None
        with track(label, total=len(items), unit="request") as tracker, ThreadPoolExecutor(self._concurrency) as pool:
            while flying or failure is None:
                free = self._concurrency - len(flying) if failure is None else 0
                for item in islice(waiting, free):
                    flying[pool.submit(copy_context().run, ask, item)] = item
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    item = flying.pop(future)
                    try:
                        keep(item, future.result())
                    except LocumError as error:
                        failure = failure or error
                    tracker.advance()
            if failure is not None:
                raise failure


def _unsupported(cause: str, fix: str) -> NoReturn:
    raise UserError("runtime-unsupported-option", cause, fix=fix)


def _asked(instance: Instance) -> tuple[str, Any]:
    """A context, and what is asked of it: a continuation, or settings of decoding."""
    context, asked = instance.arguments
    return context, asked


def _moved_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at a context's end belong to the first word that follows (``TemplateLM._encode_pair``)."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def _request(context: str) -> CompletionRequest:
    """A context of the harness as a request: text as it is, or the conversation that it stands for."""
    if not context.startswith(_CHAT):
        return CompletionRequest((), prompt=context)
    turns = json.loads(context.removeprefix(_CHAT))
    return CompletionRequest(tuple(Message(turn["role"], turn["content"]) for turn in turns))


def _writing_request(context: str, settings: dict[str, Any], turn: int) -> CompletionRequest:
    """What the harness's ``generation_kwargs`` ask for; its names are those of transformers.

    Args:
        context: as the harness gives it.
        settings: the task's.
        turn: which of several samples of one context it is.
    """
    unknown = sorted(set(settings) - _WRITING)
    if unknown:
        _unsupported(f"the task asks for decoding by {', '.join(unknown)}, which is not known here", "leave it out")
    until = settings.get("until") or []
    sampled = bool(settings.get("do_sample", settings.get("temperature", 0)))
    lengths = (settings.get(name) for name in ("max_gen_toks", "max_tokens", "max_new_tokens"))
    made = _request(context)
    return CompletionRequest(
        made.messages,
        prompt=made.prompt,
        max_tokens=next((int(length) for length in lengths if length), _MAX_TOKENS),
        temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
        top_p=float(settings.get("top_p", 1.0)) if sampled else 1.0,
        top_k=int(settings.get("top_k", 0)) if sampled else 0,
        stop=(until,) if isinstance(until, str) else tuple(until),
        seed=turn if sampled else None,
    )


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop."""
    for stop in filter(None, stops):
        text = text.split(stop, 1)[0]
    return text
