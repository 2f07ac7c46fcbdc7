"""What is served: what a bundle refuses and why, what a plain model does, and how `locum serve` tells them apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from locum.bundle.student import Student, open_bundle
from locum.cli.serve import open_target
from locum.core.errors import DeviceError, LocumError, ModelFileError, UserError
from locum.core.progress import listening
from locum.gateway.bundle_target import BundleTarget
from locum.gateway.errors import ApiError, from_engine_error
from locum.gateway.targets import ModelTarget
from locum.runtime.completion import CompletionRequest, RequestFault, TokenLogprob, Tool
from locum.schema.message import Message
from locum.schema.model import ModelSpec
from locum.schema.task import Task
from locum.students.protocol import LocalAnswer
from locum.testing import FakeEmbedder, FakeGenerator, pico_embedder
from locum.testing.bundles import pico_bundle
from locum.testing.pico_gguf import pico_gguf

ASKED = (Message("user", "my card did not arrive, delivery was due"),)
TOOL = Tool("add", "", {"type": "object"})


@pytest.fixture
def bundle(tmp_path: Path):
    pico_bundle(tmp_path / "b")
    target = BundleTarget(open_bundle(tmp_path / "b", threads=1))
    yield target
    target.close()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": (TOOL,)}, "tools"),
        ({"logprobs": 0}, "logprobs"),
        ({"json_schema": {"type": "object"}}, "response_format"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"adapter": "law"}, "adapter"),
        ({"truncate": True}, "truncate"),
    ],
)
@pytest.mark.parametrize("model", ["pico", "pico@local"])
def test_a_bundle_refuses_what_would_have_to_shape_its_answer(
    bundle: BundleTarget, fields: dict, param: str, model: str
):
    with pytest.raises(ApiError) as caught:
        bundle.admit(model, [CompletionRequest(ASKED, **fields)])
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_value", param)


def test_a_bundle_gives_one_answer_and_takes_what_changes_nothing(bundle: BundleTarget):
    plain = CompletionRequest(ASKED, temperature=1.5, seed=3, stop=("x",), top_k=4, max_tokens=1)
    bundle.admit("pico", [plain])
    with pytest.raises(ApiError) as caught:
        bundle.admit("pico", [plain, plain])
    assert caught.value.param == "n"
    opened = bundle.open("pico", plain)
    assert opened.origin.route == "local" and opened.origin.certificate == bundle.certificate
    assert [chunk.text for chunk in opened.stream] == ["card", ""]
    with pytest.raises(ApiError):
        bundle.embed("pico", ["x"], truncate=True)


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
KINDS: dict[str, dict] = {
    "tag": {"kind": "tag"},
    "extract": {"kind": "extract", "answer_schema": SCHEMA},
    "qa": {"kind": "generate", "profile": "qa"},
    "rank": {"kind": "rank", "data": {"train": "t", "input": ["query", "candidates"], "output": "gold"}},
}


class Says:
    """A student of any kind that always gives one answer, or meets one error."""

    def __init__(self, said: str | LocumError | None) -> None:
        self.said = said
        self.spec = ModelSpec.model_validate(
            {"name": "fake", "engine": "llamacpp", "family": "decoder", "precision": "f16", "labels": (),
             "weights": "x", "max_tokens": 10, "purpose": "generate", "parameters": 1, "files": {}}
        )  # fmt: skip

    def answer(self, texts: Sequence[str]) -> list[LocalAnswer]:
        if isinstance(self.said, LocumError):
            raise self.said
        fields = FIELDS if self.said and self.said != "{}" else None
        return [LocalAnswer(self.said, 0.75, fields=fields) for _ in texts]

    def close(self) -> None:
        pass


FIELDS = {"city": 0.87654321, "stops[0].day": 0.25}


def target_of(folder: Path, kind: str, said: str | LocumError | None = "{}") -> BundleTarget:
    """A bundle of any kind, its student faked."""
    folder.mkdir(exist_ok=True)
    pico_bundle(folder / "b")
    with open_bundle(folder / "b", threads=1) as opened:
        fields = {"data": {"train": "t", "input": "text", "output": "gold"}} | KINDS[kind]
        task = Task.model_validate({"version": 1, "name": "pico", "instruction": "Answer.", **fields})
        return BundleTarget(Student(task, opened.manifest, opened.certificate, opened.policy, Says(said), None))


@pytest.mark.parametrize(
    ("kind", "said", "form"),
    [
        ("tag", '[[0,2,"card"]]', "a JSON list of spans"),
        ("extract", '{"city":"Rome"}', "a JSON object"),
        ("qa", "in Rome", "written text"),
        ("rank", "[1,0]", "a JSON list of candidates' numbers"),
    ],
)
def test_an_answer_of_any_kind_is_one_text_in_the_tasks_own_form(tmp_path: Path, kind: str, said: str, form: str):
    target = target_of(tmp_path, kind, said)
    opened = target.open("pico@local", CompletionRequest(ASKED))
    assert [chunk.text for chunk in opened.stream] == [said, ""]
    assert (opened.origin.route, opened.origin.confidence, opened.origin.refusal) == ("local", 0.75, None)
    for field, value in (("tools", (TOOL,)), ("json_schema", {"type": "array"})):
        with pytest.raises(ApiError) as caught:
            target.admit("pico", [CompletionRequest(ASKED, **{field: value})])
        assert form in caught.value.message
        assert "label" not in caught.value.message


def test_the_confidence_of_fields_stands_in_the_body(tmp_path: Path):
    answered = target_of(tmp_path, "extract", '{"city":"Rome"}').open("pico@local", CompletionRequest(ASKED))
    assert answered.origin.to_json(0)["fields"] == {"city": 0.876543, "stops[0].day": 0.25}
    silent = target_of(tmp_path / "none", "extract", "{}").open("pico@local", CompletionRequest(ASKED))
    assert silent.origin.to_json(0)["fields"] is None


def test_a_schema_that_the_answer_fits_anyway_is_taken(tmp_path: Path):
    target = target_of(tmp_path, "extract")
    for schema in (SCHEMA, {"type": "object"}):
        target.admit("pico", [CompletionRequest(ASKED, json_schema=schema)])
    with pytest.raises(ApiError) as caught:
        target.admit("pico", [CompletionRequest(ASKED, json_schema=SCHEMA | {"required": []})])
    assert caught.value.param == "response_format"
    plain = target_of(tmp_path / "qa", "qa")
    with pytest.raises(ApiError):
        plain.admit("pico", [CompletionRequest(ASKED, json_schema={"type": "object"})])


def test_an_answer_that_is_none_is_told_as_such(tmp_path: Path):
    opened = target_of(tmp_path, "qa", None).open("pico@local", CompletionRequest(ASKED))
    assert (opened.origin.route, opened.origin.refusal) == ("abstain", "abstain: the student gave no answer")
    assert "".join(chunk.text for chunk in opened.stream) == ""


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UserError("tasks-input", "an input to rank: no JSON"), 400, "invalid_value"),
        (LocumError("runtime-too-long", "4,000 tokens do not fit 2,048"), 400, "context_length_exceeded"),
        (LocumError("runtime-engine-failed", "/home/me"), 500, "engine_failed"),
    ],
)
def test_what_a_student_cannot_read_is_the_callers_mistake(tmp_path: Path, error: LocumError, status: int, code: str):
    with pytest.raises(ApiError) as caught:
        target_of(tmp_path, "rank", error).open("pico@local", CompletionRequest(ASKED))
    assert (caught.value.status, caught.value.code) == (status, code)
    assert "/home" not in caught.value.message


def test_a_plain_model_says_what_it_cannot():
    with pytest.raises(ValueError, match="generator or an embedder"):
        ModelTarget("tiny")
    writes, embeds = ModelTarget("tiny", FakeGenerator()), ModelTarget("tiny", embedder=FakeEmbedder())
    with pytest.raises(ApiError) as caught:
        writes.embed("tiny", ["x"], truncate=True)
    assert caught.value.code == "unsupported_value"
    with pytest.raises(ApiError):
        embeds.admit("tiny", [CompletionRequest(ASKED)])
    with pytest.raises(ApiError) as unknown:
        writes.check("tinny")
    assert unknown.value.status == 404 and "'tiny'" in unknown.value.message
    long = CompletionRequest((), prompt="x" * 200_000)
    with pytest.raises(ApiError) as too_long:
        writes.admit("tiny", [long])
    assert too_long.value.code == "context_length_exceeded" and too_long.value.param == "prompt"
    assert "This model's maximum context length is" in too_long.value.message, "clients know it by these words"
    assert embeds.describe()["embeds"] and not embeds.describe()["generates"]


def test_engine_errors_keep_the_machine_to_themselves():
    inner = from_engine_error(LocumError("runtime-engine-failed", "0xdead at /home/me"))
    assert inner.status == 500 and "0xdead" not in inner.message and "/home" not in inner.message
    outer = from_engine_error(UserError("runtime-unsupported-option", "no grammar with tools"))
    assert outer.status == 400 and "no grammar with tools" in outer.message


def test_infinite_log_probabilities_are_finite_in_json():
    from locum.gateway.calls import token_json

    assert token_json(TokenLogprob("a", float("-inf")))["logprob"] == -9999.0


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestFault("runtime-request-value", "roles must alternate").about("messages"), 400, "invalid_value"),
        (LocumError("runtime-too-long", "4,000 tokens do not fit 2,048"), 400, "context_length_exceeded"),
        (UserError("runtime-constraint-schema", "it allows no value"), 400, "invalid_value"),
        (LocumError("runtime-unsupported-option", "it has no tools"), 400, "unsupported_value"),
        (LocumError("runtime-child-died", "it died"), 502, "llm_failed"),
    ],
)
def test_an_llm_in_a_file_refuses_as_an_engine_does(tmp_path: Path, error: LocumError, status: int, code: str):
    pico_bundle(tmp_path / "b")
    target = BundleTarget(open_bundle(tmp_path / "b", FakeGenerator([error]), threads=1))
    with pytest.raises(ApiError) as caught:
        target.open("pico@llm", CompletionRequest(ASKED))
    assert (caught.value.status, caught.value.code) == (status, code)
    target.close()


def test_a_fault_of_a_request_names_its_field_and_not_the_machine():
    fault = RequestFault("runtime-constraint-unsupported", "x: look-around", where="/a/file").about("tools.1.x")
    said = from_engine_error(fault)
    assert (said.status, said.code, said.param) == (400, "unsupported_value", "tools.1.x")
    assert "look-around" in said.message and "/a/file" not in said.message


def _open(target: Path | str, **fields) -> ModelTarget | BundleTarget:
    given = {"threads": 1, "engine": None, "draft": None, "adapters": (), **fields}
    return open_target(str(target), **given)  # type: ignore[return-value]


def test_folders_are_bundles_or_model_folders(tmp_path: Path):
    pico_bundle(tmp_path / "bundle")
    bundle = _open(tmp_path / "bundle")
    assert isinstance(bundle, BundleTarget) and bundle.certificate is not None
    bundle.close()
    pico_embedder(tmp_path / "vectors")
    model = _open(tmp_path / "vectors")
    assert model.name == "vectors" and model.embed("vectors", ["a b"], truncate=False).vectors.shape[0] == 1
    model.close()


@pytest.mark.parametrize(
    ("target", "fields", "code"),
    [
        ("nothing-here", {}, "source-unknown-base"),
        ("gone.gguf", {}, "source-unknown-base"),
        ("gone.gguf", {"engine": "openvino"}, "source-unknown-base"),
    ],
)
def test_what_is_not_there_is_the_users_mistake(target: str, fields: dict, code: str):
    with pytest.raises(UserError) as caught:
        _open(target, **fields)
    assert caught.value.code == code


def test_an_engine_that_cannot_write_is_refused_by_name(tmp_path: Path):
    with pytest.raises(UserError) as caught:
        _open(pico_gguf(tmp_path / "m.gguf").path, engine="onnx")
    assert caught.value.code == "runtime-engine" and "openvino" in caught.value.fix


def test_a_file_that_the_engine_cannot_read_is_refused_before_anything_is_served(tmp_path: Path):
    pytest.importorskip("openvino_genai")
    with pytest.raises(ModelFileError) as caught:
        _open(pico_gguf(tmp_path / "m.gguf").path, engine="openvino")
    assert caught.value.code == "runtime-unsupported" and "llamacpp" in caught.value.fix


@pytest.mark.engines
def test_a_plain_model_is_loaded_before_anything_is_served(tmp_path: Path):
    for pooling, engine in ((None, "_generator"), (1, "_embedder")):
        model = _open(pico_gguf(tmp_path / "m.gguf", pooling=pooling).path)
        assert getattr(model, engine).process.pid is not None
        model.close()


@pytest.mark.engines
def test_what_llama_cpp_cannot_load_is_refused_before_anything_is_served(tmp_path: Path):
    path = pico_gguf(tmp_path / "m.gguf").path
    stranger = tmp_path / "stranger.gguf"
    stranger.write_bytes(path.read_bytes().replace(b"llama", b"xlama"))
    for fields, code in (({}, "runtime-unsupported"), ({"adapters": (f"a={path}",)}, "runtime-mismatch")):
        with pytest.raises(ModelFileError) as caught:
            _open(path if fields else stranger, **fields)
        assert caught.value.code == code and caught.value.exit_code == 2


def test_a_context_beyond_this_machines_memory_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("locum.runtime.open.open_text", lambda *_: pytest.fail("it was opened"))
    path = pico_gguf(tmp_path / "m.gguf", n_ctx=1 << 30).path
    with pytest.raises(DeviceError, match="key-value cache") as caught:
        _open(path, n_ctx=1 << 30, slots=256)
    assert caught.value.code == "fit-memory" and "--slots" in caught.value.fix and caught.value.exit_code == 2


def test_auto_takes_the_engine_that_reads_the_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCUM_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    path = pico_gguf(tmp_path / "m.gguf").path
    with listening(lambda event: said.append(event.label)):
        model = _open(path, engine="auto")
    assert model.describe()["engine"] == "llamacpp"
    assert any("openvino" in line for line in said)
    model.close()


@pytest.mark.parametrize("given", ["law", "law=", "=x.gguf", "law=/nowhere/x.gguf"])
def test_adapters_are_name_and_path(given: str):
    from locum.cli.serve import _adapters

    with pytest.raises(UserError):
        _adapters((given,))


def test_serving_a_plain_model_needs_little_memory_and_no_heavy_library():
    heavy = ("scipy", "sklearn", "matplotlib", "torch", "pandas", "onnxruntime", "transformers", "starlette")
    code = (
        "import sys, locum.gateway.serve, locum.cli.serve, locum.gateway.targets, locum.runtime.open;"
        "import locum.sources.bases, locum.fit.device, locum.fit.memory, locum.fit.text_memory;"
        "from locum.gateway.app import create_app; from locum.gateway.targets import ModelTarget;"
        "from locum.testing import FakeGenerator; create_app(ModelTarget('m', FakeGenerator()));"
        "import locum.runtime.llamacpp, pathlib; status = pathlib.Path('/proc/self/status');"
        "lines = status.read_text().splitlines() if status.exists() else ['VmRSS: 0 kB'];"
        "print(next(line.split()[1] for line in lines if line.startswith('VmRSS')));"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    rss_kb, loaded = done.stdout.splitlines()
    assert int(rss_kb) < 150_000
    assert loaded == "[]"


def test_the_seam_is_small():
    """Two targets, one protocol: whatever the gateway asks of one, the other has."""
    from locum.gateway.targets import Target

    names = {name for name, value in vars(Target).items() if isinstance(value, Callable | property) and name[0] != "_"}
    for kind in (ModelTarget, BundleTarget):
        assert {name for name in names if not hasattr(kind, name)} == set()
