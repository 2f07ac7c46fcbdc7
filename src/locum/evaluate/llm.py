"""The prompted LLM over a set of rows: asked once per row, kept in a file, counted in tokens.

Notable: every answer is appended to a JSON Lines file as it comes, keyed by model, prompt, decoding and input, so a run
that was stopped goes on where it was and pays for nothing twice. What is stored is the text that came back; it is read
again each time. A refusal or an empty answer is an invalid answer and counts as wrong; one that was cut before it came
to an answer is neither right nor wrong (``students.room``); a row that got no answer at all (network, too long) is a
failure, is left out, and is asked again next time. When asking ends early, whatever the reason, answers under way are
waited for and kept: they are paid for. Not here: retries of one request (``runtime``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from locum.core.appended import AppendedLines, read_lines
from locum.core.errors import LocumError, UpstreamError
from locum.core.files import content_hash, sha256_bytes
from locum.core.progress import Tracker, track
from locum.evaluate import metrics
from locum.evaluate.answers import right
from locum.evaluate.predictions import group_codes
from locum.evaluate.spending import CAP, Spending
from locum.runtime.completion import LEFT_OUT, Completion
from locum.runtime.protocol import Generator
from locum.schema.data import Row, SplitName
from locum.schema.evaluation import Evaluation, Latency
from locum.stats.rowwise import Metric
from locum.students.room import LIMIT, Room, is_cut
from locum.students.writing import answer_of, ask
from locum.tasks.protocol import TaskKind

_ROW_FAULTS = frozenset({"runtime-too-long"})  # faults of one input, not of the model


@dataclass(frozen=True)
class StoredAnswer:
    """What the LLM wrote for one input, as it stands in the cache.

    Attributes:
        version: the fingerprint that it sent.
        limit: most tokens that it was allowed; 0 where that was not kept.
        left_out: fields that its server refused, separated by commas.
    """

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    model: str
    seconds: float
    version: str = ""
    limit: int = 0
    left_out: str = ""


@dataclass(frozen=True, eq=False)
class LlmRun:
    """The LLM's answers to a set of rows.

    Attributes:
        model: the name it was asked by; ``names`` those it gave itself, ``versions`` the fingerprints it sent.
        kind: asked, read and scores.
        rows: what it was asked about, with the right answers.
        outputs: what was read out of each answer, in the rows' order; None where that is no answer, or none came.
        labels: class names; empty for kinds that have none.
        answered: whether an answer came at all, ``[n]``.
        cut: whether it ended at its limit before it came to an answer, which makes it neither right nor wrong, ``[n]``.
        cut_at: the largest of these limits, in tokens.
        left_out: fields that its server refused.
        seconds: time to each answer, ``[n]``; NaN where none came.
        asked: rows sent to the LLM in this run; the other answers stood in the cache.
        wall_s: time of this run.
    """

    model: str
    names: tuple[str, ...]
    versions: tuple[str, ...]
    kind: TaskKind
    split: SplitName
    rows: tuple[Row, ...]
    outputs: tuple[str | None, ...]
    labels: tuple[str, ...]
    answered: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    cut_at: int
    left_out: tuple[str, ...]
    seconds: NDArray[np.float64]
    input_tokens: int
    output_tokens: int
    asked: int
    wall_s: float

    @property
    def failures(self) -> int:
        """Rows without an answer."""
        return int((~self.answered).sum())

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Rows whose answer is right or wrong: one came, and it was not cut, ``[n]``."""
        return self.answered & ~self.cut

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The task's metrics over all rows; one without an answer scores 0."""
        return self.kind.score(self.outputs, self.rows)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each answer is right, ``[n]``; false where none came."""
        return right(self.metrics) & self.answered

    @property
    def correct_at_best(self) -> NDArray[np.bool_]:
        """As ``correct``, but true where no whole answer came: the careful side for a promise against the LLM."""
        return self.correct | ~self.judged

    def evaluation(self) -> Evaluation:
        """Over the rows that got an answer that was not cut; invalid answers count as wrong.

        Raises:
            UserError: no row got such an answer.
        """
        kept = np.flatnonzero(self.judged)
        outputs, rows = [self.outputs[i] for i in kept], [self.rows[i] for i in kept]
        groups = group_codes(rows)
        if self.kind.name == "classify":
            column = {label: index for index, label in enumerate(self.labels)}
            gold = np.array([column.get(row.output, -1) for row in rows], dtype=np.int64)
            said = np.array([-1 if o is None else column.get(o, -1) for o in outputs], dtype=np.int64)
            return metrics.evaluation(self.model, self.split, self.labels, gold, said, groups=groups)
        scores = self.kind.score(outputs, rows) if outputs else {}
        invalid = outputs.count(None)
        return metrics.scored_evaluation(self.model, self.split, scores, len(kept), invalid=invalid, groups=groups)

    def latency(self) -> Latency | None:
        """Per answer, as it was asked (several at once where it was); None without an answer."""
        seconds = self.seconds[self.answered]
        if len(seconds) == 0:
            return None
        p50_s, p95_s = np.percentile(seconds, [50, 95])
        rate = self.asked / self.wall_s if self.asked and self.wall_s > 0 else 1 / max(float(seconds.mean()), 1e-9)
        return Latency(
            p50_ms=1000 * float(p50_s), p95_ms=1000 * float(p95_s), n=len(seconds), answers_per_s=rate, threads=1
        )


def decoding_hash(kind: TaskKind) -> str:
    """SHA-256 of how answers are decoded, and of the prompt: what a certificate names as ``decoding``."""
    return content_hash({"prompt": kind.prompt_hash, "temperature": 0.0, **asdict(kind.decoding)})


def sample_positions(rows: Sequence[Row], count: int, seed: int = 0) -> NDArray[np.int64]:
    """Positions of a sample of rows, rising; the same rows whatever their order (lots by hash of the id).

    Args:
        rows: what to draw from.
        count: how many; all of them when there are fewer.
        seed: another seed, another sample.
    """

    def lot(index: int) -> str:
        return sha256_bytes(f"{seed}\0{rows[index].id}".encode(errors="surrogatepass"))

    return np.array(sorted(sorted(range(len(rows)), key=lot)[:count]), dtype=np.int64)


def evaluate_llm(
    generator: Generator,
    kind: TaskKind,
    rows: Sequence[Row],
    labels: tuple[str, ...],
    split: SplitName,
    cache_path: Path,
    *,
    concurrency: int = 1,
    spending: Spending | None = None,
    room: Room | None = None,
    give_up_after: int = 5,
) -> LlmRun:
    """Ask the LLM about every row that the cache does not answer.

    Args:
        generator: the LLM.
        kind: the task, as it is put to a prompted model.
        rows: what to ask about.
        labels: class names.
        split: which split the rows are of.
        cache_path: JSON Lines file with the answers so far; made when absent.
        concurrency: requests in flight at once.
        spending: the purse that answers are paid from; None is one without a cap.
        room: the limit of its answers; None is one without a setting.
        give_up_after: failures in a row after which the rest is not tried.

    Raises:
        UpstreamError: too many failures in a row, or the cap was reached; what came is kept, and the same
            call goes on from there.
        LocumError: the engine cannot be used, or the cache cannot be written.
    """
    start_s = time.perf_counter()
    keys = [_key(generator.model, kind, row.input) for row in rows]
    stored = read_cache(cache_path)
    room = room or Room()
    done = {key for key, row in zip(keys, rows, strict=True) if _stays(kind, stored.get(key), row.input, room)}
    missing = {key: row.input for key, row in zip(keys, rows, strict=True) if key not in done}
    with track(f"ask {generator.model}", total=len(rows), unit="row") as tracker:
        tracker.advance(len(rows) - len(missing))
        if missing:
            asker = _Asker(generator, kind, concurrency, spending or Spending(), room, give_up_after)
            stored |= asker.ask(missing, cache_path, tracker)
    return _run(generator.model, kind, rows, labels, split, [stored.get(key) for key in keys], len(missing), start_s)


class _Asker:
    """Asks with a bounded number of requests in flight; answers are written by the calling thread alone."""

    def __init__(
        self,
        generator: Generator,
        kind: TaskKind,
        concurrency: int,
        spending: Spending,
        room: Room,
        give_up_after: int,
    ) -> None:
        self.generator = generator
        self.kind = kind
        self.concurrency = max(1, concurrency)
        self.spending = spending
        self.room = room
        self.give_up_after = give_up_after

    def ask(self, missing: dict[str, str], cache_path: Path, tracker: Tracker) -> dict[str, StoredAnswer]:
        found: dict[str, StoredAnswer] = {}
        flying: dict[Future[StoredAnswer], str] = {}
        waiting = iter(missing.items())
        failures_in_row = 0
        with ThreadPoolExecutor(self.concurrency) as pool, AppendedLines(cache_path) as file:

            def keep(future: Future[StoredAnswer]) -> None:
                key, answer = flying[future], future.result()
                found[key] = answer
                file.append({"key": key, **vars(answer)})

            try:
                while self._fill(flying, pool, waiting):
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        fault = _row_fault(future)
                        if fault is None:
                            keep(future)
                            failures_in_row = 0
                        del flying[future]
                        failures_in_row += fault is not None and fault.code not in _ROW_FAULTS
                        if fault is not None and failures_in_row >= self.give_up_after:
                            raise _gave_up(self.generator.model, failures_in_row, len(found), fault) from fault
                        tracker.advance()
            except BaseException:  # the user's wish to stop, too: what is under way is paid for
                begun = [future for future in flying if not future.cancel()]
                wait(begun)
                for future in begun:
                    if future.exception() is None:
                        keep(future)
                raise
        return found

    def _fill(
        self, flying: dict[Future[StoredAnswer], str], pool: ThreadPoolExecutor, waiting: Iterator[tuple[str, str]]
    ) -> bool:
        """Send as many requests as may be under way; whether there are any."""
        for key, text in islice(waiting, self.concurrency - len(flying)):
            flying[pool.submit(copy_context().run, self._ask_timed, text)] = key
        return bool(flying)

    def _ask_timed(self, text: str) -> StoredAnswer:
        start_s = time.perf_counter()
        answer = self.room.complete(
            ask(self.kind, text),
            lambda request: self.spending.complete(self.generator, request),
            lambda completion: is_cut(self.kind, completion, text),
        )
        return StoredAnswer(
            answer.text,
            answer.finish_reason,
            answer.input_tokens,
            answer.output_tokens,
            answer.model,
            time.perf_counter() - start_s,
            answer.extra.get("system_fingerprint", ""),
            int(answer.extra[LIMIT]),
            answer.extra.get(LEFT_OUT, ""),
        )


def _completion(answer: StoredAnswer) -> Completion:
    return Completion(answer.text, answer.finish_reason, answer.input_tokens, answer.output_tokens, answer.model)


def _stays(kind: TaskKind, answer: StoredAnswer | None, text: str, room: Room) -> bool:
    """Whether a kept answer is not asked for again: it is whole, or was cut with as much room as there is now."""
    if answer is None:
        return False
    return not is_cut(kind, _completion(answer), text) or not room.may_grow(answer.limit)


def _row_fault(future: Future[StoredAnswer]) -> LocumError | None:
    """The fault that stands in an answer's place, None where one came; faults that are not about one row are raised."""
    fault = future.exception()
    if fault is None:
        return None
    if isinstance(fault, LocumError) and fault.code in _ROW_FAULTS:
        return fault
    if isinstance(fault, UpstreamError) and fault.code != CAP:
        return fault
    raise fault


def _gave_up(model: str, failures: int, answered: int, fault: LocumError) -> UpstreamError:
    return UpstreamError(
        "evaluate-llm-gave-up",
        f"{model} failed {failures} times in a row after {answered} answers; the last: {fault.cause}",
        fix="the answers so far are kept: run the same command again when it answers",
    )


def _key(model: str, kind: TaskKind, text: str) -> str:
    return content_hash({"model": model, "decoding": decoding_hash(kind), "input": sha256_bytes(_bytes(text))})


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def read_cache(path: Path) -> dict[str, StoredAnswer]:
    """Stored answers by key; a record of another form is passed over, and asked again."""
    found: dict[str, StoredAnswer] = {}
    for record in read_lines(path):
        try:
            key = str(record.pop("key"))
            found[key] = StoredAnswer(**record)
        except (TypeError, KeyError):
            continue
    return found


def _run(
    model: str,
    kind: TaskKind,
    rows: Sequence[Row],
    labels: tuple[str, ...],
    split: SplitName,
    answers: Sequence[StoredAnswer | None],
    asked: int,
    start_s: float,
) -> LlmRun:
    told = [None if answer is None else _completion(answer) for answer in answers]
    pairs = list(zip(told, (row.input for row in rows), strict=True))
    outputs = [None if said is None else answer_of(kind, said, text) for said, text in pairs]
    cut = [said is not None and is_cut(kind, said, text) for said, text in pairs]
    came = [answer for answer in answers if answer is not None]
    return LlmRun(
        model=model,
        names=tuple(sorted({answer.model for answer in came})),
        versions=tuple(sorted({answer.version for answer in came} - {""})),
        kind=kind,
        split=split,
        rows=tuple(rows),
        outputs=tuple(outputs),
        labels=labels,
        answered=np.array([answer is not None for answer in answers], dtype=np.bool_),
        cut=np.array(cut, dtype=np.bool_),
        cut_at=max((a.limit for a, short in zip(answers, cut, strict=True) if a is not None and short), default=0),
        left_out=tuple(sorted({name for answer in came for name in answer.left_out.split(",")} - {""})),
        seconds=np.array([np.nan if a is None else a.seconds for a in answers], dtype=np.float64),
        input_tokens=sum(answer.input_tokens for answer in came),
        output_tokens=sum(answer.output_tokens for answer in came),
        asked=asked,
        wall_s=time.perf_counter() - start_s,
    )
