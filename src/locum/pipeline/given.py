"""What Python callers give in place of files: tasks as dictionaries, rows in memory, and what is done with them.

Notable: rows become a file first (``data.frames``), beside what is made of them, and from there on nothing differs from
the command line. Not here: the build itself, which asks here what it was given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import yaml

from locum.bundle.operator_llm import LlmChoice
from locum.bundle.task import read_task
from locum.bundle.verify import verify
from locum.core.errors import DataError, TaskFileError, UserError
from locum.data.frames import keep_frame, write_frame
from locum.data.readers import ROWS_ENDING
from locum.pipeline.examine import evaluate_bundle
from locum.pipeline.others import TaskFiles, tasks_of
from locum.pipeline.predict import predict_bundle
from locum.pipeline.recertify import Certified, certify_bundle
from locum.schema.task import SPLITS, Guarantee, GuaranteeKind, Task


def splits_given(data: Any) -> dict[str, Any]:
    """Rows in memory by split; rows alone are for train.

    Raises:
        DataError: ``data-frame``: a name that is no split, or a file's name in place of rows.
    """
    if data is None:
        return {}
    given = dict(cast("Mapping[str, Any]", data)) if isinstance(data, Mapping) else {"train": data}
    for name, rows in given.items():
        if name not in SPLITS:
            fix = f"give rows, one dict each, or rows by split: {', '.join(SPLITS)}"
            raise DataError("data-frame", f"{name!r} is no split", fix=fix)
        if isinstance(rows, str | Path):
            fix = "name files in the task, and give rows in memory as data"
            raise DataError("data-frame", f"{name}: {str(rows)!r} is a file's name", fix=fix)
    return given


def tasks_given(task: Mapping[str, Any] | Task, given: Mapping[str, Any]) -> TaskFiles:
    """A task that no file holds, as text that the bundle keeps; paths in it are relative to the current folder.

    Raises:
        TaskFileError: it has faults, told with the lines of that text.
    """
    values = task.model_dump(mode="json", exclude_unset=True) if isinstance(task, Task) else dict(task)
    data = values.get("data", {})
    if isinstance(data, Mapping):
        values["data"] = {name: _inside(name) for name in given} | dict(cast("Mapping[str, Any]", data))
    try:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as problem:
        fix = "give text, numbers, lists and dictionaries; and rows in memory with data=…"
        raise TaskFileError("task-invalid", f"the task cannot be written as YAML: {problem}", fix=fix) from problem
    return tasks_of(text, Path.cwd() / "task as given")


def with_rows(files: TaskFiles, given: Mapping[str, Any], out: Path) -> TaskFiles:
    """A task whose files of some splits are replaced by rows, which are written into the build's folder.

    Raises:
        DataError: as ``write_frame``.
    """
    if not given:
        return files
    written = {name: str(write_frame(rows, out / _inside(name))) for name, rows in given.items()}
    spec = files.task.data
    kept = {name: digest for name, digest in spec.sha256.items() if name not in written}  # others are of other files
    return replace(
        files, task=files.task.model_copy(update={"data": spec.model_copy(update={**written, "sha256": kept})})
    )


def _inside(split: str) -> str:
    return f"data/{split}{ROWS_ENDING}"


def evaluate(
    bundle: str | Path,
    data: Any,
    *,
    predictions: str | Path | None = None,
    engine: str | None = None,
    max_cost: float | None = None,
    llm: LlmChoice | None = None,
    llm_key_env: str | None = None,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Measure a bundle on labelled rows, as ``locum eval`` does; what it gives stands at ``evaluate_bundle``.

    Args:
        bundle: the folder.
        data: a file, or rows in memory (``data.frames``); these are written into ``BUNDLE-data``, beside the bundle.
        predictions: JSON Lines file to write; default: beside those rows, or the file's name in the current folder.
        engine: who runs the student; None takes the one that the build chose.
        max_cost: most that the LLM may cost as a judge; None takes the task's own cap.
        llm: which LLM may be called, as for ``locum.open``.
        llm_key_env: environment variable that holds its key.
        skip_bad: count and skip rows that cannot be used, instead of stopping.

    Raises:
        LocumError: as ``evaluate_bundle`` and ``write_frame``.
    """
    folder, file = Path(bundle), _file(data, Path(bundle))
    beside = Path(f"{file.stem}.predictions.jsonl") if _is_file(data) else file.with_suffix(".predictions.jsonl")
    return evaluate_bundle(
        folder,
        file,
        predictions=Path(predictions) if predictions is not None else beside,
        engine=engine,
        max_cost=max_cost,
        llm=llm,
        llm_key_env=llm_key_env,
        skip_bad=skip_bad,
    )


def certify(
    bundle: str | Path,
    data: Any,
    *,
    kind: GuaranteeKind | None = None,
    max_error: float | None = None,
    confidence: float | None = None,
    replace: bool = False,
    dry_run: bool = False,
    max_cost: float | None = None,
    llm: LlmChoice | None = None,
    llm_key_env: str | None = None,
    skip_bad: bool = False,
) -> Certified:
    """Prove a bundle's guarantee anew on fresh rows, as ``locum certify`` does; see ``certify_bundle``.

    Args:
        bundle: the folder.
        data: a file, or rows in memory (``data.frames``); these are kept in ``BUNDLE-data``, beside the bundle, under
            the name that the proof gives.
        kind: selective, marginal or regret; None takes the task's own, as for the next two.
        max_error: the α (or ε) of the statement.
        confidence: its confidence 1−δ.
        replace: put a certificate that certifies nothing in the place of the one before, too.
        dry_run: change nothing.
        max_cost: most that the LLM may cost; None takes the task's own cap.
        llm: which LLM may be called, as for ``locum.open``.
        llm_key_env: environment variable that holds its key.
        skip_bad: count and skip rows that cannot be used, instead of stopping.

    Raises:
        UserError: the statement is none that can be proved.
        LocumError: as ``certify_bundle`` and ``write_frame``.
    """
    folder = Path(bundle)
    verify(folder)
    asked = {"kind": kind, "max_error": max_error, "confidence": confidence}
    wanted = read_task(folder).guarantee.to_json() | {name: value for name, value in asked.items() if value is not None}
    guarantee = Guarantee.from_json(orjson.dumps(wanted), "what certify was asked for", UserError)
    return certify_bundle(
        folder,
        _file(data, folder),
        guarantee,
        max_cost=max_cost,
        llm=llm,
        llm_key_env=llm_key_env,
        replace=replace,
        dry_run=dry_run,
        skip_bad=skip_bad,
    )


def predict(
    bundle: str | Path,
    data: Any,
    out: str | Path | None = None,
    *,
    only_handed_over: bool = False,
    all_answers: bool = False,
    reasons: bool = False,
    llm: LlmChoice | None = "none",
    llm_key_env: str | None = None,
    engine: str | None = None,
    max_cost: float | None = None,
    skip_bad: bool = False,
) -> Any:
    """Answer rows that nobody has labelled, as ``locum predict`` does; see ``predict_bundle``.

    Args:
        bundle: the folder.
        data: a file, or rows in memory (``data.frames``).
        out: file to write; None gives the rows back.
        only_handed_over: only the rows that the student hands over: those to label next.
        all_answers: give the student's answer also where it would hand over.
        reasons: add the column ``reason``, too: why a row took its route.
        llm: who answers what the student hands over; ``"none"`` keeps everything here.
        llm_key_env: environment variable that holds its key.
        engine: who runs the student; None takes the one that the build chose.
        max_cost: most that the LLM may cost; None takes the task's own cap.
        skip_bad: leave out and count lines of a file that cannot be read as rows.

    Returns:
        With ``out``, what ``predict_bundle`` returns. Else the rows with the columns ``answer``, ``confidence`` and
        ``route``: a frame of pandas or polars or an Arrow table where such was given, else a list of dictionaries.

    Raises:
        LocumError: as ``predict_bundle`` and ``write_frame``.
    """
    with tempfile.TemporaryDirectory(prefix="locum-predict-") as folder:
        file = Path(data) if _is_file(data) else write_frame(data, Path(folder) / f"rows{ROWS_ENDING}")
        target = Path(out) if out is not None else Path(folder) / "answered.jsonl"
        found = predict_bundle(
            Path(bundle),
            file,
            target,
            llm=llm,
            llm_key_env=llm_key_env,
            engine=engine,
            only_handed_over=only_handed_over and (out is not None or _is_file(data)),
            all_answers=all_answers,
            reasons=reasons,
            skip_bad=skip_bad,
            max_cost=max_cost,
        )
        if out is not None:
            return found
        with target.open("rb") as answered:
            rows = [orjson.loads(line) for line in answered]
    handed_over = [row[found["columns"][2]] == "handed over" for row in rows]
    return _joined(data, rows, found["columns"], handed_over if only_handed_over else None)


def _joined(given: Any, rows: list[dict[str, Any]], names: Sequence[str], kept: list[bool] | None) -> Any:
    """What was given, with the columns ``names`` of ``rows``; where it is no frame, ``rows`` themselves."""
    columns = {name: [row[name] for row in rows] for name in names}
    if hasattr(given, "itertuples"):  # pandas
        frame = given.assign(**columns)
        return frame if kept is None else frame[kept]
    if hasattr(given, "iter_rows"):  # polars
        series = type(given.to_series(0))
        frame = given.with_columns([series(name, values) for name, values in columns.items()])
        return frame if kept is None else frame.filter(series("kept", kept))
    if hasattr(given, "append_column"):  # Arrow
        for name, values in columns.items():
            given = given.append_column(name, [values])
        return given if kept is None else given.filter(kept)
    return rows if kept is None or _is_file(given) else [row for row, keep in zip(rows, kept, strict=True) if keep]


def _is_file(data: Any) -> bool:
    return isinstance(data, str | Path)


def _file(data: Any, bundle: Path) -> Path:
    """The file itself, or one that keeps the rows beside the bundle, which itself takes no further file."""
    if _is_file(data):
        return Path(data)
    place = bundle.resolve()
    return keep_frame(data, place.parent / f"{place.name}-data")
