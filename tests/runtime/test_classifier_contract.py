"""What every classifier promises, asked of every engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import LocumError
from locum.core.files import sha256_file
from locum.runtime import Classifier

TEXTS = (
    "my card did not arrive",
    "I forgot my pin",
    "",
    "cash " * 7,
    "Grüße — ¿dónde está mi card? 你好 🙂",
    "withdraw money from the atm and then something much longer than the others so that padding matters",
    "\x00\t\n",
)


def test_is_a_classifier(classifier: Classifier) -> None:
    assert isinstance(classifier, Classifier)


def test_shape_and_type(classifier: Classifier) -> None:
    scores = classifier.logits(TEXTS)
    assert scores.shape == (len(TEXTS), len(classifier.spec.labels))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_nothing_asked_gives_no_rows(classifier: Classifier) -> None:
    assert classifier.logits([]).shape == (0, len(classifier.spec.labels))


def test_rows_follow_the_callers_order(classifier: Classifier) -> None:
    order = [3, 0, 5, 1, 6, 2, 4]
    scores = classifier.logits(TEXTS)
    np.testing.assert_allclose(classifier.logits([TEXTS[row] for row in order]), scores[order], atol=1e-4)


def test_a_batch_answers_as_each_alone(classifier: Classifier) -> None:
    alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(classifier.logits(TEXTS), alone, atol=1e-4)


def test_a_very_long_input_is_answered(classifier: Classifier) -> None:
    scores = classifier.logits(["card " * 40_000, "x" * 200_000])
    assert scores.shape[0] == 2
    assert np.isfinite(scores).all()


def test_broken_unicode_is_answered(classifier: Classifier) -> None:
    assert np.isfinite(classifier.logits(["card \ud800 \udfff", "\ufffe\u202e"])).all()


def test_different_texts_score_differently(classifier: Classifier) -> None:
    scores = classifier.logits(["card arrive", "forgot pin"])
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_several_threads_get_their_own_answers(classifier: Classifier) -> None:
    expected = {text: classifier.logits([text])[0] for text in TEXTS}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: (text, classifier.logits([text])[0]), TEXTS * 3))
    for text, scores in answers:
        np.testing.assert_allclose(scores, expected[text], atol=1e-4)


def test_the_spec_names_every_file_by_its_hash(classifier: Classifier, tmp_path: Path) -> None:
    spec = classifier.spec
    assert spec.purpose == "classify" and len(set(spec.labels)) == len(spec.labels) > 1
    assert spec.temperature > 0 and spec.max_tokens > 0
    for name, digest in spec.files.items():
        assert sha256_file(tmp_path / "model" / name) == digest
    assert spec.hash() == spec.model_copy().hash() != spec.model_copy(update={"name": "another"}).hash()


def test_closing_while_others_ask_ends_in_answers_or_in_closed(classifier: Classifier) -> None:
    expected = classifier.logits(["cash"])

    def ask() -> str:
        try:
            np.testing.assert_allclose(classifier.logits(["cash"]), expected, atol=1e-4)
        except LocumError as error:
            return error.code
        return "answered"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(24)]
        classifier.close()
        outcomes = {each.result() for each in asked}
    assert outcomes <= {"answered", "runtime-closed", "runtime-child-died"}
    assert ask() == "runtime-closed"


def test_closing_twice_is_fine_and_asking_afterwards_is_not(classifier: Classifier) -> None:
    classifier.close()
    classifier.close()
    with pytest.raises(LocumError) as caught:
        classifier.logits(["card"])
    assert caught.value.code == "runtime-closed"
