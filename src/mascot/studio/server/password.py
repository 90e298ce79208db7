"""The password: compared in constant time, and asked for ever more slowly after wrong answers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mascot.errors import UserError
from mascot.studio.sessions import cookie_of
from mascot.studio.words import words_for

COOKIE: Final = "mascot_door"
LOGIN: Final = "/login"
FREE: Final = 4
"""Wrong answers of one address that cost no time."""
LONGEST: Final = 300.0
"""Most seconds that an address waits."""
MOST_ADDRESSES: Final = 10_000
TOGETHER: Final = 120
"""Wrong answers of all addresses in a minute, after which everybody waits."""
SHORTEST: Final = 8
"""Fewest letters of a password."""
LARGEST_FORM: Final = 4096


def check_address(address: str, password: str | None) -> None:
    """Refuse an address that others reach without a password, and a password that is guessed.

    Raises:
        UserError: it is one.
    """
    if password is not None and len(password) < SHORTEST:
        raise UserError(f"--password has fewer than {SHORTEST} letters; give a longer one.")
    if password is None and not is_loopback(address):
        raise UserError(
            f"--address {address} can be reached by others, so it needs a password; give --password, or leave out "
            "--address."
        )


def is_loopback(address: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Attempts:
    """Counts wrong answers, and says how long an address has to wait; threads may call it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.wrong: dict[str, tuple[int, float]] = {}
        self.recent: list[float] = []

    def wait(self, address: str) -> float:
        """Return the seconds until an address may answer; 0 where it may now."""
        with self.lock:
            now = self.clock()
            self.recent = [at for at in self.recent if now - at < 60]
            if len(self.recent) >= TOGETHER:
                return 60 - (now - self.recent[0])
            count, last = self.wrong.get(address, (0, 0.0))
            pause = min(LONGEST, 2.0 ** (count - FREE)) if count >= FREE else 0.0
            return max(0.0, last + pause - now)

    def fail(self, address: str) -> None:
        """Count a wrong answer."""
        with self.lock:
            if len(self.wrong) >= MOST_ADDRESSES:
                del self.wrong[min(self.wrong, key=lambda one: self.wrong[one][1])]
            self.wrong[address] = self.wrong.get(address, (0, 0.0))[0] + 1, self.clock()
            self.recent.append(self.clock())

    def succeed(self, address: str) -> None:
        """Forget the wrong answers of an address."""
        with self.lock:
            self.wrong.pop(address, None)


class Door:
    """Middleware: whoever has not said the password sees the page that asks for it, and no more."""

    def __init__(self, app: ASGIApp, *, password: str, attempts: Attempts | None = None) -> None:
        self.app = app
        self.attempts = attempts or Attempts()
        self.salt = secrets.token_bytes(32)
        self.digest = self.hashed(password)
        self.key = secrets.token_urlsafe(32)
        """The cookie of those who said it; another one after each start."""

    def hashed(self, password: str) -> bytes:
        """Hash a password, so that comparing takes the same time for all lengths."""
        return hashlib.scrypt(password.encode(errors="surrogatepass"), salt=self.salt, n=2**12, r=8, p=1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        said = cookie_of(scope, COOKIE) or ""
        if hmac.compare_digest(said.encode(), self.key.encode()):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = await self.answer(Request(scope, receive))
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 4401})

    async def answer(self, request: Request) -> Response:
        """Answer a request without the cookie: the page that asks, or what the password opens."""
        if request.url.path == LOGIN and request.method == "POST":
            return self.check(await read_form(request), address_of(request), language_of(request))
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(login_page(language_of(request)), status_code=401)
        return PlainTextResponse("The password is missing; load the page again.", status_code=401)

    def check(self, password: str, address: str, language: str) -> Response:
        """Compare a password, and open the door or count a wrong answer."""
        words = words_for(language)
        pause = self.attempts.wait(address)
        if pause > 0:
            page = login_page(language, words("login.wait", seconds=f"{pause:.0f}"))
            return HTMLResponse(page, status_code=429, headers={"Retry-After": f"{pause:.0f}"})
        if not hmac.compare_digest(self.hashed(password), self.digest):
            self.attempts.fail(address)
            return HTMLResponse(login_page(language, words("login.wrong")), status_code=401)
        self.attempts.succeed(address)
        opened = RedirectResponse("/" if language == "en" else f"/{language}/", status_code=303)
        opened.set_cookie(COOKIE, self.key, httponly=True, samesite="lax")
        return opened


async def read_form(request: Request) -> str:
    """Read the password of a form; empty where the form is too large or holds none."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_FORM:
            return ""
    return parse_qs(body.decode(errors="replace")).get("password", [""])[0]


def address_of(request: Request) -> str:
    """Return the address that a request comes from; headers, which anybody writes, say nothing."""
    return request.client.host if request.client else ""


def language_of(request: Request) -> str:
    """Return the language of a page that was asked for, or that the browser prefers."""
    said = request.query_params.get("language", "")
    wanted = request.headers.get("accept-language", "").lower()
    return "ru" if said == "ru" or request.url.path.startswith("/ru") or wanted.startswith("ru") else "en"


def login_page(language: str, message: str = "") -> str:
    """Write the page that asks for the password; it loads nothing."""
    words = words_for(language)
    said = f'<p role="alert">{message}</p>' if message else ""
    return f"""<!doctype html><html lang="{language}"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>mascot studio</title>
<style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui;display:grid;place-items:center;min-height:90vh}}
form{{display:grid;gap:.75rem;width:min(20rem,90vw)}}input,button{{font:inherit;padding:.6rem;border-radius:.5rem;
border:1px solid #8888}}button{{background:#b4531f;color:#fff;border:0}}</style>
<form method="post" action="{LOGIN}?language={language}"><h1>mascot studio</h1>{said}
<label for="password">{words("login.password")}</label>
<input id="password" name="password" type="password" autocomplete="current-password" autofocus required>
<button>{words("login.enter")}</button></form></html>"""
