"""Which adapters a user names: their places, names and scales, told from prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mascot.adapters.headers.hub_facts import LAYERS_FILE, WORD_FILE
from mascot.adapters.peft_folder import CONFIG, WEIGHTS, is_peft_folder
from mascot.data.prompt_templates import PLACEHOLDERS
from mascot.errors import UserError, list_some, shorten
from mascot.generation.knobs import LARGEST_SCALE
from mascot.storage.model_hub import hub_file, hub_files, why_unavailable
from mascot.storage.run_folder import Run

ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""Endings of adapter files."""
IN_REPOSITORIES = ("adapter.safetensors", LAYERS_FILE, WEIGHTS, WORD_FILE)
"""Names of the adapter's file in a repository of the hub, the best first."""
IN_FOLDERS = ("recipe.toml", *IN_REPOSITORIES)
"""A folder with one of these files is an adapter's, such as a run's."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
NAMED = re.compile(r"([^\W\d][\w-]*)=(.+)", re.DOTALL)
"""`NAME=PATH`."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`owner/name` on the model hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """One adapter as a user names it."""

    text: str
    """As the user wrote it."""
    place: Path | Run
    """A run, a run's folder, `RUN@STEP`, an adapter file, or a repository of the hub."""
    name: str | None = None
    """Its name in prompts; None takes that of its folder or file."""
    scales: tuple[float, ...] = ()
    """None, one for all that it changes, or those of the denoiser and the text encoders."""

    def file(self) -> Path | Run:
        """Return what is read: the place, or the file of a repository, downloaded once.

        Raises:
            UserError: the repository holds no adapter, or cannot be had.
        """
        place = self.place
        return download_adapter(str(place)) if isinstance(place, Path) and is_repository(str(place)) else place


def read_source(source: str | Path | Run | AdapterSource, called: str = "the adapter") -> AdapterSource:
    """Read `[NAME=]PATH[:SCALE[:TEXT_SCALE]]`, where the longest path that exists counts.

    A path may hold colons itself. The place may also be `owner/name` on the model hub. `called`
    stands before the place in messages.

    Raises:
        UserError: nothing is there, or a scale is out of range.
    """
    if isinstance(source, AdapterSource):
        return source
    if isinstance(source, Run):
        return AdapterSource(text=str(source.folder), place=source)
    text = str(source)
    if not text.strip():
        raise UserError(f"{called} is empty; give a run's folder or an adapter file.")
    readings = list(readings_of(text))
    found = next((one for one in readings if is_there(str(one.place))), None)
    found = found or next((one for one in readings if is_repository(str(one.place))), None)
    if found is not None and found.name in PLACEHOLDERS:
        raise UserError(
            f"{called} {shorten(text)} cannot be called {found.name}, as {{{found.name}}} has a meaning in "
            "prompts; choose another name."
        )
    if found is None:
        raise UserError(f"{called} {shorten(str(readings[-1].place))} does not exist; {similar(readings[-1])}")
    for scale in found.scales:
        if not 0 <= scale <= LARGEST_SCALE:
            raise UserError(
                f"{called} {shorten(text)} has the scale {scale:g}, which is not between 0 and {LARGEST_SCALE}; "
                f"give one that is, such as {found.place}:0.8."
            )
    return found


def split_words(words: Sequence[str], options: Sequence[str]) -> tuple[list[AdapterSource], list[str]]:
    """Split the words of a command into its adapters, which come first, and its prompts.

    A word is an adapter if a run, an adapter file or a folder of peft is there, or if it is
    `owner/name` without blanks. `options` are adapters that are given by an option of their own;
    without them the first word is one.

    Raises:
        UserError: there is no adapter or no prompt, an adapter comes after a prompt, or a word
            looks like a path where nothing is.
    """
    sources: list[AdapterSource] = [] if options else [read_source(words[0])]
    prompts: list[str] = []
    for word in words[len(sources) :]:
        if not (is_adapter(word) or looks_like_path(word)):
            prompts.append(word)
            continue
        source = read_source(word)
        if not is_adapter(word):
            raise UserError(
                f"{shorten(word)} is neither a run's folder nor an adapter file; give one of these, or a prompt with "
                "a blank in it."
            )
        if prompts:
            raise UserError(
                f"the adapter {shorten(word)} comes after a prompt; give adapters first, or --adapter {shorten(word)}."
            )
        sources.append(source)
    if not prompts:
        raise UserError("no prompt is given; give one after the adapters, such as 'a photo of a {subject}'.")
    return [*sources, *(read_source(option, "--adapter") for option in options)], prompts


def readings_of(text: str) -> Iterator[AdapterSource]:
    """Yield every way to read a source: the longest path first, and without a name first."""
    named = NAMED.fullmatch(text)
    bodies = [(None, text), *([(named[1], named[2])] if named else [])]
    for count in range(3):
        for name, body in bodies:
            path, *numbers = body.rsplit(":", count)
            if path and len(numbers) == count and all(map(NUMBER.fullmatch, numbers)):
                yield AdapterSource(text=text, place=Path(path), name=name, scales=tuple(map(float, numbers)))


def is_there(place: str) -> bool:
    """Tell whether a file or folder is at a place, or the folder of `RUN@STEP`."""
    folder, _, step = place.rpartition("@")
    try:
        return Path(place).exists() or (bool(folder) and not set(step) & set(":/\\") and Path(folder).is_dir())
    except OSError:  # a prompt that is too long for a name
        return False


def is_repository(place: str) -> bool:
    """Tell whether a place is `owner/name` on the hub: no such file, and no folder `owner`."""
    return REPOSITORY.fullmatch(place) is not None and not is_there(place) and not Path(place).parent.is_dir()


def is_adapter(word: str) -> bool:
    """Tell whether a word names an adapter that is there, or a repository of the hub."""
    readings = list(readings_of(word))
    found = next((one.place for one in readings if is_there(str(one.place))), None)
    if not isinstance(found, Path):
        return any(is_repository(str(one.place)) for one in readings)
    folder = found if found.exists() else Path(str(found).rpartition("@")[0])
    if not folder.is_dir():
        return found.suffix in ENDINGS
    return is_peft_folder(folder) or any((folder / name).exists() for name in IN_FOLDERS)


def looks_like_path(word: str) -> bool:
    """Tell whether a word is meant as a path, so that it is no prompt even if nothing is there."""
    place, *scales = re.split(r":(?=[^:]*$)", word)
    if word.endswith(ENDINGS[0]) or place.endswith(ENDINGS[0]):
        return True
    if re.search(r"\s", word):
        return False
    has_scale = bool(scales) and NUMBER.fullmatch(scales[0]) is not None
    return has_scale or "/" in word or "\\" in word or word.endswith(ENDINGS) or re.search(r"@\d+$", word) is not None


def similar(reading: AdapterSource) -> str:
    """Suggest what a user may have meant by a place where nothing is."""
    place = Path(reading.place) if isinstance(reading.place, Path) else reading.place.folder
    try:
        there = [path.name for path in place.parent.iterdir() if is_adapter(str(path))]
    except OSError:
        there = []
    close = [str(place.with_name(name)) for name in get_close_matches(place.name, there, n=2, cutoff=0.6)]
    return f"did you mean {' or '.join(close)}?" if close else "give a run's folder or a .safetensors file."


def names_in(files: Iterable[str]) -> list[str]:
    """List the files of a repository or folder that may be its adapter's, the best first."""
    names = [name for name in files if "/" not in name and name.endswith(ENDINGS[0])]
    return [name for name in IN_REPOSITORIES if name in names] or names


def is_clear(names: Sequence[str]) -> bool:
    """Tell whether the first of some names is the adapter's: a usual one, or the only one."""
    return len(names) == 1 or bool(names and names[0] in IN_REPOSITORIES)


def published_file(folder: Path) -> Path | None:
    """Return the adapter's file of a folder as it is on the hub; None where it is not clear."""
    names = names_in(path.name for path in sorted(folder.iterdir()) if path.is_file())
    return folder / names[0] if is_clear(names) else None


def download_adapter(repository: str) -> Path:
    """Return the adapter's file of a repository on the hub, from its cache or downloaded.

    Raises:
        UserError: there is no such repository, it cannot be had, or it has no adapter's file or
            several.
    """
    try:
        files = hub_files(repository)
        known = names_in(files)
        if known[:1] == [WEIGHTS] and CONFIG in files:
            hub_file(repository, CONFIG)  # is read where it lies beside the weights
        if is_clear(known):
            return hub_file(repository, known[0])
    except Exception as error:  # the hub's library raises many kinds
        raise UserError(
            f"{repository} is no file or folder here, and as a repository of the model hub it cannot be had: "
            f"{why_unavailable(repository, error)}; give a file, or a prompt with a blank in it."
        ) from error
    listed = f"has several .safetensors files, {list_some(known)}" if known else "has no .safetensors file"
    raise UserError(f"{repository} on the model hub {listed}; download the adapter, and give its file.")


def name_of(source: AdapterSource) -> str:
    """Return the name of an adapter in prompts: its own, or that of its folder or file."""
    if source.name is not None:
        return source.name
    place = source.place.folder if isinstance(source.place, Run) else source.place
    whole = str(place) if place.exists() else str(place).rpartition("@")[0] or str(place)
    path = Path(whole).absolute()
    common = {Path(name).stem for name in IN_FOLDERS}
    name = path.name if path.is_dir() or path.suffix not in ENDINGS else path.stem
    name = path.parent.name if name in common else name
    return f"{name}_adapter" if name in PLACEHOLDERS else name
