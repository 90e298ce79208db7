"""Fused layers: joined from parts and split into them, to the byte where that is possible."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adapters.formats.low_rank_layers import KINDS, applied, change, layer_of, random_layer
from mascot.adapters.formats.fused_layers import (
    InseparableLayerError,
    join_layers,
    split_layer,
    swap_halves,
)
from mascot.adapters.formats.layer_kinds import LayerChange
from mascot.adapters.formats.layer_settings import read_own, write_own
from mascot.adapters.formats.registry import read_format, write_format
from mascot.errors import UserError

QKV, LINEAR1 = (1, 1, 1), (1, 1, 1, 4)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def parts_of(
    kind: str, shares: tuple[int, ...], ranks: tuple[int, ...], alphas: tuple[float, ...]
) -> list[LayerChange]:
    generator = seed(len(shares))
    shapes = [(16 * share, 8) for share in shares]
    return [random_layer(kind, *each, generator) for each in zip(shapes, ranks, alphas, strict=True)]


def assert_same(one: LayerChange | None, other: LayerChange | None) -> None:
    assert one is not None
    assert other is not None
    assert (one.rank, one.alpha) == (other.rank, other.alpha)
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("kind", ["lora", "dora", "loha"])
@pytest.mark.parametrize("shares", [QKV, LINEAR1])
@pytest.mark.parametrize("ranks", [(4, 4, 4, 4), (2, 3, 5, 1), (8, 1, 4, 8)])
def test_parts_of_one_scale_come_back_to_the_byte(kind: str, shares: tuple[int, ...], ranks: tuple[int, ...]) -> None:
    ranks = ranks[: len(shares)]
    parts = parts_of(kind, shares, ranks, tuple(0.5 * rank for rank in ranks))
    joined = join_layers(parts, shares)
    assert (joined.rank, joined.alpha) == (sum(ranks), 0.5 * sum(ranks))
    for before, after in zip(parts, split_layer(joined, shares), strict=True):
        assert_same(after, before)
    weight = torch.randn(16 * sum(shares), 8, generator=seed(9))
    one_by_one = [
        applied(block, part) for block, part in zip(weight.split([16 * s for s in shares]), parts, strict=True)
    ]
    assert torch.allclose(applied(weight, joined), torch.cat(one_by_one), rtol=1e-12)


@pytest.mark.parametrize("kind", ["lora", "loha"])
@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_parts_that_an_adapter_leaves_alone_stay_out(kind: str, missing: tuple[int, ...]) -> None:
    parts = parts_of(kind, QKV, (3, 3, 3), (3, 3, 3))
    given = [None if index in missing else part for index, part in enumerate(parts)]
    joined = join_layers(given, QKV)
    assert not change(joined).chunk(3)[missing[0]].any()
    for before, after in zip(given, split_layer(joined, QKV), strict=True):
        assert after is None if before is None else assert_same(after, before) is None


@pytest.mark.parametrize("kind", ["lora", "dora", "loha"])
def test_parts_that_share_their_down_projection_keep_its_rank(kind: str) -> None:
    fused = random_layer(kind, (48, 8), 6, 3.0, seed(1))
    parts = split_layer(fused, QKV)
    assert [part.rank for part in parts if part] == [6, 6, 6]
    assert_same(join_layers(parts, QKV), fused)


def test_an_up_projection_of_zeros_keeps_its_ranks() -> None:
    parts = [
        replace(part, tensors={**part.tensors, ".lora_B.weight": torch.zeros(16, 4)})
        for part in parts_of("lora", QKV, (4, 4, 4), (4, 4, 4))
    ]
    for before, after in zip(parts, split_layer(join_layers(parts, QKV), QKV), strict=True):
        assert_same(after, before)


def test_scales_that_differ_are_folded_into_one_factor() -> None:
    exact = parts_of("lora", QKV, (4, 4, 4), (4, 8, 1))
    joined = join_layers(exact, QKV)
    assert torch.equal(change(joined), torch.cat([change(part) for part in exact]))
    rounded = parts_of("lora", QKV, (4, 4, 4), (4, 3, 1))
    assert torch.allclose(change(join_layers(rounded, QKV)), torch.cat([change(part) for part in rounded]), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 7.3, 1.0, 0.7, 100.0, 16])
def test_alphas_of_few_digits_come_back_through_a_file(alpha: float) -> None:
    layers = {
        ("transformer", f"transformer_blocks.0.attn.to_{name}"): part
        for name, part in zip("qkv", parts_of("lora", QKV, (5, 5, 5), (alpha,) * 3), strict=True)
    }
    layers["transformer", "transformer_blocks.0.attn.to_out.0"] = layers[
        "transformer", "transformer_blocks.0.attn.to_q"
    ]
    back = read_format(write_format("kohya", *write_own(layers), "flux")[0], {})
    read, _ = read_own(back.tensors, back.metadata)
    for key, layer in layers.items():
        assert_same(read[key], layer)


def test_a_dora_with_a_part_missing_cannot_be_joined() -> None:
    parts = parts_of("dora", QKV, (4, 4, 4), (4, 4, 4))
    with pytest.raises(InseparableLayerError, match="no magnitudes"):
        join_layers([parts[0], None, parts[2]], QKV)


def test_kinds_are_not_mixed() -> None:
    lora, loha = parts_of("lora", QKV, (4, 4, 4), (4, 4, 4)), parts_of("loha", QKV, (4, 4, 4), (4, 4, 4))
    with pytest.raises(InseparableLayerError, match="different kinds"):
        join_layers([lora[0], loha[1], lora[2]], QKV)


def test_a_lokr_is_split_between_the_blocks_of_its_first_factor() -> None:
    fused = layer_of({".lokr_w1": torch.randn(6, 4), ".lokr_w2": torch.randn(8, 2)}, 4, 2.0)
    parts = split_layer(fused, QKV)
    assert torch.equal(torch.cat([change(part) for part in parts if part]), change(fused))
    assert_same(join_layers(parts, QKV), fused)


@pytest.mark.parametrize("blocks", [4, 8])
def test_a_lokr_cut_inside_a_block_is_read_as_the_lora_it_equals(blocks: int) -> None:
    generator = seed(3)
    fused = layer_of(
        {
            ".lokr_w1": torch.randn(blocks, 6, generator=generator),
            ".lokr_w2_a": torch.randn(6, 2, generator=generator),
            ".lokr_w2_b": torch.randn(2, 3, generator=generator),
        },
        2,
        1.0,
    )
    parts = split_layer(fused, QKV)
    assert torch.allclose(torch.cat([change(part) for part in parts if part]), change(fused), atol=1e-6)


def test_a_lokr_of_full_rank_cut_inside_a_block_is_refused() -> None:
    with pytest.raises(InseparableLayerError, match="second factor is full"):
        split_layer(layer_of({".lokr_w1": torch.randn(4, 4), ".lokr_w2": torch.randn(6, 2)}, 4, 2.0), QKV)


def test_lokrs_with_second_factors_of_their_own_cannot_be_joined() -> None:
    with pytest.raises(InseparableLayerError, match="different second factors"):
        join_layers(parts_of("lokr", QKV, (4, 4, 4), (4, 4, 4)), QKV)


@pytest.mark.parametrize("kind", KINDS)
def test_halves_are_exchanged(kind: str) -> None:
    layer = random_layer(kind, (16, 8), 2, 1.0, seed(5))
    weight = torch.randn(16, 8, generator=seed(6))
    swapped = torch.cat(list(reversed(applied(weight, layer).chunk(2))))
    assert torch.allclose(applied(torch.cat(list(reversed(weight.chunk(2)))), swap_halves(layer)), swapped)
    assert_same(swap_halves(swap_halves(layer)), layer)


def test_halves_inside_a_block_are_refused() -> None:
    with pytest.raises(InseparableLayerError, match="inside a block"):
        swap_halves(layer_of({".lokr_w1": torch.randn(3, 3), ".lokr_w2": torch.randn(4, 4)}, 4, 4.0))


def test_halves_that_comfyui_would_leave_unexchanged_are_refused_by_name() -> None:
    odd = layer_of({".lokr_w1": torch.randn(3, 3), ".lokr_w2": torch.randn(8, 4)}, 1, 1.0)
    others = {
        ("transformer", f"transformer_blocks.{number}.attn.add_q_proj"): random_layer(
            "lokr", (12, 12), 1, 1.0, seed(number)
        )
        for number in (0, 23)
    }
    tensors, metadata = write_own({**others, ("transformer", "norm_out.linear"): odd})
    assert "lycoris_norm_out_linear.lokr_w1" in write_format("comfyui", tensors, metadata, "sd3")[0]
    tensors, metadata = write_own({**others, ("transformer", "transformer_blocks.23.norm1_context.linear"): odd})
    with pytest.raises(UserError, match=r"no name for 1 .*transformer_blocks\.23\.norm1_context"):
        write_format("comfyui", tensors, metadata, "sd3")
