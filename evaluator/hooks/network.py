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

from evaluator.errors import HookError
from evaluator.hooks.options import HookOptions, Seconds

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
    def _names_or_networks(cls, value: list[str]) -> list[str]:
        for entry in value:
            if not _NAME.fullmatch(entry) and not _network(entry):
                raise ValueError(
                    f"takes names, addresses and networks, without scheme, port or wildcard, not {entry[:80]}"
                )
        return value


class TlsOptions(NetworkOptions):
    """Options of every hook that sends HTTP requests."""

    ca: str | None = Field(None, description="File of the certificates to trust, instead of the system's.")


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
        """Whether it was accepted; a redirect is not."""
        return 200 <= self.status < 300

    @property
    def may_be_done(self) -> bool:
        """Whether the server may have acted before it answered with an error."""
        return self.status >= 500 and self.status != 503

    def parse(self) -> dict[str, Any] | None:
        """The answer as JSON; None where it is not an object."""
        try:
            parsed = json.loads(self.text)
        except ValueError:
            return None
        return parsed if isinstance(parsed, dict) else None


# ------------------------------------------------------------------ where to


def resolve(host: str, port: int, allow: Sequence[str]) -> list[str]:
    """The addresses of a host. Raises HookError where it, or one of them, may not be connected to."""
    host = host.rstrip(".").lower()
    networks = [network for entry in allow if (network := _network(entry))]
    names = {entry.rstrip(".").lower() for entry in allow if not _network(entry)}
    is_literal = _network(host) is not None and "/" not in host
    if not is_literal and host not in names:
        raise HookError(f"{host} is not among allow_hosts", hint=f"list it there if hooks may reach it: [{host}]")
    try:
        address_infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise HookError(
            f"the name {host} cannot be resolved", hint="check its spelling, and that this machine can resolve it"
        ) from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in address_infos))
    for address in addresses:
        resolved = _embedded(ipaddress.ip_address(address))
        is_public = resolved.is_global and not resolved.is_multicast and not resolved.is_reserved
        listed = [network for network in networks if resolved in network]
        if resolved in _METADATA:
            refused = not any(network.num_addresses == 1 for network in listed)
        else:
            refused = not listed and (is_literal or not is_public)
        if refused:
            what = "a metadata service" if resolved in _METADATA else "a public address" if is_public else "not public"
            raise HookError(
                f"{host} is {resolved}, which is {what} and not among allow_hosts",
                hint=f"list the address itself if hooks may reach it: [{resolved}]",
            )
    return addresses


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(entry, strict=False)
    return None


def _embedded(address: _Address) -> _Address:
    """The address that traffic reaches: IPv4 within IPv6 is IPv4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


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
    """Send a request once and read its answer. The options' timeout, or `timeout_s`, covers all but resolving the name.

    Raises HookError where it was certainly not sent, or where it changes nothing (`changes=False`); else MaybeSent.
    """
    import requests

    from evaluator.network import Adapter, ExchangeError

    host, port = split(url)
    addresses = resolve(host, port, options.allow_hosts)
    try:
        trust = ssl.create_default_context(cafile=options.ca) if url.lower().startswith("https") else None
    except OSError:
        raise HookError(f"the certificates to trust cannot be read from {options.ca}") from None
    ours = {"User-Agent": "release-evaluator", "Accept-Encoding": "identity"}
    try:
        request = requests.Request(method, url, {**ours, **(headers or {})}, data=body or None).prepare()
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
                raise HookError(f"{host}:{port} cannot be reached: {error.why}") from None
            raise (MaybeSent if changes else HookError)(f"{host} did not answer: {error.why}") from None
    # Cut where it gets too long: the status shows whether it was accepted.
    text = response.content[:LARGEST_BODY].decode("utf-8", "replace")
    return HttpResponse(response.status_code, {name.lower(): value for name, value in response.headers.items()}, text)


def split(url: str) -> tuple[str, int]:
    """The host and the port of an address. Raises HookError for one that hooks may not use."""
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
