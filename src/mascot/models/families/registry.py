"""Kinds of base models: one file each, one table. The family is read off the base, never asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mascot.errors import UserError, suggest
from mascot.models.families.base_source import joined, read_description, source_of
from mascot.models.pipeline_files import Precision
from mascot.protocols import Family

FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "mascot.models.families.sd",
    "StableDiffusionXLPipeline": "mascot.models.families.sdxl",
    "StableDiffusion3Pipeline": "mascot.models.families.sd3",
    "FluxPipeline": "mascot.models.families.flux",
    "IFPipeline": "mascot.models.families.deepfloyd_if",
}
"""Pipeline class in a base's `model_index.json` -> module with `NAME` and `load(source, device, precision)`."""


CONTINUATIONS: Mapping[str, str] = {"IFSuperResolutionPipeline": "mascot.models.families.deepfloyd_if"}
"""Pipeline class that enlarges another's pictures -> that other's module, whose `load` takes its `continuation` as well."""


def describe(base: str) -> dict[str, Any]:
    """Read the `model_index.json` of a base, of the first one of FIRST+SECOND, without loading a weight.

    Raises:
        UserError: the base is not there, is no diffusers pipeline of a known family, or is joined of what does not belong together.
    """
    first, *more = joined(base)
    index = check(first, read_description(first))
    if len(more) > 1:
        raise UserError(
            f"the base {base} is joined of {len(more) + 1} stages; mascot knows bases of two at most: give FIRST+SECOND."
        )
    for second in more:
        kind = str(read_description(second).get("_class_name"))
        if CONTINUATIONS.get(kind) != FAMILIES[index["_class_name"]]:
            what = f"{second} is a {kind}, which does not enlarge what a {index['_class_name']} draws"
            raise UserError(f"{what}; give {first} alone, or joined with the next stage of its cascade.")
    return index


def check(base: str, index: dict[str, Any]) -> dict[str, Any]:
    """Refuse a pipeline of an unknown kind, and one that continues another where it stands alone or first."""
    kind = str(index.get("_class_name"))
    if kind in CONTINUATIONS:
        raise UserError(
            f"{base} is a {kind}, which only enlarges what another base draws; give both, as --base FIRST+{base}."
        )
    if kind not in FAMILIES:
        raise UserError(f"{base} is a {kind}, which mascot cannot personalize{suggest(kind, FAMILIES)}")
    return index


def family_name(base: str) -> str:
    """The family of a base, by its index alone."""
    return import_module(FAMILIES[describe(base)["_class_name"]]).NAME


def load_family(base: str, *, device: str, precision: Precision) -> Family:
    """Load a base.

    Raises:
        UserError: the base is unknown, broken or not there.
    """
    module = import_module(FAMILIES[describe(base)["_class_name"]])
    first, *more = map(source_of, joined(base))
    return module.load(first, device=device, precision=precision, **({"continuation": more[0]} if more else {}))
