"""Inputs unlike training: what the guard hands over, beside the confidence and the energy of a TF-IDF student.

    python bench/unlike.py

For each data set every score is set on its own dev rows, at the limit below which one in a hundred of them lies (the
guard sets its own); then rows of the set's test file, and inputs that are not of it, are scored. Results go to
``bench/results/unlike.json``. Compared here without distances of vectors, which no student has (``docs/log.md``).
"""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import hstack
from scipy.special import logsumexp, softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from locum.core.files import write_json
from locum.data.normalise import normalise
from locum.students.guard import Guard, fit_guard
from public_data import DATASETS, ROOT, data_folder

GREETINGS = (
    *("hello", "Hi", "Thanks!", "thank you very much", "Ok", "good morning", "how are you", "bye", "see you later"),
    *("yes", "no", "lol", "help", "test", "asdf", "123", "!!!", "?", "…", "", " ", "you too", "hey there", "okay then"),
)


def others(folder: Path) -> dict[str, list[str]]:
    """Inputs of no set's traffic, by what they are."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(2000)]
    found = {
        "greetings": list(GREETINGS),
        "gibberish": [" ".join(draw.sample(words, draw.randint(1, 8))) for _ in range(300)],
    }
    for name in ("de", "fr", "en"):
        with gzip.open(folder / "multi30k" / f"val.{name}.gz", "rt", encoding="utf-8") as file:
            found[f"captions, {name}"] = [line.strip() for line in file][:300]
    found["out of scope"] = [text for text, label in DATASETS["clinc150"][0](folder)["test"] if label == "oos"]
    return found


def measure(name: str, folder: Path) -> list[dict[str, Any]]:
    """The shares that each score hands over, one line a score."""
    splits = {
        split: [(normalise(text), label) for text, label in rows] for split, rows in DATASETS[name][0](folder).items()
    }
    rows = splits["train"]
    random.Random(0).shuffle(rows)
    dev, train = [text for text, _ in rows[: len(rows) // 10]], rows[len(rows) // 10 :]
    texts = [text for text, _ in train]
    readers = [
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)),
    ]
    student = LinearSVC().fit(
        hstack([each.fit_transform(texts) for each in readers]).tocsr(), [label for _, label in train]
    )
    guard = Guard(fit_guard(texts, dev))

    def logits(some: list[str]) -> Any:
        scores = student.decision_function(hstack([each.transform(some) for each in readers]).tocsr())
        return np.stack([0 * scores, scores], axis=1) if scores.ndim == 1 else scores

    peers = {
        "confidence": lambda some: softmax(logits(some), axis=1).max(axis=1),
        "energy": lambda some: logsumexp(logits(some), axis=1),
    }
    limits = {peer: np.quantile(score(dev), 0.01) for peer, score in peers.items()}
    every = {"same traffic": [text for text, _ in splits["test"]], **others(folder)}
    table: list[dict[str, Any]] = [{"data set": name, "score": score} for score in ("guard", *peers)]
    for what, some in every.items():
        table[0][what] = f"{np.mean([guard.unlike(normalise(text)) is not None for text in some]):.1%}"
        for line, (peer, score) in zip(table[1:], peers.items(), strict=True):
            line[what] = f"{np.mean(score(some) < limits[peer]):.1%}"
    return table


def main() -> None:
    """Measure all and write the table."""
    folder = data_folder()
    table = [line for name in ("banking77", "trec6", "prompt_injection") for line in measure(name, folder)]
    caption = (
        "Share that is handed over, where each score is set to hand over 1 % of dev. Confidence: the largest"
        " probability, and energy (Liu et al. 2020), of a one-vs-rest SVC on TF-IDF. Same traffic: the set's test"
        " file, which for prompt_injection is other traffic than its training file."
    )
    write_json(
        ROOT / "bench" / "results" / "unlike.json", {"columns": list(table[0]), "table": table, "caption": caption}
    )
    for line in table:
        print(line)


if __name__ == "__main__":
    main()
