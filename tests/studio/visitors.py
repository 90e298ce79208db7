"""What tests in a browser share: a server in a process of its own, and a person at its page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Locator, Page, Request, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "examples" / "mascot" / "photos").glob("*.png"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROGRAM = "from mascot.cli.app import main; main()"
PATIENCE = 1000 * int(os.environ.get("MASCOT_STUDIO_PATIENCE", "300"))
"""Milliseconds that a page may take on a busy machine."""
SETTINGS = """token = "sks"
[prior]
weight = 0.0
[report]
images = 2
[diagnosis]
active = false
[knobs]
steps = 4
[selection]
checkpoints = 2
knobs = false
[training]
checkpoint_every = 2
"""
"""Settings that make a training short; its parts are all there."""
IGNORED = re.compile(r"Method not implemented|favicon|status of 40[01]|net::ERR_ABORTED")
"""What Gradio itself prints, and what a refused request prints."""


@dataclass
class Studio:
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    library: Path

    def end(self, number: signal.Signals = signal.SIGINT) -> str:
        """Send a signal, wait, and return what was printed."""
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=300)
        return printed


def start_studio(library: Path, cache: Path, *options: str) -> Studio:
    """Start a server on a free port, and wait until it answers."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "MASCOT_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    words = ["studio", "--port", "0", "--library", str(library), *options]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stdout.read()
    return Studio(process, found[0], library)


@contextmanager
def chromium() -> Generator[Browser]:
    """Open Debian's chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Person:
    """Somebody at the page; whatever goes wrong in the browser is remembered."""

    context: BrowserContext
    page: Page
    url: str
    faults: list[str] = field(default_factory=list[str])
    elsewhere: list[str] = field(default_factory=list[str])

    @classmethod
    def arrive(cls, browser: Browser, url: str, *, width: int = 1280, dark: bool = False, path: str = "/") -> Person:
        """Open the page in a browser of one's own."""
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        person = cls(context, context.new_page(), url)
        person.listen(person.page)
        person.open(path)
        return person

    def listen(self, page: Page) -> None:
        """Remember errors and requests to other machines."""

        def hear(message: ConsoleMessage) -> None:
            if message.type == "error" and not IGNORED.search(message.text):
                self.faults.append(message.text)

        def see(request: Request) -> None:
            if not request.url.startswith((self.url, "data:", "blob:")):
                self.elsewhere.append(request.url)

        def close(dialog: Dialog) -> None:
            self.faults.append(f"a script ran: {dialog.message}")
            dialog.dismiss()

        page.on("console", hear)
        page.on("request", see)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", close)

    def open(self, path: str = "/") -> None:
        """Load the page, and wait until it can be used."""
        self.page.goto(self.url + path)
        self.page.wait_for_selector("#tabs button[role=tab]")
        self.page.wait_for_selector("[data-live=photos][data-filled]", state="attached")

    def tab(self, name: str) -> None:
        """Go to a tab."""
        self.page.get_by_role("tab", name=name, exact=True).first.click()

    def upload(self, files: Sequence[Path], *, expected: int | None = None) -> None:
        """Drop photos, and wait until as many are shown."""
        self.tab("Photos")
        self.page.set_input_files("#photo-files input[type=file]", list(files))
        if expected:
            self.page.wait_for_selector(f".photo >> nth={expected - 1}")

    def choose(self, field: str, value: str) -> None:
        """Choose in a field with a list, by writing."""
        entry = self.page.locator(f"#{field} input")
        entry.click()
        entry.fill(value)
        entry.press("Enter")

    def fill(self, field: str, value: str) -> None:
        """Write into a field."""
        entry = self.page.locator(f"#{field} input, #{field} textarea").first
        entry.fill(value)
        entry.press("Tab")

    def teach(self, name: str, *, steps: int, settings: str = SETTINGS, every: int = 5) -> None:
        """Fill the form and start."""
        self.tab("Teach")
        self.choose("teach-noun", "owl")
        self.fill("teach-name", name)
        self.fill("teach-steps", str(steps))
        self.fill("teach-every", str(every))
        code = self.page.locator("#teach-settings .cm-content")
        if not code.is_visible():
            self.page.get_by_text("All settings").click()
        code.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(settings)
        self.page.locator("#teach-start").click()

    def job(self, name: str) -> Locator:
        """Return the card of a job."""
        return self.page.locator(".job", has=self.page.get_by_role("heading", name=name, exact=True)).first

    def wait_for_job(self, name: str, state: str) -> None:
        """Wait until a job is in a state."""
        self.page.wait_for_selector(f".job.{state}:has(h3:text-is('{name}'))")

    def toast(self) -> str:
        """Wait for a message, and return what it says."""
        shown = self.page.locator(".toast-body, .toast")
        shown.first.wait_for()
        return shown.first.inner_text()

    def leave(self) -> None:
        """Close the browser; nothing must have gone wrong in it."""
        self.context.close()
        assert self.faults == []
        assert self.elsewhere == []


def wait_until(done: object, seconds: float = 300) -> None:
    """Wait until a function returns true."""
    assert callable(done)
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
