"""What ``fuzz.py`` feeds: each target makes an input from a random source, and runs it through the code that ships.

Notable: ``run`` gives the outcome as a word (``ok`` or an error code). An error of Locum's own is an outcome; any other
exception leaves ``run`` and is a finding.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuzz_inputs import Gguf, mutated_bytes, mutated_text, mutated_tree, written
from locum.core.errors import LocumError
from locum.gateway.chat import ChatCall
from locum.gateway.completions import TextCall
from locum.gateway.embeddings import read_embedding_request
from locum.gateway.errors import ApiError
from locum.gateway.responses import ResponseCall
from locum.runtime.compile_worker import compile_text
from locum.runtime.gguf_check import parse_gguf
from locum.runtime.http_exchange import PoolError
from locum.runtime.openai_stream import BadChunkError, OpenAiStream, StreamRefusedError
from locum.runtime.safetensors_check import parse_safetensors
from locum.runtime.schema_limits import check_limits


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        title: what it reads, for the table.
        share: inputs in every thousand.
        make: an input from a random source.
        run: the outcome of an input; anything but an error of ours passes through.
    """

    title: str
    share: int
    make: Callable[[random.Random], bytes]
    run: Callable[[bytes], str]


def outcome(work: Callable[[], object]) -> str:
    """``ok``, or the code of the error that the work ends in."""
    try:
        work()
    except (LocumError, ApiError) as error:
        return error.code
    except (PoolError, StreamRefusedError, BadChunkError) as error:  # the client gives these its codes
        return type(error).__name__
    return "ok"


def make_gguf(rng: random.Random) -> bytes:
    """A damaged GGUF file."""
    file = Gguf(rng)
    return mutated_bytes(rng, bytes(file.made), file.fields, bytes(Gguf(rng).made) if rng.random() < 0.1 else b"")


def make_safetensors(rng: random.Random) -> bytes:
    """A damaged safetensors file."""
    tensors: dict[str, Any] = {"__metadata__": {"format": "pt"}} if rng.random() < 0.5 else {}
    at = 0
    for index in range(rng.randrange(4)):
        dtype, width = rng.choice((("F32", 4), ("BF16", 2), ("I64", 8), ("U8", 1), ("F4", 1)))
        shape = [rng.randrange(1, 5) for _ in range(rng.randrange(3))]
        size = width
        for dim in shape:
            size *= dim
        tensors[f"t{index}"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    words = ("dtype", "shape", "data_offsets", "t0", "t1", "__metadata__", "F32", "F6_E2M3")
    text = written(rng, mutated_tree(rng, tensors, words)) if rng.random() < 0.7 else json.dumps(tensors).encode()
    content = len(text).to_bytes(8, "little") + text + b"\0" * at
    return mutated_bytes(rng, content, [(0, 8)]) if rng.random() < 0.5 else content


def run_safetensors(content: bytes) -> str:
    """Through the check of the header."""
    return outcome(lambda: parse_safetensors(content[:8], io.BytesIO(content[8:]), len(content), where="fuzz"))


_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 9}, "b": {"$ref": "#/$defs/a"}, "c": {"enum": ["x", 1, None]}},
    "required": ["a"],
    "$defs": {"a": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3}},
}
_TOOL = {"name": "f", "description": "d", "parameters": _SCHEMA}
_SAMPLING = {"model": "m", "temperature": 0.5, "top_p": 0.9, "seed": 7, "stream": True, "stop": ["a", "b"]}
_BODIES: list[dict[str, Any]] = [
    {**_SAMPLING, "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}], "n": 2},
    {
        **_SAMPLING,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "r"},
        ],
        "tools": [{"type": "function", "function": _TOOL}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "logprobs": True,
        "top_logprobs": 3,
    },
    {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA, "strict": True}},
        "stream_options": {"include_usage": True},
        "metadata": {"a": "b"},
    },
    {**_SAMPLING, "prompt": ["a", "b"], "max_tokens": 5, "logprobs": 2, "echo": False},
    {"model": "m", "input": ["a", "b"], "encoding_format": "float", "dimensions": 8},
    {
        "model": "m",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "instructions": "i",
        "text": {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA}},
        "tools": [{"type": "function", **_TOOL}],
        "max_output_tokens": 9,
    },
]
_WORDS = (
    *("model", "messages", "role", "content", "type", "text", "name", "tools", "function", "parameters", "stream"),
    *("temperature", "stop", "seed", "n", "logprobs", "response_format", "json_schema", "schema", "input", "prompt"),
    *("api_base", "image_url", "user", "", "$ref", "tool_calls", "tool_call_id", "arguments", "metadata", "grammar"),
)
_READERS: list[Callable[[bytes], Any]] = [
    lambda body: ChatCall.read(body).requests(9),
    lambda body: TextCall.read(body).requests(9),
    lambda body: read_embedding_request(body, lambda _model: None),
    lambda body: ResponseCall.read(body).requests(9),
]


def make_body(rng: random.Random) -> bytes:
    """A request body that is nearly right; its first byte says which endpoint reads it."""
    index = rng.randrange(len(_BODIES))
    body = written(rng, mutated_tree(rng, _BODIES[index], _WORDS))
    if rng.random() < 0.2:
        body = mutated_bytes(rng, body)
    endpoint = (0, 0, 0, 1, 2, 3)[index] if rng.random() < 0.9 else rng.randrange(4)
    return bytes([endpoint]) + body


def run_body(content: bytes) -> str:
    """Through the reader of the endpoint."""
    return outcome(lambda: _READERS[content[0] % 4](content[1:]))


_KEYWORDS = (
    *("type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "enum"),
    *(
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "const",
        "anyOf",
        "oneOf",
    ),
    *("allOf", "not", "$ref", "$defs", "$id", "uniqueItems", "title", "string", "object", "a", "b", "multipleOf"),
)
_SCHEMAS: list[dict[str, Any]] = [
    _SCHEMA,
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": ["string", "null"]}]},
    {"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]}, {"type": "null"}]},
    {"type": "string", "pattern": "^[a-z]{2,5}(-[0-9]+)?$"},
    {"type": "number", "minimum": -1.5, "exclusiveMaximum": 1e6},
    {
        "$ref": "#/$defs/n",
        "$defs": {"n": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}]}}}},
    },
    {"type": "object", "additionalProperties": {"type": "string", "format": "date-time"}},
]
_SCHEMA_NASTY: list[Any] = [
    *(None, True, False, 0, 1, 2, 100, 999, 1000, 1999, 2000, 10**9, -1, 0.5, -1.5, 1e300, 1e-300, 2**63, 2**64),
    *(
        "string",
        "object",
        "array",
        "integer",
        "number",
        "null",
        "#",
        "#/$defs/a",
        "#/$defs/n",
        "#/properties/a",
        "uuid",
    ),
    *(
        "^(a+)+$",
        "^(a|a)*b$",
        "(?=a)",
        "^a{0,1999}$",
        "[^a]",
        "\\d+",
        "(((((((((((((a)))))))))))))",
        ".*.*.*x",
        "a{5}{5}",
    ),
    *(
        [],
        {},
        [{}],
        ["a", "b"],
        [1, 1.0, True],
        {"type": "string"},
        {"$ref": "#"},
        [{"type": "string"}, {"type": "null"}],
    ),
    *("\ud800", "\0", '"', "\\", "é", "x" * 400),
]


def make_schema(rng: random.Random) -> bytes:
    """A JSON schema that is nearly right."""
    return json.dumps(mutated_tree(rng, rng.choice(_SCHEMAS), _KEYWORDS, _SCHEMA_NASTY)).encode()


def run_schema(content: bytes) -> str:
    """Through the limits, the conversion and the check of what it makes; the worker's own function, in this process."""
    return outcome(lambda: compile_text("schema", check_limits(json.loads(content))))


_GRAMMARS = [
    'root ::= "a" | "b" [0-9]+\n',
    'root ::= item ("," ws item)* # list\nitem ::= [a-z]{1,3} | "\\"" [^"\\\\]* "\\""\nws ::= [ \\t\\n]?\n',
    'root ::= (("x" | "y"){2,4} z)? \nz ::= . | "\\u00e9" | z2\nz2 ::= "q" z\n',
]
_TOKENS = (
    *(
        "::=",
        "|",
        "(",
        ")",
        "*",
        "+",
        "?",
        "{",
        "}",
        "{0,9}",
        "{3,1}",
        "{1999}",
        "{2000}",
        "{,}",
        "[",
        "]",
        "[^",
        "-",
        ".",
    ),
    *(
        '"',
        '""',
        '"a"',
        "\\",
        "\\x",
        "\\u12",
        "\\U00110000",
        "root",
        "item",
        "x",
        "\n",
        "\r",
        "#",
        "<[1]>",
        "!",
        "_",
        " ",
    ),
    *("x ::= x\n", "root ::= root\n", "(((", ")))", '("a"*)*', "{99999999999}", "%llguidance {}", "[z-a]", "[]"),
)


def make_grammar(rng: random.Random) -> bytes:
    """A grammar that is nearly right."""
    return mutated_text(rng, rng.choice(_GRAMMARS), _TOKENS).encode("utf-8", "surrogatepass")


def run_grammar(content: bytes) -> str:
    """Through the checks of a grammar."""
    return outcome(lambda: compile_text("grammar", content.decode("utf-8", "surrogatepass")))


_EVENTS = [
    b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"He"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"y"},"logprobs":{"content":[{"token":"y","logprob":-0.5}]}}]}\n\n',
    b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}}]}}]}\r\n\r\n',
    b'data: {"choices":[{"text":"t","finish_reason":null}]}\n\n',
    b": comment\n\nevent: message\nid: 7\nretry: 10\n",
    b'event: error\ndata: {"error":{"message":"no","code":"x"}}\n\n',
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
]


def make_events(rng: random.Random) -> bytes:
    """A damaged stream of server-sent events; its first byte is the seed of its packets."""
    chosen = [_EVENTS[0], *rng.choices(_EVENTS[:5], k=rng.randrange(4)), *_EVENTS[6:]]
    if rng.random() < 0.2:
        chosen.insert(rng.randrange(len(chosen)), _EVENTS[5])
    if rng.random() < 0.4:
        index = rng.randrange(len(chosen))
        name, _, text = chosen[index].partition(b"data: ")
        if text.startswith(b"{"):
            words = (
                "choices",
                "delta",
                "content",
                "text",
                "error",
                "usage",
                "tool_calls",
                "index",
                "finish_reason",
                "message",
            )
            chosen[index] = name + b"data: " + written(rng, mutated_tree(rng, json.loads(text), words)) + b"\n\n"
    content = b"".join(chosen)
    return bytes([rng.randrange(256)]) + (
        mutated_bytes(rng, content, other=rng.choice(_EVENTS)) if rng.random() < 0.7 else content
    )


class _Packets:
    """Stands in for an exchange whose answer came in packets."""

    def __init__(self, content: bytes) -> None:
        rng = random.Random(content[:1])
        self._left, self._rng = content[1:], rng

    def read_some(self) -> bytes:
        size = self._rng.choice((1, 2, 7, 64, 1000))
        piece, self._left = self._left[:size], self._left[size:]
        return piece

    def finish(self) -> None:
        """Nothing to give back."""

    def abort(self) -> None:
        """Nothing to shut."""


def run_events(content: bytes) -> str:
    """Through the client's stream, packet by packet."""
    packets: Any = _Packets(content)
    return outcome(lambda: list(OpenAiStream(packets, "m", {}, lambda error, _completion: error)))


TARGETS = {
    "gguf": Target("GGUF files", 380, make_gguf, lambda content: outcome(lambda: parse_gguf(content, "fuzz"))),
    "safetensors": Target("safetensors files", 380, make_safetensors, run_safetensors),
    "json": Target("JSON bodies of requests", 130, make_body, run_body),
    "events": Target("server-sent events", 80, make_events, run_events),
    "grammar": Target("grammars", 20, make_grammar, run_grammar),
    "schema": Target("JSON schemas", 10, make_schema, run_schema),
}
