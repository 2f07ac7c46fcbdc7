"""The LLM over rows: counting, caching, going on after a stop, giving up."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.core.errors import LocumError, UpstreamError, UserError
from locum.core.progress import Event, listening
from locum.evaluate.llm import decoding_hash, evaluate_llm, read_cache, sample_positions
from locum.evaluate.spending import Spending
from locum.runtime.completion import Completion, CompletionRequest
from locum.runtime.fake import FakeGenerator
from locum.schema.data import Row
from locum.schema.task import Price
from locum.tasks.classify import Classify

LABELS = ("ham", "spam")
KIND = Classify("Is it spam?", LABELS)
ROWS = [Row(id=f"r{i}", input=f"message {i}", output=LABELS[i % 2]) for i in range(10)]
GOLD = {row.input: row.output for row in ROWS}


def asked_text(request: CompletionRequest) -> str:
    line = request.messages[-1].content.splitlines()[0]
    return str(json.loads(line.removeprefix("Input: ")))


def right(request: CompletionRequest) -> str:
    return GOLD[asked_text(request)]


def run(generator: FakeGenerator, path: Path, rows: list[Row] = ROWS, **more: Any):
    return evaluate_llm(generator, KIND, rows, LABELS, "test", path, **more)


def test_right_answers_tokens_and_latency(tmp_path: Path) -> None:
    events: list[Event] = []
    with listening(events.append):
        made = run(FakeGenerator(right, latency_s=0.001), tmp_path / "llm.jsonl")
    assert made.correct.all() and made.failures == 0 and made.asked == 10
    assert made.evaluation().metrics["accuracy"].value == 1.0
    assert made.output_tokens == 10 and made.input_tokens > 100
    assert made.names == ("fake-llm",)
    latency = made.latency()
    assert latency is not None and latency.n == 10 and latency.p50_ms >= 1
    assert events[-1].done == 10


def test_answers_are_asked_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "llm.jsonl"
    first = run(FakeGenerator(right), path)
    silent = FakeGenerator(right)
    again = run(silent, path, ROWS[::-1])
    assert silent.requests == []
    assert again.asked == 0
    assert again.input_tokens == first.input_tokens
    assert again.outputs == first.outputs[::-1]
    assert again.latency() is not None


def test_another_model_or_prompt_asks_anew(tmp_path: Path) -> None:
    path = tmp_path / "llm.jsonl"
    run(FakeGenerator(right), path)
    other = FakeGenerator(right, model="other")
    run(other, path)
    assert len(other.requests) == 10
    longer = FakeGenerator(right)
    evaluate_llm(longer, Classify("Other?", LABELS), ROWS, LABELS, "test", path)
    assert len(longer.requests) == 10
    assert decoding_hash(KIND) != decoding_hash(Classify("Other?", LABELS))


def test_rows_with_one_input_are_asked_once(tmp_path: Path) -> None:
    twice = [ROWS[0], ROWS[0].model_copy(update={"id": "again"})]
    generator = FakeGenerator(right)
    made = run(generator, tmp_path / "llm.jsonl", twice)
    assert len(generator.requests) == 1
    assert made.correct.tolist() == [True, True]


def test_fault_61_refusal_empty_and_filtered_answers_are_invalid_not_labels(tmp_path: Path) -> None:
    filtered = Completion("ham", "content_filter", 1, 1, "fake-llm")
    generator = FakeGenerator(["", "I'm sorry, I cannot help with spam.", filtered, "spam"])
    made = run(generator, tmp_path / "llm.jsonl", ROWS[:4])
    assert made.outputs == (None, None, None, "spam")
    evaluation = made.evaluation()
    assert (evaluation.n, evaluation.invalid, made.failures) == (4, 3, 0)
    assert evaluation.metrics["accuracy"].value == 0.25


def test_a_failed_row_is_left_out_and_asked_again(tmp_path: Path) -> None:
    def flaky(request: CompletionRequest) -> str | Exception:
        if asked_text(request) in ("message 2", "message 5"):
            return UpstreamError("upstream-timeout", "no answer")
        return right(request)

    made = run(FakeGenerator(flaky), tmp_path / "llm.jsonl")
    assert made.failures == 2
    assert made.evaluation().n == 8
    assert np.isnan(made.seconds[[2, 5]]).all()
    assert made.correct.sum() == 8 and made.correct_at_best.all()
    mended = FakeGenerator(right)
    assert run(mended, tmp_path / "llm.jsonl").failures == 0
    assert [asked_text(request) for request in mended.requests] == ["message 2", "message 5"]


def test_too_long_inputs_never_make_it_give_up(tmp_path: Path) -> None:
    generator = FakeGenerator([LocumError("runtime-too-long", "too long")])
    made = run(generator, tmp_path / "llm.jsonl")
    assert made.failures == 10
    assert made.latency() is None
    with pytest.raises(UserError, match="no rows"):
        made.evaluation()


def test_fault_57_a_storm_of_failures_gives_up_and_keeps_what_came(tmp_path: Path) -> None:
    def storm(request: CompletionRequest) -> str | Exception:
        if int(asked_text(request).split()[1]) >= 4:
            return UpstreamError("upstream-server-error", "HTTP 503")
        return right(request)

    generator = FakeGenerator(storm)
    with pytest.raises(UpstreamError, match=r"3 times in a row after 4 answers.*HTTP 503") as caught:
        run(generator, tmp_path / "llm.jsonl", give_up_after=3)
    assert caught.value.code == "evaluate-llm-gave-up"
    assert len(generator.requests) == 7
    assert run(FakeGenerator(right), tmp_path / "llm.jsonl").asked == 6


def test_faults_that_are_not_about_the_llm_are_raised(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bad key"):
        run(FakeGenerator([UserError("upstream-refused-key", "bad key")]), tmp_path / "llm.jsonl")


def test_fault_63_a_cap_stops_and_the_rest_can_be_asked_later(tmp_path: Path) -> None:
    """An answer costs 1; before it is asked, up to 1 and what its bytes can be are set aside."""
    path, price = tmp_path / "llm.jsonl", Price(input=0, output=1e6 / KIND.decoding.max_tokens)
    generator = FakeGenerator(lambda request: counted(right(request)))
    purse = Spending(price, 3.5, raised_with="llm.max_cost")
    with pytest.raises(UpstreamError, match=r"3 of 3\.5 is spent.*could cost up to 1") as caught:
        run(generator, path, spending=purse)
    assert caught.value.code == "evaluate-llm-cap"
    assert caught.value.fix is not None and "llm.max_cost" in caught.value.fix
    assert len(read_cache(path)) == len(generator.requests) == 3
    with pytest.raises(UpstreamError):
        run(generator, path, spending=purse)  # one purse pays for all calls
    assert len(generator.requests) == 3
    assert run(FakeGenerator(right), path, spending=Spending(price, 100)).asked == 7


def counted(text: str) -> Completion:
    """An answer that took all the tokens it may."""
    return Completion(text, "stop", 0, KIND.decoding.max_tokens, "fake-llm")


@pytest.mark.parametrize("end", ["give-up", "cap", "stop"])
def test_answers_under_way_are_kept_when_asking_ends_early(tmp_path: Path, end: str) -> None:
    """The first request ends it all at once, while seven others take their time and are paid for."""
    path, begun, paid = tmp_path / "llm.jsonl", threading.Barrier(8), []
    failure = {
        "give-up": UpstreamError("upstream-server-error", "HTTP 503"),
        "cap": UpstreamError("evaluate-llm-cap", "no more"),
        "stop": KeyboardInterrupt(),
    }[end]

    def slow(request: CompletionRequest) -> str | BaseException:
        begun.wait(5)
        if asked_text(request) == "message 0":
            return failure
        threading.Event().wait(0.1)
        paid.append(request)
        return right(request)

    generator = FakeGenerator(slow)
    with pytest.raises((UpstreamError, KeyboardInterrupt)):
        run(generator, path, concurrency=8, give_up_after=1)
    assert len(generator.requests) == 8
    assert len(read_cache(path)) == len(paid) == 7


def test_fault_44_a_line_cut_short_by_a_kill_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "llm.jsonl"
    run(FakeGenerator(right), path)
    path.write_bytes(path.read_bytes()[:-20])
    again = FakeGenerator(right)
    assert run(again, path).correct.all()
    assert len(again.requests) == 1
    assert len(read_cache(path)) == 10
    path.write_bytes(path.read_bytes() + b'{"key": 3}\n[1]\nnull\n{}\n')
    assert len(read_cache(path)) == 10


def test_requests_in_flight_are_bounded(tmp_path: Path) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def counting(request: CompletionRequest) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.01)
        with lock:
            now -= 1
        return right(request)

    made = run(FakeGenerator(counting), tmp_path / "llm.jsonl", concurrency=3)
    assert made.correct.all()
    assert most == 3


def test_a_sample_does_not_depend_on_order() -> None:
    first = {ROWS[i].id for i in sample_positions(ROWS, 4, seed=1)}
    turned = ROWS[::-1]
    assert first == {turned[i].id for i in sample_positions(turned, 4, seed=1)}
    assert sample_positions(ROWS, 4, seed=1).tolist() != sample_positions(ROWS, 4, seed=2).tolist()
    assert sample_positions(ROWS, 99).tolist() == list(range(10))
    assert sample_positions(ROWS, 0).tolist() == []
