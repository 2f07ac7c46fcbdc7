"""What a tuned decoder says in PyTorch about dev conversations: the reference that its export is held against.

Notable: weights are read as float32 whatever they are stored as, one conversation at a time, so that neither padding
nor a narrower type takes part. Greedy answers are written without the sampling options that a base's
``generation_config.json`` may carry; what the export wrote serves as their draft, which saves passes and changes no
token (Leviathan et al. 2023, arXiv:2211.17192, at temperature 0). Not here: the export (``generator``), the verdict
(``generator_parity``).

T tokens of a prompt, K scored tokens of its right answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from locum.compress.gguf_export import refuse_family
from locum.compress.gguf_tokenizer import Chat
from locum.core.errors import DataError
from locum.core.progress import track
from locum.models.base_files import inspect_base, read_json
from locum.models.causal import load_causal, load_chat_tokenizer
from locum.runtime.llama_template import check_template
from locum.schema.message import Message
from locum.schema.training import Conversation


@dataclass(frozen=True)
class Reference:
    """One conversation, and what the tuned weights say about it.

    Attributes:
        messages: the prompt.
        prompt: its tokens, T of them.
        prefixes: beginnings of the right answer, growing token by token up to K tokens; one whose tokens are not the
            beginning of the answer's (half a character) is left out.
        sizes: how many tokens each of ``prefixes`` has.
        logprobs: log-probability of each prefix after the prompt, natural logarithm.
    """

    messages: tuple[Message, ...]
    prompt: list[int]
    prefixes: tuple[str, ...]
    sizes: tuple[int, ...]
    logprobs: NDArray[np.float64]


@dataclass(frozen=True)
class Written:
    """A greedy answer as text, and whether it ended by itself."""

    answer: str
    ended: bool


class TunedDecoder:
    """A tuned decoder in PyTorch, with its tokenizer.

    Args:
        folder: in the layout of Hugging Face.

    Raises:
        ModelFileError: the folder is damaged or must not be opened.
        LocumError: its architecture has no form here (``compress-export``).
    """

    def __init__(self, folder: Path) -> None:
        base = inspect_base(folder)
        refuse_family(base.architecture.model_type)
        self.folder = folder
        self.tokenizer = load_chat_tokenizer(base)
        check_template([self.tokenizer.chat_template], str(folder))
        self.network = load_causal(base).eval()
        self.config: Any = self.network.config
        self.chat = Chat(self.tokenizer.chat_template, self._stop(), self.tokenizer.pad_token_id)

    @property
    def context(self) -> int:
        """The longest text that it was made for, in tokens."""
        return int(self.config.max_position_embeddings)

    @property
    def parameters(self) -> int:
        """How many weights it has; tied ones count once."""
        return sum(weight.numel() for weight in self.network.parameters())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are recognised and none is added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def reference(self, row: Conversation, *, scored_tokens: int) -> Reference:
        """Read one conversation.

        Args:
            row: the conversation.
            scored_tokens: most tokens of the right answer that are scored.
        """
        turns = [turn.model_dump() for turn in row.messages]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt = self.encode(text)
        gold = self._continuation(text, prompt, row.completion)[:scored_tokens]
        totals = np.cumsum(self._logprobs(prompt, gold))  # [K]
        prefixes = {size: self._decode(gold[:size]) for size in range(1, len(gold) + 1)}
        whole = {size: p for size, p in prefixes.items() if self._continuation(text, prompt, p) == gold[:size]}
        return Reference(
            messages=tuple(Message(turn.role, turn.content) for turn in row.messages),
            prompt=prompt,
            prefixes=tuple(whole.values()),
            sizes=tuple(whole),
            logprobs=totals[[size - 1 for size in whole]],
        )

    def write(self, prompt: Sequence[int], limit: int, draft: str = "") -> Written:
        """Answer greedily.

        Args:
            prompt: its tokens.
            limit: most tokens of the answer.
            draft: a guess at the answer; the nearer it is, the fewer passes are made. The answer does not hang on it.
        """
        written, ended = self._greedy(list(prompt), limit, self.encode(draft)[:limit])
        return Written(self._decode(written), ended)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _continuation(self, text: str, prompt: list[int], completion: str) -> list[int]:
        """Tokens after the prompt's: of both texts in one piece, unless a token would reach across the border."""
        together = self.encode(text + completion)
        if together[: len(prompt)] == prompt:
            return together[len(prompt) :]
        return self.encode(completion)

    @torch.inference_mode()
    def _logprobs(self, prompt: list[int], gold: list[int]) -> NDArray[np.float64]:
        """Log-probability of each token after those before it, ``[K]``."""
        ids = torch.tensor([prompt + gold])
        logits = self.network(input_ids=ids, logits_to_keep=len(gold) + 1).logits[0, :-1]  # [K, V]
        return torch.log_softmax(logits.double(), dim=-1)[torch.arange(len(gold)), torch.tensor(gold)].numpy()

    @torch.inference_mode()
    def _greedy(self, prompt: list[int], limit: int, draft: list[int]) -> tuple[list[int], bool]:
        """The most probable token again and again, and whether one of the ends came.

        The draft is read with the prompt; its tokens hold as long as they are the most probable ones, the others are
        forgotten.
        """
        written: list[int] = []
        step, past = prompt + draft, None
        while len(written) < limit:
            output = self.network(
                input_ids=torch.tensor([step]), past_key_values=past, use_cache=True, logits_to_keep=len(draft) + 1
            )
            past = output.past_key_values
            for place, token in enumerate(output.logits[0].argmax(dim=-1).tolist()):
                if token in self.chat.stop:
                    return written, True
                written.append(token)
                if len(written) == limit:
                    break
                if draft[place : place + 1] not in ([], [token]):
                    past.crop(place - len(draft))
                    break
            step, draft = written[-1:], []
        return written, False

    def _stop(self) -> tuple[int, ...]:
        """As ``generate`` finds them: ``generation_config.json`` first, then ``config.json``, then the tokenizer."""
        file = self.folder / "generation_config.json"
        told = read_json(file).get("eos_token_id") if file.is_file() else None
        for found in (told, getattr(self.config, "eos_token_id", None)):
            if found is not None:
                return tuple(found) if isinstance(found, list) else (int(found),)
        return (int(self.tokenizer.eos_token_id),)


def read_conversations(path: Path, rows: int) -> list[Conversation]:
    """The first conversations of a JSON Lines file.

    Args:
        path: the file.
        rows: most of them.

    Raises:
        DataError: there are none, or a line is none.
    """
    with path.open(encoding="utf-8") as file:
        found = [
            Conversation.from_json(line, f"{path}:{number}", DataError)
            for number, line in zip(range(1, rows + 1), file, strict=False)
        ]
    empty = [row.id for row in found if not row.messages or not row.completion]
    if empty or not found:
        what = f"conversations without messages or completion: {empty[:3]}" if empty else "no conversations"
        raise DataError("compress-dev", f"the dev split holds {what}", where=str(path), fix="give rows with both")
    return found


def read_references(
    decoder: TunedDecoder, rows: Sequence[Conversation], *, context: int, scored_tokens: int, answer_tokens: int
) -> list[Reference]:
    """What the tuned weights say about the conversations that fit the context.

    Args:
        decoder: the tuned weights.
        rows: conversations.
        context: tokens that prompt, right answer and written answer may have.
        scored_tokens: most tokens of a right answer that are scored.
        answer_tokens: most tokens of an answer that will be written.

    Raises:
        DataError: none of them fits.
    """
    found: list[Reference] = []
    with track("read dev in PyTorch", total=len(rows), unit="row") as tracker:
        for row in rows:
            reference = decoder.reference(row, scored_tokens=scored_tokens)
            if len(reference.prompt) + max((answer_tokens, *reference.sizes)) < context:
                found.append(reference)
            tracker.advance(1)
    if not found:
        raise DataError("compress-dev", f"no conversation fits a context of {context} tokens", fix="set max_tokens")
    return found
