"""Laws of the command: every LoRA variant trains, reports and generates through `mascot` itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args

import pytest

from mascot.cli.app import main
from mascot.methods.lora import LoraSettings

VARIANTS = get_args(LoraSettings.model_fields["variant"].annotation)
SETTINGS = (
    "training.steps=2",
    "training.checkpoint_every=1",
    "previews.every=1",
    "prior.count=1",
    "prior.steps=1",
    "knobs.steps=1",
    "method.rank=2",
    "method.layers=all",
    "diagnosis.active=false",
)


def run_mascot(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Run a command in this process, and expect success."""
    monkeypatch.setattr(sys, "argv", ["mascot", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_goes_through_the_command(
    tiny_base: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    """Memory is counted, checkpoints are written, and the adapter generates."""
    monkeypatch.setenv("MASCOT_CACHE", str(home / "cache"))
    chosen = [word for setting in (*SETTINGS, f"method.variant={variant}") for word in ("--set", setting)]
    run = tmp_path / "run"
    run_mascot(
        monkeypatch,
        *("train", str(home / "photos"), "--class-noun", "dog", "--token", "sks", "--base", str(tiny_base)),
        *(*chosen, "--out", str(run)),
    )
    assert "memory, estimated" in json.loads((run / "effective.json").read_text(encoding="utf-8"))["settings"]
    assert (run / "report.html").exists()
    run_mascot(monkeypatch, "generate", str(run), "a {subject}", "--count", "1", "--out", str(tmp_path / "images"))
    assert len(list((tmp_path / "images").glob("*.png"))) == 1
