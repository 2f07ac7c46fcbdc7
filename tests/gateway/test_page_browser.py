"""The page at ``/`` in headless Chromium, with a real bundle behind it; skipped where there is no Chromium."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from locum.gateway.settings import Settings
from locum.gateway.targets import ModelTarget
from locum.testing import FakeGenerator

SURE = "my card did not arrive, delivery was due"
UNSURE = "good morning"
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --remote-debugging-port=0"


class Tab:
    """One tab, spoken to by Chrome's DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0
        self.said: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("method") == "Runtime.exceptionThrown":
                self.said.append(json.dumps(message["params"]))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["source"] != "network":
                self.said.append(message["params"]["entry"]["text"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str, width: int = 1200, dark: bool = False, height: int = 900) -> None:
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, limit_s: float = 20) -> None:
        """Until an expression is true."""
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            if self.value(f"Boolean({expression})"):
                return
            time.sleep(0.03)
        raise AssertionError(f"never true: {expression}; the page: {self.value('document.body.innerText')}")

    def text(self, selector: str) -> str:
        return self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def click(self, words: str) -> None:
        """Press the button with these words, as a person does: with its place on the screen."""
        found = f"[...document.querySelectorAll('button')].find((b) => b.innerText === {json.dumps(words)})"
        self.wait(f"{found} && !{found}.disabled")
        place = self.value(
            f"(() => {{ const b = {found}; b.scrollIntoView({{block: 'center'}}); const r = b.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def key(self, key: str, modifiers: int = 0) -> None:
        code = {"Enter": 13, "Tab": 9, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        more = {"text": text} if text else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=modifiers,
                windowsVirtualKeyCode=code, **(more if kind == "keyDown" else {}),
            )  # fmt: skip

    def picture(self, file: Path) -> None:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def chromium(folder: Path) -> Generator[Tab, None, None]:
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    client = pytest.importorskip("websockets.sync.client")
    command = [program, *FLAGS.split(), f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file, deadline_s = folder / "DevToolsActivePort", time.monotonic() + 30
            while not port_file.exists() or len(port_file.read_text().splitlines()) < 2:
                assert process.poll() is None and time.monotonic() < deadline_s, "Chromium does not start"
                time.sleep(0.05)
            port, path = port_file.read_text().splitlines()[:2]
            with client.connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as browser:
                whole = Tab(browser)
                target = whole.call("Target.createTarget", url="about:blank")["targetId"]
                with client.connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_size=None, proxy=None) as page:
                    yield Tab(page)
                whole.call("Browser.close")
            process.wait(20)
        finally:
            process.kill()


CONTRAST = """(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (node) => {
    const colour = node ? parse(getComputedStyle(node).backgroundColor) : [255, 255, 255];
    return (colour[3] ?? 1) > 0 ? colour : behind(node.parentElement);
  };
  const poor = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.disabled) continue;
    const a = light(parse(getComputedStyle(node).color)), b = light(behind(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([node.innerText.slice(0, 40), ratio]);
  }
  return poor;
})()"""
"""Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3)."""


@pytest.fixture
def tab(tmp_path: Path) -> Generator[Tab, None, None]:
    with chromium(tmp_path / "chromium") as opened:
        yield opened


def ask(tab: Tab, text: str, words: str) -> None:
    """Type a question, send it with Enter, and wait for who answered."""
    tab.wait("document.querySelector('#try textarea') && !document.querySelector('#out')?.hasAttribute('aria-busy')")
    tab.value("(() => { const t = document.querySelector('#try textarea'); t.value = ''; t.focus(); })()")
    tab.type(text)
    tab.key("Enter")
    tab.wait(f"document.querySelector('#out').innerText.includes({json.dumps(words)})")


def labels(tab: Tab) -> str:
    return tab.value("document.querySelector('#out .sure').getAttribute('aria-label')")


@pytest.mark.engines
def test_a_person_asks_sees_why_and_says_what_is_right(start, tab: Tab, tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    running = start(settings=Settings(review=file, log_file=tmp_path / "log"))
    began = time.monotonic()
    tab.open(f"{running.url}/")
    tab.wait("document.querySelector('#try textarea')")
    assert time.monotonic() - began < 10
    paint = "performance.getEntriesByName('first-contentful-paint')[0]"
    tab.wait(paint)
    assert tab.value(f"{paint}.startTime") < 2000  # on a busy machine; docs/api.md has what was measured on a free one

    ask(tab, SURE, "Answered here")
    assert "card" in tab.text("#out .said") and "Covered by the certificate" in tab.text("#out")
    assert "It answers alone from 80 %" in labels(tab)
    tab.click("right")
    tab.wait("document.querySelector('#out').innerText.includes('Kept in review.jsonl')")

    ask(tab, UNSURE, "Nobody answered")
    assert "no LLM is set up" in tab.text("#out") and "Not covered" in tab.text("#out")
    tab.click("the right answer is …")
    tab.value("document.querySelector('#right-text').value = 'pin'")
    tab.click("Save")
    tab.wait("document.querySelector('#out').innerText.includes('Kept in review.jsonl')")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["text"], row["label"], row["locum"]["route"]) for row in rows] == [
        (SURE, "card", "local"),
        (UNSURE, "pin", "abstain"),
    ]
    tab.wait("document.querySelectorAll('.recent li').length === 2")
    assert SURE in tab.text(".recent") and UNSURE in tab.text(".recent")
    assert tab.said == []  # neither an exception nor anything that the content policy stopped


@pytest.mark.engines
def test_what_a_model_writes_is_text_and_streams_into_a_conversation(start_model, tab: Tab, tmp_path: Path) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> [a](javascript:1)"
    engine = FakeGenerator([evil, "The second answer."])
    running = start_model(ModelTarget("tiny", engine))
    tab.open(f"{running.url}/")
    ask(tab, "say something", "javascript:1")
    assert tab.value("document.querySelectorAll('#out img, #out script').length") == 0
    assert tab.text("#out .said") == evil
    ask(tab, "and now?", "The second answer.")
    turns = [(message.role, message.content) for message in engine.requests[-1].messages]
    assert turns == [("user", "say something"), ("assistant", evil), ("user", "and now?")]
    assert "tiny" in tab.value("document.title") and "certificate" not in tab.text("#panels")


@pytest.mark.engines
def test_the_key_is_asked_for_kept_in_the_tab_and_never_in_an_address(start, tab: Tab, tmp_path: Path) -> None:
    key = "a-key-made-by-chance-93"
    running = start(settings=Settings(api_key=key, log_file=tmp_path / "log"))
    tab.open(f"{running.url}/")
    tab.wait("!document.querySelector('#key').hidden")
    for typed in ("wrong", key):
        tab.value("document.querySelector('#key-text').focus()")
        tab.type(typed)
        tab.key("Enter")
        tab.wait(
            "!document.querySelector('#problem').hidden"
            if typed == "wrong"
            else "document.querySelector('#key').hidden"
        )
    ask(tab, SURE, "Answered here")
    urls = tab.value("JSON.stringify([location.href, ...performance.getEntriesByType('resource').map((r) => r.name)])")
    stored = tab.value("JSON.stringify([document.cookie, {...localStorage}])")
    assert key not in urls and stored == '["",{}]' and key not in (tmp_path / "log").read_text()


@pytest.mark.engines
@pytest.mark.parametrize("dark", [False, True])
def test_keyboard_phone_and_contrast(start, tab: Tab, dark: bool, tmp_path: Path) -> None:
    running = start(settings=Settings(review=tmp_path / "review.jsonl", log_file=tmp_path / "log"))
    tab.open(f"{running.url}/", width=360, dark=dark)
    ask(tab, SURE, "Answered here")
    assert tab.value("document.documentElement.scrollWidth") <= 360
    reached = []
    for _ in range(12):
        tab.key("Tab")
        reached.append(tab.value("document.activeElement === document.body ? '' : document.activeElement.innerText"))
        outline = tab.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or not reached[-1]  # where the focus is can be seen
    assert reached[:4] == ["Ask", "certificate", "right", "wrong"]
    assert tab.value(CONTRAST) == []


@pytest.mark.engines
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(start, tab: Tab, dark: bool, tmp_path: Path) -> None:
    axe = Path(os.environ.get("AXE_CORE", "axe.min.js"))
    if not axe.is_file():
        pytest.skip("AXE_CORE does not name axe.min.js: npm pack axe-core")
    running = start(settings=Settings(review=tmp_path / "review.jsonl", log_file=tmp_path / "log"))
    tab.open(f"{running.url}/", dark=dark)
    ask(tab, UNSURE, "Nobody answered")
    tab.click("the right answer is …")
    tab.value("document.querySelector('#certificate summary').click()")
    tab.value(axe.read_text(encoding="utf-8"))
    found = tab.value("axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))")
    assert found == []
