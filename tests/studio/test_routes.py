"""Laws of the routes: nothing outside the library, nobody else's photos, no script from a user."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from mascot.progress import SettingsResolved, StepTrained
from mascot.storage.event_log import EventFile
from mascot.storage.run_folder import Run
from mascot.studio.jobs.job import Job
from mascot.studio.server.routes import add_routes
from mascot.studio.sessions import GiveSession
from mascot.studio.words import LANGUAGES, read_table, words_for
from mascot.studio.workshop import Workshop
from tiny.photos import noise
from tiny.world import World

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def shop(world: World) -> Workshop:
    """A studio on the library of a tiny run."""
    shop = Workshop.at(world.folder)
    preview = Run(world.folder / "run").preview(5, 0)
    preview.parent.mkdir()
    noise(16, 16).save(preview)
    return shop


@pytest.fixture
def visitor(shop: Workshop) -> TestClient:
    return TestClient(app_of(shop))


def app_of(shop: Workshop) -> FastAPI:
    app = FastAPI()
    add_routes(app, shop)
    app.add_middleware(GiveSession)
    return app


def desk_of(shop: Workshop, visitor: TestClient):  # noqa: ANN201 - a session's desk
    visitor.get("/studio/live/photos")
    return shop.sessions.of(visitor.cookies["mascot_studio"]).desk


def add_photo(shop: Workshop, visitor: TestClient, tmp_path: Path, name: str = "1.png") -> None:
    noise(64, 48).save(tmp_path / "a.png")
    desk_of(shop, visitor).add(tmp_path / "a.png", name)


PATHS = [
    "../run",
    "..",
    "%2e%2e",
    "..%2f..%2fetc",
    "/etc/passwd",
    ".studio",
    ".trash",
    "run/../../x",
    "run%00",
    "no run",
]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("what", ["thumbnail", "report", "adapter", "card", "previews/step000005_0.png"])
def test_no_name_leaves_the_library(visitor: TestClient, name: str, what: str) -> None:
    answer = visitor.get(f"/studio/runs/{name}/{what}")
    assert answer.status_code in {400, 404}, answer.text


@pytest.mark.parametrize("file", ["../recipe.toml", "..%2frecipe.toml", "recipe.toml", "step000005_0.png%00", "lock"])
def test_no_other_file_of_a_run_is_sent(visitor: TestClient, file: str) -> None:
    assert visitor.get(f"/studio/runs/run/previews/{file}").status_code in {404, 405}
    assert visitor.get("/studio/runs/run/previews/step000005_0.png").status_code == 200


def test_nobody_sees_anothers_photos_or_images(shop: Workshop, tmp_path: Path) -> None:
    one, other = TestClient(app_of(shop)), TestClient(app_of(shop))
    add_photo(shop, one, tmp_path, "mine.png")
    number = shop.sessions.keep_image(shop.sessions.of(one.cookies["mascot_studio"]), noise(8, 8), "settings")
    assert "mine.png" in one.get("/studio/live/photos").text
    assert "mine.png" not in other.get("/studio/live/photos").text
    for place in ("/studio/photo/1", f"/studio/image/{number}"):
        assert (one.get(place).status_code, other.get(place).status_code) == (200, 404)
    assert other.post("/studio/photos/1/remove", json={}).status_code == 400
    assert one.get("/studio/photo/1").status_code == 200


def test_every_text_of_a_user_is_escaped(shop: Workshop, visitor: TestClient, tmp_path: Path) -> None:
    add_photo(shop, visitor, tmp_path, SCRIPT)
    assert visitor.post("/studio/photos/1/caption", json={"text": SCRIPT}).json() == {}
    job = Job(id=SCRIPT, title=SCRIPT, words=(), created=0.0, state="failed", sentence=SCRIPT)
    shop.jobs.found[job.id] = job
    try:
        for part in ("photos", "jobs", "library"):
            for language in LANGUAGES:
                text = visitor.get(f"/studio/live/{part}?language={language}").text
                assert "<script" not in text
                assert "<img src=x" not in text
                assert ("alert(1)" in text) == (part != "library")
    finally:
        del shop.jobs.found[job.id]


def test_photos_are_changed_in_place(shop: Workshop, visitor: TestClient, tmp_path: Path) -> None:
    add_photo(shop, visitor, tmp_path)
    assert visitor.post("/studio/photos/1/crop", json={"box": [0, 0, 0.5, 1]}).json() == {}
    mask = BytesIO()
    Image.new("RGBA", (20, 20), "white").save(mask, "PNG")
    sent = "data:image/png;base64," + base64.b64encode(mask.getvalue()).decode()
    assert visitor.post("/studio/photos/1/mask", json={"image": sent}).json() == {}
    shown = visitor.get("/studio/live/photos").text
    assert "cropped" in shown
    assert "masked" in shown
    assert visitor.get("/studio/mask/1").status_code == 200
    assert visitor.post("/studio/photos/1/unmask", json={}).json() == {}
    assert visitor.get("/studio/mask/1").status_code == 204
    assert visitor.get("/studio/border/9").json()["error"].endswith("choose another one.")


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("crop", {"box": [0, 0, 1]}),
        ("crop", {"box": "all"}),
        ("mask", {"image": "data:image/png;base64,AAAA"}),
        ("mask", {"image": "x"}),
        ("unmask", {}),
        ("caption", [1]),
    ],
)
def test_what_a_page_cannot_send_is_refused_in_a_sentence(
    shop: Workshop, visitor: TestClient, verb: str, body: object, tmp_path: Path
) -> None:
    if verb != "unmask":
        add_photo(shop, visitor, tmp_path)
    answer = visitor.post(f"/studio/photos/1/{verb}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].endswith((".", "again."))


def test_a_body_without_end_is_refused(visitor: TestClient) -> None:
    answer = visitor.post("/studio/photos/1/mask", content=b"x" * (2**23 + 1))
    assert (answer.status_code, "too large" in answer.json()["error"]) == (400, True)


def test_a_live_part_is_sent_once(visitor: TestClient) -> None:
    answer = visitor.get("/studio/live/library")
    again = visitor.get("/studio/live/library", headers={"if-none-match": answer.headers["etag"]})
    assert (answer.status_code, again.status_code, again.text) == (200, 304, "")


def test_a_job_shows_how_far_it_is(shop: Workshop, visitor: TestClient) -> None:
    run = str(shop.library / "run")
    job = Job(id="j", title="owl", words=(), created=0.0, run=run, state="running", attempts=1)
    log = EventFile(shop.jobs.files("j").events)
    log(SettingsResolved(rows=(), steps=20, selection_images=0))
    for step in range(1, 8):
        log(StepTrained(step=step, loss=1 / step, subject_loss=1 / step))
    shop.jobs.found["j"] = job
    try:
        text = visitor.get("/studio/live/jobs").text
        russian = visitor.get("/studio/live/jobs?language=ru").text
    finally:
        del shop.jobs.found["j"]
    assert "step 7 of 20" in text
    assert 'value="0.350"' in text
    assert "polyline" in text
    assert "/studio/jobs/j/stop" in text
    assert "шаг 7 из 20" in russian


def test_a_run_in_a_job_is_neither_renamed_nor_deleted(shop: Workshop, visitor: TestClient) -> None:
    job = Job(id="k", title="owl", words=(), created=0.0, run=str(shop.library / "run"), state="queued")
    shop.jobs.found["k"] = job
    try:
        answers = [visitor.post(f"/studio/runs/run/{verb}", json={"to": "new"}) for verb in ("rename", "delete")]
    finally:
        del shop.jobs.found["k"]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert "stop it first" in answers[0].json()["error"]


@pytest.mark.parametrize("kind", ["mascot", "diffusers", "kohya", "comfyui", "peft"])
def test_an_adapter_is_sent_in_every_format(shop: Workshop, visitor: TestClient, kind: str) -> None:
    answer = visitor.get(f"/studio/runs/run/adapter?format={kind}")
    assert answer.status_code == 200, answer.text
    if "zip" in answer.headers["content-disposition"]:
        assert zipfile.ZipFile(BytesIO(answer.content)).namelist()
    else:
        assert json.loads(answer.content[8 : 8 + int.from_bytes(answer.content[:8], "little")])
    assert not list((shop.library / ".studio" / "uploads").glob("*")), "what was sent is deleted"


def test_an_unknown_format_or_verb_is_refused(visitor: TestClient) -> None:
    assert visitor.get("/studio/runs/run/adapter?format=../x").status_code == 400
    assert visitor.post("/studio/runs/run/evil", json={}).status_code == 404
    assert visitor.post("/studio/jobs/none/stop").status_code == 400


def test_a_run_is_deleted_and_brought_back(shop: Workshop, visitor: TestClient) -> None:
    assert visitor.post("/studio/runs/run/delete", json={}).json() == {}
    [place] = [path.name for path in (shop.library / ".trash").iterdir()]
    assert visitor.post(f"/studio/trash/{place}/restore").json() == {}
    assert Run(shop.library / "run").adapter.exists()
    assert visitor.post("/studio/trash/..%2f..%2frun/restore").status_code in {400, 404}


def placeholders(text: str) -> set[str]:
    import string

    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def sayings() -> Iterator[tuple[str, str, str]]:
    for key, said in read_table().items():
        yield key, said["en"], said["ru"]


def test_both_languages_say_the_same_things() -> None:
    for key, english, russian in sayings():
        assert english.strip(), key
        assert russian.strip(), key
        assert placeholders(english) == placeholders(russian), key
    assert all(set(said) == set(LANGUAGES) for said in read_table().values())


def test_russian_is_written_in_russian() -> None:
    plain = {
        key for key, _, russian in sayings() if not any("\u0430" <= letter.lower() <= "\u044f" for letter in russian)
    }
    assert plain == set()
    assert words_for("ru")("tab.photos") == "Фото"
