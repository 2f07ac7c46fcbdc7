"""Rows that belong together: their groups are kept with the answers, and whatever is said counts groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import ModelFileError
from locum.evaluate.answers import Answers, answer_rows
from locum.evaluate.choose import Rung, choose, skip_reason
from locum.evaluate.compare import compare, compare_shares
from locum.evaluate.llm import evaluate_llm
from locum.evaluate.metrics import evaluation, scored_evaluation
from locum.evaluate.predictions import Predictions, group_codes, ids_hash
from locum.evaluate.runner import evaluate, predict_rows
from locum.runtime.completion import CompletionRequest
from locum.runtime.fake import FakeClassifier, FakeGenerator, fake_spec
from locum.schema.candidate import Candidate
from locum.schema.data import Row
from locum.schema.prompt import Prompt
from locum.stats.clusters import share_interval, sign_flip
from locum.stats.rowwise import Mean
from locum.students.protocol import Draft
from locum.students.writing import WritingStudent
from locum.tasks.classify import Classify

LABELS = ("a", "b", "c")
CHATS, EACH = 40, 12
CODES = np.repeat(np.arange(CHATS), EACH)
GOLD = np.arange(CHATS * EACH) % 3
ROWS = [Row(id=f"r{i}", input=f"text {i}", output=LABELS[GOLD[i]], group=f"chat {CODES[i]}") for i in range(len(GOLD))]


def wrong_chats(*chats: int, rows: int = 10) -> np.ndarray:
    """Whether each row is right: all but the first ``rows`` of these conversations."""
    return ~(np.isin(CODES, chats) & (np.arange(len(CODES)) % EACH < rows))


def predictions(right: np.ndarray, groups: np.ndarray | None = CODES, model: str = "m") -> Predictions:
    logits = np.zeros((len(GOLD), 3), np.float32)
    logits[np.arange(len(GOLD)), np.where(right, GOLD, (GOLD + 1) % 3)] = 3.0
    return Predictions(model, "dev", LABELS, "same", logits, GOLD, groups)


def widths(found: dict[str, object]) -> dict[str, float]:
    return {name: value.high - value.low for name, value in found.items()}  # pyright: ignore[reportAttributeAccessIssue]


def test_codes_of_groups() -> None:
    rows = [Row(id=str(n), input="x", output="y", group=g) for n, g in enumerate(["q", None, "p", "q", None, "4"])]
    codes = group_codes(rows)
    assert codes is not None and codes.dtype == np.int64
    assert codes.tolist() == [0, 1, 2, 0, 3, 4]  # a row without a group is alone, even where its id is a group's name
    assert group_codes([row.model_copy(update={"group": None}) for row in rows]) is None


def test_predictions_keep_their_groups_and_files_without_them_still_load(tmp_path: Path) -> None:
    with_groups, without = predictions(wrong_chats(1)), predictions(wrong_chats(1), None)
    with_groups.save(tmp_path / "with.npz")
    without.save(tmp_path / "without.npz")
    again = Predictions.load(tmp_path / "with.npz")
    assert again.groups is not None and again.groups.tolist() == CODES.tolist()
    assert again.scored(1.0).n_groups == CHATS
    with np.load(tmp_path / "without.npz") as arrays:
        assert "groups" not in arrays.files  # the very file that was written before there were groups
    assert Predictions.load(tmp_path / "without.npz").scored(1.0).groups is None
    predictions(wrong_chats(1), CODES[:-1]).save(tmp_path / "short.npz")
    with pytest.raises(ModelFileError, match="groups"):
        Predictions.load(tmp_path / "short.npz")


def test_drafts_keep_their_groups_and_files_without_them_still_load(tmp_path: Path) -> None:
    kind = Classify("Which?", LABELS)
    gold = {row.input: row.output for row in ROWS}
    generator = FakeGenerator(lambda request: gold[asked(request)])
    drafter = WritingStudent(fake_spec(()), generator, kind, Prompt(instruction="Which?"), concurrency=1)
    made = answer_rows(drafter, ROWS[:30], "dev")
    made.save(tmp_path / "with.jsonl")
    again = Answers.load(tmp_path / "with.jsonl")
    assert again.groups is not None and again.groups.tolist() == CODES[:30].tolist()
    scored = again.scored(kind, ROWS[:30], again.fit_confidence(kind, ROWS[:30]))
    assert scored.n_groups == 3
    head, *lines = (tmp_path / "with.jsonl").read_text().splitlines()
    old = {name: value for name, value in json.loads(head).items() if name != "groups"}
    (tmp_path / "old.jsonl").write_text("\n".join([json.dumps(old), *lines]) + "\n")
    assert Answers.load(tmp_path / "old.jsonl").groups is None
    for bad in ([0] * 29, [0.5] * 30, "groups"):
        (tmp_path / "bad.jsonl").write_text("\n".join([json.dumps(old | {"groups": bad}), *lines]) + "\n")
        with pytest.raises(ModelFileError, match="groups"):
            Answers.load(tmp_path / "bad.jsonl")
    plain = Answers("m", "dev", ids_hash(ROWS[:1]), (Draft("a", {}),))
    plain.save(tmp_path / "plain.jsonl")
    assert "groups" not in (tmp_path / "plain.jsonl").read_text()


def asked(request: CompletionRequest) -> str:
    return str(json.loads(request.messages[-1].content.splitlines()[0].removeprefix("Input: ")))


def test_a_student_that_scores_labels_is_evaluated_by_groups() -> None:
    known = {row.input: row.output for row in ROWS}
    right = wrong_chats(3, 8, 21)
    unsure = {row.input for row, good in zip(ROWS, right, strict=True) if not good}

    def logits(text: str) -> list[float]:
        gold = LABELS.index(known[text])
        return np.eye(3)[(gold + (text in unsure)) % 3].tolist()

    found = predict_rows(FakeClassifier(LABELS, logits), ROWS, "test")
    said = evaluate(found, 1.0)
    assert (said.n, said.groups) == (len(ROWS), CHATS)
    theirs = share_interval(right, CODES)
    accuracy = said.metrics["accuracy"]
    assert (accuracy.value, accuracy.low, accuracy.high) == (theirs.value, theirs.low, theirs.high)
    alone = [row.model_copy(update={"group": None}) for row in ROWS]
    single = evaluate(predict_rows(FakeClassifier(LABELS, logits), alone, "test"), 1.0)
    assert single.groups is None
    for name, narrow in widths(single.metrics).items():
        assert single.metrics[name].value == said.metrics[name].value
        assert widths(said.metrics)[name] > 1.5 * narrow


def test_other_kinds_and_the_llm_are_evaluated_by_groups(tmp_path: Path) -> None:
    right = wrong_chats(3, 8, 21)
    graded = np.where(right, 0.9, 0.1) + 0.05 * np.sin(np.arange(len(right)))
    scores = {"accuracy": Mean(right.astype(np.float64)), "rouge_l": Mean(graded)}
    said, single = (scored_evaluation("m", "test", scores, len(right), groups=g) for g in (CODES, None))
    assert (said.groups, single.groups) == (CHATS, None)
    assert all(widths(said.metrics)[name] > 1.5 * narrow for name, narrow in widths(single.metrics).items())

    answer = {row.input: row.output if good else "c" for row, good in zip(ROWS, right, strict=True)}
    generator = FakeGenerator(lambda request: answer[asked(request)])
    run = evaluate_llm(generator, Classify("Which?", LABELS), ROWS[:300], LABELS, "test", tmp_path / "llm.jsonl")
    assert (run.evaluation().n, run.evaluation().groups) == (300, 25)


def test_the_figures_of_rows_without_groups_are_those_of_before() -> None:
    i = np.arange(300)
    gold, said, other = i % 3, (i % 3 + (i * i % 7 == 1)) % 3, (i % 3 + (i * i % 11 == 3)) % 3
    metrics = evaluation("m", "test", LABELS, gold, said).metrics
    ends = {name: (value.low, value.high) for name, value in metrics.items()}
    assert ends["accuracy"] == pytest.approx((0.6631855651003921, 0.7646691473689714), rel=1e-12)
    assert ends["macro_f1"] == pytest.approx((0.6632124508297266, 0.7669837811698618), rel=1e-12)
    scored = [
        Predictions(n, "dev", LABELS, "x", np.eye(3, dtype=np.float32)[s], gold) for n, s in (("a", said), ("b", other))
    ]
    made = compare(*(one.scored(1.0) for one in scored))
    assert (made.test, made.groups) == ("mcnemar-midp", None)
    assert made.p_value == pytest.approx(0.0029436388593451503, rel=1e-12)
    assert made.verdict == (
        "b is better than a by 10.3 points of accuracy on 300 rows (95 % interval 3.6 to 17.1, p = 0.003)."
    )


def test_what_rows_show_and_groups_do_not() -> None:
    """The one is wrong on two conversations, the other nowhere: 20 rows, but two coins."""
    a, b = predictions(wrong_chats(5, 6), model="a"), predictions(wrong_chats(), model="b")
    made = compare(a.scored(1.0), b.scored(1.0))
    assert (made.n, made.groups, made.test, made.p_value) == (480, 40, "sign-flip-exact", 0.5)
    assert made.verdict.startswith("No difference was shown between a and b on 480 rows of 40 groups: -4.2 points")
    assert made.difference.low < 0 < made.difference.high
    single = compare_shares("a", wrong_chats(5, 6), "b", wrong_chats())
    assert single.p_value is not None and single.p_value < 0.001
    macro = compare(a.scored(1.0), b.scored(1.0), "macro_f1")
    assert macro.groups == 40 and "on 480 rows of 40 groups" in macro.verdict and macro.difference.high >= 0


def test_what_groups_do_show() -> None:
    worse = wrong_chats(*range(0, 40, 2), rows=6)
    made = compare(predictions(worse, model="a").scored(1.0), predictions(wrong_chats(), model="b").scored(1.0))
    assert made.test == "sign-flip-drawn"
    assert made.p_value == sign_flip(worse, wrong_chats(), CODES).p_value < 0.001
    assert made.verdict.startswith("b is better than a by 25.0 points of accuracy on 480 rows of 40 groups (95 % int")


def test_one_group_alone_shows_nothing_and_its_intervals_can_be_written() -> None:
    one = np.zeros(len(GOLD), np.int64)
    a, b = predictions(wrong_chats(1, 2, 3), one, "a"), predictions(wrong_chats(1), one, "b")
    said = evaluate(a, 1.0)
    assert said.groups == 1
    assert {(value.low, value.high) for value in said.metrics.values()} == {(0.0, 1.0)}
    for metric in ("accuracy", "macro_f1"):
        made = compare(a.scored(1.0), b.scored(1.0), metric)
        assert (made.difference.low, made.difference.high) == (-1.0, 1.0)
        assert "on 480 rows of 1 group:" in made.verdict
    json.dumps([said.to_json(), made.to_json()], allow_nan=False)


def rung(name: str, size_mb: float, right: np.ndarray, groups: np.ndarray | None) -> Rung:
    linear = name == "tfidf"
    candidate = Candidate(
        name=name,
        family="linear" if linear else "encoder",
        method="linear" if linear else "full",
        base=None if linear else name.split("/")[0],
    )
    return Rung(candidate, size_mb, predictions(right, groups, name).scored(1.0))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_choice_asks_whether_groups_tell_students_apart(metric: str) -> None:
    """Four rows in a row are one standard error of rows, but not of the one conversation that they stand in."""
    small, large = wrong_chats(7, rows=4), wrong_chats()

    def chosen(groups: np.ndarray | None) -> str:
        return choose([rung("tfidf", 2, small, groups), rung("mini/full", 110, large, groups)], metric=metric).name

    assert chosen(None) == "mini/full"
    assert chosen(CODES) == "tfidf"


def test_the_choice_says_how_many_groups_and_a_target_is_met_by_groups() -> None:
    right = wrong_chats(1, 2, 3)
    said = choose([rung("tfidf", 2, right, CODES)])
    assert "on 480 dev rows of 40 groups" in said.why
    following = Candidate(name="mini/full", family="encoder", method="full", base="mini")
    by_rows = skip_reason(following, [rung("tfidf", 2, right, None)], at_least=0.9)
    assert by_rows is not None and "meets the target" in by_rows
    assert skip_reason(following, [rung("tfidf", 2, right, CODES)], at_least=0.9) is None
