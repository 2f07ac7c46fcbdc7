"""The page at ``/``: its files, what it shows of the server, and the account that it keeps of requests.

Notable: a panel is one file, ``web/panel-NAME.js``; nothing else lists it. The files tell nothing of what is served, so
they need no key; what they ask for does. Of a request the account keeps what the log keeps and never its text.
Not here: what a person says of an answer (``review``), the model's answers (OpenAI's API).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from importlib.resources import files
from statistics import median
from typing import Any

import orjson

import locum
from locum.gateway.asgi import Receive, Reply, Scope, Send, read_body
from locum.gateway.documents import read_document
from locum.gateway.errors import ApiError
from locum.gateway.review import ReviewFile, ReviewRequest, check_same_site
from locum.gateway.settings import Settings
from locum.gateway.targets import Target

SERVED_PATH = "/locum/served"
REVIEW_PATH = "/locum/review"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
GUARDED = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_UNKEPT = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_RECENT = 20
_MEDIAN_OVER = 1000
"""Answers that the median latency is taken over; 8 kB."""


class Account:
    """The last requests, how many went where, and the median latency; kept in memory, gone with the process."""

    def __init__(self) -> None:
        self._recent: deque[tuple[str, float, str, float | None, int, str | None, float]] = deque(maxlen=_RECENT)
        self._seconds: deque[float] = deque(maxlen=_MEDIAN_OVER)
        self._counts: Counter[str] = Counter()

    def note(self, identifier: str, scope: Scope, status: int, seconds: float) -> None:
        """One request for an answer that has ended, by the event loop's thread."""
        route = scope.get("locum.route", "none")
        error = scope["locum.error"]["error"] if "locum.error" in scope else None
        failed = status >= 400 or error is not None
        self._counts["failed" if failed else route] += 1
        if not failed:
            self._seconds.append(seconds)
        self._recent.append((identifier, time.time(), route, scope.get("locum.confidence"), status, error, seconds))

    def to_json(self) -> dict[str, Any]:
        """The newest request first."""
        return {
            "local": self._counts["local"],
            "llm": self._counts["llm"],
            "abstained": self._counts["abstain"],
            "failed": self._counts["failed"],
            "median_ms": round(1000 * median(self._seconds), 3) if self._seconds else None,
            "recent": [
                {
                    "id": identifier,
                    "time": round(at, 3),
                    "route": route,
                    "confidence": confidence,
                    "status": status,
                    "error": error,
                    "ms": round(1000 * seconds, 3),
                }
                for identifier, at, route, confidence, status, error, seconds in reversed(self._recent)
            ],
        }


class Page:
    """The page's paths.

    Args:
        target: what is served.
        settings: whether answers may be reviewed.
        in_thread: does what blocks.

    Attributes:
        account: of the requests for answers.
        files: by path; they are given without a key, too.

    Raises:
        UserError: the review file cannot be appended to.
    """

    def __init__(self, target: Target, settings: Settings, in_thread: Callable[[Callable[[], Any]], Any]) -> None:
        self._target = target
        self._settings = settings
        self._in_thread = in_thread
        self.account = Account()
        self.files = _replies()
        self._review: ReviewFile | None = None
        if settings.review is not None:
            self._review = ReviewFile(settings.review, target.task, tuple(target.shown().get("labels", ())))

    async def file(self, scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """``GET /`` and ``GET /page/NAME``."""
        return self.files[str(scope["path"])]

    async def served(self, _scope: Scope, _receive: Receive, _send: Send) -> Reply:
        """``GET /locum/served``: what is served, and where the last requests went."""
        review = self._settings.review
        told: dict[str, Any] = {
            "version": locum.__version__,
            "models": self._target.names(),
            **self._target.shown(),
            "review": None if review is None else review.name,
            "traffic": self.account.to_json(),
        }
        return Reply(orjson.dumps(told), headers=_UNKEPT)

    async def review(self, scope: Scope, receive: Receive, _send: Send) -> Reply:
        """``POST /locum/review``: one row more in the file."""
        check_same_site(scope["headers"])
        body = await read_body(scope, receive, self._settings.max_body_bytes, self._settings.receive_s)
        review = self._review
        if review is None:
            said = "what is said of answers is kept nowhere; the server was started without --review FILE"
            raise ApiError(404, "not_found", said)
        asked = read_document(ReviewRequest, body)
        self._target.check(asked.model)
        labelled = await self._in_thread(lambda: review.add(asked))
        return Reply(orjson.dumps({"status": "kept", "labelled": labelled}), headers=_UNKEPT)


def _replies() -> dict[str, Reply]:
    """The files by path; the page loads every panel that lies beside it, in the order of their names."""
    found = {item.name: item.read_bytes() for item in files("locum.gateway").joinpath("web").iterdir()}
    panels = sorted(name for name in found if name.startswith("panel-") and name.endswith(".js"))
    scripts = "\n".join(f'<script type="module" src="page/{name}"></script>' for name in panels)
    html = found.pop("index.html").replace(b"<!-- panels -->", scripts.encode())
    replies = {"/": Reply(html, media_type=_TYPES["html"], headers=GUARDED)}
    for name, content in found.items():
        kind = _TYPES.get(name.rpartition(".")[2])
        if kind is not None:
            replies[f"/page/{name}"] = Reply(content, media_type=kind, headers=GUARDED)
    return replies
