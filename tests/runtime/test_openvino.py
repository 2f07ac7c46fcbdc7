"""OpenVINO: the ONNX folders as ONNX Runtime answers them, what it must refuse, and text from a child process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from locum.core.errors import LocumError, ModelFileError, UserError
from locum.runtime import openvino_generator
from locum.runtime.completion import CompletionRequest, Tool
from locum.runtime.open import open_classifier, open_generator
from locum.runtime.openvino import import_openvino
from locum.runtime.openvino_generator import OpenVinoGenerator, request_body
from locum.runtime.protocol import Generator
from locum.schema.message import Message
from locum.schema.task import LlmSpec
from locum.testing import pico_linear, pico_onnx
from locum.testing.pico import reseal

TEXTS = ["my card did not arrive", "I forgot my pin", "", "cash " * 30, "Grüße 🙂 card"]
ASK = CompletionRequest((Message("user", "Name a colour."),), max_tokens=6)


def test_the_same_folder_gives_the_same_scores(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pico_onnx(tmp_path / "model")
    plain = open_classifier(tmp_path / "model", threads=1)
    other = open_classifier(tmp_path / "model", threads=1, engine="openvino")
    np.testing.assert_allclose(other.logits(TEXTS), plain.logits(TEXTS), atol=1e-5)
    plain.close()
    other.close()


def test_a_student_of_pytorch_with_wide_part_and_int8_answers_alike(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("torch")
    from locum.compress.int8 import quantize_int8
    from locum.compress.onnx_export import export_onnx
    from locum.compress.pico import MAX_TOKENS, pico_student
    from locum.models.wide import Wide

    student = pico_student(tmp_path / "pico", "bert", rows=24)
    model = student.load()
    model.wide = Wide(3)
    model.wide.idf.fill_(0.7)
    rows = np.random.default_rng(0).integers(-9, 9, size=tuple(model.wide.table.shape))
    model.wide.table.copy_(model.wide.table.new_tensor(rows))
    pico_onnx(tmp_path / "model", {"a": ("x",), "b": ("y",), "c": ("z",)}, max_tokens=MAX_TOKENS)
    (tmp_path / "model" / "tokenizer.json").write_bytes((student.folder / "tokenizer.json").read_bytes())
    for precision, tolerance in (("fp32", 1e-4), ("int8", 0.05)):
        export_onnx(model, tmp_path / "fp32.onnx", max_tokens=MAX_TOKENS)
        target = tmp_path / "model" / "model.onnx"
        if precision == "fp32":
            target.write_bytes((tmp_path / "fp32.onnx").read_bytes())
        else:
            quantize_int8(tmp_path / "fp32.onnx", target)
        reseal(tmp_path / "model", precision=precision)
        answers = [
            open_classifier(tmp_path / "model", threads=1, engine=engine).logits(student.texts)
            for engine in ("onnx", "openvino")
        ]
        np.testing.assert_allclose(answers[1], answers[0], atol=tolerance)


def test_integers_of_more_than_32_bits_are_refused_and_not_cut(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    import onnx
    from onnx import helper, numpy_helper

    pico_onnx(tmp_path / "model")
    path = tmp_path / "model" / "model.onnx"
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([2_654_435_761], dtype=np.int64), "big"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([19], dtype=np.int64), "small"))
    gather = model.graph.node[0]
    gather.input[1] = "hashed"
    made = [
        helper.make_node("Mul", ["input_ids", "big"], ["product"]),
        helper.make_node("Mod", ["product", "small"], ["hashed"]),
    ]
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    reseal(tmp_path / "model")
    assert open_classifier(tmp_path / "model").logits(TEXTS).shape == (len(TEXTS), 3)
    with pytest.raises(ModelFileError) as caught:
        open_classifier(tmp_path / "model", engine="openvino")
    assert caught.value.code == "runtime-unsupported" and "32 bits" in str(caught.value)


def test_engines_that_cannot_run_a_model_are_refused(tmp_path: Path) -> None:
    pico_linear(tmp_path / "linear")
    with pytest.raises(UserError) as caught:
        open_classifier(tmp_path / "linear", engine="openvino")
    assert caught.value.code == "runtime-engine" and "linear" in str(caught.value)
    with pytest.raises(UserError, match="URL"):
        open_generator(LlmSpec(base_url="http://127.0.0.1:9/v1", model="m"), engine="openvino")


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError) as caught:
        import_openvino("openvino")
    assert caught.value.code == "core-missing-extra" and "locum[openvino]" in caught.value.fix


CHILD = """\
import json, sys, threading, time, queue
settings = json.loads(sys.stdin.readline())
mode = sys.argv[1]
if mode == "fatal":
    print(json.dumps({"fatal": "gguf_tensor_to_f16 failed"}), flush=True)
    sys.exit(1)
print(json.dumps({"ready": True}), flush=True)
stopped = threading.Event()
requests = queue.SimpleQueue()
def read():
    for line in sys.stdin:
        record = json.loads(line)
        stopped.set() if "stop" in record else (stopped.clear(), requests.put(record))
    requests.put(None)
threading.Thread(target=read, daemon=True).start()
while (request := requests.get()) is not None:
    number = request["id"]
    if mode == "die":
        sys.exit("out of its mind")
    if mode == "hang":
        time.sleep(600)
    if mode == "long":
        print(json.dumps({"id": number, "error": "too long: 900 tokens of a prompt"}), flush=True)
        continue
    count = 500 if mode == "slow" else 3
    for k in range(count):
        if stopped.is_set():
            break
        print(json.dumps({"id": number, "piece": f"w{k} "}), flush=True)
        time.sleep(0.02 if mode == "slow" else 0)
    done = {"input_tokens": 4, "output_tokens": k + 1, "finish_reason": "stop"}
    print(json.dumps({"id": number, "done": done}), flush=True)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A generator whose child plays a part."""
    monkeypatch.setattr(openvino_generator, "check_gguf", lambda _path: SimpleNamespace(context_length=512))
    (tmp_path / "child.py").write_text(CHILD)
    opened: list[OpenVinoGenerator] = []

    def make(mode: str = "plain", **settings: Any) -> OpenVinoGenerator:
        command = [sys.executable, str(tmp_path / "child.py"), mode]
        opened.append(OpenVinoGenerator(tmp_path / "m.gguf", command=command, **{"timeout_s": 20, **settings}))
        return opened[-1]

    yield make
    for generator in opened:
        generator.close()


def test_answers_come_whole_and_in_pieces(start: Any) -> None:
    generator = start()
    assert isinstance(generator, Generator) and generator.model == "m"
    assert generator.pid is None  # nothing is started before it is asked
    whole = generator.complete(ASK)
    assert (whole.text, whole.input_tokens, whole.output_tokens) == ("w0 w1 w2 ", 4, 3)
    chunks = list(generator.stream(ASK))
    assert [chunk.text for chunk in chunks] == ["w0 ", "w1 ", "w2 ", ""]
    assert chunks[-1].final is not None and chunks[-1].final.text == whole.text


def test_threads_wait_in_line(start: Any) -> None:
    generator = start()
    with ThreadPoolExecutor(4) as pool:
        texts = [completion.text for completion in pool.map(generator.complete, [ASK] * 8)]
    assert set(texts) == {"w0 w1 w2 "}


def test_closing_a_stream_stops_the_engine_within_a_second_and_the_next_may_ask(start: Any) -> None:
    generator = start("slow")
    stream = generator.stream(ASK)
    assert next(stream).text == "w0 "
    start_s = time.monotonic()
    threading.Timer(0.05, stream.close).start()
    assert len(list(stream)) < 100
    pid = generator.pid
    assert time.monotonic() - start_s < 1.5
    with generator.stream(ASK) as again:
        assert next(again).text == "w0 "
    assert generator.pid == pid  # it stopped when asked, and was not killed


def test_fault_29_a_hanging_engine_is_killed_and_the_next_request_gets_a_new_one(start: Any) -> None:
    generator = start("hang", timeout_s=1.0)
    with pytest.raises(LocumError) as caught:
        generator.complete(ASK)
    assert caught.value.code == "runtime-timeout"
    with pytest.raises(LocumError) as again:
        generator.complete(ASK)
    assert again.value.code == "runtime-timeout"


def test_an_engine_that_dies_says_how(start: Any) -> None:
    with pytest.raises(LocumError) as caught:
        start("die").complete(ASK)
    assert caught.value.code == "runtime-child-died" and "out of its mind" in str(caught.value)


def test_a_file_that_it_cannot_read_is_refused(start: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        start("fatal").complete(ASK)
    assert caught.value.code == "runtime-unsupported" and "llamacpp" in caught.value.fix


def test_a_prompt_that_is_too_long_is_an_error_and_not_the_end(start: Any) -> None:
    generator = start("long")
    for _ in range(2):
        with pytest.raises(LocumError) as caught:
            generator.complete(ASK)
        assert caught.value.code == "runtime-too-long"


def test_closed(start: Any) -> None:
    generator = start()
    generator.complete(ASK)
    generator.close()
    generator.close()
    with pytest.raises(LocumError) as caught:
        generator.complete(ASK)
    assert caught.value.code == "runtime-closed"


@pytest.mark.parametrize(
    "option",
    [
        {"logprobs": 2},
        {"json_schema": {"type": "object"}},
        {"grammar": 'root ::= "a"'},
        {"tools": (Tool("f", "", {}),)},
        {"adapter": "mine"},
        {"truncate": True},
    ],
)
def test_what_it_cannot_do_is_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(LocumError) as caught:
        request_body(CompletionRequest((Message("user", "a"),), **option))
    assert caught.value.code == "runtime-unsupported-option"
    assert next(iter(option)) in str(caught.value)


def test_sampling_options_are_passed_on() -> None:
    asked = CompletionRequest(
        (), prompt="Once", max_tokens=9, temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, seed=7, stop=("x",),
        presence_penalty=0.1, frequency_penalty=0.2, repeat_penalty=1.1,
    )  # fmt: skip
    body = request_body(asked)
    assert body["prompt"] == "Once" and "messages" not in body
    assert body["config"] == {
        "max_new_tokens": 9, "do_sample": True, "stop_strings": ["x"], "repetition_penalty": 1.1,
        "presence_penalty": 0.1, "frequency_penalty": 0.2, "temperature": 0.5, "top_p": 0.9, "min_p": 0.05,
        "top_k": 40, "rng_seed": 7,
    }  # fmt: skip
    assert request_body(ASK)["config"]["do_sample"] is False
    json.dumps(body)


@pytest.mark.models
@pytest.mark.engines
def test_the_real_engine_writes_stops_and_dies_with_its_parent(smollm2: Path) -> None:
    pytest.importorskip("openvino_genai")
    generator = OpenVinoGenerator(smollm2, threads=1, n_ctx=256, timeout_s=240)
    try:
        first = generator.complete(ASK)
        assert 0 < first.output_tokens <= 6 and first.input_tokens > 5 and first.text
        assert generator.complete(ASK).text == first.text
        cut = generator.complete(CompletionRequest(ASK.messages, max_tokens=6, stop=(first.text[1:3],)))
        assert len(cut.text) < len(first.text)
        with pytest.raises(LocumError) as caught:
            generator.complete(CompletionRequest((Message("user", "word " * 600),)))
        assert caught.value.code == "runtime-too-long"
        pid = generator.pid
    finally:
        generator.close()
    assert subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 1
