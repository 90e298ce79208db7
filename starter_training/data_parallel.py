"""Train one model in several processes of one thread each, over shared memory.

Two threads in one process are unreliable on shared cores, and a collective over loopback costs as
much as the step that it joins (starter_training/README.md). Here every replica's parameters are
views into one shared buffer, and its gradients are a row of another. Each replica applies the
optimizers to the parameters that it owns. On an accelerator there is one replica and the same code.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


class Barrier(Protocol):
    """A barrier of threads or of processes."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until every replica waits."""
        ...

    def abort(self) -> None:
        """Make every replica that waits fail."""
        ...


class BarrierMaker(Protocol):
    """What makes barriers: a multiprocessing context or the module `threading`."""

    def Barrier(self, parties: int) -> Barrier:  # noqa: N802 - the name in the standard library
        """Make a barrier of so many parties."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBuffers:
    """Flat buffers that all replicas use, and the barrier between them."""

    parameters: Tensor
    average: Tensor
    """Moving average of the parameters."""
    gradients: Tensor
    """Shape replicas x parameters."""
    norms: Tensor
    """Squared gradient norm of each replica's own parameters."""
    fraction: Tensor
    """Share of the time that is spent, by the first replica's clock."""
    barrier: Barrier


def count_parameters(modules: Iterable[nn.Module]) -> int:
    """Count all parameters of some modules."""
    return sum(p.numel() for module in modules for p in module.parameters())


def share(modules: list[nn.Module], replicas: int, device: torch.device, context: BarrierMaker) -> SharedBuffers:
    """Flatten the modules' parameters into one buffer that every replica will use.

    `context` makes the barrier: a multiprocessing context, or the module `threading`.
    """
    flat = torch.cat([p.detach().reshape(-1) for module in modules for p in module.parameters()]).float().to(device)
    buffers = [
        flat,
        flat.clone(),
        torch.zeros(replicas, flat.numel(), device=device),
        torch.zeros(replicas, device=device),
        torch.zeros(1, device=device),
    ]
    if device.type == "cpu":
        for buffer in buffers:
            buffer.share_memory_()
    barrier = context.Barrier(replicas)
    return SharedBuffers(
        parameters=buffers[0],
        average=buffers[1],
        gradients=buffers[2],
        norms=buffers[3],
        fraction=buffers[4],
        barrier=barrier,
    )


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon updates a parameter: weights of two or more dimensions, except embeddings."""
    return parameter.ndim >= 2 and "embedding" not in name


def assign_owners(named: list[tuple[str, nn.Parameter]], count: int) -> list[list[int]]:
    """Divide parameters among `count` owners so that an optimizer step costs each about the same.

    Returns:
        For each owner the indices of its parameters, ascending.
    """

    def work(number: int) -> float:
        name, parameter = named[number]
        size = parameter.numel()
        # Muon's products cost a matrix's size times its shorter side; Adam costs about as much
        # for a value as Muon for one of a matrix of side 1.
        return size * min(len(parameter), size // len(parameter)) if is_matrix(name, parameter) else size

    owned: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for number in sorted(range(len(named)), key=lambda n: (-work(n), n)):
        owner = loads.index(min(loads))
        owned[owner].append(number)
        loads[owner] += work(number)
    return [sorted(numbers) for numbers in owned]


class Replica:
    """One process's part of the training: its views and the optimizers of its own parameters.

    Muon updates matrices, and convolutions as matrices of out x rest. Its update is the nearest
    orthogonal matrix to the momentum (Jordan et al. 2024), scaled to the size of Adam's (Liu et al.
    2025, arXiv 2502.16982). Adam updates all other parameters, and with `optimizer="adam"` all.

    Args:
        modules: the replica's copy of the model; its parameters become views of the buffers.
        shared: the buffers of all replicas.
        rank: index of this replica.
        learning_rate: the peak learning rate.
        betas: of Adam.
        optimizer: `muon` or `adam`.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        shared: SharedBuffers,
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
        indices = assign_owners(named, self.count)[rank]
        self.slices = [slice(starts[index], starts[index + 1]) for index in indices]
        self.owned: list[nn.Parameter] = []
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for index, owned_slice in zip(indices, self.slices, strict=True):
            name, parameter = named[index]
            matrix = optimizer == "muon" and is_matrix(name, parameter)
            flat = shared.parameters[owned_slice]
            own = nn.Parameter(flat)
            own.data = flat.view(len(parameter), -1) if matrix else flat
            (matrices if matrix else others).append(own)
            self.owned.append(own)
        self.optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            self.optimizers.append(
                torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            )
        if others:
            self.optimizers.append(torch.optim.Adam(others, lr=learning_rate, betas=betas, fused=True))

    def spent(self, clock: Clock) -> float:
        """Return the share of the time that is spent, the same for all replicas.

        By clocks of their own one would stop a step before the others, which then wait forever.
        """
        if self.rank == 0:
            self.shared.fraction.fill_(clock.fraction)
        self.shared.barrier.wait()
        fraction = self.shared.fraction.item()
        self.shared.barrier.wait()
        return fraction

    def step(self, scale: float, *, clip: float = 1.0, decay: float = 0.9995) -> None:
        """Average and clip the gradients, then update the parameters and their moving average.

        Args:
            scale: the current learning rate as a share of the peak.
            clip: the largest global gradient norm.
            decay: of the moving average.
        """
        shared = self.shared
        shared.barrier.wait()
        for parameter, owned_slice in zip(self.owned, self.slices, strict=True):
            parameter.grad = shared.gradients[:, owned_slice].mean(0).view(parameter.shape)
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
        for owned_slice in self.slices:
            shared.average[owned_slice].lerp_(shared.parameters[owned_slice], 1 - decay)
        shared.gradients[self.rank].zero_()
        shared.barrier.wait()

    def save(self, folder: Path, progress: dict[str, float]) -> None:
        """Write a checkpoint completely or not at all.

        Each replica writes its optimizers' state; the first also writes the weights and `progress`.
        """
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
        """Read the checkpoint that `save` wrote, or start at zero.

        The weights alone are enough; the optimizers then start fresh.

        Returns:
            The seconds and steps trained so far, and `begun`, the step at which the optimizers
            started.
        """
        if not (folder / "weights.pt").exists():
            return {"seconds": 0.0, "step": 0.0, "begun": 0.0}
        weights = torch.load(folder / "weights.pt", weights_only=True)
        if self.rank == 0:
            self.shared.parameters.copy_(weights["parameters"])
            self.shared.average.copy_(weights["average"])
        self.shared.barrier.wait()
        own = folder / f"optimizer{self.rank}.pt"
        if own.exists():
            for optimizer, state in zip(self.optimizers, torch.load(own, weights_only=True), strict=True):
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


def pin_to_core(rank: int, device: torch.device) -> None:
    """Give a replica on a CPU one thread and a core of its own.

    Replicas wait for each other many times a second. The scheduler alone would run both on one core
    when the machine has other work.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[rank % len(cores)]})


class Clock:
    """Training time as a fraction of a budget in minutes, across interruptions."""

    def __init__(self, minutes: float, seconds: float) -> None:
        self.budget, self.before, self.start = minutes * 60, seconds, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds trained so far, including earlier runs."""
        return self.before + time.monotonic() - self.start

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        return min(1.0, self.seconds / self.budget)


def learning_rate_scale(fraction: float, step: int, *, warmup: int = 200, hold: float = 0.4) -> float:
    """Return the learning rate as a share of its peak.

    It rises linearly over `warmup` steps, stays at 1 until the share `hold` of the time, then falls
    along a cosine to 0.02.
    """
    if fraction > hold:
        along = (fraction - hold) / (1 - hold)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * along))
    return min(1.0, (step + 1) / warmup)


def launch(function: Callable[..., None], modules: list[nn.Module], replicas: int, *arguments: object) -> None:
    """Run `function(rank, shared, *arguments)` in each replica.

    Several replicas are processes on a CPU. One replica, as on an accelerator, is this process.

    Raises:
        SystemExit: a replica failed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context = torch.multiprocessing.get_context("spawn")
    replicas = 1 if device.type == "cuda" else replicas
    shared = share(modules, replicas, device, context)
    if replicas == 1:
        function(0, shared, *arguments)
        return
    workers = [context.Process(target=function, args=(rank, shared, *arguments)) for rank in range(replicas)]
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for worker in workers:
            worker.start()
        while running := [worker.sentinel for worker in workers if worker.is_alive()]:
            wait(running)
            if any(worker.exitcode for worker in workers):
                shared.barrier.abort()  # otherwise the others wait forever for the failed one
    finally:
        for worker in workers:
            worker.terminate()  # a training that is stopped leaves no process behind
        signal.signal(signal.SIGTERM, usual)
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a replica failed; run the same command again to resume from the last checkpoint.")
