"""Install the drawings' npm packages and render each drawing once."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np

from starter_training.drawings.icons import SIDE, read_icons, render_icon, trim
from starter_training.drawings.objects import read_catalogue, read_objects, wanted_icons


def install_packages(work: Path) -> Path:
    """Install the exact npm packages under `work/npm` and check each one's license field.

    Returns:
        The folder `node_modules`.

    Raises:
        SystemExit: npm is missing, or a package has another license than `objects.toml` says.
    """
    folder = work / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    packages = read_objects()["packages"]
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: install Node.js, whose registry has the drawings.")
    wanted = [f"{name}@{facts['version']}" for name, facts in packages.items()]
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *wanted]
    subprocess.run(command, check=True)  # noqa: S603 - the arguments are this file's own
    for name, facts in packages.items():
        found = json.loads((folder / "node_modules" / name / "package.json").read_text())["license"]
        if found != facts["licence"]:
            raise SystemExit(f"{name} is licensed {found}, not {facts['licence']}: read it before it is used.")
    return folder / "node_modules"


def collect(work: Path) -> None:
    """Render all drawings of the base and of the catalogue to `work/drawings.npz`.

    The archive maps `art/icon` to an array of side x side x RGBA uint8.
    """
    modules = install_packages(work)
    drawings: dict[str, np.ndarray] = {}
    icons = sorted(wanted_icons() | set(read_catalogue(modules)))
    for art in read_objects()["arts"]:
        icon_set = read_icons(modules, art)
        for name in icons:
            image = render_icon(icon_set, name, 2 * SIDE)
            if image is not None:
                drawings[f"{art}/{name}"] = np.asarray(trim(image))
    np.savez_compressed(work / "drawings.npz", **drawings)  # pyright: ignore[reportArgumentType]
    for_base = sum(key.split("/")[1] in wanted_icons() for key in drawings)
    print(f"{len(drawings)} drawings of {len(icons)} icons, {for_base} of them for the base")
