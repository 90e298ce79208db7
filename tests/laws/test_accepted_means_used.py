"""The law that accepted means used: an option changes the result, or it is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from laws.bad_places import fresh_adapter, fresh_token
from mascot.adapters.adapter_file import Adapter, Manifest
from mascot.errors import UserError
from mascot.evaluation.selection.knob_search import knob_grid
from mascot.generation.generator import Generator
from mascot.generation.knob_checks import check_knobs
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.methods.registry import METHODS, changes_of, settings_of
from mascot.models.families.registry import load_family
from mascot.protocols import AttachedMethod, Family
from tiny.stable_diffusion import SUBJECT

SETTINGS = {
    **{name: {} for name in METHODS},
    "lora without text": {"text_learning_rate": 0},
    "dreambooth with text": {"text_learning_rate": 1e-3},
    "pivotal without text": {"layers": {"text_learning_rate": 0}},
}
"""Name -> settings of the method that the name begins with."""
VALUES: dict[str, tuple[object, object]] = {
    "guidance": (2.0, 6.0),
    "unet_scale": (0.5, 1.0),
    "text_scale": (0.5, 1.0),
    "negative": ("", "a cat"),
    "steps": (1, 3),
    "solver": ("ddim", "dpm++"),
    "height": (64, 96),
    "width": (64, 96),
}
"""Knob -> two values that must give different images."""


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> Family:
    """The tiny base, which every test leaves unchanged."""
    return load_family(str(tiny_base), device="cpu", precision="fp32")


def trained_adapter(family: Family, name: str) -> Adapter:
    """Make an adapter whose method has trained all that it trains, at random."""
    method = name.partition(" ")[0]
    before: AttachedMethod | None = None
    for scheduled in settings_of(method).model_validate(SETTINGS[name]).phases:
        before = scheduled.phase.attach(family.stages[0], SUBJECT, 0, before)
    assert before is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in before.groups:
            for parameter in group.parameters:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    tensors, metadata = before.export()
    before.detach()
    manifest = Manifest(
        method=method,
        base="base",
        base_identity=family.identity,
        token=SUBJECT.token,
        class_noun="dog",
        resolution=64,
        step=1,
        recipe={},
    )
    return Adapter(tensors=tensors, metadata=metadata, manifest=manifest)


def test_every_knob_has_two_values_here() -> None:
    others = {"true_guidance"}  # of bases that read the guidance scale; see test_true_guidance.py
    assert VALUES.keys() | others == Knobs.model_fields.keys()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of diffusers' solvers
@pytest.mark.parametrize("name", SETTINGS)
def test_every_knob_changes_the_image_or_is_refused(family: Family, name: str) -> None:
    adapter = trained_adapter(family, name)
    generator = Generator(family, adapter)
    request = ImageRequest(f"a {SUBJECT.token} dog", 0)
    refused: dict[str, str] = {}
    for knob, values in VALUES.items():
        chosen = [Knobs(**({"steps": 2} | {knob: value})) for value in values]
        try:
            check_knobs(adapter, {knob: values[0]}, chosen[0])
        except UserError as error:
            refused[knob] = str(error)
            continue
        one, other = (next(generator.generate([request], knobs)) for knobs in chosen)
        assert one.tobytes() != other.tobytes(), knob
    sides = settings_of(name.partition(" ")[0]).model_validate(SETTINGS[name]).changes
    assert changes_of(name.partition(" ")[0])(adapter.tensors) == sides
    scaled = {"unet_scale": "denoiser", "text_scale": "text encoders"}
    assert refused.keys() == {knob for knob, side in scaled.items() if side not in sides}
    assert all(f"--{knob.replace('_', '-')} has no effect" in said for knob, said in refused.items())
    generator.remove_adapter()


@pytest.mark.parametrize("name", ["lora", "lora without text", "textual-inversion"])
@pytest.mark.parametrize("guidance", [0, 1, 5.0, 80.0])
def test_no_two_settings_of_the_knob_search_generate_the_same(name: str, guidance: float) -> None:
    sides = settings_of(name.partition(" ")[0]).model_validate(SETTINGS[name]).changes
    grid = knob_grid(Knobs(guidance=guidance), sides)
    assert len(set(grid)) == len(grid)
    for knob, side in {"unet_scale": "denoiser", "text_scale": "text encoders"}.items():
        assert (len({getattr(knobs, knob) for knobs in grid}) > 1) == (side in sides)
    assert (len({knobs.guidance for knobs in grid}) > 1) == (guidance not in {0, 1})
    assert all(Knobs.model_validate(knobs.model_dump()) == knobs for knobs in grid)


def test_a_stage_s_prefix_does_not_hide_what_an_adapter_changes(tiny_base: Path) -> None:
    adapter = fresh_adapter(tiny_base)
    keys = [f"stage2.{key}" for key in adapter.tensors]
    assert changes_of("lora")(keys) == {"denoiser", "text encoders"}
    assert changes_of(None)(key for key in keys if "text" not in key) == {"denoiser"}
    token = fresh_token(tiny_base)
    with pytest.raises(UserError, match="unet_scale has no effect"):
        check_knobs(token, {"unet_scale": 0}, Knobs(unet_scale=0), write=str)
