"""The child process with llama.cpp in it: a server on a loopback port of its own that only its parent can use.

Notable: the native code that reads a model file and its chat template runs here and nowhere else, so a crash,
a kill for memory or an endless loop ends this process and not the service. The child dies with its parent:
Linux kills it (``die_with_parent``), elsewhere the end of standard input does. A random key that only the parent
knows closes the port to others; it arrives on standard input, where no list of processes shows it. With
``settings.binary`` this process becomes ``llama-server``. Not here: the parent's side (``llama_process``).

In on standard input: one line with the settings. Out: ``{"ready": {"port"}}``, or ``{"fatal"}`` before giving up;
``llama-server`` says ``listening on http://127.0.0.1:PORT`` in its log instead.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from locum.runtime.engine_child import die_with_parent, line_to_parent
from locum.runtime.llama_settings import ChildSettings, library_parameters, server_arguments

_OWN_VARIABLES = ("LLAMA_ARG_", "LLAMA_API_KEY", "LLAMA_LOG_", "LLAMA_SERVER_")


def serve_library(settings: ChildSettings, send: Any) -> int:
    """Load the model with the packaged library, say so, and serve until standard input ends.

    Args:
        settings: what to open.
        send: takes each record for the parent.

    Returns:
        The exit status.
    """
    try:
        library: Any = importlib.import_module("xllamacpp")  # it has no types
        server = library.Server(library_parameters(settings, library))
        port = int(server.listening_address.rpartition(":")[2])
    except (RuntimeError, ValueError, OSError, ImportError, OverflowError, MemoryError) as error:
        send({"fatal": f"{type(error).__name__}: {error}"})
        return 1
    send({"ready": {"port": port}})
    sys.stdin.read()
    os._exit(0)  # closed, or the parent is gone: nobody waits for what is being computed


def serve_binary(settings: ChildSettings) -> int:
    """Become ``llama-server``, or watch it where the system has no way to bind its life to the parent's."""
    binary = settings.binary or ""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_OWN_VARIABLES)}
    environment["LLAMA_API_KEY"] = settings.key
    command = [binary, *server_arguments(settings)]
    if sys.platform == "linux":
        os.execve(binary, command, environment)  # noqa: S606
    return watch(command, environment)


def watch(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a program until it ends or standard input does.

    Returns:
        The program's exit status.
    """
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:

        def kill_at_end() -> None:
            sys.stdin.read()
            process.kill()

        threading.Thread(target=kill_at_end, daemon=True).start()
        return process.wait()


def main() -> int:
    """Read the settings from standard input and serve."""
    settings = ChildSettings.from_json(json.loads(sys.stdin.readline()))
    die_with_parent(settings.parent)
    if settings.binary is not None:
        return serve_binary(settings)
    return serve_library(settings, line_to_parent())


if __name__ == "__main__":
    raise SystemExit(main())
