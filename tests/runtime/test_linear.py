"""The linear engine against scikit-learn's own models, and damaged weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from locum.core.errors import ModelFileError
from locum.runtime import open_classifier
from locum.runtime.linear import CHARACTERS_MAX, WORDS_MAX, LinearClassifier, part_read, write_linear
from locum.runtime.model_files import seal
from locum.runtime.ngrams import TOKEN_PATTERNS, Ngrams
from locum.testing import pico_linear
from locum.testing.pico import WORDS, reseal

BLOCKS: list[dict[str, Any]] = [
    {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": TOKEN_PATTERNS[2]},
    {"analyzer": "char_wb", "ngram_range": (2, 4)},
]


def texts_and_labels(n: int, labels: list[str]) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    gold = [labels[int(place)] for place in rng.integers(0, len(labels), n)]
    texts = [" ".join(rng.choice([*WORDS[label], "the", "my", "is", "Ünïcode"], 6)) + "?" for label in gold]
    return texts, gold


def build(folder: Path, model: Any, labels: list[str], dtype: type = np.float32) -> tuple[Any, Any]:
    """Fit scikit-learn's model, write ours, and return (feature matrix function, fitted model)."""
    texts, gold = texts_and_labels(120, labels)
    vectorizers = [TfidfVectorizer(**block, sublinear_tf=True).fit(texts) for block in BLOCKS]

    def features(rows: list[str]) -> Any:
        return scipy.sparse.hstack([vectorizer.transform(rows) for vectorizer in vectorizers]).tocsr()

    model.fit(features(texts), gold)
    blocks = [
        Ngrams(**block, vocabulary=tuple(vectorizer.get_feature_names_out()))
        for block, vectorizer in zip(BLOCKS, vectorizers, strict=True)
    ]
    idf = np.concatenate([vectorizer.idf_ for vectorizer in vectorizers])
    folder.mkdir()
    write_linear(folder, blocks, idf, model.coef_.astype(dtype), model.intercept_)
    seal(
        folder,
        name="tfidf",
        engine="linear",
        family="linear",
        precision="fp32",
        labels=tuple(model.classes_),
        weights="weights.npz",
        max_tokens=512,
        parameters=int(model.coef_.size),
    )
    return features, model


UNSEEN = ["my card did not arrive", "forgot the PIN", "", "totally different wörds", "cash " * 20]


@pytest.mark.parametrize("model", [LogisticRegression(C=10), LinearSVC(C=1)], ids=["logistic", "svc"])
def test_equals_scikit_learns_decision_function(tmp_path: Path, model: Any) -> None:
    features, fitted = build(tmp_path / "model", model, sorted(WORDS))
    opened = open_classifier(tmp_path / "model")
    np.testing.assert_allclose(opened.logits(UNSEEN), fitted.decision_function(features(UNSEEN)), atol=1e-5)
    opened.close()


def test_two_labels_give_scikit_learns_probabilities(tmp_path: Path) -> None:
    features, fitted = build(tmp_path / "model", LogisticRegression(C=10), ["card", "pin"])
    opened = open_classifier(tmp_path / "model")
    scores = opened.logits(UNSEEN)
    assert scores.shape == (len(UNSEEN), 2)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, fitted.predict_proba(features(UNSEEN)), atol=1e-6)
    opened.close()


def test_half_precision_is_close_and_half_the_size(tmp_path: Path) -> None:
    features, fitted = build(tmp_path / "model", LogisticRegression(C=10), sorted(WORDS), np.float16)
    opened = open_classifier(tmp_path / "model")
    np.testing.assert_allclose(opened.logits(UNSEEN), fitted.decision_function(features(UNSEEN)), atol=5e-3)
    opened.close()
    with np.load(tmp_path / "model" / "weights.npz") as arrays:
        assert arrays["coef"].dtype == np.float16


def test_pruned_weights_are_stored_sparse_and_score_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    terms = tuple(sorted({word for group in WORDS.values() for word in group}))
    coef = rng.normal(size=(3, len(terms))).astype(np.float32) * (rng.random((3, len(terms))) < 0.2)
    block = Ngrams(analyzer="word", ngram_range=(1, 1), vocabulary=terms)
    pico_linear(tmp_path)
    write_linear(tmp_path, [block], np.ones(len(terms)), coef, np.asarray([0.1, 0.2, 0.3]))
    reseal(tmp_path)
    with np.load(tmp_path / "weights.npz") as arrays:
        assert "coef" not in arrays and "coef_indptr" in arrays
    opened = open_classifier(tmp_path)
    texts = ["card pin cash code", "", *terms]
    theirs = TfidfVectorizer(vocabulary=terms, sublinear_tf=True, use_idf=False).fit_transform(texts) @ coef.T
    np.testing.assert_allclose(opened.logits(texts), theirs + np.asarray([0.1, 0.2, 0.3]), atol=1e-5)
    opened.close()


@pytest.mark.parametrize("hostile", ["ab" * 5_000_000, "word " * 2_000_000, " " * 10_000_000, "語" * 3_000_000])
def test_a_text_of_megabytes_costs_no_more_than_a_long_document(tmp_path: Path, hostile: str) -> None:
    opened = LinearClassifier(tmp_path, pico_linear(tmp_path, max_tokens=WORDS_MAX))
    document = " ".join(f"word{k}" for k in range(WORDS_MAX))
    opened.read([document])  # what is done once
    usual_s, hostile_s = ([timed(opened, text) for _ in range(3)] for text in (document, "card " + hostile))
    assert min(hostile_s) < 10 * min(usual_s) + 0.2
    read = opened.read(["card " + hostile, "card"])
    assert (read.dropped[0] > 0) == bool(hostile.strip())


def timed(opened: LinearClassifier, text: str) -> float:
    start_s = time.perf_counter()
    opened.read([text])
    return time.perf_counter() - start_s


@pytest.mark.parametrize("text", ["", "a", "a b c", "  a  b  c  d  e  ", "a\n\tb\u3000c d"])
def test_what_is_read_and_what_is_left_are_the_words_of_the_text(text: str) -> None:
    for limit in (1, 2, 3, 4096):
        part, dropped = part_read(text, limit)
        assert text.startswith(part)
        assert (part.split(), dropped) == (text.split()[:limit], max(0, len(text.split()) - limit))


def test_a_word_that_is_cut_in_two_counts_as_not_read() -> None:
    text = "a" * (CHARACTERS_MAX - 1) + " bbb ccc"
    assert part_read(text, 10) == ("a" * (CHARACTERS_MAX - 1) + " ", 2)
    assert part_read("a" * CHARACTERS_MAX + "b c", 10) == ("a" * CHARACTERS_MAX, 2)


def test_truncation_counts_words(tmp_path: Path) -> None:
    opened = LinearClassifier(tmp_path, pico_linear(tmp_path, max_tokens=3))
    read = opened.read(["card card pin", "card card pin pin pin pin"])
    np.testing.assert_allclose(*read.logits)
    assert read.dropped.tolist() == [0, 3]


def test_a_short_text_takes_under_a_millisecond(tmp_path: Path) -> None:
    build(tmp_path / "model", LogisticRegression(C=10), sorted(WORDS))
    opened = open_classifier(tmp_path / "model")
    times: list[float] = []
    for _ in range(50):
        start_s = time.perf_counter()
        opened.logits(["My card has not arrived yet, when will it?"])
        times.append(time.perf_counter() - start_s)
    assert float(np.median(times)) < 5e-3  # about 0.1 ms on an idle machine; tests share theirs
    opened.close()


@pytest.mark.parametrize(
    ("coef", "bias", "idf"),
    [
        (np.ones((3, 4)), np.ones(2), np.ones(5)),
        (np.full((3, 5), np.nan), np.ones(3), np.ones(5)),
        (np.ones((3, 5)), np.asarray([1, np.inf, 0]), np.ones(5)),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path: Path, coef: Any, bias: Any, idf: Any) -> None:
    block = Ngrams(analyzer="word", ngram_range=(1, 1), vocabulary=("a", "b", "c", "d", "e"))
    with pytest.raises(ValueError, match=r"do not fit|NaN"):
        write_linear(tmp_path, [block], idf, coef, bias)
    assert not list(tmp_path.iterdir())


def rewrite(folder: Path, **changes: Any) -> None:
    with np.load(folder / "weights.npz") as arrays:
        content = {**{name: arrays[name] for name in arrays.files}, **changes}
    np.savez(folder / "weights.npz", **{name: array for name, array in content.items() if array is not None})
    reseal(folder)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"bias": np.ones(4)}, "runtime-mismatch"),
        ({"idf": np.ones(3)}, "runtime-mismatch"),
        ({"bias": None}, "runtime-damaged"),
        ({"coef": None, "coef_data": None}, "runtime-damaged"),
        ({"bias": np.asarray([np.nan, 0, 0])}, "runtime-damaged"),
        ({"bias": np.asarray(["a", "b", "c"])}, "runtime-damaged"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    pico_linear(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(ModelFileError) as caught:
        open_classifier(tmp_path)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["coef_indices", "coef_indptr", "coef_data"])
def test_sparse_weights_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    pico_linear(tmp_path)  # 3 labels, 15 words, one non-zero weight a word: stored sparse or not, write it so
    sparse = {
        "coef_data": np.ones(15, np.float32),
        "coef_indices": np.zeros(15, np.int32),
        "coef_indptr": np.arange(16, dtype=np.int64),
    }
    rewrite(tmp_path, coef=None, **sparse)
    open_classifier(tmp_path).close()
    broken = sparse[name].copy()
    broken[3] = 99
    rewrite(tmp_path, coef=None, **{**sparse, name: broken if name != "coef_data" else broken[:4]})
    with pytest.raises(ModelFileError, match="do not fit"):
        open_classifier(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY junk", b"{}"])
def test_a_damaged_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    pico_linear(tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"x" + content)
    reseal(tmp_path)
    with pytest.raises(ModelFileError) as caught:
        open_classifier(tmp_path)
    assert caught.value.code == "runtime-damaged"


def test_a_damaged_vectorizer_is_refused(tmp_path: Path) -> None:
    pico_linear(tmp_path)
    (tmp_path / "vectorizer.json").write_text('{"blocks": [{"analyzer": "eval"}]}')
    reseal(tmp_path)
    with pytest.raises(ModelFileError, match=r"vectorizer\.json"):
        open_classifier(tmp_path)
