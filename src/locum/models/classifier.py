"""A classifier: transformer body, pooling, linear head and a wide part beside it; and the folder it is saved in.

The folder:
    config.json         transformers' configuration of the body
    model.safetensors   the body
    head.safetensors    weight [C, D] and bias [C], and the wide part when there is one; its metadata names the pooling
    tokenizer.json

B rows, T tokens, D width of the body, C labels. Padding stands on the right. Not here: training
(``train``), the exported form (``compress``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from locum.core.errors import ModelFileError
from locum.core.files import write_bytes
from locum.models.architectures import Architecture, Pooling
from locum.models.base_files import check_safetensors, inspect_base
from locum.models.body import load_body, quiet_transformers
from locum.models.wide import Wide

HEAD_NAME = "head.safetensors"


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Turn token states into one vector a row, in float32.

    Args:
        states: ``[B, T, D]``.
        mask: 1 for a token, 0 for padding on the right, ``[B, T]``; every row has a token.
        pooling: ``mean`` over the tokens, or the ``last`` token.

    Returns:
        ``[B, D]``.
    """
    if pooling == "last":
        last = mask.sum(dim=1) - 1  # [B]
        return states[torch.arange(states.shape[0], device=states.device), last].float()
    weights = mask.unsqueeze(-1).float()  # [B, T, 1]
    return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)


class SequenceClassifier(nn.Module):
    """Body, pooling and a linear head.

    Args:
        body: what ``load_body`` returned.
        architecture: of the body.
        n_labels: C.
        pooling: None takes the architecture's own.
    """

    def __init__(
        self, body: nn.Module, architecture: Architecture, n_labels: int, pooling: Pooling | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.architecture = architecture
        self.pooling: Pooling = pooling or architecture.pooling
        self.head = nn.Linear(cast("Any", body.config).hidden_size, n_labels)
        self.wide: Wide | None = None

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The pooled vector of each row, ``[B, D]`` float32, from ids and mask ``[B, T]``."""
        output = self.body(input_ids=input_ids, attention_mask=attention_mask)
        return pool(output.last_hidden_state, attention_mask, self.pooling)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``[B, C]`` from ids and mask ``[B, T]``."""
        logits = self.head(self.embed(input_ids, attention_mask))
        return logits if self.wide is None else logits + self.wide(input_ids, attention_mask)

    def fresh_weights(self) -> list[nn.Parameter]:
        """Those that the base has not, and that therefore learn at a rate of their own."""
        return list(self.head.parameters())

    @property
    def parameters_count(self) -> int:
        """How many weights the student has, embeddings included."""
        wide = sum(table.numel() for table in self.wide.buffers()) if self.wide is not None else 0
        return sum(weight.numel() for weight in self.parameters()) + wide


def save_student(model: SequenceClassifier, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``head.safetensors``; the tokenizer is written beside them.

    Args:
        model: with the embedding of the whole vocabulary in place.
        folder: created when absent.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        cast("Any", model.body).config.save_pretrained(folder)
    body = {name: tensor.contiguous() for name, tensor in model.body.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(body, metadata={"format": "pt"}))
    head = {"weight": model.head.weight.detach().contiguous(), "bias": model.head.bias.detach().contiguous()}
    if model.wide is not None:
        head |= {f"wide.{name}": table.contiguous() for name, table in model.wide.state_dict().items()}
    write_bytes(folder / HEAD_NAME, save(head, metadata={"pooling": model.pooling}))


def load_student(folder: Path) -> SequenceClassifier:
    """Read a student that ``save_student`` wrote, ready to answer (evaluation mode).

    Raises:
        ModelFileError: a file is missing, damaged, or they do not fit together.
    """
    from safetensors import safe_open

    base = inspect_base(folder)
    path = folder / HEAD_NAME
    if not path.is_file():
        raise ModelFileError("models-file-missing", f"{HEAD_NAME} is missing", where=str(folder), fix="train it again")
    check_safetensors(path)
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    body = load_body(base)
    width = cast("Any", body.config).hidden_size
    weight, bias = tensors.get("weight"), tensors.get("bias")
    pooling = metadata.get("pooling")
    fits = weight is not None and bias is not None and weight.shape == (len(bias), width) and bias.ndim == 1
    if not fits or pooling not in ("mean", "last"):
        raise ModelFileError(
            "models-damaged", f"the head does not fit a body of width {width}", where=str(path), fix="train it again"
        )
    model = SequenceClassifier(body, base.architecture, len(cast("Tensor", bias)), pooling)
    model.head.load_state_dict({"weight": weight, "bias": bias})
    wide = {name.removeprefix("wide."): tensor for name, tensor in tensors.items() if name.startswith("wide.")}
    if wide:
        model.wide = _wide(wide, model.head.out_features, path)
    return model.eval()


def _wide(tensors: dict[str, Tensor], n_labels: int, path: Path) -> Wide:
    """The wide part from its tables.

    Raises:
        ModelFileError: a table is missing, or has another shape.
    """
    wide = Wide(n_labels)
    try:
        wide.load_state_dict(tensors)
    except RuntimeError as problem:
        raise ModelFileError(
            "models-damaged", "the wide part does not fit the labels", where=str(path), fix="train it again"
        ) from problem
    return wide
