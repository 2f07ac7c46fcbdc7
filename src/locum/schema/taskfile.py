"""Reads the text of a ``task.yaml``: all faults together, each with its line, and no secret accepted.

Notable: PyYAML composes the node tree (safe tags only), this module walks it once to get plain values and
the line of every key, and pydantic checks the values. Anchors cannot explode: expansion is counted.
Not here: the fields themselves (``schema.task``), reading the file (the caller has the text).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from locum.core.errors import TaskFileError
from locum.core.registry import nearest
from locum.schema.task import Task

MAX_BYTES = 256 * 1024
MAX_VALUES = 10_000
MAX_DEPTH = 20
CURRENT_VERSION = 1
_MOST_OPEN = 500
"""Brackets in the texts of a file count as well, so this is far beyond what any file has."""

Path = tuple[str | int, ...]
Look = Callable[[dict[str, Any]], Iterable[tuple[Path, str]]]
"""Looks at what a task file names: the file's values in, what is wrong out, as the key's path and a message."""

_SECRET_KEYS = re.compile(r"^(api[_-]?key|key|token|secret|password|passwd|authorization|bearer)$", re.IGNORECASE)
_SECRET_VALUES = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|xox[abp]-[\w-]{10,}"
    r"|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.)|\bBearer\s+\S{12,}|://[^/\s:@]+:[^/\s@]+@"
)

_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a task file; ``line`` counts from 1."""

    line: int
    field: str
    message: str


def parse_task(text: str, where: str = "task.yaml", look: Look | None = None) -> Task:
    """Turn the text of a task file into a ``Task``.

    Args:
        text: YAML.
        where: the file's name, for messages.
        look: finds faults in what the file names, to be told together with its own.

    Raises:
        TaskFileError: ``task-invalid`` with one line per fault; ``task-too-large``; ``task-version``.
    """
    if len(text.encode()) > MAX_BYTES:
        raise TaskFileError(
            "task-too-large",
            f"a task file of {len(text.encode()):,} bytes; at most {MAX_BYTES:,} are read",
            where=where,
            fix="put examples in a data file and name it under data.train",
        )
    values, lines, faults = _compose(text, where)
    if faults:
        raise _failure(faults, where)
    if not isinstance(values, dict):
        raise _failure([Fault(1, "", "a task file is a mapping of keys to values")], where)
    _check_version(values, lines, where)
    faults = list(_secrets(values, lines))
    if look is not None:
        faults += [Fault(_line(lines, path), _dotted(path), message) for path, message in look(values)]
    try:
        task = Task.model_validate(values)
    except ValidationError as problem:
        raise _failure([*faults, *_translate(problem, lines)], where) from None
    if faults:
        raise _failure(faults, where)
    return task


def _distinct(faults: list[Fault]) -> list[Fault]:
    """One fault per field, the first one found; none for a field when something below it is at fault."""
    fields = {fault.field for fault in faults}
    first: dict[str, Fault] = {}
    for fault in faults:
        below = any(other.startswith(fault.field + ".") for other in fields)
        if fault.field and below and "required" not in fault.message:
            continue
        first.setdefault(f"{fault.line} {fault.field}", fault)
    return sorted(first.values(), key=lambda fault: (fault.line, fault.field))


def _failure(faults: list[Fault], where: str) -> TaskFileError:
    unique = _distinct(faults)
    head = f"{len(unique)} fault{'s' if len(unique) > 1 else ''} in {where}"
    rows = [f"{where}:{f.line}: {f.field + ': ' if f.field else ''}{f.message}" for f in unique]
    return TaskFileError(
        "task-invalid", "\n  ".join([head, *rows]), fix="mend these lines; `locum init` writes a valid file"
    )


def _check_version(values: dict[str, Any], lines: dict[Path, int], where: str) -> None:
    version = values.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version == CURRENT_VERSION:
        return  # missing or of another type: a fault like any other
    how = "newer than" if version > CURRENT_VERSION else "older than any that"
    raise TaskFileError(
        "task-version",
        f"version {version} is {how} this Locum reads (it reads version {CURRENT_VERSION})",
        where=f"{where}:{lines.get(('version',), 1)}",
        fix="upgrade Locum" if version > CURRENT_VERSION else f"write `version: {CURRENT_VERSION}`",
    )


def _compose(text: str, where: str) -> tuple[Any, dict[Path, int], list[Fault]]:
    """Plain values, the line of every path, and the faults of the YAML itself."""
    if _open_brackets(text) > _MOST_OPEN:
        raise _too_large(f"more than {MAX_DEPTH} levels", where)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark else 1
        return None, {}, [Fault(line, "", f"not valid YAML: {problem.problem or problem.context}")]
    except yaml.YAMLError as problem:
        return None, {}, [Fault(1, "", f"not valid YAML: {str(problem).splitlines()[0]}")]
    except RecursionError:  # it is not composed to its end; what is deep but not so deep is counted below
        raise _too_large(f"more than {MAX_DEPTH} levels", where) from None
    if root is None:
        return None, {}, [Fault(1, "", "the file is empty")]
    walker = _Walker(where)
    values = walker.value(root, ())
    return values, walker.lines, walker.faults


def _open_brackets(text: str) -> int:
    """The most brackets that stand open at once: PyYAML takes minutes for ten thousand of them."""
    depth = most = 0
    for character in text:
        if character in "[{":
            depth += 1
            most = max(most, depth)
        elif character in "]}" and depth:
            depth -= 1
    return most


def _too_large(what: str, where: str) -> TaskFileError:
    fix = "write the values out without anchors, and not one in another so deep"
    return TaskFileError("task-too-large", what, where=where, fix=fix)


class _Walker:
    """Turns YAML nodes into plain values, noting lines and counting what aliases expand to."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[Path, int] = {}
        self.faults: list[Fault] = []
        self._seen = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._seen += 1
        if self._seen > MAX_VALUES or len(path) > MAX_DEPTH:
            what = f"more than {MAX_VALUES:,} values or {MAX_DEPTH} levels once its aliases are expanded"
            raise _too_large(what, f"{self.where}:{node.start_mark.line + 1}")
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
            self.faults.append(Fault(line, _dotted(path), f"the YAML tag {node.tag} is not allowed"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        try:
            return self._scalars.construct_object(node)
        except yaml.constructor.ConstructorError:
            self.faults.append(Fault(line, _dotted(path), f"the YAML tag {node.tag} is not allowed"))
        except ValueError as problem:
            self.faults.append(Fault(line, _dotted(path), str(problem)))
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(Fault(line, _dotted(path), "a key must be a word"))
                continue
            key = str(key_node.value)
            if key in found:
                self.faults.append(Fault(line, _dotted((*path, key)), "the key stands twice"))
            self.lines[(*path, key)] = line
            found[key] = self.value(value_node, (*path, key))
        return found


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def _secrets(value: Any, lines: dict[Path, int], path: Path = ()) -> list[Fault]:
    """Faults for literals that look like secrets; the literal itself is never repeated."""
    if isinstance(value, dict):
        return [fault for key, child in value.items() for fault in _secrets(child, lines, (*path, key))]
    if isinstance(value, list):
        return [fault for index, child in enumerate(value) for fault in _secrets(child, lines, (*path, index))]
    named = bool(path) and isinstance(path[-1], str) and bool(_SECRET_KEYS.match(path[-1])) and value is not None
    if named or (isinstance(value, str) and _SECRET_VALUES.search(value)):
        advice = "a secret must not stand in a task file; put it in an environment variable and name that"
        return [Fault(_line(lines, path), _dotted(path), f"{advice}, e.g. `api_key_env: OPENAI_API_KEY`")]
    return []


def _line(lines: dict[Path, int], path: Path) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _translate(problem: ValidationError, lines: dict[Path, int]) -> list[Fault]:
    """Pydantic's errors in the file's own terms; one fault per place, unions folded into one."""
    faults: dict[Path, Fault] = {}
    for error in problem.errors(include_url=False, include_context=False):
        path = _path_in_file(error["loc"], lines)
        message = _message(error["type"], error["msg"], error["loc"], error.get("input"))
        known = faults.get(path)
        if known is None or "must be" in known.message:
            faults[path] = Fault(_line(lines, path), _dotted(path), message)
    return list(faults.values())


def _path_in_file(loc: tuple[int | str, ...], lines: dict[Path, int]) -> Path:
    """The part of pydantic's location that is written in the file, without the tags of unions."""
    path: Path = ()
    for part in loc:
        if (*path, part) in lines:
            path = (*path, part)
    missing = loc[-1] if loc and isinstance(loc[-1], str) and loc[-1] in _known_fields(path) else None
    return (*path, missing) if missing is not None and (not path or path[-1] != missing) else path


def _message(kind: str, text: str, loc: tuple[int | str, ...], seen: Any) -> str:
    if kind == "extra_forbidden":
        known = _known_fields(tuple(loc[:-1]))
        close = nearest(str(loc[-1]), known)
        hint = f"did you mean {close!r}?" if close else f"known here: {', '.join(known)}"
        return f"unknown key {str(loc[-1])!r}; {hint}"
    if kind == "missing":
        return "is required"
    text = text.removeprefix("Value error, ").replace("Input should be", "must be")
    shown = repr(seen)
    return text if isinstance(seen, dict) or len(shown) > 60 else f"{text} (got {shown})"


def _known_fields(path: Path) -> tuple[str, ...]:
    """Field names of the document that stands at ``path``."""
    model: type[BaseModel] = Task
    for part in path:
        field = model.model_fields.get(str(part)) if isinstance(part, str) else None
        nested = _document_in(field.annotation) if field else None
        model = nested or model
    return tuple(model.model_fields)


def _document_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if found := _document_in(inner):
            return found
    return None
