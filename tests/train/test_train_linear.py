"""The linear method: what is written answers as scikit-learn did, and learns what can be learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import DataError
from locum.runtime.linear import CHARACTERS_MAX, WORDS_MAX, LinearClassifier
from locum.runtime.model_files import seal
from locum.schema.training import TrainRequest
from locum.train.linear import train
from locum.train.outcome import Clock
from locum.train.rows import read_split


def served(out: Path, request: TrainRequest, max_tokens: int = 512) -> LinearClassifier:
    spec = seal(
        out,
        name="x",
        engine="linear",
        family="linear",
        precision="fp32",
        labels=request.labels,
        weights="weights.npz",
        max_tokens=max_tokens,
        parameters=1,
    )
    return LinearClassifier(out, spec)


def test_served_logits_are_the_trained_ones(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    request = make_request("linear")
    out = tmp_path / "out"
    out.mkdir()
    outcome = train(request, out, Clock(60))
    dev = read_split(Path(request.dev), request.labels)
    logits = served(out, request).logits(dev.texts)
    np.testing.assert_allclose(logits, outcome.dev_logits, atol=2e-5)
    assert (outcome.dev_logits.argmax(axis=1) == np.asarray(dev.targets)).mean() == 1.0
    assert outcome.settings["C"] in (0.3, 1.0, 3.0)


def lengthened(path: Path, before: Callable[[int], str], after: Callable[[int], str]) -> str:
    """The split's texts with other text before and after them."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["input"] = f"{before(number)} {row['input']} {after(number)}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("filler", ["w " * 40, "語" * CHARACTERS_MAX], ids=["words", "without spaces"])
def test_texts_are_cut_in_training_where_serving_cuts_them(
    make_request: Callable[..., TrainRequest], tmp_path: Path, filler: str
) -> None:
    request, out = make_request("linear", max_tokens=40), tmp_path / "out"
    out.mkdir()
    for path in (Path(request.train), Path(request.dev)):  # after the limit stand words that no answer may hang on
        lengthened(path, lambda _: "", lambda k: f"{filler} " + " ".join(f"zq{(k * 3 + n) % 70}" for n in range(900)))
    outcome = train(request, out, Clock(60))
    scored = served(out, request, request.max_tokens).read(read_split(Path(request.dev), request.labels).texts)
    assert (scored.dropped >= 900).all() or "語" in filler
    assert (scored.dropped > 0).all() and outcome.settings["cut_texts"] == 200
    np.testing.assert_allclose(scored.logits, outcome.dev_logits, atol=2e-5)
    words = json.loads((out / "vectorizer.json").read_text())["blocks"][0]["vocabulary"]
    assert "card" in words and not [word for word in words if "zq" in word]


def test_a_build_reads_far_more_than_256_words(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    request, out = make_request("linear", max_tokens=WORDS_MAX), tmp_path / "out"
    out.mkdir()
    for path in (Path(request.train), Path(request.dev)):  # what tells the label comes after 1,000 words
        lengthened(path, lambda k: " ".join(f"n{(k * 7 + word) % 50}" for word in range(1000)), lambda _: "")
    outcome = train(request, out, Clock(60))
    gold = np.asarray(read_split(Path(request.dev), request.labels).targets)
    assert outcome.settings["cut_texts"] == 0
    assert (outcome.dev_logits.argmax(axis=1) == gold).mean() > 0.9


def test_best_penalty_is_the_best_on_dev(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome = train(make_request("linear"), tmp_path / "out", Clock(60))
    best = max(point.dev_accuracy for point in outcome.curve)
    assert outcome.curve[int(outcome.best_epoch) - 1].dev_accuracy == best


def test_label_without_rows_never_wins(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    request = make_request("linear", labels=("absent", "card", "cash", "pin"))
    outcome = train(request, tmp_path / "out", Clock(60))
    assert outcome.dev_logits.shape[1] == 4
    assert not (outcome.dev_logits.argmax(axis=1) == 0).any()


def test_two_labels_have_two_columns(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    request = make_request("linear")
    for path in (Path(request.train), Path(request.dev)):
        path.write_text("\n".join(line for line in path.read_text().splitlines() if '"pin"' not in line))
    request = make_request("linear", train=request.train, dev=request.dev, labels=("card", "cash"))
    outcome = train(request, tmp_path / "out", Clock(60))
    assert outcome.dev_logits.shape[1] == 2
    np.testing.assert_allclose(
        served(tmp_path / "out", request).logits(read_split(Path(request.dev), request.labels).texts),
        outcome.dev_logits,
        atol=2e-5,
    )


def test_spent_budget_ends_the_search(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome = train(make_request("linear"), tmp_path / "out", Clock(0))
    assert (outcome.stopped_by, len(outcome.curve)) == ("budget", 1)


def test_unknown_label_names_line_and_nearest(make_request: Callable[..., TrainRequest]) -> None:
    request = make_request("linear")
    with Path(request.train).open("a") as file:
        file.write(json.dumps({"id": "x", "input": "a", "output": "cards"}) + "\n")
    with pytest.raises(DataError, match=r"'cards' is not one of the 3 labels \(nearest: card\)") as caught:
        read_split(Path(request.train), request.labels)
    assert caught.value.where.endswith(":161")


def test_one_label_is_refused(make_request: Callable[..., TrainRequest], tmp_path: Path) -> None:
    request = make_request("linear")
    path = Path(request.train)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if '"pin"' in line))
    with pytest.raises(DataError, match="only one label"):
        train(make_request("linear", train=str(path)), tmp_path, Clock(60))
