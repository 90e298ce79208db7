"""Pictures of the page for the documentation, at three widths, of subjects taught by the preset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the studio's extra is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from PIL import Image
from playwright.sync_api import Browser, expect

from studio.visitors import CHROMIUM, PATIENCE, PHOTOS, ROOT, Person, Studio, chromium, start_studio

PICTURES = os.environ.get("MASCOT_STUDIO_PICTURES")
"""Folder for the pictures; none are made without it."""
WIDTHS = (1280, 768, 390)
WAY = ("photos", "teach", "draw", "compare")
"""The way from photos to a comparison, as one picture."""
PART_SIZE = (900, 630)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: apt-get install chromium"),
    pytest.mark.skipif(PICTURES is None, reason="MASCOT_STUDIO_PICTURES is not set"),
    pytest.mark.filterwarnings("default"),  # a browser's sockets end when they end
]


def test_pictures_of_the_page(tmp_path: Path) -> None:
    folder = ROOT / str(PICTURES)
    folder.mkdir(parents=True, exist_ok=True)
    studio = start_studio(tmp_path / "runs", tmp_path / "cache")
    try:
        with chromium() as browser:
            expect.set_options(timeout=PATIENCE)
            teach(browser, studio)
            for width in WIDTHS:
                photograph(browser, studio, folder, width)
    finally:
        studio.end()
    join([folder / f"studio-{name}-1280.png" for name in WAY], folder / "studio.png")


def teach(browser: Browser, studio: Studio) -> None:
    """Teach one subject for a short time, and again as the preset recommends."""
    person = Person.arrive(browser, studio.url)
    person.context.set_default_timeout(4 * PATIENCE)
    person.upload(PHOTOS, expected=6)
    person.teach("first-try", steps=60, settings="[diagnosis]\nactive = false")
    person.wait_for_job("first-try", "done")
    person.teach("scarf-owl", steps=400, settings="seed = 0", every=100)
    person.wait_for_job("scarf-owl", "done")
    person.leave()


def photograph(browser: Browser, studio: Studio, folder: Path, width: int) -> None:
    """Use every tab, and write a picture of each."""
    person = Person.arrive(browser, studio.url, width=width)
    page = person.page

    def shoot(name: str) -> None:
        page.wait_for_timeout(1500)
        path = folder / f"studio-{name}-{width}.png"
        page.screenshot(path=path, full_page=True)
        shrink(path)

    person.upload(PHOTOS, expected=6)
    shoot("photos")
    person.tab("Teach")
    person.choose("teach-noun", "owl")
    person.fill("teach-name", "scarf-owl")
    person.job("scarf-owl").locator("summary").click()
    shoot("teach")
    person.tab("Draw")
    expect(page.locator("#draw-adapters")).to_contain_text("scarf-owl")
    person.fill("draw-prompts", "a {subject} in the snow\na {subject} on a beach")
    page.locator("#draw-go").click()
    expect(page.locator("#draw-result .drawn")).to_have_count(4)
    shoot("draw")
    person.tab("Compare")
    person.choose("pair-left", "scarf-owl")
    person.choose("pair-right", "first-try")
    page.locator("#pair-go").click()
    expect(page.locator("#pair-result img")).to_have_count(2)
    shoot("compare")
    person.tab("Library")
    expect(page.locator(".run")).to_have_count(2)
    shoot("library")
    person.tab("Report")
    report = page.frame_locator("#report-page iframe").locator("h1").first
    report.wait_for()
    page.wait_for_timeout(3000)
    report.wait_for()  # the frame is filled again where the newest run is chosen
    shoot("report")
    person.leave()


def join(files: Sequence[Path], path: Path) -> None:
    """Set the upper parts of pictures in two columns."""
    width, height = PART_SIZE
    whole = Image.new("RGB", (2 * width + 8, (len(files) + 1) // 2 * (height + 8) - 8), "#8a8a8a")
    for number, file in enumerate(files):
        image = Image.open(file).convert("RGB")
        upper = image.crop((0, 0, image.width, image.width * height // width))
        whole.paste(upper.resize(PART_SIZE), (number % 2 * (width + 8), number // 2 * (height + 8)))
    whole.save(path)
    shrink(path)


def shrink(path: Path) -> None:
    """Write a picture with 256 colors, which is a third of the bytes."""
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
