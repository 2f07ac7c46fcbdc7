"""Inputs unlike training: what the guard hands over, beside what a TF-IDF student and its training rows could tell.

    python bench/unlike.py

For each data set every score is set on its own dev rows, at the limit below which one in a hundred of them lies (the
guard and its parts set their own); then rows of the set's test file, and inputs that are not of it, are scored. Results
go to ``bench/results/unlike.json``. Distances of vectors are not compared here, since no student has them.
"""

from __future__ import annotations

import gzip
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.sparse import hstack
from scipy.special import logsumexp, softmax
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.svm import LinearSVC

from locum.core.files import write_json
from locum.data.normalise import normalise
from locum.students import evidence
from locum.students.guard import Guard, fit_guard, unlikeness
from public_data import DATASETS, ROOT, data_folder

SMALL_TALK = """
hello|Hi|hey there|hello again|good morning|good evening|good day|how are you|how are you?|how are you today
how's it going?|nice to meet you|pleased to meet you|welcome back|thanks|Thanks!|thank you|thank you very much
thank you so much|many thanks|thanks again|thanks for your time|I appreciate it|that helps|perfect, thank you
no thank you|you too|same to you|bye|bye for now|see you|see you later|see you tomorrow|take care
have a nice day|good luck|yes|no|ok|okay then|sure|of course|yes please|no problem|sounds good|got it|I see
all right|you are welcome|no worries|that's all|good point|help|help me please|please help|are you there?
anyone there?|who are you|what are you|are you a bot|what is your name?|I am fine|not bad|I am bored
I like you|you are funny|tell me a joke|nice weather today|please wait|one moment please|hold on|and you?
what about you|good to see you|are you okay|shall we start|all good|lol|hmm|test|asdf|123|!!!|?|…|""".replace(
    "\n", "|"
).split("|")[1:]
"""Of one to five words, or empty; a line break parts them, too."""
CHATS = {"greeting", "goodbye", "thank_you", "yes", "no", "maybe"}
"""Intents of clinc150 that are small talk by other people."""
SHARE = 0.01


def others(folder: Path) -> dict[str, list[str]]:
    """Inputs of no set's traffic, by what they are."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(2000)]
    clinc = DATASETS["clinc150"][0](folder)
    chats = sorted({text for rows in clinc.values() for text, label in rows if label in CHATS})
    found = {
        "small talk": SMALL_TALK,
        "clinc150's": [text for text in chats if len(text.split()) <= 5],
        "gibberish": [" ".join(draw.sample(words, draw.randint(1, 8))) for _ in range(300)],
    }
    for name in ("de", "fr", "en"):
        with gzip.open(folder / "multi30k" / f"val.{name}.gz", "rt", encoding="utf-8") as file:
            found[f"captions, {name}"] = [line.strip() for line in file][:300]
    found["out of scope"] = [text for text, label in clinc["test"] if label == "oos"]
    return found


def known_words(
    train: Sequence[tuple[str, str]], student: Callable[[list[str]], list[str]]
) -> Callable[[list[str]], Any]:
    """Different known words, less what 99 in 100 training rows of the label given have, each without itself."""
    reader = CountVectorizer(binary=True, token_pattern=r"\w+")
    rows = reader.fit_transform([text for text, _ in train])
    known, labels = rows @ (rows.sum(axis=0) >= 2).T, np.array([label for _, label in train])
    limits = {
        label: np.sort(np.asarray(known).ravel()[labels == label])[max(0, int(SHARE * (n + 1)) - 1)]
        for label, n in Counter(labels.tolist()).items()
    }

    def score(some: list[str]) -> Any:
        least = np.array([limits[label] for label in student(some)])
        return np.asarray(reader.transform(some).sum(axis=1)).ravel() - least

    return score


def trust(texts: Sequence[str], gold: Sequence[str], student: Callable[[list[str]], list[str]]) -> Callable[..., Any]:
    """Distance to the nearest training row of another label, over that to the nearest of the label given."""
    reader = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    rows, labels = reader.fit_transform(texts), np.array(gold)

    def score(some: list[str]) -> Any:
        found: list[float] = []
        given = student(some)
        for start in range(0, len(some), 500):
            part = given[start : start + 500]
            likeness = np.asarray((reader.transform(some[start : start + 500]) @ rows.T).todense())
            for near, label in zip(likeness, part, strict=True):
                other, same = (
                    np.sqrt(max(0.0, 2 - 2 * near[mask].max())) for mask in (labels != label, labels == label)
                )
                found.append(other / max(same, 1e-9))
        return np.array(found)

    return score


def measure(name: str, folder: Path) -> list[dict[str, Any]]:
    """What each score hands over, one line a score."""
    splits = {
        split: [(normalise(text), label) for text, label in rows if (name, label) != ("clinc150", "oos")]
        for split, rows in DATASETS[name][0](folder).items()
    }
    rows = splits["train"]
    random.Random(0).shuffle(rows)
    dev, train = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    (texts, gold), (dev_texts, dev_gold) = (tuple(map(list, zip(*part, strict=True))) for part in (train, dev))
    readers = [
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)),
    ]
    student = LinearSVC().fit(hstack([each.fit_transform(texts) for each in readers]).tocsr(), gold)

    def logits(some: list[str]) -> Any:
        scores = student.decision_function(hstack([each.transform(some) for each in readers]).tocsr())
        return np.stack([0 * scores, scores], axis=1) if scores.ndim == 1 else scores

    def given(some: list[str]) -> list[str]:
        return [str(student.classes_[column]) for column in logits(some).argmax(axis=1)]

    def over(guard: Guard) -> Callable[[list[str]], Any]:
        return lambda some: np.array([why is None for why in unlikeness(guard, some, given(some))], dtype=float)

    model = fit_guard(texts, dev_texts, labels=(gold, dev_gold))
    with patch.object(evidence, "small_talk", frozenset):
        plain = fit_guard(texts, dev_texts, labels=(gold, dev_gold))
    scores = {
        "guard": over(Guard(model)),
        "of the text alone": over(Guard(model.model_copy(update={"labels": ()}))),
        "small talk may speak": over(Guard(plain)),
        "known words by label": known_words(train, given),
        "trust score": trust(texts, gold, given),
        "confidence": lambda some: softmax(logits(some), axis=1).max(axis=1),
        "energy": lambda some: logsumexp(logits(some), axis=1),
    }
    every = {"same traffic": [text for text, _ in splits["test"]], **others(folder)}
    every = {what: [normalise(text) for text in some] for what, some in every.items()}
    table: list[dict[str, Any]] = []
    for score, measured in scores.items():
        found = {what: measured(some) for what, some in every.items()}
        limit = (
            0.5
            if score in list(scores)[:3]
            else 0
            if score in list(scores)[3:4]
            else np.quantile(measured(dev_texts), SHARE)
        )
        line: dict[str, Any] = {"data set": name, "score": score}
        line |= {what: f"{np.mean(values < limit):.1%}" for what, values in found.items()}
        talk = np.concatenate([found["small talk"], found["clinc150's"]])
        usual = found["same traffic"]
        line["AUROC"] = f"{roc_auc_score([1] * len(usual) + [0] * len(talk), np.concatenate([usual, talk])):.3f}"
        wrong = np.array(given(every["small talk"])) == "injection"
        line["small talk as injection"] = (
            f"{np.mean((found['small talk'] >= limit) & wrong):.1%}" if wrong.any() else "–"
        )
        table.append(line)
    return table


def main() -> None:
    """Measure all and write the table."""
    folder = data_folder()
    table = [line for name in ("banking77", "trec6", "clinc150", "prompt_injection") for line in measure(name, folder)]
    caption = (
        "Share that is handed over, where each score is set to hand over 1 % of dev. Below the guard its parts: "
        "what it does by the text alone, and all of it with no word taken for small talk. Known words by label: "
        "limits of the training rows of the label given. Trust score (Jiang et al. 2018): nearest training rows "
        "on TF-IDF. Confidence: the largest probability, and energy (Liu et al. 2020), of a one-vs-rest SVC on "
        "TF-IDF. Same traffic: the set's test file, which for prompt_injection is other traffic than its training "
        "file; clinc150 without its out-of-scope rows, and small talk is part of it. Small talk is made up for "
        "this table, clinc150's is of other people: greetings, thanks, goodbyes, yes, no and maybe, of up to five "
        "words. AUROC: same traffic against both (of the guard's yes and no). As injection: answered so, whatever "
        "the confidence."
    )
    write_json(
        ROOT / "bench" / "results" / "unlike.json", {"columns": list(table[0]), "table": table, "caption": caption}
    )
    for line in table:
        print(line)


if __name__ == "__main__":
    main()
