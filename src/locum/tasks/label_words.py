"""The words around a label in a sentence: which leave it the answer, and which make it something else.

Notable: a mention is taken only between words that are known here, because a word that nobody knows may be what turns
it round ("less positive", "spam filter", "kein Spam"). Not here: finding mentions (``tasks.labels``).
"""

from __future__ import annotations

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NOUNS = _set(
    "answer category class classification comment complaint email enquiry feedback group headline inquiry intent "
    "intention issue label mail matter message news option post problem query question request response review "
    "section sentence sentiment sms story tag text ticket tone topic tweet type article"
)
"""What a label is of: a "billing issue", a "spam message"."""

BEFORE = NOUNS | _set(
    "this that it its as is are be been was were to for about under into s my would i'd we'd "
    "i it's that's this's here here's say says said choose chose pick select selected assign assigned classify "
    "classified label labelled labeled tag tagged categorise categorised categorize categorized call called "
    "consider considered regard regarded mark marked express expresses expressed indicate indicates suggest "
    "suggests mean means describe describes concern concerns contain contains show shows convey conveys reflect "
    "reflects belong belongs seem seems look looks sound sounds feel feels appear appears go most very mostly "
    "really rather quite pretty so overall strong somewhat slightly best correct appropriate fitting right final "
    "likely perhaps maybe possibly therefore thus hence ist als est c'est es é è são sono sind"
)
"""May stand right before a label that is the answer; so may adverbs in -ly, but for ``UNSURE_ADVERBS``."""

ARTICLES = _set("a an the ein eine einen einem der die das den dem un une le la du el los o um uma il uno een het de")
"""Before a label they say nothing; the word before them does."""

CASES = NOUNS | _set("case example expression form instance kind sign")
"""Before "of" and a label that is the answer."""

UNSURE_ADVERBS = _set("hardly barely scarcely rarely nearly formerly supposedly allegedly unlikely falsely only partly")

NUMBER_BEFORE = _set("a an the is be as it was rating score grade answer label would s say says rate give i'd it's")
"""May stand right before a number that is the answer: "of 10", "about 10", "than 10" are another one."""

CLAUSE = _set(
    "because since as so due given it its it's this that's these the there there's here which where while with i "
    "i'm we he she they although though even based considering when weil da car parce porque perché denn"
)
"""Begin an explanation, after a comma or without one."""

AFTER = _set(
    "because since as due given here based although though overall weil car parce porque perché denn in for to"
)
"""May follow a label that is the answer without a comma."""

VERDICTS = _set("fits matches applies describes is seems would")
"""May follow a label where nothing after them denies it: "spam fits best"; the last three only before ``PRAISE``."""

PRAISE = NOUNS | _set("best right correct appropriate fitting likely suitable my what")

PLAIN = _set("yes no not none other all any true false unknown a an i it is in on up out at one")
"""Labels that are everyday words: no noun may follow ("no problem"), and little may stand before."""

PLAIN_BEFORE = _set("is be as answer label would say s it's")

NEGATIONS = _set(
    "not no non never neither nor nothing none cannot without except excluding exclude excluded unlike unlikely "
    "instead opposite lack lacks absence than if unless whether wrong incorrect false either might've ruled reject "
    "rejected rule nicht kein keine keinen keiner keinem nie niemals pas jamais ni nunca não nem mai niet geen "
    "ingen inte ikke нет не sondern ohne sin sans senza but anything far less least avoid impossible free"
)
"""Before a label, or in what follows it within its clause, they make it another answer, or none."""

CORRECTIONS = _set("no wait actually correction sorry hmm hm oops however but or not")
"""At the beginning of the next sentence they take a label back."""

NUMBER_WORDS = _set("zero one two three four five six seven eight nine ten half twenty hundred out")

SURE_IDIOMS = re.compile(
    r"(?i)\b(?:there is |there's |i have )?(?:no|without (?:any |a )?) ?(?:doubt|question)\b(?: that)?"
)

DENIED_AFTER = re.compile(
    r"(?i)[.!\n]\s*(?:that|this|it|which)(?:'s| is| was| would be)? ?(?:not|wrong|incorrect|unlikely|isn't)\b"
)


def negates(word: str) -> bool:
    """Whether a word before a label, or right after it, denies it."""
    return word in NEGATIONS or word.endswith(("n't", "nt's")) or word in ("isnt", "wasnt", "doesnt", "cant", "wont")
