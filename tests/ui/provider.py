"""A small OpenID provider on loopback: authorization code with PKCE, signed tokens, two people."""

from __future__ import annotations

import secrets
import time
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT = "evaluator-app"
SECRET = "known-to-both"
PEOPLE = {
    "ann": {"sub": "u-1", "email": "ann@example.org", "email_verified": True, "groups": ["sre"]},
    "bob": {"sub": "u-2", "email": "bob@example.org", "email_verified": True, "groups": ["dev"]},
    "eve": {"sub": "u-3", "email": "ann@example.org", "email_verified": False, "groups": []},
}
"""Eve claims an address that was not verified."""


def make_provider(issuer: str) -> FastAPI:
    """The provider as an application; `issuer`: where it is served."""
    app, key, codes = FastAPI(), RSAKey.generate_key(2048, parameters={"kid": "k1"}), {}

    @app.get("/.well-known/openid-configuration")
    def configuration() -> dict[str, object]:
        return {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    @app.get("/jwks")
    def jwks() -> dict[str, object]:
        return {"keys": [key.as_dict(private=False)]}

    @app.get("/authorize")
    def authorize(request: Request) -> HTMLResponse:
        query = urlencode(request.query_params)
        links = "".join(f'<p><a href="/as/{name}?{query}">{name}</a></p>' for name in PEOPLE)
        return HTMLResponse(f"<h1>Who are you?</h1>{links}")

    @app.get("/as/{name}")
    def choose(name: str, request: Request) -> RedirectResponse:
        code = secrets.token_urlsafe(16)
        codes[code] = (name, request.query_params.get("nonce"))
        back = urlencode({"code": code, "state": request.query_params["state"]})
        return RedirectResponse(f"{request.query_params['redirect_uri']}?{back}")

    @app.post("/token")
    def token(code: Annotated[str, Form()]) -> JSONResponse:
        name, nonce = codes.pop(code)
        now = int(time.time())
        claims = {"iss": issuer, "aud": CLIENT, "iat": now, "exp": now + 600, "auth_time": now, **PEOPLE[name]}
        signed = jwt.encode({"alg": "RS256", "kid": "k1"}, claims | ({"nonce": nonce} if nonce else {}), key)
        return JSONResponse({"access_token": secrets.token_urlsafe(8), "token_type": "Bearer", "id_token": signed})

    return app
