"""Which model types Locum trains, what family they are, and where their layers stand.

Notable: the names are ``model_type`` of a transformers ``config.json``; GGUF files name theirs in
``general.architecture``. Everything else is refused with this list. Not here: loading (``body``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from locum.core.errors import ModelFileError
from locum.core.registry import nearest
from locum.schema.candidate import Family

Pooling = Literal["mean", "last"]


@dataclass(frozen=True)
class Architecture:
    """One supported model type.

    Attributes:
        model_type: as in ``config.json``.
        family: encoder (attends both ways) or decoder (causal).
        layers: dotted path of the list of transformer layers in the transformers class.
        depth_field: the config's field that holds the number of layers.
        has_pooler: the class takes ``add_pooling_layer``, whose weights Locum never uses.
        gguf: the same architecture's name in GGUF files, where transformers can read it.
    """

    model_type: str
    family: Family
    layers: str
    depth_field: str = "num_hidden_layers"
    has_pooler: bool = False
    gguf: str | None = None

    @property
    def pooling(self) -> Pooling:
        """How token states become one vector: the mean, except that only a decoder's last token saw everything."""
        return "mean" if self.family == "encoder" else "last"


ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("bert", "encoder", "encoder.layer", has_pooler=True),
        Architecture("roberta", "encoder", "encoder.layer", has_pooler=True),
        Architecture("xlm-roberta", "encoder", "encoder.layer", has_pooler=True),
        Architecture("mpnet", "encoder", "encoder.layer", has_pooler=True),
        Architecture("electra", "encoder", "encoder.layer"),
        Architecture("distilbert", "encoder", "transformer.layer", depth_field="n_layers"),
        Architecture("modernbert", "encoder", "layers"),
        Architecture("llama", "decoder", "layers", gguf="llama"),
        Architecture("mistral", "decoder", "layers"),
        Architecture("qwen2", "decoder", "layers", gguf="qwen2"),
        Architecture("qwen3", "decoder", "layers", gguf="qwen3"),
        Architecture("gemma2", "decoder", "layers", gguf="gemma2"),
        Architecture("gemma3_text", "decoder", "layers", gguf="gemma3"),
    )
}


def find_architecture(model_type: str, where: str) -> Architecture:
    """The architecture of a ``model_type``.

    Raises:
        ModelFileError: it is not supported; the message lists what is.
    """
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    raise _unsupported(model_type, tuple(ARCHITECTURES), where)


def find_gguf_architecture(name: str, where: str) -> Architecture:
    """The architecture of a GGUF file's ``general.architecture``; raises as ``find_architecture``."""
    by_gguf = {architecture.gguf: architecture for architecture in ARCHITECTURES.values() if architecture.gguf}
    if name in by_gguf:
        return by_gguf[name]
    raise _unsupported(name, tuple(by_gguf), where)


def _unsupported(name: str, known: tuple[str, ...], where: str) -> ModelFileError:
    close = nearest(name, known)
    return ModelFileError(
        "models-unsupported",
        f"architecture {name!r} is not one that Locum trains{f' (nearest: {close})' if close else ''}",
        where=where,
        fix=f"choose a base of one of: {', '.join(known)}",
    )


def transformer_layers(module: Any, architecture: Architecture) -> Any:
    """The ``nn.ModuleList`` of a transformers module's layers."""
    for name in architecture.layers.split("."):
        module = getattr(module, name)
    return module


def keep_first_layers(module: Any, architecture: Architecture, depth: int | None) -> None:
    """Cut a body to its first ``depth`` layers, in place; None keeps all.

    A final normalisation after the last layer stays. Half of a tuned decoder's layers often score what
    all of them do in classification.

    Raises:
        ModelFileError: ``depth`` is not within 1 and the number of layers.
    """
    layers = transformer_layers(module, architecture)
    if depth is None:
        return
    if not 1 <= depth <= len(layers):
        raise ModelFileError(
            "models-depth", f"depth {depth} is not within 1 and {len(layers)}, the layers of this base", fix="change it"
        )
    del layers[depth:]
    setattr(module.config, architecture.depth_field, depth)
    layer_types = getattr(module.config, "layer_types", None)
    if layer_types:
        module.config.layer_types = list(layer_types[:depth])
