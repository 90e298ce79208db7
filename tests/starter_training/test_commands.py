"""The documented commands of the starter's training, from drawings to package data, at a tiny size.

Longer, the same commands make the packaged weights.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import load_family
from starter_training.drawings.objects import held_out_icons, read_objects, wanted_icons

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "starter_training" / "README.md"
MINUTES = "0.001"
"""The least budget: one step or two of each training."""
OTHER_THINGS = 250
"""Drawings of the catalogue that the base is not trained on; the encoders need many families."""
RUN_STEPS = (
    "import sys; from starter_training.cli import app; [app(a.split(), standalone_mode=False) for a in sys.argv[1:]]"
)
"""Runs several commands in one process, as importing torch for each would take most of the time."""


def documented_commands() -> list[str]:
    """The arguments of every `python -m starter_training` line of the README."""
    lines = re.findall(r"^python -m starter_training ([^#\n]+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    return [line.strip() for line in lines]


def write_package(modules: Path, name: str, licence: str, files: dict[str, object]) -> None:
    folder = modules / name
    for file, content in {"package.json": {"license": licence}, **files}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(content))


def drawing_of(art: str, icon: str) -> dict[str, str]:
    """A disc and a box in colors of the art's and the icon's own."""
    colors = [f"#{zlib.crc32(f'{art}{icon}{part}'.encode()) & 0xFFFFFF:06x}" for part in "ab"]
    return {"body": f'<circle cx="8" cy="8" r="7" fill="{colors[0]}"/><path d="M5 5h6v4h-6z" fill="{colors[1]}"/>'}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A folder with a program `npm` that installs small stand-ins for the drawings' packages."""
    objects, modules = read_objects(), tmp_path / "registry"
    others = {f"thing-{number}" for number in range(OTHER_THINGS)}
    for art in objects["arts"]:
        package = f"@iconify-json/{art}"
        icons = {icon: drawing_of(art, icon) for icon in sorted(wanted_icons() | held_out_icons() | others)}
        write_package(modules, package, objects["packages"][package]["licence"], {"icons.json": {"icons": icons}})
    labels = [{"label": icon.replace("-", " "), "group": 3, "tags": [icon]} for icon in sorted(wanted_icons() | others)]
    write_package(modules, "emojibase-data", "MIT", {"en/data.json": labels})
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nmkdir -p "$6/node_modules" && cp -r {modules}/. "$6/node_modules"\n')
    program.chmod(0o755)
    return program.parent


def run_commands(registry: Path, folder: Path, *commands: str) -> str:
    """Run commands of the starter's training in a folder; return what they print."""
    environment = {"PATH": f"{registry}:/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "HOME": str(folder)}
    arguments = [sys.executable, "-c", RUN_STEPS, *commands]
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def shortened(command: str, folder: Path) -> str:
    """The same command with the least budget, that writes outside of the package."""
    step = command.split(maxsplit=1)[0]
    command = re.sub(r"--minutes \S+", f"--minutes {MINUTES}", command)
    outside = {
        "base": " --scenes 64",
        "mascot": f" --folder {folder / 'mascot'}",
        "subjects": f" --out {folder / 'subjects'}",
        "encoders": f" --out {folder}",
        "export": f" --out {folder / 'base'}",
    }
    alone = " --replicas 1" if step in {"vae", "base"} else ""
    return command + outside.get(step, "") + alone


@pytest.mark.slow
def test_the_documented_commands_make_a_base_and_its_encoders(tmp_path: Path, registry: Path) -> None:
    """They run in the order of the README, and mascot reads what they write.

    A second training continues from what the first one wrote, by the commands with BEFORE.
    """
    documented = documented_commands()
    # The canary is of the packaged base; tests/installation/test_canary.py runs its command.
    commands = [command for command in documented if "BEFORE" not in command and command != "canary"]
    continued = [command for command in documented if "BEFORE" in command]
    steps = [command.split()[0] for command in commands]
    assert steps[0] == "collect"
    assert {"tokenizer", "vae", "base", "clip", "identity", "grid", "subjects", "encoders", "export"} <= set(steps)
    assert [f"--minutes {MINUTES}" in shortened(c, tmp_path) for c in commands] == [
        step in {"vae", "base", "clip", "identity"} for step in steps
    ]
    drawing = ROOT / "examples" / "mascot" / "mascot.svg"
    (tmp_path / "mascot").mkdir()
    (tmp_path / "mascot" / "mascot.svg").write_bytes(drawing.read_bytes())
    run_commands(registry, tmp_path, *(shortened(command, tmp_path) for command in commands))

    nouns = (tmp_path / "base" / "nouns.txt").read_text().split("\n")[:-1]
    assert nouns == sorted(read_objects()["nouns"])
    assert len(list((tmp_path / "subjects").glob("*/*.png"))) == 6 * len(held_out_icons())
    family = load_family(str(tmp_path / "base"), device="cpu", precision="fp32")
    [image] = Generator(family, batch_size=1).generate([ImageRequest("a photo of a dog", 0)], Knobs(steps=2))
    assert image.size == (128, 128)
    assert np.asarray(image).std() > 1
    black = Image.new("RGB", (128, 128))
    assert read_clip(tmp_path / "clip").embed([black]).shape == (1, 128)
    assert read_identity_encoder(tmp_path / "identity").embed([black]).shape == (1, 192)
    with Image.open(tmp_path / "grid.png") as grid, Image.open(tmp_path / "sheet.png") as sheet:
        assert grid.width > 1000
        assert sheet.width > 1000

    again = tmp_path / "again"
    again.mkdir()
    for name in ("npm", "drawings.npz", "tokenizer"):
        (again / name).symlink_to(tmp_path / "starter_work" / name)
    assert [command.split()[0] for command in continued] == ["vae", "base", "clip"]
    continued = [f"{shortened(command, tmp_path)} --work {again}" for command in continued]
    run_commands(registry, tmp_path, *(command.replace("BEFORE", str(tmp_path)) for command in continued))
    assert (again / "base" / "weights.pt").is_file()
    assert (again / "encoders" / "clip" / "weights.pt").is_file()
