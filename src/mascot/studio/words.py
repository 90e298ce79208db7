"""What the page says, in English and Russian, by one table: `words.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, cast

from mascot.storage.untrusted_files import read_toml

LANGUAGES: Final[Mapping[str, str]] = {"en": "English", "ru": "Русский"}
"""Code of a language -> its name in itself."""
TABLE: Final = Path(__file__).with_name("words.toml")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one language."""

    language: str
    table: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """Return what is said under a key, with values in their places."""
        return self.table[key].format(**values)


@cache
def words_for(language: str) -> Words:
    """Read the words of a language."""
    return Words(language, {key: said[language] for key, said in read_table().items()})


@cache
def read_table() -> Mapping[str, Mapping[str, str]]:
    """Read the table: key -> language -> what is said."""
    found: dict[str, Mapping[str, str]] = {}
    for part, keys in read_toml(TABLE).items():
        for key, said in cast("Mapping[str, Mapping[str, str]]", keys).items():
            found[f"{part}.{key}"] = said
    return found
