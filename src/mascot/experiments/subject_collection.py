"""A collection of subjects to measure on, in the layout of google/dreambooth: a folder of photos each, and one file of classes and prompts.

The file is `prompts_and_classes.txt`; it lies beside the subjects' folders or, as in that repository, with them in `dataset/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mascot.errors import UserError, suggest
from mascot.generation.prompt_sets import PromptSet, is_live

TABLE = "prompts_and_classes.txt"
"""The file of classes and prompts."""


HEAD = ("subject_name", "class")
"""Over the classes; a third column, `live`, may say yes or no of each subject."""


_PROMPT = re.compile(r"""^\s*(['"])(?P<text>.*)\1\.format\(""")


_LIST = re.compile(r"^(?P<kind>object|live subject) prompts$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSubject:
    """One subject of a collection."""

    name: str
    class_noun: str
    live: bool
    """Decides which of both lists of prompts it is measured on."""
    photos: Path
    """The folder of its photos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Subjects, and the prompts that they are measured on."""

    subjects: tuple[CollectionSubject, ...]
    prompts: PromptSet
    absent: tuple[str, ...] = ()
    """Subjects that the file names and that have no folder."""

    def cut(self, *, subjects: Sequence[str] = (), prompts: int | None = None) -> Collection:
        """The same with some subjects alone, and with so many of each list's prompts, evenly over the list.

        Raises:
            UserError: there is no such subject, or no prompt would be left.
        """
        known = {subject.name: subject for subject in self.subjects}
        for name in subjects:
            if name not in known:
                raise UserError(f"there is no subject {name!r} in this collection{suggest(name, known)}")
        if prompts is not None and prompts < 1:
            raise UserError("--prompts needs 1 or more.")
        chosen = tuple(known[name] for name in dict.fromkeys(subjects)) if subjects else self.subjects
        cut = self.prompts
        if prompts is not None:
            cut = PromptSet(things=spread(cut.things, prompts), live=spread(cut.live, prompts))
        return replace(self, subjects=chosen, prompts=cut)


def read_collection(folder: Path) -> Collection:
    """Read a folder in the layout of google/dreambooth; folders that the file does not name are none of its subjects.

    Raises:
        UserError: the file is missing or cannot be understood, with what is wrong in which line, or no subject has a folder.
    """
    homes = [home for home in (folder, folder / "dataset") if (home / TABLE).is_file()]
    if not homes:
        raise UserError(
            f"{folder} is no collection: it has no {TABLE}; give one that has, with a folder of photos for each subject."
        )
    table = homes[0] / TABLE
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table} cannot be read ({error}).") from None
    named, prompts = read_classes(lines, table), read_prompts(lines, table)
    found = [subject for subject in named if subject.photos.is_dir()]
    if not found:
        raise UserError(f"{table} names {len(named)} subjects, and {homes[0]} holds a folder of none of them.")
    return Collection(
        subjects=tuple(found), prompts=prompts, absent=tuple(one.name for one in named if not one.photos.is_dir())
    )


def read_classes(lines: Sequence[str], table: Path) -> list[CollectionSubject]:
    """Read the table of subjects: `name,class` in each line below its head, up to the first empty one."""
    heads = [number for number, line in enumerate(lines) if tuple(split(line)[:2]) == HEAD]
    if not heads:
        raise UserError(f"{table} has no line `{','.join(HEAD)}` over its classes.")
    subjects: list[CollectionSubject] = []
    for number, line in enumerate(lines[heads[0] + 1 :], heads[0] + 2):
        if not line.strip():
            break
        name, *more = split(line)
        noun, live = (*more, "")[:2] if more else ("", "")
        if not name or not noun or len(more) > 2 or live.lower() not in {"", "yes", "no"} or Path(name).name != name:
            raise UserError(
                f"{table}, line {number}: {line.strip()!r} is not of the form name,class or name,class,live (yes or no)."
            )
        alive = live.lower() == "yes" if live else is_live(noun)
        subjects.append(CollectionSubject(name=name, class_noun=noun, live=alive, photos=table.parent / name))
    twice = {one.name for one in subjects if sum(one.name == other.name for other in subjects) > 1}
    if twice:
        raise UserError(f"{table} names {', '.join(sorted(twice))} more than once.")
    return subjects


def read_prompts(lines: Sequence[str], table: Path) -> PromptSet:
    """Read both lists: lines such as `'a {0} {1} in the snow'.format(unique_token, class_token),` below their titles."""
    lists: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        title, prompt = _LIST.match(line.strip()), _PROMPT.match(line)
        if title:
            current = lists.setdefault(title["kind"].lower(), [])
        elif prompt and current is not None:
            current.append(template_of(prompt["text"], table))
    for kind in ("object", "live subject"):
        if not lists.get(kind):
            raise UserError(f"{table} has no prompts under `{kind.title()} Prompts`.")
    return PromptSet(things=tuple(lists["object"]), live=tuple(lists["live subject"]))


def template_of(text: str, table: Path) -> str:
    """Turn `a {0} {1} in the snow` into `a {subject} in the snow`."""
    if text.count("{0} {1}") != 1 or "{" in text.replace("{0} {1}", ""):
        raise UserError(f"{table}: the prompt {text!r} must have {{0}} {{1}} once, for the token and the class.")
    return text.replace("{0} {1}", "{subject}")


def split(line: str) -> list[str]:
    """Cells of a line."""
    return [cell.strip() for cell in line.split(",")]


def spread(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """So many prompts, evenly over the list, so that its kinds keep their shares."""
    count = min(count, len(prompts))
    return tuple(prompts[(2 * i + 1) * len(prompts) // (2 * count)] for i in range(count))
