"""The tests of llama.cpp's own server, as far as they speak OpenAI's API, against Locum's server instead.

Notable: the tests come out of the sources of ``xllamacpp``, the release that Locum answers with. They start a server
for each test and expect the words of models from a hub; here ``start`` leads to Locum's server with a model from the
catalogue, and what a text must match is any text. Between both stands a pass-through that says what these tests leave
out: the path's ``/v1`` and the model's name. Tests of llama.cpp's own endpoints and switches are left out.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest_results

CHOSEN = {
    "unit/test_basic.py": ["test_server_models"],
    "unit/test_chat_completion.py": [
        "test_chat_completion_stream",
        "test_chat_completion_with_openai_library",
        "test_completion_with_response_format",
        "test_chat_completion_cached_tokens",
        "test_invalid_chat_completion_req",
        "test_logprobs",
        "test_logprobs_stream",
        "test_logit_bias",
        "test_context_size_exceeded",
        "test_context_size_exceeded_stream",
        "test_chat_completions_multiple_choices",
        "test_chat_completion",
    ],
    "unit/test_compat_oai_responses.py": [""],
    "unit/test_completion.py": [
        "test_completion_with_openai_library",
        "test_completion_stream_with_openai_library",
        "test_completion_stream_with_openai_library_stops",
    ],
    "unit/test_embedding.py": [
        "test_embedding_single",
        "test_embedding_multiple",
        "test_embedding_mixed_input",
        "test_embedding_invalid_input",
        "test_embedding_openai_library_single",
        "test_embedding_openai_library_multiple",
        "test_embedding_error_prompt_too_long",
        "test_same_prompt_give_same_result",
        "test_embedding_usage_single",
        "test_embedding_usage_multiple",
        "test_embedding_openai_library_base64",
        "test_embedding_invalid_request",
    ],
    "unit/test_tool_call.py": ["test_completion_without_tool_call_fast"],
}
"""File → tests that speak OpenAI's API and need no particular model; an empty name is all of them."""

_BUILD = (
    "it asks for the build number of llama.cpp as fingerprint, for its own model's name, or for that model's tokens"
)
_FIRST = "the first event of a stream has an empty content, as OpenAI's has, where llama.cpp sends null"
_OWN = "it uses a field that is llama.cpp's own and not OpenAI's"
BY_DESIGN = {
    "test_server_models": _BUILD,
    "test_chat_completion[": _BUILD,
    "test_chat_completion_cached_tokens": _BUILD,
    "test_chat_completion_with_openai_library": _BUILD,
    "test_completion_with_openai_library": _BUILD,
    "test_chat_completion_stream": _FIRST,
    "test_logprobs_stream": _FIRST,
    "test_completion_without_tool_call_fast": _FIRST,
    "test_completion_with_response_format[response_format0": "a schema beside json_object is no format of OpenAI's",
    "test_completion_with_response_format[response_format1": "a schema beside json_object is no format of OpenAI's",
    "test_completion_with_response_format[response_format2": "a json_schema without a name is refused, as by OpenAI",
    "test_logit_bias": "tokens cannot be weighted, and the request is refused by name",
    "test_context_size_exceeded": "the error has OpenAI's code and words, and its conversation fits the context here",
    "test_chat_completions_multiple_choices": _OWN,
    "test_responses_stream_with_llama_telemetry": _OWN,
    "test_embedding_mixed_input": "token ids and empty texts are refused by name; objects are llama.cpp's own form",
    "test_embedding_error_prompt_too_long": "a text over the limit is cut, and the answer tells it",
}
"""A part of a test's name → why Locum answers otherwise."""


def _pass_through(kind: str) -> int:
    """A server on loopback that passes on to Locum's of this kind (``CHAT``, ``EMBED``); its port."""
    address, model = urlsplit(os.environ[f"{kind}_URL"]), os.environ.get(f"{kind}_MODEL", "")

    class Handler(BaseHTTPRequestHandler):
        """One request, passed on with the model's name in it."""

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            try:
                document = json.loads(body)
            except ValueError:
                document = None
            if isinstance(document, dict):
                body = json.dumps(document | {"model": model}).encode()
            path = self.path if self.path.startswith("/v1/") else f"/v1{self.path}"
            there = http.client.HTTPConnection(str(address.hostname), address.port, timeout=300)
            there.request(self.command, path, body or None, {"content-type": "application/json"})
            answer = there.getresponse()
            self.send_response(answer.status)
            self.send_header("content-type", answer.headers["content-type"])
            self.end_headers()  # the connection's end is the body's: HTTP/1.0
            while part := answer.read1(65536):
                self.wfile.write(part)
                self.wfile.flush()
            there.close()

        do_GET = do_POST = _answer  # noqa: N815 - names of the library

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


class _Redirected:
    """A plugin that leads the tests' servers to Locum's."""

    def pytest_collection_modifyitems(self, items: list[object]) -> None:
        """Keep the tests of ``CHOSEN``; patch what starts a server and what reads a text."""
        import utils

        ports = {kind: _pass_through(kind) for kind in ("CHAT", "EMBED")}

        def start(server: object, timeout_seconds: int = 0) -> None:
            embeds = "bert" in str(server.model_hf_repo or "") or bool(server.server_embeddings)
            server.server_host, server.server_port = "127.0.0.1", ports["EMBED" if embeds else "CHAT"]
            server.external_server = True

        utils.ServerProcess.start = start
        utils.ServerProcess.stop = lambda server: None
        utils.ServerPreset.load_all = staticmethod(lambda: None)
        for module in {item.module for item in items}:
            module.match_regex = lambda regex, text: bool(text) or not regex
        wanted = {(Path(file).name, test) for file, tests in CHOSEN.items() for test in tests}
        kept = [item for item in items if {(item.path.name, ""), (item.path.name, item.originalname)} & wanted]
        items[:] = kept


def main() -> None:
    """Run the chosen tests of the folder that is given."""
    tests = Path(sys.argv[1])
    os.chdir(tests)
    sys.path.insert(0, str(tests))
    sys.modules["wget"] = ModuleType("wget")  # by which they would download models
    pytest_results.run([*(str(tests / file) for file in CHOSEN), *sys.argv[2:]], BY_DESIGN, plugins=(_Redirected(),))


if __name__ == "__main__":
    main()
