#!/usr/bin/env bash
# rouge-score: a text compared with itself scores 0 when it is not written in Latin letters, and é splits a word.
#
# Guess: a text has ROUGE-L 1 with itself, in any language.
# Behaviour: the default tokeniser replaces everything but a to z and 0 to 9 by a space. Of Russian, Greek or Chinese text
# no word is left, and the score is 0 without a warning; of "café crème" are left "caf", "cr" and "me".
# Versions: rouge-score 0.1.2, Python 3.11.
# Source: ``rouge_score/tokenize.py``, ``NON_ALPHANUM_PATTERN``; it follows the original ROUGE, made for English.
# ``RougeScorer(tokenizer=…)`` takes another one. Asked about in the evaluate library of Hugging Face, issue 256.
#
# Exit status: 0 as stated, 1 changed, 2 the packages could not be installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/environment"
"$folder/environment/bin/python" -m pip install --quiet --disable-pip-version-check \
  rouge-score==0.1.2 nltk==3.10.4 numpy==2.4.6 absl-py==2.5.1 six==1.17.0 || exit 2
"$folder/environment/bin/python" - <<'PYTHON'
from __future__ import annotations

import sys

TEXTS = {
    "English": "the cat sat on the mat",
    "Russian": "кошка сидела на ковре",
    "Greek": "η γάτα κάθισε στο χαλί",
    "Chinese": "猫坐在垫子上",
}


def show() -> bool:
    """Each text against itself, and the words of a French one."""
    from rouge_score import rouge_scorer, tokenizers

    scorer = rouge_scorer.RougeScorer(["rougeL"])
    scores = {name: float(scorer.score(text, text)["rougeL"].fmeasure) for name, text in TEXTS.items()}
    for name, score in scores.items():
        print(f"{name:<8} {TEXTS[name]!r} against itself: ROUGE-L {score:.1f}")
    words = tokenizers.DefaultTokenizer().tokenize("café crème")
    print(f"'café crème' is read as {words}")
    return scores == {"English": 1.0, "Russian": 0.0, "Greek": 0.0, "Chinese": 0.0} and words == ["caf", "cr", "me"]


as_stated = show()
print("as stated" if as_stated else "CHANGED: the behaviour is not the one that this script's head states")
sys.exit(0 if as_stated else 1)
PYTHON
