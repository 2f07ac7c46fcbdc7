"""The export as a job for a killable child process (``core.child.run_job``).

Notable: progress travels as events; the folder that is filled holds ``model/`` and, written last, ``parity.json``.
The parent sets PyTorch's threads through the environment, so that a linear student is exported without loading it.
"""

from __future__ import annotations

from pathlib import Path

from locum.core.errors import UserError
from locum.core.files import write_json
from locum.schema.training import AdapterExportRequest, EmbedderRequest, ExportRequest, GeneratorExportRequest

MODEL_FOLDER = "model"
PARITY_NAME = "parity.json"
ADAPTER_NAME = "adapter.gguf"


def main(request: Path, out: Path) -> None:
    """Run one export.

    Args:
        request: JSON file with an ``ExportRequest``.
        out: existing folder to fill.

    Raises:
        LocumError: as ``compress.export.export``; ``schema-invalid`` for a request that is none.
    """
    from locum.compress.export import export

    asked = ExportRequest.from_json(request.read_bytes(), str(request), UserError)
    _, parity = export(
        Path(asked.trained),
        Path(asked.dev),
        out / MODEL_FOLDER,
        name=asked.name,
        labels=asked.labels,
        threads=asked.threads,
        formats=asked.formats,
        min_agreement=asked.min_agreement,
        max_accuracy_drop=asked.max_accuracy_drop,
    )
    write_json(out / PARITY_NAME, parity.to_json())


def embedder(request: Path, out: Path) -> None:
    """Run one export of an embedding model.

    Args:
        request: JSON file with an ``EmbedderRequest``.
        out: existing folder to fill: ``model/`` and, written last, ``parity.json``.

    Raises:
        LocumError: as ``compress.embedder.export_embedder``; ``schema-invalid`` for a request that is none.
    """
    from locum.compress.embedder import export_embedder

    asked = EmbedderRequest.from_json(request.read_bytes(), str(request), UserError)
    _, parity = export_embedder(asked, out / MODEL_FOLDER)
    write_json(out / PARITY_NAME, parity.to_json())


def generator(request: Path, out: Path) -> None:
    """Run one export of a tuned decoder that writes.

    Args:
        request: JSON file with a ``GeneratorExportRequest``.
        out: existing folder to fill: ``model/`` and, written last, ``parity.json``.

    Raises:
        LocumError: as ``compress.generator.export_generator``; ``schema-invalid`` for a request that is none.
    """
    from locum.compress.generator import export_generator

    asked = GeneratorExportRequest.from_json(request.read_bytes(), str(request), UserError)
    parity = export_generator(asked, out / MODEL_FOLDER)
    write_json(out / PARITY_NAME, parity.to_json())


def adapter(request: Path, out: Path) -> None:
    """Run one export of a LoRA adapter.

    Args:
        request: JSON file with an ``AdapterExportRequest``.
        out: existing folder that gets ``adapter.gguf``.

    Raises:
        LocumError: as ``compress.gguf_adapter.export_adapter``; ``schema-invalid`` for a request that is none.
    """
    from locum.compress.gguf_adapter import export_adapter

    asked = AdapterExportRequest.from_json(request.read_bytes(), str(request), UserError)
    export_adapter(Path(asked.adapter), Path(asked.base), out / ADAPTER_NAME, name=asked.name)
