"""What every classifier promises, asked of every engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from locum.core.errors import LocumError
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


def test_closing_twice_is_fine_and_asking_afterwards_is_not(classifier: Classifier) -> None:
    classifier.close()
    classifier.close()
    with pytest.raises(LocumError) as caught:
        classifier.logits(["card"])
    assert caught.value.code == "runtime-closed"
