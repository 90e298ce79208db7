"""Estimate of the memory that training needs, made before it starts.

It adds up weights, gradients, the optimizer's state, the weight average and activations.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mascot.errors import UserError
from mascot.models.quantization import size_of, without_int8_kernels
from mascot.protocols import ParameterGroup
from mascot.storage.untrusted_files import UnreadableFile, read_text
from mascot.training.optimizers import OPTIMIZERS, OptimizerName

REMEDIES = (
    "in order of effect: --set training.gradient_checkpointing=true, training.batch_size=1 with more "
    "training.gradient_accumulation_steps, training.optimizer=adamw8bit, a low-rank --method, base_weights=nf4 with "
    "it, or a smaller dataset.resolution"
)
"""Settings that make training smaller, as the end of an error message."""

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Files that hold the limit of a Linux control group, of version 2 and of version 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Peak memory of a run on its device, in bytes."""

    weights: int
    """All parts that stay loaded, with the parameters that a method adds."""
    gradients: int
    optimizer: int
    """The optimizer's state."""
    average: int
    """The weight average."""
    activations: int
    """Peak of one forward and backward pass, without finished gradients."""

    @property
    def total(self) -> int:
        """The sum of all fields."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Name and value for the effective settings: the total, and its parts that are not 0."""
        made_of = ", ".join(
            f"{field.name} {gib(size)}" for field in fields(self) if (size := getattr(self, field.name))
        )
        return [("memory, estimated", f"{gib(self.total)} ({made_of})")]


def gib(size: int) -> str:
    """Write bytes in gibibytes, or in mebibytes below one gibibyte."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def estimate_memory(
    parts: Mapping[str, nn.Module],
    groups: Sequence[ParameterGroup],
    activations: int,
    optimizer: OptimizerName,
    *,
    average: bool,
) -> MemoryEstimate:
    """Add up the memory that a run needs.

    Args:
        parts: Modules that stay loaded.
        groups: Trained parameters.
        activations: Bytes of one micro-batch's activations, from `activation_bytes`.
        optimizer: Name of the optimizer.
        average: Whether a weight average is kept, in float32.
    """
    trained = [parameter for group in groups for parameter in group.parameters]
    return MemoryEstimate(
        weights=size_of(parts.values(), trained),
        gradients=sum(parameter.nbytes for parameter in trained),
        optimizer=sum(OPTIMIZERS[optimizer].state_bytes(parameter.numel()) for parameter in trained),
        average=sum(4 * parameter.numel() for parameter in trained) if average else 0,
        activations=activations,
    )


class AllocationLedger(TorchDispatchMode):
    """Counts the bytes of live tensors, now and at most, while it is entered.

    The results of each operation count until nothing refers to them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count its results; a view has no storage of its own."""
        del types
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf.untyped_storage())
        return result

    def add(self, storage: UntypedStorage, *, free: bool = False) -> None:
        """Count a storage until it is freed; one that is `free` counts as 0 bytes."""
        if id(storage) in self.sizes:
            return
        self.sizes[id(storage)] = 0 if free else storage.nbytes()
        self.live += self.sizes[id(storage)]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.remove, id(storage))

    def remove(self, key: int) -> None:
        """Stop counting a storage that was freed."""
        self.live -= self.sizes.pop(key, 0)

    def release(self, tensor: Tensor) -> None:
        """Stop counting a tensor that stays alive."""
        key = id(tensor.untyped_storage())
        if key in self.sizes:
            self.live -= self.sizes[key]
            self.sizes[key] = 0


def activation_bytes(
    module: nn.Module, call: Callable[[], Tensor], trained: Sequence[nn.Parameter] | None = None
) -> int:
    """Count the peak bytes of one forward and backward pass, without computing it.

    Weights and finished gradients are not counted. Activations that gradient checkpointing
    recomputes are counted while they live. Scratch memory inside single operations is not counted.

    Args:
        module: The module that is called; it must not be compiled.
        call: Calls the module once, under the autocast of training and with a whole micro-batch,
            and returns a loss or any output. Its tensors are fake, and it must keep none of them. A
            large micro-batch takes no longer than a small one.
        trained: Parameters that get gradients; by default those of `module` that require them.

    Raises:
        ValueError: no parameter requires a gradient.
        RuntimeError: a layer needs real values, or has no fake kernel.
    """
    if trained is None:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter is trained, so that nothing is kept for gradients")
    ledger, mode = AllocationLedger(), FakeTensorMode(allow_non_fake_inputs=True)
    weights = [mode.from_tensor(tensor) for tensor in {*module.parameters(), *module.buffers(), *trained}]
    for weight in weights:
        ledger.add(weight.untyped_storage(), free=True)
    try:
        with without_int8_kernels(module), mode, ledger, gradient_hooks(trained, ledger.release):
            torch.autograd.grad(call().float().sum(), list(trained), allow_unused=True)
    finally:
        torch.clear_autocast_cache()  # else the next real pass would use the weights' fake casts
    return ledger.peak


@contextmanager
def gradient_hooks(parameters: Sequence[nn.Parameter], receive: Callable[[Tensor], None]) -> Generator[None]:
    """Call `receive` with each parameter's finished gradient while the context lasts."""
    hooks = [parameter.register_hook(receive) for parameter in parameters]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def available_memory(device: torch.device | str) -> int:
    """Count the bytes this process can use on a device, those it already uses included."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    return min([free, *cgroup_limits()])


def cgroup_limits(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[int]:
    """Yield the limits in bytes of this process's Linux control groups and of their parents."""
    try:
        lines = read_text(membership).splitlines()
    except UnreadableFile:  # no Linux, or no control groups
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in {"", "memory"}:
            continue
        folder = root / controllers / group.lstrip("/")
        for path in (folder, *folder.parents):
            if path.is_relative_to(root):
                # A container sees its own group as the root, whatever the line says.
                texts = [read_text(path / name).strip() for name in LIMITS if (path / name).is_file()]
                yield from (int(text) for text in texts if text != "max")


def check_memory(needed: MemoryEstimate, available: int) -> None:
    """Check that training fits in the available bytes.

    Raises:
        UserError: more is needed than available; it names both, and how to make training smaller.
    """
    if needed.total > available:
        raise UserError(
            f"training needs about {needed.rows[0][1]} of memory, of which {gib(available)} are available; "
            f"make it smaller, {REMEDIES}."
        )
