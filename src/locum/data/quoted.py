"""Records of a CSV or TSV file with quoted fields: an unclosed quote costs its own row, and no other.

Notable: a quoted field may hold line breaks, so a quote that nobody closed takes in the rows after it, up to the next
quote. Lines of the record in hand are therefore kept, and read again, one by one, where they turn out to be rows:
when the record is no valid CSV or has the wrong number of fields, or when its lines are alike those of other rows.
Not here: delimiter and header (``delimited``).
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from locum.data.opening import MAX_LINE_CHARS
from locum.data.rows import Faults

UNCLOSED = "an unclosed quote"
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
_DOUBLED = re.compile(r'[^"\s,;|]""|""[^"\s,;|]')
_FIRST_LOOK_LINES = 16
"""A record of so many lines is looked at before it ends, and again at each four times as many."""
_RECENT_ROWS = 50
_SAMPLE_FAULTS = 50
_OWN_LINES = 8
_LEAST_SEPARATORS = 8
_ALIKE = 0.9
_SHORT_CHARS = 64


def allow_long_fields() -> None:
    """Raise the csv module's own limit of 131,072 characters; it is one for the whole process."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_CHARS))


class RowShape:
    """What single lines look like that are whole rows of a file.

    Args:
        delimiter: between fields.
        width: fields of a row.
        head: the first text of the file, which shows values that its columns repeat.
    """

    def __init__(self, delimiter: str, width: int, head: str) -> None:
        self.width = width
        self.delimiter = delimiter
        rows = _sample(head.splitlines(keepends=True)[1:], delimiter, width)
        self._known = [_repeated(row[column] for row in rows) for column in range(width)]
        self._recent: deque[list[str]] = deque(maxlen=_RECENT_ROWS)

    def learn(self, fields: list[str]) -> None:
        """Remember a row that was read, for a while."""
        if len(fields) == self.width:
            self._recent.append(fields)

    def row(self, line: str) -> list[str] | None:
        """The fields of a line that is a whole row by itself; None when it is none."""
        bare = line.rstrip("\r\n")
        fields = bare.split(self.delimiter)
        if '"' in bare:
            with contextlib.suppress(csv.Error):  # of a stray quote: the fields between delimiters may still be a row's
                fields = next(csv.reader([bare], delimiter=self.delimiter, strict=True), [])
        return fields if len(fields) == self.width else None

    def are_rows(self, lines: Sequence[str]) -> bool:
        """Whether the lines of one record are rows of their own, rather than lines of a text.

        Lines of a text may hold a row's number of delimiters by chance, so their values must also be known in every
        column that repeats its values (labels, numbers). Where no column does, many such lines are needed. A doubled
        quote among them was written by a program that knows CSV, which leaves no quote open.
        """
        filled = [line for line in lines if line.strip()]
        rows = [row for line in filled if (row := self.row(line))]
        if self.width < 2 or len(filled) < 2 or len(rows) < _ALIKE * len(filled) or any(map(_DOUBLED.search, filled)):
            return False
        recent = [_repeated(row[column] for row in self._recent) for column in range(self.width)]
        known = [old | new for old, new in zip(self._known, recent, strict=True)]
        if not any(known):
            return self.delimiter == "\t" or (len(rows) - 1) * (self.width - 1) >= _LEAST_SEPARATORS
        for column, values in enumerate(known):
            own = [_value(row[column]) for row in rows]
            if len(rows) >= _OWN_LINES:  # a block of rows with a label of its own; in a text, a space follows a comma
                values |= {value for value in _repeated(own) if not value.startswith(" ")} if values else set()
            if values and fmean(value in values for value in own) < _ALIKE:
                return False
        return True


def read_records(lines: Iterator[str], shape: RowShape, file: str, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """Records with the numbers of their first lines; what is none goes to ``faults``.

    Args:
        lines: physical lines, with their ends.
        shape: of the file's rows; records of another width are handed on, for the caller to refuse.
        file: its name, for places.
        faults: added to.
    """
    allow_long_fields()
    source = _Lines(lines, shape, file, faults)
    reader = csv.reader(source, delimiter=shape.delimiter, strict=True)
    while True:
        number = source.start()
        try:
            fields = next(reader)
        except StopIteration:
            source.finish()
            return
        except csv.Error as error:
            source.refuse(str(error))
            continue
        if len(source.taken) == 1:
            shape.learn(fields)
        elif source.takes_in_rows(len(fields) == shape.width):
            source.refuse("")
            continue
        else:
            shape.learn([field[:_SHORT_CHARS] for field in fields])
        yield number, fields


class _Lines:
    """Lines for the csv module; those of the record in hand are kept and can be read again.

    Attributes:
        taken: lines of the record in hand.
    """

    def __init__(self, lines: Iterator[str], shape: RowShape, file: str, faults: Faults) -> None:
        self._lines = lines
        self._shape = shape
        self._file = file
        self._faults = faults
        self._again: deque[str] = deque()
        self._next = 1
        self._open = 0  # the line of a quote whose end is still to be found, or 0
        self._look_at = _FIRST_LOOK_LINES
        self._cut = False
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) == self._look_at:
            self._look_at *= 4
            if self._goes_wrong():
                self._cut = True
                raise StopIteration  # the csv module then says that the record has no end
        if self._again:
            line = self._again.popleft()
        else:
            line = next(self._lines)
            if self._open and '"' in line:
                self._tell(self._open, self._next - self._open)
        self.taken.append(line)
        self._next += 1
        return line

    def start(self) -> int:
        """Begin a record; the number of its first line."""
        self.taken, self._look_at, self._cut = [], _FIRST_LOOK_LINES, False
        return self._next

    def finish(self) -> None:
        """Tell of a quote that was open up to the end of the file."""
        if self._open:
            self._tell(self._open, self._next - 1 - self._open)

    def takes_in_rows(self, right_width: bool) -> bool:
        """Whether the record in hand, valid by itself, is made of rows that stand between two stray quotes."""
        if right_width or self._shape.width < 2:
            return self._shape.are_rows(self.taken)
        return any(map(self._shape.row, self.taken[1:]))

    def refuse(self, error: str) -> None:
        """Make the record in hand a bad row; where its lines are rows, only the first line of it.

        Args:
            error: what the csv module said; "" when it found none.
        """
        number, swallowed = self._next - len(self.taken), self.taken[1:]
        if not swallowed and "unexpected end" not in error:
            self._faults.add(f"{self._file}:{number}", "not a valid CSV record", _explain(error))
            return
        if self._cut or any(map(self._shape.row, swallowed)):
            self._again.extendleft(reversed(swallowed))
            self._next = number + 1
        if self._cut and not any('"' in line for line in swallowed):
            self._open = number  # told when the next quote, or the end, is found
        else:
            self._tell(number, len(swallowed))

    def _goes_wrong(self) -> bool:
        """Whether the record in hand has taken in rows, or more fields than a row has."""
        if self._shape.are_rows(self.taken):
            return True
        return len(next(csv.reader(self.taken, delimiter=self._shape.delimiter), [])) > self._shape.width

    def _tell(self, number: int, swallowed: int) -> None:
        self._open = 0
        after = {0: "", 1: "; it would swallow the line after it"}
        what = after.get(swallowed, f"; it would swallow the {swallowed:,} lines after it")
        self._faults.add(f"{self._file}:{number}", UNCLOSED, f"the quote that opens here is never closed{what}")


def _repeated(values: Iterable[str]) -> set[str]:
    """Values that stand more than once in a column whose values repeat; none for one of free text."""
    counts = Counter(map(_value, values))
    return {value for value, count in counts.items() if count > 1} if 2 * len(counts) <= counts.total() else set()


def _value(text: str) -> str:
    """A value as what it is in its column, without a stray quote: any number is alike, and so is any long text."""
    bare = text[:_SHORT_CHARS].strip('"')
    return "#" if _NUMBER.fullmatch(bare) else bare


def _sample(lines: list[str], delimiter: str, width: int) -> list[list[str]]:
    """Rows among the first lines of a file; after a record that is no CSV, reading goes on with its second line."""
    rows: list[list[str]] = []
    start = 0
    for _ in range(_SAMPLE_FAULTS):
        reader = csv.reader(lines[start:], delimiter=delimiter, strict=True)
        line = 0
        try:
            for fields in reader:
                line = reader.line_num
                if len(fields) == width:
                    rows.append(fields)
            return rows
        except csv.Error:
            start += line + 1
    return rows


def _explain(error: str) -> str:
    return f"a field that opens here is longer than {MAX_LINE_CHARS:,}" if "limit" in error else error
