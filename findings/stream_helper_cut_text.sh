#!/usr/bin/env bash
# OpenAI's Python client: its streaming helper raises a parsing error for plain text that reached ``max_tokens``.
#
# Guess: ``chat.completions.stream`` is ``create(stream=True)`` with events, so a text that was cut ends with
# ``finish_reason`` "length", as it does there; only an answer that is to be parsed by a schema can fail to parse.
# Behaviour: without any schema or tool, the events come, "content.done" among them, and then ``get_final_completion``
# raises LengthFinishReasonError, "Could not parse response content"; ``parse`` without a schema does the same.
# Versions: openai 3.57.0, Python 3.11.
# Source: openai/lib/_parsing/_completions.py, which looks at the finish reason before it looks whether there is anything
# to parse.
#
# Exit status: 0 as stated, 1 changed, 2 the packages could not be installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/environment"
"$folder/environment/bin/python" -m pip install --quiet --disable-pip-version-check openai==3.57.0 || exit 2
"$folder/environment/bin/python" - <<'PYTHON'
from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

MESSAGES = [{"role": "user", "content": "hello"}]


def piece(delta: dict[str, str], finish: str | None = None) -> str:
    """One event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    whole = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(whole)}\n\n"


class Server(BaseHTTPRequestHandler):
    """Answers every request with a text of two tokens that reached its limit."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked.get("stream"):
            kind = "text/event-stream"
            body = piece({"role": "assistant", "content": "Good"}) + piece({"content": " day"}) + piece({}, "length")
            body += "data: [DONE]\n\n"
        else:
            kind = "application/json"
            choice = {"index": 0, "message": {"role": "assistant", "content": "Good day"}, "finish_reason": "length"}
            body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_address[1]}/v1", api_key="none", max_retries=0)

plain = [part.choices[0].finish_reason for part in client.chat.completions.create(
    model="m", messages=MESSAGES, max_tokens=2, stream=True)]
print("create(stream=True): finish reasons", plain)
seen: list[str] = []
raised = {}
try:
    with client.chat.completions.stream(model="m", messages=MESSAGES, max_tokens=2) as stream:
        seen.extend(event.type for event in stream)
        stream.get_final_completion()
except openai.LengthFinishReasonError as error:
    raised["stream"] = str(error)
try:
    client.chat.completions.parse(model="m", messages=MESSAGES, max_tokens=2)
except openai.LengthFinishReasonError as error:
    raised["parse"] = str(error)
print("stream(): events", seen, "then get_final_completion():", raised.get("stream"))
print("parse() without a schema:", raised.get("parse"))
sys.exit(0 if plain[-1] == "length" and set(raised) == {"stream", "parse"} else 1)
PYTHON
