"""Collections of subjects to train and score, in the layout of github.com/google/dreambooth.

Each subject has a folder of photos. `prompts_and_classes.txt` lists class nouns and prompts. It is
beside the subjects' folders or, as in that repository, with them in `dataset/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mascot.errors import UserError, suggest
from mascot.generation.prompts.live_nouns import is_live
from mascot.generation.prompts.prompt_sets import PromptSet
from mascot.storage.untrusted_files import read_text

TABLE = "prompts_and_classes.txt"
"""Name of the file of classes and prompts."""

HEAD = ("subject_name", "class")
"""Head of the table of classes; an optional third column, `live`, says yes or no."""

_PROMPT = re.compile(r"""^\s*(['"])(?P<text>.*)\1\.format\(""")
_LIST = re.compile(r"^(?P<kind>object|live subject) prompts$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSubject:
    """One subject of a collection."""

    name: str
    class_noun: str
    live: bool
    """Whether it is scored on the prompts for live subjects; else on those for objects."""
    photos: Path
    """Folder of its photos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Subjects, and the prompts that they are scored on."""

    subjects: tuple[CollectionSubject, ...]
    prompts: PromptSet
    missing: tuple[str, ...] = ()
    """Names of subjects that the file lists but that have no folder."""

    def select(self, *, subjects: Sequence[str] = (), prompts: int | None = None) -> Collection:
        """Select subjects, by default all, and a number of prompts, spread evenly over each list.

        Raises:
            UserError: there is no such subject, or no prompt would be left.
        """
        known = {subject.name: subject for subject in self.subjects}
        for name in subjects:
            if name not in known:
                raise UserError(f"--subjects: there is no subject {name!r} in this collection{suggest(name, known)}")
        if prompts is not None and prompts < 1:
            raise UserError("--prompts needs 1 or more.")
        chosen = tuple(known[name] for name in dict.fromkeys(subjects)) if subjects else self.subjects
        lists = self.prompts
        if prompts is not None:
            lists = PromptSet(objects=spread(lists.objects, prompts), live=spread(lists.live, prompts))
        return replace(self, subjects=chosen, prompts=lists)


def read_collection(folder: Path) -> Collection:
    """Read a collection; folders that its file does not list are ignored.

    Raises:
        UserError: the file is missing, a line of it cannot be read, or no subject has a folder.
    """
    roots = [root for root in (folder, folder / "dataset") if (root / TABLE).is_file()]
    if not roots:
        raise UserError(
            f"{folder} is no collection: it has no {TABLE}; give one that has it, with a folder for each subject."
        )
    table = roots[0] / TABLE
    lines = read_text(table, remedy="correct that file").splitlines()
    subjects, prompts = read_classes(lines, table), read_prompts(lines, table)
    found = [subject for subject in subjects if subject.photos.is_dir()]
    if not found:
        raise UserError(
            f"{table} names {len(subjects)} subjects, and {roots[0]} holds a folder of none of them; add their folders."
        )
    missing = tuple(subject.name for subject in subjects if not subject.photos.is_dir())
    return Collection(subjects=tuple(found), prompts=prompts, missing=missing)


def read_classes(lines: Sequence[str], table: Path) -> list[CollectionSubject]:
    """Read the table of subjects: `name,class` in each line below its head, up to an empty line."""
    heads = [number for number, line in enumerate(lines) if tuple(split_cells(line)[:2]) == HEAD]
    if not heads:
        raise UserError(f"{table} has no line `{','.join(HEAD)}` over its classes; add it.")
    subjects: list[CollectionSubject] = []
    for number, line in enumerate(lines[heads[0] + 1 :], heads[0] + 2):
        if not line.strip():
            break
        name, *more = split_cells(line)
        noun, live = (*more, "")[:2] if more else ("", "")
        if not name or not noun or len(more) > 2 or live.lower() not in {"", "yes", "no"} or Path(name).name != name:
            raise UserError(
                f"{table}, line {number}: {line.strip()!r} is not of the form name,class or name,class,live "
                "(yes or no)."
            )
        alive = live.lower() == "yes" if live else is_live(noun)
        subjects.append(CollectionSubject(name=name, class_noun=noun, live=alive, photos=table.parent / name))
    repeated = {one.name for one in subjects if sum(one.name == other.name for other in subjects) > 1}
    if repeated:
        raise UserError(f"{table} names {', '.join(sorted(repeated))} more than once; leave one line of each.")
    return subjects


def read_prompts(lines: Sequence[str], table: Path) -> PromptSet:
    """Read both lists of prompts, each below its title.

    A line is such as `'a {0} {1} in the snow'.format(unique_token, class_token),`.
    """
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
            raise UserError(f"{table} has no prompts under `{kind.title()} Prompts`; add some.")
    return PromptSet(objects=tuple(lists["object"]), live=tuple(lists["live subject"]))


def template_of(text: str, table: Path) -> str:
    """Turn `a {0} {1} in the snow` into `a {subject} in the snow`."""
    if text.count("{0} {1}") != 1 or "{" in text.replace("{0} {1}", ""):
        raise UserError(f"{table}: the prompt {text!r} must have {{0}} {{1}} once, for the token and the class.")
    return text.replace("{0} {1}", "{subject}")


def split_cells(line: str) -> list[str]:
    """Split a line of the table into cells."""
    return [cell.strip() for cell in line.split(",")]


def spread(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """Pick `count` prompts, evenly over the list, so that its kinds keep their shares."""
    count = min(count, len(prompts))
    return tuple(prompts[(2 * i + 1) * len(prompts) // (2 * count)] for i in range(count))
