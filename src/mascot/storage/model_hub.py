"""The model hub: files of models that are on this machine already, or are downloaded once."""

from __future__ import annotations

import stat
import time
from functools import cache
from pathlib import Path

from mascot.errors import UserError, check_interrupted
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


LOG_IN = "run `hf auth login`, or set HF_TOKEN, and run the same command again"
"""Remedy where the hub does not know who asks."""


def check_hub() -> None:
    """Check that something could be uploaded, before work is done for it.

    Raises:
        UserError: there is no token of the hub here, or the hub cannot be reached.
    """
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise UserError("the model hub is switched off by HF_HUB_OFFLINE; unset it, or give --dry-run.")
    if get_token() is None:
        raise UserError(f"there is no token of the model hub on this machine; {LOG_IN}.")
    if not reaches_hub(int(time.monotonic() / REMEMBERED)):
        raise UserError("the model hub cannot be reached; connect this machine to it, or give --dry-run.")


def upload_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder as a repository, which is made if there is none; returns its address.

    Raises:
        UserError: the hub refuses, or the connection breaks.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        url = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by mascot")
    except Exception as error:  # each transport has errors of its own
        check_interrupted()
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            raise UserError(describe_refusal(status, folder, repository)) from error
        raise UserError(
            f"the upload to {repository} broke off ({type(error).__name__}); run the same command again, which "
            f"uploads what is missing ({folder} holds everything)."
        ) from error
    return str(url)


def describe_refusal(status: int, folder: Path, repository: str) -> str:
    """Say why the hub refuses an upload, by its status, and what helps."""
    reasons = {
        401: f"the model hub does not accept this machine's token; {LOG_IN}.",
        403: f"your token may not write to {repository}; give a --repo of your own, or a token that may write.",
        404: f"your token may not write to {repository}, or its owner does not exist; give a --repo of your own.",
        409: f"{repository} was changed while it was uploaded to; run the same command again.",
        429: "the model hub has had too many requests; wait a few minutes, and run the same command again.",
    }
    return reasons.get(
        status, f"the model hub answered with status {status}; run the same command again later ({folder} is kept)."
    )
