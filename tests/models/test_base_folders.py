"""Laws of a base's folder: what is no file or configuration is refused before libraries read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mascot.errors import UserError
from mascot.models.families.base_source import read_index_of


def pipe(path: Path) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(path)


def endless(path: Path) -> None:
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")


def nested(path: Path) -> None:
    """JSON that is nested 100,000 deep."""
    path.write_text('{"a":' * 100_000, encoding="utf-8")


def long_number(path: Path) -> None:
    """A number of 5,000 digits."""
    path.write_text(f'{{"sample_size": {"9" * 5_000}}}', encoding="utf-8")


@pytest.mark.parametrize("make", [pipe, endless, nested, long_number])
@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "vae/config.json",
    ],
)
def test_what_is_no_configuration_is_refused_by_name(
    tiny_base: Path, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / name).unlink()
    make(base / name)
    with pytest.raises(UserError, match=f"{name}.*download"):
        read_index_of(str(base))


@pytest.mark.parametrize("make", [pipe, endless])
@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "README.md"])
def test_what_is_no_file_is_refused_by_name(
    tiny_base: Path, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / name).unlink(missing_ok=True)
    make(base / name)
    with pytest.raises(UserError, match=f"{name}: it is a .*, not a file.*download it again"):
        read_index_of(str(base))


def test_a_whole_base_with_links_is_accepted(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "unet" / "config.json").rename(tmp_path / "blob")
    (base / "unet" / "config.json").symlink_to(tmp_path / "blob")
    (base / "dangling").symlink_to("nowhere")
    assert read_index_of(str(base))["_class_name"] == "StableDiffusionPipeline"
