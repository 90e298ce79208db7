"""The studio as a person uses it, in Debian's chromium: from six photos to a downloaded adapter."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

pytest.importorskip("gradio", reason="the studio's extra is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

import httpx
from playwright.sync_api import Browser, expect

from studio.crowd import Visit, draw_and_watch
from studio.visitors import (
    CHROMIUM,
    PATIENCE,
    PHOTOS,
    ROOT,
    SETTINGS,
    Person,
    Studio,
    chromium,
    start_studio,
    wait_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: apt-get install chromium"),
    pytest.mark.filterwarnings("default"),  # a browser's sockets end when they end
]

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
CROWD = int(os.environ.get("MASCOT_STUDIO_CROWD", "50"))
"""Clients that draw and watch at once."""
STEPS = 20


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    studio = start_studio(folder / "runs", folder / "cache")
    yield studio
    if studio.process.poll() is None:
        studio.end()


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def owl(studio: Studio, browser: Browser) -> str:
    """A run that a person taught: photos, curve, reload, stop, resume, second tab."""
    person = Person.arrive(browser, studio.url)
    person.upload(PHOTOS, expected=6)
    expect(person.page.locator(".readiness")).to_contain_text("6 photos")
    person.teach("owl", steps=STEPS)
    person.wait_for_job("owl", "running")
    curve = person.job("owl").locator("polyline.smooth")
    curve.wait_for(state="attached")
    before = curve.get_attribute("points")
    wait_until(lambda: curve.get_attribute("points") != before)  # it moves
    person.job("owl").get_by_role("button", name="Stop").click()
    person.wait_for_job("owl", "stopped")
    trained = steps_of(studio, "owl")
    assert 0 < trained < STEPS
    second = person.context.new_page()  # a second tab resumes, and the first one sees it
    person.listen(second)
    second.goto(studio.url)
    second.get_by_role("tab", name="Teach", exact=True).first.click()
    second.locator(".job.stopped").get_by_role("button", name="Resume").click()
    person.wait_for_job("owl", "running")
    person.open()  # a reload in the middle: photos and job are still there
    person.page.wait_for_selector(".photo >> nth=5")
    person.tab("Teach")
    person.wait_for_job("owl", "done")
    assert steps_of(studio, "owl") == STEPS
    assert (studio.library / "owl" / "report.html").exists()
    curves = person.job("owl").locator("details")
    if curves.get_attribute("open") is None:  # what was open while it ran stays open
        curves.locator("summary").click()
    expect(person.job("owl").locator("circle.likeness").first).to_be_attached()
    expect(person.job("owl").locator(".previews img").first).to_be_visible()
    second.close()
    person.leave()
    return "owl"


def steps_of(studio: Studio, name: str) -> int:
    """How many different steps the log of a run holds."""
    lines = (studio.library / name / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return len({json.loads(line)["step"] for line in lines})


@pytest.fixture
def person(studio: Studio, browser: Browser, owl: str) -> Iterator[Person]:
    """Somebody who comes to a studio where a subject is taught already."""
    del owl
    person = Person.arrive(browser, studio.url)
    yield person
    person.leave()


def test_images_are_drawn_again_and_downloaded_with_their_settings(person: Person, tmp_path: Path) -> None:
    person.tab("Draw")
    expect(person.page.locator("#draw-adapters")).to_contain_text("owl")
    person.fill("draw-prompts", "a {subject} in the snow")
    person.page.locator("#draw-go").click()
    cards = person.page.locator("#draw-result .drawn")
    expect(cards).to_have_count(2)
    expect(cards.nth(1).locator("img")).to_have_js_property("complete", value=True)
    assert cards.nth(1).locator("img").evaluate("image => image.naturalWidth") == 128
    with person.page.expect_download() as download:
        cards.nth(1).get_by_text("Download PNG").click()
    download.value.save_as(tmp_path / "owl.png")
    from PIL import Image

    with Image.open(tmp_path / "owl.png") as image:
        assert "Seed: 1" in image.info["parameters"]
        assert "in the snow" in image.info["parameters"]
    cards.nth(1).get_by_text("Again with seed 1").click()
    expect(cards.first.get_by_text("Again with seed 1")).to_be_visible()


def test_a_table_over_two_settings(person: Person) -> None:
    person.tab("Compare")
    person.page.get_by_role("tab", name="Table", exact=True).click()
    expect(person.page.locator("#grid-run input")).to_have_value("owl")
    person.fill("grid-xs", "1.5, 3")
    person.fill("grid-ys", "0, 1")
    person.page.locator("#grid-go").click()
    expect(person.page.locator("#grid-result td img")).to_have_count(4)
    expect(person.page.locator("#grid-result th").nth(1)).to_have_text("guidance 1.5")


def test_two_sides_are_compared_and_voted_on(person: Person, studio: Studio) -> None:
    person.tab("Compare")
    expect(person.page.locator("#pair-left input")).to_have_value("owl")
    person.choose("pair-right", f"owl@{STEPS}")
    person.page.locator("#pair-go").click()
    expect(person.page.locator("#pair-result img")).to_have_count(2)
    expect(person.page.locator("#pair-result .chip")).to_have_count(4)
    person.page.locator("#vote-left").click()
    expect(person.page.locator("#vote-sum")).to_contain_text("95 % interval")
    assert '"choice":"left"' in (studio.library / ".studio" / "votes.jsonl").read_text(encoding="utf-8")


def test_the_downloaded_adapter_loads_in_diffusers(person: Person, tmp_path: Path) -> None:
    person.tab("Library")
    card = person.page.locator(".run").first
    with person.page.expect_download() as download:
        card.get_by_text("diffusers", exact=True).click()
    path = tmp_path / "pytorch_lora_weights.safetensors"
    download.value.save_as(path)
    from diffusers import DiffusionPipeline

    from mascot.models import starter

    pipeline = DiffusionPipeline.from_pretrained(starter.folder())
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    assert pipeline.get_active_adapters()


def test_a_file_of_another_kind_is_refused_by_its_name(person: Person, tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"%PDF-1.7 no image")
    person.upload([tmp_path / "holiday.png"])
    assert "holiday.png is not an image" in person.toast()
    assert person.page.locator(".photo").count() == 0


def test_a_script_in_every_field_stays_a_text(person: Person, tmp_path: Path) -> None:
    photo = tmp_path / "<img src=x onerror=alert(3)>.png"
    photo.write_bytes(PHOTOS[0].read_bytes())
    person.upload([photo], expected=1)
    person.page.locator(".photo textarea").fill(SCRIPT)
    person.page.locator(".photo textarea").press("Tab")
    person.teach(SCRIPT, steps=1, settings=SCRIPT)
    expect(person.page.locator(".toast-body").last).to_contain_text("TOML")
    person.teach(SCRIPT, steps=1)
    expect(person.page.locator(".toast-body").last).to_contain_text("cannot be the name of a run")
    person.tab("Draw")
    expect(person.page.locator("#draw-adapters")).to_contain_text("owl")
    person.fill("draw-prompts", SCRIPT)
    person.page.locator("#draw-go").click()
    expect(person.page.locator("#draw-result .prompt").first).to_have_text(SCRIPT)
    person.tab("Compare")
    expect(person.page.locator("#pair-left input")).to_have_value("owl")
    person.fill("pair-prompt", SCRIPT)
    person.choose("pair-right", f"owl@{STEPS}")
    person.page.locator("#pair-go").click()
    expect(person.page.locator("#pair-result .prompt").first).to_have_text(SCRIPT)
    person.page.get_by_role("tab", name="Table", exact=True).click()
    person.fill("grid-xs", SCRIPT)
    person.page.locator("#grid-go").click()
    expect(person.page.locator(".toast-body").last).to_contain_text("is not a number")
    person.tab("Library")
    person.page.locator(".run input").first.fill(SCRIPT)
    person.page.locator(".run").first.get_by_text("Rename").click()
    expect(person.page.locator(".toast")).to_contain_text("cannot be the name of a run")
    assert person.page.evaluate("document.querySelectorAll('img[src=x], .prompt script').length") == 0


def test_a_run_is_renamed_deleted_and_brought_back(person: Person, studio: Studio) -> None:
    person.tab("Library")
    for name in ("tree owl", "owl"):
        person.page.locator(".run input").first.fill(name)
        person.page.locator(".run").first.get_by_text("Rename").click()
        expect(person.page.locator(".run h3").first).to_have_text(name)
    person.page.locator(".run").first.get_by_text("Delete").click()
    expect(person.page.locator(".trash")).to_contain_text("owl")
    assert not (studio.library / "owl").exists()
    person.page.locator(".trash").get_by_text("Bring back").click()
    expect(person.page.locator(".run h3").first).to_have_text("owl")


def test_the_report_is_shown_and_fills_the_next_form(person: Person) -> None:
    person.tab("Report")
    frame = person.page.frame_locator("#report-page iframe")
    expect(frame.locator("h1").first).to_be_visible()
    person.page.locator("#report-apply").click()
    expect(person.page.locator("#teach-noun input")).to_have_value("owl")
    expect(person.page.locator("#teach-steps input")).to_have_value(str(STEPS))
    person.page.get_by_text("All settings").click()
    expect(person.page.locator("#teach-settings .cm-content")).to_contain_text("checkpoint_every = 2")


def test_the_page_is_used_by_keyboard_alone(person: Person) -> None:
    person.page.get_by_role("tab", name="Photos", exact=True).first.focus()
    person.upload(PHOTOS[:1], expected=1)
    edit = person.page.locator(".photo .act").first
    edit.focus()
    person.page.keyboard.press("Enter")
    canvas = person.page.locator(".desk canvas")
    canvas.focus()
    person.page.wait_for_function("document.querySelector('.desk canvas').width > 300")
    for key in ("ArrowRight", "Shift+ArrowLeft", "Shift+ArrowUp"):
        person.page.keyboard.press(key)
    person.page.locator(".desk [data-do=save]").focus()
    person.page.keyboard.press("Enter")
    expect(person.page.locator(".photo .chips")).to_contain_text("cropped")
    person.page.wait_for_function("document.activeElement.dataset.edit === '1'")  # the focus comes back


def test_a_mask_is_proposed_taken_back_and_kept_by_saving(person: Person) -> None:
    person.upload(PHOTOS[:2], expected=2)
    chips, desk = person.page.locator(".photo .chips").nth(1), person.page.locator(".desk")

    def open_mask() -> None:
        person.page.locator(".photo .pick").nth(1).click()
        desk.locator("[data-mode=mask]").click()
        person.page.wait_for_function("document.querySelector('.desk canvas').width > 300")

    open_mask()
    with person.page.expect_response("**/studio/border/*"):
        desk.locator("[data-do=border]").click()
    desk.locator("[data-do=close]").click()
    expect(chips).not_to_contain_text("masked")
    open_mask()
    with person.page.expect_response("**/studio/border/*"):
        desk.locator("[data-do=border]").click()
    person.page.wait_for_timeout(500)
    desk.locator("[data-do=save]").click()
    expect(chips).to_contain_text("masked")
    open_mask()
    desk.locator("[data-do=unmask]").click()
    desk.locator("[data-do=undo]").click()
    desk.locator("[data-do=unmask]").click()
    desk.locator("[data-do=save]").click()
    expect(chips).not_to_contain_text("masked")


def test_every_field_and_button_of_a_card_has_a_name(person: Person) -> None:
    person.upload(PHOTOS[:1], expected=1)
    for name in ("Photos", "Teach", "Draw", "Compare", "Library", "Report"):
        person.tab(name)
        person.page.wait_for_timeout(500)
        nameless = person.page.evaluate(
            """() => [...document.querySelectorAll('[data-live] :is(input, textarea, button, img, a, progress, svg)')]
            .filter(one => !(one.ariaLabel || one.getAttribute('aria-label') || one.alt || one.textContent.trim()))
            .map(one => one.outerHTML.slice(0, 160))"""
        )
        assert nameless == [], name


@pytest.mark.parametrize("width", [1280, 768, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_at_any_width(studio: Studio, browser: Browser, owl: str, *, width: int, dark: bool) -> None:
    del owl
    for path in ("/", "/ru/"):
        person = Person.arrive(browser, studio.url, width=width, dark=dark, path=path)
        tabs = person.page.locator("#tabs > div [role=tab]")
        for number in range(6):
            tabs.nth(number).click()
            person.page.wait_for_timeout(700)
            wide = person.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} {number}"
        person.leave()


def test_many_clients_draw_and_watch_at_once(studio: Studio, owl: str) -> None:
    server = psutil.Process(studio.process.pid)
    assert draw_and_watch(studio.url, 0, owl).own  # everything is loaded now
    before = server.memory_info().rss
    with ThreadPoolExecutor(CROWD) as pool:
        visits: list[Visit] = list(
            pool.map(lambda number: draw_and_watch(studio.url, number, owl), range(1, CROWD + 1))
        )
    assert all(visit.drawn and visit.watched for visit in visits), "all are answered"
    assert all(visit.own and not visit.others for visit in visits), "none sees another's photo or image"
    grown = (server.memory_info().rss - before) / 2**20
    assert grown < 400, f"{grown:.0f} MiB"


@pytest.mark.parametrize(
    "place", ["/etc/passwd", "../../etc/passwd", "{runs}/owl/recipe.toml", "{root}/pyproject.toml"]
)
def test_gradio_sends_no_file_of_the_machine(studio: Studio, owl: str, place: str) -> None:
    del owl
    file = place.format(runs=studio.library, root=ROOT)
    for page in ("", "/ru"):
        assert httpx.get(f"{studio.url}{page}/gradio_api/file={file}", timeout=PATIENCE).status_code in {403, 404}


def test_a_restarted_server_finds_everything_again(browser: Browser, tmp_path: Path) -> None:
    studio = start_studio(tmp_path / "runs", tmp_path / "cache")
    person = Person.arrive(browser, studio.url)
    person.upload(PHOTOS, expected=6)
    person.teach("owl", steps=400, settings=SETTINGS)
    person.wait_for_job("owl", "running")
    person.job("owl").locator("polyline.smooth").wait_for(state="attached")
    printed = studio.end(signal.SIGINT)
    assert "stopping 1 job" in printed
    assert list((tmp_path / "runs" / "owl" / "checkpoints").iterdir()), "a checkpoint is kept"
    port = studio.url.rpartition(":")[2]
    again = start_studio(tmp_path / "runs", tmp_path / "cache", "--port", port)
    try:
        person.open()
        person.page.wait_for_selector(".photo >> nth=5")
        person.tab("Teach")
        person.wait_for_job("owl", "stopped")
    finally:
        again.end()
        person.context.close()


def test_the_password_opens_the_page(browser: Browser, tmp_path: Path) -> None:
    studio = start_studio(tmp_path / "runs", tmp_path / "cache", "--password", "correct horse")
    page = browser.new_page()
    try:
        page.goto(studio.url)
        page.get_by_label("Password").fill("wrong one")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This is not the password.")
        page.get_by_label("Password").fill("correct horse")
        page.keyboard.press("Enter")
        page.wait_for_selector("#tabs button[role=tab]", timeout=PATIENCE)
    finally:
        page.close()
        studio.end()
