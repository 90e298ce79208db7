"""Laws of seeded noise: a sample's noise is its own, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mascot.diffusion.noise import add_offset_noise, gaussian, join_latents, sample_latents, seeded
from mascot.protocols import Latents

SHAPE = (4, 8, 8)


@given(before=st.lists(st.integers(0, 99), max_size=6), after=st.lists(st.integers(0, 99), max_size=6))
def test_seed_7_alone_is_seed_7_in_a_batch(before: list[int], after: list[int]) -> None:
    batch = gaussian(SHAPE, [seeded("picture", seed) for seed in [*before, 7, *after]])
    assert torch.equal(batch[len(before)], gaussian(SHAPE, [seeded("picture", 7)])[0])


def test_equal_keys_are_equal_noise_and_other_keys_are_other_noise() -> None:
    keys: list[tuple[int | str, ...]] = [
        (7,),
        ("7",),
        (7, 7),
        (77,),
        ("a", 1),
        ("a1",),
        ("a", 1, 0),
        (0, "a"),
        (1, 2, 3),
        (12, 3),
        (-1,),
        (2**40,),
    ]
    noises = {tuple(gaussian((3,), [seeded(*key)])[0].tolist()) for key in keys}
    assert len(noises) == len(keys)
    assert torch.equal(gaussian(SHAPE, [seeded("a", 1)]), gaussian(SHAPE, [seeded("a", 1)]))


def test_a_key_names_the_same_seed_for_ever() -> None:
    assert seeded("picture", 7).initial_seed() == 4509657678667630251


def test_the_callers_global_randomness_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    noise = gaussian(SHAPE, [seeded(3)])
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(gaussian(SHAPE, [seeded(3)]), noise)


def test_noise_is_standard() -> None:
    noise = gaussian((100_000,), [seeded(0)])
    assert noise.dtype == torch.float32
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02


def test_a_sample_is_its_mean_and_its_deviation_times_its_own_noise() -> None:
    mean, deviation = (gaussian(SHAPE, [seeded(name, i) for i in range(3)]) for name in ("mean", "deviation"))
    drawn = sample_latents(Latents(mean_BCHW=mean, deviation_BCHW=deviation), [seeded(i) for i in range(3)])
    noise = gaussian(SHAPE, [seeded(i) for i in range(3)])
    assert torch.equal(drawn, mean + deviation * noise)
    assert torch.equal(
        sample_latents(Latents(mean_BCHW=mean, deviation_BCHW=0 * deviation), [seeded(i) for i in range(3)]), mean
    )


def test_drawing_again_from_a_generator_gives_other_latents() -> None:
    latents = Latents(mean_BCHW=torch.zeros(1, *SHAPE), deviation_BCHW=torch.ones(1, *SHAPE))
    generator = seeded(0)
    assert not torch.equal(sample_latents(latents, [generator]), sample_latents(latents, [generator]))


def test_joined_latents_keep_their_order() -> None:
    parts = [
        Latents(mean_BCHW=torch.full((1, *SHAPE), i), deviation_BCHW=torch.full((1, *SHAPE), i / 10))
        for i in (2.0, 1.0, 3.0)
    ]
    joined = join_latents(parts)
    assert joined.mean_BCHW[:, 0, 0, 0].tolist() == [2, 1, 3]
    assert joined.deviation_BCHW[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.1, 0.3])


def test_offset_noise_shifts_whole_channels_by_each_examples_own_number() -> None:
    noise = gaussian(SHAPE, [seeded(i) for i in range(3)])
    shift = add_offset_noise(noise, 0.1, [seeded("offset", i) for i in range(3)]) - noise
    numbers = torch.stack([torch.randn(4, generator=seeded("offset", i)) for i in range(3)])
    torch.testing.assert_close(shift, (0.1 * numbers)[:, :, None, None].expand_as(noise), atol=1e-6, rtol=0)
    alone = add_offset_noise(noise[1:2], 0.1, [seeded("offset", 1)])
    assert torch.equal(alone[0], add_offset_noise(noise, 0.1, [seeded("offset", i) for i in range(3)])[1])


def test_no_offset_draws_nothing_and_is_the_same_tensor() -> None:
    noise, generator = gaussian(SHAPE, [seeded(0)]), seeded("offset")
    before = generator.get_state()
    assert add_offset_noise(noise, 0.0, [generator]) is noise
    assert torch.equal(generator.get_state(), before)
