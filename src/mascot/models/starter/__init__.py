"""The embedded base model, its encoders and held-out subjects, as package data.

`base/` is a Stable Diffusion of 128 pixels, small enough for a laptop's CPU. `clip/` and
`identity/` are the encoders that measure it. `subjects/` holds photos of subjects that none of them
was trained on, `owl/` those of the demo's subject. `token.json` is the identifier token for this
base. `nearest_nouns` finds the nouns that it knows nearest to another.

What does not live here: the training of all this (`starter_training/` beside `src`), and loading a
base (`models/families`).

This file imports `errors` and `storage` alone, and no torch. `models` and every room above it may
import it.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mascot.errors import UserError
from mascot.storage.untrusted_files import read_text, read_toml

__all__ = [
    "EMBEDDED",
    "HeldOutSubject",
    "clip_folder",
    "folder",
    "identity_folder",
    "is_embedded",
    "nouns",
    "owl_folder",
    "subjects",
    "token_file",
]

EMBEDDED = "starter"
"""The name of the embedded base and of the embedded encoders."""
BASE_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "nouns.txt",
)
ENCODER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
OWL_FILES = tuple(f"{number}.png" for number in range(1, 7))
REMEDY = "reinstall mascot from a wheel, or run `python -m starter_training {step}` in a checkout, or name another one."
"""What a user can do where package data is missing; `step` makes it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutSubject:
    """A subject that the base was not trained on, for tests and evaluations."""

    name: str
    class_noun: str
    live: bool
    """Whether it is an animal or a figure, which can wear things; it selects the test prompts."""
    photos: tuple[Path, ...]
    """Five or six PNG files, 128 px square, in different scenes."""


class SubjectEntry(BaseModel):
    """What `subjects.toml` says of a held-out subject, among other things, under its name."""

    model_config = ConfigDict(frozen=True, strict=True)

    class_noun: str
    live: bool


_SUBJECTS = TypeAdapter(dict[str, SubjectEntry])


def package_data(name: str) -> Path:
    """Return the path of a file or folder beside this file."""
    return Path(str(files(__name__).joinpath(name)))


def complete_folder(name: str, needed: tuple[str, ...], content: str, step: str) -> Path:
    """Return the path of a folder of package data.

    Args:
        name: The folder's name.
        needed: The files that must be in it.
        content: What it holds, for the message.
        step: The step of the starter's training that makes it again.

    Raises:
        UserError: one of the files is missing from the installation.
    """
    found = package_data(name)
    missing = [file for file in needed if not (found / file).is_file()]
    if missing:
        raise UserError(
            f"The embedded {content} is incomplete in this installation ({missing[0]} is missing from {found}): "
            f"{REMEDY.format(step=step)}"
        )
    return found


def folder() -> Path:
    """Return the folder of the embedded base: a Stable Diffusion pipeline, 128 px, float16.

    Raises:
        UserError: weights are missing.
    """
    return complete_folder("base", BASE_FILES, "base", "export")


def is_embedded(base: str) -> bool:
    """Tell whether a base is the embedded one, by its name or by its folder."""
    return base in {EMBEDDED, str(folder())}


def nouns() -> tuple[str, ...]:
    """Return the class nouns that the embedded base was trained on.

    Raises:
        UserError: weights are missing.
    """
    return tuple(read_text(folder() / "nouns.txt", remedy=REMEDY.format(step="export").rstrip(".")).splitlines())


def clip_folder() -> Path:
    """Return the folder of the embedded CLIP: transformers' CLIPModel, 64 px, 128 values, float16.

    Raises:
        UserError: weights are missing.
    """
    return complete_folder("clip", (*ENCODER_FILES, "tokenizer.json"), "CLIP", "encoders")


def identity_folder() -> Path:
    """Return the folder of the embedded identity encoder: a ViTModel, 64 px, 192 values, float16.

    It measures likeness on the embedded base, as DINO does on others.

    Raises:
        UserError: weights are missing.
    """
    return complete_folder("identity", ENCODER_FILES, "identity encoder", "encoders")


def owl_folder() -> Path:
    """Return the folder of the demo's photos, an owl: copies of those in `examples/mascot`.

    Raises:
        UserError: they are missing from the installation.
    """
    return complete_folder("owl", OWL_FILES, "owl", "mascot")


def token_file() -> Path:
    """Return the file of the identifier token that is used on the embedded base by default.

    It is the JSON of `ChosenToken` (evaluation/selection/token_choice.py); a test finds the same
    token again.
    """
    return package_data("token.json")


def subjects() -> dict[str, HeldOutSubject]:
    """Return the held-out subjects by name, with their photos in order.

    Raises:
        UserError: they are missing from the installation.
    """
    home = package_data("subjects")
    table = home / "subjects.toml"
    if not table.is_file():
        raise UserError(
            f"The held-out subjects are missing from this installation ({table}): reinstall mascot from a wheel."
        )
    try:
        entries = _SUBJECTS.validate_python(read_toml(table, remedy="reinstall mascot from a wheel"))
    except ValidationError as error:
        raise UserError(f"{table} is damaged; reinstall mascot from a wheel.") from error
    return {
        name: HeldOutSubject(
            name=name,
            class_noun=entry.class_noun,
            live=entry.live,
            photos=tuple(sorted((home / name).glob("*.png"))),
        )
        for name, entry in entries.items()
    }
