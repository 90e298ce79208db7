"""Laws of rates and optimizers: a rate is a pure function of the step, and AdamW is torch's."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mascot.latents import gaussian, seeded
from mascot.optimizers import SCHEDULES, adamw, rate_scale
from mascot.protocols import Group


@given(steps=st.integers(1, 200), warmup=st.integers(0, 50))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_rise_in_equal_steps_to_the_peak_then_never_rise_again(schedule: str, steps: int, warmup: int) -> None:
    scales = [rate_scale(schedule, step, warmup + steps, warmup) for step in range(warmup + steps)]
    rising, falling = scales[:warmup], scales[warmup:]
    assert rising == pytest.approx([(i + 1) / (warmup + 1) for i in range(warmup)])
    assert falling[0] == 1
    assert all(later <= earlier for earlier, later in pairwise(falling))
    assert min(scales) > 0  # no step is wasted on a rate of 0


@pytest.mark.parametrize(("schedule", "halfway", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)])
def test_each_schedule_is_what_its_name_says(schedule: str, halfway: float, end: float) -> None:
    assert rate_scale(schedule, 60, 110, 10) == pytest.approx(halfway)
    assert rate_scale(schedule, 110, 110, 10) == pytest.approx(end)


def test_the_cosine_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert rate_scale("cosine", step, 40, 0) == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_adamw_is_torchs_plain_loop_with_a_rate_for_each_group() -> None:
    ours, theirs = ([torch.nn.Parameter(gaussian((5, 3), [seeded("weight", i)])[0]) for i in range(2)] for _ in range(2))
    groups = [Group(part=f"part {i}", parameters=(parameter,), rate=0.1 / 10**i) for i, parameter in enumerate(ours)]
    optimizer = adamw(groups, weight_decay=0.05)
    plain = [torch.optim.AdamW([p], lr=0.1 / 10**i, betas=(0.9, 0.99), weight_decay=0.05, fused=False) for i, p in enumerate(theirs)]
    for step in range(10):
        for i in range(2):
            ours[i].grad = theirs[i].grad = gaussian((5, 3), [seeded("gradient", step, i)])[0]
            plain[i].step()
        optimizer.step()
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])
    for mine, yours in zip(ours, theirs, strict=True):
        assert (mine - yours).abs().max() <= 1e-6
