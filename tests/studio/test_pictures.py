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
STRIP = ("photos", "teach", "draw", "compare")
"""The way from photos to a comparison, as one picture."""
STRIP_HEIGHT = 640

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
    join([folder / f"studio-{name}-1280.png" for name in STRIP], folder / "studio.png")


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
        page.screenshot(path=folder / f"studio-{name}-{width}.png", full_page=True)

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
    """Set pictures side by side at one height, each cut where it is longer than wide."""
    images = [Image.open(file).convert("RGB") for file in files]
    images = [image.crop((0, 0, image.width, min(image.height, image.width))) for image in images]
    images = [image.resize((image.width * STRIP_HEIGHT // image.height, STRIP_HEIGHT)) for image in images]
    strip = Image.new("RGB", (sum(image.width + 8 for image in images) - 8, STRIP_HEIGHT), "#8a8a8a")
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width + 8
    strip.save(path, optimize=True)
