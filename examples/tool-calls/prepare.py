"""Glaive's conversations as rows of this recipe: what was said before the first call, the tools, and the call.

    python examples/tool-calls/prepare.py [FILE]

Without a file the hub's is fetched. Notable: conversations without a call are left out, and so is what comes after the
first call; how many is told.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from locum.sources.fetch import fetch

SOURCE = "hf://datasets/llamafactory/glaive_toolcall_en/glaive_toolcall_en_1k.json"
OUT = Path(__file__).parent / "data" / "train.jsonl"


def main() -> None:
    """Read the conversations and write ``data/train.jsonl``."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch(SOURCE)
    conversations = json.loads(file.read_text(encoding="utf-8"))
    rows = first_calls(conversations)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} of {len(conversations)} conversations have a call; wrote {OUT}")


def first_calls(conversations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each conversation with a call.

    Args:
        conversations: with ``tools`` and ``conversations``, a list of turns with ``from`` and ``value``.
    """
    rows: list[dict[str, Any]] = []
    for conversation in conversations:
        turns = conversation["conversations"]
        place = next((i for i, turn in enumerate(turns) if turn["from"] == "function_call"), None)
        if place is not None:
            said = "\n".join(f"{turn['from']}: {turn['value']}" for turn in turns[:place])
            rows.append(
                {"conversation": said, "tools": conversation["tools"], "call": json.loads(turns[place]["value"])}
            )
    return rows


if __name__ == "__main__":
    main()
