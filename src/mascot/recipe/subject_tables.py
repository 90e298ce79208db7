"""Several subjects in one recipe: a table `[[subject]]` for each, with its photos and words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mascot.data.prompt_templates import COMMON_TOKEN, PLACEHOLDERS
from mascot.errors import UserError
from mascot.protocols import Subject

KEY = "subject"
"""The recipe's key of the tables."""

OF_ONE = ("photos", "token", "class_noun")
"""The recipe's keys of a single subject, which the tables replace."""


ALONE = ""
"""The name of a single subject that has no table."""


class SubjectTable(BaseModel):
    """One of several subjects that a run trains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=r"^[\w-]+$",
        description="name in prompts, between braces; by default the class noun, or the folder's name",
    )
    photos: tuple[str, ...] = Field(min_length=1, description="folders and files of photos of the subject")
    token: str | None = Field(default=None, min_length=1, description="identifier token; none chooses one for the base")
    class_noun: str | None = Field(default=None, description="class noun of the subject: dog, toy, ...")


def read_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Name the subjects of a recipe's tables, and list all their photos as the recipe's.

    Values without tables are returned as they are.

    Raises:
        ValueError: tables stand beside the keys of a single subject.
    """
    read, tables = dict(values), values.get(KEY)
    if not isinstance(tables, list | tuple) or not all(isinstance(table, Mapping) for table in tables):
        return read
    photos = [path for table in tables for path in listed(table.get("photos", ()))]
    twice = [key for key in OF_ONE if read.get(key) is not None and (key != "photos" or listed(read[key]) != photos)]
    if tables and twice:
        raise ValueError(
            f"{' and '.join(twice)} cannot stand beside [[{KEY}]] tables; write them into the tables, or remove those"
        )
    if tables:
        names = choose_names(tables)
        read[KEY] = [{**table, "name": name} for table, name in zip(tables, names, strict=True)]
        read["photos"] = photos
    return read


def without_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write a single subject's keys, or the tables of several, but not both."""
    written = {key: value for key, value in values.items() if key != "tables"}
    tables = values.get("tables")
    return {key: value for key, value in written.items() if key not in OF_ONE} | {KEY: tables} if tables else written


def tables_in(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the tables of a recipe's file; anything else under their key is refused later."""
    return [cast("Mapping[str, Any]", table) for table in listed(values.get(KEY)) if isinstance(table, Mapping)]


def listed(value: object) -> list[object]:
    """Return a list or tuple as a list; anything else, which pydantic refuses later, as empty."""
    return list(value) if isinstance(value, list | tuple) else []


def choose_names(tables: Sequence[Mapping[str, Any]]) -> list[object]:
    """Name each subject: as its table says, else by its class noun, else by its folder.

    A class noun that two subjects share names neither of them.
    """
    nouns = [slug(table.get("class_noun")) for table in tables]
    folders = [slug(Path(str(path)).absolute().name) for table in tables for path in listed(table.get("photos"))[:1]]
    choices = [
        names for names in (nouns, folders) if len(set(names)) == len(tables) and not {"", *PLACEHOLDERS} & set(names)
    ]
    counts = Counter(nouns)
    numbered = [
        f"{noun or 'subject'}{index + 1}" if counts[noun] > 1 or noun in {"", *PLACEHOLDERS} else noun
        for index, noun in enumerate(nouns)
    ]
    chosen = choices[0] if choices else numbered
    return [table.get("name", name) for table, name in zip(tables, chosen, strict=True)]


def slug(text: object) -> str:
    """Turn a noun or a folder's name into a placeholder: `Teddy bear` into `teddy_bear`."""
    return re.sub(r"[^\w-]+", "_", text.strip().lower()).strip("_") if isinstance(text, str) else ""


def check_tables(tables: tuple[SubjectTable, ...]) -> tuple[SubjectTable, ...]:
    """Check that prompts can tell the subjects apart, and return them.

    Raises:
        ValueError: two names or tokens are alike, or a name is a placeholder with another meaning.
    """
    for table in tables:
        if table.name in PLACEHOLDERS:
            raise ValueError(f"{{{table.name}}} has another meaning in prompts; give the subject another name")
    for one, other in permutations(tables, 2):
        if one.token is not None and other.class_noun is not None and overlap(one.token, other.class_noun):
            raise ValueError(
                f"the token {one.token!r} of {one.name} is the class noun of {other.name}; give a rare word, or none "
                "to have one chosen"
            )
    for one, other in combinations(tables, 2):
        if one.name == other.name:
            raise ValueError(f"two subjects are called {one.name!r}; give each a name of its own")
        if one.token is not None and other.token is not None and overlap(one.token, other.token):
            raise ValueError(
                f"the tokens {one.token!r} and {other.token!r} of {one.name} and {other.name} are alike, so that "
                "prompts could not tell them apart; give each subject a token of its own, or none to have one chosen"
            )
    return tables


Tables = Annotated[tuple[SubjectTable, ...], AfterValidator(check_tables)]
"""The tables of subjects that prompts can tell apart."""


def overlap(one: str, other: str) -> bool:
    """Tell whether the words of one token occur in the other; text encoders ignore case."""
    first, second = (" ".join(token.casefold().split()) for token in (one, other))
    return f" {first} " in f" {second} " or f" {second} " in f" {first} "


@dataclass(frozen=True, slots=True)
class RecipeSubjects:
    """The subjects of a recipe, one or several, in order."""

    tables: tuple[SubjectTable, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the subjects; empty where there is one without a table."""
        return tuple(table.name for table in self.tables if table.name != ALONE)

    @property
    def class_nouns(self) -> tuple[str, ...]:
        """The class nouns of the subjects, each once; empty where one of them has none."""
        nouns = [table.class_noun for table in self.tables]
        return tuple(dict.fromkeys(noun for noun in nouns if noun is not None)) if None not in nouns else ()

    @property
    def photo_groups(self) -> tuple[tuple[str, ...], ...]:
        """The folders and files of each subject's photos."""
        return tuple(table.photos for table in self.tables)

    @property
    def tokens(self) -> tuple[str | None, ...]:
        """The token of each subject; None where one is to be chosen."""
        return tuple(table.token for table in self.tables)

    @property
    def first(self) -> Subject:
        """The first subject, which knows the others; `sks` stands in for a token not chosen yet."""
        stand_ins = [
            f"{COMMON_TOKEN}{i + 1}" if len(self.tables) > 1 else COMMON_TOKEN for i in range(len(self.tables))
        ]
        subject, *others = [
            Subject(
                token=stand_in if table.token is None else table.token,
                class_noun=table.class_noun,
                name=None if table.name == ALONE else table.name,
            )
            for table, stand_in in zip(self.tables, stand_ins, strict=True)
        ]
        return replace(subject, others=tuple(others))


def subjects_of(
    tables: tuple[SubjectTable, ...], photos: tuple[str, ...], token: str | None, class_noun: str | None
) -> RecipeSubjects:
    """Return the subjects of the tables; without any, the one of the other values."""
    alone = SubjectTable.model_construct(name=ALONE, photos=photos, token=token, class_noun=class_noun)
    return RecipeSubjects(tables or (alone,))


def split_options(
    photos: Sequence[str], class_noun: str | None, token: str | None, tables: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Read the options of several subjects, which commas separate, as values of a recipe.

    `tables` are those of the recipe's file. The options of a single subject are returned as given.

    One class noun for several tokens is that of each subject.

    Raises:
        UserError: their numbers differ.
    """
    nouns, tokens = split_list(class_noun), split_list(token)
    nouns = nouns * len(tokens) if len(nouns) == 1 and len(tokens) > 1 else nouns
    given = {"photos": tuple(photos) or None, "class_noun": class_noun, "token": token}
    if tables and not photos and (nouns or tokens):
        check_counts(len(tables), "subjects in the recipe", class_noun=nouns, token=tokens)
        return {KEY: [dict(table) | words_of(index, nouns, tokens) for index, table in enumerate(tables)]}
    if max(len(nouns), len(tokens)) < 2:
        return given
    check_counts(len(photos), "folders of photos, one for each subject,", class_noun=nouns, token=tokens)
    return {KEY: [{"photos": [path]} | words_of(index, nouns, tokens) for index, path in enumerate(photos)]}


def words_of(index: int, nouns: Sequence[str], tokens: Sequence[str]) -> dict[str, str]:
    """Return the class noun and the token of one subject, as far as they were given."""
    return ({"class_noun": nouns[index]} if nouns else {}) | ({"token": tokens[index]} if tokens else {})


def split_list(text: str | None) -> list[str]:
    """Split an option at its commas; empty if it was not given."""
    return [] if text is None else [item.strip() for item in text.split(",")]


def check_counts(count: int, what: str, **options: Sequence[str]) -> None:
    """Check that each option that was given has one value for each subject, none of them empty.

    Raises:
        UserError: an option has more or fewer values, or an empty one.
    """
    for key, values in options.items():
        name = f"--{key.replace('_', '-')}"
        if values and len(values) != count:
            raise UserError(
                f"{name} {','.join(values)} is for {len(values)} subjects, and there are {count} {what.rstrip(',')}; "
                "give as many of both, separated by commas."
            )
        if values and not all(values):
            raise UserError(f"{name} {','.join(values)} has an empty item; write one for each subject.")
