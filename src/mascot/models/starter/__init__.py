"""starter."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mascot.errors import UserError
from mascot.models import starter

__all__ = ["HeldOutSubject", "clip_folder", "folder", "identity_folder", "nouns", "subjects", "token_file"]


NEEDED = (
    "model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors", "nouns.txt",
)  # fmt: skip


ENCODER = ("config.json", "model.safetensors", "preprocessor_config.json")


REMEDY = "reinstall mascot from a wheel, or run `python -m starter_recipe {step}` in a checkout, or name another one."


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutSubject:
    """A subject that the base has never seen, for tests and evaluations."""

    name: str
    class_noun: str
    live: bool
    """An animal or a figure, which can wear things: decides which prompts it is tested on."""
    photos: tuple[Path, ...]
    """Five or six PNG files, 128 px square, in different scenes."""


def package_data(name: str) -> Path:
    """The path of something installed beside this file."""
    return Path(str(files(__name__).joinpath(name)))


def whole(name: str, needed: tuple[str, ...], what: str, step: str) -> Path:
    """A folder of package data; raises UserError where one of its files is missing from the installation."""
    found = package_data(name)
    missing = [file for file in needed if not (found / file).is_file()]
    if missing:
        raise UserError(
            f"The embedded {what} is not whole in this installation ({missing[0]} is missing from {found}): {REMEDY.format(step=step)}"
        )
    return found


def folder() -> Path:
    """The embedded base as a Stable Diffusion folder of diffusers, 64 px, float16; raises UserError where weights are missing."""
    return whole("base", NEEDED, "base", "export")


def nouns() -> tuple[str, ...]:
    """What the embedded base was shown, one noun for each kind of thing; raises UserError where weights are missing."""
    return tuple((folder() / "nouns.txt").read_text(encoding="utf-8").splitlines())


def clip_folder() -> Path:
    """The embedded CLIP, a folder of transformers' CLIPModel (64 px, 128 values, float16); raises UserError where weights are missing."""
    return whole("clip", (*ENCODER, "tokenizer.json"), "CLIP", "encoders")


def identity_folder() -> Path:
    """The embedded identity encoder in DINO's place, a folder of transformers' ViTModel (64 px, 192 values, float16).

    Raises UserError where weights are missing.
    """
    return whole("identity", ENCODER, "identity encoder", "encoders")


def token_file() -> Path:
    """What subjects are called on the embedded base where nobody says: JSON of `mascot.naming.Name`, which a test finds again."""
    return package_data("token.json")


def subjects() -> dict[str, HeldOutSubject]:
    """The held-out subjects by name, photos in order; raises UserError where they are missing from the installation."""
    home = package_data("subjects")
    table = home / "subjects.toml"
    if not table.is_file():
        raise UserError(
            f"The held-out subjects are missing from this installation ({table}): reinstall mascot from a wheel."
        )
    entries = tomllib.loads(table.read_text(encoding="utf-8"))
    return {
        name: HeldOutSubject(
            name=name,
            class_noun=entry["class_noun"],
            live=entry["live"],
            photos=tuple(sorted((home / name).glob("*.png"))),
        )
        for name, entry in entries.items()
    }


EMBEDDED = "starter"
"""What the embedded base and the embedded encoders are called."""


def is_embedded(base: str) -> bool:
    """Whether a base is the embedded one, by its name or by its folder."""
    return base in {EMBEDDED, str(starter.folder())}
