"""``locum chat``: talk to a bundle, a model folder, a GGUF file, a catalogue name or a URL, typed or through a pipe.

Notable: Ctrl-C stops the answer and keeps the session, Ctrl-D ends it. What a model writes is spelled out where it
would steer the terminal. Through a pipe every line is a message; answers go to standard output, facts to
standard error, and Ctrl-C ends all of it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from locum.cli.conversation import BundlePartner, ModelPartner, Partner, Turn
from locum.cli.llm_options import LLM_OPTIONS, FromBundle, LlmKeyEnv, LlmModel, LlmUrl, NoLlm, llm_choice
from locum.cli.output import json_text, refuse_given
from locum.cli.view import live_view
from locum.core.errors import LocumError, UserError
from locum.core.files import write_text
from locum.core.registry import nearest
from locum.core.text import visible

if TYPE_CHECKING:
    from locum.bundle.operator_llm import LlmChoice

app = typer.Typer(add_completion=False, rich_markup_mode=None)

COMMANDS = {
    "/reset": "forget the conversation",
    "/system": "TEXT: begin anew with this instruction",
    "/save": "FILE: write the conversation as JSON Lines",
    "/help": "these commands",
    "/exit": "end (also Ctrl-D)",
}
_KEY = "OPENAI_API_KEY"
_TIMEOUT_S = 600.0


class _Ended(Exception):
    """The user is done."""


@app.command()
def chat(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(help="A bundle or model folder, a .gguf file, a catalogue name, or an OpenAI API's URL (…/v1)."),
    ],
    model: Annotated[str | None, typer.Option(help="For a URL: the model to ask.")] = None,
    system: Annotated[str | None, typer.Option(help="Instruction that begins the conversation.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of one answer.", min=1)] = 512,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token each time.", min=0, max=2)] = 0.7,
    engine: Annotated[str | None, typer.Option(help="Who computes; default: what suits the file.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all usable cores.", min=1)] = None,
    llm_from_bundle: FromBundle = False,
    no_llm: NoLlm = False,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKeyEnv = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line for each answer.")] = False,
) -> None:
    """Talk to a bundle or a model. Through a pipe each line is a message, in one conversation."""
    llm = llm_choice(llm_from_bundle, no_llm, llm_url, llm_model, llm_key_env)
    with live_view():
        partner = _open(context, target, model, engine, threads, (system, max_tokens, temperature), (llm, llm_key_env))
    before = signal.signal(signal.SIGTERM, _end)
    try:
        _Session(partner, system, as_json).run()
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        partner.close()


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Ended


class _Session:
    """Reads messages and commands, shows answers.

    Args:
        partner: who answers.
        system: instruction that a new conversation begins with.
        as_json: answers as JSON Lines.
    """

    def __init__(self, partner: Partner, system: str | None, as_json: bool) -> None:
        self._partner = partner
        self._system = system
        self._as_json = as_json
        self._interactive = sys.stdin.isatty() and not as_json
        self._turns: list[Turn] = []

    def run(self) -> None:
        """Until the end of the input, or ``/exit``."""
        if self._interactive:
            with contextlib.suppress(ImportError):  # arrow keys and history, where the system has them
                importlib.import_module("readline")
            _remark(f"{visible(self._partner.name)} · {', '.join(COMMANDS)} · Ctrl-C stops an answer, Ctrl-D ends")
        with contextlib.suppress(_Ended):
            for line in self._lines():
                text = line.rstrip("\r\n")
                if text.startswith("/"):
                    self._command(text)
                elif text.strip():
                    self._answer(text)

    def _lines(self) -> Iterator[str]:
        if not self._interactive:
            yield from sys.stdin
            return
        while True:
            try:
                yield input("> ")
            except EOFError:
                _say("\n")
                return
            except KeyboardInterrupt:
                _say("\n")
                _remark("Ctrl-D or /exit ends")

    def _answer(self, text: str) -> None:
        show = _nothing if self._as_json else _say
        try:
            turn = self._partner.answer(text, show)
        except LocumError as error:
            if not self._interactive:
                raise
            _say("\n")
            _remark(f"error: {visible(str(error))}")
            return
        self._turns.append(turn)
        if self._as_json:
            _say(json_text(turn.to_json()) + "\n")
        else:
            _say("\n")
            _remark(turn.line())
        if turn.finish_reason == "stopped" and not self._interactive:
            raise KeyboardInterrupt

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        match name:
            case "/exit" | "/quit":
                raise _Ended
            case "/reset":
                self._partner.reset(self._system)
                self._turns.clear()
                _remark("forgotten")
            case "/system":
                self._system = rest.strip() or None
                self._partner.reset(self._system)
                self._turns.clear()
                _remark("a new conversation with this instruction" if self._system else "a new conversation")
            case "/save":
                self._save(rest.strip())
            case _:
                close = nearest(name, COMMANDS)
                hint = f"did you mean {close}? " if close and name not in COMMANDS else ""
                _remark(hint + "; ".join(f"{key} {what}" for key, what in COMMANDS.items()))

    def _save(self, name: str) -> None:
        if not name:
            _remark("/save needs a file name")
            return
        path = Path(name).expanduser()
        lines = [json_text(turn.to_json()) for turn in self._turns]
        try:
            write_text(path, "".join(f"{line}\n" for line in lines))
        except (LocumError, OSError) as error:
            _remark(f"error: {visible(str(error))}")
            return
        _remark(f"{len(lines)} answers in {visible(str(path))}")


def _open(
    context: typer.Context,
    target: str,
    model: str | None,
    engine: str | None,
    threads: int | None,
    settings: tuple[str | None, int, float],
    bundle_llm: tuple[LlmChoice | None, str | None],
) -> Partner:
    """Whoever the target names.

    Raises:
        LocumError: there is no such thing, or it cannot be opened.
    """
    from locum.runtime.open import open_generator
    from locum.schema.task import LlmSpec

    system, max_tokens, temperature = settings
    folder = Path(target).expanduser()
    is_model = (folder / "model.json").is_file()
    if folder.is_dir() and not is_model:
        from locum.bundle.student import open_bundle

        refuse_given(context, ("model", "max_tokens", "temperature"), "is for a model, and the target is a bundle")
        llm, key = bundle_llm
        return BundlePartner(open_bundle(folder, llm, threads=threads, engine=engine, llm_key_env=key))
    refuse_given(context, LLM_OPTIONS, "is for a bundle, and the target is none")
    if target.startswith(("http://", "https://")):
        refuse_given(context, ("threads",), "is for a local model, and the target is a URL")
        if model is None:
            raise UserError("cli-usage", "a URL needs the model to ask", fix="add --model NAME")
        key = _KEY if os.environ.get(_KEY) else None
        llm = LlmSpec(base_url=target, model=model, api_key_env=key, timeout_s=_TIMEOUT_S)
        generator, truncate = open_generator(llm, engine=engine), False
    else:
        refuse_given(context, ("model",), "is for a URL, and the target is none")
        truncate = engine in (None, "llamacpp")
        named = str(_weights(folder)) if is_model else target
        generator = open_generator(LlmSpec(model=named, timeout_s=_TIMEOUT_S), threads=threads, engine=engine)
    return ModelPartner(generator, system=system, max_tokens=max_tokens, temperature=temperature, truncate=truncate)


def _weights(folder: Path) -> Path:
    """The GGUF file of a model folder.

    Raises:
        ModelFileError: the folder is damaged.
        UserError: its model does not write text.
    """
    from locum.runtime.model_files import verify_folder

    spec = verify_folder(folder)
    if spec.purpose != "generate":
        cause = f"the model does not write text: its purpose is {spec.purpose}"
        raise UserError("cli-usage", cause, where=str(folder), fix="name a bundle, or a model that writes")
    return folder / spec.weights


def _nothing(_text: str) -> None:
    return


def _say(text: str) -> None:
    """Write at once, in whatever letters standard output can carry."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _remark(line: str) -> None:
    """A dim line that is not part of the conversation: to standard error."""
    typer.echo(typer.style(line, dim=True), err=True)
