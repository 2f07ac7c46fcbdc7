"""``locum``: finds the command, runs it, and turns every error into one line and an exit status.

Notable: the table below is all that ``locum --help`` reads, and a command's module is imported when the
command is called, so neither waits for a library. Each command is a Typer application of its own.
Exit status: 0 success, 2 the user's mistake, 3 a check failed, 1 anything else, also that nobody reads the output.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

import locum
from locum.core.errors import Interrupted, LocumError, UserError
from locum.core.registry import nearest
from locum.core.text import visible

COMMANDS: dict[str, str] = {
    "init": "Write a task file for your data.",
    "plan": "Show what a build would do, cost and need; downloads nothing.",
    "build": "Build, prove and bundle the smallest student for a task.",
    "eval": "Measure a bundle on a file with right answers.",
    "predict": "Answer a file of rows: answer, confidence and route in new columns.",
    "certify": "Prove a bundle's promise anew, on fresh rows.",
    "serve": "Serve a bundle or a model behind OpenAI's API.",
    "report": "Write a bundle's report again, or show it in the terminal.",
    "export": "Write a student, a tuned decoder or an adapter in another form: ONNX, GGUF, Ollama.",
    "chat": "Talk to a bundle or a model in the terminal.",
    "bench": "Run public benchmarks on models, and compare them in pairs.",
    "models": "List the bases in the catalogue; pull, verify or remove one.",
    "completion": "Print the script by which a shell completes commands and options.",
    "doctor": "Show what works here: processor, engines, extras, cache.",
    "words": "Say what certificate, calibration, student and the other words mean.",
}


SUMMARY = "Builds, proves, serves and audits small language models that stand in for a large one."


def help_text() -> str:
    """What ``locum --help`` prints."""
    rows = [f"  {name:<11}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: locum COMMAND [OPTIONS] [ARGUMENTS]",
            "",
            f"  {SUMMARY}",
            "",
            "Commands:",
            *rows,
            "",
            "Options:",
            "  --help     Show this page; after a command, that command's options.",
            "  --version  Show the version.",
            "  --debug    Anywhere: show the traceback of an error.",
            "",
            "Start with `locum init DATA_FILE`, then `locum build task.yaml`.",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """The entry point: runs one command and exits with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed()
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM stops as gracefully as Ctrl-C
    try:
        status = _answer(words, debug=debug)
        if sys.stdout is not None:  # None: it was closed when this process began
            sys.stdout.flush()
    except BrokenPipeError:  # `locum … | head`: whoever read the output has seen enough
        _drop(sys.stdout, sys.stderr)
        status = 1  # as Typer has it
    except OSError as error:  # of the output: a full disk
        _drop(sys.stdout)
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201
        status = 1
    raise SystemExit(status)


def _open_closed() -> None:
    """Put nothing in the place of standard input, output or error where they were closed.

    Else the next file that is opened, or a socket, would get its number, and whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends


def _drop(*outputs: Any) -> None:
    """Write nothing more to them, not even at exit."""
    for output in filter(None, outputs):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def _answer(words: list[str], *, debug: bool) -> int:
    """Run a command and tell of its error; its status."""
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        stopped = Interrupted("core-interrupted", "stopped on request", fix="run the same command to go on from here")
        return _report(stopped, as_json="--json" in words)
    except BrokenPipeError:
        raise
    except LocumError as error:
        if debug:
            raise
        return _report(error, as_json="--json" in words)
    except Exception as error:
        if debug:
            raise
        cause = f"{type(error).__name__}: {error}"
        unexpected = LocumError("core-internal", cause, fix="run again with --debug and report what it prints")
        return _report(unexpected, as_json="--json" in words)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(help_text())  # noqa: T201  (standard output is what is asked for)
        return 0
    if words[0] == "--version":
        print(locum.__version__)  # noqa: T201
        return 0
    if words[0] == "__complete":  # asked by the shell, for each tab
        from locum.cli.completion import candidates

        print("\n".join("\t".join(each) for each in candidates(words[1:], COMMANDS)))  # noqa: T201
        return 0
    if words[0] not in COMMANDS:
        close = nearest(words[0], COMMANDS)
        hint = f"did you mean `locum {close}`?" if close else f"commands: {', '.join(COMMANDS)}"
        raise UserError("cli-usage", f"there is no command {words[0]!r}", fix=hint)
    return _run_command(words[0], words[1:])


def _run_command(name: str, words: list[str]) -> int:
    from typer.exceptions import Abort, TyperException

    app = importlib.import_module(f"locum.cli.{name}").app
    try:
        status = app(args=words, prog_name=f"locum {name}", standalone_mode=False)
    except TyperException as problem:
        raise UserError("cli-usage", problem.format_message(), fix=f"see `locum {name} --help`") from problem
    except Abort as problem:
        raise KeyboardInterrupt from problem
    return status if isinstance(status, int) else 0


def _report(error: LocumError, *, as_json: bool) -> int:
    print(f"error: {visible(str(error))}", file=sys.stderr)  # noqa: T201
    if as_json:
        document: dict[str, Any] = {"error": error.to_json()}
        print(json.dumps(document))  # noqa: T201  (escapes, so that any terminal's encoding will do)
    return error.exit_code


if __name__ == "__main__":
    main()
