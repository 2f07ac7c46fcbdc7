"""The dozen words that a plan, a page and an error use, each in one plain sentence.

Notable: one list for ``locum words``, the report's page and ``docs/glossary.md``.
"""

from __future__ import annotations

WORDS: dict[str, str] = {
    "task": "What the model has to do: instruction, example rows and limits, written down in a task.yaml.",
    "LLM": "The large model that does the task today and whose answers cost money or leave your house.",
    "student": "A small model that Locum trained for your task. It runs on your own machine.",
    "base": "A small model that others trained on general text, and from which a student starts.",
    "ladder": "The students that a build tries, cheapest first; it stops where the next is not worth it.",
    "train, dev, calibration, test": (
        "Four parts of your rows. The student learns from train; every choice is made on dev; the promise is proved on "
        "calibration rows, which were used for nothing else; test rows are only measured and reported."
    ),
    "confidence": "How sure the student is of one answer, from 0 to 1: its own estimate that the answer is right.",
    "threshold": "How sure the student must be before it may answer alone.",
    "certificate": (
        "The proved promise, such as: at most 5 in 100 answers that the student gives alone are wrong. It comes with "
        "what must hold for it, and with what ends it."
    ),
    "handed over": "The student is not sure enough: your LLM is asked, or, without one, nobody answers.",
    "route": "Who answered: local (the student), llm (your LLM), or abstain (nobody).",
    "bundle": "The folder that a build makes: student, certificate, report. It is what is served.",
    "parity": "The small file that is served answers as the trained model does; every export is checked for it.",
}
"""Word → what it means. A word in a sentence here stands in this list, too."""


def glossary_page() -> str:
    """``docs/glossary.md``."""
    head = ["# Words", "", "Generated from `locum.report.words` by `make docs`; `locum words` prints them.", ""]
    return (
        "\n".join([*head, "| word | what it means |", "|---|---|", *(f"| {w} | {m} |" for w, m in WORDS.items())])
        + "\n"
    )
