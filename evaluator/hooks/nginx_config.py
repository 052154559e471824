"""Read and change shares in a file of nginx's configuration: all that is not a share stays as it is, byte for byte.

Two blocks have shares: https://nginx.org/en/docs/http/ngx_http_upstream_module.html (`server ADDRESS weight=5 down;`)
and https://nginx.org/en/docs/http/ngx_http_split_clients_module.html (`5% VALUE;`, the last one `* VALUE;`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluator.errors import HookError
from evaluator.hooks.hash_values import ALL, move_values

_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<comment>\#[^\n]*) | (?P<end>[;{}])
    | (?P<word> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | (?!["'])(?:\\.|\$\{[^}]*\}|[^\s;{}\\]|\\)+ )""",
    re.VERBOSE | re.DOTALL,
)
_LUA = re.compile(r"""--[^\n]* | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [{}]""", re.VERBOSE | re.DOTALL)
"""Comments, texts and braces of Lua."""
_NO_SHARE = re.compile(r"#\s*0%(?P<spaces>\s+)(?P<value>\"[^\"]*\"|[^\s;]*)\s*;")
"""A value without requests: nginx takes no `0%`, so its line is a comment. Group: the value."""


# ------------------------------------------------------------------ directives


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a directive, and where it is."""

    raw: str
    """With its quotes."""
    start: int

    @property
    def end(self) -> int:
        """Position after it."""
        return self.start + len(self.raw)

    @property
    def text(self) -> str:
        """The word without quotes."""
        return self.raw[1:-1] if self.raw[:1] in ('"', "'") else self.raw


@dataclass(slots=True)
class Directive:
    """A directive with its block, if it has one."""

    words: list[Word]
    end: int
    """Position after its `;`, or after the `}` of its block."""
    block: list[Directive] = field(default_factory=list)
    """Directives of its block; empty without one."""
    comments: list[Word] = field(default_factory=list)
    """Comments directly in its block."""

    @property
    def name(self) -> str:
        """Its first word."""
        return self.words[0].text if self.words else ""


def parse_file(text: str) -> list[Directive]:
    """Parse a file of nginx's configuration. Raises ValueError if it is none."""
    root = Directive([], len(text))
    open_blocks, words, position = [root], list[Word](), 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:  # a quote that does not end
            raise ValueError("a quote does not end")
        raw, start, position = match[0], position, match.end()
        if match.lastgroup == "comment":
            open_blocks[-1].comments.append(Word(raw, start))
        elif match.lastgroup == "word":
            words.append(Word(raw, start))
        elif raw == "}":
            if len(open_blocks) == 1 or words:
                raise ValueError("a } is at the wrong place")
            open_blocks.pop().end = position
        elif match.lastgroup == "end":
            directive = Directive(words, position)
            words = []
            open_blocks[-1].block.append(directive)
            if raw == "{":
                if directive.name.endswith("_by_lua_block"):  # a program in another language
                    position = _find_end_of_block(text, position)
                    directive.end = position
                else:
                    open_blocks.append(directive)
    if len(open_blocks) > 1 or words:
        raise ValueError("a block or a directive does not end")
    return root.block


def _find_end_of_block(text: str, position: int) -> int:
    """Find the position after the `}` that ends a block whose content is no configuration. Raises ValueError."""
    depth = 1
    for match in _LUA.finditer(text, position):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth:
            return match.end()
    raise ValueError("a block does not end")


def _find_block(text: str, name: str, arguments: Mapping[int, str], what: str) -> Directive:
    """Find the one block with this name and these arguments (position among its words → text).

    `what`: the block in messages. Raises HookError if there is none, or more than one.
    """
    try:
        waiting = parse_file(text)
    except ValueError as error:
        raise HookError(f"the file is no configuration of nginx: {error}") from None
    blocks = []
    while waiting:
        directive = waiting.pop(0)
        waiting += directive.block
        if directive.name == name and all(
            len(directive.words) > position and directive.words[position].text == argument
            for position, argument in arguments.items()
        ):
            blocks.append(directive)
    if len(blocks) != 1:
        count = f"{len(blocks)} blocks" if blocks else "no block"
        raise HookError(
            f"the file has {count} `{what}`, so there is {'no way to know which one' if blocks else 'nothing'} to set",
            hint="name the file that has the block, once",
        )
    return blocks[0]


def _replace(text: str, changes: Mapping[tuple[int, int], str]) -> str:
    """Replace parts of a text: (start, end) → new text."""
    for (start, end), new in sorted(changes.items(), reverse=True):
        text = text[:start] + new + text[end:]
    return text


# ------------------------------------------------------------------ upstream


@dataclass(frozen=True, slots=True)
class UpstreamServer:
    """A server of an upstream."""

    weight: int
    """As it is written, also of a server that is `down`; 1 if it is not."""
    is_down: bool
    is_backup: bool
    """It gets requests only while no other server can take them."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """An upstream as a file has it."""

    servers: Mapping[str, UpstreamServer]
    """By address."""
    methods: tuple[str, ...]
    """Directives that choose the server, such as `least_conn`; empty: by the weights."""

    def find_effective_weights(self) -> dict[str, float]:
        """Return server → the weight by which it gets requests, as long as all accept connections."""
        serving = {name for name, server in self.servers.items() if not server.is_down}
        first = {name for name in serving if not self.servers[name].is_backup} or serving
        return {name: float(server.weight) if name in first else 0.0 for name, server in self.servers.items()}


_METHODS = ("least_conn", "least_time", "ip_hash", "hash", "random", "sticky")


def read_upstream(text: str, name: str) -> Upstream:
    """Read the upstream of this name in a file. Raises HookError."""
    servers: dict[str, UpstreamServer] = {}
    block = _find_block(text, "upstream", {1: name}, f"upstream {name}")
    for directive in block.block:
        if directive.name != "server" or len(directive.words) < 2:
            continue
        address, options = directive.words[1].text, [word.text for word in directive.words[2:]]
        if address in servers:
            raise HookError(f"the upstream {name} has the server {address} twice", hint="remove one of the lines")
        try:
            weight = next((int(option[7:]) for option in options if option.startswith("weight=")), 1)
        except ValueError:
            raise HookError(f"the weight of {address} in the upstream {name} is no number") from None
        servers[address] = UpstreamServer(weight, "down" in options, "backup" in options)
    if not servers:
        raise HookError(
            f"the upstream {name} has no servers in this file",
            hint="write them into its block, not into a file that it includes",
        )
    return Upstream(servers, tuple(directive.name for directive in block.block if directive.name in _METHODS))


def set_weights(text: str, name: str, weights: Mapping[str, int]) -> str:
    """Return the text of a file with these weights (address → weight) of servers of an upstream; 0 is `down`.

    The weight of a server that is `down` stays in the file. Servers that the upstream does not have are left out.
    Raises HookError.
    """
    changes: dict[tuple[int, int], str] = {}
    for directive in _find_block(text, "upstream", {1: name}, f"upstream {name}").block:
        if directive.name != "server" or len(directive.words) < 2 or directive.words[1].text not in weights:
            continue
        address, weight = directive.words[1], weights[directive.words[1].text]
        added = ""
        written = [word for word in directive.words[2:] if word.text.startswith("weight=")]
        down = [word for word in directive.words[2:] if word.text == "down"]
        if weight:
            for word in down:  # with the space before it
                start = len(text[: word.start].rstrip())
                changes[start, word.end] = ""
            for word in written:
                changes[word.start, word.end] = f"weight={weight}"
            added = f" weight={weight}" if not written and weight != 1 else ""
        elif not down:
            added = " down"
        if added:
            changes[address.end, address.end] = added
    return _replace(text, changes)


# ------------------------------------------------------------------ split_clients


@dataclass(frozen=True, slots=True)
class _Part:
    """A line of `split_clients`."""

    raw_value: str
    share: int
    """In hundredths of a percent; 0: the line is a comment."""
    spaces: str
    """Between share and value."""
    start: int
    end: int


def _find_parts(text: str, variable: str) -> list[_Part]:
    """Find the lines of the block `split_clients` of a variable, in their order. Raises HookError."""
    block = _find_block(text, "split_clients", {2: variable}, f"split_clients … {variable}")
    parts: list[_Part] = []
    remaining = ALL
    for directive in block.block:
        if len(directive.words) != 2:
            raise HookError(f"the block `split_clients … {variable}` has a line that is no share and value")
        key, value = directive.words
        match = re.fullmatch(r"(\d+)(?:\.(\d{1,2}))?%", key.text)
        if key.text == "*":
            share = remaining
        elif match:
            share = 100 * int(match[1]) + int((match[2] or "0").ljust(2, "0"))
        else:
            raise HookError(f"the block `split_clients … {variable}` has the share {key.raw}, which cannot be read")
        remaining -= share
        parts.append(_Part(value.raw, share, text[key.end : value.start], key.start, directive.end))
    parts += [
        _Part(match["value"], 0, match["spaces"], comment.start, comment.start + match.end())
        for comment in block.comments
        if (match := _NO_SHARE.match(comment.raw))
    ]
    return sorted(parts, key=lambda part: part.start)


def _unquote(raw: str) -> str:
    return Word(raw, 0).text


def read_split(text: str, variable: str) -> dict[str, int]:
    """Read value → share in hundredths of a percent, of the block `split_clients` of a variable. Raises HookError.

    A value may have several lines: a user keeps a value, so one that grows may get parts that are not next to its own.
    """
    shares: dict[str, int] = {}
    for part in _find_parts(text, variable):
        value = _unquote(part.raw_value)
        shares[value] = shares.get(value, 0) + part.share
    return shares


def read_split_key(text: str, variable: str) -> str:
    """Read what a block `split_clients` hashes, such as `${cookie_uid}`. Raises HookError."""
    return _find_block(text, "split_clients", {2: variable}, f"split_clients … {variable}").words[1].text


def set_split(text: str, variable: str, shares: Mapping[str, int]) -> str:
    """Return the text of a file with these shares (value → hundredths of a percent) of a block `split_clients`.

    As few users as possible get another value: one that grows takes parts only from those that shrink. Where that is
    possible, lines stay where they are, and only their shares change. The last one with a share gets `*`, all that is
    left; one without a share becomes a comment. Values that the block does not have are left out. Raises HookError.
    """
    parts = _find_parts(text, variable)
    values = [_unquote(part.raw_value) for part in parts]
    totals = read_split(text, variable)
    wanted = {value: shares.get(value, share) for value, share in totals.items()}
    ranges = move_values([(part.share, value) for part, value in zip(parts, values, strict=True)], wanted)
    share_by_value = {value: share for share, value in ranges}
    if len(set(values)) == len(values) and _is_in_order([value for _, value in ranges], values):
        return _change_shares(text, parts, [share_by_value.get(value, 0) for value in values])
    raw_values = {value: part.raw_value for value, part in zip(values, parts, strict=True)}
    indent = text[text.rfind("\n", 0, parts[0].start) + 1 : parts[0].start]
    separator = "\n" + (indent if not indent.strip() else "    ")
    lines = [
        f"{'*' if n == len(ranges) - 1 else f'{share / 100:g}%'}{parts[0].spaces}{raw_values[value]};"
        for n, (share, value) in enumerate(ranges)
    ]
    lines += [f"# 0%{parts[0].spaces}{raw_values[value]};" for value, share in wanted.items() if not share]
    changes = {(part.start, _find_end_of_line(text, part.end)): "" for part in parts[1:]}
    changes[parts[0].start, parts[0].end] = separator.join(lines)
    return _replace(text, changes)


def _is_in_order(some: Sequence[str], all_in_order: Sequence[str]) -> bool:
    """Are all of these values different, and in the same order as in another list?"""
    positions = [all_in_order.index(value) for value in some]
    return positions == sorted(set(positions))


def _find_end_of_line(text: str, position: int) -> int:
    """Find where a line ends, with its line break, if nothing follows in it; else the position itself."""
    end = text.find("\n", position) + 1
    return end if end and not text[position:end].strip() else position


def _change_shares(text: str, parts: Sequence[_Part], new_shares: Sequence[int]) -> str:
    """Return the text with new shares of these lines, which keep their places."""
    last = max((position for position, share in enumerate(new_shares) if share), default=None)
    changes: dict[tuple[int, int], str] = {}
    for position, (part, share) in enumerate(zip(parts, new_shares, strict=True)):
        key = "*" if position == last else f"{share / 100:g}%"
        is_same = share == part.share and (not share or (text[part.start] == "*") == (key == "*"))
        if is_same:
            continue
        line = f"{key}{part.spaces}{part.raw_value};"
        if not share:
            rest_of_line = text[part.end :].partition("\n")[0].strip()
            line = f"# 0%{part.spaces}{part.raw_value};".replace("\n", " ")
            # A comment takes all of its line.
            line += "\n" if rest_of_line and not rest_of_line.startswith("#") else ""
        changes[part.start, part.end] = line
    return _replace(text, changes)
