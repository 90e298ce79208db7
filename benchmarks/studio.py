"""Measure how soon the studio's page is seen and can be used, beside a bare page of Gradio.

```sh
python benchmarks/studio.py --rounds 5
```

Each page has a server of its own, and each round opens both in a new browser without a cache,
one after the other, the order alternating. It needs chromium.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from playwright.sync_api import Browser, sync_playwright

PROGRAMS = {
    "studio": "from mascot.cli.app import main; main()",
    "bare page": """
import gradio as gr
with gr.Blocks() as page:
    entry, answer = gr.Textbox(label="entry", elem_id="entry"), gr.Textbox(label="answer", elem_id="answer")
    entry.submit(str.upper, entry, answer)
_, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
print(url, flush=True)
page.block_thread()
""",
}
"""Page -> the program that serves it."""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
SINCE = "performance.now()"
SENT = """['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind))
    .map(entry => entry.transferSize)"""
COLUMNS = {"paint": "first paint, s", "use": "usable, s", "requests": "requests", "kilobytes": "KB"}


@dataclass(frozen=True, slots=True)
class Visit:
    """One opening of a page: seconds since the address was entered, and what was sent."""

    paint: float
    """To the first text or image."""
    use: float
    """To the end of the first thing that the page does when it is asked."""
    requests: float
    kilobytes: float


@contextmanager
def serve(page: str, folder: Path) -> Generator[str]:
    """Serve a page from a process of its own; yields the address."""
    words = ["studio", "--port", "0", "--library", str(folder / "runs")] if page == "studio" else []
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", PROGRAMS[page], *words], env=environment, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        found = next(filter(None, (re.search(r"http://[^\s/]+", line) for line in process.stdout)))
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def visit(browser: Browser, page: str, url: str) -> Visit:
    """Open a page in a new browser without a cache, and use it as soon as it can be used."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.goto(url, wait_until="commit")
    if page == "studio":  # the readiness of the photos is there, and a tab opens
        tab.wait_for_selector("[data-live=photos][data-filled]", state="attached")
        tab.get_by_role("tab", name="Teach", exact=True).first.click()
        tab.locator("#teach-start").wait_for()
    else:  # an entry is answered
        tab.locator("#entry textarea, #entry input").first.fill("owl")
        tab.locator("#entry textarea, #entry input").first.press("Enter")
        tab.wait_for_function("[...document.querySelectorAll('#answer textarea, #answer input')].some(e => e.value)")
    use = float(tab.evaluate(SINCE)) / 1000
    paint = float(tab.evaluate(PAINT)) / 1000
    sent = [int(size) for size in tab.evaluate(SENT)]
    context.close()
    return Visit(paint, use, len(sent), sum(sent) / 1000)


def measure(rounds: int) -> Mapping[str, list[Visit]]:
    """Visit both pages in each round; a first visit of each is not counted."""
    visits: dict[str, list[Visit]] = {page: [] for page in PROGRAMS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {page: stack.enter_context(serve(page, folder)) for page in PROGRAMS}
        playwright = stack.enter_context(sync_playwright())
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        for number in range(rounds + 1):
            for page in sorted(PROGRAMS, reverse=number % 2 == 0):
                seen = visit(browser, page, urls[page])
                if number:
                    visits[page].append(seen)
        browser.close()
    return visits


def main(rounds: Annotated[int, typer.Option(min=1, help="Visits of each page that count.")] = 5) -> None:
    """Print the medians of both pages, and the studio's as a multiple of the bare page's."""
    visits = measure(rounds)
    medians = {page: [median(getattr(seen, name) for seen in visits[page]) for name in COLUMNS] for page in PROGRAMS}
    typer.echo("| page | " + " | ".join(COLUMNS.values()) + " |\n|---|" + "--:|" * len(COLUMNS))
    ratio = [ours / bare for ours, bare in zip(medians["studio"], medians["bare page"], strict=True)]
    for page, row in {**medians, "ratio": ratio}.items():
        typer.echo(f"| {page} | " + " | ".join(f"{value:.3g}" for value in row) + " |")


if __name__ == "__main__":
    typer.run(main)
