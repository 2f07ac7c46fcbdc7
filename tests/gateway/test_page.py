"""The page at ``/`` over HTTP: what it may do, what it tells of requests, and the rows that reviews become."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import DataError, UserError
from locum.data.labelled import read_labelled
from locum.gateway.errors import ApiError
from locum.gateway.review import MAX_BYTES, ReviewFile, ReviewRequest
from locum.gateway.serve import _announce
from locum.gateway.settings import Settings
from locum.gateway.targets import ModelTarget
from locum.pipeline.examine import evaluate_bundle
from locum.pipeline.recertify import certify_bundle
from locum.schema.task import Task
from locum.testing import FakeGenerator, Scripted
from locum.testing.bundles import pico_bundle

SURE = "my card did not arrive, delivery was due"
UNSURE = "good morning"
KEY = "a-key-made-by-chance-93"


def _task(kind: str, **more: Any) -> Task:
    data = more.pop("data", {"train": "t.jsonl", "input": "text", "output": "answer"})
    return Task.model_validate({"version": 1, "name": "t", "kind": kind, "instruction": "Do.", "data": data, **more})


def _said(input: Any, answer: str, verdict: str = "right", **more: Any) -> ReviewRequest:
    return ReviewRequest.model_validate({"model": "t", "input": input, "answer": answer, "verdict": verdict, **more})


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_page_and_all_it_loads_is_here_small_and_may_load_nothing_else(start) -> None:
    http = start().http
    first = http.get("/")
    found, waiting = {"/": first.content}, re.findall(r'(?:src|href)="(page/[^"]+)"', first.text)
    assert any("panel-" in name for name in waiting)
    while waiting:
        reply = http.get("/" + waiting.pop())
        assert reply.status_code == 200
        found[reply.url.path] = reply.content
        imported = re.findall(r'from "\./([^"]+)"', reply.text)
        waiting += [f"page/{name}" for name in imported if f"/page/{name}" not in found]
    assert sum(map(len, found.values())) < 60_000
    for path in found:
        headers = http.get(path).headers
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert (
            policy["default-src"]
            == policy["frame-ancestors"]
            == policy["base-uri"]
            == policy["form-action"]
            == "'none'"
        )
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    text = b"".join(found.values()).decode()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|insertAdjacent|document\.write|eval\(", text)
    assert not re.search(r"\sstyle=|\son[a-z]+=\"|<script>", first.text)  # which the policy would forbid


def test_served_tells_the_task_the_certificate_and_where_requests_went_but_no_text(start, tmp_path: Path) -> None:
    running = start(script=["card"])
    assert running.ask(SURE).headers["x-locum-route"] == "local"
    assert running.ask(UNSURE).headers["x-locum-route"] == "llm"
    assert running.ask(SURE, model="nobody").status_code == 404
    served = running.http.get("/locum/served").json()
    assert served["input"] == ["text"] and served["labels"] == ["card", "cash", "pin"] and served["llm"] == "big"
    assert served["threshold"] == 0.8 and served["models"] == ["pico", "pico@local", "pico@llm"]
    assert served["certificate"]["statement"] == running.student.certificate.statement
    assert served["review"] is None
    traffic = served["traffic"]
    assert [traffic[name] for name in ("local", "llm", "abstained", "failed")] == [1, 1, 0, 1]
    assert [each["route"] for each in traffic["recent"]] == ["none", "llm", "local"]  # the newest first
    assert traffic["recent"][0]["error"] == "model_not_found" and traffic["recent"][2]["confidence"] >= 0.8
    times = sorted(each["ms"] for each in traffic["recent"][1:])
    assert traffic["median_ms"] == pytest.approx(sum(times) / 2, abs=0.002)
    assert SURE not in json.dumps(served) and UNSURE not in json.dumps(served)
    for _ in range(25):
        running.ask(SURE)
    assert len(running.http.get("/locum/served").json()["traffic"]["recent"]) == 20


def test_a_plain_model_is_told_as_one(start_model) -> None:
    served = start_model(FakeGenerator(["one two"])).http.get("/locum/served").json()
    assert served["certificate"] is None and served["generates"] and served["models"] == ["tiny"]


def test_with_a_key_the_code_is_open_and_all_it_asks_for_is_not(start) -> None:
    http = start(settings=Settings(api_key=KEY, review=None)).http
    assert http.get("/").status_code == http.get("/page/core.js").status_code == 200
    assert "pico" not in http.get("/").text
    for path in ("/locum/served", "/openapi.json", "/v1/models"):
        assert http.get(path).status_code == 401
        assert http.get(path, params={"key": KEY}).status_code == 401  # never from an address
        assert http.get(path, headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert http.post("/locum/review", json={}).status_code == 401


def test_a_rebound_name_gets_neither_page_nor_facts(start) -> None:
    http = start().http
    for path in ("/", "/page/core.js", "/locum/served"):
        assert http.get(path, headers={"host": "attacker.example"}).status_code == 403


def test_the_start_says_where_the_page_is(capsys: pytest.CaptureFixture[str]) -> None:
    for page in (True, False):
        _announce(ModelTarget("tiny", FakeGenerator(["x"])), page=page)("http://127.0.0.1:8080/v1")
        assert ("http://127.0.0.1:8080/;" in capsys.readouterr().err) is page


def test_no_page_takes_all_of_it_away(start, tmp_path: Path) -> None:
    http = start(settings=Settings(page=False, log_file=tmp_path / "log")).http
    assert {http.get(path).status_code for path in ("/", "/page/core.js", "/locum/served", "/locum/review")} == {404}
    command = [sys.executable, "-m", "locum.cli.main", "serve", "nothing", "--no-page", "--review", "r.jsonl"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 2 and "--no-page" in ended.stderr and not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://127.0.0.1:1"},  # another server of this machine
        {"origin": "http://localhost"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"content-type": "text/plain"},  # what a form can send
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
def test_a_page_of_another_site_cannot_write_a_row(start, tmp_path: Path, headers: dict[str, str]) -> None:
    file = tmp_path / "review.jsonl"
    running = start(settings=Settings(review=file, log_file=tmp_path / "log"))
    body = json.dumps({"model": "pico", "input": SURE, "answer": "card", "verdict": "right"})
    sent = {"content-type": "application/json", "origin": running.url, **headers}
    refused = running.http.post("/locum/review", content=body, headers=sent)
    assert refused.status_code in (400, 403) and not file.exists()
    sent = {"content-type": "application/json; charset=utf-8", "origin": running.url, "sec-fetch-site": "same-origin"}
    assert running.http.post("/locum/review", content=body, headers=sent).json() == {"status": "kept", "labelled": True}
    assert len(_lines(file)) == 1


def test_without_review_nothing_is_kept(start, tmp_path: Path) -> None:
    running = start()
    refused = running.http.post(
        "/locum/review", json={"model": "pico", "input": "a", "answer": "card", "verdict": "right"}
    )
    assert refused.status_code == 404 and "--review" in refused.json()["error"]["message"]


def test_reviews_at_once_are_whole_rows_that_eval_reads_and_a_proof_refuses(start, tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    running = start(settings=Settings(review=file, log_file=tmp_path / "log"))

    def say(number: int) -> None:
        for verdict, right in (("right", None), ("wrong", "pin"), ("wrong", None)):
            body = {"model": "pico", "input": f"{SURE} {number} =1+1\r\n\u2028", "answer": "card", "verdict": verdict}
            kept = running.http.post("/locum/review", json=body | ({"right": right} if right else {})).json()
            assert kept == {"status": "kept", "labelled": verdict == "right" or right is not None}

    threads = [threading.Thread(target=say, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = _lines(file)
    assert len(rows) == 36 and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {(row["label"], row["locum"]["verdict"]) for row in rows} == {
        ("card", "right"),
        ("pin", "wrong"),
        (None, "wrong"),
    }
    assert {row["locum"]["how"] for row in rows} == {"page-review"} and {row["locum"]["shown"] for row in rows} == {
        "card"
    }

    pico_bundle(tmp_path / "bundle", threshold=0.5)
    found = evaluate_bundle(tmp_path / "bundle", file, predictions=tmp_path / "p.jsonl")
    assert found["n"] == found["reviewed"] == 24
    before = (tmp_path / "bundle" / "certificate.json").read_bytes()
    with pytest.raises(DataError) as caught:
        certify_bundle(tmp_path / "bundle", file)
    assert caught.value.code == "data-hand-picked" and "24 rows" in caught.value.cause
    assert (tmp_path / "bundle" / "certificate.json").read_bytes() == before


def test_a_proof_goes_by_the_rows_that_nobody_picked(tmp_path: Path) -> None:
    file, task = tmp_path / "rows.jsonl", _task("classify")
    ReviewFile(file, task, ("a", "b")).add(_said("picked", "a"))
    with file.open("a") as end:
        end.write(json.dumps({"text": "came by itself", "answer": "b"}) + "\n")
    assert [row.input for row in read_labelled(file, task, ("a", "b")).rows] == ["picked", "came by itself"]
    proving = read_labelled(file, task, ("a", "b"), to_prove=True)
    assert [row.input for row in proving.rows] == ["came by itself"] and proving.reviewed == 1


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
CITY = [{"start": 5, "end": 9, "label": "city"}]
RANKED = {"train": "t", "input": ["q", "options"], "output": "answer"}


@pytest.mark.parametrize(
    ("task", "said", "output"),
    [
        (_task("tag"), _said("Ada in\r\nOslo", '[[0,3,"who"]]'), '[[0,3,"who"]]'),
        (_task("tag"), _said("Zoé🙂 Oslo", "[]", "wrong", right=CITY), '[[5,9,"city"]]'),
        (_task("extract", answer_schema=SCHEMA), _said("seven", '{"n":7}'), '{"n":7}'),
        (_task("extract", answer_schema=SCHEMA), _said("nine", '{"n":7}', "wrong", right={"n": 9}), '{"n":9}'),
        (_task("rank", data=RANKED), _said({"q": "x", "options": ["a", "b", "c"]}, "[2,0,1]"), "[2]"),
        (_task("rank", data=RANKED), _said({"q": "x", "options": ["a", "b"]}, "[1,0]", "wrong", right=[0]), "[0]"),
        (_task("generate", profile="qa", data={"train": "t", "input": ["q", "ctx.text"], "output": "answers.text"}),
         _said({"q": "who?", "ctx.text": "Ada wrote"}, "Ada"), "Ada"),
    ],
)  # fmt: skip
def test_a_row_of_each_kind_is_read_back_as_it_was_said(
    task: Task, said: ReviewRequest, output: str, tmp_path: Path
) -> None:
    file = tmp_path / "review.jsonl"
    assert ReviewFile(file, task).add(said)
    (row,) = read_labelled(file, task).rows
    assert row.output.replace(" ", "") == output


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (_task("classify"), _said("x", "c")),
        (_task("tag"), _said("Ada", '[[0,9,"who"]]')),
        (_task("tag"), _said("Ada", "no spans")),
        (_task("rank", data=RANKED), _said({"q": "x"}, "[0]")),
        (_task("rank", data=RANKED), _said({"q": "x", "options": ["a"]}, "[0]", "wrong", right=[4])),
        (_task("classify"), _said("   ", "a")),
    ],
)
def test_a_row_that_no_build_could_read_is_not_written(task: Task, said: ReviewRequest, tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    with pytest.raises(ApiError) as caught:
        ReviewFile(file, task, ("a", "b")).add(said)
    assert caught.value.status == 400 and not file.exists()


def test_a_file_that_is_full_torn_or_gone(tmp_path: Path) -> None:
    file, task = tmp_path / "review.jsonl", _task("classify")
    file.write_text('{"text": "half a')  # of a writer that was killed
    review = ReviewFile(file, task, ("a",))
    review.add(_said("new", "a"))
    assert json.loads(file.read_text().splitlines()[1])["text"] == "new"
    with file.open("ab") as end:
        end.truncate(MAX_BYTES - 10)
    with pytest.raises(ApiError) as caught:
        review.add(_said("too much", "a"))
    assert caught.value.code == "review_full" and file.stat().st_size == MAX_BYTES - 10
    file.unlink()
    tmp_path.chmod(0o700)
    gone = ReviewFile(tmp_path / "gone.jsonl", task, ("a",))
    (tmp_path / "gone.jsonl").mkdir()  # what stands there now cannot be appended to
    with pytest.raises(ApiError) as caught:
        gone.add(_said("x", "a"))
    assert caught.value.code == "review_failed" and caught.value.status == 503


@pytest.mark.parametrize(
    ("name", "content"), [("r.csv", None), ("no/r.jsonl", None), ("r.jsonl", "text,label\n"), (".", None)]
)
def test_a_place_that_rows_cannot_go_to_is_refused_at_the_start(tmp_path: Path, name: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        ReviewFile(tmp_path / name, None)
    assert caught.value.code == "gateway-review-file"


def test_what_is_said_of_a_plain_model_has_an_input_and_an_output(start_model, tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    running = start_model(
        ModelTarget("tiny", FakeGenerator(["x"])), settings=Settings(review=file, log_file=tmp_path / "l")
    )
    body = {"model": "tiny", "input": "A river?", "answer": "The sea.", "verdict": "wrong", "right": "The Aare."}
    assert running.http.post("/locum/review", json=body).status_code == 200
    (row,) = _lines(file)
    assert (row["input"], row["output"]) == ("A river?", "The Aare.")
    other = running.http.post("/locum/review", json=body | {"model": "other"})
    assert other.status_code == 404 and len(_lines(file)) == 1


def test_the_llm_that_fails_is_counted_as_failed(start) -> None:
    running = start(script=[Scripted(status=500)] * 5)
    assert running.ask(UNSURE).status_code >= 500
    traffic = running.http.get("/locum/served").json()["traffic"]
    assert traffic["failed"] == 1 and traffic["llm"] == 0 and traffic["median_ms"] is None
