"""Laws of learning rates and optimizers.

A learning rate is a pure function of the step, AdamW is torch's, and a restored optimizer goes on
with the same bits.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import UserError
from mascot.protocols import ParameterGroup
from mascot.training.ema import WeightAverage, averaged
from mascot.training.lr_schedule import SCHEDULES, learning_rate_scale
from mascot.training.optimizers import OPTIMIZERS, OptimizerName, build_optimizer, restore_state, state_of

LEARNING_RATES: dict[str, tuple[float, float]] = {
    "adamw": (1e-2, 1e-3),
    "adamw8bit": (1e-2, 1e-3),
    "prodigy": (1.0, 1.0),
    "schedule-free": (1e-1, 1e-2),
}
PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule-free": "schedulefree"}
Parameters = list[torch.nn.Parameter]


@given(steps=st.integers(1, 200), warmup_steps=st.integers(0, 50))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_rise_in_equal_steps_to_the_peak_then_never_rise_again(
    schedule: str, steps: int, warmup_steps: int
) -> None:
    scales = [
        learning_rate_scale(schedule, step, warmup_steps + steps, warmup_steps) for step in range(warmup_steps + steps)
    ]
    rising, falling = scales[:warmup_steps], scales[warmup_steps:]
    assert rising == pytest.approx([(i + 1) / (warmup_steps + 1) for i in range(warmup_steps)])
    assert falling[0] == 1
    assert all(later <= earlier for earlier, later in pairwise(falling))
    assert min(scales) > 0  # no step is wasted on a learning rate of 0


@pytest.mark.parametrize(
    ("schedule", "halfway", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)]
)
def test_each_schedule_is_what_its_name_says(schedule: str, halfway: float, end: float) -> None:
    assert learning_rate_scale(schedule, 60, 110, 10) == pytest.approx(halfway)
    assert learning_rate_scale(schedule, 110, 110, 10) == pytest.approx(end)


def test_the_cosine_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert learning_rate_scale("cosine", step, 40, 0) == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_adamw_is_torchs_plain_loop_with_a_learning_rate_for_each_group() -> None:
    ours, theirs = (
        [torch.nn.Parameter(gaussian((5, 3), [seeded("weight", i)])[0]) for i in range(2)] for _ in range(2)
    )
    groups = [
        ParameterGroup(part=f"part {i}", parameters=(parameter,), learning_rate=0.1 / 10**i)
        for i, parameter in enumerate(ours)
    ]
    optimizer = build_optimizer("adamw", groups, weight_decay=0.05)
    plain = [
        torch.optim.AdamW([p], lr=0.1 / 10**i, betas=(0.9, 0.99), weight_decay=0.05, fused=False)
        for i, p in enumerate(theirs)
    ]
    for step in range(10):
        for i in range(2):
            ours[i].grad = theirs[i].grad = gaussian((5, 3), [seeded("gradient", step, i)])[0]
            plain[i].step()
        optimizer.step()
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-6


def fresh(name: OptimizerName) -> tuple[Parameters, Any]:
    """Make a large and two small parameters in two groups, and an optimizer as the loop has it.

    Only the large one has 8-bit moments.
    """
    shapes = ((80, 64), (64,), (3, 64))
    parameters = [torch.nn.Parameter(gaussian(shape, [seeded("weight", i)])[0]) for i, shape in enumerate(shapes)]
    parts = (tuple(parameters[:2]), tuple(parameters[2:]))
    groups = [
        ParameterGroup(part=f"{i}", parameters=part, learning_rate=learning_rate)
        for i, (part, learning_rate) in enumerate(zip(parts, LEARNING_RATES[name], strict=True))
    ]
    return parameters, build_optimizer(name, groups, weight_decay=0.01)


def error_of(parameters: Parameters, number: int) -> torch.Tensor:
    """Compute a small network's error at the sum of its input; each number has its own inputs."""
    x = gaussian((16, 64), [seeded("input", number)])[0]
    hidden = torch.tanh(x @ parameters[0].T @ parameters[0] / 80 + parameters[1]) @ parameters[2].T
    return (hidden - x.sum(1, keepdim=True) / 8).square().mean()


def train(parameters: Parameters, optimizer: Any, steps: Sequence[int]) -> None:
    """Take some steps with a warm-up, as the loop does."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_scale("constant", step, 14, 3)
        error_of(parameters, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def same(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    """Tell whether all tensors have the same bits."""
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(name: OptimizerName) -> None:
    parameters, optimizer = fresh(name)
    before = error_of(parameters, 99).item()
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    for step in range(60):
        error_of(parameters, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    with averaged(optimizer, parameters, None):
        assert error_of(parameters, 99).item() < 0.9 * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_saved_and_restored_is_never_stopped(name: OptimizerName, tmp_path: Path) -> None:
    """Seven steps, a file, and seven more in another optimizer are fourteen, bit for bit."""
    parameters, optimizer = fresh(name)
    train(parameters, optimizer, range(7))
    tensors, facts = state_of(optimizer)
    save_file(tensors, tmp_path / "state.safetensors")
    kept, written = [parameter.detach().clone() for parameter in parameters], json.dumps(facts, allow_nan=False)
    train(parameters, optimizer, range(7, 14))

    others, inner = fresh(name)
    again = Accelerator(cpu=True).prepare(inner)
    for other, value in zip(others, kept, strict=True):
        other.data.copy_(value)
    restore_state(again.optimizer, load_file(tmp_path / "state.safetensors"), json.loads(written))
    train(others, again, range(7, 14))
    assert same(others, parameters)
    (ours, our_facts), (theirs, their_facts) = state_of(again.optimizer), state_of(optimizer)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert our_facts == their_facts


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fresh_state_is_no_state(name: OptimizerName) -> None:
    """Before the first step there is only a mode to keep, and restoring it changes nothing."""
    parameters, optimizer = fresh(name)
    tensors, facts = state_of(optimizer)
    assert not tensors
    others, again = fresh(name)
    restore_state(again, tensors, facts)
    train(parameters, optimizer, range(3))
    train(others, again, range(3))
    assert same(others, parameters)


def test_a_copy_of_the_state_does_not_move() -> None:
    parameters, optimizer = fresh("adamw")
    train(parameters, optimizer, range(2))
    tensors, _ = state_of(optimizer)
    kept = {name: value.clone() for name, value in tensors.items()}
    train(parameters, optimizer, range(2, 4))
    assert same(list(tensors.values()), list(kept.values()))


@pytest.mark.parametrize("spoil", [{"groups": []}, {"parameters": {"3": {"step": 1}}}])
def test_the_state_of_other_parameters_is_refused(spoil: dict[str, Any]) -> None:
    parameters, optimizer = fresh("prodigy")
    train(parameters, optimizer, range(1))
    tensors, facts = state_of(optimizer)
    with pytest.raises(ValueError, match="other parameters"):
        restore_state(fresh("prodigy")[1], tensors, facts | spoil)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_estimate_of_a_state_is_its_size(name: OptimizerName) -> None:
    """They differ by 16 bytes at most, without the two tables of the 8-bit code."""
    parameters, optimizer = fresh(name)
    train(parameters, optimizer, range(1))
    tensors, _ = state_of(optimizer)
    size = sum(tensor.nbytes for key, tensor in tensors.items() if "qmap" not in key)
    assert size == pytest.approx(
        sum(OPTIMIZERS[name].state_bytes(parameter.numel()) for parameter in parameters), abs=16
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_needs_no_gradient_is_not_changed(name: OptimizerName) -> None:
    """A part that is frozen early is not changed by its momentum."""
    parameters, optimizer = fresh(name)
    train(parameters, optimizer, range(3))
    parameters[2].requires_grad = False
    kept = [parameter.detach().clone() for parameter in parameters]
    train(parameters, optimizer, range(3, 6))
    assert torch.equal(parameters[2], kept[2])
    assert not torch.equal(parameters[0], kept[0])


def generate_with(optimizer: Any, parameters: Parameters, average: WeightAverage | None) -> bool:
    """Tell whether generation uses other weights than training; the generation fails."""
    before, changed = [parameter.detach().clone() for parameter in parameters], False
    with suppress(RuntimeError), averaged(optimizer, parameters, average):
        changed = not same(before, parameters)
        raise RuntimeError
    return changed


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_generating_between_steps_changes_nothing(name: OptimizerName, average: bool) -> None:  # noqa: FBT001 - a table's column
    """Trained weights keep their bits when averaged ones replace them, even if generation fails."""
    (parameters, optimizer), (undisturbed, other) = fresh(name), fresh(name)
    ema = WeightAverage(parameters, 0.9) if average else None
    for step in range(5):
        train(parameters, optimizer, [step])
        train(undisturbed, other, [step])
        if ema is not None:
            ema.update()
        changed = generate_with(optimizer, parameters, ema)
        assert changed == (
            average or (name == "schedule-free" and step > 0)
        )  # after one step there is nothing to average
        assert same(parameters, undisturbed)


def test_schedule_free_generates_with_the_average_of_its_steps() -> None:
    """At a constant learning rate it is the plain mean of all z, where no gradient was taken."""
    parameters, optimizer = fresh("schedule-free")
    steps: list[torch.Tensor] = []
    for number in range(6):
        error_of(parameters, number).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(optimizer.state[parameters[0]]["z"].clone())
    with averaged(optimizer, parameters, None):
        torch.testing.assert_close(parameters[0].detach(), torch.stack(steps).mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.15, 0.4, 0.99])
def test_the_average_is_diffusers(decay: float) -> None:
    """The first update of diffusers only copies, so that it starts one step earlier here."""
    parameter = torch.nn.Parameter(torch.zeros(4))
    ours, theirs = WeightAverage([parameter], decay), EMAModel([parameter], decay=decay)
    theirs.step([parameter])
    for step in range(12):
        parameter.data = gaussian((4,), [seeded(step)])[0]
        ours.update()
        theirs.step([parameter])
        torch.testing.assert_close(ours.values[0], theirs.shadow_params[0], atol=1e-6, rtol=1e-6)


def test_the_average_goes_on_where_it_was() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    ours, other = WeightAverage([parameter], 0.9), WeightAverage([parameter], 0.9)
    for step in range(8):
        parameter.data = gaussian((4,), [seeded(step)])[0]
        ours.update()
        if step == 3:
            other.restore({name: tensor.clone() for name, tensor in ours.state().items()})
        elif step > 3:
            other.update()
    assert ours.updates == other.updates == 8
    assert same(ours.values, other.values)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match=r"training\.ema_decay"):
        WeightAverage([], decay)


@pytest.mark.parametrize("learning_rates", [(1e-4, 1e-5), (1e-4, 1e-4), (1.0, 0.5)])
def test_prodigy_refuses_learning_rates_that_are_no_multiplier(learning_rates: tuple[float, float]) -> None:
    groups = [
        ParameterGroup(part="a", parameters=(torch.nn.Parameter(torch.ones(2)),), learning_rate=learning_rate)
        for learning_rate in learning_rates
    ]
    with pytest.raises(UserError, match=r"method\.learning_rate=1"):
        build_optimizer("prodigy", groups, weight_decay=0.0)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for name in OPTIMIZERS:
        fresh(name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_a_missing_package_is_named_with_its_extra(
    name: OptimizerName, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*pip install 'mascot\[optimizers\]'"):
        fresh(name)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        build_optimizer("adamW", [], weight_decay=0.0)
