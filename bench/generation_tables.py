"""The tables of ``bench/generation.py``: from each round's figures to the rows that the documentation shows.

Notable: figures are medians over rounds, ratios are medians of ratios within a round. Not here: measuring.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from public_data import ROOT

RESULTS = ROOT / "bench" / "results" / "generation.json"
CLIENTS = (1, 4, 16)
COPIED = "Locum (openvino)"
"""Reads a copy of the file in Q8_0 where OpenVINO would read the file inexactly."""
PEER_COPIED = "OpenVINO GenAI (same copy)"
"""The peer with that copy: the same weights, read by the same library."""
ROUNDING = "OpenVINO GenAI"
"""The peer as it reads the file itself: not exactly, where there is a copy."""
REFERENCE = "llama.cpp server"
"""Whose answers the others' are compared with."""
BEST, BEST_EXACT = "against the best peer", "against the best exact peer"
CAPTION = (
    "An exact peer computes with the weights that stand in the file; OpenVINO GenAI rounds them where they "
    "have offsets (Q4_1, Q4_K). "
    "Answers alike: the share whose first 24 characters are those of llama.cpp's server"
)
COLUMNS = [
    "model", "clients", "server", "tokens/s", BEST, BEST_EXACT, "answers alike", "first token", "p95", "of bandwidth"
]  # fmt: skip
BESIDE_COLUMNS = ["model", "clients", "server", "alone", "beside a busy process", "kept"]
SPINS_COLUMNS = BESIDE_COLUMNS[:-1]


def write(raw: dict[str, Any]) -> None:
    """Write the JSON with its tables."""
    document = {
        "columns": COLUMNS,
        "table": server_rows(raw),
        "caption": "; ".join(filter(None, (CAPTION, left_out(raw)))),
        "more": {
            "beside": {"columns": BESIDE_COLUMNS, "table": beside_rows(raw)},
            "spins": {"columns": SPINS_COLUMNS, "table": spins_rows(raw)},
            "prefill": {
                "columns": ["model", "server", "prompt", "first token", "tokens/s", "of bf16 peak"],
                "table": prefill_rows(raw),
            },
            "prefix": {"columns": ["model", "reuse", "none", "ratio"], "table": prefix_rows(raw)},
            "speculation": {
                "columns": ["model", "task", "way", "tokens/s", "against plain", "equal answers"],
                "table": speculation_rows(raw),
            },
        },
        "date": time.strftime("%Y-%m-%d"),
        "raw": raw,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def median(runs: list[dict[str, Any]], key: str) -> float:
    """The median of a figure over rounds."""
    return statistics.median(run[key] for run in runs)


def left_out(raw: dict[str, Any]) -> str:
    """Which servers are missing in the table, and why."""
    reasons = [
        f"{model}: {name} is left out, {runs['left_out']}"
        for model, found in models_of(raw, "servers")
        for name, runs in found["servers"].items()
        if "left_out" in runs
    ]
    return "; ".join(reasons)


def server_rows(raw: dict[str, Any]) -> list[dict[str, str]]:
    """One row for each model, number of clients and server."""
    rows = []
    for model, found in models_of(raw, "servers"):
        for clients in CLIENTS:
            rate = {
                name: median(runs[str(clients)], "tokens_per_s")
                for name, runs in found["servers"].items()
                if runs.get(str(clients))
            }
            peers = [name for name in rate if not name.startswith("Locum")]
            best = max(peers, key=rate.__getitem__, default=None)
            exact = [name for name in peers if name != ROUNDING or PEER_COPIED not in found["servers"]]
            best_exact = max(exact, key=rate.__getitem__, default=None)
            for name, value in rate.items():
                runs = found["servers"][name][str(clients)]
                read_mb = found["copy_megabytes"] if name in (COPIED, PEER_COPIED) else found["megabytes"]
                share = value * read_mb / 1e3 / raw["machine"]["bandwidth_gb_s"] if clients == 1 else None
                rows.append(
                    {
                        "model": model,
                        "clients": str(clients),
                        "server": name,
                        "tokens/s": f"{value:.1f}",
                        BEST: _against(name, best, found["servers"], str(clients)),
                        BEST_EXACT: _against(name, best_exact, found["servers"], str(clients)),
                        "answers alike": f"{100 * statistics.mean(run['alike'] for run in runs):.0f} %"
                        if all("alike" in run for run in runs)
                        else "",
                        "first token": f"{median(runs, 'first_ms'):.0f} ms",
                        "p95": f"{median(runs, 'p95_ms'):.0f} ms",
                        "of bandwidth": "" if share is None else f"{100 * share:.0f} %",
                    }
                )
    return rows


def _against(name: str, best: str | None, runs: dict[str, Any], clients: str) -> str:
    """The median over rounds of the ratio of ours to a peer in the same round."""
    if not name.startswith("Locum"):
        return ""
    if best is None:
        return "–"
    pairs = zip(runs[name][clients], runs[best][clients], strict=True)
    ratios = [one["tokens_per_s"] / other["tokens_per_s"] for one, other in pairs]
    return f"{statistics.median(ratios):.2f}×"


def beside_rows(raw: dict[str, Any]) -> list[dict[str, str]]:
    """Tokens per second alone and beside a busy process, and the median over rounds of the share that is kept."""
    rows = []
    for model, found in models_of(raw, "beside"):
        for clients in "14":
            for name, runs in found["beside"].items():
                alone, busy = runs[clients]["alone"], runs[clients]["beside"]
                kept = statistics.median(
                    one["tokens_per_s"] / other["tokens_per_s"] for one, other in zip(busy, alone, strict=True)
                )
                rows.append(
                    {
                        "model": model,
                        "clients": clients,
                        "server": name,
                        "alone": f"{median(alone, 'tokens_per_s'):.1f} tokens/s",
                        "beside a busy process": f"{median(busy, 'tokens_per_s'):.1f} tokens/s",
                        "kept": f"{100 * kept:.0f} %",
                    }
                )
    return rows


def spins_rows(raw: dict[str, Any]) -> list[dict[str, str]]:
    """Alone and beside a busy process, each against plain llama.cpp in the same round."""
    rows = []
    for model, found in models_of(raw, "spins"):
        for clients in "14":
            plain = found["spins"][REFERENCE][clients]
            for name, runs in found["spins"].items():
                shown = {"model": model, "clients": clients, "server": name}
                for column, where in (("alone", "alone"), ("beside a busy process", "beside")):
                    ratio = statistics.median(
                        one["tokens_per_s"] / other["tokens_per_s"]
                        for one, other in zip(runs[clients][where], plain[where], strict=True)
                    )
                    shown[column] = f"{ratio:.2f}×"
                rows.append(shown)
    return rows


def prefill_rows(raw: dict[str, Any]) -> list[dict[str, str]]:
    """Prompt tokens per second, and the share of the machine's bf16 matrix-product peak that they use."""
    rows = []
    for model, found in models_of(raw, "prefill"):
        for name, runs in found["prefill"].items():
            tokens, first_ms = median(runs, "input_tokens"), median(runs, "first_ms")
            rate = 1000 * tokens / first_ms
            share = 2 * found["parameters"] * rate / 1e9 / raw["machine"]["bf16_gflop_s"]
            rows.append(
                {
                    "model": model,
                    "server": name,
                    "prompt": f"{tokens:.0f} tokens",
                    "first token": f"{first_ms:.0f} ms",
                    "tokens/s": f"{rate:.0f}",
                    "of bf16 peak": f"{100 * share:.0f} %",
                }
            )
    return rows


def prefix_rows(raw: dict[str, Any]) -> list[dict[str, str]]:
    """Requests per second with and without prefix reuse."""
    rows = []
    for model, found in models_of(raw, "prefix"):
        reuse, none = (median(found["prefix"][name], "requests_per_s") for name in ("reuse", "none"))
        ratio = statistics.median(
            a["requests_per_s"] / b["requests_per_s"]
            for a, b in zip(found["prefix"]["reuse"], found["prefix"]["none"], strict=True)
        )
        rows.append({"model": model, "reuse": f"{reuse:.2f}/s", "none": f"{none:.2f}/s", "ratio": f"{ratio:.1f}×"})
    return rows


def speculation_rows(raw: dict[str, Any]) -> list[dict[str, str]]:
    """Tokens per second of each way, and how many answers equal those of plain decoding."""
    rows = []
    for model, found in models_of(raw, "speculation"):
        for task, ways in found["speculation"].items():
            for way, runs in ways.items():
                ratio = statistics.median(
                    a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(runs, ways["plain"], strict=True)
                )
                rows.append(
                    {
                        "model": model,
                        "task": task,
                        "way": way,
                        "tokens/s": f"{median(runs, 'tokens_per_s'):.1f}",
                        "against plain": f"{ratio:.2f}×",
                        "equal answers": f"{100 * median(runs, 'equal_to_plain'):.0f} %",
                    }
                )
    return rows


def models_of(raw: dict[str, Any], part: str) -> list[tuple[str, dict[str, Any]]]:
    """The models for which a part was measured."""
    return [(name, found) for name, found in raw.items() if part in found]
