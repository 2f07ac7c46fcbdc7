"""PyTorch to ONNX, fp32: body, pooling, head and wide part in one graph, the same bytes every time.

Notable: attention becomes ONNX's own ``Attention`` operator (opset 23), which knows grouped heads, masks and
scale, instead of the dozen nodes that a tracer writes; the fused kernel is faster and quantisers find only the
projections. Whatever differs from run to run (names with counters, stack traces, versions) is taken out, so one
student has one SHA-256. Not here: quantisation (``int8``), checking the result (``parity``).

Shapes: B rows, T tokens, H heads, D width, C labels.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from locum.core.errors import LocumError
from locum.core.files import write_bytes
from locum.models.body import quiet_transformers
from locum.models.classifier import SequenceClassifier, pool
from locum.models.tagger import TokenClassifier

EmbeddingPooling = Literal["mean", "cls", "last"]
OPSET = 23  # the first with Attention
IR_VERSION = 10  # what ONNX Runtime 1.20 and later read
_ATTENTION = "locum_onnx"


def export_onnx(student: SequenceClassifier, path: Path, *, max_tokens: int) -> None:
    """Write a student as ``model.onnx``.

    The graph's inputs are ``input_ids`` and ``attention_mask``, int64 ``[B, T]``, padded at the right; its output is
    ``logits``, float32 ``[B, C]``.

    Args:
        student: the trained model; it is left in evaluation mode and float32.
        path: file to write.
        max_tokens: largest T that will be asked.

    Raises:
        LocumError: PyTorch's exporter cannot express the model (``compress-export``).
    """
    _write(_Graph(student), student, path, max_tokens, "logits")


def export_tagger_onnx(student: TokenClassifier, path: Path, *, max_tokens: int) -> None:
    """Write a tagger; arguments and errors as in ``export_onnx``, but ``logits`` is ``[B, T, C]``, a row a token.

    One that reads surface forms has them as a third input, ``token_type_ids``, int64 ``[B, T]``.
    """
    _write(_TokenGraph(student), student, path, max_tokens, "logits")


def export_embedding_onnx(body: nn.Module, pooling: EmbeddingPooling, path: Path, *, max_tokens: int) -> None:
    """Write an encoder's body as an embedding model: inputs as in ``export_onnx``, output ``vector``.

    Args:
        body: what ``models.body.load_body`` returned.
        pooling: mean over the tokens, the first token (cls), or the last.
        path: file to write.
        max_tokens: largest T that will be asked.

    Raises:
        LocumError: PyTorch's exporter cannot express the model (``compress-export``).
    """
    _write(Embedding(body, pooling), body, path, max_tokens, "vector")


class Embedding(nn.Module):
    """A body, pooled and divided by its length: ``[B, T]`` ids and mask to ``[B, D]`` of length one."""

    def __init__(self, body: nn.Module, pooling: EmbeddingPooling) -> None:
        super().__init__()
        self.body, self.pooling = body, pooling
        self.rotary = _is_rotary(body)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors of length one, ``[B, D]``."""
        options = _positions(input_ids) if self.rotary else {}
        states = self.body(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        pooled = states[:, 0].float() if self.pooling == "cls" else pool(states, attention_mask, self.pooling)
        return pooled / (pooled * pooled).sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()  # [B, D]


class _Graph(nn.Module):
    """What is traced: the student, with positions given for every row where they turn queries and keys.

    transformers computes rotary angles once, for a batch of one; ONNX's ``RotaryEmbedding`` does not broadcast them.
    """

    def __init__(self, student: SequenceClassifier) -> None:
        super().__init__()
        self.body, self.head, self.pooling, self.wide = student.body, student.head, student.pooling, student.wide
        self.rotary = _is_rotary(student.body)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        options = _positions(input_ids) if self.rotary else {}
        states = self.body(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        logits = self.head(pool(states, attention_mask, self.pooling))  # type: ignore[arg-type]
        return logits if self.wide is None else logits + self.wide(input_ids, attention_mask)


class _TokenGraph(nn.Module):
    """What is traced of a tagger; positions as in ``_Graph``."""

    def __init__(self, student: TokenClassifier) -> None:
        super().__init__()
        self.body, self.head, self.reads_surface = student.body, student.head, student.reads_surface
        self.rotary = _is_rotary(student.body)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        options = _positions(input_ids) if self.rotary else {}
        options |= {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.body(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        return self.head(states.float())


def _write(graph: _Graph | _TokenGraph | Embedding, model: nn.Module, path: Path, max_tokens: int, output: str) -> None:
    """Trace a graph and write it; the model that it is of is left in evaluation mode and float32."""
    model.eval().float()
    with _onnx_attention(graph.body), _quiet():
        write_bytes(path, _canonical(_trace(graph, max_tokens, output)))


def _is_rotary(body: nn.Module) -> bool:
    return any(name.endswith("rotary_emb") for name, _ in body.named_modules())


def _positions(input_ids: Tensor) -> dict[str, Tensor]:
    return {"position_ids": torch.arange(input_ids.shape[1]).expand(input_ids.shape)}  # [B, T]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers calls, as one ONNX operator.

    Query, key and value are ``[B, H, T, D/H]``, and key and value may have fewer heads. The mask is added to the
    scores, ``[B, 1, T, T]``; it carries causality, padding and windows. Returns ``[B, T, H, D/H]`` and no weights.
    """
    if options.get("s_aux") is not None:
        raise LocumError("compress-export", f"{type(module).__name__} has attention sinks, which ONNX lacks")
    softcap = float(options.get("softcap") or 0.0)
    mixed, *_ = torch.onnx.ops.attention(query, key, value, attention_mask, scale=scaling, softcap=softcap)
    return mixed.transpose(1, 2), None


@contextmanager
def _onnx_attention(body: Any) -> Generator[None, None, None]:
    """Let the body compute attention as the ONNX operator while it is traced; a few old classes cannot."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_ATTENTION, eager_mask)
    before = body.config._attn_implementation
    with quiet_transformers():
        body.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        body.set_attn_implementation(before)


def _trace(student: _Graph | _TokenGraph | Embedding, max_tokens: int, output: str) -> Any:
    # Two rows of different length: no dimension of 1 that a tracer would take for a constant.
    ids = torch.ones(2, min(7, max_tokens), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if isinstance(student, _TokenGraph) and student.reads_surface:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    dynamic = {0: torch.export.Dim("batch", min=1, max=1 << 16), 1: torch.export.Dim("tokens", min=1, max=max_tokens)}
    try:
        program = torch.onnx.export(
            student,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=(dynamic,) * len(inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    except Exception as error:  # the exporter raises dozens of kinds; each means that it cannot
        cause = " ".join(str(error).split())[:300]
        raise LocumError(
            "compress-export", f"PyTorch cannot export {type(student.body).__name__} to ONNX: {cause}"
        ) from error
    if program is None:
        raise LocumError("compress-export", f"PyTorch gave no graph for {type(student.body).__name__}")
    return program.model_proto


def _canonical(model: Any) -> bytes:
    """The same graph always as the same bytes: names by position, no traces, no versions."""
    from onnx import checker

    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.producer_name, model.producer_version, model.doc_string = "locum", "", ""
    model.ir_version = IR_VERSION
    graph.name, graph.doc_string = "student", ""
    names = {"": ""}
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
        names[value.name] = value.name
    for place, weight in enumerate(graph.initializer):
        del weight.metadata_props[:]
        weight.doc_string = ""
        names[weight.name] = f"w{place}" if weight.name.startswith("val_") else weight.name
        weight.name = names[weight.name]
    counts: Counter[str] = Counter()
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        counts[node.op_type] += 1
        node.name = f"{node.op_type}_{counts[node.op_type]}"
        for place, output in enumerate(node.output):
            names.setdefault(output, f"{node.name}.{place}" if output else "")
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    checker.check_model(model)
    return model.SerializeToString(deterministic=True)


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keep the exporter's notices (absent torchvision, its own deprecations) from the user and the tests."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
