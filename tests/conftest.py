"""Shared fixtures: where the public data sets are, and one small task built from end to end."""

from __future__ import annotations

import atexit
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


def _share_of_cores() -> None:
    """Give each of several test processes cores of its own: engines whose threads wait for each other on cores that
    others use take ten times as long."""
    number, count = os.environ.get("PYTEST_XDIST_WORKER", "")[2:], int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if number.isdigit() and sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[int(number) :: count] or cores)


_share_of_cores()

# A runner in the background ignores Ctrl-C, and so would every child that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is left with one of them while the others have nothing to do."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # stable: the tests of a file stay together


ROOT = Path(__file__).resolve().parent.parent
TEAMS = {
    "billing": "invoice charge refund payment card",
    "technical": "crash error login screen bug",
    "delivery": "parcel courier late address tracking",
}
FILLERS = "please help my the again today with since yesterday still about account"


# Bundles that tests build are no bundles of whoever runs them.
os.environ["LOCUM_HISTORY"] = "0"  # nor are the times that their steps take
os.environ["LOCUM_STATE"] = tempfile.mkdtemp(prefix="locum-tests-")
atexit.register(shutil.rmtree, os.environ["LOCUM_STATE"], ignore_errors=True)


def find_data() -> Path | None:
    """The folder with public data sets: LOCUM_DATA, else ../shared/data from the project's root."""
    folder = Path(os.environ.get("LOCUM_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The public data sets; the test is skipped, with the reason, where they are absent."""
    folder = find_data()
    if folder is None:
        pytest.skip("public data sets not found: set LOCUM_DATA to their folder")
    return folder


def ticket_rows(count: int, seed: int = 1) -> Iterator[tuple[str, str]]:
    """Rows whose words tell the team, but for one in fourteen or so."""
    rng = random.Random(seed)
    words = {team: line.split() for team, line in TEAMS.items()}
    for _ in range(count):
        team = rng.choice(list(words))
        about = team if rng.random() < 0.9 else rng.choice(list(words))
        text = [*rng.choices(words[about], k=2), *rng.choices(FILLERS.split(), k=5), f"ref{rng.randrange(10**6)}"]
        rng.shuffle(text)
        yield " ".join(text), team


def write_rows(path: Path, rows: Iterator[tuple[str, str]]) -> Path:
    """A CSV file of tickets."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "team"), *rows])
    return path


@pytest.fixture(scope="session")
def smollm2_layers() -> tuple[Any, Any]:
    """The real SmolLM2-135M-Instruct as a base, and its first four layers in PyTorch; copy those before a change.

    Read once for all rooms: dequantising the file takes longer than any test on it.
    """
    from locum.models.base_files import inspect_base
    from locum.models.body import load_body
    from locum.sources.bases import ensure_base

    base = inspect_base(ensure_base("SmolLM2-135M-Instruct", format="gguf"))
    return base, load_body(base, depth=4)


FIRST, LAST = (
    ["Anna", "Boris", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hugo"],
    ["Berg", "Costa", "Duarte", "Ekman", "Fischer"],
)
CITIES = ("Paris", "Rome", "New York", "Lima", "San Jose")
ABOUT = (
    "my name is {p} and i live in {c}",
    "please send it to {p} in {c}",
    "{p} asked about the delivery",
    "is there a branch in {c} ?",
    "i talked to {p} yesterday",
    "when will my card arrive ?",
)


def people_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Texts that name people and cities, with their spans ``[start, end, label]``."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        parts = rng.choice(ABOUT).replace("{", "|{").replace("}", "}|").split("|")
        text, spans = f"ref{1000 * seed + number} ", []
        for part in parts:
            person = " ".join(filter(None, (rng.choice(FIRST), rng.choice([*LAST, ""]))))
            words = {"{p}": person, "{c}": rng.choice(CITIES)}.get(part, part)
            if part in ("{p}", "{c}"):
                spans.append([len(text), len(text) + len(words), "PERSON" if part == "{p}" else "CITY"])
            text += words
        rows.append({"text": text, "spans": spans})
    return rows


@pytest.fixture(scope="session")
def people() -> Callable[..., list[dict[str, Any]]]:
    """Makes texts with the people and cities in them: ``people(100, seed=2)``."""
    return people_rows


@dataclass(frozen=True)
class Tickets:
    """A task of its own folder; its only student is linear, so it builds in seconds without PyTorch's weight."""

    folder: Path
    build_fields: Callable[..., dict[str, Any]]

    @property
    def task(self) -> Path:
        return self.folder / "task.yaml"

    def change(self, **fields: Any) -> Path:
        """Write the task file again with other values at its top level."""
        self.task.write_text(json.dumps(self.build_fields(**fields), indent=1), encoding="utf-8")  # JSON is YAML
        return self.task


def _fields(**changed: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "tickets",
        "kind": "classify",
        "instruction": "Which team should handle this ticket?",
        "data": {"train": "tickets.csv", "input": "text", "output": "team"},
        "students": [{"method": "linear"}],
        "guarantee": {"kind": "selective", "max_error": 0.2, "confidence": 0.9},
    } | changed


def make_tickets(folder: Path, rows: int = 600) -> Tickets:
    """Data and task file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "tickets.csv", ticket_rows(rows))
    tickets = Tickets(folder, _fields)
    tickets.change()
    return tickets


@pytest.fixture
def tickets(tmp_path: Path) -> Tickets:
    """A task that is not built yet."""
    return make_tickets(tmp_path / "task")


@pytest.fixture
def fresh_tickets() -> list[dict[str, str]]:
    """Rows of the task's traffic that no build has seen."""
    return [{"text": text, "team": team} for text, team in ticket_rows(400, seed=77)]


@dataclass(frozen=True)
class Built:
    """The outcome of ``locum build --json`` in a process that cannot reach any network."""

    tickets: Tickets
    out: Path
    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.stdout)

    @property
    def bundle(self) -> Path:
        return self.out / "bundle"

    @property
    def model_hash(self) -> str:
        return json.loads((self.bundle / "manifest.json").read_text())["hashes"]["model"]


NO_NETWORK = """\
import os, pathlib, socket
pathlib.Path(os.environ["REACHED"] + "-watched").write_text("")
def refuse(self, address):
    if self.family != socket.AF_UNIX:
        pathlib.Path(os.environ["REACHED"]).write_text(repr(address))
        raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """One finished build for the whole session; tests that change it copy it first."""
    root = tmp_path_factory.mktemp("built")
    tickets = make_tickets(root / "task")
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root / "site"), os.environ.get("PYTHONPATH")])),
        "LOCUM_OFFLINE": "1",
        "LOCUM_CACHE": str(root / "cache"),
        "REACHED": str(root / "reached"),
    }
    words = [sys.executable, "-m", "locum.cli.main", "build", str(tickets.task), "--out", str(root / "out"), "--json"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280, check=False)
    return Built(tickets, root / "out", done.returncode, done.stdout, done.stderr)
