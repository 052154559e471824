"""Targets of hooks that act: what a hook sets in them can be read back, and compared with what the hook reports."""

from __future__ import annotations

import base64
import copy
import json
import shlex
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.answers import Protocol, write_answer

SECRET = base64.b64encode(b"a secret of 32 bytes, for fuzzing").decode()
ENVIRONMENT = {"FUZZ_SECRET": SECRET, "FUZZ_SIGNING": f"whsec_{SECRET}"}
"""Variables that the options name."""

ALLOWED = {"allow_hosts": ["127.0.0.1"], "timeout": "1s"}
FULL = {"shares": {"canary": 1}}
"""What routers give in each action."""


@dataclass
class Target:
    """One target, as it is before the hook."""

    kind: str
    options: dict[str, Any]
    act: Callable[[bytes], Any]
    """Does what a request asks for, and returns the answer: a document, or bytes where the protocol is not HTTP."""
    read: Callable[[], Any]
    """Returns the value that the hook sets."""
    wanted: Any
    """That value when the hook has done all."""
    protocol: Protocol = "http"


def _make_etcd(url: str) -> Target:
    key: dict[str, str | int | None] = {"value": "old", "revision": 3}

    def act(request: bytes) -> Any:
        path, message = _read_http(request)
        header = {"revision": str(key["revision"])}
        if path.endswith("/range"):
            if key["value"] is None:
                return {"header": header}
            value = base64.b64encode(str(key["value"]).encode()).decode()
            return {"header": header, "kvs": [{"key": "a2V5", "value": value, "mod_revision": str(key["revision"])}]}
        if message["compare"][0]["mod_revision"] != str(key["revision"]):
            return {"header": header}
        put = message["success"][0].get("request_put")
        key["value"] = base64.b64decode(put["value"]).decode() if put else None
        key["revision"] = int(key["revision"] or 0) + 1
        return {"header": {"revision": str(key["revision"])}, "succeeded": True}

    return Target("etcd", {"url": url, "key": "key", "value": "new", **ALLOWED}, act, lambda: key["value"], "new")


_ROLLOUT = {
    "kind": "Rollout",
    "metadata": {"name": "cart", "resourceVersion": "12"},
    "spec": {"strategy": {"canary": {"steps": [{"setWeight": 20}, {"pause": {}}]}}, "paused": True},
    "status": {"abort": False, "currentStepIndex": 1, "pauseConditions": [{"reason": "CanaryPauseStep"}]},
}
_ROUTE = {
    "kind": "HTTPRoute",
    "metadata": {"name": "cart", "resourceVersion": "12"},
    "spec": {"rules": [{"backendRefs": [{"name": "old", "weight": 90}, {"name": "new", "weight": 10}]}]},
}
_SLICES = {"metadata": {}, "items": [{"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}]}]}


def _make_kubernetes(
    url: str, patch: dict[str, Any], resource: dict[str, Any], read: Callable[[Any], Any], wanted: Any
) -> Target:
    """Make an object of Kubernetes. `patch`: the option that names it; `read`: reads the value from the object."""
    current = copy.deepcopy(resource)

    def act(request: bytes) -> Any:
        path, change = _read_http(request)
        if "endpointslices" in path:
            return _SLICES
        if change:
            _merge(current, {part: value for part, value in change.items() if part != "metadata"})
        return current

    options = {"url": url, "token": "${FUZZ_SECRET}", **patch, **ALLOWED}
    return Target("kubernetes", options, act, lambda: copy.deepcopy(read(current)), wanted)


def _merge(document: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Change a document as a merge patch (RFC 7396) says."""
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(document.get(name), dict):
            _merge(document[name], value)
        elif value is None:
            document.pop(name, None)
        else:
            document[name] = value


def _make_receiver(kind: str, options: dict[str, Any]) -> Target:
    """Make a receiver of messages: its value is whether it has received one."""
    received: list[bytes] = []

    def act(request: bytes) -> Any:
        received.append(request)
        return {"ok": True}

    return Target(kind, options | ALLOWED, act, lambda: bool(received), wanted=True)


def _make_router(url: str) -> Target:
    """Make a router that is called over HTTP: PUT sets the shares that GET answers."""
    shares = {"baseline": 0.9, "canary": 0.1}

    def act(request: bytes) -> Any:
        _, new = _read_http(request)
        shares.update(new or {})
        return dict(shares)

    options = {"set": {"method": "PUT", "url": url}, "get": {"url": url}, **FULL, **ALLOWED}
    return Target("http", options, act, lambda: dict(shares), {"baseline": 0.0, "canary": 1.0})


_STATES = "1\n# be_id be_name srv_id srv_name srv_op_state srv_admin_state srv_uweight srv_iweight\n"
_STATISTICS = (
    b"# pxname,svname,status,bck,check_status,last_chk,agent_status,tracked,algo,\n"
    b"shop,old,UP,0,L7OK,,,,,\nshop,new,no check,0,,,,,,\nshop,BACKEND,UP,0,,,,,roundrobin,\n\n"
)


def _make_haproxy(port: int) -> Target:
    weights = {"old": 90, "new": 10}

    def act(request: bytes) -> bytes:
        words = request.decode("utf-8", "replace").split()
        if words[:3] == ["show", "cli", "level"]:
            return b"admin\n\n"
        if words[:2] == ["show", "servers"]:
            rows = "".join(f"3 shop 1 {name} 2 0 {weight} 1\n" for name, weight in weights.items())
            return f"{_STATES}{rows}\n".encode()
        if words[:2] == ["show", "stat"]:
            return _STATISTICS
        if words[:2] == ["set", "weight"]:
            weights[words[2].partition("/")[2]] = int(words[3])
        return b"\n"

    servers = {"baseline": "old", "canary": "new"}
    options = {"address": f"127.0.0.1:{port}", "backend": "shop", "servers": servers, **FULL, **ALLOWED}
    return Target("haproxy", options, act, lambda: dict(weights), {"old": 0, "new": 1}, "line")


def _make_dns(port: int) -> Target:
    import dns.flags
    import dns.message
    import dns.rrset
    import dns.tsigkeyring
    import dns.update

    keyring = dns.tsigkeyring.from_text({"upd": ("hmac-sha256", SECRET)})
    name = "cart.shop.test."
    records = {"values": ["10.0.0.1"], "ttl": 60}

    def act(request: bytes) -> bytes:
        asked = dns.message.from_wire(request[2:], keyring=keyring)
        response = dns.message.make_response(asked)
        response.flags |= dns.flags.AA
        if isinstance(asked, dns.update.UpdateMessage):
            for record_set in asked.update:
                if not record_set.deleting:
                    records.update(values=[record.to_text() for record in record_set], ttl=record_set.ttl)
        else:
            response.answer.append(dns.rrset.from_text(name, records["ttl"], "IN", "A", *records["values"]))
        wire = response.to_wire()
        return struct.pack("!H", len(wire)) + wire

    options = {
        "server": f"127.0.0.1:{port}", "zone": "shop.test", "name": "cart", "values": ["10.0.1.1"],
        "key_name": "upd", "key_secret": "${FUZZ_SECRET}", **ALLOWED,
    }  # fmt: skip
    return Target("dns", options, act, lambda: records["values"], ["10.0.1.1"], "dns")


NGINX_ARGUMENTS = ("-T", "-s")
"""How nginx is called to test its configuration, and to reload it: files of these names have its exit codes."""


def _make_nginx(folder: Path) -> Target:
    """Make an upstream file and a program that pretends to be nginx, to which nothing is sent."""
    file = folder / "shop.conf"
    text = "upstream shop {\n    server 127.0.0.1:1 weight=9;  # old\n    server 127.0.0.1:2;  # new\n}\n"
    file.write_text(text)
    for argument in NGINX_ARGUMENTS:
        (folder / argument).write_text("0")
    script = f'cd {shlex.quote(str(folder))}; cat shop.conf; exit $(cat "./$1")'
    options = {
        "file": str(file), "upstream": "shop", "servers": {"baseline": "127.0.0.1:1", "canary": "127.0.0.1:2"},
        "nginx": ["sh", "-c", script, "nginx"], "check_servers": False, **FULL,
    }  # fmt: skip
    wanted = text.replace(":1 weight", ":1 down weight", 1)
    return Target("nginx", options, lambda _request: b"", lambda: file.read_bytes().decode("utf-8", "replace"), wanted)


def _read_http(request: bytes) -> tuple[str, Any]:
    """Path of a request, and the JSON in its body; None without a body."""
    head, _, body = request.partition(b"\r\n\r\n")
    return head.split(b" ")[1].decode(), json.loads(body) if body else None


def list_targets(port: int, folder: Path) -> dict[str, Callable[[], Target]]:
    """Name of a target → makes it. `port`: of the server that answers for it. `folder`: for files."""
    url = f"http://127.0.0.1:{port}"
    rollout, route = {"name": "cart"}, {"name": "cart", "services": {"baseline": "old", "canary": "new"}} | FULL

    def read_weights(resource: Any) -> Any:
        return {one["name"]: one["weight"] for one in resource["spec"]["rules"][0]["backendRefs"]}

    def read_pauses(resource: Any) -> Any:
        return [resource["spec"].get("paused"), resource["status"].get("pauseConditions")]

    def read_abort(resource: Any) -> Any:
        return resource["status"].get("abort")

    return {
        "etcd": lambda: _make_etcd(url),
        "rollout": lambda: _make_kubernetes(
            url, {"rollout": rollout | {"do": "promote"}}, _ROLLOUT, read_pauses, [False, None]
        ),
        "abort": lambda: _make_kubernetes(url, {"rollout": rollout | {"do": "abort"}}, _ROLLOUT, read_abort, True),
        "route": lambda: _make_kubernetes(url, {"route": route}, _ROUTE, read_weights, {"old": 0, "new": 10}),
        "webhook": lambda: _make_receiver("webhook", {"url": url, "secret": "${FUZZ_SIGNING}"}),
        "http": lambda: _make_receiver("http", {"url": url, "method": "POST", "contains": "ok"}),
        "router": lambda: _make_router(url),
        "notify": lambda: _make_receiver("notify", {"to": [f"json://127.0.0.1:{port}/x"]}),
        "haproxy": lambda: _make_haproxy(port),
        "dns": lambda: _make_dns(port),
        "nginx": lambda: _make_nginx(folder),
    }


def write_document(document: Any) -> bytes:
    """Write an answer of `Target.act` as bytes."""
    return document if isinstance(document, bytes) else write_answer(json.dumps(document).encode())
