"""Long texts in windows: every token once, and the same answer as if the model read it whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from locum.runtime import windows
from locum.runtime.open import open_tagger
from locum.runtime.protocol import Tagger
from locum.runtime.tokenize import TextTokenizer
from locum.runtime.windows import read_windows, tag_whole
from locum.testing import pico_tagger
from locum.testing.pico import pico_tokenizer

LONG = " ".join(f"{word} my" for word in ("card", "cash", "pin", "note", "mail") * 9)


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    pico_tokenizer(tmp_path / "tokenizer.json")
    return TextTokenizer(tmp_path / "tokenizer.json", 16)


@pytest.fixture
def tagger(tmp_path: Path) -> Tagger:
    pico_tagger(tmp_path / "tagger")
    return open_tagger(tmp_path / "tagger", threads=1)


def test_a_short_text_is_one_window_without_its_special_tokens(tokenizer: TextTokenizer) -> None:
    ((window,), (empty,)) = read_windows(tokenizer.read, ["my card", ""])
    assert window.start == 0 and not window.read.truncated
    assert window.offsets.tolist() == [[0, 2], [3, 7]] and window.kept.tolist() == [1, 2]
    assert empty.offsets.shape == (0, 2)


@pytest.mark.parametrize("limit", [3, 4, 5, 16, 64, 200])
def test_every_token_of_a_long_text_is_kept_once(tmp_path: Path, limit: int) -> None:
    pico_tokenizer(tmp_path / "tokenizer.json")
    cut = TextTokenizer(tmp_path / "tokenizer.json", limit)
    whole = TextTokenizer(tmp_path / "tokenizer.json", 500)
    text = LONG if limit > 4 else LONG[:80]
    (found,) = read_windows(cut.read, [text])
    (wanted,) = read_windows(whole.read, [text])[0]
    kept = np.concatenate([window.offsets for window in found])
    np.testing.assert_array_equal(kept, wanted.offsets)
    assert (len(found) > 1) == (limit < 92) and not found[-1].read.truncated


def test_windows_overlap_and_begin_at_words(tokenizer: TextTokenizer) -> None:
    (found,) = read_windows(tokenizer.read, [LONG])
    for earlier, later in pairwise(found):
        assert LONG[later.start] == " "
        assert later.start < earlier.start + int(earlier.read.spans[:, 1].max())
        assert earlier.kept[-1] < len(earlier.read.ids) - 2  # its last tokens are left to the next, away from the edge
        assert later.kept[0] > 1


def test_a_text_without_spaces_is_cut_between_tokens(tokenizer: TextTokenizer) -> None:
    text = "card.cash," * 12
    (found,) = read_windows(tokenizer.read, [text])
    kept = np.concatenate([window.offsets for window in found])
    assert len(found) > 1 and len(kept) == 48
    assert "".join(text[start:end] for start, end in kept) == text


def test_a_text_of_too_many_windows_says_that_it_is_cut(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "MAX_WINDOWS", 3)
    long, short = read_windows(tokenizer.read, [LONG, "card"])
    assert len(long) == 3 and long[-1].read.truncated
    assert len(short) == 1 and not short[-1].read.truncated


def test_long_and_short_texts_are_tagged_together_as_alone(tagger: Tagger) -> None:
    texts = ["my card", LONG, "", "pin " * 30]
    together = tag_whole(tagger, texts)
    for text, tagged in zip(texts, together, strict=True):
        (alone,) = tag_whole(tagger, [text])
        np.testing.assert_array_equal(alone.spans, tagged.spans)
        np.testing.assert_allclose(alone.logits, tagged.logits, atol=1e-6)
        assert not tagged.truncated and len(tagged.spans) == len(text.split())
        names = [tagger.spec.labels[column] for column in tagged.logits.argmax(axis=1)]
        words = [text[start:end] for start, end in tagged.spans]
        assert all((name == "O") == (word == "my") for name, word in zip(names, words, strict=True))
