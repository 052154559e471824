"""SQL that makes the name of an endpoint of the target of a request: identifiers become `{id}`.

A path is public by its shape only: identifiers make thousands of endpoints of one, and may be secrets. So each segment
that looks like an identifier is replaced; what remains are the words of the routes.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluator.records import EndpointRule
from evaluator.store.engine import quote

MARK = "{id}"

_HEX_DIGITS = "|".join([*(f"[a-f]{{{n}}}[0-9][0-9a-f]{{{7 - n},}}" for n in range(8)), "[a-f]{8,}[0-9][0-9a-f]*"])
"""Pattern of eight or more hexadecimal digits, at least one of them 0 to 9: so no word such as `facade` matches."""

_MIXED = "|".join(
    [*(f"[A-Za-z_-]{{{n}}}[0-9][0-9A-Za-z_-]{{{15 - n},}}" for n in range(16)), "[A-Za-z_-]{16,}[0-9][0-9A-Za-z_-]*"]
)
"""Pattern of a token: sixteen or more characters of base64url, at least one of them a digit."""

_EXTENSION = r"((?:\.[A-Za-z][0-9A-Za-z]{0,9}){0,2})"

_WHOLE = "|".join(
    [
        r"eyJ[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]*){0,3}",  # a JWT
        "-?[0-9]+",
        _HEX_DIGITS,
        _HEX_DIGITS.replace("a-f", "A-F"),
        _MIXED,
        "[^/.]*(?:[0-9][^/.]*){5}",  # five digits, such as of a UUID or a date
        "[0-9A-Za-z]*[A-Za-z][0-9]+[A-Za-z]+[0-9]+[A-Za-z][0-9A-Za-z]*",  # in turn; v1beta1 is a version
    ]
)
"""Pattern of a segment that is an identifier, without its extension."""

_E_MAIL = r"@?[^/@]+@[A-Za-z][^/@]*\.[A-Za-z]{2,}"
_NOT_PLAIN = "[^-/0-9A-Za-z._~!$&'()*+,=:@{}]"
_TEXT_OF_PEOPLE = f"[^/]*{_NOT_PLAIN}[^/]*"
"""Pattern of a segment that is percent-encoded, or not ASCII."""

_WHOLE_WITH_EXTENSION = f"{_E_MAIL}|{_TEXT_OF_PEOPLE}|[^/]{{40}}[^/]*|[^/]*(?:[0-9][^/]*){{5}}"
"""Pattern of a segment that is an identifier from its first character to its last."""

IDENTIFIER = f"/(?:(?:{_WHOLE}){_EXTENSION}|{_WHOLE_WITH_EXTENSION})/"
"""Pattern of a segment that is an identifier, with its slashes; its extension is group 1."""

_IS_IDENTIFIER = f"/(?:(?:{_WHOLE}){_EXTENSION.replace('((', '(?:(', 1)}|{_WHOLE_WITH_EXTENSION})/"
"""The same pattern without a group: looking for a group takes six times as long."""

_IDENTIFIER_WITHOUT_DOT = f"/(?:{_WHOLE}|{_WHOLE_WITH_EXTENSION})/"
"""Pattern of a segment that is an identifier, of a path without a dot."""

_MAY_HAVE_IDENTIFIER = rf"[0-9@]|{_NOT_PLAIN}|eyJ|[^/]{{40}}"
"""Pattern of what each identifier and each hash has, and few other paths do."""

_ASSETS = "js|mjs|cjs|css|map|png|jpg|jpeg|gif|svg|webp|avif|ico|woff|woff2|ttf|otf|eot|json|wasm|txt|webmanifest"
_HASH = "|".join(
    [*(f"[A-Za-z_]{{{n}}}[0-9][0-9A-Za-z_]{{{7 - n},}}" for n in range(8)), "[A-Za-z_]{8,}[0-9][0-9A-Za-z_]*"]
)
HASH_IN_ASSET = rf"([-._~])(?:{_HASH})((?:\.[a-z]{{2,10}}){{0,2}}\.(?:{_ASSETS})/)"
"""Pattern of the hash in the name of a file, such as `-3f2a9c1b` in `app-3f2a9c1b.js`."""


def write_path(target: str) -> str:
    """Write the SQL expression for the path of a target: without host, query, fragment and `;parameters`.

    `target`: expression of a path with query (`/cart?x=1`), a whole URL, or a host and port (of CONNECT).
    """
    of_url = f"regexp_extract({target}, '^(?:[A-Za-z][0-9A-Za-z+.-]*://[^/?#]*)?([^?#]*)', 1)"
    plain = f"CASE WHEN starts_with({target}, '/') THEN regexp_extract({target}, '^[^?#]*') ELSE {of_url} END"
    with_parameters = f"regexp_replace({plain}, ';[^/]*', '', 'g')"
    path = f"CASE WHEN contains({target}, ';') THEN {with_parameters} ELSE {plain} END"
    return f"coalesce(nullif({path}, ''), '/')"


def write_endpoint(method: str, path: str, rules: Sequence[EndpointRule]) -> str:
    """Write the SQL expression for the name of an endpoint, such as `GET /users/{id}`.

    `method`, `path`: expressions. `rules`: those of the policy, which are applied first, in order.
    """
    for rule in rules:
        path = f"regexp_replace({path}, {quote(rule.pattern)}, {quote(rule.replacement)}, 'g')"
    path = f"CASE WHEN contains({path}, '//') THEN regexp_replace({path}, '//+', '/', 'g') ELSE {path} END"
    # Slashes are doubled, so that each segment has two of its own, and neighbours can both match. The last slash, which
    # is added, is taken away again. Patterns with groups are slow, so only paths that need them meet them.
    doubled = f"'/' || replace(ltrim({path}, '/'), '/', '//') || '/'"
    without_hashes = f"regexp_replace({doubled}, {quote(HASH_IN_ASSET)}, '\\1{MARK}\\2', 'g')"
    with_dot = f"""CASE WHEN regexp_matches({without_hashes}, {quote(_IS_IDENTIFIER)})
        THEN regexp_replace({without_hashes}, {quote(IDENTIFIER)}, '/{MARK}\\1/', 'g') ELSE {without_hashes} END"""
    without_dot = f"regexp_replace({doubled}, {quote(_IDENTIFIER_WITHOUT_DOT)}, '/{MARK}/', 'g')"
    replaced = f"CASE WHEN contains({path}, '.') THEN {with_dot} ELSE {without_dot} END"
    return f"""{method} || ' ' || CASE WHEN regexp_matches({path}, {quote(_MAY_HAVE_IDENTIFIER)})
        THEN replace(left({replaced}, -1), '//', '/') ELSE '/' || ltrim({path}, '/') END"""
