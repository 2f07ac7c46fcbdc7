"""Chat templates come with the model file, so they are programs by strangers: both interpreters are guarded.

Notable: llama.cpp runs the template in its own interpreter, which has no Python to reach, while it loads the model
and for every conversation. Before it sees one, the template renders a few conversations in Jinja's sandbox in a
process that Linux ends after 250 ms of processor time; after loading, llama.cpp renders them under the same cap, and
its process is killed over it. Processor time is counted and not the clock, so that a busy machine refuses nothing.
Each later conversation is rendered in the sandbox first, in a process that gives up on that one alone; one on which
llama.cpp alone never ends is silence of the engine, which ``llama_process`` kills. Not here: messages.

Run as a program (``python -m locum.runtime.llama_template``), this module is the guarded process: a template as JSON
on standard input, ``{"refused", "unable", "unread"}`` on standard output, null when nothing speaks against it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locum.core.environment import without_secrets
from locum.core.errors import DeviceError, ModelFileError, UserError
from locum.core.text import one_line
from locum.runtime.constraints import QUICK_WAITING, Worker
from locum.runtime.llama_client import EngineGoneError, EngineRefusedError, LlamaClient

if TYPE_CHECKING:
    from locum.runtime.gguf_check import GgufHeader
    from locum.runtime.llama_process import LlamaProcess

RENDER_CPU_S = 0.25
_RENDER_WALL_S = 30.0
_RENDER_ONE_WALL_S = 5.0
_LOOK_S = 0.02
_GIVEN = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
_RENDERER = Worker(QUICK_WAITING)
atexit.register(_RENDERER.close)
_MEMORY_BYTES = 1 << 30
_TIME_IS_UP = () if sys.platform == "win32" else (-signal.SIGPROF, -signal.SIGXCPU)
_PARAMETER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_FUNCTION = {"name": "weather", "description": "The weather.", "parameters": _PARAMETER}
_USER = {"role": "user", "content": "Hello."}
PROBES: tuple[dict[str, Any], ...] = (
    {"messages": [_USER]},
    {"messages": [{"role": "system", "content": "Be brief."}, _USER, {"role": "assistant", "content": "Hi."}, _USER]},
    {"messages": [_USER], "tools": [{"type": "function", "function": _FUNCTION}]},
)
"""Conversations that a template must render in time; only the first one must succeed. The last one is the first with
tools."""


def templates_of(header: GgufHeader) -> tuple[str, ...]:
    """Every chat template in a file's metadata."""
    values = (value for key, value in header.metadata.items() if key.startswith("tokenizer.chat_template"))
    return tuple(value for value in values if isinstance(value, str) and value.strip())


def check_template(templates: Sequence[str], where: str) -> str | None:
    """Render the probes in Jinja's sandbox, in a process that is ended when they take too long.

    Args:
        templates: each in turn.
        where: the model's file.

    Returns:
        Why Jinja cannot read one, with the line; llama.cpp may know what Jinja does not.

    Raises:
        ModelFileError: ``runtime-chat-template``: it never ends, takes too much memory, or reaches for Python.
        DeviceError: ``runtime-check``: the check itself could not run, for example for want of memory.
    """
    unread: str | None = None
    for template in templates:
        try:
            finished = subprocess.run(
                [sys.executable, "-m", "locum.runtime.llama_template"],
                input=json.dumps({"template": template}),
                capture_output=True,
                encoding="utf-8",
                env=without_secrets(os.environ),
                timeout=_RENDER_WALL_S,  # with the interpreter's start, on a busy machine
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _refused(f"rendering took over {_RENDER_WALL_S:g} s", where) from None
        except OSError as error:
            raise _not_checked(str(error), where) from error
        if finished.returncode in _TIME_IS_UP:
            raise _refused(f"rendering took over {RENDER_CPU_S * 1000:g} ms", where)
        if finished.returncode != 0:
            raise _not_checked(finished.stderr.strip().rsplit("\n", 1)[-1] or "its process was ended", where)
        said = json.loads(finished.stdout)
        if said["unable"]:
            raise _not_checked(said["unable"], where)
        if said["refused"]:
            raise _refused(said["refused"], where)
        unread = unread or said["unread"]
    return unread


class RenderGuard:
    """Renders conversations in the sandbox before an engine does, so that one which never ends costs nobody else.

    Args:
        templates: of the model, all of them: the engine chooses by the request.
        where: the model's file.
        start: loads the model when it is not loaded, which refuses it for a template that never ends at all.
    """

    def __init__(self, templates: Sequence[str], where: str, start: Callable[[], None]) -> None:
        self._templates = list(templates)
        self._where = where
        self._start = start

    def check(self, conversation: dict[str, Any]) -> None:
        """Refuse a conversation that takes too long.

        Args:
            conversation: messages and tools, as the engine gets them.

        Raises:
            UserError: ``runtime-chat-template``.
            LocumError: ``runtime-busy``: too many are being rendered; or the model cannot be loaded.
        """
        if not self._templates:
            return
        self._start()
        text = json.dumps({"templates": self._templates, "conversation": conversation})
        request = {"kind": "conversation", "text": text, "processor_s": RENDER_CPU_S}
        if "text" not in _RENDERER.ask(request, _RENDER_ONE_WALL_S):
            raise UserError(
                "runtime-chat-template",
                f"for this conversation the chat template takes over {RENDER_CPU_S * 1000:g} ms or too much memory",
                where=self._where,
                fix="ask in other words, or take the model from its publisher",
            )


def render_all(text: str) -> None:
    """In the guarded process: render a conversation with each template; what one says against it is the engine's word.

    Raises:
        MemoryError: it takes too much.
    """
    asked = json.loads(text)
    for template in asked["templates"]:
        try:
            _compiled(template).render(**{**_GIVEN, **asked["conversation"]})
        except (MemoryError, OverflowError, RecursionError):
            raise MemoryError from None
        except Exception:  # noqa: BLE001, S110 - a program of strangers: what it refuses the engine will refuse, too
            pass


@cache
def _compiled(template: str) -> Any:
    return _sandbox().from_string(template)


def _sandbox() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    known: dict[str, Any] = environment.globals
    known.update(raise_exception=_raise, strftime_now=time.strftime)
    return environment


def probe_template(process: LlamaProcess, client: LlamaClient, pid: int) -> None:
    """Let llama.cpp render the probes, and refuse the model when one takes too long or a plain one fails.

    Args:
        process: of the model.
        client: of its running child.
        pid: of that child; whoever called kills it when this raises.

    Raises:
        ModelFileError: ``runtime-chat-template``.
    """
    for number, probe in enumerate(PROBES):
        with ThreadPoolExecutor(1) as pool:
            deadline_s = time.monotonic() + _RENDER_WALL_S
            start_s = _processor_s(pid)
            body = {**probe, "messages": list(probe["messages"])}
            answer = pool.submit(client.post, "/apply-template", body, deadline_s=deadline_s, idle_s=_RENDER_WALL_S)
            while not _done(answer):
                spent_s = _processor_s(pid) - start_s
                if spent_s > RENDER_CPU_S * (4 if number == 0 else 1):  # the first one also warms up
                    os.kill(pid, signal.SIGKILL)
                    raise _refused(f"rendering took over {RENDER_CPU_S * 1000:g} ms", process.where)
            try:
                answer.result()
            except EngineRefusedError as error:
                if number == 0:
                    raise _refused(f"a plain conversation fails: {one_line(str(error))}", process.where) from None
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise _refused(f"rendering took over {_RENDER_WALL_S:g} s", process.where) from None
            except EngineGoneError as error:
                raise _refused(f"rendering a conversation ended the engine: {error}", process.where) from None


def has_place_for_tools(process: LlamaProcess) -> bool:
    """Whether the template writes something else when there are tools.

    A template that refuses tools has a word on them, which the request that brings some will hear.

    Args:
        process: of the model.

    Raises:
        LocumError: as ``LlamaProcess.post``.
    """
    without, *_, with_tools = PROBES
    texts: list[str] = []
    for probe in (without, with_tools):
        try:
            answer = process.post("/apply-template", {**probe, "messages": list(probe["messages"])}, _RENDER_WALL_S)
        except EngineRefusedError:
            return True
        texts.append(answer["prompt"])
    return texts[0] != texts[1]


def _done(answer: Any) -> bool:
    try:
        answer.exception(_LOOK_S)
    except FutureTimeoutError:
        return answer.done()
    return True


def _processor_s(pid: int) -> float:
    """Processor time of a process so far; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _refused(why: str, where: str) -> ModelFileError:
    return ModelFileError(
        "runtime-chat-template",
        f"its chat template is refused: {why}",
        where=where,
        fix="take the model from its publisher, or a version with another template",
    )


def _not_checked(why: str, where: str) -> DeviceError:
    return DeviceError(
        "runtime-check",
        f"its chat template could not be checked ({one_line(why)}), so the model is not loaded",
        where=where,
        fix=f"let processes have {_MEMORY_BYTES >> 20:,} MiB of address space (ulimit -v)",
    )


def main() -> int:
    """Render the probes within the limits; the system ends this process when one is passed."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    template = json.load(sys.stdin)["template"]
    environment = _sandbox()
    refused: str | None = None
    unable: str | None = None
    unread: str | None = None
    memory_bytes = _limit_memory()
    for probe in PROBES:
        _limit_time(RENDER_CPU_S)
        try:
            compiled = environment.from_string(template)
            compiled.render(**_GIVEN, **probe)
        except SecurityError as error:
            refused = f"it reaches for what no template needs: {error}"
        except MemoryError:
            if memory_bytes < _MEMORY_BYTES:
                unable = f"it needs more than the {memory_bytes >> 20:,} MiB of address space that are allowed here"
            else:
                refused = "it takes too much: MemoryError"
        except (RecursionError, OverflowError) as error:
            refused = f"it takes too much: {type(error).__name__}"
        except TemplateSyntaxError as error:
            unread = one_line(f"line {error.lineno}: {error.message}", 200)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
            pass  # refuses the conversation, or is not for Jinja: llama.cpp's word counts
        finally:
            _limit_time(0)
    print(json.dumps({"refused": refused, "unable": None if refused else unable, "unread": unread}))  # noqa: T201
    return 0


def _limit_memory() -> int:
    """Limit the address space, to less where the system allows less; how many bytes it is now."""
    if sys.platform == "win32":
        return _MEMORY_BYTES
    import resource

    allowed = [each for each in resource.getrlimit(resource.RLIMIT_AS) if each != resource.RLIM_INFINITY]
    most = min([_MEMORY_BYTES, *allowed])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return most


def _limit_time(processor_s: float) -> None:
    """The system ends this process when it has used this much processor time from now on; 0 ends the limit."""
    if sys.platform != "win32":  # there the parent's clock is the only limit
        signal.setitimer(signal.ITIMER_PROF, processor_s)


def _raise(message: str) -> None:
    raise ValueError(message)


if __name__ == "__main__":
    raise SystemExit(main())
