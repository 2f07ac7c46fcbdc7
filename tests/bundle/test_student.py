"""An opened bundle answers, hands over, abstains; and gives nothing uncertified when its certificate is void."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import locum
from locum.bundle.student import describe, open_bundle
from locum.core.errors import LocumError, ModelFileError, UpstreamError, UserError
from locum.runtime.completion import CompletionRequest
from locum.schema.message import Message
from locum.schema.task import LlmSpec
from locum.testing import FakeGenerator, FakeUpstream
from locum.testing.bundles import pico_bundle, pico_task

SURE, UNSURE = "my card did not arrive, delivery was due", "good morning"


def test_locum_open_answers(bundle: Path):
    with locum.open(bundle) as student:
        answer = student(SURE)
        assert (answer.output, answer.route) == ("card", "local")
        assert answer.certificate == student.certificate.hash()[:12]
        assert answer.confidence > 0.9
        assert student.name == "pico" and student.labels == ("card", "cash", "pin")


def test_opening_and_answering_imports_no_scipy_and_no_fingerprint(bundle: Path):
    code = (
        "import sys, locum\n"
        "student = locum.open(sys.argv[1]); assert student('card arrive').route == 'local'\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] == 'scipy' or m == 'locum.data.fingerprint'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_an_unsure_student_abstains_without_an_llm(bundle: Path):
    with open_bundle(bundle) as student:
        answer = student(UNSURE)
        assert (answer.output, answer.route, answer.certificate) == (None, "abstain", None)
        assert "below 0.8" in answer.reason


def test_an_unsure_student_hands_over(tmp_path: Path):
    pico_bundle(tmp_path / "b", task_text=pico_task(base_url="http://127.0.0.1:9/v1", model="m"))
    llm = FakeGenerator(["cash"])
    with open_bundle(tmp_path / "b", llm=llm) as student:
        answers = student.many([SURE, UNSURE, SURE])
        assert [a.route for a in answers] == ["local", "llm", "local"]
        assert answers[1].output == "cash" and answers[1].certificate is None
    assert len(llm.requests) == 1 and llm.closed


def test_local_mode_never_leaves_and_says_what_covers_it(tmp_path: Path):
    pico_bundle(tmp_path / "b", task_text=pico_task(base_url="http://127.0.0.1:9/v1", model="m"))
    llm = FakeGenerator()
    with open_bundle(tmp_path / "b", llm=llm) as student:
        unsure, sure = student.many([UNSURE, SURE], "local")
        assert unsure.route == sure.route == "local"
        assert unsure.certificate is None and sure.certificate is not None
    assert llm.requests == []


def test_a_failing_llm_is_an_error_and_never_an_uncertified_answer(tmp_path: Path):
    pico_bundle(tmp_path / "b", task_text=pico_task(base_url="http://127.0.0.1:9/v1", model="m"))
    failing = FakeGenerator([UpstreamError("upstream-server-error", "down")])
    with open_bundle(tmp_path / "b", llm=failing) as student, pytest.raises(UpstreamError):
        student(UNSURE)
    with open_bundle(tmp_path / "b", llm=failing, when_llm_fails="uncertified") as student:
        answer = student(UNSURE)
        assert answer.certificate is None and answer.reason.startswith("uncertified")


@pytest.mark.parametrize("role", ["model", "task", "decoding", "redaction"])
def test_fault_90_a_certificate_for_something_else_covers_nothing(tmp_path: Path, role: str):
    pico_bundle(tmp_path / "b", hashes={role: "f" * 64})
    with open_bundle(tmp_path / "b") as student:
        assert student.void is not None and role in student.void
        assert student(SURE).route == "abstain"
        assert student(SURE, "local").certificate is None
        assert describe(student)["certificate_void"] == student.void


def test_fault_90_a_stale_certificate_covers_nothing(tmp_path: Path):
    pico_bundle(tmp_path / "b", issued=datetime.now(UTC) - timedelta(days=200))
    with open_bundle(tmp_path / "b") as student:
        assert student.void is not None and "expired" in student.void
        assert student(SURE).route == "abstain"


def test_fault_91_nothing_certified_means_nothing_local(tmp_path: Path):
    pico_bundle(tmp_path / "b", threshold=None)
    with open_bundle(tmp_path / "b") as student:
        assert [a.route for a in student.many([SURE, UNSURE])] == ["abstain", "abstain"]


def test_fault_32_a_harmed_bundle_is_not_opened(bundle: Path):
    (bundle / "policy.json").write_text('{"stages": [], "fallback": "abstain"}', encoding="utf-8")
    with pytest.raises(ModelFileError, match="refused"):
        open_bundle(bundle)


def test_fault_65_no_key_and_no_network_still_answer_locally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PICO_KEY", raising=False)
    text = pico_task(base_url="https://llm.invalid/v1", model="m", api_key_env="PICO_KEY")
    pico_bundle(tmp_path / "b", task_text=text)
    with open_bundle(tmp_path / "b") as student:
        assert student.llm is None and "PICO_KEY" in student.llm_problem
        assert student(SURE).route == "local"
        assert student(UNSURE).route == "abstain"
        with pytest.raises(UserError, match="PICO_KEY"):
            student.complete(CompletionRequest((Message("user", "x"),)))


def test_the_llm_of_the_task_file_is_asked_with_the_task(tmp_path: Path):
    with FakeUpstream(["pin"]) as upstream:
        pico_bundle(tmp_path / "b", task_text=pico_task(base_url=upstream.base_url, model="big"))
        with open_bundle(tmp_path / "b") as student:
            assert student.llm == "big"
            assert student(UNSURE).output == "pin"
        asked = upstream.received[0].body["messages"]
        assert "What is the message about?" in asked[0]["content"] and UNSURE in asked[-1]["content"]


def test_another_llm_can_be_given(bundle: Path):
    with (
        FakeUpstream(["pin"]) as upstream,
        open_bundle(bundle, LlmSpec(base_url=upstream.base_url, model="x")) as student,
    ):
        assert student(UNSURE, "llm").output == "pin"


def test_audits_reach_the_listener(tmp_path: Path):
    pico_bundle(tmp_path / "b", task_text=pico_task(base_url="http://127.0.0.1:9/v1", model="m"), audit_rate=1.0)
    seen: list[bool | None] = []
    done = threading.Event()
    with open_bundle(tmp_path / "b", llm=FakeGenerator(["card"])) as student:
        student.audits = lambda result: (seen.append(result.agrees), done.set())
        assert student(SURE).route == "local"
        assert done.wait(5)
    assert seen == [True]


def test_closing_twice_is_harmless_and_asking_after_is_an_error(bundle: Path):
    student = open_bundle(bundle)
    student.close()
    student.close()
    with pytest.raises(LocumError):
        student(SURE)


@pytest.mark.engines
def test_the_onnx_engine_opens_from_a_bundle(tmp_path: Path):
    pytest.importorskip("onnx")
    pico_bundle(tmp_path / "b", engine="onnx")
    with open_bundle(tmp_path / "b", threads=1) as student:
        assert student("card card", "local").output == "card"


def test_another_engine_than_the_measured_one_is_not_covered_by_the_certificate(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pico_bundle(tmp_path / "bundle", engine="onnx")
    with open_bundle(tmp_path / "bundle") as student:
        assert student.void is None
        assert student("card arrive delivery").route == "local"
    with open_bundle(tmp_path / "bundle", engine="onnx") as student:
        assert student.void is None
    with open_bundle(tmp_path / "bundle", engine="openvino") as student:
        assert student.void == "the certificate speaks of another model"
        assert student("card arrive delivery").route == "abstain"
        assert student("card arrive delivery", "local").output == "card"


def test_a_notebook_shows_student_and_certificate_without_their_markup(tmp_path: Path):
    text = pico_task().replace("What is the message about?", "About <script>alert(1)</script>?")
    pico_bundle(tmp_path / "b", task_text=text)
    with open_bundle(tmp_path / "b") as student:
        shown = student._repr_html_()
        assert "<script>" not in shown and "&lt;script&gt;" in shown and len(shown) < 4000
        assert student.certificate.expires_at[:10] in student.certificate._repr_html_()


@pytest.mark.parametrize("column", ["pandas.Series", "numpy.array", "pyarrow.array", "polars.Series"])
def test_many_takes_a_column_of_any_frame(bundle: Path, column: str):
    library, _, maker = column.partition(".")
    texts = [SURE, UNSURE, SURE]
    with open_bundle(bundle) as student:
        made = getattr(pytest.importorskip(library), maker)
        assert student.many(made(texts)) == student.many(texts)
        with pytest.raises(UserError, match="position 1"):
            student.many(made([SURE, None]))


def test_many_takes_any_texts_and_keeps_their_order(bundle: Path):
    texts = [SURE, UNSURE, "cash", "pin " * 40] * 30
    with open_bundle(bundle) as student:
        assert [each.output for each in student.many(iter(texts), "local")] == [
            student(text, "local").output for text in texts
        ]
        assert student.many([]) == []
        for wrong in ("one text", ["fine", None], [float("nan")]):
            with pytest.raises(UserError, match="many"):
                student.many(wrong)
