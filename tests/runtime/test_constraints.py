"""The worker that compiles constraints: hostile ones are errors in time, and the next one is served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from locum.core.errors import LocumError, UserError
from locum.gateway.errors import from_engine_error
from locum.runtime import constraints
from locum.runtime.constraints import check_grammar, compile_schema
from locum.runtime.schema_limits import MAX_DEPTH


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """Each level names the next one twice."""
    definitions: dict[str, Any] = {f"d{levels}": {"type": "string"}}
    for level in range(levels):
        inner = {"type": "array", "items": {"$ref": f"#/$defs/d{level + 1}"}}
        definitions[f"d{level}"] = {"anyOf": [inner, {**inner, "minItems": 1}]}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def chain(length: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(length)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "null"}}}


HOSTILE: dict[str, Any] = {
    "deep": nested(5000),
    "just too deep": nested(MAX_DEPTH),
    "deep by references": chain(500),
    "wide": {"type": "object", "properties": {f"p{i}": {} for i in range(5000)}},
    "many values": {"enum": list(range(5000))},
    "long text": {"const": "x" * 100_000},
    "long name": {"properties": {"x" * 70_000: {}}},
    "many alternatives": {"anyOf": [{"type": "string", "maxLength": i} for i in range(1, 1000)]},
    "doubling": doubling(15),
    "doubled unions": {"anyOf": [{"anyOf": [{"anyOf": [nested(9)] * 60}] * 60}] * 60},
    "large product": {
        "type": "object",
        "properties": {
            f"p{i}": {"type": "object", "properties": {f"q{j}": {"type": "number", "minimum": 0.123} for j in range(9)}}
            for i in range(256)
        },
    },
    "catastrophic pattern": {"type": "string", "pattern": "^((a{1,90}){1,90}){1,90}$"},
    "pattern of brackets": {"type": "string", "pattern": "(" * 300},
    "pattern of stars": {"type": "string", "pattern": "^(((a*)*)*)*$"},
    "long pattern": {"type": "string", "pattern": "^(a|b|c|" + "ab|" * 400 + "d)$"},
    "huge repetition in a pattern": {"type": "string", "pattern": "^a{100000}$"},
    "nested repetition": {
        "type": "array",
        "items": {"type": "string", "pattern": "^(ab){1500}(cd){1500}$"},
        "minItems": 999,
    },
    "look-ahead": {"type": "string", "pattern": "^(?=.*a)(?=.*b).*$"},
    "huge length": {"type": "string", "minLength": 10**9},
    "length beyond 64 bits": {"type": "string", "maxLength": 2**63},
    "huge array": {"type": "array", "items": {}, "minItems": 10**7},
    "refers to itself": {"$ref": "#"},
    "circle": {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}},
    "never ends": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "remote": {"$ref": "http://169.254.169.254/latest/meta-data"},
    "a file": {"$ref": "file:///etc/passwd"},
    "an endless pointer": {"$ref": "#/" + "a/" * 20_000},
    "a lone surrogate": {"enum": ["\udc00"]},
    "a surrogate as a name": {"properties": {"\ud800": {}}},
    "not a number": {"type": "number", "minimum": float("nan")},
    "infinity": {"type": "number", "maximum": float("inf")},
    "a huge integer": {"const": 10**4000},
    "a number of 300 digits": {"type": "number", "minimum": -1e300, "maximum": 1e-300},
    "a type that cannot be hashed": {"type": [["string"]]},
    "required holds no names": {"properties": {"a": {}}, "required": [["a"]]},
    "oneOf of unhashable names": {
        "oneOf": [{"properties": {}, "required": [[]]}, {"properties": {}, "required": [{}]}]
    },
    "a reference that is no text": {"$ref": ["#"]},
    "nothing of JSON": {"const": object()},
    "a zero byte in a reference": {"$ref": "#/\0"},
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_fault_74_a_hostile_schema_is_an_error_in_time(name: str) -> None:
    compile_schema({"type": "null"})  # the worker runs
    start_s = time.perf_counter()
    with pytest.raises(UserError) as caught:
        compile_schema(HOSTILE[name])
    assert caught.value.code.startswith("runtime-constraint-")
    assert len(str(caught.value)) < 1500
    assert time.perf_counter() - start_s < 3
    assert compile_schema({"type": "boolean", "title": name})


def test_fault_74_a_worker_that_hangs_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = constraints._Compiler()
    stuck = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    monkeypatch.setattr(compiler, "_child", stuck)
    start_s = time.perf_counter()
    with pytest.raises(UserError) as caught:
        compiler.compile("grammar", 'root ::= "a"', 0.2)
    assert caught.value.code == "runtime-constraint-timeout"
    assert time.perf_counter() - start_s < 3
    assert stuck.poll() is not None
    assert compiler.compile("grammar", 'root ::= "a"', 30.0) == 'root ::= "a"'
    compiler.close()


def test_fault_74_a_worker_that_is_killed_within_its_answer_has_not_answered() -> None:
    program = """import sys; sys.stdout.write('{"text": "ro'); sys.stdout.flush()"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as child:
        assert constraints._exchange(child, None, 30.0) == ""


def test_a_worker_that_was_killed_is_replaced_unseen() -> None:
    compiler = constraints._Compiler()
    compiler.compile("grammar", 'root ::= "a"', 30.0)
    child = compiler._child
    assert child is not None
    child.kill()
    child.wait()
    assert compiler.compile("grammar", 'root ::= "b"', 30.0) == 'root ::= "b"'
    compiler.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is read from /proc")
def test_fault_74_memory_is_limited_in_the_worker_alone() -> None:
    program = (
        "import locum.runtime.compile_worker as w; w._limit_memory()\n"
        "try:\n    b'x' * (1 << 30)\nexcept MemoryError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="whether a process has ended is read from /proc")
def test_the_worker_ends_with_its_parent() -> None:
    program = (
        "from locum.runtime import constraints as c\n"
        "c.check_grammar('root ::= \"a\"'); print(c._COMPILER._child.pid, flush=True); import time; time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            return  # nobody here waits for it, but it has ended
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_outcomes_are_kept_and_their_number_is_bounded() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "null"}}}
    first = compile_schema(schema)
    assert compile_schema(json.loads(json.dumps(schema))) is first
    assert first.index('b\\"') < first.index('a\\"')
    for index in range(constraints.KEPT + 5):
        check_grammar(f'root ::= "{index}"')
    assert len(constraints._COMPILER._outcomes) == constraints.KEPT
    assert compile_schema(schema) == first


def test_several_threads_get_their_own_answers() -> None:
    with ThreadPoolExecutor(8) as pool:
        grammars = list(pool.map(lambda i: check_grammar(f'root ::= "thread {i}"'), range(24)))
    assert grammars == [f'root ::= "thread {i}"' for i in range(24)]


@pytest.mark.parametrize(
    "text", ["", "x", 'root ::= "a" root', "root ::= " + "(" * 300_000, "\ud800", "root ::= <[1]>"]
)
def test_fault_74_a_hostile_grammar_is_an_error(text: str) -> None:
    with pytest.raises(UserError) as caught:
        check_grammar(text)
    assert caught.value.code in ("runtime-constraint-grammar", "runtime-constraint-too-large")


def slow_grammar(salt: int) -> str:
    """A harmless grammar that takes about a second to check."""
    rules = "\n".join(f'r{i} ::= "{salt}x{i:030d}" [a-z]{{1,9}}' for i in range(900))
    return rules + "\nroot ::= " + " | ".join(f"r{i}" for i in range(900))


def test_fault_10_a_harmless_text_does_not_wait_for_slow_ones() -> None:
    compiler = constraints._Compiler()
    compiler.compile("grammar", 'root ::= "a"', 30.0)
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(compiler.compile, "grammar", slow_grammar(salt), 30.0) for salt in range(4)]
        time.sleep(0.05)
        waits_s: list[float] = []
        for number in range(5):
            start_s = time.perf_counter()
            assert compiler.compile("grammar", f'root ::= "{number}"', 30.0)
            waits_s.append(time.perf_counter() - start_s)
        assert not slow[-1].done(), "the slow ones are still at work"
        assert max(waits_s) < 1.5 and sorted(waits_s)[2] < 0.5
        assert [done.result() for done in slow] == [slow_grammar(salt) for salt in range(4)]
    compiler.close()


def test_fault_10_what_finds_no_place_is_told_to_come_back_and_is_no_mistake_of_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constraints, "SLOW_WAITING", 2)
    compiler = constraints._Compiler()

    def ask(salt: int) -> str:
        try:
            return compiler.compile("grammar", slow_grammar(salt), 30.0)
        except LocumError as error:
            assert not isinstance(error, UserError)
            assert from_engine_error(error).status == 503 and from_engine_error(error).retry_after_s
            return error.code

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, range(6)))
    assert 2 <= found.count("runtime-busy") <= 4
    refused = found.index("runtime-busy")
    assert ask(refused) == slow_grammar(refused), "to be refused for want of a place is not remembered"
    compiler.close()


def test_fault_10_a_wait_for_a_turn_that_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "WAIT_S", 0.1)
    compiler = constraints._Compiler()
    compiler._quick_worker._enter()  # somebody who does not end
    with pytest.raises(LocumError) as caught:
        compiler.compile("grammar", 'root ::= "a"', 1.0)
    assert caught.value.code == "runtime-busy" and len(compiler._quick_worker._turns) == 1


def test_fault_10_a_text_that_was_too_slow_is_refused_at_once_the_next_time() -> None:
    compiler = constraints._Compiler()
    text = slow_grammar(77)
    for attempt in range(2):
        start_s = time.perf_counter()
        with pytest.raises(UserError) as caught:
            compiler.compile("grammar", text, 0.2)
        assert caught.value.code == "runtime-constraint-timeout"
        taken_s = time.perf_counter() - start_s
        assert taken_s < 0.02 if attempt else taken_s > 0.2
    workers = [compiler._quick_worker.child, compiler._slow_worker.child]
    assert all(child is not None and child.poll() is None for child in workers), "neither had to be killed for it"
    compiler.close()


def test_fault_10_many_who_ask_for_one_text_wait_for_one_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = constraints._Compiler()
    asked: list[str] = []
    ask = constraints.Worker.ask

    def counted(self: Any, request: dict[str, Any], wall_s: float) -> dict[str, Any]:
        asked.append(request["kind"])
        return ask(self, request, wall_s)

    monkeypatch.setattr(constraints.Worker, "ask", counted)
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: compiler.compile("grammar", slow_grammar(5), 30.0), range(16)))
    assert found == {slow_grammar(5)} and len(asked) == 2, "once the quick worker, once the slow one"
    compiler.close()


RANGES = "".join(f"{chr(0x4E00 + 3 * number)}-{chr(0x4E01 + 3 * number)}" for number in range(200))


def test_fault_10_ranges_of_a_class_count_as_often_as_they_are_written_out() -> None:
    with pytest.raises(UserError, match="100,000") as caught:
        check_grammar(f"root ::= [{RANGES}]{{700}}")
    assert caught.value.code == "runtime-constraint-too-large"
    for once in (
        f"root ::= c{{700}}\nc ::= [{RANGES}]",
        f"root ::= ([{RANGES}]){{700}}",
        f"root ::= [{RANGES}]{{400}}",
    ):
        assert check_grammar(once) == once, "a reference to it counts as one"


PROC = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked at in /proc")


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@PROC
def test_fault_74_a_worker_that_does_not_answer_is_gone_from_the_system_and_the_next_is_served() -> None:
    compiler = constraints._Compiler()
    compiler.compile("grammar", 'root ::= "a"', 30.0)
    worker = compiler._child
    assert worker is not None
    os.kill(worker.pid, signal.SIGSTOP)  # as one whose native code never returns
    start_s = time.perf_counter()
    with pytest.raises(UserError) as caught:
        compiler.compile("grammar", 'root ::= "b"', 0.3)
    assert caught.value.code == "runtime-constraint-timeout" and time.perf_counter() - start_s < 3
    assert gone(worker.pid)
    assert compiler.compile("grammar", 'root ::= "b"', 30.0) == 'root ::= "b"', "the clock alone condemns no text"
    compiler.close()


@PROC
def test_fault_74_a_text_that_needs_too_much_memory_ends_its_worker_under_the_limit(tmp_path: Path) -> None:
    """The worker with a compiler that grows without end in place of its own."""
    program = (
        "import sys, locum.runtime.compile_worker as w\n"
        "held = []\n"
        "def grow(kind, text):\n"
        "    if text != 'grow': return text\n"
        "    while True: held.append(bytearray(1 << 20))\n"
        "w.compile_text = grow\n"
        f"status = w.main(); open({str(tmp_path / 'peak')!r}, 'w').write(open('/proc/self/status').read())\n"
        "sys.exit(status)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as worker:
        assert constraints._exchange(worker, None, 30.0)
        size_kb = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") // 1024
        request = {"kind": "grammar", "text": "grow", "processor_s": 20.0}
        answer = json.loads(constraints._exchange(worker, json.dumps(request), 30.0))
        assert answer["error"]["code"] == "runtime-constraint-timeout" and "memory" in answer["error"]["cause"]
        assert worker.wait(10) == 1, "it does not go on after that"
    peak_kb = int((tmp_path / "peak").read_text().split("VmPeak:")[1].split()[0])
    assert size_kb + (200 << 10) < peak_kb <= size_kb + (260 << 10), "it grew up to the limit and not beyond"


@PROC
def test_fault_21_workers_and_template_checks_see_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCUM_API_KEY", "secret-one")
    monkeypatch.setenv("SOME_PROVIDER", "secret-two")
    compiler = constraints._Compiler()
    compiler.compile("grammar", 'root ::= "a"', 30.0)
    assert compiler._child is not None
    seen = Path(f"/proc/{compiler._child.pid}/environ").read_bytes()
    compiler.close()
    assert b"PATH=" in seen and b"secret" not in seen
