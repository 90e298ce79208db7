"""The model hub: files of models that are on this machine already, or are downloaded once."""

from __future__ import annotations

import stat
import time
from functools import cache
from pathlib import Path

from mascot.errors import check_interrupted
from mascot.storage.untrusted_files import check_regular, read_json_object

PATIENCE = 5.0
"""Seconds in which the hub must answer; without that it counts as out of reach."""

REMEDY = "download the model again"

REMEMBERED = 60
"""Seconds for which an answer, or its absence, is remembered."""


def only_local(source: str | Path) -> bool:
    """Tell whether a model can be read from this machine alone.

    That is so for folders and files, and for hub ids while the hub is out of reach. Libraries that
    are told so fail at once, where they would try again for half a minute.
    """
    return Path(source).exists() or not reaches_hub(int(time.monotonic() / REMEMBERED))


@cache
def reaches_hub(moment: int) -> bool:
    """Ask the hub once for an answer of any kind; asked again at another moment."""
    del moment
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # noqa: BLE001 - each transport has errors of its own, and all mean the same
        check_interrupted()
        return False
    return True


def hub_file(source: str, name: str) -> Path:
    """Return a file of a hub model, from the hub's cache or downloaded.

    Raises:
        Exception: any of the hub's library, if the model has no such file or cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, name, local_files_only=only_local(source)))


def hub_files(source: str) -> list[str]:
    """List the files of a hub repository, or those in the hub's cache while it is out of reach.

    Raises:
        Exception: any of the hub's library, if there is no such repository or none in the cache.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    if not only_local(source):
        return sorted(list_repo_files(source))
    folder = Path(snapshot_download(source, local_files_only=True))
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def why_unavailable(source: str, error: Exception) -> str:
    """Explain in a few words why a file of a hub model could not be had."""
    if only_local(source):
        return "it is not in the cache, and the model hub cannot be reached"
    return f"the model hub answered with {type(error).__name__}"


def check_model_folder(folder: Path) -> None:
    """Check that libraries can open what a model's folder and its subfolders hold.

    They wait for a pipe for ever, and take a device or an endless configuration for a file. Links
    that lead nowhere are left to them.

    Raises:
        UnreadableFile: there is something else than a file, or a configuration is damaged, too
            large, or nested too deep.
    """
    for path in sorted(folder.glob("*")) + sorted(folder.glob("*/*")):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        if not stat.S_ISDIR(mode):
            check_regular(mode, path, REMEDY)
            if path.name.endswith("config.json") or path.name == "model_index.json":
                read_json_object(path, finite=False, remedy=REMEDY)
