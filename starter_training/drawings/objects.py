"""Read `objects.toml` and the catalogue: which icons are used and which are held out."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TypedDict

OBJECTS = Path(__file__).parent / "objects.toml"
CATALOGUE_GROUPS = (3, 4, 5, 6, 7)
"""Emojibase's groups of animals, food, travel, activities and objects."""
CLOCK_FACES = re.compile(r"o.clock|-thirty")


class Package(TypedDict):
    """An npm package, its exact version and the license that its `package.json` must have."""

    version: str
    licence: str
    author: str
    title: str


class Accessory(TypedDict):
    """The words for a thing that figures wear or hold, and where it goes: head, neck or side."""

    words: str
    on: str


class HeldOut(TypedDict):
    """The class noun, icon and art of a held-out subject."""

    noun: str
    icon: str
    art: str


class Objects(TypedDict):
    """The tables of `objects.toml`."""

    arts: dict[str, str]
    """npm package -> the words that caption its art."""
    packages: dict[str, Package]
    nouns: dict[str, dict[str, list[str]]]
    """Noun -> `bodies` and perhaps `faces` -> icons."""
    accessories: dict[str, Accessory]
    """Icon -> accessory."""
    held_out: dict[str, HeldOut]
    """Subject -> its drawing, which no training image shows."""


def read_objects() -> Objects:
    """Read `objects.toml`: arts, packages, nouns, accessories and held-out subjects."""
    tables = tomllib.loads(OBJECTS.read_text())
    return Objects(
        arts=tables["arts"],
        packages=tables["packages"],
        nouns=tables["nouns"],
        accessories=tables["accessories"],
        held_out=tables["held_out"],
    )


def held_out_icons() -> set[str]:
    """Return every icon that no training image may show, in any art."""
    return {subject["icon"] for subject in read_objects()["held_out"].values()}


def wanted_icons() -> set[str]:
    """Return every icon that may be in the base's training images, in any art.

    No held-out icon is among them.
    """
    objects = read_objects()
    icons = {icon for noun in objects["nouns"].values() for kind in noun.values() for icon in kind}
    icons |= set(objects["accessories"])
    assert not icons & held_out_icons(), f"held-out drawings in training: {icons & held_out_icons()}"
    return icons


def read_catalogue(modules: Path) -> dict[str, str]:
    """Map icon to label for every animal and thing that has an emoji, except held-out ones.

    The encoders are trained on all of these. The base is trained on far fewer (`wanted_icons`), but
    an encoder that scores unseen subjects has to be trained on many.

    Args:
        modules: the folder `node_modules` that `collect` installed.
    """
    records = json.loads((modules / "emojibase-data" / "en" / "data.json").read_text())
    labels = [
        record["label"].lower()
        for record in records
        if record.get("group") in CATALOGUE_GROUPS and not CLOCK_FACES.search(record["label"])
    ]
    icons = {re.sub(r"[^a-z0-9]+", "-", label).strip("-"): label for label in labels}
    return {icon: label for icon, label in icons.items() if icon not in held_out_icons()}
