"""`publish`: a run's adapter, images, model card and scores, as a repository of the hub."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mascot.adapters.adapter_file import Adapter
from mascot.adapters.headers.hub_facts import LICENSES, USUAL_LICENSES
from mascot.api.adapters.publication.contents import Contents, collect
from mascot.api.adapters.publication.privacy import Privacy
from mascot.errors import UserError, suggest
from mascot.generation.loading import resolve_adapter
from mascot.storage.atomic_write import atomic_write, check_writable
from mascot.storage.model_hub import check_hub, upload_folder
from mascot.storage.run_folder import Run, open_run

REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,38}/[A-Za-z0-9][\w.-]{0,95}")
"""`owner/name` on the hub."""
FOLDER: Final = "published"
"""Name of the folder in a run where the repository's files are laid out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What was published, or would be."""

    folder: Path
    """The repository's files."""
    files: tuple[str, ...]
    url: str | None
    """Where they are on the hub; None after a dry run."""


def publish(
    run: str | Path | Run,
    repo: str,
    *,
    license: str | None = None,  # noqa: A002 - the hub's own word
    private: bool = False,
    dry_run: bool = False,
    out: str | Path | None = None,
    base: str | None = None,
) -> Publication:
    """Publish a finished run as a repository of the model hub; a dry run only lays out its files.

    Photos are never uploaded, nor are their names, and paths of this machine.

    Args:
        run: A run, or its folder.
        repo: `owner/name` on the hub.
        license: The license of the adapter, as the hub names it; a dry run needs none.
        private: Whether only the owner sees the repository.
        dry_run: Whether the hub is left alone.
        out: The folder for the files; by default `published/` in the run, which is replaced.
        base: Where the base is now, if it was moved; it generates the images.

    Raises:
        UserError: the run is not finished, an option cannot be used, or the hub refuses.
    """
    check_options(repo, license, private=private, dry_run=dry_run)
    files = run if isinstance(run, Run) else open_run(Path(run))
    adapter, path = resolve_adapter(files)
    folder = check_folder(files, out)
    if not dry_run:
        check_hub()
    write_contents(folder, collect(files, adapter, path, repository=repo, license=license, base=base))
    names = tuple(sorted(found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file()))
    url = None if dry_run else upload_folder(folder, repo, private=private)
    return Publication(folder=folder, files=names, url=url)


def check_options(repo: str, license: str | None, *, private: bool, dry_run: bool) -> None:  # noqa: A002
    """Refuse what the hub would refuse, before anything is generated.

    Raises:
        UserError: the repository's name or the license is none, or one of them is missing.
    """
    if not REPOSITORY.fullmatch(repo):
        raise UserError(f"--repo {repo} is no repository of the model hub; give owner/name, such as me/my-owl.")
    if license is not None and license not in LICENSES:
        raise UserError(f"--license {license}: the model hub knows no such license{suggest(license, LICENSES)}")
    if license is None and not dry_run:
        raise UserError(
            f"without a license nobody may use what you publish; give --license with one of {USUAL_LICENSES}, or look "
            "at everything first with --dry-run."
        )
    if private and dry_run:
        raise UserError("--private is about the repository, and --dry-run makes none; leave one of them out.")


def check_folder(run: Run, out: str | Path | None) -> Path:
    """Choose the folder for the files.

    Raises:
        UserError: there is something in it that is not ours to replace.
    """
    folder = run.folder / FOLDER if out is None else Path(out)
    if out is not None and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; give another --out, or leave it out for {run.folder / FOLDER}.")
    check_writable(folder.parent)
    return folder


def write_contents(folder: Path, contents: Contents) -> None:
    """Write all files, whole or not at all; private words are removed from every text."""
    privacy: Privacy = contents.privacy
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        if contents.model is not None:
            shutil.copytree(contents.model, temporary, dirs_exist_ok=True)
        for name, adapter in contents.adapters.items():
            Adapter(
                tensors=adapter.tensors,
                metadata={key: privacy.clean(value) for key, value in adapter.metadata.items()},
                manifest=privacy.clean_manifest(adapter.manifest),
            ).write(temporary / name)
        (temporary / "images").mkdir()
        for name, image in contents.images.items():
            image.save(temporary / name, "PNG")
        for name, text in contents.texts.items():
            (temporary / name).write_text(privacy.clean(text), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
