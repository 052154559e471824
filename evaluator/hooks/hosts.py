"""Which hosts may be called. The address that was checked is the one that is connected to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import urllib3

from evaluator.errors import HookError

__all__ = ["MAX_ANSWER_BYTES", "Answer", "call", "resolve"]

MAX_ANSWER_BYTES = 4096
"""What is kept of an answer."""

Resolver = Callable[[str, int], Sequence[str]]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target answered, cut to what is kept."""

    status: int
    text: str
    headers: Mapping[str, str]


def look_up(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver for the addresses of a host. Raises HookError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HookError(f"the host {host} cannot be found: {error.strerror}", hint="check its name") from None
    return [str(entry[4][0]) for entry in found]


def resolve(url: str, allowed: Sequence[str], resolver: Resolver = look_up) -> tuple[SplitResult, str]:
    """Check a URL against the allow-list and return it with the one address to connect to. Raises HookError.

    A host has to be listed by name or address. An address that is not public (loopback, private, link-local and so
    the metadata service) has to be listed as an address or network too, whatever name led to it; every address that
    the name has is checked.
    """
    parts = _split(url)
    if parts is None or not parts.hostname:
        raise HookError("a hook's URL must be http:// or https:// with a host and without a user name")
    addresses = [_parse(text) for text in resolver(parts.hostname, _port(parts))]
    if not addresses:
        raise HookError(f"the host {parts.hostname} has no address")
    named = parts.hostname in {entry.lower() for entry in allowed}
    for address in addresses:
        if not _listed(address, allowed) and not (named and _is_public(address)):
            raise HookError(
                f"the host {parts.hostname} ({address}) is not allowed",
                hint="list the host, and where its address is not public the address, in the policy",
            )
    return parts, str(addresses[0])


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        proper = parts.scheme in ("http", "https") and parts.username is None and parts.port != 0
    except ValueError:
        return None
    return parts if proper else None


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _parse(text: str) -> _Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _is_public(address: _Address) -> bool:
    return address.is_global and not address.is_multicast


def _listed(address: _Address, allowed: Sequence[str]) -> bool:
    for entry in allowed:
        try:
            if address in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue  # a name
    return False


def call(
    method: str,
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    allowed: Sequence[str],
    timeout_s: float,
    resolver: Resolver = look_up,
) -> Answer:
    """Send one request to the checked address; no redirect is followed and nothing is tried again. Raises HookError."""
    parts, address = resolve(url, allowed, resolver)
    target = urllib3.util.Url(path=parts.path or "/", query=parts.query or None).url
    with _pool(parts, address, timeout_s) as pool:
        try:
            response = pool.request(
                method,
                target,
                body=body,
                headers={**headers, "Host": parts.netloc},
                redirect=False,
                retries=False,
                preload_content=False,
            )
            text = response.read(MAX_ANSWER_BYTES).decode("utf-8", "replace")
            response.close()
        except urllib3.exceptions.HTTPError as error:
            raise HookError(f"{parts.hostname} did not answer: {type(error).__name__}") from None
    return Answer(response.status, text, dict(response.headers))


def _pool(parts: SplitResult, address: str, timeout_s: float) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(total=timeout_s)
    if parts.scheme == "http":
        return urllib3.HTTPConnectionPool(address, _port(parts), timeout=timeout)
    return urllib3.HTTPSConnectionPool(
        address,
        _port(parts),
        timeout=timeout,
        cert_reqs="CERT_REQUIRED",
        assert_hostname=parts.hostname,
        server_hostname=parts.hostname,
    )
