"""Pages in browsers: preflights, answers that a page may read, and pages that may not ask."""

from __future__ import annotations

import httpx
import pytest

from locum.core.errors import UserError
from locum.gateway.cors import Pages, parse_origins
from locum.gateway.settings import Settings
from locum.testing import FakeEmbedder, FakeGenerator

PAGE, NAMED, FOREIGN = "http://localhost:5173", "https://app.example.org", "https://evil.example"
ASKING = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SDK = "authorization,content-type,openai-beta,x-stainless-arch,x-stainless-retry-count"


@pytest.fixture(params=[None, "a long key of this gateway"])
def gateway(start_model, tmp_path, request):
    origins = parse_origins([f"{NAMED}:443/"])
    settings = Settings(api_key=request.param, origins=origins, log_file=tmp_path / "log", drain_s=5)
    return start_model(FakeGenerator(), FakeEmbedder(), settings)


def preflight(gateway, origin: str, path: str = "/v1/chat/completions", **more: str) -> httpx.Response:
    return gateway.http.request("OPTIONS", path, headers={"origin": origin, **ASKING, **more})


@pytest.mark.engines
@pytest.mark.parametrize(
    "origin",
    [PAGE, "https://localhost", "http://127.0.0.1:3000", "http://[::1]:8080", "https://127.0.0.9:1", NAMED],
)
def test_a_page_of_this_machine_or_a_named_one_asks_without_a_key(gateway, origin: str):
    said = preflight(gateway, origin, **{"access-control-request-headers": SDK})
    assert (said.status_code, said.content) == (204, b"")
    assert said.headers["access-control-allow-origin"] == origin and "Origin" in said.headers.get_list("vary")
    assert "POST" in said.headers["access-control-allow-methods"]
    assert set(SDK.split(",")) <= set(said.headers["access-control-allow-headers"].split(", "))
    assert int(said.headers["access-control-max-age"]) > 0
    assert not {"content-length", "content-type", "access-control-allow-credentials"} & set(said.headers)


@pytest.mark.engines
@pytest.mark.parametrize(
    "origin", [FOREIGN, "null", f"{NAMED}.evil.example", f"{NAMED}:8443", "http://app.example.org"]
)
def test_other_pages_may_not_ask_and_are_told_the_switch(gateway, origin: str):
    said = preflight(gateway, origin)
    assert said.status_code == 403 and "--origin" in said.json()["error"]["message"]
    assert "access-control-allow-origin" not in said.headers and said.headers["vary"] == "Origin"


@pytest.mark.engines
def test_every_answer_and_every_error_can_be_read_by_the_page(gateway, request):
    key = {"authorization": "Bearer a long key of this gateway"}
    page = {"origin": PAGE, **key}
    stream = gateway.http.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=page)
    assert stream.headers["content-type"].startswith("text/event-stream")
    answers = [
        stream,
        gateway.http.post("/v1/chat/completions", json=CHAT, headers=page),
        gateway.http.post("/v1/chat/completions", json={**CHAT, "temperature": 9}, headers=page),
        gateway.http.get("/nowhere", headers=page),
        gateway.http.request("DELETE", "/v1/models", headers=page),
        gateway.http.get("/v1/models/gone", headers=page),
        gateway.http.get("/health", headers={"origin": PAGE}),
    ]
    assert [each.status_code for each in answers] == [200, 200, 400, 404, 405, 404, 200]
    if "key" in request.node.name:
        answers.append(gateway.http.get("/v1/models", headers={"origin": PAGE}))
    else:  # the page may ask, but by a rebound name
        answers.append(gateway.http.get("/v1/models", headers={"origin": PAGE, "host": "evil.example"}))
    assert answers[-1].status_code in (401, 403)
    for each in answers:
        assert each.headers["access-control-allow-origin"] == PAGE, each.status_code
        exposed = each.headers["access-control-expose-headers"].split(", ")
        told = {name for name in each.headers if name.startswith(("x-locum-", "x-request"))}
        assert told <= set(exposed) and {"x-locum-route", "retry-after"} <= set(exposed)


@pytest.mark.engines
def test_who_is_no_page_sees_nothing_of_this(gateway):
    key = {"authorization": "Bearer a long key of this gateway"}
    plain = gateway.http.get("/v1/models", headers=key).headers
    assert not [name for name in plain if name.startswith("access-control") or name == "vary"]
    assert gateway.http.request("OPTIONS", "/v1/models", headers=key).status_code == 405


@pytest.mark.engines
def test_chrome_asks_whether_a_page_from_elsewhere_may_reach_this_machine(gateway):
    said = preflight(gateway, NAMED, **{"access-control-request-private-network": "true"})
    assert said.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-private-network" not in preflight(gateway, NAMED).headers


def test_headers_that_are_asked_for_are_repeated_only_as_names():
    pages = Pages(lambda _origin: True)
    asked = b"X-Good, bad header, a\r\nset-cookie: x, \xff, " + b",".join(b"x-%d" % number for number in range(500))
    said = pages.preflight([(b"origin", b"http://localhost"), (b"access-control-request-headers", asked)])
    assert said is not None
    names = said.headers["access-control-allow-headers"].split(", ")
    assert names[:3] == ["authorization", "content-type", "x-good"] and len(names) < 70
    assert all(name.isascii() and " " not in name and "\n" not in name for name in names)


def test_two_origins_are_told_none():
    assert [
        name for name, _ in Pages(lambda _origin: True).headers([(b"origin", b"http://a"), (b"origin", b"http://b")])
    ] == [b"vary"]


@pytest.mark.parametrize("wrong", ["*", "null", "example.org", "https://example.org/app", "https://", "a b://c", ""])
def test_what_is_no_origin_is_refused(wrong: str):
    with pytest.raises(UserError) as caught:
        parse_origins(["https://good.example", wrong])
    assert caught.value.code == "gateway-origin" and "--origin" in caught.value.fix


def test_origins_are_kept_as_browsers_send_them():
    given = ["HTTPS://App.Example.org:443/", "http://a.example:80", "http://a.example:443", "app://obsidian.md"]
    kept = ("https://app.example.org", "http://a.example", "http://a.example:443", "app://obsidian.md")
    assert parse_origins(given) == kept
