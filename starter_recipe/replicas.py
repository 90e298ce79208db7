"""Train one model in several processes of one thread each, over memory they share.

Two threads in one process are unreliable on shared cores, and a collective over loopback costs as much as the step it joins
(starter_recipe/README.md). Here every replica's parameters are views into one shared buffer, its gradients are a row of another, and
each replica applies Adam to its own slice. On an accelerator there is one replica and the same code.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What replicas share: parameters, their moving average, one row of gradients each, and the barrier between them."""

    parameters: Tensor
    average: Tensor
    gradients: Tensor
    norms: Tensor
    barrier: Any


def sizes_of(modules: Iterable[nn.Module]) -> int:
    """Count all parameters."""
    return sum(p.numel() for module in modules for p in module.parameters())


def share(modules: list[nn.Module], replicas: int, device: torch.device, context: Any) -> Shared:
    """Flatten the modules' parameters into one buffer that every replica will use."""
    flat = torch.cat([p.detach().reshape(-1) for module in modules for p in module.parameters()]).float().to(device)
    buffers = [
        flat,
        flat.clone(),
        torch.zeros(replicas, flat.numel(), device=device),
        torch.zeros(replicas, device=device),
    ]
    if device.type == "cpu":
        for buffer in buffers:
            buffer.share_memory_()
    barrier = context.Barrier(replicas)
    return Shared(parameters=buffers[0], average=buffers[1], gradients=buffers[2], norms=buffers[3], barrier=barrier)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether Muon moves a parameter: weights of two and more dimensions, but for tables of embeddings."""
    return parameter.ndim >= 2 and "embedding" not in name


def share_out(named: list[tuple[str, nn.Parameter]], count: int) -> list[list[int]]:
    """Deal parameters (by their numbers) to `count` owners so that each has about the same work in a step of the optimizer."""

    def work(number: int) -> float:
        name, parameter = named[number]
        size = parameter.numel()
        # Muon's products cost a matrix's size times its shorter side; a value that Adam moves costs about as much as one of side 1.
        return size * min(len(parameter), size // len(parameter)) if is_matrix(name, parameter) else size

    owned: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for number in sorted(range(len(named)), key=lambda n: (-work(n), n)):
        owner = loads.index(min(loads))
        owned[owner].append(number)
        loads[owner] += work(number)
    return [sorted(numbers) for numbers in owned]


class Replica:
    """One process's part: its views, the parameters that its optimizers move, its clock.

    Matrices (convolutions as out x rest) are moved by Muon, whose update is the nearest orthogonal matrix to the momentum
    (Jordan et al. 2024), scaled to the size of Adam's (Liu et al. 2025, arXiv 2502.16982); all else by Adam. With
    `optimizer="adam"` everything is moved by Adam.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        shared: Shared,
        rank: int,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        optimizer: str = "muon",
    ) -> None:
        self.shared, self.rank, self.learning_rate = shared, rank, learning_rate
        self.count = shared.gradients.shape[0]
        self.modules = modules
        point_at(modules, shared.parameters, shared.gradients[rank])
        named = [pair for module in modules for pair in module.named_parameters()]
        starts = [0]
        for _, parameter in named:
            starts.append(starts[-1] + parameter.numel())
        self.slices = [slice(starts[number], starts[number + 1]) for number in share_out(named, self.count)[rank]]
        self.owned: list[nn.Parameter] = []
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for number, where in zip(share_out(named, self.count)[rank], self.slices, strict=True):
            name, parameter = named[number]
            matrix = optimizer == "muon" and is_matrix(name, parameter)
            flat = shared.parameters[where]
            mine = nn.Parameter(flat)
            mine.data = flat.view(len(parameter), -1) if matrix else flat
            (matrices if matrix else others).append(mine)
            self.owned.append(mine)
        self.optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            self.optimizers.append(
                torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            )
        if others:
            self.optimizers.append(torch.optim.Adam(others, lr=learning_rate, betas=betas, fused=True))

    def step(self, scale: float, *, clip: float = 1.0, decay: float = 0.9995) -> None:
        """Average the gradients, clip them to a global norm, move the parameters and their average.

        `scale` is this moment's share of the peak learning rate; `decay` belongs to the moving average.
        """
        shared = self.shared
        shared.barrier.wait()
        for parameter, where in zip(self.owned, self.slices, strict=True):
            parameter.grad = shared.gradients[:, where].mean(0).view(parameter.shape)
        gradients = [parameter.grad for parameter in self.owned if parameter.grad is not None]
        shared.norms[self.rank] = torch.nn.utils.get_total_norm(gradients).square()
        shared.barrier.wait()
        shrink = (clip / (shared.norms.sum().sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(shrink)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * scale
            optimizer.step()
        for where in self.slices:
            shared.average[where].lerp_(shared.parameters[where], 1 - decay)
        shared.gradients[self.rank].zero_()
        shared.barrier.wait()

    def save(self, folder: Path, progress: dict[str, float]) -> None:
        """Write this replica's optimizer and, by the first, the weights and the clock; whole or not at all."""
        torch.save([o.state_dict() for o in self.optimizers], folder / f"optimizer{self.rank}.tmp")
        self.shared.barrier.wait()
        if self.rank == 0:
            weights = {
                "parameters": self.shared.parameters.cpu(),
                "average": self.shared.average.cpu(),
                "progress": progress,
            }
            torch.save(weights, folder / "weights.tmp")
            for rank in range(self.count):
                (folder / f"optimizer{rank}.tmp").replace(folder / f"optimizer{rank}.pt")
            (folder / "weights.tmp").replace(folder / "weights.pt")
        self.shared.barrier.wait()

    def resume(self, folder: Path) -> dict[str, float]:
        """Read what `save` wrote, or start at zero. Weights alone are enough: `begun` is the step at which the optimizers began."""
        if not (folder / "weights.pt").exists():
            return {"seconds": 0.0, "step": 0.0, "begun": 0.0}
        weights = torch.load(folder / "weights.pt", weights_only=True)
        if self.rank == 0:
            self.shared.parameters.copy_(weights["parameters"])
            self.shared.average.copy_(weights["average"])
        self.shared.barrier.wait()
        mine = folder / f"optimizer{self.rank}.pt"
        if mine.exists():
            for optimizer, state in zip(self.optimizers, torch.load(mine, weights_only=True), strict=True):
                optimizer.load_state_dict(state)
        else:
            weights["progress"]["begun"] = weights["progress"]["step"]
        return weights["progress"]


def point_at(modules: list[nn.Module], parameters: Tensor, gradients: Tensor | None = None) -> None:
    """Make every parameter (and gradient) a view into a flat buffer."""
    start = 0
    for module in modules:
        for parameter in module.parameters():
            end = start + parameter.numel()
            parameter.data = parameters[start:end].view(parameter.shape)
            if gradients is not None:
                parameter.grad = gradients[start:end].view(parameter.shape)
            start = end


def with_defaults(rank: int, device: torch.device) -> None:
    """Give a replica on a CPU one thread and a core of its own.

    Replicas wait for each other many times a second; left to the scheduler, both end up on one core when something else runs.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[rank % len(cores)]})


class Clock:
    """Training time as a fraction of a budget in minutes, over interruptions too."""

    def __init__(self, minutes: float, seconds: float) -> None:
        self.budget, self.before, self.start = minutes * 60, seconds, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds trained so far, earlier runs included."""
        return self.before + time.monotonic() - self.start

    @property
    def fraction(self) -> float:
        """0 at the start, 1 when the budget is spent."""
        return min(1.0, self.seconds / self.budget)


def learning_scale(fraction: float, step: int, *, warmup: int = 200, hold: float = 0.4) -> float:
    """Linear warm-up, then flat until `hold` of the time, then a cosine down to 2 %."""
    if fraction > hold:
        along = (fraction - hold) / (1 - hold)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * along))
    return min(1.0, (step + 1) / warmup)


def launch(function: Callable[..., None], modules: list[nn.Module], replicas: int, *arguments: Any) -> None:
    """Run `function(rank, shared, *arguments)` in each replica: processes on a CPU, this process on an accelerator."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context = torch.multiprocessing.get_context("spawn")
    replicas = 1 if device.type == "cuda" else replicas
    shared = share(modules, replicas, device, context)
    if replicas == 1:
        function(0, shared, *arguments)
        return
    workers = [context.Process(target=function, args=(rank, shared, *arguments)) for rank in range(replicas)]
    for worker in workers:
        worker.start()
    while running := [worker.sentinel for worker in workers if worker.is_alive()]:
        wait(running)
        if any(worker.exitcode for worker in workers):
            shared.barrier.abort()  # else the others wait for ever for the one that failed
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a replica failed; what was saved last is kept, and the same command goes on from there")
