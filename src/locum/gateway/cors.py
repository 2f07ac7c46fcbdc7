"""Which web pages may ask, and what a browser is told about it (Fetch standard, "CORS protocol").

Notable: a page is known by its origin, which the browser sends: pages of this machine, and those that whoever runs the
gateway named (``--origin``). Each is told its very own origin, never ``*``, and no cookies are ever allowed. A
preflight carries no key, so none is asked of it. Not here: the check of ``Host`` against rebound names (``access``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from locum.core.errors import UserError
from locum.core.text import one_line
from locum.gateway.asgi import Reply

Headers = Iterable[tuple[bytes, bytes]]

EXPOSED = (
    "x-locum-route",
    "x-locum-confidence",
    "x-locum-certificate",
    "x-locum-truncated",
    "x-request-id",
    "retry-after",
)
"""Headers of an answer that a page may read beside those that every page may."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
_USUAL_PORT = re.compile(r"(?<=^http:)(//.*):80|(?<=^https:)(//.*):443")
_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")
_ASKED_MAX = 64
"""Headers that one preflight may ask for; browsers' clients of OpenAI's API ask for a dozen."""
_SENT = ("authorization", "content-type")
_MAX_AGE_S = 600


def parse_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Named origins as browsers send them: small letters, no usual port, no path.

    Args:
        origins: such as ``https://app.example.org`` or ``app://obsidian.md``.

    Raises:
        UserError: ``gateway-origin``: one is no origin, or stands for any page.
    """
    found: list[str] = []
    for given in origins:
        origin = given.strip().removesuffix("/").lower()
        if not _ORIGIN.fullmatch(origin):
            any_page = origin in ("*", "null")
            why = (
                "stands for any page of the web" if any_page else "is no origin (scheme, host, and port if it has one)"
            )
            raise UserError(
                "gateway-origin",
                f"--origin {one_line(given, 80)!r} {why}",
                fix="name each page's origin, such as --origin https://app.example.org",
            )
        found.append(_USUAL_PORT.sub(lambda match: match[1] or match[2], origin))
    return tuple(found)


class Pages:
    """Answers browsers.

    Args:
        allows: whether an ``Origin`` header's value may ask.
    """

    def __init__(self, allows: Callable[[bytes], bool]) -> None:
        self._allows = allows

    def headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """What an answer to a request carries so that its page may read it, errors too; nothing without a page."""
        origins = [value for name, value in headers if name == b"origin"]
        if not origins:
            return []
        told = [(b"vary", b"Origin")]
        if len(origins) == 1 and self._allows(origins[0]):
            told.append((b"access-control-allow-origin", origins[0]))
            told.append((b"access-control-expose-headers", ", ".join(EXPOSED).encode()))
        return told

    def preflight(self, headers: Headers) -> Reply | None:
        """The answer to a browser that asks whether its page may ask; None where none does, or where it may not."""
        sent: dict[bytes, bytes] = {}
        for name, value in headers:
            sent[name] = sent[name] + b"," + value if name in sent else value
        if b"origin" not in sent or not self._allows(sent[b"origin"]):
            return None
        asked = sent.get(b"access-control-request-headers", b"").decode("latin-1").lower().split(",")
        names = [name for name in map(str.strip, asked[:_ASKED_MAX]) if _TOKEN.fullmatch(name)]
        told = {
            "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
            "access-control-allow-headers": ", ".join(dict.fromkeys((*_SENT, *names))),
            "access-control-max-age": str(_MAX_AGE_S),
            "vary": "Access-Control-Request-Headers",
        }
        if sent.get(b"access-control-request-private-network") == b"true":  # Chrome, of a page that is not local
            told["access-control-allow-private-network"] = "true"
        return Reply(b"", status=204, headers=told)
