"""The header for other tools, of an adapter that was read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.headers.adapter_facts import AdapterFacts, without_header
from mascot.adapters.headers.thumbnails import thumbnail
from mascot.adapters.headers.written_facts import carried_keys, with_header
from mascot.adapters.lora_keys import METADATA_KEY
from mascot.adapters.token_rows import RECORDS_KEY
from mascot.errors import UserError
from mascot.generation.start_image import read_image
from mascot.models.families.registry import family_name
from mascot.storage.run_folder import Run

OF_RUN: Final = "run"
"""Stands for an image of the run itself, where a command takes an image for the header."""
NEEDED: Final = (METADATA_KEY, RECORDS_KEY)
"""Ends of the keys without which the tensors cannot be read."""


def facts_of(adapter: Adapter, path: Path, architecture: str | None, name: str) -> AdapterFacts:
    """Collect what is known of an adapter: from its manifest, its header, and its file's time.

    Args:
        adapter: The adapter.
        path: The file that it was read from; the time of writing is the end of a run.
        architecture: The kind of base, as the registry of formats names it.
        name: The name in prompts, and the title where nothing says another.
    """
    manifest = adapter.manifest
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    subjects = manifest.subject.all if manifest else ()
    side = manifest.resolution if manifest else None
    known = AdapterFacts(
        architecture=architecture,
        family="" if architecture or manifest is None else family_in(manifest.base),
        resolution=(side, side) if side else None,
        title=name,
        output_name=name,
        triggers={subject.words: 0 for subject in subjects},
        date=written.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    return with_header(known, adapter.metadata)


def family_in(base: str) -> str:
    """Name the family of a base; one that cannot be read is called unknown."""
    try:
        return family_name(base)
    except UserError:
        return "unknown"


def header_metadata(
    adapter: Adapter, facts: AdapterFacts, metadata: Mapping[str, str], *, to: str, private: bool
) -> dict[str, str]:
    """Return a file's metadata with the header for other tools, or without everything but ours.

    `metadata` is that of the tensors as they are written, `adapter` what they were.
    """
    rest = without_header(metadata)
    if private:
        return {key: value for key, value in rest.items() if key.endswith(NEEDED)}
    header = facts.header(adapter.tensors, adapter.metadata, to=to)
    return rest | carried_keys(adapter.metadata) | header


def read_thumbnail(image: str | Path, source: Path) -> str:
    """Make a header's image of an image file, or of the last preview of the source's run.

    Raises:
        UserError: it is no image, or the run has no previews.
    """
    if str(image) == OF_RUN and not Path(image).is_file():
        run = Run(source if source.is_dir() else source.parent)
        previews = run.previews()
        if not previews:
            raise UserError(f"{run.folder} has no preview images; give an image file as --thumbnail.")
        image = previews[max(previews)][0]
    return thumbnail(read_image(Path(image), "white", [], "--thumbnail")[0].image)
