"""A folder for each browser, named by a secret cookie: nobody sees another's photos or images."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import threading
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Final

from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mascot.api.library.photo_desk import PhotoDesk
from mascot.storage.image_files import write_image

COOKIE: Final = "mascot_studio"
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
IMAGE: Final = re.compile(r"\d{1,12}")
MOST_IMAGES: Final = 240
"""A session keeps this many images; the oldest give way."""
LIFE: Final = 14 * 24 * 3600
"""Seconds after which a session that nobody used is deleted."""


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's folder."""

    folder: Path

    @property
    def desk(self) -> PhotoDesk:
        """Its photos."""
        return PhotoDesk(self.folder / "desk")

    @property
    def adapters(self) -> Path:
        """The folder of adapter files that were uploaded."""
        return self.folder / "adapters"

    @property
    def images(self) -> Path:
        """The folder of the images that were generated."""
        return self.folder / "images"

    def image(self, name: str) -> Path | None:
        """Return an image's file by its number; None where there is none."""
        path = self.images / f"{name}.png"
        return path if IMAGE.fullmatch(name) and path.is_file() else None


class Sessions:
    """The sessions of a studio; methods may be called by threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()

    def of(self, token: str | None) -> Session:
        """Return the session of a cookie; without a proper one, a new one that nobody else has."""
        if token is None or TOKEN.fullmatch(token) is None:
            token = secrets.token_urlsafe(32)
        name = hashlib.sha256(token.encode()).hexdigest()[:32]
        session = Session(self.folder / name)
        session.folder.mkdir(parents=True, exist_ok=True)
        return session

    def keep_image(self, session: Session, image: Image.Image, text: str) -> str:
        """Keep an image with its settings; returns its number."""
        with self.lock:
            session.images.mkdir(exist_ok=True)
            numbers = sorted(int(path.stem) for path in session.images.glob("*.png") if path.stem.isdecimal())
            number = str(numbers[-1] + 1 if numbers else 1)
            write_image(image, session.images / f"{number}.png", text)
            for old in numbers[: max(0, len(numbers) + 1 - MOST_IMAGES)]:
                (session.images / f"{old}.png").unlink(missing_ok=True)
        return number

    def clean(self) -> None:
        """Delete the sessions that nobody used for long."""
        if not self.folder.is_dir():
            return
        for folder in self.folder.iterdir():
            newest = max((path.stat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
            if time.time() - newest > LIFE:
                shutil.rmtree(folder, ignore_errors=True)


def cookie_of(scope: Scope, name: str = COOKIE) -> str | None:
    """Return the value of a cookie of a request; None without one."""
    for key, value in scope["headers"]:
        if key == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(name)
            except CookieError:
                return None
            return found.value if found else None
    return None


class GiveSession:
    """Middleware: a browser without a session's cookie gets one, and its request has it already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        token = cookie_of(scope) if scope["type"] == "http" else ""
        if scope["type"] != "http" or (token and TOKEN.fullmatch(token)):
            await self.app(scope, receive, send)
            return
        token = secrets.token_urlsafe(32)
        others = [pair for pair in scope["headers"] if pair[0] != b"cookie"]
        scope["headers"] = [*others, (b"cookie", f"{COOKIE}={token}".encode())]
        given = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={LIFE}".encode()

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"set-cookie", given)]
            await send(message)

        await self.app(scope, receive, with_cookie)
