"""Where hooks may connect to, and how they send over HTTP.

A host is reached only when the options list it. Its name is resolved once; every address it has must be public or be
listed as an address or a network; and the connection goes to an address that was checked, never to a second answer of
the resolver. The name stays in the Host header and in TLS. Redirects are not followed: they are answers like others.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from evaluator.errors import HookError, NotReached
from evaluator.hooks.options import HookOptions, Seconds, Text

LARGEST_BODY = 1 << 20

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_METADATA = {ipaddress.ip_address(a) for a in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16")}
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NetworkOptions(HookOptions):
    """Options of every hook that opens connections."""

    allow_hosts: list[str] = Field(
        default_factory=list,
        description="Where it may connect to: names, and addresses or networks where these are not public.",
    )
    timeout: Seconds = Field(10.0, description="Longest wait for one answer.")

    @field_validator("allow_hosts")
    @classmethod
    def _check_allowed(cls, value: list[str]) -> list[str]:
        """Check that each entry of allow_hosts is a name, an address or a network."""
        for entry in value:
            if not _NAME.fullmatch(entry) and not _parse_network(entry):
                raise ValueError(
                    f"takes names, addresses and networks, without scheme, port or wildcard, not {entry[:80]}"
                )
        return value


class TlsOptions(NetworkOptions):
    """Options of every hook that sends HTTP requests."""

    ca: Text | None = Field(None, description="File of the certificates to trust, instead of the system's.")


class MaybeSent(Exception):
    """The request may or may not have arrived: there was no answer."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def ok(self) -> bool:
        """Whether the request was accepted; a redirect does not count."""
        return 200 <= self.status < 300

    @property
    def may_be_done(self) -> bool:
        """Whether the server may have acted before it answered with an error; 503 says that it could not act."""
        return self.status >= 500 and self.status != 503

    def parse(self) -> dict[str, Any] | None:
        """Parse the answer as a JSON object; None if it is not JSON, or another value."""
        try:
            parsed = json.loads(self.text)
        except (ValueError, RecursionError):  # the last: thousands of brackets
            return None
        return parsed if isinstance(parsed, dict) else None


# ------------------------------------------------------------------ where to


def resolve_allowed(host: str, port: int, allow: Sequence[str]) -> list[str]:
    """Resolve a host to its addresses, after checking that hooks may connect to it. Raises HookError if they may not.

    `allow`: the option allow_hosts: names, addresses and networks. A name must be listed, and each of its addresses
    must be public or listed. An address given as host must be listed. The address of a cloud's metadata service, which
    hands out credentials, must be listed by itself, not by a network around it.
    """
    host = host.rstrip(".").lower()
    allowed_networks = [network for entry in allow if (network := _parse_network(entry))]
    allowed_names = {entry.rstrip(".").lower() for entry in allow if not _parse_network(entry)}
    is_address = _parse_network(host) is not None and "/" not in host
    if not is_address and host not in allowed_names:
        raise HookError(f"{host} is not among allow_hosts", hint=f"list it there if hooks may reach it: [{host}]")
    try:
        address_infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise HookError(
            f"the name {host} cannot be resolved", hint="check its spelling, and that this machine can resolve it"
        ) from None
    # An entry of getaddrinfo ends with (address, port, …); the same address can have several entries.
    addresses = list(dict.fromkeys(str(info[4][0]) for info in address_infos))
    for address in addresses:
        reached = _find_reached_address(ipaddress.ip_address(address))
        is_public = reached.is_global and not reached.is_multicast and not reached.is_reserved
        networks_around = [network for network in allowed_networks if reached in network]
        if reached in _METADATA:
            is_refused = not any(network.num_addresses == 1 for network in networks_around)
            what = "a metadata service"
        else:
            is_refused = not networks_around and (is_address or not is_public)
            what = "a public address" if is_public else "not public"
        if is_refused:
            raise HookError(
                f"{host} is {reached}, which is {what} and not among allow_hosts",
                hint=f"list the address itself if hooks may reach it: [{reached}]",
            )
    return addresses


def _parse_network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Parse an address (as a network of one) or a network such as 10.0.0.0/8; None for anything else."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(entry, strict=False)
    return None


def _find_reached_address(address: _Address) -> _Address:
    """Return the address that traffic to `address` reaches: the IPv4 address within an IPv6 address that has one.

    Otherwise a private IPv4 address could be hidden in a public IPv6 address.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)  # its last 32 bits
    embedded = address.ipv4_mapped or address.sixtofour
    if embedded is None and address.teredo:
        _server, embedded = address.teredo
    return embedded or address


# ------------------------------------------------------------------ sending


def send(
    method: str,
    url: str,
    options: TlsOptions,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    changes: bool = True,
    timeout_s: float | None = None,
) -> HttpResponse:
    """Send an HTTP request once and read its answer, which may have any status.

    `changes`: the request changes something; without an answer it is then not known whether it did. `timeout_s`, or
    the options' timeout for None, is for connecting, sending and reading. Raises MaybeSent if a request that changes
    something may have arrived, NotReached if it could not connect, and HookError for all other failures.
    """
    import requests

    from evaluator.network import Adapter, ExchangeError

    host, port = split_url(url)
    addresses = resolve_allowed(host, port, options.allow_hosts)
    try:
        trust = ssl.create_default_context(cafile=options.ca) if url.lower().startswith("https") else None
    except OSError:
        raise HookError(f"the certificates to trust cannot be read from {options.ca}") from None
    all_headers = {"User-Agent": "release-evaluator", "Accept-Encoding": "identity", **(headers or {})}
    try:
        request = requests.Request(method, url, all_headers, data=body or None).prepare()
    except ValueError as error:  # its text may hold a secret
        raise HookError(
            f"a request to {host} cannot be written: {type(error).__name__}", hint="check the secrets for line breaks"
        ) from None
    request.url = url  # as it was checked, not as `prepare` rewrites it
    with contextlib.closing(Adapter(LARGEST_BODY, addresses=addresses, trust=trust)) as adapter:
        try:
            response = adapter.send(request, timeout=options.timeout if timeout_s is None else timeout_s)
        except ExchangeError as error:
            if not error.reached:
                raise NotReached(f"{host}:{port} cannot be reached: {error.why}") from None
            message = f"{host} did not answer: {error.why}"
            raise (MaybeSent(message) if changes else HookError(message)) from None
    # An answer that is too long is cut, not refused: its status shows whether the request was accepted.
    text = response.content[:LARGEST_BODY].decode("utf-8", "replace")
    return HttpResponse(response.status_code, {name.lower(): value for name, value in response.headers.items()}, text)


def split_url(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL. Raises HookError if hooks must not use it, as with a password in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise HookError("the address of a hook cannot be read", hint="it looks like https://example.org/path") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise HookError("the address of a hook must be http:// or https://, with a host and without a password")
    if any(ord(char) <= 32 or ord(char) >= 127 for char in url):
        raise HookError("the address of a hook has spaces, line breaks or letters that must be %-escaped")
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)
