"""Reads what a bundle tells of its build; the model in it is not touched."""

from __future__ import annotations

from pathlib import Path

from locum.bundle.verify import recover
from locum.bundle.write import MANIFEST, REPORT
from locum.core.errors import ModelFileError
from locum.schema.report import BuildReport


def read_report(bundle: Path) -> BuildReport:
    """The build report inside a bundle.

    Args:
        bundle: the bundle's folder.

    Raises:
        ModelFileError: there is no bundle, or its report cannot be read.
    """
    path = bundle / REPORT
    recover(bundle)
    if not (bundle / MANIFEST).is_file() or not path.is_file():
        raise ModelFileError(
            "bundle-missing",
            f"there is no bundle: {MANIFEST} or {REPORT} is not there",
            where=str(bundle),
            fix="name the folder that `locum build` printed",
        )
    return BuildReport.from_json(path.read_bytes(), str(path))
