"""Exports of taggers: a trained folder in, a model folder that tags alike out, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import locum.compress.tagger as export_module
from locum.compress.pico import make_texts, seal_trained
from locum.compress.tagger import TaggedDev, check_tags, export_tagger
from locum.core.child import run_job
from locum.core.errors import CheckFailed, LocumError, ModelFileError
from locum.core.files import write_json
from locum.models.base_files import inspect_base
from locum.models.body import load_body
from locum.models.classifier import save_student
from locum.models.pico import pico_base
from locum.models.tagger import TokenClassifier, load_tagger, read_surface
from locum.runtime.open import open_tagger
from locum.runtime.protocol import TaggedText
from locum.runtime.surface import surface_forms as forms_of
from locum.runtime.windows import read_windows, tag_whole
from locum.schema.model import ModelSpec, Parity
from locum.schema.training import ExportRequest
from locum.tasks.bio import BioTags

TYPES = ("CITY", "PERSON")
TAGS = BioTags.of_types(TYPES)


def pico_trained(root: Path, model_type: str, *, surface: bool = False) -> ExportRequest:
    """A tagger with random weights whose dev spans are its own answers; with ``surface`` it reads that, too."""
    from locum.runtime.tokenize import TextTokenizer

    texts = [*make_texts(48), " ".join(make_texts(24))]  # the last one needs windows
    base = pico_base(root / "base", sorted({word for text in texts for word in text.split()}), model_type, width=64)
    if surface:
        forms = [str, str.title, str.upper, lambda text: text.replace(" ", "\n")]
        texts = [forms[number % 4](text) for number, text in enumerate(texts)]
    files = inspect_base(base)
    torch.manual_seed(11)
    tagger = TokenClassifier(load_body(files), files.architecture, len(TAGS.names)).eval()
    torch.nn.init.normal_(tagger.head.weight, std=1.0)
    if surface:
        assert read_surface(tagger.body)
        for weight in tagger.fresh_weights()[2:]:
            torch.nn.init.normal_(weight)
        tagger.seal_surface()
    folder = root / "trained"
    save_student(tagger, folder)
    (folder / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    lines: list[str] = []
    scores: list[np.ndarray] = []
    tokenizer = TextTokenizer(folder / "tokenizer.json", 32)
    for number, windows in enumerate(read_windows(tokenizer.read, texts)):
        with torch.no_grad():
            parts = [
                tagger(
                    torch.tensor([window.read.ids]),
                    torch.ones(1, len(window.read.ids)),
                    torch.tensor([forms_of(texts[number][window.start :], window.read.spans)]) if surface else None,
                )[0, window.kept].numpy()
                for window in windows
            ]
        scores.append(np.concatenate(parts))
        offsets = np.concatenate([window.offsets for window in windows])
        spans = [found.span for found in TAGS.read(texts[number], offsets, scores[-1]).spans]
        lines.append(json.dumps({"id": f"d:{number}", "input": texts[number], "output": json.dumps(spans)}))
    np.save(folder / "dev_logits.npy", np.concatenate(scores))
    (root / "dev.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    seal_trained(folder, "encoder", tagger.parameters_count)
    return ExportRequest(
        name="pico", labels=TYPES, trained=str(folder), dev=str(root / "dev.jsonl"), threads=1, min_agreement=0.95
    )


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> ExportRequest:
    return pico_trained(tmp_path_factory.mktemp("tagger"), "bert")


@pytest.fixture(scope="module")
def exported(asked: ExportRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSpec, Parity]:
    out = tmp_path_factory.mktemp("exported") / "model"
    return out, *export_tagger(asked, out)


def test_int8_is_kept_when_it_tags_alike(exported: tuple[Path, ModelSpec, Parity]) -> None:
    out, spec, parity = exported
    assert (spec.purpose, spec.engine, spec.precision, spec.labels) == ("tag", "onnx", "int8", TAGS.names)
    assert parity.passed and parity.label_agreement >= 0.95 and parity.accuracy_trained == 1.0
    assert {path.name for path in out.iterdir()} == {"model.onnx", "tokenizer.json", "model.json"}


@pytest.mark.parametrize(("model_type", "surface"), [("bert", False), ("modernbert", False), ("bert", True)])
def test_fp32_scores_every_token_as_the_trained_weights_do(tmp_path: Path, model_type: str, surface: bool) -> None:
    asked = pico_trained(tmp_path, model_type, surface=surface).model_copy(update={"formats": ("onnx-fp32",)})
    spec, parity = export_tagger(asked, tmp_path / "model")
    assert spec.surface_forms == surface
    assert (parity.label_agreement, parity.accuracy_exported) == (1.0, 1.0) and parity.max_gap < 1e-4
    tagger = open_tagger(tmp_path / "model", threads=1)
    texts = [json.loads(line)["input"] for line in (tmp_path / "dev.jsonl").read_text().splitlines()]
    found = np.concatenate([each.logits for each in tag_whole(tagger, texts)])
    tagger.close()
    np.testing.assert_allclose(found, np.load(tmp_path / "trained" / "dev_logits.npy"), atol=1e-3)
    assert parity.n == len(found)


def test_a_tagger_that_answers_otherwise_fails_the_build(tmp_path: Path) -> None:
    asked = pico_trained(tmp_path, "bert")
    folder = Path(asked.trained)
    tagger = load_tagger(folder)
    with torch.no_grad():
        tagger.head.weight.zero_()  # every token gets the same tag; dev_logits.npy still says otherwise
    save_student(tagger, folder)
    seal_trained(folder, "encoder", 1)
    with pytest.raises(CheckFailed, match="onnx int8: tags agree on .* onnx fp32") as caught:
        export_tagger(asked, tmp_path / "model")
    assert caught.value.code == "compress-parity" and not (tmp_path / "model").exists()


def test_fp32_stands_in_when_int8_tags_otherwise(
    asked: ExportRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = export_module.check_tags

    def strict(dev: TaggedDev, exported: Any, tags: BioTags, asked: ExportRequest, precision: Any) -> Parity:
        parity = plain(dev, exported, tags, asked, precision)
        return parity.model_copy(update={"passed": False}) if precision == "int8" else parity

    monkeypatch.setattr(export_module, "check_tags", strict)
    spec, parity = export_tagger(asked, tmp_path / "model")
    assert spec.precision == "fp32" and len(parity.tried) == 1 and parity.tried[0].startswith("onnx int8: span F1")


def dev_of(names: list[str], gold: list[tuple[int, int, str]]) -> tuple[TaggedDev, TaggedText]:
    """One text of one-letter words, with a sure tag for each."""
    scores = np.array([[6.0 * (name == said) for name in TAGS.names] for said in names], dtype=np.float32)
    offsets = np.array([[2 * place, 2 * place + 1] for place in range(len(names))])
    dev = TaggedDev([" ".join("x" * len(names))], [gold], scores)
    return dev, TaggedText(offsets, scores)


def test_lost_tags_show_among_many_tokens_outside(asked: ExportRequest) -> None:
    dev, same = dev_of(["O"] * 95 + ["B-CITY"] * 5, [(190 + 2 * n, 191 + 2 * n, "CITY") for n in range(5)])
    assert check_tags(dev, [same], TAGS, asked, "int8").label_agreement == 1.0
    lost = same.logits.copy()
    lost[95:98] = same.logits[0]
    parity = check_tags(dev, [TaggedText(same.spans, lost)], TAGS, asked, "int8")
    assert parity.label_agreement == pytest.approx(0.4) and not parity.passed  # 97 % of all tokens are tagged alike
    assert (parity.accuracy_trained, parity.accuracy_exported) == (1.0, pytest.approx(4 / 7))


def test_scores_that_are_no_numbers_agree_with_nothing(asked: ExportRequest) -> None:
    dev, same = dev_of(["O", "B-CITY"], [(2, 3, "CITY")])
    broken = TaggedText(same.spans, np.full_like(same.logits, np.nan))
    parity = check_tags(dev, [broken], TAGS, asked, "int8")
    assert (parity.label_agreement, parity.max_gap, parity.passed) == (0.0, 1.0, False)


def test_other_tokens_or_types_than_trained_are_refused(asked: ExportRequest, tmp_path: Path) -> None:
    lines = Path(asked.dev).read_text().splitlines()
    (tmp_path / "less.jsonl").write_text("\n".join(lines[1:]) + "\n")
    (tmp_path / "none.jsonl").write_text("")
    for changed, code in (
        ({"dev": str(tmp_path / "less.jsonl")}, "compress-trained"),
        ({"dev": str(tmp_path / "none.jsonl")}, "compress-dev"),
        ({"labels": ("CITY",)}, "compress-trained"),
        ({"formats": ("gguf-f16",)}, "compress-export"),
    ):
        with pytest.raises(LocumError) as caught:
            export_tagger(asked.model_copy(update=changed), tmp_path / "model")
        assert caught.value.code == code
        assert not (tmp_path / "model").exists()


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    asked = pico_trained(tmp_path, "bert")
    with (Path(asked.trained) / "head.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ModelFileError) as caught:
        export_tagger(asked, tmp_path / "model")
    assert caught.value.code == "compress-trained"


@pytest.mark.slow
def test_the_job_leaves_model_and_parity(asked: ExportRequest, tmp_path: Path) -> None:
    write_json(tmp_path / "request.json", asked.to_json())
    run_job("locum.compress.tagger:main", tmp_path / "request.json", tmp_path, log=tmp_path / "log", threads=1)
    parity = Parity.from_json((tmp_path / "parity.json").read_bytes(), "parity.json")
    assert parity.passed and (tmp_path / "model" / "model.json").is_file()
