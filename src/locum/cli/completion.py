"""``locum completion``: the script by which a shell completes commands and options, with what they do.

Notable: the script asks ``locum __complete`` for candidates, so it is never older than the program; commands come
without importing anything, options import the one command that is being typed. Paths are left to the shell.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_BASH = r"""_locum() {
  local IFS=$'\n'
  COMPREPLY=($(locum __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -o default -F _locum locum
"""
_ZSH = r"""#compdef locum
_locum() {
  local -a found
  found=("${(@f)$(locum __complete "${(@)words[2,CURRENT]}" 2>/dev/null | sed 's/:/\\:/g; s/\t/:/')}")
  if [[ -n "$found" ]]; then _describe 'locum' found; else _files; fi
}
compdef _locum locum
"""
_FISH = r"""complete -c locum -a '(locum __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"""


class Shell(StrEnum):
    """Shells that have a script."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(help="The shell that you use.")]) -> None:
    """Print a shell's completion script: `source <(locum completion bash)`, or the same line in its start-up file.

    For zsh the same with zsh; for fish: `locum completion fish > ~/.config/fish/completions/locum.fish`.
    """
    typer.echo({"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell], nl=False)


def candidates(words: Sequence[str], commands: dict[str, str]) -> list[tuple[str, str]]:
    """What may stand in a word's place, each with what it does; nothing where a path or value is to stand.

    Args:
        words: after ``locum``; the last one is being typed, and may be empty.
        commands: their names and what they do.
    """
    *before, typed = words or [""]
    before = [word for word in before if word != "--debug"]
    if not before:
        found = [*commands.items(), ("--help", "Show the commands."), ("--version", "Show the version.")]
        return [(name, what) for name, what in found if name.startswith(typed) and (typed or name[0] != "-")]
    if before[0] not in commands:
        return []
    command: Any = typer.main.get_command(importlib.import_module(f"locum.cli.{before[0]}").app)
    for word in before[1:]:
        command = getattr(command, "commands", {}).get(word, command)
    inner = [(name, each.get_short_help_str(80)) for name, each in getattr(command, "commands", {}).items()]
    options = [
        (name, getattr(parameter, "help", None) or "")
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    ]
    places = [each for each in command.params if before[-1] in each.opts or not each.opts[0].startswith("-")]
    choices = [(choice, "") for each in places for choice in _choices(each)]
    shown = [*options, ("--help", "Show this command's options.")] if typed.startswith("-") else [*inner, *choices]
    return [(name, what) for name, what in dict(shown).items() if name.startswith(typed)]


def _choices(parameter: Any) -> list[str]:
    """The values that a parameter may have, where they are a closed list; Typer's versions keep it in two places."""
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(each.value) for each in annotation]
    return [str(getattr(each, "value", each)) for each in getattr(getattr(parameter, "type", None), "choices", ())]
