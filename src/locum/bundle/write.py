"""Writes a bundle: complete or absent, with ``manifest.json`` last, naming the SHA-256 of every other file.

Notable: the folder is filled beside its place and renamed into it, so a kill leaves the old bundle or the
new one. The model's hash is that of its ``model.json``, which names the hash of each of its files, its
labels and its temperature: whatever changes an answer or a confidence changes it.
Not here: the page and the card inside (``report``), checking (``verify``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import locum
from locum.core.errors import ModelFileError
from locum.core.files import atomic_folder, disk_errors, hash_folder, sha256_bytes, sha256_file, write_json, write_text
from locum.runtime.model_files import SPEC_NAME, read_spec, refuse_unsafe, resolve_inside
from locum.schema.bundle import Manifest
from locum.schema.certificate import Certificate, Policy
from locum.schema.report import BuildReport
from locum.schema.task import Task

MANIFEST = "manifest.json"
MODEL = "model"
TASK, POLICY, CERTIFICATE = "task.yaml", "policy.json", "certificate.json"
REPORT, PAGE, CARD = "report.json", "report.html", "README.md"
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


def replace_certificate(bundle: Path, policy: Policy, certificate: Certificate) -> Manifest:
    """Put another policy and certificate into a verified bundle, as ``locum certify`` does.

    ``report.json`` and the page stay as the build wrote them: they tell of the build.

    Raises:
        DeviceError: the disk is full or the folder cannot be written.
    """
    with atomic_folder(bundle) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        old = Manifest.from_json((folder / MANIFEST).read_bytes(), str(bundle / MANIFEST))
        (folder / MANIFEST).unlink()
        write_json(folder / POLICY, policy.to_json())
        write_json(folder / CERTIFICATE, certificate.to_json())
        fields = old.to_json() | {
            "files": hash_folder(folder),
            "hashes": {**old.hashes, "certificate": certificate.hash()},
        }
        manifest = Manifest.from_json(json.dumps(fields), str(bundle / MANIFEST))
        write_json(folder / MANIFEST, manifest.to_json())
    return manifest


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
