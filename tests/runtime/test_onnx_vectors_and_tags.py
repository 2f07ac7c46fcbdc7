"""Embeddings and tags from pico ONNX folders, whose answers follow from the words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from locum.core.errors import LocumError, ModelFileError
from locum.runtime.open import open_classifier, open_onnx_embedder, open_tagger
from locum.runtime.protocol import Embedder, Tagger
from locum.testing import pico_embedder, pico_onnx, pico_tagger
from locum.testing.pico import WORDS, reseal

TEXTS = ["my card did not arrive", "", "cash", "the atm kept my money note", "Grüße 🙂 pin", "\x00"]


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    pico_embedder(tmp_path / "embedder")
    return open_onnx_embedder(tmp_path / "embedder", threads=2)


@pytest.fixture
def tagger(tmp_path: Path) -> Tagger:
    pico_tagger(tmp_path / "tagger")
    return open_tagger(tmp_path / "tagger", threads=2)


def test_they_keep_their_protocols(embedder: Embedder, tagger: Tagger) -> None:
    assert isinstance(embedder, Embedder) and isinstance(tagger, Tagger)
    assert embedder.model == "pico-embedder"
    assert embedder.dimensions == len(WORDS) + 1
    assert tagger.spec.labels == ("O", *WORDS)


def test_vectors_have_length_one_whatever_the_text(embedder: Embedder) -> None:
    vectors = embedder.embed([*TEXTS, "card " * 5000, "broken \ud800"])
    assert vectors.shape == (len(TEXTS) + 2, embedder.dimensions) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert embedder.embed([]).shape == (0, embedder.dimensions)


def test_texts_about_the_same_are_near_each_other(embedder: Embedder) -> None:
    card, again, pin = embedder.embed(["card arrive delivery", "plastic mail card", "forgot pin code"])
    assert card @ again > 0.99
    assert card @ pin < 0.3


def test_a_vector_does_not_depend_on_its_neighbours(embedder: Embedder) -> None:
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(embedder.embed(TEXTS), alone, atol=1e-6)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(embedder.embed, [TEXTS] * 8):
            np.testing.assert_allclose(vectors, alone, atol=1e-6)


def test_tokens_are_counted_read_or_not(embedder: Embedder) -> None:
    read = embedder.read(["", "card arrive", "card " * 100])
    assert read.tokens.tolist() == [2, 4, 16] and read.dropped.tolist() == [0, 0, 86]


def test_tags_stand_at_the_words_of_the_text_as_given(tagger: Tagger) -> None:
    text = "Grüße, 🙂 my CARD and\tthe pin"
    (tagged,) = tagger.tag([text])
    names = [tagger.spec.labels[column] for column in tagged.logits.argmax(axis=1)]
    words = [text[start:end] for start, end in tagged.spans]
    assert dict(zip(words, names, strict=True)) == {
        **dict.fromkeys(["Grüße", ",", "🙂", "my", "and", "the"], "O"),
        "CARD": "card",
        "pin": "pin",
    }
    assert not tagged.truncated


def test_tagged_texts_come_in_the_callers_order_alone_as_together(tagger: Tagger) -> None:
    together = tagger.tag(TEXTS)
    assert len(together) == len(TEXTS)
    for text, tagged in zip(TEXTS, together, strict=True):
        (alone,) = tagger.tag([text])
        np.testing.assert_array_equal(alone.spans, tagged.spans)
        np.testing.assert_allclose(alone.logits, tagged.logits, atol=1e-6)
    assert together[1].logits.shape == (0, len(tagger.spec.labels))  # nothing to tag in ""
    assert tagger.tag([]) == []


def test_what_is_cut_says_so(tagger: Tagger) -> None:
    long, short, broken = tagger.tag(["pin " * 40, "pin", "pin \ud800 card"])
    assert long.truncated and len(long.spans) == 14  # of 16 tokens two are special
    assert not short.truncated
    assert [tuple(span) for span in broken.spans] == [(0, 3), (4, 5), (6, 10)]


def test_closed(embedder: Embedder, tagger: Tagger) -> None:
    for model, ask in ((embedder, lambda: embedder.embed(["a"])), (tagger, lambda: tagger.tag(["a"]))):
        model.close()
        model.close()
        with pytest.raises(LocumError) as caught:
            ask()
        assert caught.value.code == "runtime-closed"


def test_a_model_for_something_else_is_refused(tmp_path: Path) -> None:
    pico_onnx(tmp_path / "labels")
    pico_embedder(tmp_path / "vectors")
    pico_tagger(tmp_path / "tags")
    opens = {"labels": open_classifier, "vectors": open_onnx_embedder, "tags": open_tagger}
    for kind, open_it in opens.items():
        for other in opens:
            if other != kind:
                with pytest.raises(ModelFileError) as caught:
                    open_it(tmp_path / other)
                assert caught.value.code == "runtime-purpose", (kind, other)


def test_a_graph_that_is_not_what_model_json_says_is_refused(tmp_path: Path) -> None:
    pico_onnx(tmp_path / "model")
    for purpose, open_it, code in (("tag", open_tagger, "runtime-mismatch"), ("embed", open_onnx_embedder, "mismatch")):
        reseal(tmp_path / "model", purpose=purpose, labels=() if purpose == "embed" else tuple(WORDS))
        with pytest.raises(ModelFileError) as caught:
            open_it(tmp_path / "model")
        assert code in caught.value.code
    reseal(tmp_path / "model", purpose="embed", labels=tuple(WORDS))
    with pytest.raises(ModelFileError, match="labels"):
        open_onnx_embedder(tmp_path / "model")


def test_a_graph_that_cannot_take_surface_forms_is_refused_when_it_is_to_read_them(tmp_path: Path) -> None:
    pico_tagger(tmp_path / "tags", surface_forms=True)
    with pytest.raises(ModelFileError, match="token_type_ids") as caught:
        open_tagger(tmp_path / "tags")
    assert caught.value.code == "runtime-mismatch"
