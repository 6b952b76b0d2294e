"""Who may ask the server: a page that it made itself, in a browser that was handed the token.

A token alone is not enough. Any page that is open in the same browser can send requests to this machine's address, and
a name of another site can be made to point here, so both the name that was asked for (`Host`) and the page that asks
(`Origin`) are compared. The token is never in a cookie: a browser would send that with requests of other pages too.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_HEADER = "x-token"
OWN_SITES = ("same-origin", "none")
"""What a browser says of a request that the server's own page makes, or a person who typed the address."""
ALWAYS: Mapping[str, str] = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers of every answer: nothing is stored, framed or told to other pages."""


class Guard:
    """Lets a request through that has the token and comes from the server's own page, and refuses all others.

    Args:
        app: what is guarded.
        token: what the first address and every later request carry.
        hosts: the names under which the server is asked, with the port; none where it was told to listen on an address
            that others reach, whose names it does not know.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str]) -> None:
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets
            return
        reason = self.reason(scope)
        answer = self.app if reason is None else JSONResponse({"error": reason}, 403)
        await answer(scope, receive, _with_headers(send))

    def reason(self, scope: Scope) -> str | None:
        """Why a request is refused; None where it is not."""
        headers = Headers(scope=scope)
        host, origin, site = headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")
        if self.hosts and host not in self.hosts:
            return "this server answers under its own address only; open the address that it printed"
        if (origin is not None and origin != f"http://{host}") or (site is not None and site not in OWN_SITES):
            return "this server answers its own pages only"
        given = headers.get(TOKEN_HEADER)
        if given is None and scope["method"] in ("GET", "HEAD") and scope["path"] == "/":
            given = QueryParams(scope["query_string"]).get("token")
        if not hmac.compare_digest((given or "").encode(), self.token.encode()):
            return "the token is missing or wrong; open the address that the server printed, with its token"
        return None


def _with_headers(send: Send) -> Send:
    """The same, with the headers of every answer."""

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in ALWAYS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sending
