"""Change one record set of a zone by dynamic update (RFC 2136), signed with TSIG (RFC 8945).

The update carries what was read as its prerequisite: it fails where the records were changed in between. Resolvers
keep what they have cached until its TTL has run out: the outcome names that time, or the hook waits for it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypedDict

from pydantic import AfterValidator, Field, model_validator

from evaluator.errors import HookError
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.network import MaybeSent, NetworkOptions, resolve_allowed
from evaluator.hooks.options import SecretName, Text
from evaluator.secrecy import OF_HOOKS

if TYPE_CHECKING:
    import dns.message
    import dns.rdataset
    import dns.update


_KEY_HINT = "check that name, algorithm and secret of the key are those of the server"


class Records(TypedDict):
    """The records of one name and type."""

    values: list[str]
    """Sorted; empty if there is no record."""
    ttl: int
    """Seconds for which resolvers may keep them."""


def _check_host_and_port(text: str) -> str:
    """Return a text HOST:PORT unchanged. Raises ValueError for another text."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"must be HOST:PORT, such as ns1.example.org:53, not {text}")
    return text


class DnsOptions(NetworkOptions):
    """The record set, and the server that takes updates of its zone."""

    server: Annotated[Text, AfterValidator(_check_host_and_port)] = Field(
        description="HOST:PORT of the zone's primary."
    )
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
    def _check_cname(self) -> Self:
        """Check that a CNAME has one value, which is a full name; other types may have several."""
        if self.type == "CNAME" and len(self.values) > 1:
            raise ValueError("a CNAME has one value")
        if self.type == "CNAME" and not self.values[0].endswith("."):
            raise ValueError(f"the value of a CNAME ends with a dot: {self.values[0]}.")
        return self


class Dns(BaseHook[DnsOptions]):
    """A record set of a zone."""

    kind = "dns"
    Options = DnsOptions

    def _describe(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        options = self.options
        values = ", ".join(options.values)
        return f"sets {options.type} of {options.name} in {options.zone} to {values} (TTL {options.ttl} s)"

    def _test(self) -> Outcome:
        """Check the values to set, and that the key may update the zone, by an update without any change."""
        self._make_target_records()  # raises HookError for values that the type cannot have
        records = self._read()
        self._check_other_types()
        self._update(records, None)
        return Outcome("acknowledged", f"the server accepts updates with the key; it has {_show(records)}")

    def _check_other_types(self) -> None:
        """Raise HookError if the name has records of types that exclude this one: a server ignores the update."""
        others = ("A", "AAAA", "TXT") if self.options.type == "CNAME" else ("CNAME",)
        for other in others:
            if (records := self._read_type(other))["values"]:
                raise HookError(
                    f"{self.options.name} has {other} {_show(records)}, so the server would ignore {self.options.type}",
                    hint="a name with a CNAME has no other records: delete one of them, or name another type",
                )

    def _read(self) -> Records:
        """Read the records as the server has them. Raises HookError."""
        return self._read_type(self.options.type)

    def _read_type(self, type_name: str) -> Records:
        """Read the records of a type, such as `A`; no values if there is no such record. Raises HookError."""
        import dns.flags
        import dns.message
        import dns.rcode
        import dns.rdataclass
        import dns.rdatatype

        name, record_type = self._parse_name(), dns.rdatatype.from_text(type_name)
        query = dns.message.make_query(name, record_type)
        query.flags &= ~dns.flags.RD  # only what this server has itself, no recursion to others
        answer = self._ask(query, changes=False)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise HookError(f"the name server refused the query: {dns.rcode.to_text(answer.rcode())}", hint=_KEY_HINT)
        if not answer.flags & dns.flags.AA:  # a resolver, or the server of a zone above
            raise HookError(
                f"{self.options.server} does not answer for the zone {self.options.zone} itself",
                hint="name the zone's primary as server",
            )
        record_set = answer.get_rrset(answer.answer, name, dns.rdataclass.IN, record_type)
        if not record_set:
            return {"values": [], "ttl": 0}
        return {"values": sorted(record.to_text() for record in record_set), "ttl": record_set.ttl}

    def _describe_value(self, value: Records) -> str:
        return _show(value)

    def _execute(self, context: HookContext) -> Outcome:
        """Change the records to those of the options. Raises HookError, MaybeSent."""
        earlier, target = self._read(), self._make_target_records()
        self._check_other_types()
        return self._change(earlier, target, context)

    def _undo(self, context: HookContext, earlier: Records) -> Outcome:
        """Change the records back to `earlier`, those from before the execution. Raises HookError, MaybeSent."""
        return self._change(self._read(), earlier, context)

    def write_by_hand(self, context: HookContext) -> list[str]:  # noqa: ARG002 - its options have no words
        """Write lines for a shell that do the same."""
        return self._write_records_by_hand(self._make_target_records())

    def write_undo_by_hand(self, context: HookContext, earlier: Records) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that undo what the hook did."""
        return self._write_records_by_hand(earlier)

    def _write_records_by_hand(self, records: Records) -> list[str]:
        """Write the lines that replace the records by these, by `nsupdate` (of BIND, or `knsupdate` of Knot)."""
        options, name = self.options, self._parse_name().to_text()
        host, _, port = options.server.rpartition(":")
        secret = OF_HOOKS.pattern.findall(options.key_secret)[0]
        key = f'{shlex.quote(f"{options.key_algorithm}:{options.key_name}:")}"${secret}"'
        return [
            f"nsupdate -y {key} <<'END'",
            f"server {host.strip('[]')} {port}",
            f"zone {options.zone}",
            f"update delete {name} {options.type}",
            *(f"update add {name} {records['ttl']} {options.type} {value}" for value in records["values"]),
            "send",
            "END",
        ]

    def _change(self, earlier: Records, target: Records, context: HookContext) -> Outcome:
        """Change the records from `earlier` to `target`, and read them back.

        Then wait until resolvers have forgotten the earlier records (their TTL), if the options say so and the intent
        does not expire before. Raises HookError; MaybeSent if it is not certain that the server has the new records.
        """
        if earlier == target:
            return Outcome("acknowledged", f"the server has {_show(target)} already", earlier=earlier)
        self._update(earlier, target)
        try:
            current = self._read()
        except HookError as error:
            raise MaybeSent(f"the records cannot be read back: {error.message}") from None
        if current != target:
            raise MaybeSent(f"the server accepted the update, but it has {_show(current)}")
        # Resolvers may have read the earlier records just before the change, and keep them for their TTL.
        effective_at = datetime.now(UTC) + timedelta(seconds=earlier["ttl"])
        description = f"the server has {_show(current)}; before it had {_show(earlier)}"
        if self.options.wait and earlier["ttl"] < context.left_s():
            time.sleep(earlier["ttl"])
            text = f"{description}; the earlier TTL has run out"
        else:
            text = f"{description}; resolvers may use that until {effective_at:%H:%M:%S} UTC"
        return Outcome("acknowledged", text, earlier=earlier, effective_at=effective_at)

    def _update(self, earlier: Records, target: Records | None) -> None:
        """Send an update that the server refuses if it does not have the `earlier` records any more.

        `target`: the records to set; None: change nothing, to see whether the server accepts updates. Raises HookError
        if the server refuses it, MaybeSent if it may have been done.
        """
        import dns.rcode
        import dns.update

        update = dns.update.UpdateMessage(self.options.zone)
        name = self._parse_name()
        # The prerequisite: it compares the records, without their TTL.
        if earlier["values"]:
            update.present(name, *self._to_rdataset(earlier))
        else:
            update.absent(name, self.options.type)
        if target and target["values"]:
            update.replace(name, self._to_rdataset(target))
        elif target:
            update.delete(name, self.options.type)
        rcode = dns.rcode.to_text(self._ask(update, changes=True).rcode())
        # These codes say that the prerequisite is not met.
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

    def _parse_name(self) -> Any:
        """Return the full DNS name of the records. Raises HookError if it is invalid or outside the zone."""
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

    def _to_rdataset(self, records: Records) -> dns.rdataset.Rdataset:
        """Convert records for the DNS library. Raises HookError for values that the record type cannot have."""
        import dns.exception
        import dns.rdataset

        if not 0 <= records["ttl"] < 1 << 31:  # from a damaged store
            raise HookError(f"{records['ttl']} cannot be a TTL", hint="set the records by hand")
        try:
            return dns.rdataset.from_text("IN", self.options.type, records["ttl"], *records["values"])
        except (dns.exception.DNSException, ValueError):
            raise HookError(
                f"{', '.join(map(str, records['values']))} cannot be the value of {self.options.type}",
                hint="names end with a dot, texts are in quotes",
            ) from None

    def _make_target_records(self) -> Records:
        """Make the records to set, written as the server will return them, so that they can be compared."""
        rdataset = self._to_rdataset({"values": self.options.values, "ttl": self.options.ttl})
        return {"values": sorted(record.to_text() for record in rdataset), "ttl": self.options.ttl}

    def _ask(self, message: dns.message.Message, *, changes: bool) -> dns.message.Message:
        """Sign a message with the key, send it to the server and return its answer.

        `changes`: it is an update. Raises HookError; without a valid answer to an update MaybeSent.
        """
        import dns.exception
        import dns.query
        import dns.tsigkeyring

        options = self.options
        host, _, port = options.server.rpartition(":")
        address = resolve_allowed(host.strip("[]"), int(port), options.allow_hosts)[0]
        secret = self._fill_secrets(options.key_secret)
        try:
            message.use_tsig(dns.tsigkeyring.from_text({options.key_name: (options.key_algorithm, secret)}))
        except ValueError:
            raise HookError("the key is not base64", hint="use the key's secret as the server has it") from None
        no_answer_error: Callable[[str], Exception] = MaybeSent if changes else HookError
        try:
            return dns.query.tcp(message, address, options.timeout, int(port))
        except ConnectionRefusedError:
            raise HookError(f"{options.server} cannot be reached: connection refused") from None
        except dns.exception.DNSException as error:
            error_name = type(error).__name__
            if error_name in ("PeerBadKey", "PeerBadSignature", "PeerBadTime", "PeerBadTruncation"):
                hint = f"{_KEY_HINT}, and that it may update {options.zone}" if changes else _KEY_HINT
                raise HookError(f"{options.server} does not accept the key: {error_name}", hint=hint) from None
            raise no_answer_error(f"{options.server} did not give a valid DNS answer: {error_name}") from None
        except (OSError, EOFError) as error:
            raise no_answer_error(f"{options.server} did not answer: {type(error).__name__}") from None


def _show(records: Records) -> str:
    """Write records for people: `10.0.0.1, 10.0.0.2 (TTL 60 s)`."""
    if not records["values"]:
        return "no record"
    return f"{', '.join(records['values'])} (TTL {records['ttl']} s)"
