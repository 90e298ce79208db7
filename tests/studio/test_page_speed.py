"""The benchmark of the page's speed runs, and measures both pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("gradio", reason="the studio's extra is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from studio.visitors import CHROMIUM, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: apt-get install chromium"),
]


def test_both_pages_are_seen_and_used() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "studio.py"), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in done.stdout.splitlines()}
    ours, bare, ratio = ([float(cell) for cell in rows[page]] for page in ("studio", "bare page", "ratio"))
    for paint, use, *sent in (ours, bare):
        assert 0 < paint < use
        assert min(sent) > 1
    assert ratio == pytest.approx([one / other for one, other in zip(ours, bare, strict=True)], rel=0.02)
