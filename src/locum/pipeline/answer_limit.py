"""How long a written answer may be: worked out once, from the right answers in train, for every student and the LLM.

Notable: the limit only ends what would never end by itself, so it leaves room above nearly all right answers. A build
counts tokens with the tokenizers of the bases that it is about to build from and has to fetch anyway; a plan downloads
nothing, so it guesses from characters and says so. Not here: how much room a kind leaves (``tasks.written``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from locum.core.errors import ModelFileError, SourceError
from locum.core.files import write_json
from locum.core.progress import note, track, warn
from locum.data.load import iterate
from locum.pipeline.built import Prepared
from locum.pipeline.made import base_inputs
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.runtime.completion import CompletionRequest
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.open import open_model
from locum.schema.answers import AnswerLimit
from locum.schema.candidate import Candidate
from locum.schema.data import SplitName
from locum.schema.task import Task
from locum.sources.bases import ensure_base
from locum.sources.catalogue import Format
from locum.tasks import open_kind
from locum.tasks.written import Written

LONG = 0.99
"""The share of right answers that a long one is as long as."""
_COUNTED_ROWS = 1000
_CONTEXT = 512  # llama.cpp needs one, though nothing is read
_TOKENIZER = "tokenizer.json"

Count = Callable[[Sequence[str]], list[int]]


def limit_answers(work: Workspace, data: Prepared, ladder: Sequence[Candidate]) -> Workspace:
    """The build with a limit for its answers in the task; as it is for kinds that write none.

    Raises:
        LocumError: the engine that counts failed.
    """
    task = work.task
    if not writes(task):
        return work
    if task.generation.max_tokens is not None:
        return replace(work, answers=AnswerLimit(max_tokens=task.generation.max_tokens, source="task"))
    bases = {each.base: each for each in reversed(ladder) if each.base is not None and each.skipped is None}
    step = Step(
        "answers",
        "count the tokens of right answers",
        {
            "data": data.key,
            "form": task.form,
            "answer_schema": task.answer_schema,
            "bases": [_counted_by(work, bases[name]) for name in sorted(bases)],
            "context": task.generation.context,
        },
    )
    folder = work.steps.run(step, lambda out: _decide(work, data, list(bases.values()), out))
    found = AnswerLimit.from_json((folder / "answers.json").read_bytes(), str(folder))
    note(f"an answer may have {found.max_tokens} tokens: {found.why}")
    return replace(work, task=task.with_answers_of(found.max_tokens), answers=found)


def writes(task: Task) -> bool:
    """Whether students of a task write their answers."""
    return task.kind in ("extract", "generate")


def guess_limit(task: Task, long_tokens: int | None) -> AnswerLimit:
    """The limit that a build will come to, before it is known.

    Args:
        task: of a kind that writes.
        long_tokens: what a long answer has, as guessed from its characters; None when there is no file to look at.
    """
    kind = _kind(task, ())
    if task.generation.max_tokens is not None:
        return AnswerLimit(max_tokens=task.generation.max_tokens, source="task")
    if long_tokens is None:
        return AnswerLimit(max_tokens=kind.decoding.max_tokens, source="kind")
    return AnswerLimit(max_tokens=kind.allowed_tokens(long_tokens), source="train", long_tokens=long_tokens)


def right_answers(task: Task, data: Prepared, split: SplitName = "train") -> list[str]:
    """What a split says to write, row by row; rows whose gold answer is only a check have none."""
    kind = open_kind(task, data.labels)
    return [answer for row in iterate(data.folder, split) if (answer := kind.target(row)) is not None]


def _kind(task: Task, labels: tuple[str, ...]) -> Written:
    kind = open_kind(task, labels)
    if not isinstance(kind, Written):
        raise TypeError(f"{task.form} writes no answers")
    return kind


def _decide(work: Workspace, data: Prepared, candidates: Sequence[Candidate], out: Path) -> None:
    kind = _kind(work.task, data.labels)
    answers = right_answers(work.task, data)
    answers = answers[:: math.ceil(len(answers) / _COUNTED_ROWS)] if answers else []
    longest: dict[str, int] = {}
    for candidate in candidates if answers else ():
        base = str(candidate.base)
        try:
            with _counter(work, candidate) as count:
                longest[base] = long_of(count(answers))
        except (SourceError, ModelFileError) as error:  # costs its candidates, later, and not the build
            warn(f"the tokens of {base} cannot be counted", why=error.cause)
    if longest:
        long = max(longest.values())
        found = AnswerLimit(
            max_tokens=kind.allowed_tokens(long),
            source="train",
            long_tokens=long,
            rows=len(answers),
            tokenizers=tuple(sorted(longest)),
        )
    else:
        found = AnswerLimit(max_tokens=kind.decoding.max_tokens, source="kind")
    write_json(out / "answers.json", found.to_json())


def long_of(lengths: Sequence[int]) -> int:
    """The least length that a share of ``LONG`` of the answers does not exceed; there is at least one answer."""
    return sorted(lengths)[math.ceil(LONG * len(lengths)) - 1]


def _form(candidate: Candidate) -> Format | None:
    """The form of its base that a candidate takes."""
    return "gguf" if candidate.method in ("prompt", "few_shot") else None


def _counted_by(work: Workspace, candidate: Candidate) -> dict[str, Any]:
    """A base whose tokenizer counts, by content where it can be had."""
    try:
        return base_inputs(work, candidate.base, _form(candidate))
    except SourceError:  # costs its candidates, later, and not the build
        return {"base": candidate.base}


@contextmanager
def _counter(work: Workspace, candidate: Candidate) -> Generator[Count]:
    """Counts tokens as the base of a candidate does."""
    path = ensure_base(candidate.base or "", root=work.root, offline=work.offline, format=_form(candidate))
    if path.is_dir():
        yield _count_with_file(path / _TOKENIZER)
        return
    with (
        track(f"count tokens with {candidate.base}"),
        closing(open_model(path, EngineSettings(threads=work.threads, n_ctx=_CONTEXT, slots=1))) as model,
    ):
        yield lambda texts: [len(model.prompt_tokens(CompletionRequest((), prompt=text))) for text in texts]


def _count_with_file(path: Path) -> Count:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself for a file that is missing or damaged
        raise ModelFileError("models-damaged", f"its tokenizer cannot be read: {error}", where=str(path)) from error
    return lambda texts: [len(each.ids) for each in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
