"""Laws of what is distributed: size, contents, and that it works in a bare environment.

The wheel is built from the source distribution, as package indexes do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import mascot

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mascot"
LARGEST = 80_000_000
"""Bytes of a distribution."""
QUICK = (
    "training.steps=4",
    "training.checkpoint_every=4",
    "prior.count=1",
    "prior.steps=2",
    "previews.every=0",
    "knobs.steps=4",
    "selection.active=false",
    "diagnosis.active=false",
    "report.images=1",
)
"""Settings of a training that ends within a minute on one core."""
PRIVATE = ("MASCOT_", "PYTHON", "VIRTUAL_ENV", "HF_")
"""Beginnings of variables that a new user's shell does not have."""

pytestmark = pytest.mark.slow


def run(folder: Path, *words: object, limit: int = 900) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, as a new user would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    environment |= {"HOME": str(folder), "COLUMNS": "300", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=limit
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def in_checkout() -> set[str]:
    """The files of the package that git tracks, as the wheel names them."""
    listed = subprocess.run(
        ["git", "ls-files", "src/mascot"],  # noqa: S607 - the git of the checkout
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.removeprefix("src/") for name in listed.stdout.splitlines()}


def included() -> dict[str, Path]:
    """Files that the wheel takes from outside of the package, by their names in it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Path] = {}
    for source, target in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items():
        paths = sorted((ROOT / source).rglob("*")) if (ROOT / source).is_dir() else [ROOT / source]
        for path in paths:
            inside = path.relative_to(ROOT / source).as_posix()
            found[target if inside == "." else f"{target}/{inside}"] = path
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    tools = folder / "tools"
    assert run(folder, sys.executable, "-m", "venv", tools).returncode == 0
    assert run(folder, tools / "bin" / "pip", "install", "--quiet", "hatchling").returncode == 0
    made = run(ROOT, tools / "bin" / "python", "-m", "hatchling", "build", "--target", "sdist", "--directory", folder)
    assert made.returncode == 0, made.stderr
    [source] = folder.glob("*.tar.gz")
    made = run(folder, tools / "bin" / "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    assert made.returncode == 0, made.stderr
    [wheel] = folder.glob("*.whl")
    return {"sdist": source, "wheel": wheel}


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    """All modules, presets and weights, and the tested versions."""
    assert built["wheel"].name == f"mascot-{mascot.__version__}-py3-none-any.whl"
    assert built["wheel"].stat().st_size < LARGEST
    with zipfile.ZipFile(built["wheel"]) as archive:
        assert archive.testzip() is None
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        taken = {name: archive.read(name) for name in included()}
    own = {name for name in sizes if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert own == {*in_checkout(), *included()}
    assert taken == {name: path.read_bytes() for name, path in included().items()}
    assert "mascot/api/installation/constraints.txt" in taken
    for path in (*PACKAGE.rglob("*.safetensors"), *PACKAGE.rglob("*.toml"), *PACKAGE.rglob("*.jinja")):
        assert sizes[path.relative_to(PACKAGE.parent).as_posix()] == path.stat().st_size, path


def test_the_source_distribution_holds_no_tests_and_no_data(built: dict[str, Path]) -> None:
    assert built["sdist"].stat().st_size < LARGEST
    with tarfile.open(built["sdist"]) as archive:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    tops = {PurePosixPath(name).parts[0] for name in names}
    assert not tops & {"tests", "shared", ".ci", ".github", "runs", "starter_work", ".venv", "dist"}
    assert {"src", "docs", "examples", "pyproject.toml", "constraints.txt", "LICENSE", "NOTICE", "README.md"} <= tops
    assert {f"src/{name}" for name in in_checkout()} <= names


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare environment with the wheel and the tested versions of what it needs."""
    folder = tmp_path_factory.mktemp("bare")
    assert run(folder, sys.executable, "-m", "venv", folder / "venv").returncode == 0
    pip = [folder / "venv" / "bin" / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    made = run(folder, *pip, built["wheel"])
    assert made.returncode == 0, made.stderr
    assert run(folder, folder / "venv" / "bin" / "pip", "check").returncode == 0
    return folder


def test_a_bare_environment_works(installed: Path) -> None:
    """The doctor, a short training on the bundled photos, and an image, outside of the checkout."""
    program = installed / "venv" / "bin" / "mascot"
    assert run(installed, program, "--version").stdout == f"mascot {mascot.__version__}\n"

    done = run(installed, program, "doctor", "--json", "--report", installed / "report.md")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["works"] is True
    assert [name for name in found["sections"]["canary"] if "ten steps on cpu" in name]
    assert "as stored" in {fact["value"] for fact in found["sections"]["canary"].values()}
    assert not [finding for finding in found["findings"] if "tested" in finding["message"]]
    assert "pip install 'mascot[heic]'" in found["sections"]["extras"]["heic"]["value"]
    assert str(installed) not in (installed / "report.md").read_text(encoding="utf-8")

    sets = [word for setting in QUICK for word in ("--set", setting)]
    photos = ROOT / "examples" / "mascot" / "photos"
    words = ["train", photos, "--class-noun", "owl", "--token", "sks", "--out", installed / "run", *sets]
    done = run(installed, program, *words)
    assert done.returncode == 0, done.stderr
    assert (installed / "run" / "adapter.safetensors").stat().st_size > 10_000
    assert (installed / "run" / "report.html").exists()

    words = ["generate", installed / "run", "a {subject} in the snow", "--steps", "2", "--out", installed / "images"]
    done = run(installed, program, *words)
    assert done.returncode == 0, done.stderr
    assert list((installed / "images").glob("*.png"))
