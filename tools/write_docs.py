"""Writes the generated documentation: CLI reference, error codes, JSON Schema, tables, and files that pages show.

    python tools/write_docs.py            write them
    python tools/write_docs.py --check    exit 1 when one of them is out of date

Notable: the sources are the commands themselves, ``core.codes``, ``schema.task`` and ``bench/results``; a
page that disagrees with the code cannot pass ``make check``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ["COLUMNS"] = "100"
os.environ["NO_COLOR"] = "1"
os.environ["TERM"] = "dumb"

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def main() -> int:
    """Write or check every page; return the exit status."""
    pages = {
        "docs/cli.md": cli_reference(),
        "docs/errors.md": error_codes(),
        "docs/task.schema.json": task_schema(),
        "docs/glossary.md": glossary_page(),
    }
    for name in ("README.md", "docs/results.md", "docs/recipes.md", "docs/decisions/0005-llm-client-on-llhttp.md"):
        pages[name] = with_files(with_tables((ROOT / name).read_text(encoding="utf-8")))
    stale = [name for name, text in pages.items() if _read(ROOT / name) != text]
    if "--check" in sys.argv:
        for name in stale:
            print(f"{name} is out of date: run `make docs`")
        return bool(stale)
    for name in stale:
        (ROOT / name).write_text(pages[name], encoding="utf-8")
        print(f"wrote {name}")
    return 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def cli_reference() -> str:
    """The help of every command, as one page."""
    from locum.cli.main import COMMANDS, help_text

    parts = ["# Command line", "", "Generated from the code by `make docs`.", "", "```text", help_text(), "```"]
    for name, summary in COMMANDS.items():
        app = importlib.import_module(f"locum.cli.{name}").app
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            app(args=["--help"], prog_name=f"locum {name}", standalone_mode=False)
        text = "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())
        parts += ["", f"## locum {name}", "", summary, "", "```text", text, "```"]
    return "\n".join(parts) + "\n"


def glossary_page() -> str:
    """The words that a plan, a page and an error use."""
    from locum.report.words import glossary_page as page

    return page()


def error_codes() -> str:
    """Every error code with its meaning, by room."""
    from locum.core.codes import CODES

    rows = [f"| `{code}` | {meaning} |" for code, meaning in sorted(CODES.items())]
    head = [
        "# Error codes",
        "",
        "Generated from `locum.core.codes` by `make docs`. Every error ends with its code in brackets; with",
        '`--json` it stands under `"error"`. Exit status: 2 your mistake, 3 a check failed, 1 anything else.',
        "What the words mean: [glossary.md](glossary.md), or `locum words`.",
        "",
        "| code | meaning |",
        "|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def task_schema() -> str:
    """The JSON Schema of a task file, for editors."""
    from locum.schema.task import Task

    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Locum task file",
        **Task.model_json_schema(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def with_tables(text: str) -> str:
    """A page with each ``<!-- table: NAME -->`` … ``<!-- end -->`` block written from ``NAME.json``.

    ``NAME.PART`` is the table of that name under ``more`` in the file. ``NAME [column, other = shown]`` takes some
    columns, each under its own name or another one, and leaves the caption to the page.
    """
    pattern = re.compile(r"(<!-- table: ([a-z0-9_.]+)(?: \[([^\]]+)\])? -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda block: block[1] + _table(block[2], block[3]) + block[4], text)


def with_files(text: str) -> str:
    """A page with each ``<!-- file: PATH -->`` … ``<!-- end -->`` block showing the file, without its editor's line."""

    def shown(block: re.Match[str]) -> str:
        path = ROOT / block[2]
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if not line.startswith("# yaml-language-server")]
        return block[1] + "\n".join([f"```{path.suffix[1:]}", *kept, "```"]) + "\n" + block[3]

    return re.sub(r"(<!-- file: (\S+) -->\n).*?(<!-- end -->)", shown, text, flags=re.DOTALL)


def _table(name: str, chosen: str | None) -> str:
    script, _, part = name.partition(".")
    path = RESULTS / f"{script}.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if part:
        result = result.get("more", {}).get(part, {})
    if not result:
        return f"(not measured yet: run `python bench/{script}.py`)\n"
    columns: dict[str, str] = dict(zip(result["columns"], result["columns"], strict=True))
    if chosen is not None:
        pairs = (part.partition(" = ") for part in chosen.split(", "))
        columns = {column: shown or column for column, _, shown in pairs}
        if unknown := columns.keys() - set(result["columns"]):
            raise SystemExit(f"{path.name} has no column {', '.join(sorted(unknown))}")
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in result["table"]]
    caption = result.get("caption") if chosen is None else None
    return "\n".join(lines) + "\n" + (f"\n{caption}\n" if caption else "")


if __name__ == "__main__":
    sys.exit(main())
