"""Several tasks learned together: files, mixture, leakage, plan, and a whole build on a decoder of a few kilobytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import locum
from locum.core import child
from locum.core.errors import DataError, LocumError, TaskFileError
from locum.core.progress import Event, listening
from locum.data.fingerprint import compare, join_fingerprints, read_fingerprint
from locum.data.load import iterate
from locum.pipeline.build import Run, summary
from locum.pipeline.built import Mixture, Prepared
from locum.pipeline.mixture import add_mixture
from locum.pipeline.others import read_tasks
from locum.pipeline.plan import make_plan
from locum.pipeline.prepare import prepare_data
from locum.pipeline.recertify import learned_files
from locum.pipeline.steps import StepCache, slug
from locum.pipeline.transfer import learned_tasks, verdict_of
from locum.pipeline.workspace import Workspace
from locum.schema.evaluation import Comparison, Interval
from locum.schema.training import Conversation, Trained

SPLIT = {"dev": 0.12, "calibration": 0.1, "test": 0.12}
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


def fields(name: str, **changed: Any) -> dict[str, Any]:
    """A task that writes, over ``NAME.jsonl``."""
    return {
        "version": 1,
        "name": name,
        "kind": "generate",
        "profile": "chat",
        "instruction": f"Do {name}.",
        "data": {"train": f"{name}.jsonl", "input": "said", "output": "reply", "split": SPLIT},
        "generation": {"context": 256, "max_tokens": 8, "search_calls": 0},
        "guarantee": {"kind": "selective", "max_error": 0.5, "confidence": 0.6},
        **changed,
    }


def rows(name: str, count: int) -> list[dict[str, str]]:
    return [{"said": f"{name} {n} card is where {n % 7}", "reply": f"code {n % 5}"} for n in range(count)]


def write_task(folder: Path, name: str, *, lines: list[dict[str, Any]] | None = None, **changed: Any) -> Path:
    """A folder with ``NAME.yaml`` and its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines or rows(name, 200)), encoding="utf-8")
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(fields(name, **changed), indent=1), encoding="utf-8")  # JSON is YAML
    return file


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A task ``ask`` that is learned together with ``tell``, whose file stands in another folder."""
    write_task(tmp_path / "other", "tell")
    return write_task(tmp_path / "own", "ask", multitask={"tasks": ["../other/tell.yaml"], "mixing": 2.0})


def workspace(task_file: Path, out: Path) -> Workspace:
    files = read_tasks(task_file)
    return Workspace(files.task, files.text, files.root, out, StepCache(out / "work"), 1, True, files.others)


def mixed(task_file: Path, out: Path) -> tuple[Prepared, Mixture]:
    work = workspace(task_file, out)
    data, card = prepare_data(work)
    found = add_mixture(work, data, card)
    assert found.mixture is not None
    return found, found.mixture


def conversations(mixture: Mixture, split: str) -> list[Conversation]:
    lines = (mixture.folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Conversation.model_validate_json(line) for line in lines]


def inputs(folder: Path, *splits: str) -> set[str]:
    return {
        json.loads(line)["input"] for split in splits for line in (folder / f"{split}.jsonl").read_text().splitlines()
    }


# files


def test_other_tasks_are_read_from_beside_the_file_and_may_name_it_in_turn(tmp_path: Path) -> None:
    ask = write_task(tmp_path, "ask", multitask={"tasks": ["tell.yaml"]})
    tell = write_task(tmp_path, "tell", multitask={"tasks": ["ask.yaml"]})
    for file, other in ((ask, "tell"), (tell, "ask")):
        files = read_tasks(file)
        assert [each.task.name for each in files.others] == [other]
        assert files.others[0].root == files.root == tmp_path.resolve()
    assert read_tasks(write_task(tmp_path, "alone")).others == ()


def test_a_folder_stands_for_the_task_file_in_it(tmp_path: Path) -> None:
    write_task(tmp_path / "b", "tell").rename(tmp_path / "b" / "task.yaml")
    files = read_tasks(write_task(tmp_path / "a", "ask", multitask={"tasks": ["../b"]}))
    assert (files.others[0].task.name, files.others[0].root) == ("tell", (tmp_path / "b").resolve())


def test_all_faults_of_all_files_are_told_together_with_their_lines(tmp_path: Path) -> None:
    write_task(tmp_path, "labels", kind="classify", profile=None)
    write_task(tmp_path, "broken", instruction="", budget={"build_minutes": -1})
    write_task(tmp_path, "good")
    namesake = write_task(tmp_path, "twin")
    namesake.write_text(namesake.read_text().replace('"twin"', '"ask"'))
    names = ["ask.yaml", "labels.yaml", "gone.yaml", "broken.yaml", "good.yaml", "./good.yaml", "twin.yaml", "a\0b"]
    task = write_task(tmp_path, "ask", multitask={"tasks": names}, seed=-1)
    lines = {name: number for number, line in enumerate(task.read_text().splitlines(), 1) for name in names
             if json.dumps(name) in line}  # fmt: skip
    with pytest.raises(TaskFileError) as caught:
        make_plan(task)
    assert caught.value.code == "task-invalid"
    told = str(caught.value)
    assert told.startswith("8 faults in ask.yaml")
    for place, (name, what) in enumerate(
        {
            "ask.yaml": "is this task file itself",
            "labels.yaml": "is of kind: classify, and only kinds that write are learned together: extract, generate",
            "gone.yaml": "cannot be used: there is no ",
            "broken.yaml": "cannot be used: 2 faults in broken.yaml",
            "good.yaml": "",
            "./good.yaml": "stands twice",
            "twin.yaml": "has the name 'ask' of this task; give it another",
        }.items()
    ):
        said = f"ask.yaml:{lines[name]}: multitask.tasks.{place}: {name} {what}"
        assert (said in told) == bool(what), said
    assert "broken.yaml:6: instruction" in told and "budget.build_minutes" in told
    assert "multitask.tasks.7: a\0b cannot be used" in told
    assert "seed: must be greater than or equal to 0" in told


def test_a_fault_of_another_file_stops_a_build_before_anything_is_done(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "tell.yaml").unlink()
    with pytest.raises(TaskFileError, match=r"multitask\.tasks\.0: \.\./other/tell\.yaml cannot be used"):
        locum.build(pair, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# mixture


def test_each_row_is_asked_as_its_own_task_asks(tmp_path: Path) -> None:
    own = [{"said": f"ask {n} card", "reply": f"code {n % 5}"} for n in range(200)]
    theirs = [{"said": f"tell {n} cash", "reply": {"word": f"note{n % 3}"}} for n in range(120)]
    write_task(tmp_path, "tell", lines=theirs, kind="extract", profile=None, answer_schema=SCHEMA)
    _, mixture = mixed(write_task(tmp_path, "ask", lines=own, multitask={"tasks": ["tell.yaml"]}), tmp_path / "out")
    train = conversations(mixture, "train")
    by_task = {name: [row for row in train if row.task == name] for name in ("ask", "tell")}
    assert len(train) == len(by_task["ask"]) + len(by_task["tell"])
    for name, found in by_task.items():
        assert all(row.id.startswith(f"{name}/{name}.jsonl:") for row in found)
        assert all(row.messages[0].content.startswith(f"Do {name}.") for row in found)
        assert all(row.messages[-1].content.startswith(f"{name} ") for row in found)
    assert '"word"' in by_task["tell"][0].messages[0].content  # the schema, as extract is asked
    assert by_task["tell"][0].completion.startswith('{"word":"note')
    assert {row.task for row in conversations(mixture, "dev")} == {"ask", "tell"}
    assert [(each.task, each.train, each.leaked) for each in mixture.card.tasks] == [
        ("ask", len(by_task["ask"]), 0),
        ("tell", len(by_task["tell"]), 0),
    ]


def test_what_any_of_the_tasks_holds_out_is_trained_on_by_none(tmp_path: Path) -> None:
    shared = [f"card {n} is where {n % 11}" for n in range(150)]
    for name, extra in (("ask", 40), ("tell", 90)):  # other sizes and seeds, so that splits differ
        lines = [{"said": text, "reply": f"code {n}"} for n, text in enumerate(shared)] + rows(name, extra)
        write_task(
            tmp_path, name, lines=lines, seed=len(name), multitask={"tasks": ["tell.yaml"]} if extra == 40 else None
        )
    heard: list[Event] = []
    with listening(heard.append):
        data, mixture = mixed(tmp_path / "ask.yaml", tmp_path / "out")
    (theirs,) = (tmp_path / "out" / "work").glob("data-tell-*/splits")
    folders = {"ask": data.folder, "tell": theirs}
    trained = {row.messages[-1].content for row in conversations(mixture, "train")}
    for folder in folders.values():
        assert not trained & inputs(folder, "dev", "calibration", "test")
    counts = {}
    for each in mixture.card.tasks:
        other = folders["tell" if each.task == "ask" else "ask"]
        leaks = inputs(folders[each.task], "train") & inputs(other, "dev", "calibration", "test")
        assert each.leaked == len(leaks) > 0
        assert each.train == len(inputs(folders[each.task], "train")) - each.leaked
        assert 0 < len(each.places) <= 20 and each.places[0].startswith(f"{each.task}.jsonl:")
        counts[each.task] = each.leaked
    warned = {e.label.partition(":")[0]: e.facts["rows"] for e in heard if "another task holds out" in e.label}
    assert warned == counts
    assert set(mixture.sizes) == {"ask", "tell"}
    assert all(mixture.sizes[each.task].train_rows == each.train for each in mixture.card.tasks)


def test_a_task_whose_rows_another_holds_out_has_nothing_to_learn_and_it_is_said(tmp_path: Path) -> None:
    held = [{"said": f"card {n}", "reply": "code"} for n in range(120)]
    write_task(tmp_path, "tell", lines=held)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    data = {"train": "ask.jsonl", "test": "test.jsonl", "input": "said", "output": "reply", "max_held_out": 200}
    task = write_task(tmp_path, "ask", data=data, multitask={"tasks": ["tell.yaml"]})
    with pytest.raises(
        DataError, match=r"0 train rows of the task tell say what to write .* another task holds"
    ) as bad:
        mixed(task, tmp_path / "out")
    assert bad.value.code == "data-nothing-to-learn"


def test_the_mixture_is_made_anew_only_for_what_it_depends_on(pair: Path, tmp_path: Path) -> None:
    out, tell = tmp_path / "out", tmp_path / "other" / "tell.yaml"
    _, first = mixed(pair, out)
    assert mixed(pair, out)[1].key == first.key
    pair.write_text(
        json.dumps(json.loads(pair.read_text()) | {"multitask": {"tasks": ["../other/tell.yaml"], "mixing": 5.0}})
    )
    _, cooler = mixed(pair, out)
    assert (cooler.key, cooler.folder, cooler.temperature) == (first.key, first.folder, 5.0)
    tell.write_text(tell.read_text().replace("Do tell.", "Tell it."))
    _, reworded = mixed(pair, out)
    assert reworded.key != first.key
    assert {row.messages[0].content.split("\n")[0] for row in conversations(reworded, "train")} == {
        "Do ask.",
        "Tell it.",
    }
    with (tmp_path / "other" / "tell.jsonl").open("a") as file:
        file.write('{"said": "one more card", "reply": "code 9"}\n')
    assert mixed(pair, out)[1].key != reworded.key
    assert len(list((out / "work").glob("data-tell-*"))) == 2


# plan


def test_the_plan_has_the_other_tasks_steps_and_their_share(pair: Path, tmp_path: Path) -> None:
    plan = make_plan(pair, out=tmp_path / "out")
    names = [step.name for step in plan.steps]
    assert names[:4] == ["data", "data-tell", "mixture", "ladder"]
    assert [candidate.name for candidate in plan.ladder][-2:] == [
        "SmolLM2-135M-Instruct/full",
        "SmolLM2-135M-Instruct/full-multitask",
    ]
    assert "train-SmolLM2-135M-Instruct/full-multitask" in names
    assert [(each.task, each.rows) for each in plan.multitask] == [("ask", 132), ("tell", 132)]
    assert sum(each.share for each in plan.multitask) == pytest.approx(1)
    assert ("train data of tell", True) in [(item.what, item.cached) for item in plan.downloads]
    own, both = (candidate.estimate.train_s for candidate in plan.ladder[-2:])
    assert own is not None and both == pytest.approx(264 / 200 * own, rel=0.05)
    (tmp_path / "other" / "tell.jsonl").unlink()
    with pytest.raises(LocumError, match=r"data\.train of tell: there is no "):
        make_plan(pair)


def test_finished_steps_of_other_tasks_are_marked(pair: Path, tmp_path: Path) -> None:
    mixed(pair, tmp_path / "out")
    plan = make_plan(pair, out=tmp_path / "out")
    assert [step.name for step in plan.steps if step.done] == ["data", "data-tell", "mixture"]


def test_the_terminal_says_how_the_tasks_are_mixed(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from locum.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["plan", str(pair)])
    assert ended.value.code in (None, 0)
    assert "Multitask ask 50% of an epoch (132 rows), tell 50% of an epoch (132 rows)" in capsys.readouterr().out


# what it did


def difference(value: float, low: float, high: float, p_value: float | None = None) -> Comparison:
    interval = Interval(value=value, low=low, high=high, method="m")
    test = "paired-bootstrap" if p_value is None else "mcnemar-midp"
    return Comparison(a="a", b="b", metric="f1", n=9, difference=interval, p_value=p_value, test=test, verdict="v")


@pytest.mark.parametrize(
    ("comparison", "verdict"),
    [
        (difference(0.1, 0.02, 0.2), "gain"),
        (difference(-0.1, -0.2, -0.01), "harm"),
        (difference(0.1, -0.02, 0.2), "no difference shown"),
        (difference(-0.1, -0.2, 0.0), "no difference shown"),
        (difference(0.1, -0.001, 0.2, 0.04), "gain"),
        (difference(-0.1, -0.2, -0.001, 0.06), "no difference shown"),
        (difference(0.0, float("nan"), float("nan")), "no difference shown"),
        (None, "not compared"),
    ],
)
def test_gain_and_harm_are_said_only_where_they_are_shown(comparison: Comparison | None, verdict: str) -> None:
    assert verdict_of(comparison) == verdict


# whole builds


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from locum.compress.pico import pico_generator

    return pico_generator(tmp_path_factory.mktemp("base"), "llama").folder


def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.pipeline.build.usable_cores", lambda: 1)  # the same sums, so the same hash


@pytest.fixture(scope="module")
def together(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Run]]:
    """A finished build of one student, tuned alone and on two tasks."""
    root = tmp_path_factory.mktemp("together")
    students = [{"base": str(base), "method": "full", **more} for more in ({}, {"multitask": True})]
    own = [{"said": f"{n} card is where", "reply": f"code {n % 5}"} for n in range(150)]
    write_task(root, "tell", lines=[*rows("tell", 260), *own[:60]], seed=3)
    file = write_task(root, "ask", lines=own, multitask={"tasks": ["tell.yaml"]}, students=students)
    with pytest.MonkeyPatch.context() as patch:
        one_thread(patch)
        yield file, locum.build(file, out=root / "out", offline=True)


@pytest.mark.engines
@pytest.mark.slow
def test_a_build_says_per_task_what_learning_together_did(together: tuple[Path, Run]) -> None:
    _, run = together
    report = run.report
    names = [rung.candidate.name for rung in report.ladder]
    assert names == ["tuned/full", "tuned/full-multitask"]
    (found,) = report.multitask
    assert (found.student, found.alone, found.mixing) == (names[1], names[0], 2.0)
    own, theirs = found.tasks
    assert (own.task, theirs.task) == ("ask", "tell")
    assert theirs.mixed.leaked > 0
    for learned in found.tasks:
        assert learned.rows == learned.mixed.train
        assert learned.dev_loss_base is not None and learned.dev_loss is not None
        assert learned.dev_loss < learned.dev_loss_base
    wanted = own.rows**0.5 / (own.rows**0.5 + theirs.rows**0.5)
    assert own.share == pytest.approx(wanted, abs=0.01)
    alone, both = (rung.trained for rung in report.ladder)
    assert alone is not None and both is not None and alone.rows is not None and both.rows is not None
    assert both.rows.tasks == {"ask": own.rows, "tell": theirs.rows}
    assert alone.rows.tasks == {}
    assert both.dev_loss == own.dev_loss  # its weights were kept by this task's own rows
    assert (alone.candidate.multitask, both.candidate.multitask) == (False, True)
    assert both.candidate.name == names[1]
    comparison = found.comparison
    assert comparison is not None and (comparison.a, comparison.b) == (names[1], names[0])
    assert found.alone_score is not None
    assert comparison.difference.value == pytest.approx(found.score.value - found.alone_score.value, abs=1e-9)
    assert found.verdict == verdict_of(comparison)
    assert summary(report, run.bundle)["multitask"] == [found.to_json()]
    for shown in ("report.html", "README.md"):
        text = (run.bundle / shown).read_text(encoding="utf-8")
        assert "Tasks learned together" in text and "tell" in text
    with locum.open(run.bundle) as student:  # the bundle has the task file, and needs none of the others
        assert student.task.multitask is not None


@pytest.mark.engines
@pytest.mark.slow
def test_nothing_but_dev_is_answered_before_the_choice_and_calibration_by_the_chosen_alone(
    together: tuple[Path, Run],
) -> None:
    _, run = together
    work = run.bundle.parent / "work"
    chosen = slug(run.report.chosen)
    assert [path.name.rpartition("-")[0] for path in work.glob("answer-calibration-*")] == [
        f"answer-calibration-{chosen}"
    ]
    tested = sorted(work.glob("answer-test-*/test.jsonl"))
    assert len(tested) == len(run.report.ladder) == 2
    assert all(rung.test is not None and rung.test.n == run.report.ladder[0].test.n for rung in run.report.ladder)
    measured = list(work.glob("measure-*"))
    assert [path.stem for folder in measured for path in folder.glob("*.jsonl")] == ["dev", "dev"]
    last_measured = max((folder / "step.json").stat().st_mtime_ns for folder in measured)
    assert all(path.stat().st_mtime_ns > last_measured for path in tested)


@pytest.mark.engines
@pytest.mark.slow
def test_files_of_other_tasks_cannot_certify_a_student_that_learned_from_them(
    together: tuple[Path, Run],
) -> None:
    report = together[1].report
    served = {chosen: report.model_copy(update={"chosen": chosen}) for chosen in ("tuned/full", "tuned/full-multitask")}
    addresses = {chosen: {file.address for file in learned_files(each)} for chosen, each in served.items()}
    assert addresses == {"tuned/full": {"ask.jsonl"}, "tuned/full-multitask": {"ask.jsonl", "tell.jsonl"}}


@pytest.mark.engines
@pytest.mark.slow
def test_fault_11_rows_of_other_tasks_stand_in_the_fingerprint_of_a_student_that_learned_from_them(
    together: tuple[Path, Run], tmp_path: Path
) -> None:
    run = together[1]
    work = run.bundle.parent / "work"
    (tell,) = work.glob("data-tell-*")
    ask = next(path for path in work.glob("data-*") if path != tell)
    inputs = {folder: [row.input for row in iterate(folder / "splits", "train")] for folder in (ask, tell)}
    multitask = run.report.chosen == "tuned/full-multitask"
    own = read_fingerprint(run.bundle / "learned.npy")
    assert len(compare(own, inputs[ask]).exact) == len(inputs[ask])
    assert len(compare(own, inputs[tell]).exact) == (len(inputs[tell]) if multitask else 0)
    join_fingerprints(ask / "learned.npy", [tell / "learned.npy"], tmp_path / "both.npy")
    both = compare(read_fingerprint(tmp_path / "both.npy"), inputs[tell])
    assert len(both.exact) == len(inputs[tell]) and both.reuse is not None


@pytest.mark.engines
@pytest.mark.slow
def test_a_build_killed_in_training_goes_on_and_ends_with_the_same_model(
    together: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, run = together
    out = tmp_path / "out"
    shutil.copytree(run.bundle.parent, out)
    for pattern in ("train-*multitask*", "export-*multitask*", "measure-*multitask*", "mixture-*", "data-tell-*"):
        (found,) = (out / "work").glob(pattern)
        shutil.rmtree(found)
    shutil.rmtree(out / "bundle")
    one_thread(monkeypatch)
    plain: Callable[..., None] = child.run_job
    jobs: list[str] = []

    def run_job(target: str, *paths: Path, **options: Any) -> None:
        jobs.append(target)
        if len(jobs) == 1:
            raise KeyboardInterrupt
        plain(target, *paths, **options)

    monkeypatch.setattr(child, "run_job", run_job)
    with pytest.raises(LocumError, match="stopped on request"):
        locum.build(file, out=out, offline=True)
    again = locum.build(file, out=out, offline=True)
    assert jobs[:3] == ["locum.train.tune:main"] * 2 + ["locum.compress.job:generator"]
    assert again.report.multitask[0].tasks == run.report.multitask[0].tasks
    trained, exported = ([served(each, step) for each in (run, again)] for step in ("train", "export"))
    assert trained[0] == trained[1]
    assert exported[0] == exported[1] and "model.gguf" in exported[0]
    jobs.clear()
    third = locum.build(file, out=out, offline=True)
    assert jobs == []
    assert third.report.provenance == again.report.provenance


def served(run: Run, step: str) -> dict[str, str]:
    """Hashes of the files that a step of the multitask student wrote."""
    name = {"train": "trained.json", "export": "model/model.json"}[step]
    (record,) = (run.bundle.parent / "work").glob(f"{step}-*multitask*/{name}")
    return json.loads(record.read_text())["files"]


def test_a_task_without_rows_left_in_use_is_told_with_zeros(pair: Path, tmp_path: Path) -> None:
    _, mixture = mixed(pair, tmp_path / "out")
    values: dict[str, Any] = {
        "candidate": {"name": "x", "family": "decoder", "base": "b", "method": "full"},
        "curve": [{"epoch": 0, "step": 0, "train_loss": None, "dev_loss": None, "elapsed_s": 0.0}],
        **{"parameters": 1, "best_epoch": 0.0, "stopped_by": "budget", "settings": {}, "max_tokens": 8},
        **{"train_s": 0.0, "tokens_per_s": None, "files": {}, "rows": {"train": 5, "dev": 1, "tasks": {"ask": 5}}},
    }
    own, theirs = learned_tasks(Trained.model_validate(values), replace(mixture, temperature=1.0))
    assert (own.rows, own.share, own.dev_loss) == (5, 1.0, None)
    assert (theirs.rows, theirs.share, theirs.dev_loss_base) == (0, 0.0, None)


@pytest.mark.engines
@pytest.mark.slow
def test_one_base_with_an_adapter_for_each_task_answers_by_the_adapter_that_a_request_names(
    base: Path, tmp_path: Path
) -> None:
    """The other way to several tasks, as docs/tasks.md has it: ``method: lora`` for each, ``locum serve --adapter``."""
    from locum.cli.serve import open_target
    from locum.compress.generator import write_decoder
    from locum.compress.generator_reference import TunedDecoder
    from locum.pipeline.export import export_lora
    from locum.runtime.completion import CompletionRequest
    from locum.schema.message import Message
    from locum.schema.training import TuneRequest
    from locum.train import tune

    write_decoder(TunedDecoder(base), tmp_path / "base.gguf", kind="f16", name="base")
    answers = {"ask": "code", "tell": "note"}
    for name, answer in answers.items():
        folder = tmp_path / name
        folder.mkdir()
        turn = {"role": "user", "content": "my card is"}
        line = json.dumps({"id": "1", "messages": [turn], "completion": answer}) + "\n"
        for split in ("train", "dev"):
            (folder / f"{split}.jsonl").write_text(line * 16)
        paths = {split: str(folder / f"{split}.jsonl") for split in ("train", "dev")}
        asked = TuneRequest(
            base=str(base), method="lora", **paths, budget_s=1e5, seed=1, threads=1, epochs=20, learning_rate=2e-2
        )
        (folder / "request.json").write_text(json.dumps(asked.to_json()))
        tune.main(folder / "request.json", folder / "out")
        export_lora(folder / "out" / "adapter", tmp_path / "base.gguf", tmp_path / f"{name}.gguf")
    given = [f"{name}={tmp_path / name}.gguf" for name in answers]
    path = str(tmp_path / "base.gguf")
    target = open_target(path, threads=1, engine=None, draft=None, adapters=given, slots=1, n_ctx=128)
    try:
        for name in (*answers, *reversed(answers)):
            request = CompletionRequest((Message("user", "my card is"),), max_tokens=4, temperature=0.0, adapter=name)
            opened = target.open("base", request)
            with opened.stream as stream:
                text = "".join(chunk.text for chunk in stream)
            assert text == answers[name]
    finally:
        target.close()
