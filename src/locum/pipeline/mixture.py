"""The mixture step: rows of several tasks as conversations, each with its own instruction, and none that leaks.

Notable: each other task's data go through the data step of their own. A training row whose input another of the tasks
holds out (dev, calibration, test) is left out of the mixture, whichever task it is of, so what a certificate or report
speaks of was never trained on. Not here: how often a task's rows come (``stats.mixture``, ``train.mixing``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from locum.core.files import write_json
from locum.core.progress import warn
from locum.data.across import held_out_by_others
from locum.data.rows import MAX_PLACES
from locum.data.verify import verify_splits
from locum.fit.ladder import DataSize
from locum.pipeline.built import Mixture, Prepared
from locum.pipeline.conversations import Rows, write_conversations
from locum.pipeline.prepare import prepare_data
from locum.pipeline.steps import Step
from locum.pipeline.workspace import Workspace
from locum.schema.data import DataCard, SplitName
from locum.schema.multitask import MixedTask, MixtureCard
from locum.schema.task import Task
from locum.tasks import open_kind

CARD = "mixture.json"
Part = tuple[Task, Prepared, DataCard]


def add_mixture(work: Workspace, data: Prepared, card: DataCard) -> Prepared:
    """Prepare the other tasks' data and mix them with the task's own, or find that done.

    Args:
        work: the build.
        data: the task's own prepared data.
        card: their description.

    Returns:
        The data with the mixture; as they are when the task is learned alone.

    Raises:
        SourceError: a file of another task cannot be had or does not verify.
        DataError: the rows of another task cannot be used, or hardly any of them say what to write.
    """
    multitask = work.task.multitask
    if multitask is None:
        return data
    parts: list[Part] = [(work.task, data, card)]
    for other in work.others:
        theirs = replace(work, task=other.task, root=other.root, others=())
        parts.append((other.task, *prepare_data(theirs, other.task.name)))
    step = Step(
        "mixture",
        "mix the rows of the tasks",
        {
            "tasks": [
                {"name": task.name, "data": each.key, "prompt": open_kind(task, each.labels).prompt_hash}
                for task, each, _ in parts
            ]
        },
    )
    folder = work.steps.run(step, lambda out: _mix(parts, out))
    mixed = MixtureCard.from_json((folder / CARD).read_bytes(), str(folder / CARD))
    sizes = {each.task: DataSize(each.train, each.chars, labels=0) for each in mixed.tasks}
    folders = tuple(each.folder for _, each, _ in parts[1:])
    return replace(data, mixture=Mixture(folder, step.key, mixed, sizes, multitask.mixing, folders))


def _mix(parts: Sequence[Part], out: Path) -> None:
    for _, data, _ in parts:
        verify_splits(data.folder)
    others = held_out_by_others({task.name: data.folder for task, data, _ in parts})

    def rows(split: SplitName) -> list[Rows]:
        return [
            Rows(
                open_kind(task, data.labels),
                data.folder,
                split,
                task.name,
                others[task.name] if split == "train" else (),
            )
            for task, data, _ in parts
        ]

    train, dev = rows("train"), rows("dev")
    write_conversations(out / "train.jsonl", train)
    write_conversations(out / "dev.jsonl", dev)
    mixed = [_mixed(part, *pair) for part, *pair in zip(parts, train, dev, strict=True)]
    write_json(out / CARD, MixtureCard(tasks=tuple(mixed)).to_json())
    for each in mixed:
        if each.leaked:
            places = ", ".join(each.places[:5])
            warn(f"{each.task}: training rows left out, which another task holds out", rows=each.leaked, places=places)


def _mixed(part: Part, train: Rows, dev: Rows) -> MixedTask:
    task, data, card = part
    return MixedTask(
        task=task.name,
        train=train.written,
        dev=dev.written,
        leaked=len(train.leaked),
        places=tuple(train.leaked[:MAX_PLACES]),
        only_checked=train.only_checked,
        chars=card.splits["train"].chars_p50,
        data=data.key,
        files=card.files,
    )
