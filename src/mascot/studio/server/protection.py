"""Headers and checks of every request: nothing is loaded from, or sent to, another machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mascot.studio.server.password import is_loopback

RULES: Final[Mapping[str, str]] = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",  # Gradio's page has scripts of its own
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "media-src": "'self' blob:",
    "worker-src": "'self' blob:",
    "frame-ancestors": "'self'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
POLICY: Final = "; ".join(f"{kind} {places}" for kind, places in RULES.items())
"""What the page may load: from this server alone."""
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Protection:
    """Middleware: sets the headers, and refuses what another site's page asks of this server."""

    def __init__(self, app: ASGIApp, *, names: Collection[str] | None = None) -> None:
        """`names` are the names that the server may be called by; None allows any."""
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        fault = self.fault(scope["method"], headers)
        if fault:
            await PlainTextResponse(fault, status_code=403)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {key.lower() for key, _ in message.get("headers", [])}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in given]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        await self.app(scope, receive, with_headers)

    def fault(self, method: str, headers: Mapping[str, str]) -> str:
        """Say what is wrong with a request; empty where nothing is.

        A page of another site can make a browser ask this machine, by a name that leads here or by
        a form; it cannot choose the headers Host and Origin.
        """
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if self.names is not None and not (name in self.names or is_loopback(name)):
            return "This server is not called so; use the address that mascot studio printed."
        origin = headers.get("origin")
        if method not in SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
            return "Another site's page asked for this; use the studio's own page."
        return ""
