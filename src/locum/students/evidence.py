"""``Evidence``: what an input must have in it for the label that it is given; limits of the guard for each label.

Notable: an input is compared with training rows of the label given (Mondrian: Vovk 2012, arXiv:1209.2673), so
one that is usual among all rows is handed over where nothing like it ever got that answer. Small talk speaks for no
label; where rows of a label are small talk themselves, nothing need speak for it. Not here: reading texts (``guard``).
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import inf, log
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from locum.schema.confidence import LabelLimits

SHORT = 6
"""Different words of an input up to which one of them must speak for its label. Longer ones hold enough for the student
itself to judge; six did best of five, six and no limit (``docs/log.md``)."""
LEAST_ROWS = 100
"""Below, one row in a hundred is less than one row."""
_NOTHING = -1e3  # what words say that no row of the label has; less than any that one has, more than small talk
_PAIRS_MAX = 1 << 18  # of word and label, the most frequent; a megabyte
_SMALL_TALK = """
hello hi hey hiya yo howdy greetings welcome morning afternoon evening night day days today tonight tomorrow yesterday
week weekend year birthday christmas thanks thank thx ty cheers appreciate appreciated grateful gratitude kindly bye
goodbye farewell later soon see seeing seen meet meeting catch talk talking chat chatting speak speaking take care
luck yes yeah yep yup ya no nope nah maybe perhaps definitely absolutely totally actually surely please pardon excuse
course problem worries mind pleasure mention true false correct wrong right okay ok k alright sure cool nice good
great fine well perfect happy glad pleased sorry tired busy free ready back new oh ah eh uh um hmm hm wow lol haha
hehe ha ugh oops ouch huh meh how what who whom whose when where why which whats i me my mine myself you your yours
yourself u we us our they them their he him she her it its this that these those there here am is are was were be been
being do does did done doing don didn doesn isn aren wasn couldn wouldn shouldn can could cannot would will shall
should may might must have has had having got get getting go goes going gone gotta come coming wanna gonna m s re ve
ll d t let lets im a an the to of for from in on at with by about as and or nor but not just only if than then so very
much many more most less enough bit little some any both all each either neither other another else same such too also
even really quite indeed again ever never always still yet now long up down out off over around one two once know
think guess hope mean understand understood agree agreed like love enjoy enjoyed feel feeling hear heard say said tell
want need wish wait hold hang moment second minute time times help helps helped helping helpful idea sounds someone
anyone anybody somebody everyone everybody something anything nothing everything thing things way friend friends buddy
mate dear sir madam folks guys man people bot robot human person ai test testing start begin continue stop next joke
jokes kidding weather rain raining sleep name age old born made live real home best better congrats congratulations
merry
"""
"""English words that greetings, thanks and small talk are made of, and those of grammar."""


class ReadRow(NamedTuple):
    """A row as the limits of its label see it.

    Attributes:
        words: its different words, as hashes.
        known: how many of them are known, of a training row from the others.
        label: the right one.
        fresh: whether it is a dev row; a training row is left out of what is known.
    """

    words: frozenset[int]
    known: int
    label: str
    fresh: bool


class Evidence:
    """Limits of each label, ready to use.

    Args:
        limits: of the labels; one that is not among them has none.

    Raises:
        ValueError: what speaks for a label cannot be read.
    """

    def __init__(self, limits: Sequence[LabelLimits]) -> None:
        self._least = {each.label: each.least_words for each in limits}
        self._speaks = {each.label: _unpacked(each.speaks) for each in limits if each.speaks is not None}
        self._any = frozenset(each.label for each in limits if each.any_word)

    def lacking(self, words: Iterable[int], known: int, label: str) -> str | None:
        """Why an input is unlike those that have a label, in words; None where it is not.

        Args:
            words: of the input, as hashes.
            known: how many different ones are known from training.
            label: that the student gives.
        """
        least, speaks, different = self._least.get(label, 0), self._speaks.get(label), set(words)
        if known < least:
            return (
                f"the input is short for “{label}”: {known} known word{'s' if known != 1 else ''}, where 99 in 100 "
                f"training rows of that label have at least {least}"
            )
        if len(different) > SHORT:
            return None
        if label in self._any:
            if different - small_talk():
                return None
            return f"the input is small talk, as fewer than 1 in 100 training rows with the label “{label}” are"
        if speaks is None or different & speaks:
            return None
        return (
            f"the input has little in it that speaks for “{label}”: 99 in 100 training rows of that label have a word "
            f"more typical of it, or more than {SHORT} words"
        )


def fit_limits(rows: Sequence[ReadRow], share: float) -> tuple[LabelLimits, ...]:
    """Limits that hand over at most a share of the rows of each label.

    How much a word speaks for a label is the logarithm of how many times as frequent it is among the rows of that label
    as among all others, each with half a row more; a training row is left out of its own. A short input counts by its
    strongest word. A label that has hardly any short rows has a limit of known words instead.

    Args:
        rows: training and dev rows.
        share: most of the rows of a label that is handed over.

    Returns:
        For each label, in alphabetical order; none for no rows. Degenerate: for a label with fewer than 100 rows no
        word need speak more than in any row that it has, nor than in 99 in 100 rows of all labels.
    """
    counts = _Counts(rows)
    scores = np.array([counts.strongest(row) for row in rows], dtype=np.float64)
    known, fresh = np.array([row.known for row in rows]), np.array([row.fresh for row in rows])
    pooled = _limit(scores, fresh, share) if len(rows) >= LEAST_ROWS else -inf
    places: dict[str, list[int]] = {label: [] for label in sorted(counts.rows)}
    for place, row in enumerate(rows):
        if row.label in places:  # else it is one of dev alone, which no student gives
            places[row.label].append(place)
    found: list[LabelLimits] = []
    for label, mine in places.items():
        enough = len(mine) >= LEAST_ROWS
        limit = _limit(scores[mine], fresh[mine], share) if enough else min(pooled, float(scores[mine].min()))
        # Where hardly a row is short, what is left of the share goes to those with the fewest known words.
        long = enough and limit == inf
        least = int(_limit(np.where(scores[mine] < inf, -1, known[mine]), fresh[mine], share)) if long else 0
        words = None if limit <= _NOTHING else [word for word in counts.words(label) if counts.of(word, label) >= limit]
        found.append(
            LabelLimits(
                label=label,
                least_words=max(0, least),
                any_word=limit == _NOTHING,
                speaks=None if words is None else _packed(words),
            )
        )
    return tuple(found)


class _Counts:
    """In how many training rows each word comes, by label; small talk is left out."""

    def __init__(self, rows: Sequence[ReadRow]) -> None:
        train = [row for row in rows if not row.fresh]
        pairs = Counter((word, row.label) for row in train for word in row.words - small_talk())
        if len(pairs) > _PAIRS_MAX:
            pairs = Counter(dict(sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:_PAIRS_MAX]))
        self.rows = Counter(row.label for row in train)
        self._pairs: Mapping[tuple[int, str], int] = pairs
        self._words = Counter[int]()
        self._by_label: dict[str, list[int]] = {label: [] for label in self.rows}
        for (word, label), n in pairs.items():
            self._words[word] += n
            self._by_label[label].append(word)

    def words(self, label: str) -> list[int]:
        """Words of the rows of a label."""
        return self._by_label[label]

    def of(self, word: int, label: str, own: int = 0) -> float:
        """How much a word speaks for a label, without a row of its own; minus infinity where no other row has both."""
        here = self._pairs.get((word, label), 0) - own
        if here < 1:
            return -inf
        elsewhere = self._words[word] - own - here
        inside, outside = self.rows[label] - own, self.rows.total() - self.rows[label]
        return log((here + 0.5) / (inside + 1)) - log((elsewhere + 0.5) / (outside + 1))

    def strongest(self, row: ReadRow) -> float:
        """How much the strongest word of a row speaks for its label.

        Infinity for a row that is not short, minus infinity for one that is nothing but small talk.
        """
        if len(row.words) > SHORT:
            return inf
        strongest = max((self.of(word, row.label, int(not row.fresh)) for word in row.words), default=-inf)
        return max(strongest, _NOTHING) if row.words - small_talk() else -inf


@cache
def small_talk() -> frozenset[int]:
    """Hashes of the words that speak for no label."""
    return frozenset(crc32(word.encode()) for word in _SMALL_TALK.split())


def _limit(values: NDArray[np.float64], fresh: NDArray[np.bool_], share: float) -> float:
    """The highest value that a new one is below with a probability of at most a share, if it is like these (conformal).

    It is lowered until at most twice that share of the dev values, and one, are below it, too: dev may be harder.
    """
    place = int(share * (len(values) + 1)) - 1  # a new value is below the k-th lowest of n with probability k / (n + 1)
    limit = float(np.sort(values)[place]) if place >= 0 else -inf
    dev = values[fresh]
    of_dev = int(2 * share * len(dev)) + 1  # of few rows, one more or less is chance
    return min(limit, float(np.sort(dev)[of_dev])) if len(dev) > of_dev else limit


def _packed(words: Iterable[int]) -> str:
    return base64.b64encode(np.array(sorted(words), dtype="<u4").tobytes()).decode()


def _unpacked(text: str) -> frozenset[int]:
    return frozenset(np.frombuffer(base64.b64decode(text, validate=True), dtype="<u4").tolist())
