"""The ladder: order, names, what the budget or a machine rules out and why, depth by time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from locum.core.errors import SourceError, UserError
from locum.fit.ladder import (
    AUTO,
    PASS_TOKENS,
    RESERVE,
    DataSize,
    Machines,
    affordable_depth,
    make_ladder,
    mixture_size,
    students_of,
    training_budgets,
)
from locum.schema.device import DeviceProfile
from locum.schema.task import Task
from locum.schema.taskfile import parse_task
from locum.sources.catalogue import catalogue

SERVER = DeviceProfile(
    name="this",
    source="measured",
    system="Linux",
    cpu="server",
    architecture="x86_64",
    cores=2,
    memory_mb=24000,
    available_mb=20000,
    instructions=("avx2", "avx512f", "avx512_vnni"),
    matmul_gflops=260.0,
    memory_gb_s=14.0,
)
SMALL = DataSize(train_rows=2000, mean_chars=60, labels=10)
WRITTEN = DataSize(train_rows=2000, mean_chars=400, labels=0, answer_tokens=12)
HERE = Machines(SERVER, SERVER)
SMOLLM = catalogue().find("SmolLM2-135M-Instruct").facts


def writer(students: str) -> Task:
    return parse_task(
        "version: 1\nname: t\nkind: generate\nprofile: qa\ninstruction: Answer.\n"
        f"data: {{train: t.csv, input: text, output: answer}}\nstudents: [{students}]\n"
    )


def task(extra: str = "") -> Task:
    return parse_task(
        "version: 1\nname: t\nkind: classify\ninstruction: Which?\n"
        "data: {train: t.csv, input: text, output: label}\n" + extra
    )


def test_auto_goes_from_a_linear_model_to_a_decoder() -> None:
    ladder = make_ladder(task(), SMALL, HERE)
    assert [candidate.family for candidate in ladder] == ["linear", "encoder", "encoder", "decoder"]
    assert [candidate.method for candidate in ladder] == [spec.method for spec in AUTO["classify"]]
    assert [candidate.name for candidate in ladder[:3]] == ["tfidf", "all-MiniLM-L6-v2/head", "all-MiniLM-L6-v2/full"]
    assert ladder[3].name == f"SmolLM2-135M-Instruct/full-{ladder[3].depth}L"
    assert not [candidate.skipped for candidate in ladder if candidate.skipped]
    memory = [candidate.estimate.memory_mb or 0 for candidate in ladder]
    assert memory == sorted(memory)
    assert ladder[1].parameters == pytest.approx(22.7e6, rel=0.05)


def test_the_same_question_has_the_same_ladder() -> None:
    assert make_ladder(task(), SMALL, HERE) == make_ladder(task(), SMALL, HERE)


def test_named_students_stay_in_their_order_with_their_depth() -> None:
    wanted = "students:\n  - {base: SmolLM2-135M-Instruct, method: full, depth: 5}\n  - {method: linear}\n"
    ladder = make_ladder(task(wanted), SMALL, HERE)
    assert [candidate.name for candidate in ladder] == ["SmolLM2-135M-Instruct/full-5L", "tfidf"]
    assert ladder[0].depth == 5
    assert ladder[0].parameters is not None
    assert ladder[0].parameters < SMOLLM.parameters


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("memory_mb: 70", "over the 70 MB of the budget"),
        ("size_mb: 10", "over the 10 MB of the budget"),
        ("latency_ms: 0.05", "over the 0.05 ms of the budget"),
    ],
)
def test_fault_35_a_budget_rules_out_with_the_estimate_and_the_limit(budget: str, words: str) -> None:
    ladder = make_ladder(task(f"budget: {{{budget}}}\n"), SMALL, HERE)
    assert ladder[0].skipped is None
    for candidate in ladder[1:]:
        assert candidate.skipped is not None
        assert candidate.skipped.startswith("its estimated ")
        assert words in candidate.skipped
    assert len(ladder) == len(AUTO["classify"])  # ruled out, but told of


def test_fault_35_a_device_without_the_memory_rules_out_by_name() -> None:
    tiny = SERVER.model_copy(update={"name": "raspberry-pi-0", "memory_mb": 70.0, "available_mb": 75.0})
    ladder = make_ladder(task(), SMALL, Machines(training=SERVER, serving=tiny))
    assert [candidate.skipped is None for candidate in ladder] == [True, False, False, False]
    assert "of the device raspberry-pi-0" in (ladder[1].skipped or "")


def test_fault_35_memory_to_train_counts_on_this_machine_only() -> None:
    full = SERVER.model_copy(update={"available_mb": 700.0})
    ladder = make_ladder(task(), SMALL, Machines(training=full, serving=SERVER))
    assert ladder[0].skipped is None
    assert ladder[3].skipped is not None
    assert "training memory" in ladder[3].skipped
    assert "of the memory of this machine" in ladder[3].skipped


@pytest.mark.parametrize(
    ("kind", "base", "method", "needed"),
    [
        ("generate\nprofile: chat", "all-MiniLM-L6-v2", "lora", "a student that writes its answers needs a decoder"),
        ("generate\nprofile: chat", "all-MiniLM-L6-v2", "prompt", "a student that writes its answers needs a decoder"),
        ("classify", "all-MiniLM-L6-v2", "few_shot", "a student that writes its answers needs a decoder"),
        ("tag", "SmolLM2-135M-Instruct", "full", "a trained student of kind tag needs an encoder"),
        ("tag", "SmolLM2-135M-Instruct", "lora", "a trained student of kind tag needs an encoder"),
        ("rank", "SmolLM2-135M-Instruct", "head", "a trained student of kind rank needs an encoder"),
        ("tag", "SmolLM2-135M-Instruct", "prompt", None),
        ("rank", "SmolLM2-135M-Instruct", "few_shot", None),
        ("rank", "all-MiniLM-L6-v2", "full", None),
        ("classify", "SmolLM2-135M-Instruct", "lora", None),
        ("classify", "SmolLM2-135M-Instruct", "head", None),
        ("classify", "all-MiniLM-L6-v2", "lora", None),
        ("generate\nprofile: chat", "SmolLM2-135M-Instruct", "dora", None),
        ("generate\nprofile: chat", "hf://acme/what", "dora", None),
    ],
)
def test_a_base_of_the_other_family_is_ruled_out(kind: str, base: str, method: str, needed: str | None) -> None:
    columns = "[query, texts]" if kind == "rank" else "text"
    asked = parse_task(
        f"version: 1\nname: t\nkind: {kind}\ninstruction: Which?\n"
        f"data: {{train: t.csv, input: {columns}, output: label}}\nstudents: [{{base: '{base}', method: {method}}}]\n"
    )
    (candidate,) = make_ladder(asked, SMALL, HERE)
    assert (candidate.skipped is None) == (needed is None), candidate.skipped
    assert (candidate.skipped or "").endswith(needed or "")


def test_more_layers_than_the_base_has_are_refused() -> None:
    with pytest.raises(UserError, match="all-MiniLM-L6-v2 has 6 layers, and depth 7 is asked for") as caught:
        make_ladder(task("students: [{base: all-MiniLM-L6-v2, method: full, depth: 7}]\n"), SMALL, HERE)
    assert caught.value.code == "models-depth"
    with pytest.raises(UserError, match="SmolLM2-135M-Instruct has 30 layers, and train_layers 31 is asked for"):
        make_ladder(writer("{base: SmolLM2-135M-Instruct, method: lora, train_layers: 31}"), SMALL, HERE)


def test_fewer_layers_that_learn_take_less_time_and_memory() -> None:
    students = ", ".join(f"{{base: SmolLM2-135M-Instruct, method: full{some}}}" for some in ("", ", train_layers: 6"))
    every, last = make_ladder(writer(students), WRITTEN, HERE)
    assert (every.name, last.name) == ("SmolLM2-135M-Instruct/full", "SmolLM2-135M-Instruct/full-last6")
    assert last.train_layers == 6
    assert (last.estimate.train_s or 0) < 0.5 * (every.estimate.train_s or 0)
    assert (last.estimate.train_memory_mb or 0) < 0.6 * (every.estimate.train_memory_mb or 0)
    assert last.estimate.latency_ms == every.estimate.latency_ms  # it answers with all of its layers


@pytest.mark.parametrize(
    ("telling", "reason"),
    [
        (None, None),
        ({"train": 10, "dev": 10}, None),
        ({"train": 10}, None),
        ({"train": 0, "dev": 0}, "no training row says what to write, so there is nothing to learn from"),
        ({"train": 9}, "only 9 of the 10 training rows that are needed say what to write, so there is nothing to"),
        ({"train": 90, "dev": 0}, "no dev row says what to write, so there is nothing to choose weights by"),
    ],
)
def test_rows_that_say_nothing_rule_out_what_is_tuned_and_nothing_else(telling: Any, reason: str | None) -> None:
    written = parse_task(
        "version: 1\nname: t\nkind: generate\nprofile: chat\ninstruction: Which?\n"
        "data: {train: t.csv, input: text, output: label}\n"
    )
    ladder = make_ladder(written, replace(SMALL, telling=telling), HERE)
    assert [candidate.skipped for candidate in ladder[:2]] == [None, None]
    assert (ladder[2].skipped or "").startswith(reason or "") and bool(ladder[2].skipped) == bool(reason)
    labels = make_ladder(task(), replace(SMALL, telling=telling), HERE)
    assert not any(candidate.skipped for candidate in labels)


def test_what_is_not_known_rules_nothing_out() -> None:
    unknown = SERVER.model_copy(
        update={"memory_mb": None, "available_mb": None, "matmul_gflops": None, "memory_gb_s": None}
    )
    ladder = make_ladder(task("budget: {latency_ms: 0.001}\n"), SMALL, Machines(unknown, unknown))
    assert not any(candidate.skipped for candidate in ladder)
    assert ladder[3].estimate.train_s is None
    assert ladder[3].depth == SMOLLM.layers


def test_a_decoder_is_cut_to_what_the_time_allows() -> None:
    depths = [affordable_depth(SMOLLM, SMALL, SERVER, seconds) for seconds in (1, 60, 120, 400, 1e6)]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (1, SMOLLM.layers)
    more = DataSize(train_rows=20000, mean_chars=60, labels=10)
    assert affordable_depth(SMOLLM, more, SERVER, 400) < depths[3]


@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_adapters_on_an_encoder_cost_less_than_all_weights_and_serve_the_same(kind: str) -> None:
    methods = ("head", "lora", "dora", "full")
    lines = "".join(f"  - {{base: all-MiniLM-L6-v2, method: {method}}}\n" for method in methods)
    asked = task("students:\n" + lines).model_copy(update={"kind": kind})
    ladder = make_ladder(asked, SMALL, HERE)
    assert [candidate.name for candidate in ladder] == [f"all-MiniLM-L6-v2/{method}" for method in methods]
    head, lora, dora, full = (candidate.estimate for candidate in ladder)
    assert lora == dora
    assert head.train_s is not None and lora.train_s is not None and full.train_s is not None
    assert head.train_s < lora.train_s < full.train_s
    assert (head.train_memory_mb or 0) < (lora.train_memory_mb or 0) < (full.train_memory_mb or 0)
    whole = full.model_dump(exclude={"train_s", "train_memory_mb"})
    assert lora.model_dump(exclude={"train_s", "train_memory_mb"}) == whole


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_decoder_that_classifies_with_adapters_is_cut_to_what_the_time_allows(method: str) -> None:
    wanted = f"students:\n  - {{base: SmolLM2-135M-Instruct, method: {method}}}\nbudget: {{build_minutes: 6}}\n"
    (cut,) = make_ladder(task(wanted), SMALL, HERE)
    assert cut.depth is not None and cut.depth < SMOLLM.layers
    assert cut.name == f"SmolLM2-135M-Instruct/{method}-{cut.depth}L"


def test_a_decoder_of_a_few_layers_is_not_worth_its_time() -> None:
    huge = DataSize(train_rows=500_000, mean_chars=400, labels=2)
    decoder = make_ladder(task("budget: {build_minutes: 2}\n"), huge, HERE)[3]
    assert decoder.skipped is not None
    assert decoder.skipped.endswith("s of training allow only 1 of its layers")


@pytest.mark.parametrize("methods", [["linear"], ["linear", "head", "full", "full"], ["full"] * 5])
def test_training_gets_all_of_the_time_but_the_reserve(methods: list[str]) -> None:
    budgets = training_budgets("classify", methods, 900)  # pyright: ignore[reportArgumentType]
    again = max(budgets)  # for training the chosen one on train and dev
    assert sum(budgets) + again == pytest.approx(900 * (1 - RESERVE), abs=0.1 * (len(methods) + 1))
    ranked = training_budgets("rank", methods, 900)  # pyright: ignore[reportArgumentType]
    assert sum(ranked) == pytest.approx(900 * (1 - RESERVE), abs=0.1 * len(methods))
    assert all(seconds > 0 for seconds in budgets)


def test_a_costlier_method_gets_more_time() -> None:
    linear, head, full = training_budgets("classify", ["linear", "head", "full"], 900)
    assert linear < head < full


def test_an_unknown_base_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SourceError, match="did you mean 'all-MiniLM-L6-v2'"):
        make_ladder(task("students: [{base: all-MiniLM-L6-v3, method: head}]\n"), SMALL, HERE)


def test_a_base_of_the_hub_that_nothing_is_known_of_stays_without_estimates(tmp_path: Path) -> None:
    (candidate,) = make_ladder(task("students: [{base: 'hf://acme/bertlet', method: head}]\n"), SMALL, HERE)
    assert (candidate.name, candidate.skipped, candidate.parameters) == ("bertlet/head", None, None)
    assert candidate.estimate.memory_mb is None


def test_a_relative_folder_is_looked_for_beside_the_task_file(tmp_path: Path) -> None:
    folder = tmp_path / "bertlet"
    folder.mkdir()
    sizes = {"num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16}
    config = {"model_type": "bert", "vocab_size": 32, "max_position_embeddings": 64, **sizes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"weight": np.zeros((32, 8), dtype=np.float32)}, folder / "model.safetensors")
    asked = task("students: [{base: ./bertlet, method: head}]\n")
    (candidate,) = make_ladder(asked, SMALL, HERE, root=tmp_path)
    assert (candidate.name, candidate.base, candidate.parameters) == ("bertlet/head", "./bertlet", 256)
    with pytest.raises(SourceError):
        make_ladder(asked, SMALL, HERE)


def test_training_memory_is_that_of_what_one_forward_pass_reads() -> None:
    from locum.train.contrastive import _GRAPH_CELLS
    from locum.train.forward import MAX_CELLS
    from locum.train.generating import PACK_TOKENS as WRITTEN

    assert PASS_TOKENS["classify"] == PASS_TOKENS["tag"] == MAX_CELLS
    assert PASS_TOKENS["rank"] == _GRAPH_CELLS
    assert PASS_TOKENS["generate"] == PASS_TOKENS["extract"] == WRITTEN["cpu"]
    long = DataSize(train_rows=1000, mean_chars=2000, labels=0)
    full = next(one for one in make_ladder(written(""), long, HERE) if one.name.endswith("/full"))
    assert (full.skipped, (full.estimate.train_memory_mb or 1e9) < 6000) == (None, True)


def test_the_size_counts_tokens_with_their_two_special_ones() -> None:
    size = DataSize(train_rows=10, mean_chars=44, labels=2)
    assert (size.row_tokens, size.tokens) == (12, 120)


def written(extra: str) -> Task:
    return parse_task(
        "version: 1\nname: t\nkind: generate\nprofile: chat\ninstruction: Say.\n"
        "data: {train: t.jsonl, input: text, output: reply}\n" + extra
    )


def test_other_tasks_add_a_student_at_the_end_that_reads_all_their_rows() -> None:
    alone = make_ladder(written(""), SMALL, HERE)
    mixed = DataSize(train_rows=8000, mean_chars=60, labels=0)
    both = make_ladder(written("multitask: {tasks: [b.yaml]}\n"), SMALL, HERE, mixed)
    assert both[:-1] == alone
    full, last = both[-2:]
    assert (last.name, last.multitask, last.method, last.base) == (f"{full.name}-multitask", True, "full", full.base)
    assert not any(candidate.multitask for candidate in alone)
    assert (last.estimate.train_s or 0) == pytest.approx(4 * (full.estimate.train_s or 1))
    assert last.estimate.latency_ms == full.estimate.latency_ms
    assert last.estimate.size_mb == full.estimate.size_mb
    assert len({candidate.name for candidate in both}) == len(both)


def test_students_named_by_hand_keep_their_order_and_their_names_apart() -> None:
    students = [f"{{base: SmolLM2-135M-Instruct, method: {m}}}" for m in ("lora", "lora, multitask: true")]
    task = written(f"multitask: {{tasks: [b.yaml]}}\nstudents: [{', '.join(students)}]\n")
    assert students_of(task) == task.students
    ladder = make_ladder(task, SMALL, HERE, SMALL)
    names = ["SmolLM2-135M-Instruct/lora", "SmolLM2-135M-Instruct/lora-multitask"]
    assert [candidate.name for candidate in ladder] == names


def test_the_size_of_a_mixture_weighs_texts_by_how_often_they_come() -> None:
    sizes = {"long": DataSize(100, 2000, 0), "short": DataSize(900, 40, 0)}
    as_they_are, square_root, even = (mixture_size(sizes, temperature) for temperature in (1.0, 2.0, 1e9))
    assert as_they_are.train_rows == square_root.train_rows == even.train_rows == 1000
    assert as_they_are.mean_chars == pytest.approx(0.1 * 2000 + 0.9 * 40)
    assert square_root.mean_chars == pytest.approx(0.25 * 2000 + 0.75 * 40)
    assert even.mean_chars == pytest.approx(1020)
