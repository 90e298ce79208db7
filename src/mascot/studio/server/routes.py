"""Routes beside Gradio's: live parts, images, downloads, and what buttons of the page ask for.

Runs are named, never located: a name that is no run's is refused before any file is looked at.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Final, cast, get_args

from fastapi import APIRouter, FastAPI, Request
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from mascot.api.adapters.convert import Format, convert
from mascot.api.adapters.publish import publish
from mascot.api.library.changes import delete_run, find_run, rename_run, restore_run
from mascot.errors import UserError
from mascot.storage.image_files import decode_mask
from mascot.storage.run_folder import Run
from mascot.studio.server.fragments import Kept, jobs_part, library_part, photos_part
from mascot.studio.sessions import COOKIE, Session
from mascot.studio.words import LANGUAGES, Words, words_for
from mascot.studio.workshop import OWN, Workshop

PREVIEW: Final = re.compile(r"step\d{6}_\d{1,4}\.png")
LARGEST_BODY: Final = 2**23
"""Most bytes that a button sends: a painted mask."""
PAGE_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'self'"
)
"""What a report may do: show itself, as if it were of another site that can load nothing."""
NOTHING: Final = PlainTextResponse("There is nothing here.", status_code=404)
Answer = Callable[[Request], Awaitable[Response]]


def add_routes(app: FastAPI, shop: Workshop) -> None:
    """Add the studio's routes to an app."""
    for router in (photo_routes(shop), job_routes(shop), run_routes(shop), library_routes(shop), live_routes(shop)):
        app.include_router(router, prefix="/studio")

    @app.exception_handler(UserError)
    async def say(request: Request, error: UserError) -> Response:
        del request
        return JSONResponse({"error": str(error)}, status_code=400)


def session_of(shop: Workshop, request: Request) -> Session:
    """Return the session of a request."""
    return shop.sessions.of(request.cookies.get(COOKIE))


def words_of(request: Request) -> Words:
    """Return the words of the page that asks."""
    asked = request.query_params.get("language", "en")
    return words_for(asked if asked in LANGUAGES else "en")


def live_routes(shop: Workshop) -> APIRouter:
    """Make the routes of what the page shows anew again and again."""
    router, kept = APIRouter(), Kept()

    @router.get("/live/photos")
    def show_photos(request: Request) -> Response:
        return unless_known(request, photos_part(session_of(shop, request).desk, words_of(request)))

    @router.get("/live/jobs")
    def show_jobs(request: Request) -> Response:
        words = words_of(request)
        return unless_known(request, kept.get("jobs", words, lambda: jobs_part(shop, words)))

    @router.get("/live/library")
    def show_library(request: Request) -> Response:
        words = words_of(request)
        return unless_known(request, kept.get("library", words, lambda: library_part(shop, words)))

    @router.get("/image/{number}")
    def send_image(request: Request, number: str) -> Response:
        path = session_of(shop, request).image(number)
        if path is None:
            return NOTHING
        name = f"mascot-{number}.png" if request.query_params.get("download") else None
        return FileResponse(path, media_type="image/png", filename=name, headers={"cache-control": "private"})

    return router


def unless_known(request: Request, content: str) -> Response:
    """Send a part of the page, or only say that the browser has it already."""
    tag = f'"{hashlib.sha256(content.encode()).hexdigest()[:20]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    return Response(content, media_type="text/html", headers={"etag": tag, "cache-control": "no-cache"})


def photo_routes(shop: Workshop) -> APIRouter:
    """Make the routes of a session's photos; no other session has them."""
    router = APIRouter()

    @router.get("/photo/{number}")
    def send_photo(request: Request, number: int) -> Response:
        desk = session_of(shop, request).desk
        whole = request.query_params.get("whole")
        path = desk.original(number) if whole else desk.photo(number)
        return FileResponse(path, media_type="image/png") if path.is_file() else NOTHING

    @router.get("/mask/{number}")
    def send_mask(request: Request, number: int) -> Response:
        desk = session_of(shop, request).desk
        masked = desk.entry(number).masked
        return FileResponse(desk.mask(number), media_type="image/png") if masked else Response(status_code=204)

    @router.get("/border/{number}")
    def propose_mask(request: Request, number: int) -> Response:
        content = BytesIO()
        session_of(shop, request).desk.propose_mask(number).save(content, "PNG")
        return Response(content.getvalue(), media_type="image/png", headers={"cache-control": "no-store"})

    @router.post("/photos/{number}/{verb}")
    async def change_photo(request: Request, number: int, verb: str) -> Response:
        desk, body = session_of(shop, request).desk, await read_body(request)
        verbs: dict[str, Callable[[], object]] = {
            "caption": lambda: desk.caption(number, str(body.get("text", ""))),
            "remove": lambda: desk.take_out(number),
            "crop": lambda: desk.crop(number, box_in(body.get("box"))),
            "mask": lambda: desk.set_mask(number, decode_mask(bytes_in(body.get("image")))),
            "unmask": lambda: desk.set_mask(number, None),
        }
        return await carry_out(verbs, verb)

    return router


def job_routes(shop: Workshop) -> APIRouter:
    """Make the routes of the jobs' buttons."""
    router = APIRouter()

    @router.post("/jobs/{name}/{verb}")
    async def change_job(name: str, verb: str) -> Response:
        verbs: dict[str, Callable[[], object]] = {
            "stop": lambda: shop.jobs.stop(name),
            "resume": lambda: shop.jobs.resume(name),
            "forget": lambda: shop.jobs.forget(name),
        }
        return await carry_out(verbs, verb)

    return router


def run_routes(shop: Workshop) -> APIRouter:
    """Make the routes of what runs hold: images, reports, downloads."""
    router = APIRouter()

    @router.get("/runs/{name}/thumbnail")
    def send_thumbnail(name: str) -> Response:
        found = find_run(shop.library, name).previews()
        return FileResponse(found[max(found)][0]) if found else NOTHING

    @router.get("/runs/{name}/previews/{file}")
    def send_preview(name: str, file: str) -> Response:
        path = find_run(shop.library, name).folder / "previews" / file
        return FileResponse(path) if PREVIEW.fullmatch(file) and path.is_file() else NOTHING

    @router.get("/runs/{name}/report")
    def send_report(request: Request, name: str) -> Response:
        run = find_run(shop.library, name)
        saved = f"{run.folder.name}.html" if request.query_params.get("download") else None
        headers = {"content-security-policy": PAGE_POLICY}
        return FileResponse(run.report, filename=saved, headers=headers) if run.report.is_file() else NOTHING

    @router.get("/runs/{name}/adapter")
    def send_adapter(request: Request, name: str) -> Response:
        return adapter_in_format(shop, find_run(shop.library, name), request.query_params.get("format", "mascot"))

    @router.get("/runs/{name}/card")
    def send_card(name: str) -> Response:
        run, folder = find_run(shop.library, name), temporary(shop)
        done = publish(
            run, f"you/{re.sub('[^A-Za-z0-9.-]+', '-', name).strip('-.') or 'run'}", dry_run=True, out=folder / "card"
        )
        return sent(done.folder / "README.md", f"{name}-README.md", folder)

    return router


def library_routes(shop: Workshop) -> APIRouter:
    """Make the routes of the library's buttons."""
    router = APIRouter()

    @router.post("/runs/{name}/{verb}")
    async def change_run(request: Request, name: str, verb: str) -> Response:
        body = await read_body(request)
        return await carry_out(run_verbs(shop, name, str(body.get("to", ""))), verb)

    @router.post("/trash/{place}/restore")
    def restore(place: str) -> Response:
        restore_run(shop.library, place)
        return JSONResponse({})

    return router


def run_verbs(shop: Workshop, name: str, to: str) -> dict[str, Callable[[], object]]:
    """Return what the library's buttons do with a run."""

    def while_idle(change: Callable[[], object]) -> Callable[[], object]:
        def changed() -> object:
            if shop.busy(name):
                raise UserError("A job works on this run, or will; stop it first.")
            shop.forget_jobs(name)
            return change()

        return changed

    return {
        "rename": while_idle(lambda: rename_run(shop.library, name, to)),
        "delete": while_idle(lambda: delete_run(shop.library, name)),
        "evaluate": lambda: shop.evaluate(find_run(shop.library, name).folder.name),
    }


def temporary(shop: Workshop) -> Path:
    """Make a folder for files that are sent and then deleted."""
    parent = shop.library / OWN / "uploads"
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent))


def sent(path: Path, name: str, folder: Path) -> Response:
    """Send a file under a name, and delete its folder afterwards."""
    return FileResponse(path, filename=name, background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True))


def adapter_in_format(shop: Workshop, run: Run, kind: str) -> Response:
    """Send a run's adapter: our own file, or another tool's, several files as one archive.

    Raises:
        UserError: the run has no adapter, or the format cannot hold it.
    """
    name = run.folder.name
    if kind == "mascot":
        return FileResponse(run.adapter, filename=f"{name}.safetensors") if run.adapter.is_file() else NOTHING
    if kind not in get_args(Format):
        raise UserError(f"There is no format of that name; choose one of {', '.join(get_args(Format))}.")
    folder = temporary(shop)
    try:
        files = folder / "files"
        files.mkdir()
        out = files / (name if kind == "peft" else f"{name}.safetensors")
        convert(run, out, to=cast("Format", kind))
        if out.is_file() and len(list(files.iterdir())) == 1:
            return sent(out, f"{name}-{kind}.safetensors", folder)
        archive = shutil.make_archive(str(folder / "archive"), "zip", files)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return sent(Path(archive), f"{name}-{kind}.zip", folder)


async def carry_out(verbs: dict[str, Callable[[], object]], verb: str) -> Response:
    """Do what a button asks for, in a thread; an unknown verb is nothing."""
    if verb not in verbs:
        return NOTHING
    await run_in_threadpool(verbs[verb])
    return JSONResponse({})


async def read_body(request: Request) -> dict[str, object]:
    """Read the JSON object that a button sends; empty where it sends none.

    Raises:
        UserError: it is too large, or none.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise UserError("This is too large to be sent; make it smaller.")
    return parse_body(bytes(body)) if body else {}


def parse_body(body: bytes) -> dict[str, object]:
    """Parse the JSON object of a request.

    Raises:
        UserError: it is none.
    """
    from mascot.storage.strict_parsing import MalformedText, parse_json_object
    from mascot.storage.untrusted_files import decode_text

    try:
        return parse_json_object(decode_text(body))
    except MalformedText as error:
        raise UserError("The page sent what this server does not read; load it again.") from error


def box_in(value: object) -> tuple[float, float, float, float] | None:
    """Read the box of a crop; None takes the whole photo.

    Raises:
        UserError: it is no box.
    """
    if value is None:
        return None
    sides = (
        [float(side) for side in cast("list[object]", value) if isinstance(side, int | float)]
        if isinstance(value, list)
        else []
    )
    if len(sides) != 4:
        raise UserError("A crop has four sides; draw it again.")
    left, top, right, bottom = sides
    return left, top, right, bottom


def bytes_in(value: object) -> bytes:
    """Read the bytes of an image that the page painted, a data address.

    Raises:
        UserError: it is none.
    """
    kind, _, data = str(value).partition(",")
    try:
        found = b64decode(data, validate=True)
    except (NotBase64, ValueError):
        found = b""
    if kind != "data:image/png;base64" or not found:
        raise UserError("The mask did not arrive as an image; paint it again.")
    return found
