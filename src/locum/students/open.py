"""Opens a student from its model folder, by what ``model.json`` says it is there for.

Notable: a folder is verified, hash by hash, before anything in it is read. The kind gets the prompt that stands in the
folder, so a student is asked as it was measured. Not here: bundles, which hold such a folder (``bundle``).
"""

from __future__ import annotations

from pathlib import Path

from locum.core.cpu import usable_cores
from locum.core.errors import DataError, ModelFileError, UserError
from locum.core.registry import Registry
from locum.runtime.llama_settings import STUDENT_SLOTS, EngineSettings
from locum.runtime.model_files import verify_folder
from locum.runtime.open import open_classifier, open_model
from locum.schema.confidence import ConfidenceModel
from locum.schema.data import Row
from locum.schema.model import ModelSpec
from locum.schema.prompt import Prompt
from locum.schema.task import Task
from locum.students.classifier import ClassifierStudent
from locum.students.confident import ConfidentStudent
from locum.students.guard import read_guard
from locum.students.protocol import Drafter, StudentModel
from locum.students.writing import WritingStudent
from locum.tasks import open_kind

PROMPT, CONFIDENCE = "prompt.json", "confidence.json"
ANSWER_S = 600.0
"""Longest time for one answer, waiting in line included."""

DRAFTERS = Registry(
    "kind of student",
    {
        "generate": "locum.students.open:open_writing",
        "tag": "locum.students.tagging:open_tagging",
        "rank": "locum.students.ranking:open_ranking",
    },
)
"""What a model is there for (``ModelSpec.purpose``) to ``(folder, spec, task, threads) -> Drafter``."""


def open_student(folder: Path, task: Task, *, threads: int | None = None, engine: str | None = None) -> StudentModel:
    """Open a student to answer with.

    Args:
        folder: holds ``model.json`` and the files it names.
        task: what it was built for.
        threads: CPU threads; None takes the cores this process may use.
        engine: who is to run a classifier; None takes the one its ``model.json`` names.

    Raises:
        ModelFileError: the folder is refused, or lacks its confidence.
        UserError: the engine cannot run it, or is not installed.
    """
    spec = verify_folder(folder)
    if spec.purpose == "classify":
        return ClassifierStudent(open_classifier(folder, threads=threads, engine=engine), read_guard(folder, spec))
    if engine not in (None, spec.engine):
        raise UserError(
            "runtime-engine", f"engine {engine!r} cannot run {spec.name}", fix=f"it can be run by: {spec.engine}"
        )
    drafter = open_drafter(folder, task, threads=threads)
    try:
        return ConfidentStudent(drafter, read_confidence(folder, spec), read_guard(folder, spec))
    except BaseException:
        drafter.close()
        raise


def open_drafter(folder: Path, task: Task, *, threads: int | None = None) -> Drafter:
    """Open a student that drafts answers, before its confidence is fitted.

    Raises:
        ModelFileError: the folder is refused.
        UserError: it is a classifier or an embedder, or its engine is not installed.
    """
    spec = verify_folder(folder)
    drafter: Drafter = DRAFTERS.load(spec.purpose)(folder, spec, task, threads or usable_cores())
    return drafter


def open_writing(folder: Path, spec: ModelSpec, task: Task, threads: int) -> Drafter:
    """A decoder with its prompt, in llama.cpp."""
    prompt, pool = read_prompt(folder, spec)
    labels = spec.labels
    settings = patient_settings(threads, task)
    return WritingStudent(
        spec,
        open_model(folder / spec.weights, settings),
        open_kind(task, labels, prompt),
        prompt,
        pool=pool,
        samples=task.generation.samples,
        concurrency=STUDENT_SLOTS,
    )


def patient_settings(threads: int, task: Task) -> EngineSettings:
    """How llama.cpp serves a student: a loaded machine may be silent for long and is not dead."""
    return EngineSettings(
        threads=threads, n_ctx=task.generation.context, slots=STUDENT_SLOTS, timeout_s=ANSWER_S, idle_s=ANSWER_S / 4
    )


def read_prompt(folder: Path, spec: ModelSpec) -> tuple[Prompt, tuple[Row, ...]]:
    """The prompt of a model folder and the pool that it takes neighbours from.

    Raises:
        ModelFileError: there is none, or it is damaged.
    """
    if PROMPT not in spec.files:
        raise ModelFileError("runtime-file-missing", f"a student that writes needs {PROMPT}", where=str(folder))
    prompt = Prompt.from_json((folder / PROMPT).read_bytes(), str(folder / PROMPT))
    if prompt.pool is None:
        return prompt, ()
    if prompt.pool not in spec.files:
        raise ModelFileError("runtime-file-missing", f"{PROMPT} names {prompt.pool}", where=str(folder))
    lines = (folder / prompt.pool).read_bytes().splitlines()
    return prompt, tuple(Row.from_json(line, str(folder / prompt.pool), DataError) for line in lines if line)


def read_confidence(folder: Path, spec: ModelSpec) -> ConfidenceModel:
    """The fitted confidence of a model folder.

    Raises:
        ModelFileError: there is none, or it is damaged.
    """
    if CONFIDENCE not in spec.files:
        raise ModelFileError(
            "runtime-file-missing", f"no {CONFIDENCE}: its confidence was never fitted", where=str(folder)
        )
    return ConfidenceModel.from_json((folder / CONFIDENCE).read_bytes(), str(folder / CONFIDENCE))
