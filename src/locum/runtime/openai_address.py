"""Where an LLM is, and the key for it: a URL that a key may be sent to, the proxy on the way, the environment's key.

Notable: nothing leaves unencrypted except to this machine and private networks, and a proxy of the environment is for
the world outside. The key comes from a named environment variable only. Not here: sending (``openai``, ``http_pool``).
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import SplitResult, urlsplit

from locum.core.errors import UserError
from locum.runtime.http_pool import Address, proxy_of

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def checked_url(base_url: str) -> SplitResult:
    """The URL, when a key may be sent to it.

    Raises:
        UserError: ``upstream-url``.
    """
    try:
        url = urlsplit(base_url)
        sound = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError as error:
        raise UserError("upstream-url", f"llm.base_url is malformed: {error}") from error
    if not sound or not base_url.isascii() or not base_url.isprintable() or " " in base_url:
        raise UserError("upstream-url", "llm.base_url must be https://HOST/v1, in ASCII")
    if "@" in url.netloc or url.query or url.fragment:
        raise UserError(
            "upstream-url",
            "llm.base_url holds a user name, query or fragment",
            fix="keep only https://HOST/v1; name the key's environment variable in llm.api_key_env",
        )
    if url.scheme == "http" and not _is_local(url.hostname or ""):
        raise UserError(
            "upstream-url",
            f"http:// to {url.hostname} would send prompts and key unencrypted",
            fix="use https://; http:// is for this machine and private networks",
        )
    return url


def address_of(url: SplitResult) -> Address:
    """Where to connect; a proxy of the environment is for the world outside, not for this machine.

    Raises:
        UserError: ``upstream-proxy``.
    """
    host, tls = url.hostname or "", url.scheme == "https"
    proxy = None if _is_local(host) else proxy_of(host, url.scheme)
    if proxy is not None and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy is not None and not proxy.startswith("http://"):
        scheme = proxy.partition("://")[0]
        raise UserError(
            "upstream-proxy",
            f"the environment names a {scheme}:// proxy for {host}, which cannot be used",
            fix="set HTTPS_PROXY to an http:// proxy, or add the host to NO_PROXY",
        )
    return Address(host, url.port or (443 if tls else 80), tls, proxy)


def _is_local(host: str) -> bool:
    """Whether a host is this machine, a private address, or a name that only a local network has."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.lower().endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_link_local


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable; None where none is named.

    Raises:
        UserError: ``upstream-key-missing``.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        state = "holds characters that no key has" if key else "is not set"
        raise UserError("upstream-key-missing", f"environment variable {variable} {state}", fix=f"export {variable}=…")
    return key
