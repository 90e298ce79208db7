"""Laws of sums and ranks: a merged change is the sum, a smaller one the closest of its rank."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters.weight_changes.random_layers import KINDS, Kind, random_adapter
from mascot.adapters.weight_changes.decomposition import RankRule, from_random_start, reduce_ranks
from mascot.adapters.weight_changes.low_rank import (
    DenseChange,
    FactoredChange,
    as_factors,
    change_of,
    changed_weight,
    read_layers,
    to_tensors,
)
from mascot.adapters.weight_changes.merging import ScaledAdapter, summed_changes
from mascot.adapters.weight_changes.resizing import Ranks, ranks_in, reduce_layers, settings_metadata
from mascot.diffusion.noise import seeded
from mascot.errors import UserError

SHAPES = ((6, 8, 0), (8, 6, 0), (24, 18, 0), (6, 4, 3), (4, 6, 1))
ADAPTERS = st.tuples(
    st.sampled_from(KINDS), st.integers(1, 5), st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([-0.7, 0.5, 1.0, 1.3])
)


def made(
    shape: tuple[int, int, int], kind: Kind, rank: int, alpha: float, scale: float, seed: int
) -> tuple[ScaledAdapter, Tensor]:
    """Make an adapter of one layer at a scale, and the change that peft says it is."""
    tensors, metadata, change = random_adapter(kind, *shape, rank=rank, alpha=alpha, seed=seed)
    return ScaledAdapter(name=f"{kind} {seed}", tensors=tensors, metadata=metadata, scale=scale), scale * change


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_what_peft_computes(kind: Kind, shape: tuple[int, int, int]) -> None:
    adapter, change = made(shape, kind, 3, 2.0, 1.0, 7)
    for layer in adapter.layers.values():
        found = change_of(layer, adapter.tensors, tuple(change.shape[2:]))
        torch.testing.assert_close(found.dense().view(change.shape), change, atol=1e-5, rtol=1e-5)
        assert found.kernel == tuple(change.shape[2:])
        torch.testing.assert_close(changed_weight(layer, adapter.tensors, torch.zeros_like(change), 2.0), 2 * change)


@settings(max_examples=40)
@given(st.sampled_from(SHAPES), ADAPTERS, ADAPTERS)
def test_a_merged_file_holds_the_sum_of_the_changes(
    shape: tuple[int, int, int], one: tuple[Kind, int, float, float], other: tuple[Kind, int, float, float]
) -> None:
    found = [made(shape, *words, seed) for seed, words in enumerate((one, other))]
    adapters, expected = [adapter for adapter, _ in found], found[0][1] + found[1][1]
    layer = next(iter(adapters[0].layers))
    merged = dict(summed_changes(adapters, {layer: tuple(expected.shape[2:])}))
    tensors = {
        k: v for name, sum_ in merged.items() for k, v in to_tensors(name, as_factors(sum_), torch.float32).items()
    }
    read = read_layers(tensors, settings_metadata(ranks_in(tensors)))
    again = change_of(read[layer], tensors)
    torch.testing.assert_close(again.dense().view(expected.shape), expected, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("scale", [2.0**-9, 1.0, 2.0**17])
def test_half_precision_rounds_a_scaled_change_no_more_than_an_unscaled_one(scale: float) -> None:
    up, down = torch.randn(40, 4, generator=seeded(0)) / 300, torch.randn(4, 30, generator=seeded(1)) / 10
    change = FactoredChange(up_MR=up, down_RN=down).scaled(scale)
    tensors = to_tensors("unet.conv_in", change, torch.float16)
    written = tensors["unet.conv_in.lora_B.weight"].double() @ tensors["unet.conv_in.lora_A.weight"].double()
    exact = up.double() @ down.double() * scale
    assert (written - exact).norm() / exact.norm() < 2**-11


def test_a_change_that_half_precision_cannot_hold_is_refused() -> None:
    change = FactoredChange(up_MR=torch.full((3, 1), 1e9), down_RN=torch.full((1, 3), 1e9))
    with pytest.raises(UserError, match="too large for float16; give smaller scales"):
        to_tensors("unet.conv_in", change, torch.float16)


def singular_values(change: Tensor) -> Tensor:
    """The singular values, by torch's plain decomposition."""
    return torch.linalg.svdvals(change.flatten(1).double())


@settings(max_examples=30)
@given(st.sampled_from(SHAPES), ADAPTERS, st.integers(1, 8))
def test_the_energy_kept_is_a_plain_decompositions(
    shape: tuple[int, int, int], words: tuple[Kind, int, float, float], rank: int
) -> None:
    adapter, change = made(shape, *words, 3)
    kernel = tuple(change.shape[2:])
    ranks = Ranks(linear=RankRule(rank=rank), convolution=RankRule(rank=rank))
    (_, found), *_ = reduce_layers(summed_changes([adapter], {next(iter(adapter.layers)): kernel}), ranks)
    square = singular_values(change).square()
    assert found.energy.share == pytest.approx(float(square[:rank].sum() / square.sum()), abs=1e-5)
    lost = (found.change.dense().view(change.shape) - change).double().square().sum() / square.sum()
    assert float(lost) == pytest.approx(1 - found.energy.share, abs=1e-5)


@given(st.integers(1, 6), st.integers(0, 10**6), st.booleans())
def test_at_full_energy_a_change_is_kept_whole_at_its_own_rank(rank: int, seed: int, whole: bool) -> None:  # noqa: FBT001
    up, down = (torch.randn(shape, generator=seeded(seed, *shape)) for shape in ((9, rank), (rank, 30)))
    change = DenseChange(change_MN=up @ down) if whole else FactoredChange(up_MR=up, down_RN=down)
    for rule in (RankRule(energy=1.0), RankRule(rank=rank), RankRule(rank=20), RankRule(ratio=1e4)):
        (found,) = reduce_ranks([change], rule)
        torch.testing.assert_close(found.change.dense(), up @ down, atol=1e-4, rtol=1e-4)
        assert found.energy.share == pytest.approx(1, abs=1e-6)
    assert reduce_ranks([change], RankRule(rank=rank))[0].rank == rank


def decaying(rows: int, columns: int, power: float, seed: int = 0) -> Tensor:
    """A matrix whose singular values are 1, 2^-power, 3^-power, ..."""
    full = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(size, full, generator=seeded(seed, side))).Q
        for side, size in enumerate((rows, columns))
    )
    return left @ torch.diag(torch.arange(1, full + 1).float() ** -power) @ right.T


@pytest.mark.parametrize("power", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(160, 96), (96, 160)])
def test_a_random_start_finds_what_a_plain_decomposition_finds(shape: tuple[int, int], power: float) -> None:
    change = torch.stack([decaying(*shape, power, seed) for seed in range(2)])
    for rank in (1, 8, 24):
        found = reduce_ranks([DenseChange(change_MN=one) for one in change], RankRule(rank=rank))
        square = torch.arange(1, 97).double() ** (-2 * power)
        for one, reduction in zip(change, found, strict=True):
            best = float(square[:rank].sum() / square.sum())
            assert best - 2e-4 <= reduction.energy.share <= best + 1e-6
            lost = (reduction.change.dense() - one).double().square().sum() / square.sum()
            assert float(lost) == pytest.approx(1 - reduction.energy.share, abs=1e-5)


def test_a_random_start_is_used_and_is_the_same_each_time() -> None:
    change, energy = decaying(160, 96, 1.0)[None], torch.ones(1).double()
    one, other = (from_random_start(change, 8, energy) for _ in range(2))
    assert one is not None
    assert other is not None
    assert torch.equal(one.left_BMK, other.left_BMK)
    assert len(one.singular_BK[0]) < 96


def test_rules_count_singular_values() -> None:
    values = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])
    whole = float(values.double().square().sum())
    assert RankRule(rank=3).count(values, whole) == 3
    assert RankRule(rank=9).count(values, whole) == 5
    assert RankRule(energy=0.75).count(values, whole) == 1
    assert RankRule(energy=0.9).count(values, whole) == 2
    assert RankRule(energy=1.0).count(values, whole) == 4
    assert RankRule(ratio=4).count(values, whole) == 3
    assert RankRule(ratio=1).count(values, whole) == 1
    assert RankRule(rank=2, energy=1.0).count(values, whole) == 2
    assert RankRule(energy=0.5).count(torch.zeros(4), 0.0) == RankRule(ratio=9).count(torch.zeros(4), 0.0) == 1


def test_unbounded_rules_find_as_many_values_as_they_need() -> None:
    change = DenseChange(change_MN=decaying(300, 240, 0.5))
    square = torch.arange(1, 241).double() ** -1.0
    for energy in (0.5, 0.8, 0.95):
        (found,) = reduce_ranks([change], RankRule(energy=energy))
        wanted = int((square.cumsum(0) < energy * square.sum()).sum()) + 1
        assert abs(found.rank - wanted) <= 1
        assert found.energy.share >= energy - 1e-5
    (found,) = reduce_ranks([change], RankRule(ratio=5))
    assert abs(found.rank - 25) <= 1
