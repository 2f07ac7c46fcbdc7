"""Texts longer than each student reads: what is trained on, what parity compares and what is served are cut alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranking_toys import rank_request

torch = pytest.importorskip("torch")

from locum.compress.export import export  # noqa: E402
from locum.compress.ranker import export_ranker  # noqa: E402
from locum.compress.tagger import export_tagger  # noqa: E402
from locum.models.base_files import most_positions  # noqa: E402
from locum.runtime.open import open_classifier  # noqa: E402
from locum.schema.candidate import Candidate  # noqa: E402
from locum.schema.training import ExportRequest, Trained, TrainRequest  # noqa: E402
from locum.train import job, ranking, tagging  # noqa: E402

POSITIONS = 64  # of the pico bases: fewer than the 256 tokens that a request asks for


def run(main: Callable[[Path, Path], None], request: TrainRequest, folder: Path) -> tuple[Path, Trained]:
    (folder / "request.json").write_text(json.dumps(request.to_json()), encoding="utf-8")
    main(folder / "request.json", folder / "out")
    return folder / "out", Trained.from_json((folder / "out" / "trained.json").read_bytes(), "trained.json")


def rewrite(path: Path, change: Callable[[int, dict[str, Any]], None]) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        change(number, row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def filler(number: int, words: int = 300) -> str:
    """Words that the pico bases know, other ones for each row."""
    some = ("card", "cash", "pin", "the", "my", "money", "mail")
    return " ".join(some[(number * 5 + place * place) % len(some)] for place in range(words))


@pytest.mark.parametrize(("method", "model_type"), [("head", "bert"), ("full", "bert"), ("head", "llama")])
def test_an_encoder_or_decoder_that_labels(
    make_request: Callable[..., TrainRequest], tmp_path: Path, method: str, model_type: str
) -> None:
    request = make_request(method, model_type, max_tokens=256)
    for split in (request.train, request.dev):
        rewrite(Path(split), lambda number, row: row.update(input=f"{row['input']} {filler(number)}"))
    folder, trained = run(job.main, request, tmp_path)
    assert (trained.max_tokens, trained.settings["cut_texts"]) == (POSITIONS, 200)
    model = tmp_path / "model"
    spec, parity = export(
        folder, Path(request.dev), model, name="pico", labels=request.labels, threads=1, formats=("onnx-fp32",)
    )
    assert spec.max_tokens == POSITIONS
    assert parity.label_agreement == 1.0 and parity.max_gap < 1e-3
    with_tail = json.loads(Path(request.dev).read_text().splitlines()[0])["input"]
    classifier = open_classifier(model, threads=1)
    try:
        whole, other = (classifier.read([text]) for text in (with_tail, f"{with_tail[:600]} pin code blocked" * 9))
    finally:
        classifier.close()
    assert whole.dropped[0] > 0
    np.testing.assert_array_equal(whole.logits, other.logits)  # nothing hangs on what is not read


def test_a_tagger(people: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    from locum.models.pico import pico_base

    texts = people(40, seed=1)
    words = sorted({word.lower() for row in texts for word in row["text"].split()[1:]})
    base = pico_base(tmp_path / "base", words)
    for name, rows in (("train", texts), ("dev", people(12, seed=2))):
        lines = []
        for number, row in enumerate(rows):  # 64 windows of 64 tokens hold some 3,000 words
            text = row["text"] + " please send it to" * (1000 if number % 4 == 0 else 40)
            lines.append(json.dumps({"id": f"r:{number}", "input": text, "output": json.dumps(row["spans"])}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    request = TrainRequest(
        candidate=Candidate(name="pico/head", family="encoder", base=str(base), method="head"),
        base=str(base),
        train=str(tmp_path / "train.jsonl"),
        dev=str(tmp_path / "dev.jsonl"),
        labels=("CITY", "PERSON"),
        budget_s=1e5,
        seed=3,
        threads=1,
    )
    folder, trained = run(tagging.main, request, tmp_path)
    assert (trained.max_tokens, trained.settings["cut_texts"]) == (POSITIONS, 13)
    asked = ExportRequest(
        name="pico", labels=request.labels, trained=str(folder), dev=request.dev, threads=1, formats=("onnx-fp32",)
    )
    _, parity = export_tagger(asked, tmp_path / "model")  # which refuses other tokens than were trained on
    assert parity.label_agreement == 1.0 and parity.max_gap < 1e-3


@pytest.mark.parametrize("method", ["linear", "head"])
def test_a_ranker(tmp_path: Path, method: str) -> None:
    request = rank_request(tmp_path, method, max_tokens=256)

    def lengthen(number: int, row: dict[str, Any]) -> None:
        asked = json.loads(row["input"])
        tail = (["the", "my", "of", "with", "please", "car", "doctor", "sofa"] * 40)[number % 8 :]
        asked["candidates"] = [
            f"{text} {' '.join(tail[: 300 - 20 * place])}" for place, text in enumerate(asked["candidates"])
        ]
        row["input"] = json.dumps({**asked, "query": " ".join([asked["query"], *tail])})

    for split in (request.train, request.dev):
        rewrite(Path(split), lengthen)
    folder, trained = run(ranking.main, request, tmp_path)
    assert method == "linear" or (trained.max_tokens == POSITIONS and int(trained.settings["cut_texts"]) > 0)
    asked = ExportRequest(
        name="pico", labels=(), trained=str(folder), dev=request.dev, threads=1, min_agreement=0.97,
        formats=None if method == "linear" else ("onnx-fp32",),
    )  # fmt: skip
    _, parity = export_ranker(asked, tmp_path / "model")
    assert parity.label_agreement == 1.0 and parity.max_gap < 1e-3


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514}, 512),
        ({"model_type": "bert"}, None),
    ],
)
def test_how_many_tokens_a_base_has_places_for(tmp_path: Path, config: dict[str, Any], most: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert most_positions(tmp_path) == most
    assert most_positions(tmp_path / "config.json") is None
