"""The peers of ``tagging.py``, each in an environment that has what it needs: texts in, spans out, as JSON.

python bench/tagging_peers.py gazetteer|presidio|spacy IN.json OUT.json
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

EPOCHS = 20
FORMS = {
    "EMAIL_ADDRESS": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "DOMAIN_NAME": r"(?:https?://)?(?:www\.)?[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|info|biz|edu|gov|io)(?:/\S*)?",
    "IP_ADDRESS": r"(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}",
    "IBAN_CODE": r"[A-Z]{2}\d{2}[A-Z0-9]{11,28}",
    "CREDIT_CARD": r"\d{13,19}|(?:\d{4}[ -]){3}\d{4}",
    "US_SSN": r"\d{3}-\d{2}-\d{4}",
    "PHONE_NUMBER": r"\+?\(?\d[\d ().x-]{6,}\d",
    "DATE_TIME": r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}",
    "ZIP_CODE": r"\d{5}(?:-\d{4})?",
}
PRESIDIO = {"URL": "DOMAIN_NAME", "UK_NHS": "", "US_BANK_NUMBER": "", "US_PASSPORT": "", "US_ITIN": ""}
"""Its names for types of the data, and what the data have no type for."""

Spans = list[tuple[int, int, str]]


def gazetteer(known: list[dict[str, Any]], texts: list[str]) -> list[Spans]:
    """Every span of the known rows, found again; and expressions for what has a form."""
    counts: dict[str, Counter[str]] = {}
    for row in known:
        for start, end, label in row["spans"]:
            counts.setdefault(row["text"][start:end], Counter())[label] += 1
    best = {quote: labels.most_common(1)[0][0] for quote, labels in counts.items()}
    listed = sorted(best, key=len, reverse=True)
    words = re.compile("|".join(rf"(?<!\w){re.escape(quote)}(?!\w)" for quote in listed))
    forms = [(label, re.compile(rf"(?<!\w)(?:{form})(?!\w)", re.IGNORECASE)) for label, form in FORMS.items()]
    found: list[Spans] = []
    for text in texts:
        spans = [(*match.span(), best[match.group()]) for match in words.finditer(text)]
        spans += [(*match.span(), label) for label, form in forms for match in form.finditer(text)]
        found.append(apart(spans))
    return found


def presidio(_known: list[dict[str, Any]], texts: list[str]) -> list[Spans]:
    """Presidio's recognisers that need no model of a language."""
    from presidio_analyzer import RecognizerRegistry

    logging.getLogger("tldextract").setLevel(logging.CRITICAL)  # without a network it takes the list it brings
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    own = [each for each in registry.recognizers if type(each).__name__ != "SpacyRecognizer"]
    found: list[Spans] = []
    for text in texts:
        results = [hit for each in own for hit in each.analyze(text, each.supported_entities, None) or []]
        results.sort(key=lambda hit: -hit.score)
        spans = [(hit.start, hit.end, PRESIDIO.get(hit.entity_type, hit.entity_type)) for hit in results]
        found.append(apart([span for span in spans if span[2]], in_order=True))
    return found


def spacy_ner(known: list[dict[str, Any]], texts: list[str]) -> list[Spans]:
    """The transition-based recogniser of spaCy, trained from nothing but the known rows."""
    import spacy
    from spacy.training import Example
    from spacy.util import compounding, fix_random_seed, minibatch

    fix_random_seed(0)
    nlp = spacy.blank("en")
    nlp.add_pipe("ner")
    examples = []
    for row in known:
        doc = nlp.make_doc(row["text"])
        spans = [doc.char_span(start, end, label, alignment_mode="expand") for start, end, label in row["spans"]]
        entities = spacy.util.filter_spans([span for span in spans if span is not None])
        examples.append(
            Example.from_dict(doc, {"entities": [(each.start_char, each.end_char, each.label_) for each in entities]})
        )
    optimiser = nlp.initialize(lambda: examples)
    draw = random.Random(0)
    for _ in range(EPOCHS):
        draw.shuffle(examples)
        for batch in minibatch(examples, size=compounding(8.0, 64.0, 1.001)):
            nlp.update(batch, sgd=optimiser, drop=0.2)
    return [[(each.start_char, each.end_char, each.label_) for each in nlp(text).ents] for text in texts]


def apart(spans: Spans, *, in_order: bool = False) -> Spans:
    """Spans without overlap: the longest first, or in the order given."""
    kept: Spans = []
    for start, end, label in spans if in_order else sorted(spans, key=lambda span: span[0] - span[1]):
        if all(end <= other[0] or other[1] <= start for other in kept):
            kept.append((start, end, label))
    return sorted(kept)


def main(peer: str, source: Path, target: Path) -> None:
    """Ask one peer."""
    asked = json.loads(source.read_text(encoding="utf-8"))
    answer = {"gazetteer": gazetteer, "presidio": presidio, "spacy": spacy_ner}[peer]
    started_s = time.monotonic()
    spans = answer(asked["known"], asked["test"])
    target.write_text(json.dumps({"spans": spans, "seconds": round(time.monotonic() - started_s, 2)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
