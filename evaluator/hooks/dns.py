"""Change one record set of a zone by dynamic update (RFC 2136), signed with TSIG (RFC 8945).

The update carries what was read as its prerequisite: it fails where the records were changed in between. Resolvers
keep what they have cached until its TTL has run out: the outcome names that time, or the hook waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.network import MaybeSent, NetworkOptions, resolve
from evaluator.hooks.options import SecretName, Text

if TYPE_CHECKING:
    import dns.message
    import dns.rdataset
    import dns.update


_BAD_KEY = "check that name, algorithm and secret of the key are those of the server"
Records = dict[str, Any]


def _host_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"must be HOST:PORT, such as ns1.example.org:53, not {text}")
    return text


class DnsOptions(NetworkOptions):
    """The record set, and the server that takes updates of its zone."""

    server: Annotated[Text, AfterValidator(_host_and_port)] = Field(description="HOST:PORT of the zone's primary.")
    zone: Text = Field(description="The zone: example.org.")
    name: Text = Field(description="The name within it, or @ for the zone itself.")
    type: Literal["A", "AAAA", "CNAME", "TXT"] = Field("A", description="A, AAAA, CNAME or TXT.")
    values: list[Text] = Field(description="The values to set.", min_length=1)
    ttl: Annotated[int, Field(ge=0, le=604800)] = Field(60, description="For how many seconds resolvers may keep it.")
    key_name: Text = Field(description="Name of the TSIG key.")
    key_secret: SecretName = Field(description="Where the key is, in base64: ${VARIABLE}.")
    key_algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = Field(
        "hmac-sha256", description="hmac-sha256, hmac-sha384 or hmac-sha512."
    )
    wait: bool = Field(False, description="On: the hook ends when the earlier TTL has run out.")  # noqa: FBT003

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.type == "CNAME" and len(self.values) > 1:
            raise ValueError("a CNAME has one value")
        if self.type == "CNAME" and not self.values[0].endswith("."):
            raise ValueError(f"the value of a CNAME ends with a dot: {self.values[0]}.")
        return self


class Dns(BaseHook[DnsOptions]):
    """A record set of a zone."""

    kind = "dns"
    Options = DnsOptions

    def _describe(self) -> str:
        options = self.options
        values = ", ".join(options.values)
        return f"sets {options.type} of {options.name} in {options.zone} to {values} (TTL {options.ttl} s)"

    def _test(self) -> Outcome:
        self._target_records()
        records = self._read()
        return Outcome("acknowledged", f"the server accepts the key; it has {_show(records)}")

    def _read(self) -> Records:
        """`values` and `ttl` as the server has them; no values where there is no such record."""
        import dns.flags
        import dns.message
        import dns.rcode
        import dns.rdataclass
        import dns.rdatatype

        name, kind = self._name(), dns.rdatatype.from_text(self.options.type)
        query = dns.message.make_query(name, kind)
        query.flags &= ~dns.flags.RD
        answer = self._ask(query, changes=False)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise HookError(f"the name server refused the query: {dns.rcode.to_text(answer.rcode())}", hint=_BAD_KEY)
        rrset = answer.get_rrset(answer.answer, name, dns.rdataclass.IN, kind)
        return {"values": sorted(r.to_text() for r in rrset), "ttl": rrset.ttl} if rrset else {"values": [], "ttl": 0}

    def _describe_value(self, value: Any) -> str:
        return _show(value)

    def _execute(self, context: HookContext) -> Outcome:
        return self._change(self._read(), self._target_records(), context)

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:
        return self._change(self._read(), earlier, context)

    def _change(self, earlier: Records, target: Records, context: HookContext) -> Outcome:
        if earlier == target:
            return Outcome("acknowledged", f"the server has {_show(target)} already", earlier)
        self._update(earlier, target)
        try:
            now = self._read()
        except HookError as error:
            raise MaybeSent(f"the records cannot be read back: {error.message}") from None
        if now != target:
            raise MaybeSent(f"the server accepted the update, but it has {_show(now)}")
        until = datetime.now(UTC) + timedelta(seconds=earlier["ttl"])
        description = f"the server has {_show(now)}; before it had {_show(earlier)}"
        if self.options.wait and earlier["ttl"] < context.left_s():
            time.sleep(earlier["ttl"])
            return Outcome("acknowledged", f"{description}; the earlier TTL has run out", earlier, effective_at=until)
        return Outcome(
            "acknowledged",
            f"{description}; resolvers may use that until {until:%H:%M:%S} UTC",
            earlier,
            effective_at=until,
        )

    def _update(self, earlier: Records, target: Records) -> None:
        import dns.rcode
        import dns.update

        update = dns.update.UpdateMessage(self.options.zone)
        name = self._name()
        if earlier["values"]:
            update.present(name, *self._rdataset(earlier))  # records alone: a prerequisite has no TTL
        else:
            update.absent(name, self.options.type)
        if target["values"]:
            update.replace(name, self._rdataset(target))
        else:
            update.delete(name, self.options.type)
        rcode = dns.rcode.to_text(self._ask(update, changes=True).rcode())
        if rcode in ("NXRRSET", "YXRRSET", "NXDOMAIN", "YXDOMAIN"):
            raise HookError(
                f"{self.options.name} was changed in the meantime; nothing was done", hint="check its records"
            )
        if rcode == "SERVFAIL":
            raise MaybeSent("the name server answered SERVFAIL")
        if rcode != "NOERROR":
            raise HookError(
                f"the name server refused the update: {rcode}",
                hint=f"check that the key may update {self.options.zone}",
            )

    def _name(self) -> Any:
        import dns.exception
        import dns.name

        try:
            zone = dns.name.from_text(self.options.zone)
            name = dns.name.from_text(self.options.name, zone)
        except dns.exception.DNSException:
            raise HookError(f"{self.options.name} in {self.options.zone} is not a valid DNS name") from None
        if not name.is_subdomain(zone):
            raise HookError(f"{self.options.name} is not within {self.options.zone}")
        return name

    def _rdataset(self, records: Records) -> dns.rdataset.Rdataset:
        import dns.exception
        import dns.rdataset

        try:
            return dns.rdataset.from_text("IN", self.options.type, records["ttl"], *records["values"])
        except (dns.exception.DNSException, ValueError):
            raise HookError(
                f"{', '.join(map(str, records['values']))} cannot be the value of {self.options.type}",
                hint="names end with a dot, texts are in quotes",
            ) from None

    def _target_records(self) -> Records:
        """The records to set, as the server will return them."""
        rdataset = self._rdataset({"values": self.options.values, "ttl": self.options.ttl})
        return {"values": sorted(record.to_text() for record in rdataset), "ttl": self.options.ttl}

    def _ask(self, message: dns.message.Message, *, changes: bool) -> dns.message.Message:
        import dns.exception
        import dns.query
        import dns.tsigkeyring

        options = self.options
        host, _, port = options.server.rpartition(":")
        address = resolve(host.strip("[]"), int(port), options.allow_hosts)[0]
        secret = self._secret(options.key_secret)
        try:
            message.use_tsig(dns.tsigkeyring.from_text({options.key_name: (options.key_algorithm, secret)}))
        except ValueError:
            raise HookError("the key is not base64", hint="use the key's secret as the server has it") from None
        lost: Callable[[str], Exception] = MaybeSent if changes else HookError
        try:
            return dns.query.tcp(message, address, options.timeout, int(port))
        except ConnectionRefusedError:
            raise HookError(f"{options.server} cannot be reached: connection refused") from None
        except dns.exception.DNSException as error:
            kind = type(error).__name__
            if kind in ("PeerBadKey", "PeerBadSignature", "PeerBadTime", "PeerBadTruncation"):
                raise HookError(f"{options.server} does not accept the key: {kind}", hint=_BAD_KEY) from None
            raise lost(f"{options.server} did not give a valid DNS answer: {kind}") from None
        except (OSError, EOFError) as error:
            raise lost(f"{options.server} did not answer: {type(error).__name__}") from None


def _show(records: Records) -> str:
    if not records["values"]:
        return "no record"
    return f"{', '.join(records['values'])} (TTL {records['ttl']} s)"
