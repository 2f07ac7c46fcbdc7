"""What Prometheus reads: requests by route, latency, tokens, confidence, the certificate's state, failures.

Notable: labels come from closed sets (routes, statuses, codes), so neither a text nor a key nor an
attacker's model name can become one. Each gateway has a registry of its own.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from locum.core.text import one_line
from locum.runtime.completion import Completion

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99, 1.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

M = TypeVar("M", Counter, Histogram)


class Metrics:
    """The gateway's counters.

    Args:
        name: of what is served.
        version: of Locum.
        certificate: first 12 characters of the certificate's hash, or none.
    """

    def __init__(self, name: str, version: str, certificate: str) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[Any, Any] = {}
        self.requests = Counter(
            "locum_requests", "Requests by route and HTTP status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "locum_request_seconds", "Time to answer by route.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.confidence = Histogram(
            "locum_confidence",
            "The student's confidence, whoever answered.",
            buckets=_CONFIDENCE,
            registry=self.registry,
        )
        self.certificate_valid = Gauge(
            "locum_certificate_valid",
            "1 while the certificate holds; 0 when void or when nothing is certified.",
            registry=self.registry,
        )
        self.certificate_ended = Counter(
            "locum_certificate_ended",
            "Certificates ended for good while serving, because another LLM answered than they name.",
            registry=self.registry,
        )
        self.llm_failures = Counter(
            "locum_llm_failures", "Failures of the LLM by code.", ["code"], registry=self.registry
        )
        self.log_failures = Counter(
            "locum_log_failures", "Access log lines that could not be written.", registry=self.registry
        )
        self.audits = Counter(
            "locum_audits", "Local answers also sent to the LLM, by outcome.", ["outcome"], registry=self.registry
        )
        self.input_tokens = self._counter("locum_input_tokens", "Tokens of prompts.")
        self.cached_tokens = self._counter("locum_cached_tokens", "Tokens of prompts that were not read again.")
        self.output_tokens = self._counter("locum_output_tokens", "Tokens written.")
        self.truncations = self._counter("locum_truncations", "Requests whose input was cut to fit the model.")
        self.cancellations = self._counter("locum_cancellations", "Answers stopped because the client was gone.")
        self.broken_off = self._counter("locum_broken_off", "Streamed answers that failed on their way.")
        self.first_token_s = Histogram(
            "locum_first_token_seconds", "Time to the first piece.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.tokens_per_s = Histogram(
            "locum_tokens_per_second", "Speed of one answer after its first piece.", ["route"], buckets=_SPEEDS,
            registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("locum_in_flight", "Requests being answered.", registry=self.registry)
        info = Gauge("locum_info", "What is served.", ["name", "version", "certificate"], registry=self.registry)
        info.labels(one_line(name), version, certificate).set(1)  # the format would let control characters through

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request."""
        self._of(self.requests, route, str(status)).inc()
        self._of(self.seconds, route).observe(seconds)

    def wrote(self, route: str, completion: Completion, first_s: float, whole_s: float) -> None:
        """One written answer, with the time to its first piece and to its end."""
        self.input_tokens.inc(completion.input_tokens)
        if completion.cached_tokens:
            self.cached_tokens.inc(completion.cached_tokens)
        self.output_tokens.inc(completion.output_tokens)
        self._of(self.first_token_s, route).observe(first_s)
        if completion.output_tokens > 1 and whole_s > first_s:
            self._of(self.tokens_per_s, route).observe((completion.output_tokens - 1) / (whole_s - first_s))

    def _of(self, metric: M, *labels: str) -> M:
        """The child with these labels; looked up here, because the library takes a lock for it."""
        key = (metric, labels)
        if key not in self._children:
            self._children[key] = metric.labels(*labels)
        return cast("M", self._children[key])

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(name, what, registry=self.registry)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self.registry)
