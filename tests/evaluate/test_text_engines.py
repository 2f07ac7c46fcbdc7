"""Which engine writes the text of a plain model: what decides, what is said, what is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import LocumError, UserError
from locum.core.progress import listening
from locum.evaluate.text_engines import TextTrial, choose_text_engine, decide, measure
from locum.runtime.completion import Completion, CompletionRequest, TokenLogprob
from locum.runtime.llama_settings import EngineSettings
from locum.testing import FakeGenerator

SETTINGS = EngineSettings(threads=1)


def trial(engine: Any, prefill: float, alone: float, together: float) -> TextTrial:
    return TextTrial(engine, "1", prefill, alone, together)


def test_a_typical_request_is_alone_as_often_as_beside_others() -> None:
    assert trial("llamacpp", 200, 64, 64).request_s == pytest.approx(2)
    assert trial("llamacpp", 200, 64, 64 / 3).request_s == pytest.approx(math.sqrt(2 * 4))
    assert TextTrial("openvino", reason="not here").request_s == math.inf


def test_the_faster_engine_is_taken_when_it_gains_a_tenth() -> None:
    own = trial("llamacpp", 300, 70, 120)
    assert decide([own, trial("openvino", 2400, 70, 180)]).engine == "openvino"
    kept = decide([own, trial("openvino", 310, 72, 125)])
    assert kept.engine == "llamacpp" and kept.why.endswith("kept")
    assert decide([own, trial("openvino", 2400, 6, 18)]).engine == "llamacpp"


def test_an_engine_that_is_out_is_named_with_the_reason() -> None:
    choice = decide([trial("llamacpp", 300, 70, 120), TextTrial("openvino", reason="cannot read this file")])
    assert (choice.engine, choice.why) == ("llamacpp", "openvino: cannot read this file")


def test_rates_are_of_tokens_and_seconds() -> None:
    slow = measure("llamacpp", FakeGenerator(["a b c d e f g h"], chunk_s=0.01))
    assert 0 < slow.decode_per_s < 110
    assert slow.decode_4_per_s > 2 * slow.decode_per_s  # the fake writes for all at once
    assert slow.prefill_per_s > 0 and "alone" in slow.line()


def writer(word: str = "one", logprob: float = -0.5, *, chunk_s: float = 0.0) -> FakeGenerator:
    """Writes six words, the first of them ``word``, and tells its log-probability when asked."""

    def answer(request: CompletionRequest) -> Completion:
        said = [word, "two", "three", "four", "five", "six"][: request.max_tokens]
        first = TokenLogprob(word, logprob, ((word, logprob), ("other", -3.0))[: request.logprobs])
        scored = () if request.logprobs is None else (first,)
        return Completion(" ".join(said), "stop", 200, len(said), "fake", logprobs=scored)

    return FakeGenerator(answer, chunk_s=chunk_s)


def opener(openvino: FakeGenerator | LocumError, asked: list[str]) -> Any:
    """Two engines: the default writes slowly, the other as given."""

    def open_engine(name: str) -> FakeGenerator:
        asked.append(name)
        if name == "llamacpp":
            return writer(chunk_s=0.02)
        if isinstance(openvino, LocumError):
            raise openvino
        return openvino

    return open_engine


def choose(tmp_path: Path, openvino: FakeGenerator | LocumError) -> tuple[Any, list[str], list[str]]:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    asked: list[str] = []
    said: list[str] = []
    with listening(lambda event: said.append(event.label)):
        choice, generator = choose_text_engine(
            tmp_path / "m.gguf", SETTINGS, cache=tmp_path / "cache", open_engine=opener(openvino, asked)
        )
    assert not getattr(generator, "closed", False)
    generator.close()
    return choice, asked, said


def test_the_choice_is_said_and_kept_beside_the_downloads(tmp_path: Path) -> None:
    choice, asked, said = choose(tmp_path, writer("one", -0.6))  # rounded differently
    assert choice.engine == "openvino" and asked == ["llamacpp", "openvino"]
    assert sum(line.startswith("engine") for line in said) == 3  # both with their figures, and the choice
    again, asked, said = choose(tmp_path, writer("else"))
    assert again == choice and asked == ["openvino"]  # not measured again
    assert "measured before" in said[0]


def test_another_file_or_other_settings_are_measured_anew(tmp_path: Path) -> None:
    choose(tmp_path, UserError("core-missing-extra", "openvino_genai cannot be imported"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF2")
    asked: list[str] = []
    open_engine = opener(writer(), asked)
    for settings in (SETTINGS, EngineSettings(threads=1, slots=8)):
        choose_text_engine(tmp_path / "m.gguf", settings, cache=tmp_path / "cache", open_engine=open_engine)
    assert asked == ["llamacpp", "openvino"] * 2


def test_a_choice_that_cannot_be_read_is_made_anew(tmp_path: Path) -> None:
    choose(tmp_path, writer())
    (kept,) = (tmp_path / "cache" / "engines").iterdir()
    kept.write_text('{"format": 1}')
    _, asked, said = choose(tmp_path, writer())
    assert asked == ["llamacpp", "openvino"] and "made anew" in said[0]


@pytest.mark.parametrize(
    ("openvino", "why"),
    [
        (UserError("core-missing-extra", "openvino_genai cannot be imported"), "cannot be imported"),
        (writer("another"), "differently at temperature 0"),
        (writer("one", -0.9), "begins 8 of 8 answers differently"),
        (FakeGenerator([LocumError("runtime-engine-failed", "it broke")]), "it broke"),
    ],
)
def test_it_is_always_said_why_openvino_was_not_taken(
    tmp_path: Path, openvino: FakeGenerator | LocumError, why: str
) -> None:
    choice, _, said = choose(tmp_path, openvino)
    assert choice.engine == "llamacpp" and why in choice.why
    assert any(why in line for line in said)
    if isinstance(openvino, FakeGenerator):
        assert openvino.closed


def test_when_the_default_fails_so_does_the_choice(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    broken = FakeGenerator([LocumError("runtime-engine-failed", "it broke")])
    with pytest.raises(LocumError, match="it broke"):
        choose_text_engine(tmp_path / "m.gguf", SETTINGS, cache=tmp_path, open_engine=lambda _name: broken)
    assert broken.closed and not list(tmp_path.glob("engines/*"))


def test_the_questions_ask_for_what_is_measured() -> None:
    fake = FakeGenerator(["a b c d"])
    measure("llamacpp", fake)
    requests: list[CompletionRequest] = fake.requests
    assert all(request.temperature == 0 for request in requests)
    long = [request for request in requests if len(request.messages[0].content.split()) > 150]
    beginnings = {request.messages[0].content[:10] for request in long}
    assert len(beginnings) == len(long) == 3  # nothing of one is known from another
