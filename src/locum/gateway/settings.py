"""``Settings``: the limits of a gateway, each with its unit; the defaults suit one machine."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

KEY_VARIABLE = "LOCUM_API_KEY"
KEY_CHARS_MIN = 16
"""Of a key that other machines can try; made by chance, so many characters cannot be guessed over a network."""
KEY_DISTINCT_MIN = 5


@dataclass(frozen=True)
class Settings:
    """How a gateway listens and what it accepts.

    Attributes:
        host: address to listen on; beyond loopback a key is needed.
        port: 0 takes a free one.
        api_key: what callers must send as a bearer token; None asks for none (loopback only).
        allowed_hosts: names that ``Host`` and ``Origin`` may carry besides loopback and ``host``. Checked only
            where no key is asked for: a web page in a browser on this machine can reach loopback, too.
        origins: of web pages that may ask beside those of this machine, as ``cors.parse_origins`` gives them.
        max_body_bytes: larger bodies are refused with 413 while they arrive; of one sent in chunks, everything counts.
        max_embedding_bytes: the same for texts to embed, which come by the thousand.
        large_requests: of bodies over ``max_body_bytes`` so many are held at once, and more get 503; of requests with
            many texts so many are embedded in turns, and more wait.
        max_input_chars: longer inputs are refused with 400.
        max_tokens: most tokens of an answer whose request sets no limit.
        receive_s: a whole request body must have arrived by then.
        header_s: a request's headers must have arrived by then, counted from the connection's beginning, or from the
            first byte after an answer.
        client_connections: connections that one client may have (an IPv4 address, or a network of 64 bits); one more
            closes that of them which has been quiet for the longest, or where all are being answered gets 503.
        write_s: a client that reads nothing for so long is cut off, and its answer stopped.
        max_batch: texts that the student reads in one call when several wait.
        threads: requests answered at once; those with the LLM hold a thread while they wait for it.
        max_waiting: requests that may wait for a thread; more get 503.
        llm_concurrency: requests that may be with the LLM at once; fewer than ``threads``, so that a slow LLM
            never holds up local answers.
        drain_s: after SIGTERM, how long answers under way may take.
        log_file: access log, one JSON object a line; None writes to standard error.
        page: whether there is a page at ``/`` to try the model in a browser.
        review: file that rows are appended to when somebody says on the page whether an answer is right; None keeps
            nothing of that kind.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 1 << 20
    max_embedding_bytes: int = 8 << 20
    large_requests: int = 8
    max_input_chars: int = 100_000
    max_tokens: int = 1024
    receive_s: float = 20.0
    header_s: float = 10.0
    client_connections: int = 512
    write_s: float = 20.0
    max_batch: int = 16
    threads: int = 96
    max_waiting: int = 256
    llm_concurrency: int = 64
    drain_s: int = 20
    log_file: Path | None = None
    page: bool = True
    review: Path | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach ``host``."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False
