"""A visitor without a browser: it uploads, draws through Gradio's queue, and watches."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import httpx
from PIL import Image

from tiny.photos import noise

PATIENCE = httpx.Timeout(900)


@dataclass(frozen=True)
class Visit:
    """What a visitor saw."""

    drawn: bool
    """Whether the image came."""
    watched: int
    """How often the live parts answered."""
    own: bool
    """Whether the visitor saw the photo and the image that are theirs."""
    others: bool
    """Whether the visitor saw a photo of somebody else."""


def draw_and_watch(url: str, number: int, run: str) -> Visit:
    """Upload a photo, draw one image, look at jobs and photos, and look for what is others'."""
    name = f"visitor-{number}.png"
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        assert client.get("/").status_code == 200  # the cookie comes with the page
        config: dict[str, Any] = client.get("/config").json()
        upload(client, config, name)
        result = draw(client, config, run, seed=number)
        watched = [client.get(f"/studio/live/{part}").status_code for part in ("jobs", "photos", "library") * 3]
        photos = client.get("/studio/live/photos").text
        shown = re.findall(r"/studio/image/(\d+)", result)
        image = client.get(f"/studio/image/{shown[0]}") if shown else None
    seen = set(re.findall(r"visitor-\d+\.png", photos))
    whole = image is not None and image.status_code == 200 and Image.open(BytesIO(image.content)).size == (128, 128)
    return Visit(drawn=bool(shown), watched=watched.count(200), own=whole and name in seen, others=bool(seen - {name}))


def upload(client: httpx.Client, config: dict[str, Any], name: str) -> None:
    """Send a photo as the page does."""
    content = BytesIO()
    noise(64, 64).save(content, "PNG")
    sent = client.post("/gradio_api/upload", files={"files": (name, content.getvalue(), "image/png")})
    assert sent.status_code == 200, sent.text
    file = {"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    ask(client, config, "photo-files", "upload", {"photo-files": [file]})


def draw(client: httpx.Client, config: dict[str, Any], run: str, *, seed: int) -> str:
    """Draw one image as the page does; returns the part of the page."""
    values = {"draw-adapters": [run], "draw-seed": seed, "draw-count": 1}
    return str(ask(client, config, "draw-go", "click", values)[0])


def ask(client: httpx.Client, config: dict[str, Any], target: str, event: str, values: dict[str, Any]) -> list[Any]:
    """Ask for an event of a component by its id, with some values in place of the first ones."""
    parts = {part["id"]: part["props"] for part in config["components"]}
    ids = {props.get("elem_id"): number for number, props in parts.items()}
    [wanted] = [one for one in config["dependencies"] if [ids[target], event] in [list(t) for t in one["targets"]]]
    data = [values.get(parts[number].get("elem_id"), parts[number].get("value")) for number in wanted["inputs"]]
    session = secrets.token_hex(8)
    body = {
        "data": data,
        "fn_index": wanted["id"],
        "session_hash": session,
        "event_data": None,
        "trigger_id": ids[target],
    }
    joined = client.post("/gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as answer:
        for line in answer.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                assert message["success"], message
                return message["output"]["data"]
    raise AssertionError("the queue ended without an answer")
