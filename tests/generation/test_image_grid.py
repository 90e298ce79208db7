"""Laws of image grids: every image in its cell, every axis named, in the grid and in its text."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from mascot.errors import UserError
from mascot.generation import image_grid
from mascot.generation.generator import Generator
from mascot.generation.image_grid import GridAxis, compose, grid_positions, plan_layout, wrap
from mascot.generation.knob_grid import plan_settings, sweep_knobs
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models.families.registry import load_family

GRAYS = {position: 40 + 10 * number for number, position in enumerate(itertools.product(range(3), range(2), range(2)))}


def gray(value: int, side: int = 128) -> Image.Image:
    """An image of one shade that no label has."""
    return Image.new("RGB", (side, side), (value, 0, value))


def shades(image: Image.Image) -> dict[int, tuple[int, int, int, int]]:
    """Find each shade of `gray`: left, top, right, bottom."""
    values = np.asarray(image.convert("RGB"), dtype=int)
    is_shade = (values[..., 1] == 0) & (values[..., 0] == values[..., 2]) & (values[..., 0] >= 40)
    found: dict[int, tuple[int, int, int, int]] = {}
    for value in map(int, np.unique(values[..., 0][is_shade])):
        rows, columns = np.nonzero(is_shade & (values[..., 0] == value))
        found[value] = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_columns_go_right_rows_go_down_and_blocks_follow_each_other(count: int) -> None:
    axes = [
        GridAxis("guidance", ("5", "9", "13")),
        GridAxis("unet_scale", ("0.5", "1.0")),
        GridAxis("text_scale", ("0", "1")),
    ][:count]
    cells = {position[:count]: gray(value) for position, value in GRAYS.items() if not any(position[count:])}
    corners = shades(compose(axes, cells, title="a dog"))
    assert len(corners) == len(cells)
    at = {position: corners[GRAYS[(*position, 0, 0)[:3]]] for position in cells}
    assert all((right - left, bottom - top) == (128, 128) for left, top, right, bottom in at.values())
    for one, other in itertools.permutations(cells, 2):
        direction = [b - a for a, b in zip(one, other, strict=True)]
        if direction[0] > 0:
            assert at[other][0] >= at[one][2]
        block, row = (*direction, 0, 0)[2], (*direction, 0)[1]
        if (block, row) > (0, 0):
            assert at[other][1] >= at[one][3]


def test_every_name_and_every_label_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    original = image_grid.write

    def record(pen: Any, layout: Any, text: str, corner: tuple[int, int], width: int) -> None:
        texts.append(text)
        original(pen, layout, text, corner, width)

    monkeypatch.setattr(image_grid, "write", record)
    axes = [GridAxis("guidance", ("5", "9")), GridAxis("unet_scale", ("0.5",)), GridAxis("text_scale", ("0", "1"))]
    compose(axes, {(0, 0, 0): gray(40)}, title="a dog (seed 7)")
    assert {
        "a dog (seed 7)",
        "guidance",
        "5",
        "9",
        "unet_scale",
        "0.5",
        "text_scale = 0",
        "text_scale = 1",
        "no image",
    } == set(texts)


def test_names_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    named = compose([GridAxis("guidance", ("5",))], {(0,): gray(40)})
    monkeypatch.setattr(image_grid, "INK", image_grid.PAPER)
    assert named.size == (bare := compose([GridAxis("guidance", ("5",))], {(0,): gray(40)})).size
    assert np.any(np.asarray(named) != np.asarray(bare))


def test_small_images_are_enlarged_by_whole_pixels_to_one_size() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(40, 256, (50, 50, 3), dtype=np.uint8))
    sheet = compose([GridAxis("x", ("1", "2"))], {(0,): noise, (1,): gray(44, 25)})
    left, top, right, bottom = shades(sheet)[44]
    assert (right - left, bottom - top) == (150, 150)
    left -= 150 + image_grid.GAP
    shown = sheet.crop((left, top, left + 150, bottom))
    assert shown.tobytes() == noise.resize((150, 150), Image.Resampling.NEAREST).tobytes()


def test_a_grid_too_large_to_open_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_grid, "MOST_PIXELS", 60_000)
    sheet = compose([GridAxis("x", ("1", "2", "3"))], {(i,): gray(40 + i, 256) for i in range(3)})
    assert sum((right - left) * (bottom - top) for left, top, right, bottom in shades(sheet).values()) <= 61_000


def test_a_sentence_may_fill_a_cell() -> None:
    axes = [GridAxis("x", ("1", "2"))]
    with_text = compose(axes, {(0,): gray(40), (1,): "no memory"})
    assert with_text.tobytes() != compose(axes, {(0,): gray(40)}).tobytes()
    assert list(shades(with_text)) == [40]


@pytest.mark.parametrize("count", [0, 4])
def test_a_grid_has_one_to_three_axes(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 3 axes"):
        compose([GridAxis("x", ("1",))] * count, {})


@given(st.text(max_size=60), st.integers(20, 400))
def test_lines_fit_and_only_dots_hide_text(text: str, width: int) -> None:
    font = ImageFont.load_default(14)
    lines = wrap(text, font, width)
    assert len(lines) <= image_grid.LINES
    assert all(font.getlength(line) <= width or len(line.removesuffix("...")) <= 1 for line in lines)
    if not lines or not lines[-1].endswith("..."):
        assert "".join("".join(lines).split()) == "".join(text.split())


def test_wide_labels_do_not_widen_a_grid_without_end() -> None:
    layout = plan_layout(GridAxis("x", ("1",)), GridAxis("method.rank", ("a long value " * 40,)), 1, [gray(40)])
    assert layout.left <= 2 * image_grid.SMALLEST_CELL + 2 * image_grid.GAP


def test_positions_are_complete_and_the_first_changes_fastest() -> None:
    assert list(grid_positions([3, 2])) == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({}, "1 to 3 axes"),
        ({"guidance": [1], "unet_scale": [1], "text_scale": [1], "steps": [1]}, "1 to 3 axes"),
        ({"gidance": [1]}, "did you mean 'guidance'"),
        ({"guidance": []}, "no values"),
        ({"guidance": [-1]}, "guidance=-1"),
        ({"seed": ["x"]}, "whole number"),
        ({"seed": [True]}, "whole number"),
    ],
)
def test_knobs_that_cannot_be_varied_are_refused(over: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_settings(over, prompt="a dog", seed=0, knobs=Knobs())


def test_prompt_and_seed_are_axes_too() -> None:
    settings = plan_settings(
        {"seed": [3, 4], "prompt": ["a cat"], "steps": [2]}, prompt="a dog", seed=0, knobs=Knobs(guidance=3)
    )
    assert [(setting.request, setting.knobs.guidance, setting.knobs.steps) for setting in settings] == [
        (ImageRequest("a cat", 3), 3, 2),
        (ImageRequest("a cat", 4), 3, 2),
    ]


def test_a_knob_grid_shows_the_generator_s_images_and_names_their_settings(tiny_base: Path, tmp_path: Path) -> None:
    generator, knobs = Generator(load_family(str(tiny_base), device="cpu", precision="fp32")), Knobs(steps=1)
    out = sweep_knobs(
        generator,
        {"guidance": [1, 9], "steps": [1, 2]},
        prompt="a dog",
        seed=5,
        knobs=knobs,
        out=tmp_path / "grid.png",
        base="tiny",
    )
    with Image.open(out) as sheet:
        text, shown = sheet.text["parameters"], np.asarray(sheet.convert("RGB"))
    assert text.startswith("a dog\nSteps: 1, Sampler: ddim, CFG scale: 1.0, Seed: 5, Size: 64x64, Model: tiny")
    assert text.endswith('Script: X/Y/Z plot, X Type: guidance, X Values: "1, 9", Y Type: steps, Y Values: "1, 2"')
    for guidance, steps in itertools.product((1, 9), (1, 2)):
        image = next(generator.generate([ImageRequest("a dog", 5)], Knobs(guidance=guidance, steps=steps))).resize(
            (128, 128), Image.Resampling.NEAREST
        )
        column = shown.shape[1] - image_grid.GAP - (2 - (guidance == 9)) * (128 + image_grid.GAP)
        row = shown.shape[0] - (2 - (steps == 2)) * (128 + image_grid.GAP)
        assert np.array_equal(shown[row : row + 128, column : column + 128], np.asarray(image))


def test_nothing_is_generated_where_one_combination_is_impossible(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(load_family(str(tiny_base), device="cpu", precision="fp32"))
    monkeypatch.setattr(Generator, "generate", lambda *_: pytest.fail("it generated an image"))
    for over in ({"solver": ["ddim", "dmd"]}, {"width": [64, 65]}):
        with pytest.raises(UserError):
            sweep_knobs(generator, over, prompt="a dog", out=tmp_path / "grid.png", base="tiny")
