"""Laws of the estimate of memory: it is what a real pass takes, it is had for nothing, and what cannot fit is refused."""

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
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from mascot.errors import UserError
from mascot.models.families.registry import load_family
from mascot.models.weights import size_of, storages_of
from mascot.protocols import Conditioning, Framing, ParameterGroup, Stage
from mascot.training import memory_estimate
from mascot.training.memory_estimate import MemoryEstimate, activations_of, available, cgroup_limits, check, estimate
from mascot.training.optimizers import OPTIMIZERS, OptimizerName
from tiny.families import MAKERS, tiny_base
from tiny.stable_diffusion import tiny_stable_diffusion

anew = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
"""Without the five kilobytes of the random generator's state for each piece, which are nothing in a base of real size."""
FRAMING = Framing(original=(64, 64), target=(64, 64))
PROMPT = "a photo of a dog"


def taken(call: Callable[[], Tensor], learning: list[nn.Parameter]) -> int:
    """The bytes of a real pass at its fullest moment, by the profiler's record of the allocator, scratch memory and gradients included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        torch.autograd.grad(call().float().sum(), learning, allow_unused=True)
    results: Any = record.profiler
    events = sorted(
        (e for e in results.kineto_results.events() if e.name() == "[memory]"), key=lambda event: event.start_ns()
    )
    live = peak = 0
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def saved(module: nn.Module, call: Callable[[], Tensor]) -> int:
    """The bytes that autograd saves in a real forward pass, weights excluded."""
    weights, held = list(storages_of(module)), dict[int, Any]()
    known = {id(storage) for storage in weights}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in known:
            held[id(storage)] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = call()
    size = sum(storage.nbytes() for storage in held.values())
    del answer
    return size


@pytest.mark.parametrize("links", [1, 2, 5])
def test_a_chain_holds_a_result_for_each_link_and_one_gradient(links: int) -> None:
    """And two numbers: the sum and its own gradient."""
    parameter = nn.Parameter(torch.zeros(1000))

    def call() -> Tensor:
        result: Tensor = parameter
        for _ in range(links):
            result = result.exp()
        return result

    assert activations_of(nn.ParameterList([parameter]), call) == 4000 * (links + 1) + 8 == taken(call, [parameter])


def test_what_is_computed_anew_is_counted_while_it_is_there() -> None:
    """Nine links, in three checkpointed pieces of three: 3 kept, 3 anew, 1 gradient; less than 9 and 1."""
    parameter = nn.Parameter(torch.zeros(1000))

    def piece(x: Tensor) -> Tensor:
        return x.exp().exp().exp()

    def call() -> Tensor:
        result: Any = parameter
        for _ in range(3):
            result = anew(piece, result)
        return result

    counted = activations_of(nn.ParameterList([parameter]), call)
    assert 4000 * 6 < counted <= 4000 * 8
    assert counted == pytest.approx(taken(call, [parameter]), rel=0.01)


def test_weights_and_finished_gradients_are_counted_elsewhere() -> None:
    """One linear layer and one example: input, answer, and what flows back; not the 4 MB of the weight or of its gradient."""
    layer = nn.Linear(1024, 1024)
    counted = activations_of(layer, lambda: layer(torch.ones(1, 1024)))
    assert counted < 4 * 1024 * 1024 + 20_000  # the gradient while it is made
    assert activations_of(layer, lambda: layer(torch.ones(1, 1024)), [layer.bias]) < 20_000


def test_finished_gradients_do_not_add_up() -> None:
    """Four layers of 4 MB each, and at no moment more than one gradient that is still being made."""
    layers = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(4)))
    assert activations_of(layers, lambda: layers(torch.ones(1, 1024))) < 2 * 4 * 1024 * 1024


def test_nothing_is_computed_and_nothing_is_left() -> None:
    """A number too large for any machine is asked for; weights keep their bits, get no gradient and no hook."""
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        counted = activations_of(layer, lambda: layer(torch.ones(2**36, 4)))
        after = layer(torch.ones(2, 4))  # the cast weight is a real one
    assert counted > 2**36 * 4 * 4
    assert torch.isfinite(after).all()
    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is None
    assert not layer.weight._backward_hooks


def test_where_nothing_learns_there_is_no_pass_to_count() -> None:
    layer = nn.Linear(4, 4).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="nothing learns"):
        activations_of(layer, lambda: layer(torch.ones(1, 4)))


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A stage of each family, whose biases and norms learn: their gradients are small beside the activations."""
    folder = tmp_path_factory.mktemp(request.param) / "base"
    base = tiny_stable_diffusion(folder) if request.param == "sd" else tiny_base(request.param, folder)
    stage = load_family(str(base), device="cpu", precision="fp32").stages[0]
    for parameter in stage.parts[stage.denoiser].parameters():
        parameter.requires_grad = parameter.ndim == 1
    return stage


def ask(stage: Stage, count: int, conditioning: Conditioning | None = None) -> Tensor:
    """The denoiser's answer to so many examples."""
    told = stage.condition([PROMPT], [FRAMING]) if conditioning is None else conditioning
    noisy = torch.zeros(count, *stage.latent_shape(64, 64))
    return stage.predict(
        noisy, torch.full((count,), 500.0), {name: torch.cat([rows] * count) for name, rows in told.items()}
    )


@pytest.mark.parametrize("stage", ["sd", *MAKERS], indirect=True)
def test_the_estimate_is_what_a_real_pass_takes(stage: Stage) -> None:
    """On every family: never less than autograd saves, within a tenth of what the allocator gave out, and nothing is changed."""
    module: Any = stage.parts[stage.denoiser]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.no_grad():
        told = stage.condition([PROMPT], [FRAMING])
    before = ask(stage, 2, told)
    counted = activations_of(module, lambda: ask(stage, 2, told))
    assert counted >= saved(module, lambda: ask(stage, 2, told))
    assert counted == pytest.approx(taken(lambda: ask(stage, 2, told), learning), rel=0.1)
    assert torch.equal(ask(stage, 2, told), before)


@pytest.mark.parametrize("stage", ["sd", "flux"], indirect=True)
def test_checkpointing_takes_less(stage: Stage) -> None:
    """And is estimated as well as the rest."""
    module: Any = stage.parts[stage.denoiser]
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.no_grad():
        told = stage.condition([PROMPT], [FRAMING])
    plain = activations_of(module, lambda: ask(stage, 1, told))
    module.enable_gradient_checkpointing(anew)
    module.train()
    try:
        less = activations_of(module, lambda: ask(stage, 1, told))
        real = taken(lambda: ask(stage, 1, told), learning)
    finally:
        module.disable_gradient_checkpointing()
        module.eval()
    assert less < 0.9 * plain
    assert less == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("stage", ["sd"], indirect=True)
def test_text_encoders_that_learn_are_counted(stage: Stage) -> None:
    """Their activations come on top."""
    encoders = [module for name, module in stage.parts.items() if name != stage.denoiser]
    modules = nn.ModuleList(stage.parts.values())
    frozen = activations_of(modules, lambda: ask(stage, 1))
    for encoder in encoders:
        encoder.requires_grad_(requires_grad=True)
    try:
        assert activations_of(modules, lambda: ask(stage, 1)) > frozen
    finally:
        for encoder in encoders:
            encoder.requires_grad_(requires_grad=False)


def test_what_learns_beside_the_module_is_counted() -> None:
    """Rows that a frozen network is asked with: nothing of the network's own needs a gradient, and yet its activations are kept."""
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()).requires_grad_(
        requires_grad=False
    )
    rows = nn.Parameter(torch.ones(1000, 64))
    assert activations_of(network, lambda: network(rows), [rows]) >= 2 * rows.nbytes


@pytest.mark.slow
def test_a_real_base_is_estimated_without_its_weights() -> None:
    """Stable Diffusion 1.5's UNet (859,520,964 numbers) trained in full at 512 px: made of nothing, on no device."""
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
        activations = activations_of(unet.train(), call)
    groups = [ParameterGroup(part="unet", parameters=tuple(unet.parameters()), learning_rate=1e-6)]
    needed = estimate({"unet": unet}, groups, activations, "adamw", average=True)
    assert needed.total == 859_520_964 * 4 * 5 + activations
    assert 2**30 < activations < 2**31


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("average", [False, True])
def test_an_estimate_adds_up(optimizer: OptimizerName, average: bool) -> None:  # noqa: FBT001 - a table's column
    """One frozen layer, one that learns, rows beside them; a layer in two parts counts once."""
    frozen, learning, rows = (
        nn.Linear(128, 64).requires_grad_(requires_grad=False),
        nn.Linear(64, 128),
        nn.Parameter(torch.ones(3, 64)),
    )
    groups = [
        ParameterGroup(part="a", parameters=tuple(learning.parameters()), learning_rate=1.0),
        ParameterGroup(part="b", parameters=(rows,), learning_rate=1.0),
    ]
    needed = estimate({"a": nn.Sequential(frozen, learning), "b": learning}, groups, 1000, optimizer, average=average)
    learned = 64 * 128 + 128 + 3 * 64
    moments = OPTIMIZERS[optimizer].moments
    assert needed.weights == 4 * (128 * 64 + 64 + learned)
    assert needed.gradients == 4 * learned
    assert needed.optimizer == moments(64 * 128) + moments(128) + moments(3 * 64)
    assert needed.average == 4 * learned * average
    assert needed.total == needed.weights + needed.gradients + needed.optimizer + needed.average + 1000


def test_buffers_and_shared_weights_are_weights_once() -> None:
    module = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    module[1].weight = module[0].weight
    module.register_buffer("table", torch.zeros(100), persistent=False)
    assert size_of([module, module[0]]) == 4 * (64 + 100)


NEEDED = MemoryEstimate(weights=2**31, gradients=2**20, optimizer=2**21, average=0, activations=2**30)


def test_what_fits_passes() -> None:
    check(NEEDED, NEEDED.total)


def test_what_cannot_fit_is_refused_with_what_it_needs_and_the_remedy() -> None:
    with pytest.raises(UserError) as refusal:
        check(NEEDED, NEEDED.total - 1)
    text = str(refusal.value)
    assert "about 3.0 GiB" in text
    assert "activations 1.0 GiB" in text
    assert "gradients 1.0 MiB" in text
    assert "average" not in text, "what is nothing is not listed"
    settings = [
        "training.gradient_checkpointing=true",
        "training.batch_size=1",
        "training.optimizer=adamw8bit",
        "base_weights=nf4",
    ]
    places = [text.index(setting) for setting in settings]
    assert places == sorted(places)
    assert re.search(r"\.$", text)
    check(replace(NEEDED, weights=0), NEEDED.total - 1)


def test_the_machine_has_what_it_has() -> None:
    there = available("cpu")
    assert psutil.Process().memory_info().rss / 2 < there <= psutil.virtual_memory().total


def test_a_control_groups_limit_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_estimate, "cgroup_limits", lambda: iter([2**40, 12_345]))
    assert available("cpu") == 12_345


def write(path: Path, text: str) -> None:
    """A file, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_control_groups_are_found_from_the_inside_out(tmp_path: Path) -> None:
    """Version 2: the group's own limit, none at its parent, one at the root."""
    root, line = tmp_path / "cgroup", tmp_path / "self"
    write(line, "0::/user/job\n")
    write(root / "user" / "job" / "memory.max", "300\n")
    write(root / "user" / "memory.max", "max\n")
    write(root / "memory.max", "500\n")
    assert list(cgroup_limits(root, line)) == [300, 500]


def test_limits_of_version_1_and_of_a_container(tmp_path: Path) -> None:
    """The memory controller's alone; a group that the container cannot see is skipped."""
    root, line = tmp_path / "cgroup", tmp_path / "self"
    write(line, "3:cpuset:/docker/1\n4:memory:/docker/1\n0::/\n")
    write(root / "cpuset" / "memory.limit_in_bytes", "1\n")
    write(root / "memory" / "memory.limit_in_bytes", "700\n")
    assert list(cgroup_limits(root, line)) == [700]


def test_where_there_are_no_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert not list(cgroup_limits(tmp_path, tmp_path / "none"))
