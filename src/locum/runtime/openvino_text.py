"""Tokens as they come to text as it may be shown: whole characters, and nothing of a stop string.

Notable: a token may end in the middle of a character or of a stop string, so the end of the text is held back until it
is known what it is. Text is found by decoding the last tokens with and without the new ones, because some tokenizers
write a token differently at the beginning of a text. Plain Python, and many answers are decoded in one call.
Not here: the tokenizer (``openvino_child``).
"""

from __future__ import annotations

from collections.abc import Sequence

_UNFINISHED = "\ufffd"  # what a decoder writes for a part of a character
_LONGEST_PART = 3  # bytes of a character in UTF-8 without its last one


class AnswerText:
    """The text of one answer.

    Args:
        stops: strings that end it and are not part of it.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self.stops = [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._from = self._known = 0  # tokens before _known are text already; decoding starts at _from
        self._ahead = 0  # characters of the tokens after _known that are text already, too
        self._held = ""

    def add(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Take new tokens.

        Returns:
            Two lists of tokens to decode, for ``take``: what was known, and the same with what is new.
        """
        self._ids.extend(ids)
        return self._ids[self._from : self._known], self._ids[self._from :]

    def take(self, known: str, whole: str, *, last: bool = False) -> str:
        """What may be shown now.

        Args:
            known: the first list of ``add``, decoded.
            whole: the second.
            last: no more tokens will come.

        Returns:
            The next piece, often empty; ``stopped`` tells that a stop string ended the answer with it.
        """
        if self.stopped:
            return ""
        new = whole[len(known) + self._ahead :]
        part = len(new) - len(new.rstrip(_UNFINISHED))
        if last or not 0 < part <= _LONGEST_PART:
            self._from, self._known, self._ahead = self._known, len(self._ids), 0
        else:
            new = new[:-part]
            self._ahead += len(new)
        self._held += new
        places = [place for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._held[: min(places)]
        kept = 0 if last else self._beginning()
        piece, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return piece

    def _beginning(self) -> int:
        """How many characters at the end may begin a stop string."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self.stops):
                return size
        return 0
