"""Laws of the memory estimate: it is what a real pass takes, computes nothing, and is enforced."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mascot.errors import UserError
from mascot.models import devices
from mascot.models.devices import available_memory, cgroup_limits
from mascot.models.families.registry import load_family
from mascot.models.quantization import size_of, storages_of
from mascot.protocols import Conditioning, Framing, ParameterGroup, Stage
from mascot.training.memory_estimate import (
    MemoryEstimate,
    activation_bytes,
    check_memory,
    estimate_memory,
)
from mascot.training.optimizers import OPTIMIZERS, OptimizerName
from tiny.families import MAKERS, tiny_base
from tiny.memory import peak_of
from tiny.stable_diffusion import tiny_stable_diffusion

recomputing = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
"""Checkpointing without the random generator's state, five kilobytes for each segment.

They are negligible in a base model of real size.
"""
FRAMING = Framing(original=(64, 64), target=(64, 64))
PROMPT = "a photo of a dog"


def saved(module: nn.Module, call: Callable[[], Tensor]) -> int:
    """Measure the bytes that autograd saves in a real forward pass, weights excluded."""
    weights, held = list(storages_of(module)), dict[int, Any]()
    known = {id(storage) for storage in weights}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in known:
            held[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = call()
    size = sum(storage.nbytes() for storage in held.values())
    del output
    return size


@pytest.mark.parametrize("links", [1, 2, 5])
def test_a_chain_holds_a_result_for_each_link_and_one_gradient(links: int) -> None:
    """Two numbers are added: the sum and its own gradient."""
    parameter = nn.Parameter(torch.zeros(1000))

    def call() -> Tensor:
        result: Tensor = parameter
        for _ in range(links):
            result = result.exp()
        return result

    assert activation_bytes(nn.ParameterList([parameter]), call) == 4000 * (links + 1) + 8 == peak_of(call, [parameter])


def test_what_is_recomputed_is_counted_while_it_lives() -> None:
    """Nine links in three checkpointed segments: 3 kept, 3 recomputed, 1 gradient, not 9 + 1."""
    parameter = nn.Parameter(torch.zeros(1000))

    def segment(x: Tensor) -> Tensor:
        return x.exp().exp().exp()

    def call() -> Tensor:
        result: Any = parameter
        for _ in range(3):
            result = recomputing(segment, result)
        return result

    counted = activation_bytes(nn.ParameterList([parameter]), call)
    assert 4000 * 6 < counted <= 4000 * 8
    assert counted == pytest.approx(peak_of(call, [parameter]), rel=0.01)


def test_weights_and_finished_gradients_are_counted_elsewhere() -> None:
    """One linear layer's weight and its finished gradient, 4 MB each, are not counted."""
    layer = nn.Linear(1024, 1024)
    counted = activation_bytes(layer, lambda: layer(torch.ones(1, 1024)))
    assert counted < 4 * 1024 * 1024 + 20_000  # the gradient while it is computed
    assert activation_bytes(layer, lambda: layer(torch.ones(1, 1024)), [layer.bias]) < 20_000


def test_finished_gradients_do_not_add_up() -> None:
    """Of four layers of 4 MB each, at most one gradient is unfinished at any moment."""
    layers = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(4)))
    assert activation_bytes(layers, lambda: layers(torch.ones(1, 1024))) < 2 * 4 * 1024 * 1024


def test_nothing_is_computed_and_nothing_is_left() -> None:
    """The size is too large for any machine; weights keep their bits, without gradient or hook."""
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        counted = activation_bytes(layer, lambda: layer(torch.ones(2**36, 4)))
        after = layer(torch.ones(2, 4))  # the cast weight is real
    assert counted > 2**36 * 4 * 4
    assert torch.isfinite(after).all()
    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is None
    assert not layer.weight._backward_hooks


def test_where_nothing_is_trained_there_is_no_pass_to_count() -> None:
    layer = nn.Linear(4, 4).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="no parameter is trained"):
        activation_bytes(layer, lambda: layer(torch.ones(1, 4)))


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Load a stage of each family that trains biases and norms.

    Their gradients are small beside the activations.
    """
    folder = tmp_path_factory.mktemp(request.param) / "base"
    base = tiny_stable_diffusion(folder) if request.param == "sd" else tiny_base(request.param, folder)
    stage = load_family(str(base), device="cpu", precision="fp32").stages[0]
    for parameter in stage.parts[stage.denoiser].parameters():
        parameter.requires_grad = parameter.ndim == 1
    return stage


def predict(stage: Stage, count: int, conditioning: Conditioning | None = None) -> Tensor:
    """Predict for `count` examples."""
    given = stage.condition([PROMPT], [FRAMING]) if conditioning is None else conditioning
    noisy = torch.zeros(count, *stage.latent_shape(64, 64))
    return stage.predict(
        noisy, torch.full((count,), 500.0), {name: torch.cat([rows] * count) for name, rows in given.items()}
    )


@pytest.mark.parametrize("stage", ["sd", *MAKERS], indirect=True)
def test_the_estimate_is_what_a_real_pass_takes(stage: Stage) -> None:
    """For every family it is at least what autograd saves, and within 10 % of the real peak."""
    module: Any = stage.parts[stage.denoiser]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.no_grad():
        conditioning = stage.condition([PROMPT], [FRAMING])
    before = predict(stage, 2, conditioning)
    counted = activation_bytes(module, lambda: predict(stage, 2, conditioning))
    assert counted >= saved(module, lambda: predict(stage, 2, conditioning))
    assert counted == pytest.approx(peak_of(lambda: predict(stage, 2, conditioning), trained), rel=0.1)
    assert torch.equal(predict(stage, 2, conditioning), before)


@pytest.mark.parametrize("stage", ["sd", "flux"], indirect=True)
def test_checkpointing_takes_less(stage: Stage) -> None:
    """It is estimated as well as a plain pass."""
    module: Any = stage.parts[stage.denoiser]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.no_grad():
        conditioning = stage.condition([PROMPT], [FRAMING])
    plain = activation_bytes(module, lambda: predict(stage, 1, conditioning))
    module.enable_gradient_checkpointing(recomputing)
    module.train()
    try:
        less = activation_bytes(module, lambda: predict(stage, 1, conditioning))
        real = peak_of(lambda: predict(stage, 1, conditioning), trained)
    finally:
        module.disable_gradient_checkpointing()
        module.eval()
    assert less < 0.9 * plain
    assert less == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("stage", ["sd"], indirect=True)
def test_trained_text_encoders_are_counted(stage: Stage) -> None:
    """Their activations are added."""
    encoders = [module for name, module in stage.parts.items() if name != stage.denoiser]
    modules = nn.ModuleList(stage.parts.values())
    frozen = activation_bytes(modules, lambda: predict(stage, 1))
    for encoder in encoders:
        encoder.requires_grad_(requires_grad=True)
    try:
        assert activation_bytes(modules, lambda: predict(stage, 1)) > frozen
    finally:
        for encoder in encoders:
            encoder.requires_grad_(requires_grad=False)


def test_what_is_trained_beside_the_module_is_counted() -> None:
    """Rows are the trained input of a frozen network, so that its activations are kept."""
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()).requires_grad_(
        requires_grad=False
    )
    rows = nn.Parameter(torch.ones(1000, 64))
    assert activation_bytes(network, lambda: network(rows), [rows]) >= 2 * rows.nbytes


@pytest.mark.slow
def test_a_real_base_is_estimated_without_its_weights() -> None:
    """It trains Stable Diffusion 1.5's whole UNet (859,520,964 numbers) at 512 px, on no device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
        )

        def call() -> Tensor:
            return unet(
                torch.zeros(1, 4, 64, 64),
                torch.zeros(1),
                encoder_hidden_states=torch.zeros(1, 77, 768),
                return_dict=False,
            )[0]

        unet.enable_gradient_checkpointing()
        activations = activation_bytes(unet.train(), call)
    groups = [ParameterGroup(part="unet", parameters=tuple(unet.parameters()), learning_rate=1e-6)]
    needed = estimate_memory({"unet": unet}, groups, activations, "adamw", average=True)
    assert needed.total == 859_520_964 * 4 * 5 + activations
    assert 2**30 < activations < 2**31


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("average", [False, True])
def test_an_estimate_adds_up(optimizer: OptimizerName, average: bool) -> None:  # noqa: FBT001 - a table's column
    """One layer is frozen, one is trained, and rows too; a layer in two parts counts once."""
    frozen, trained, rows = (
        nn.Linear(128, 64).requires_grad_(requires_grad=False),
        nn.Linear(64, 128),
        nn.Parameter(torch.ones(3, 64)),
    )
    groups = [
        ParameterGroup(part="a", parameters=tuple(trained.parameters()), learning_rate=1.0),
        ParameterGroup(part="b", parameters=(rows,), learning_rate=1.0),
    ]
    needed = estimate_memory(
        {"a": nn.Sequential(frozen, trained), "b": trained}, groups, 1000, optimizer, average=average
    )
    count = 64 * 128 + 128 + 3 * 64
    state_bytes = OPTIMIZERS[optimizer].state_bytes
    assert needed.weights == 4 * (128 * 64 + 64 + count)
    assert needed.gradients == 4 * count
    assert needed.optimizer == state_bytes(64 * 128) + state_bytes(128) + state_bytes(3 * 64)
    assert needed.average == 4 * count * average
    assert needed.total == needed.weights + needed.gradients + needed.optimizer + needed.average + 1000


def test_buffers_and_shared_weights_are_weights_once() -> None:
    module = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    module[1].weight = module[0].weight
    module.register_buffer("table", torch.zeros(100), persistent=False)
    assert size_of([module, module[0]]) == 4 * (64 + 100)


NEEDED = MemoryEstimate(weights=2**31, gradients=2**20, optimizer=2**21, average=0, activations=2**30)


def test_what_fits_passes() -> None:
    check_memory(NEEDED, NEEDED.total)


def test_what_cannot_fit_is_refused_with_what_it_needs_and_the_remedy() -> None:
    with pytest.raises(UserError) as refusal:
        check_memory(NEEDED, NEEDED.total - 1)
    text = str(refusal.value)
    assert "about 3.0 GiB" in text
    assert "activations 1.0 GiB" in text
    assert "gradients 1.0 MiB" in text
    assert "average" not in text, "what is 0 is not listed"
    settings = [
        "training.gradient_checkpointing=true",
        "training.batch_size=1",
        "training.optimizer=adamw8bit",
        "base_weights=nf4",
    ]
    positions = [text.index(setting) for setting in settings]
    assert positions == sorted(positions)
    assert re.search(r"\.$", text)
    check_memory(replace(NEEDED, weights=0), NEEDED.total - 1)


def test_the_available_memory_lies_between_use_and_total() -> None:
    available = available_memory("cpu")
    assert psutil.Process().memory_info().rss / 2 < available <= psutil.virtual_memory().total


def test_a_control_groups_limit_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cgroup_limits", lambda: iter([2**40, 12_345]))
    assert available_memory("cpu") == 12_345


def write(path: Path, text: str) -> None:
    """Write a file and make its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_control_groups_are_found_from_the_inside_out(tmp_path: Path) -> None:
    """In version 2, the group has a limit, its parent none, and the root one."""
    root, line = tmp_path / "cgroup", tmp_path / "self"
    write(line, "0::/user/job\n")
    write(root / "user" / "job" / "memory.max", "300\n")
    write(root / "user" / "memory.max", "max\n")
    write(root / "memory.max", "500\n")
    assert list(cgroup_limits(root, line)) == [300, 500]


def test_limits_of_version_1_and_of_a_container(tmp_path: Path) -> None:
    """Only the memory controller counts; a group that the container cannot see is skipped."""
    root, line = tmp_path / "cgroup", tmp_path / "self"
    write(line, "3:cpuset:/docker/1\n4:memory:/docker/1\n0::/\n")
    write(root / "cpuset" / "memory.limit_in_bytes", "1\n")
    write(root / "memory" / "memory.limit_in_bytes", "700\n")
    assert list(cgroup_limits(root, line)) == [700]


def test_where_there_are_no_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert not list(cgroup_limits(tmp_path, tmp_path / "none"))
