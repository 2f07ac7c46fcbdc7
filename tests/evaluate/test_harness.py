"""Locum's engines behind the harness: the same probabilities as its own model, kept, resumed, capped and refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locum.core.errors import LocumError, UpstreamError, UserError
from locum.core.progress import Event, listening
from locum.evaluate.harness_answers import AnswerFile
from locum.evaluate.spending import Spending, forecast
from locum.runtime.completion import Completion, CompletionRequest
from locum.runtime.fake import FakeGenerator
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.open import open_model
from locum.runtime.protocol import Scores
from locum.schema.message import Message
from locum.schema.task import Price

pytest.importorskip("lm_eval", reason="the extra 'bench' is not installed")

from lm_eval.api.instance import Instance

from locum.evaluate.harness import HarnessModel


class FakeScorer(FakeGenerator):
    """A generator that finds short continuations probable; greedy is what begins with its favourite."""

    def __init__(self, fault_after: int | None = None) -> None:
        super().__init__()
        self.scored: list[tuple[str, tuple[str, ...]]] = []
        self._left = fault_after
        self._guard = threading.Lock()

    def score_greedy(self, request: CompletionRequest, continuations: Sequence[str]) -> Scores:
        with self._guard:
            if self._left is not None:
                if self._left == 0:
                    raise LocumError("runtime-child-died", "gone")
                self._left -= 1
            self.scored.append((request.prompt or repr(request.messages), tuple(continuations)))
        lengths = np.array([-float(len(text)) for text in continuations])
        return Scores(lengths, np.array([text.startswith(" yes") for text in continuations]))


def ask(context: str, continuation: Any, doc: int = 0, kind: Any = "loglikelihood") -> Instance:
    return Instance(kind, {}, (context, continuation), 0, ("task", doc, 1))


def write(context: str, **settings: Any) -> Instance:
    return ask(context, settings, kind="generate_until")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def test_one_prompt_is_scored_once_for_all_its_continuations(path: Path) -> None:
    scorer = FakeScorer()
    with AnswerFile(path, "hash") as answers:
        found = HarnessModel(scorer, answers).loglikelihood(
            [ask("Q1", " yes"), ask("Q1", " no"), ask("Q2", " never", 1), ask("Q1", " yes")]
        )
    assert found == [(-4.0, True), (-3.0, False), (-6.0, False), (-4.0, True)]
    assert sorted(scorer.scored) == [("Q1", (" yes", " no")), ("Q2", (" never",))]


def test_spaces_at_the_end_of_a_context_go_to_the_continuation(path: Path) -> None:
    scorer = FakeScorer()
    with AnswerFile(path, "hash") as answers:
        HarnessModel(scorer, answers).loglikelihood([ask("Q: \n", "yes")])
    assert scorer.scored == [("Q:", (" \nyes",))]


def test_a_run_that_failed_goes_on_where_it_was(path: Path) -> None:
    instances = [ask(f"Q{number}", " yes", number) for number in range(10)]
    with AnswerFile(path, "hash") as answers, pytest.raises(LocumError) as caught:
        HarnessModel(FakeScorer(fault_after=6), answers, concurrency=2).loglikelihood(instances)
    assert caught.value.code == "runtime-child-died"
    path.write_bytes(path.read_bytes() + b'{"key": "cut sho')  # and a kill cut the last line
    second = FakeScorer()
    with AnswerFile(path, "hash") as answers:
        found = HarnessModel(second, answers).loglikelihood(instances)
    assert found == [(-4.0, True)] * 10
    assert len(second.scored) == 4


def test_another_model_is_asked_anew(path: Path) -> None:
    for model in ("one", "two"):
        scorer = FakeScorer()
        with AnswerFile(path, model) as answers:
            HarnessModel(scorer, answers).loglikelihood([ask("Q", " yes")])
        assert len(scorer.scored) == 1


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda model: model.loglikelihood_rolling([]), "perplexity"),
        (lambda model: model.loglikelihood([ask("", " yes")]), "follows nothing"),
        (lambda model: model.generate_until([write("Q", num_beams=4)]), "num_beams"),
        (lambda model: model.apply_chat_template([], add_generation_prompt=False), "begins the model's answer"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(call: Callable[[HarnessModel], Any], why: str, path: Path) -> None:
    with AnswerFile(path, "hash") as answers, pytest.raises(UserError, match=why) as caught:
        call(HarnessModel(FakeScorer(), answers))
    assert caught.value.code == "runtime-unsupported-option"


def test_a_model_without_probabilities_is_refused_multiple_choice(path: Path) -> None:
    with AnswerFile(path, "hash") as answers, pytest.raises(UserError, match="fake-llm") as caught:
        HarnessModel(FakeGenerator(), answers).loglikelihood([ask("Q", " yes")])
    assert caught.value.code == "runtime-unsupported-option"


def test_settings_of_decoding_reach_the_engine(path: Path) -> None:
    fake = FakeGenerator(["6 apples\n\nQ: more"])
    with AnswerFile(path, "hash") as answers:
        model = HarnessModel(fake, answers)
        texts = model.generate_until(
            [
                write("A", until=["\n\n", "Q:"], do_sample=False, temperature=0.7, max_gen_toks=9),
                write("B", until="Q:", do_sample=True, temperature=0.7, top_p=0.9, top_k=5),
                write("C"),
            ]
        )
    by_prompt = {request.prompt: request for request in fake.requests}
    assert texts == ["6 apples", "6 apples\n\n", "6 apples\n\nQ: more"]
    assert (by_prompt["A"].stop, by_prompt["A"].temperature, by_prompt["A"].max_tokens) == (("\n\n", "Q:"), 0.0, 9)
    sampled = by_prompt["B"]
    assert (sampled.temperature, sampled.top_p, sampled.top_k, sampled.seed) == (0.7, 0.9, 5, 0)
    assert by_prompt["C"].max_tokens == 256 and by_prompt["C"].temperature == 0.0


def test_samples_of_one_prompt_differ_and_greedy_answers_do_not(path: Path) -> None:
    fake = FakeGenerator(["one", "two"])
    with AnswerFile(path, "hash") as answers:
        model = HarnessModel(fake, answers, concurrency=1)
        assert model.generate_until([write("A", do_sample=True), write("A", do_sample=True)]) == ["one", "two"]
        assert model.generate_until([write("B"), write("B")]) == ["one", "one"]
    assert [request.seed for request in fake.requests] == [0, 1, None]


def test_a_conversation_arrives_as_messages(path: Path) -> None:
    fake, scorer = FakeGenerator(["fine"]), FakeScorer()
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How?"}]
    with AnswerFile(path, "hash") as answers:
        model = HarnessModel(fake, answers)
        model.generate_until([write(model.apply_chat_template(turns))])
        HarnessModel(scorer, answers).loglikelihood([ask(model.apply_chat_template(turns), "Well")])
    said = (Message("system", "Be kind."), Message("user", "How?"))
    assert fake.requests[0].messages == said and fake.requests[0].prompt is None
    assert scorer.scored == [(repr(said), ("Well",))]


class TestSpending:
    price = Price(input=1.0, output=2.0)

    def test_a_forecast_bounds_what_is_written(self) -> None:
        requests = [CompletionRequest((), prompt="x" * 400, max_tokens=50)] * 10
        found = forecast(requests, self.price)
        assert (found.requests, found.output_tokens) == (10, 500)
        assert found.input_tokens == pytest.approx(1000, rel=0.1)
        assert found.cost == pytest.approx((found.input_tokens + 2 * 500) / 1e6)
        assert forecast(requests, None).cost is None

    def test_the_cap_holds_whatever_is_written(self, path: Path) -> None:
        """Each answer costs up to 116 read and 50 written; the server says 116 and 50 each time."""
        fake = FakeGenerator([Completion("ok", "stop", 116, 50, "m")], latency_s=0.01)
        cost = (116 + 2 * 50) / 1e6
        cap = 5.5 * cost
        spending = Spending(self.price, cap)
        instances = [write(f"{number:100}", max_gen_toks=50) for number in range(20)]
        with AnswerFile(path, "hash") as answers, pytest.raises(UpstreamError) as caught:
            HarnessModel(fake, answers, concurrency=4, spending=spending).generate_until(instances)
        assert caught.value.code == "evaluate-llm-cap"
        assert spending.spent == pytest.approx(5 * cost) and len(fake.requests) == 5
        assert len(path.read_text().splitlines()) == 5  # all that was paid for is kept

    def test_nothing_is_asked_when_reading_alone_is_over_the_cap(self, path: Path) -> None:
        fake = FakeGenerator()
        with AnswerFile(path, "hash") as answers, pytest.raises(UpstreamError) as caught:
            HarnessModel(fake, answers, spending=Spending(self.price, 1e-6)).generate_until([write("x" * 4000)])
        assert caught.value.code == "evaluate-llm-cap" and not fake.requests

    def test_an_answer_that_nobody_counted_costs_the_most_it_can(self) -> None:
        spending = Spending(self.price, 1.0)
        request = CompletionRequest((), prompt="x" * 84, max_tokens=50)
        aside = spending.admit(request)
        spending.settle(aside, Completion("ok", "stop", 0, 0, "m", extra={"usage": "missing"}))
        assert spending.spent == aside == pytest.approx((100 + 2 * 50) / 1e6)

    def test_a_cap_needs_a_price(self) -> None:
        with pytest.raises(UserError) as caught:
            Spending(None, 1.0)
        assert caught.value.code == "cli-usage"

    def test_the_forecast_is_told_before_the_first_request(self, path: Path) -> None:
        events: list[Event] = []
        fake = FakeGenerator(lambda request: str(len(events)))
        with AnswerFile(path, "hash") as answers, listening(events.append):
            model = HarnessModel(fake, answers, spending=Spending(self.price, 1.0))
            told = int(model.generate_until([write("Q")])[0])
        assert told >= 1 and "1 requests, about" in events[0].label


TEXTS = [
    ("where is my", [" card", " refund", " I"]),
    ("The PIN of card 4711", [" was", " lost!", ""]),
    ("Question: why?\nAnswer:", [" because", " é ü"]),
]


@pytest.mark.engines
@pytest.mark.slow
def test_probabilities_are_those_of_the_harness_own_model(tmp_path: Path) -> None:
    """llama.cpp on the exported file against ``hf`` on the same weights; tolerance: float16 matrices and cache."""
    torch = pytest.importorskip("torch")
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from locum.compress.gguf_export import export_gguf
    from locum.compress.pico import pico_student

    student = pico_student(tmp_path / "student", "llama", depth=2, rows=4)
    loaded = student.load()
    export_gguf(loaded, student.folder / "tokenizer.json", tmp_path / "model.gguf", kind="f16", name="pico")
    config = loaded.body.config
    config.tie_word_embeddings = True  # a file without an output matrix means this
    reference = AutoModelForCausalLM.from_config(config).eval()
    reference.model.load_state_dict(loaded.body.state_dict())
    reference.tie_weights()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(student.folder / "tokenizer.json"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    own = HFLM(pretrained=reference, tokenizer=tokenizer, device="cpu", batch_size=1, max_length=64)
    pairs = [(context, each) for context, each_of in TEXTS for each in each_of if each]
    with torch.inference_mode():
        written = [_greedy(reference, tokenizer, context) for context, _ in TEXTS]
    pairs += [(context, text) for (context, _), text in zip(TEXTS, written, strict=True)]
    expected = own.loglikelihood([ask(*pair) for pair in pairs])
    opened = open_model(tmp_path / "model.gguf", EngineSettings(n_ctx=64, slots=2, threads=1, timeout_s=200))
    try:
        with AnswerFile(tmp_path / "answers.jsonl", "hash") as answers:
            found = HarnessModel(opened, answers, concurrency=2).loglikelihood([ask(*pair) for pair in pairs])
    finally:
        opened.close()
    np.testing.assert_allclose([one for one, _ in found], [one for one, _ in expected], atol=0.05)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert any(greedy for _, greedy in found) and not all(greedy for _, greedy in found)


def _greedy(model: Any, tokenizer: Any, context: str, count: int = 3) -> str:
    """What the reference writes next."""
    import torch

    ids = tokenizer(context, return_tensors="pt").input_ids
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(ids[0])[len(tokenizer.decode(tokenizer(context).input_ids)) :]


def test_the_file_of_answers_says_what_it_holds(path: Path) -> None:
    with AnswerFile(path, "hash") as answers:
        HarnessModel(FakeScorer(), answers).loglikelihood([ask("Q", " yes", 7)])
    record = json.loads(path.read_text())
    assert (record["task"], record["document"], record["answer"]) == ("task", 7, [-4.0, True])
