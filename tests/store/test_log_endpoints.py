"""Names of endpoints: paths of real frameworks and interfaces, with identifiers as they occur."""

from __future__ import annotations

import random

import duckdb
import pytest

from evaluator.records import EndpointRule
from evaluator.store.engine import quote
from evaluator.store.log_endpoints import HASH_IN_ASSET, IDENTIFIER, MARK, write_endpoint, write_path

TOKEN = "Zx9Yw8Vu7Ts6Rq5P4o3N"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
UUID = "550e8400-e29b-41d4-a716-446655440000"

PATHS = {
    "Rails": {
        "/": "/",
        "/photos/1/edit": "/photos/{id}/edit",
        "/photos/1.json": "/photos/{id}.json",
        "/magazines/17/ads/23": "/magazines/{id}/ads/{id}",
        "/admin/posts/new": "/admin/posts/new",
        f"/rails/active_storage/blobs/redirect/{TOKEN}--1f2e3d4c5b6a/cat.png": (
            "/rails/active_storage/blobs/redirect/{id}/cat.png"),
        "/assets/application-0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9.css": (
            "/assets/application-{id}.css"),
        f"/users/password/edit?reset_password_token={TOKEN}": "/users/password/edit",
        "/cable": "/cable",
    },
    "Django": {
        "/articles/2003/03/building-a-django-site/": "/articles/{id}/{id}/building-a-django-site/",
        "/admin/auth/user/42/change/": "/admin/auth/user/{id}/change/",
        "/admin/jsi18n/": "/admin/jsi18n/",
        f"/accounts/reset/MQ/c8mxyz-{TOKEN}/": "/accounts/reset/MQ/{id}/",
        "/static/admin/css/base.7f9a2b1c4d5e.css": "/static/admin/css/base.{id}.css",
        "/api/users/7/": "/api/users/{id}/",
    },
    "Express, Next.js, Vite": {
        "/users/507f1f77bcf86cd799439011": "/users/{id}",
        "/flights/LAX-SFO": "/flights/LAX-SFO",
        "/_next/static/chunks/main-0dfb9a44e1b2c3d4.js": "/_next/static/chunks/main-{id}.js",
        "/_next/data/8Yk2mQpLx9TzR4wVbN1cD/index.json": "/_next/data/{id}/index.json",
        "/assets/index-BZ8xK3Qw.js": "/assets/index-{id}.js",
        "/socket.io/": "/socket.io/",
        f"/orders/{UUID}/items": "/orders/{id}/items",
    },
    "Spring": {
        "/owners/6/pets/8/visits/new": "/owners/{id}/pets/{id}/visits/new",
        "/actuator/health/readiness": "/actuator/health/readiness",
        "/login/oauth2/code/google": "/login/oauth2/code/google",
        "/cart;jsessionid=1A530637289A03B07199A44E8D531427": "/cart",
        "/cars;color=red/parts;year=2012": "/cars/parts",
        "/v3/api-docs": "/v3/api-docs",
    },
    "Laravel": {
        "/posts/15/comments/3": "/posts/{id}/comments/{id}",
        f"/reset-password/{'a1b2c3d4' * 8}": "/reset-password/{id}",
        f"/email/verify/7/{'0123456789abcdef0123456789abcdef01234567'}": "/email/verify/{id}/{id}",
        "/users/anna%40example.com": "/users/{id}",
        "/users/anna@example.com/posts": "/users/{id}/posts",
    },
    "GitHub": {
        "/repos/octocat/Hello-World/issues/1347/comments": "/repos/octocat/Hello-World/issues/{id}/comments",
        "/repos/octocat/Hello-World/git/commits/7638417db6d59f3c431d3e1f261cc637155684cd": (
            "/repos/octocat/Hello-World/git/commits/{id}"),
        "/repos/octocat/Hello-World/compare/v1.0...v2.0": "/repos/octocat/Hello-World/compare/v1.0...v2.0",
        "/user/installations/25/repositories": "/user/installations/{id}/repositories",
        "/orgs/github/actions/oidc/customization/sub": "/orgs/github/actions/oidc/customization/sub",
    },
    "Stripe": {
        "/v1/customers/cus_NffrFeUfNV2Hib/sources": "/v1/customers/{id}/sources",
        "/v1/payment_intents/pi_3MtwBwLkdIwHu7ix28a3tqPa/confirm": "/v1/payment_intents/{id}/confirm",
        "/v1/invoices/upcoming": "/v1/invoices/upcoming",
        "/v1/accounts/acct_1032D82eZvKYlo2C": "/v1/accounts/{id}",
        "/v1/billing_portal/sessions": "/v1/billing_portal/sessions",
    },
    "Kubernetes": {
        "/apis/rbac.authorization.k8s.io/v1beta1/namespaces/default/roles": (
            "/apis/rbac.authorization.k8s.io/v1beta1/namespaces/default/roles"),
        "/api/v1/namespaces/default/pods/web-7d4b9c6f5d-x2x9k/log": "/api/v1/namespaces/default/pods/{id}/log",
        "/apis/apps/v2alpha1/deployments": "/apis/apps/v2alpha1/deployments",
        "/healthz": "/healthz",
    },
    "others": {
        "/watch/dQw4w9WgXcQ": "/watch/{id}",
        "/2026/11/29/release-notes": "/{id}/{id}/{id}/release-notes",
        "/2026-11-29": "/{id}",
        "/-17": "/{id}",
        "/a/1/2/3/4/5": "/a/{id}/{id}/{id}/{id}/{id}",
        f"/confirm/{JWT}": "/confirm/{id}",
        "/utf8/s3/mp3/oauth2/ipv6/http2/i18n/x509/sha256/k8s/3d/2fa": (
            "/utf8/s3/mp3/oauth2/ipv6/http2/i18n/x509/sha256/k8s/3d/2fa"),
        "/song.mp3": "/song.mp3",
        "/logo@2x.png": "/logo@2x.png",
        "/jquery-3.6.0.min.js": "/jquery-3.6.0.min.js",
        "/facade/deadbeef": "/facade/deadbeef",
        "/@anna@social.example": "/{id}",
        "/@babel/core": "/@babel/core",
        "/caf%C3%A9/men%C3%BC": "/{id}/{id}",
        "/straße": "/{id}",
        "/%2e%2e/etc/passwd": "/{id}/etc/passwd",
        "//a///b": "/a/b",
        "/users/": "/users/",
        "/users": "/users",
        "https://user:hidden@shop.example/cart?x=1#y": "/cart",
        "http://shop.example": "/",
        "/cart#fragment": "/cart",
        "/cart?": "/cart",
        "?x=1": "/",
        "*": "/*",
        "/" + "a" * 40: "/{id}",
        "/" + "long-words-" * 3: "/" + "long-words-" * 3,
        "/.well-known/openid-configuration": "/.well-known/openid-configuration",
    },
}  # fmt: skip


def name_endpoints(targets, rules=()):
    query = f"SELECT {write_endpoint(quote('GET'), write_path('target'), rules)} FROM (SELECT unnest(?) AS target)"
    with duckdb.connect() as engine:
        return [name for (name,) in engine.execute(query, [list(targets)]).fetchall()]


@pytest.mark.parametrize("framework", PATHS)
def test_identifiers_of_paths_are_replaced_and_words_stay(framework):
    paths = PATHS[framework]
    names = dict(zip(paths, name_endpoints(paths), strict=True))
    assert names == {path: f"GET {endpoint}" for path, endpoint in paths.items()}


def test_rules_come_first_and_in_order():
    rules = [
        EndpointRule("^/shops/[^/]+", "/shops/{shop}"),
        EndpointRule("^/(wiki|docs)/.*", "/\\1/{page}"),
        EndpointRule("'", '"'),
    ]
    paths = ["/shops/anna/orders/7?token=x", "/wiki/a/b/c", "/docs/1", "/it's", "/rest/api/2/issue"]
    assert name_endpoints(paths, rules) == [
        "GET /shops/{shop}/orders/{id}", "GET /wiki/{page}", "GET /docs/{page}", "GET /{id}", "GET /rest/api/{id}/issue"
    ]  # fmt: skip


def test_paths_of_all_kinds_become_few_endpoints():
    """Ten thousand identifiers of each kind are one endpoint each."""
    with duckdb.connect() as engine:
        query = f"""
            SELECT kind, count(DISTINCT {write_endpoint(quote("GET"), write_path("target"), ())}) FROM (
                SELECT unnest(['uuid', 'md5', 'sha256', 'number', 'base64']) AS kind,
                    '/x/' || unnest([gen_random_uuid()::VARCHAR, md5(k::VARCHAR), sha256(k::VARCHAR), k::VARCHAR,
                        rtrim(translate(to_base64(unhex(md5(k::VARCHAR))), '+/', '-_'), '=')]) || '/y' AS target
                FROM range(10000) AS numbers(k))
            GROUP BY kind ORDER BY kind"""
        counts = dict(engine.execute(query).fetchall())
    assert {kind: counts[kind] for kind in ("uuid", "md5", "sha256", "number")} == dict.fromkeys(
        ("uuid", "md5", "sha256", "number"), 1
    )
    assert counts["base64"] < 10_000 * 0.03, "few tokens have no digit"


PIECES = [
    "/", "/", "/", "//", ".", "-", "_", "=", "@", "~", "{", "%20", "ü", " ", "\n", "\\", "a", "users", "v1", "v1beta1",
    "abc123", "12345", "-7", "eyJ", "eyJhbGci", "deadbeef", "deadbeef0", "DEADBEEF1", "facade", "a" * 39, "a" * 40,
    "x@y.com", ".js", ".map", ".tar", ".gz", "app-", "3f2a9c1b", "AbCdEfGhIjKlMnOp1", "a1b2c3",
]  # fmt: skip


def test_the_fast_way_names_all_paths_like_two_replacements():
    """Most paths do not meet the patterns with groups, which are slow; the names are those that they would give."""
    draw = random.Random(7)
    paths = ["/" * draw.randint(0, 1) + "".join(draw.choices(PIECES, k=draw.randint(0, 8))) for _ in range(30_000)]
    doubled = "'/' || replace(ltrim(regexp_replace(path, '//+', '/', 'g'), '/'), '/', '//') || '/'"
    without_hashes = f"regexp_replace({doubled}, {quote(HASH_IN_ASSET)}, '\\1{MARK}\\2', 'g')"
    replaced = f"regexp_replace({without_hashes}, {quote(IDENTIFIER)}, '/{MARK}\\1/', 'g')"
    plain = f"'GET ' || replace(left({replaced}, -1), '//', '/')"
    with duckdb.connect() as engine:
        query = f"SELECT path, {plain}, {write_endpoint(quote('GET'), 'path', ())} FROM (SELECT unnest(?) AS path)"
        rows = engine.execute(query, [paths]).fetchall()
    assert [(path, fast) for path, expected, fast in rows if fast != expected] == []
    marked = sum(MARK in expected for _, expected, _ in rows)
    assert 0.3 < marked / len(rows) < 0.9
