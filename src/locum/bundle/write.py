"""Writes a bundle: complete or absent, with ``manifest.json`` last, naming the SHA-256 of every other file.

Notable: the folder is filled beside its place and exchanged for what stands there, so a kill leaves the old bundle or
the new one. The model's hash is that of its ``model.json``, which names the hash of each of its files, its
labels and its temperature: whatever changes an answer or a confidence changes it.
Not here: the page and the card inside (``report``), checking (``verify``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import locum
from locum.core.errors import ModelFileError
from locum.core.files import (
    atomic_folder,
    disk_errors,
    hash_folder,
    link_or_copy,
    sha256_bytes,
    sha256_file,
    write_json,
    write_text,
)
from locum.runtime.model_files import SPEC_NAME, read_spec, refuse_unsafe, resolve_inside
from locum.schema.bundle import Manifest
from locum.schema.certificate import Certificate, Policy
from locum.schema.task import Task

if TYPE_CHECKING:
    from locum.schema.report import BuildReport  # opening a bundle reads none

MANIFEST = "manifest.json"
MODEL = "model"
TASK, POLICY, CERTIFICATE = "task.yaml", "policy.json", "certificate.json"
REPORT, PAGE, CARD = "report.json", "report.html", "README.md"
LEARNED = "learned.npy"
"""The fingerprint of what the student learned from."""
PREVIOUS = "previous"
"""Folder of the certificates and policies that were in force before, each in a folder of its own."""
REQUIRED = (TASK, POLICY, CERTIFICATE, REPORT, PAGE, CARD, f"{MODEL}/{SPEC_NAME}")


def model_hash(model_folder: Path) -> str:
    """The hash that certificates and manifests name a model by: SHA-256 of its ``model.json``.

    Raises:
        ModelFileError: there is no readable ``model.json``.
    """
    read_spec(model_folder)
    return sha256_file(model_folder / SPEC_NAME)


def task_hash(task_text: str) -> str:
    """The hash that certificates and manifests name a task by: SHA-256 of its file as written."""
    return sha256_bytes(task_text.encode())


def write_bundle(
    out: Path,
    *,
    task: Task,
    task_text: str,
    model_folder: Path,
    policy: Policy,
    certificate: Certificate,
    report: BuildReport,
    page: str,
    card: str,
    licence: str,
    hashes: Mapping[str, str] | None = None,
    learned: Sequence[Path] = (),
) -> Manifest:
    """Write a bundle; one that stands at ``out`` is replaced once the new one is whole.

    Args:
        out: the bundle's folder.
        task: what the bundle does.
        task_text: the task file, kept verbatim.
        model_folder: the exported model; only what its ``model.json`` names is copied.
        policy: stages and thresholds.
        certificate: what was proved.
        report: the build's report, for ``report.json`` and the versions in the manifest.
        page: ``report.html``.
        card: the model card, ``README.md``.
        licence: of the base the student comes from.
        hashes: further hashes for the manifest, such as ``data``.
        learned: fingerprints of what the student learned from: first that of the task's own rows, then those of other
            tasks. Without one nobody can check whether rows are fresh.

    Returns:
        The manifest.

    Raises:
        ModelFileError: the model folder lacks a file, or holds one that may not be served.
        DeviceError: the disk is full or the folder cannot be written.
    """
    spec = read_spec(model_folder)
    with atomic_folder(out) as folder:
        for name in (SPEC_NAME, *spec.files):
            _copy(model_folder, name, folder / MODEL)
        write_text(folder / TASK, task_text)
        write_json(folder / POLICY, policy.to_json())
        write_json(folder / CERTIFICATE, certificate.to_json())
        write_json(folder / REPORT, report.to_json())
        write_text(folder / PAGE, page)
        write_text(folder / CARD, card)
        if learned:
            from locum.data.fingerprint import join_fingerprints  # opening a bundle needs none of it

            join_fingerprints(learned[0], learned[1:], folder / LEARNED)
        manifest = Manifest(
            name=task.name,
            kind=task.kind,
            locum=locum.__version__,
            created_at=report.created_at,
            files=hash_folder(folder),
            hashes={
                **(hashes or {}),
                "task": task_hash(task_text),
                "model": model_hash(folder / MODEL),
                "certificate": certificate.hash(),
            },
            versions=report.versions,
            licence=licence,
        )
        write_json(folder / MANIFEST, manifest.to_json())
    return manifest


def replace_certificate(
    bundle: Path, policy: Policy, certificate: Certificate, *, report: BuildReport, page: str, card: str
) -> Manifest:
    """Put another policy and certificate into a verified bundle, and whatever tells of them; keep the ones before.

    Args:
        bundle: the folder; it is replaced whole.
        policy: stages and thresholds.
        certificate: what was proved.
        report: the build's report with this certificate.
        page: ``report.html`` of it.
        card: the model card of it.

    Returns:
        The new manifest.

    Raises:
        DeviceError: the disk is full or the folder cannot be written; the bundle stays as it was.
    """
    old = Manifest.from_json((bundle / MANIFEST).read_bytes(), str(bundle / MANIFEST))
    before = Certificate.from_json((bundle / CERTIFICATE).read_bytes(), str(bundle / CERTIFICATE))
    issued = "".join(character for character in before.issued_at[:19] if character.isalnum())
    kept = f"{PREVIOUS}/{issued}-{old.hashes['certificate'][:12]}"
    with atomic_folder(bundle) as folder:
        for name in old.files:
            if name not in (POLICY, CERTIFICATE, REPORT, PAGE, CARD):
                _link(bundle / name, folder / name)
        for name in (POLICY, CERTIFICATE):
            _link(bundle / name, folder / kept / name)
        write_json(folder / POLICY, policy.to_json())
        write_json(folder / CERTIFICATE, certificate.to_json())
        write_json(folder / REPORT, report.to_json())
        write_text(folder / PAGE, page)
        write_text(folder / CARD, card)
        fields = old.to_json() | {
            "files": hash_folder(folder),
            "hashes": {**old.hashes, "certificate": certificate.hash()},
        }
        manifest = Manifest.from_json(json.dumps(fields), str(bundle / MANIFEST))
        write_json(folder / MANIFEST, manifest.to_json())
    return manifest


def _link(source: Path, target: Path) -> None:
    """The same file in another folder, without copying a model where that can be."""
    if target.exists():
        return  # the same certificate was in force before
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source, target)


def _copy(source_folder: Path, name: str, target_folder: Path) -> None:
    source = resolve_inside(source_folder, name)
    if not source.is_file():
        raise ModelFileError(
            "runtime-file-missing", f"{name} is named by model.json and is not there", where=str(source_folder)
        )
    refuse_unsafe(source)
    target = target_folder / name
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
