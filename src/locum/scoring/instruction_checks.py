"""The 25 verifiable instructions of IFEval, each a function of the answer and what was asked for.

Notable: every check, oddities included, is that of Google's code as lm-evaluation-harness keeps it
(``lm_eval/tasks/ifeval/instructions.py``): keywords are regular expressions, and text whose language cannot be
detected counts as right. One is not: sentences are split by nltk's Punkt with the abbreviations below in place of
its trained English model, which is a download. Not here: strict and loose reading (``instructions``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from locum.scoring.extras import needed

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ABBREVIATIONS = (
    "a.d a.m adm apr assn aug ave b.c bldg blvd brig capt cf cmdr col corp ct dec dept dr e.g esp est etc feb fri ft "
    "gen gov hon i.e inc jan jr jul jun ltd lt maj messrs mon mr mrs ms mt nov oct p.m p.s ph.d prof rep rev sen sep "
    "sept sgt sr st tel thu thur tue u.k u.n u.s u.s.a v vol vs wed"
)


def _compares(count: int, relation: str, threshold: int) -> bool:
    if relation not in ("less than", "at least"):
        raise ValueError(f"relation {relation!r} is neither 'less than' nor 'at least'")
    return count < threshold if relation == "less than" else count >= threshold


def _response_language(text: str, *, language: str) -> bool:
    return _language_is(text, language)


def _number_sentences(text: str, *, relation: str, num_sentences: int) -> bool:
    return _compares(len(_sentence_splitter().tokenize(text)), relation, num_sentences)


def _number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    paragraphs = re.split(r"\s?\*\*\*\s?", text)
    if any(not paragraph.strip() for paragraph in paragraphs[1:-1]):
        return False
    return sum(bool(paragraph.strip()) for paragraph in paragraphs) == num_paragraphs


def _number_words(text: str, *, relation: str, num_words: int) -> bool:
    return _compares(len(re.findall(r"\w+", text)), relation, num_words)


def _nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = text.split("\n\n")
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    paragraph = paragraphs[nth_paragraph - 1].strip() if nth_paragraph <= filled else ""
    if not paragraph:
        return False
    word = re.split(r"[.,?!'\"]", paragraph.split()[0].lstrip("'").lstrip('"'))[0]
    return filled == num_paragraphs and word.lower() == first_word.lower()


def _number_placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    known = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = known.get(marker, r"\s*" + marker.lower() + r".*$")
    return re.search(pattern, text.lower(), flags=re.MULTILINE) is not None


def _number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, flags=re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, flags=re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def _constrained_response(text: str) -> bool:
    return any(option in text for option in _OPTIONS)


def _number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    single = re.findall(r"\*[^\n\*]*\*", text)
    double = re.findall(r"\*\*[^\n\*]*\*\*", text)
    filled = [bool(found.strip("*").strip()) for found in single]
    filled += [bool(found.removeprefix("**").removesuffix("**").strip()) for found in double]
    return sum(filled) >= num_highlights


def _multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.split(r"\s?" + section_spliter.strip() + r"\s?\d+\s?", text)) - 1 >= num_sections


def _json_format(text: str) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _existence(text: str, *, keywords: Sequence[str]) -> bool:
    return all(re.search(keyword, text, flags=re.IGNORECASE) for keyword in keywords)


def _frequency(text: str, *, keyword: str, relation: str, frequency: int) -> bool:
    return _compares(len(re.findall(keyword.strip(), text, flags=re.IGNORECASE)), relation, frequency)


def _forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(r"\b" + word + r"\b", text, flags=re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, *, letter: str, let_relation: str, let_frequency: int) -> bool:
    return _compares(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _two_responses(text: str) -> bool:
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    filled = [part.strip() for part in parts if part.strip()]
    return len(filled) == 2 and filled[0] != filled[1]


def _repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_word_frequency(text: str, *, capital_relation: str, capital_frequency: int) -> bool:
    words = _word_splitter().tokenize(text)
    return _compares(sum(word.isupper() for word in words), capital_relation, capital_frequency)


def _english_capital(text: str) -> bool:
    return text.isupper() and _language_is(text, "en")


def _english_lowercase(text: str) -> bool:
    return text.islower() and _language_is(text, "en")


def _no_comma(text: str) -> bool:
    return "," not in text


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _language_is(text: str, language: str) -> bool:
    """Whether langdetect says so, always with the same seed; text that shows no language counts as right."""
    detector = _languages().create()
    detector.append(text)
    try:
        return detector.detect() == language
    except needed("langdetect", "detecting a language").LangDetectException:
        return True


@lru_cache
def _languages() -> Any:
    module = needed("langdetect.detector_factory", "detecting a language")
    factory = module.DetectorFactory()
    factory.load_profile(module.PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory


@lru_cache
def _sentence_splitter() -> Any:
    punkt = needed("nltk.tokenize.punkt", "counting sentences")
    known = punkt.PunktParameters()
    known.abbrev_types = set(_ABBREVIATIONS.split())
    return punkt.PunktSentenceTokenizer(known)


@lru_cache
def _word_splitter() -> Any:
    return needed("nltk.tokenize", "counting words").NLTKWordTokenizer()


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_word_frequency,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
}
"""IFEval's instructions: name to check."""
