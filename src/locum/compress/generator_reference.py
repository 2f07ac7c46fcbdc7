"""What a tuned decoder says in PyTorch about dev conversations: the reference that its export is held against.

Notable: weights are read as float32 whatever they are stored as, one conversation at a time, so that neither padding
nor a narrower type takes part. Greedy answers are written without the sampling options that a base's
``generation_config.json`` may carry. Not here: the export (``generator``), the verdict (``generator_parity``).

T tokens of a prompt, K scored tokens of its right answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from locum.compress.gguf_export import refuse_family
from locum.compress.gguf_tokenizer import Ends
from locum.core.errors import DataError, LocumError, ModelFileError
from locum.core.progress import track
from locum.models.base_files import BaseFiles, inspect_base, read_json
from locum.models.body import quiet_transformers
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
        answer: what is written greedily, as text.
        ended: whether that answer ended by itself.
    """

    messages: tuple[Message, ...]
    prompt: list[int]
    prefixes: tuple[str, ...]
    sizes: tuple[int, ...]
    logprobs: NDArray[np.float64]
    answer: str
    ended: bool


class TunedDecoder:
    """A tuned decoder in PyTorch, with its tokenizer.

    Args:
        folder: in the layout of Hugging Face.

    Raises:
        ModelFileError: the folder is damaged or must not be opened.
        LocumError: its architecture, or the lack of a chat template, has no form here (``compress-export``).
    """

    def __init__(self, folder: Path) -> None:
        base = inspect_base(folder)
        refuse_family(base.architecture.model_type)
        self.folder = folder
        self.network = _load(base)
        self.config: Any = cast("Any", self.network).config
        self.tokenizer = _load_tokenizer(folder)
        self.ends = self._ends()

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

    def reference(self, row: Conversation, *, scored_tokens: int, answer_tokens: int) -> Reference:
        """Read one conversation and write one answer.

        Args:
            row: the conversation.
            scored_tokens: most tokens of the right answer that are scored.
            answer_tokens: most tokens of the greedy answer.
        """
        turns = [turn.model_dump() for turn in row.messages]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt = self.encode(text)
        gold = self._continuation(text, prompt, row.completion)[:scored_tokens]
        totals = np.cumsum(self._logprobs(prompt, gold))  # [K]
        prefixes = {size: self._decode(gold[:size]) for size in range(1, len(gold) + 1)}
        whole = {size: p for size, p in prefixes.items() if self._continuation(text, prompt, p) == gold[:size]}
        written, ended = self._greedy(prompt, answer_tokens)
        return Reference(
            messages=tuple(Message(turn.role, turn.content) for turn in row.messages),
            prompt=prompt,
            prefixes=tuple(whole.values()),
            sizes=tuple(whole),
            logprobs=totals[[size - 1 for size in whole]],
            answer=self._decode(written),
            ended=ended,
        )

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
    def _greedy(self, prompt: list[int], limit: int) -> tuple[list[int], bool]:
        """The most probable token again and again, and whether one of the ends came."""
        written: list[int] = []
        step, past = prompt, None
        while len(written) < limit:
            output = self.network(
                input_ids=torch.tensor([step]), past_key_values=past, use_cache=True, logits_to_keep=1
            )
            token, past = int(output.logits[0, -1].argmax()), output.past_key_values
            if token in self.ends.stop:
                return written, True
            written.append(token)
            step = [token]
        return written, False

    def _ends(self) -> Ends:
        """As ``generate`` finds them: ``generation_config.json`` first, then ``config.json``, then the tokenizer."""
        file = self.folder / "generation_config.json"
        told = read_json(file).get("eos_token_id") if file.is_file() else None
        for found in (told, getattr(self.config, "eos_token_id", None), self.tokenizer.eos_token_id):
            if found is not None:
                return Ends(tuple(found) if isinstance(found, list) else (int(found),), self.tokenizer.pad_token_id)
        raise LocumError(
            "compress-export", "nothing says which token ends an answer", where=str(self.folder), fix=_SAVE_TOKENIZER
        )


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
        answer_tokens: most tokens of a greedy answer.

    Raises:
        DataError: none of them fits.
    """
    found: list[Reference] = []
    with track("read dev in PyTorch", total=len(rows), unit="row") as tracker:
        for row in rows:
            reference = decoder.reference(row, scored_tokens=scored_tokens, answer_tokens=answer_tokens)
            if len(reference.prompt) + max((answer_tokens, *reference.sizes)) < context:
                found.append(reference)
            tracker.advance(1)
    if not found:
        raise DataError("compress-dev", f"no conversation fits a context of {context} tokens", fix="set max_tokens")
    return found


_SAVE_TOKENIZER = "save the base's tokenizer beside the weights (tokenizer.json, tokenizer_config.json)"


def _load(base: BaseFiles) -> nn.Module:
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        try:
            loaded = AutoModelForCausalLM.from_pretrained(
                base.root,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises many classes for a damaged model; all mean the same here
            raise ModelFileError("models-damaged", f"it cannot be loaded: {error}", where=str(base.root)) from error
    network, report = cast("Any", loaded)
    missing = sorted(str(name) for name in (*report["missing_keys"], *report["mismatched_keys"]))
    if missing:
        raise ModelFileError(
            "models-damaged", f"weights are missing or of another shape: {', '.join(missing[:3])}", where=str(base.root)
        )
    return network.eval()


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # many classes again
            raise ModelFileError(
                "models-damaged", f"its tokenizer cannot be loaded: {error}", where=str(folder), fix=_SAVE_TOKENIZER
            ) from error
    if not tokenizer.chat_template:
        raise LocumError(
            "compress-export",
            "there is no chat template, so nothing says how messages become a prompt",
            where=str(folder),
            fix="save the template beside the weights as chat_template.jinja",
        )
    check_template([tokenizer.get_chat_template()], str(folder))
    return tokenizer
