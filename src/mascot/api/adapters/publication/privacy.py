"""What must not leave this machine: photos' names and hashes, and paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mascot.adapters.adapter_file import Manifest
from mascot.errors import UserError
from mascot.evaluation.scores import Scores
from mascot.recipe.recipe import Recipe
from mascot.storage.run_folder import Run
from mascot.storage.untrusted_files import UnreadableFile, read_json_object

PHOTO = "a photo"
"""What stands in place of a photo's name."""


@dataclass(frozen=True, slots=True)
class Privacy:
    """Removes private words from texts and values."""

    names: tuple[str, ...]
    """Names of photos, the longest first."""
    paths: tuple[str, ...]
    """Folders of photos, the run, and the user, the longest first."""

    @classmethod
    def of(cls, run: Run) -> Self:
        """Collect what a run knows of its photos."""
        names, paths = set[str](), {str(run.folder.absolute()), str(Path.home()), str(Path.cwd())}
        try:
            recorded = read_json_object(run.effective).get("photos", [])
        except UnreadableFile:
            recorded = []
        if isinstance(recorded, list):
            names |= {str(entry[0]) for entry in recorded if isinstance(entry, list) and entry}
        try:
            given = Recipe.read(run.recipe).photos
        except UserError:
            given = ()
        for place in map(Path, given):
            folder = place if place.is_dir() else place.parent
            paths |= {str(folder), str(folder.absolute())}
            names |= {place.name} if place.suffix else set()
        names |= {Path(name).stem for name in names if len(Path(name).stem) > 3}
        kept = {path for path in paths if len(path) > 3}
        return cls(tuple(sorted(names, key=len, reverse=True)), tuple(sorted(kept, key=len, reverse=True)))

    def clean(self, text: str) -> str:
        """Replace photos' names, and shorten paths to their last part."""
        for path in self.paths:
            text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?P<rest>(/[\w.-]+)*)", last_part, text)
        for name in self.names:
            text = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w-])", PHOTO, text)
        return text

    def clean_manifest(self, manifest: Manifest | None) -> Manifest | None:
        """Clean all texts of a manifest; a base on this machine becomes its name."""
        if manifest is None:
            return None
        recipe = cleaned(manifest.recipe, self)
        return manifest.model_copy(update={"base": public_name(manifest.base), "recipe": recipe})

    def clean_scores(self, scores: Scores, name: str, files: Mapping[str, str]) -> str:
        """Write scores without photos; `files` maps published images to their new names."""
        values = scores.model_dump(mode="json", exclude={"folds"})
        values |= {"name": name, "base": public_name(scores.base), "photos": [], "folds": []}
        for one in values.get("subjects", []):
            one["photos"] = []
        together = values.get("together") or {"prompts": []}
        for prompt in (*values["prompts"], *together["prompts"]):
            for image in prompt["images"]:
                image["file"] = files.get(image["file"], "")
        return Scores.model_validate(cleaned(values, self)).model_dump_json(indent=2) + "\n"


def last_part(match: re.Match[str]) -> str:
    """Return the last part of a path that was matched."""
    return Path(match[0]).name


def cleaned(value: Any, privacy: Privacy) -> Any:
    """Clean all texts in nested values; a text that is a path becomes its last part."""
    if isinstance(value, Mapping):
        return {key: cleaned(inner, privacy) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(inner, privacy) for inner in value]
    if isinstance(value, str):
        return privacy.clean(public_name(value) if os.sep in value else value)
    return value


def public_name(name: str) -> str:
    """Return a name that says nothing of this machine: a hub id as it is, a path's last part."""
    stages = [part for part in name.split("+") if part]
    if len(stages) > 1 and all(os.sep in part for part in stages):
        return "+".join(map(public_name, stages))
    try:
        is_path = Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).exists()
    except OSError:
        is_path = False
    return Path(name).name or name if is_path else name
