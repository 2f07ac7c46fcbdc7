"""Conversations as token ids: the base's own chat template for the prompt, the answer, and the token that ends it.

Notable: the template is rendered once to learn how an answer ends, and then for prompts alone, so the student reads in
training exactly what it will read when it is asked; a row that does not fit the context is left out whole, because
serving does not answer such a prompt. Templates are programs by strangers: they are rendered in Jinja's
sandbox, and first tried in a process with limits. Not here: laying rows out (``packing``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from locum.core.errors import DataError, ModelFileError
from locum.core.progress import warn
from locum.runtime.llama_template import check_template
from locum.schema.training import Conversation, RowCounts
from locum.train.packing import Example

_PROBE = "locumprobe"
_PLACES_SHOWN = 5


@dataclass
class Encoded:
    """A split as token ids, and what was left out of it.

    Attributes:
        examples: the rows in use.
        long, empty: ids of rows whose prompt and answer do not fit together, and without answer.
    """

    examples: list[Example] = field(default_factory=list)
    long: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


class ChatEncoder:
    """Turns conversations into ids.

    Args:
        tokenizer: what ``load_chat_tokenizer`` returned.
        max_tokens: of prompt and answer.
        where: the base, for messages.

    Attributes:
        ending: ids that end an answer; the loss counts them.

    Raises:
        ModelFileError: the template never ends, reaches for Python, or cannot render a plain conversation.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, where: str) -> None:
        self._tokenizer, self._max_tokens, self._where = tokenizer, max_tokens, where
        check_template([tokenizer.chat_template], where)
        self.ending = self._find_ending()

    def read(self, path: Path) -> Encoded:
        """Read and encode a split.

        Args:
            path: JSON Lines of ``Conversation``.

        Raises:
            DataError: it cannot be read, a line is not a conversation or cannot be rendered, or no row is left.
        """
        found = Encoded()
        rows = _read(path)
        found.empty = [row.id for row in rows if not row.completion.strip()]
        rows = [row for row in rows if row.completion.strip()]
        prompts = [self._prompt(row, f"{path}: {row.id}") for row in rows]
        for row, prompt, answer in zip(rows, self._ids(prompts), self._answers(rows, prompts), strict=True):
            if len(prompt) + len(answer) > self._max_tokens:
                found.long.append(row.id)
                continue
            found.examples.append(Example(tuple(prompt), tuple(answer), row.task))
        if not found.examples:
            raise DataError(
                "train-no-rows",
                f"no {path.stem} row is left: of {len(found.long)} prompt and answer are longer than the context of "
                f"{self._max_tokens} tokens, {len(found.empty)} have no answer",
                where=str(path),
                fix="raise generation.context, if the base reads that much, or give shorter rows",
            )
        return found

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def _answers(self, rows: list[Conversation], prompts: list[str]) -> list[list[int]]:
        """Ids of each answer as they follow the prompt's, with the ending."""
        alone = self._ids([row.completion for row in rows])
        whole = self._ids([prompt + row.completion for prompt, row in zip(prompts, rows, strict=True)])
        answers = []
        for prompt, plain, full in zip(self._ids(prompts), alone, whole, strict=True):
            # some tokenizers put a space before a text of its own; in its place after the prompt it has none
            follows = full[: len(prompt)] == prompt
            answers.append((full[len(prompt) :] if follows else plain) + self.ending)
        return answers

    def _prompt(self, row: Conversation, where: str) -> str:
        try:
            return self._render([turn.to_json() for turn in row.messages], ask=True)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(
                "train-request",
                f"the base's chat template does not take this conversation: {error}",
                where=where,
                fix="use the roles that the template knows, or another base",
            ) from error

    def _render(self, messages: list[dict[str, Any]], *, ask: bool) -> str:
        return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)

    def _find_ending(self) -> list[int]:
        """The special token that the template puts after an answer, with what stands before it; else the text's end."""
        user, answer = {"role": "user", "content": "Hello."}, {"role": "assistant", "content": _PROBE}
        try:
            rendered = self._render([user, answer], ask=False)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise ModelFileError(
                "runtime-chat-template",
                f"its chat template fails on a plain conversation: {error}",
                where=self._where,
                fix="choose another base",
            ) from error
        tail = self._ids([rendered.partition(_PROBE)[2]])[0]
        special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)
        for place, token in enumerate(tail):
            if token in special:
                return tail[: place + 1]
        return [self._tokenizer.eos_token_id]


def count_rows(train: Encoded, dev: Encoded) -> RowCounts:
    """What became of the rows, with a warning for each thing that was done to them."""
    long, empty = train.long + dev.long, train.empty + dev.empty
    for label, ids in (("rows longer than the context, left out", long), ("rows without an answer, left out", empty)):
        if ids:
            warn(label, rows=len(ids), places=", ".join(ids[:_PLACES_SHOWN]))
    return RowCounts(
        train=len(train.examples),
        dev=len(dev.examples),
        dropped_long=len(long),
        dropped_empty=len(empty),
        tasks=dict(sorted(Counter(row.task for row in train.examples if row.task is not None).items())),
    )


def _read(path: Path) -> list[Conversation]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("train-request", f"cannot read it: {error}", where=str(path)) from error
    return [
        Conversation.from_json(line, f"{path}:{number}", DataError)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
