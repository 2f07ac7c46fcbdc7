"""Another form of a student that was built: ONNX in another precision, or GGUF for a decoder.

Notable: the same parity check as in the build stands before the files: a form that does not answer as the trained
weights did is not written. The trained weights are found in the build's own folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from locum.bundle.report import read_report
from locum.core.child import run_job
from locum.core.cpu import usable_cores
from locum.core.errors import UserError
from locum.core.files import atomic_folder, write_json
from locum.core.registry import nearest
from locum.data.load import label_names
from locum.schema.model import Parity
from locum.schema.training import ExportFormat, ExportRequest, Trained


def export_student(build: Path, out: Path, format: ExportFormat, candidate: str | None = None) -> Parity:
    """Write a built student in another form.

    Args:
        build: the folder that ``locum build --out`` made, with ``work/`` in it.
        out: the model folder to write; complete or absent.
        format: the form.
        candidate: which rung of the ladder; None takes the one that was chosen.

    Returns:
        How the exported files compare with the trained weights on dev.

    Raises:
        UserError: there is no such build or candidate.
        CheckFailed: the form does not answer as the trained weights did; nothing is written.
        LocumError: the student cannot be written in that form.
    """
    trained = trained_students(build)
    name = candidate or read_report(build / "bundle").chosen
    if name not in trained:
        close = nearest(name, trained)
        hint = f"did you mean {close!r}?" if close else f"built there: {', '.join(trained) or 'nothing'}"
        raise UserError("core-unknown-name", f"{build} has no trained student {name!r}", fix=hint)
    request = json.loads((trained[name] / "request.json").read_text(encoding="utf-8"))
    splits = Path(request["dev"]).parent
    asked = ExportRequest(
        name=name,
        labels=tuple(label_names(splits)),
        trained=str(trained[name]),
        dev=request["dev"],
        threads=usable_cores(),
        formats=(format,),
    )
    with atomic_folder(out) as folder:
        scratch = folder / ".export"
        scratch.mkdir()
        write_json(scratch / "request.json", asked.to_json())
        run_job(
            "locum.compress.job:main",
            scratch / "request.json",
            scratch,
            log=build / "work" / "export.log",
            threads=asked.threads,
        )
        parity = Parity.from_json((scratch / "parity.json").read_bytes(), str(out))
        for path in (scratch / "model").iterdir():
            path.rename(folder / path.name)
        shutil.rmtree(scratch)
    return parity


def trained_students(build: Path) -> dict[str, Path]:
    """Folders with trained weights in a build, by candidate name."""
    found: dict[str, Path] = {}
    for record in sorted((build / "work").glob("train-*/trained.json"), key=lambda path: path.stat().st_mtime):
        trained = Trained.from_json(record.read_bytes(), str(record))
        found[trained.candidate.name] = record.parent
    return found
