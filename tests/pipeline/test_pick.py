"""The chosen student is trained again on train and dev: what is served, what is said, and when it is not done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import locum
from locum.core import child
from locum.core.errors import DeviceError
from locum.pipeline import pick
from locum.schema.report import BuildReport
from locum.schema.training import Trained


def report_of(bundle: Path) -> BuildReport:
    return BuildReport.from_json((bundle / "report.json").read_bytes(), "report.json")


def forget_refit(out: Path) -> None:
    for pattern in ("refit-*", "export-refit-*", "measure-refit-*"):
        for folder in out.glob(f"work/{pattern}"):
            shutil.rmtree(folder)


def test_what_is_served_has_learned_from_dev(built: Any) -> None:
    report = report_of(built.bundle)
    (rung,) = report.ladder
    rows = {name: split.rows for name, split in report.data.splits.items()}
    assert report.refit == (
        f"The chosen one then learned from {rows['dev']:,} more rows (dev), {rows['train'] + rows['dev']:,} in all, "
        "with every choice kept."
    )
    (trained,) = built.out.glob("work/train-*/trained.json")
    (again,) = built.out.glob("work/refit-*/trained.json")
    first, second = (Trained.from_json(path.read_bytes(), str(path)) for path in (trained, again))
    assert (rung.trained, rung.refit) == (first, second)
    assert second.settings["C"] == first.settings["C"]
    served = (built.bundle / "model" / "weights.npz").read_bytes()
    assert served == (again.parent / "weights.npz").read_bytes() != (trained.parent / "weights.npz").read_bytes()
    assert not list(again.parent.glob("**/rows.jsonl"))  # the rows are no part of a student


def test_what_is_said_of_dev_is_from_before_and_of_test_from_after(built: Any) -> None:
    (rung,) = report_of(built.bundle).ladder
    (before,) = built.out.glob("work/measure-tfidf-*")
    (after,) = built.out.glob("work/measure-refit-*")
    for split, folder, other in (("dev", before, after), ("test", after, before)):
        with np.load(folder / f"{split}.npz") as kept, np.load(other / f"{split}.npz") as passed_over:
            right = np.mean(kept["logits"].argmax(axis=1) == kept["gold"])
            assert not np.array_equal(kept["logits"], passed_over["logits"])
        assert getattr(rung, split).metrics["accuracy"].value == pytest.approx(right)
    specs = [json.loads((folder / "model" / "model.json").read_bytes()) for folder in (before, after)]
    assert specs[0]["temperature"] == specs[1]["temperature"]  # dev rows that were learned from calibrate nothing


def test_without_time_the_first_is_served_and_the_report_says_so(
    copied: Any, jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_refit(copied.out)
    monkeypatch.setattr(pick, "_SLOWER", 1e9)
    run = locum.build(copied.tickets.task, out=copied.out)
    assert jobs == []
    assert run.report.refit.startswith("It did not learn from the dev rows too: that takes ")
    assert run.report.ladder[0].refit is None
    (first,) = copied.out.glob("work/train-*/weights.npz")
    assert (run.bundle / "model" / "weights.npz").read_bytes() == first.read_bytes()


def test_out_of_memory_costs_the_second_training_and_not_the_build(
    copied: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_refit(copied.out)
    run_job = child.run_job

    def fail(target: str, *paths: Path, **options: Any) -> None:
        if target == "locum.train.job:main":
            raise DeviceError("train-memory", "memory ran out", fix="close other programs")
        run_job(target, *paths, **options)

    monkeypatch.setattr(child, "run_job", fail)
    run = locum.build(copied.tickets.task, out=copied.out)
    assert run.report.refit == "Training it again with the dev rows failed: memory ran out."
    assert run.report.ladder[0].refit is None


def test_a_second_training_that_the_clock_ended_is_not_served(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (document,) = copied.out.glob("work/refit-*/trained.json")
    trained = Trained.from_json(document.read_bytes(), "trained.json")
    document.write_text(json.dumps(trained.model_copy(update={"stopped_by": "budget"}).to_json()), encoding="utf-8")
    run = locum.build(copied.tickets.task, out=copied.out)
    assert run.report.refit.endswith("was not finished, so the first is served.")
    (first,) = copied.out.glob("work/train-*/weights.npz")
    assert (run.bundle / "model" / "weights.npz").read_bytes() == first.read_bytes()
