"""The server: Gradio's page in each language, the studio's routes, and an end in order."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from mascot.errors import UserError, received
from mascot.storage.run_lock import hold_lock
from mascot.studio.server.password import Door, check_address, is_loopback

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from mascot.studio.page import HERE, address_of, build_page, head_of, theme
from mascot.studio.server.protection import Protection
from mascot.studio.server.routes import NOTHING, add_routes
from mascot.studio.sessions import GiveSession
from mascot.studio.tabs.answers import Room
from mascot.studio.tabs.photos import size_limit
from mascot.studio.words import LANGUAGES, words_for
from mascot.studio.workshop import OWN, Workshop

ASSETS: Final = {"studio.js": "text/javascript", "studio.css": "text/css", "favicon.svg": "image/svg+xml"}
MOST_WAITING: Final = 200
"""Events that wait in Gradio's queue; more are refused with a message."""


def build_app(shop: Workshop, *, address: str = "127.0.0.1", password: str | None = None) -> FastAPI:
    """Build the server's app: routes, and the page in each language."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, shop)

    @app.get("/studio/page/{name}")
    def send_asset(name: str) -> Response:
        return FileResponse(HERE / "assets" / name, media_type=ASSETS[name]) if name in ASSETS else NOTHING

    for language in reversed(list(LANGUAGES)):  # the address / would take all others
        room, place = Room(shop, words_for(language)), address_of(language)
        app.router.routes.append(Route(f"/{language}", lead_on))
        page = build_page(room).queue(max_size=MOST_WAITING, default_concurrency_limit=8, api_open=False)
        gr.mount_gradio_app(
            app,
            page,
            path=place.rstrip("/") or "/",
            footer_links=[],
            max_file_size=size_limit(),
            ssr_mode=False,
            theme=theme(),
            css_paths=[HERE / "assets" / "studio.css"],
            head=head_of(room),
            favicon_path=str(HERE / "assets" / "favicon.svg") if place == "/" else None,
            show_error=False,
            enable_monitoring=False,
            blocked_paths=[str(shop.library)],
        )
    app.add_middleware(GiveSession)
    if password is not None:
        app.add_middleware(Door, password=password)
    app.add_middleware(Protection, names={address} if is_loopback(address) else None)
    return app


def lead_on(request: Request) -> Response:
    """Lead from `/en` and `/ru` to the page in that language."""
    return RedirectResponse(address_of(request.url.path.strip("/")))


def serve(
    library: Path,
    *,
    port: int,
    address: str = "127.0.0.1",
    password: str | None = None,
    say: Callable[[str], None],
) -> None:
    """Serve a library until Ctrl-C, which stops the jobs in order first.

    Raises:
        UserError: the address needs a password, the port is taken, or another studio serves the
            library.
    """
    check_address(address, password)
    try:
        with hold_lock(library / OWN), closing(open_socket(address, port)) as listener:
            serve_locked(library, listener, address=address, password=password, say=say)
    except UserError as error:
        if "in use by another mascot process" in str(error):
            raise UserError(
                f"another studio serves {library}; use its page, stop it, or give another --library."
            ) from error
        raise


def serve_locked(
    library: Path, listener: socket.socket, *, address: str, password: str | None, say: Callable[[str], None]
) -> None:
    """Serve a library whose lock this process holds, on an open socket."""
    os.environ["GRADIO_TEMP_DIR"] = str((library / OWN / "uploads").resolve())
    shop = Workshop.at(library.resolve())
    shop.sessions.clean()
    app = build_app(shop, address=address, password=password)
    shop.jobs.begin()
    say(f"mascot studio: http://{address}:{listener.getsockname()[1]}   (Ctrl-C stops it, and its jobs in order)")
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=3))
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        received.clear()
        running = shop.jobs.running()
        if running:
            say(f"mascot studio: stopping {len(running)} job(s); each writes a checkpoint first.")
        for job in shop.close():
            print(f"mascot studio: {job.title} still runs, as process {job.pid}.", file=sys.stderr)  # noqa: T201


def open_socket(address: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes a free one.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen()  # before the address is printed: whoever follows it at once waits, and is not refused
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        elsewhere = getattr(error, "errno", None) in {errno.EADDRNOTAVAIL, None}
        remedy = "an --address of this machine" if elsewhere else f"another --port, such as {port % 60000 + 1}"
        raise UserError(f"{address}:{port} cannot be listened on ({reason}); give {remedy}.") from error
    return listener
