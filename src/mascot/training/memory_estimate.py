"""The memory that training needs, told before it starts: weights, gradients, the optimizer's state, activations."""

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
from mascot.models.weights import size_of
from mascot.protocols import ParameterGroup
from mascot.training.optimizers import OPTIMIZERS, OptimizerName

REMEDIES = (
    "in order of effect: --set training.gradient_checkpointing=true, training.batch_size=1 with more training.gradient_accumulation_steps, "
    "training.optimizer=adamw8bit, a low-rank --method, base_weights=nf4 with it, or a smaller dataset.resolution"
)
"""What makes training smaller, for the end of a sentence."""


CGROUPS = Path("/sys/fs/cgroup")


MEMBERSHIP = Path("/proc/self/cgroup")


LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Files that hold a control group's limit: of version 2, of version 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """What a run needs on its device at its fullest moment, in bytes."""

    weights: int
    """All parts that stay loaded, with what learns on top of them."""
    gradients: int
    optimizer: int
    """The optimizer's state."""
    average: int
    activations: int
    """What one forward and backward pass holds at most, gradients of what learns apart."""

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Names and values for the effective settings: the total, and what it is made of."""
        made_of = ", ".join(
            f"{field.name} {gib(size)}" for field in fields(self) if (size := getattr(self, field.name))
        )
        return [("memory, estimated", f"{gib(self.total)} ({made_of})")]


def gib(size: int) -> str:
    """Bytes in words: gibibytes, or mebibytes where there is less than one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def estimate(
    parts: Mapping[str, nn.Module],
    groups: Sequence[ParameterGroup],
    activations: int,
    optimizer: OptimizerName,
    *,
    average: bool,
) -> MemoryEstimate:
    """Add up what a run needs: the parts that stay loaded, what learns, and the activations of one micro-batch in bytes."""
    learning = [parameter for group in groups for parameter in group.parameters]
    return MemoryEstimate(
        weights=size_of(parts.values(), learning),
        gradients=sum(parameter.nbytes for parameter in learning),
        optimizer=sum(OPTIMIZERS[optimizer].moments(parameter.numel()) for parameter in learning),
        average=sum(4 * parameter.numel() for parameter in learning) if average else 0,
        activations=activations,
    )


class Ledger(TorchDispatchMode):
    """The bytes that live tensors take, now and at most, while it is entered: each operation's results, until nobody holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation and book its results; a view brings no storage of its own."""
        del types
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.book(leaf.untyped_storage())
        return result

    def book(self, storage: UntypedStorage, *, free: bool = False) -> None:
        """Count a storage, until it is let go; one that is free (what is counted elsewhere) never counts."""
        if id(storage) in self.sizes:
            return
        self.sizes[id(storage)] = 0 if free else storage.nbytes()
        self.live += self.sizes[id(storage)]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.strike, id(storage))

    def strike(self, key: int) -> None:
        """Count a storage no more."""
        self.live -= self.sizes.pop(key, 0)

    def release(self, tensor: Tensor) -> None:
        """Count a tensor no more, though it lives on."""
        key = id(tensor.untyped_storage())
        if key in self.sizes:
            self.live -= self.sizes[key]
            self.sizes[key] = 0


def activations_of(
    module: nn.Module, call: Callable[[], Tensor], learning: Sequence[nn.Parameter] | None = None
) -> int:
    """Bytes that one forward and backward pass holds at most, besides weights and finished gradients; nothing is computed for it.

    `call` asks the module once and gives a loss, or any answer, under the autocast of training, with a whole micro-batch: a large one
    costs no more than a small one. What it makes are no real tensors, and it must keep none of them. `learning` is what gradients
    are taken for: by default all of the module that needs them. What gradient checkpointing computes anew is counted as it comes
    and goes; the scratch memory inside of single operations is not. A compiled module cannot be asked.

    Raises:
        ValueError: nothing learns.
    """
    learning = (
        [parameter for parameter in module.parameters() if parameter.requires_grad] if learning is None else learning
    )
    if not learning:
        raise ValueError("nothing learns, so that nothing is kept for gradients")
    ledger, mode = Ledger(), FakeTensorMode(allow_non_fake_inputs=True)
    weights = [mode.from_tensor(tensor) for tensor in {*module.parameters(), *module.buffers(), *learning}]
    for weight in weights:
        ledger.book(weight.untyped_storage(), free=True)
    with mode, ledger, gradients_to(learning, ledger.release):
        torch.autograd.grad(call().float().sum(), list(learning), allow_unused=True)
    torch.clear_autocast_cache()  # it would give the weights' imagined casts to the next real pass
    return ledger.peak


@contextmanager
def gradients_to(parameters: Sequence[nn.Parameter], receive: Callable[[Tensor], None]) -> Generator[None]:
    """Have each parameter's finished gradient shown, for as long as the block lasts."""
    hooks = [parameter.register_hook(receive) for parameter in parameters]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def available(device: torch.device | str) -> int:
    """Bytes that this process may have on a device in all, what it holds already included."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    return min([free, *cgroup_limits()])


def cgroup_limits(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[int]:
    """Walk through the limits in bytes of the Linux control groups that this process is in, and of those that hold them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux, or no control groups
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in {"", "memory"}:
            continue
        folder = root / controllers / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                # A container sees its own group as the root, whatever the line says: those that are not there say nothing.
                texts = [(place / name).read_text().strip() for name in LIMITS if (place / name).is_file()]
                yield from (int(text) for text in texts if text != "max")


def check(needed: MemoryEstimate, there: int) -> None:
    """Refuse what cannot fit.

    Raises:
        UserError: more is needed than is there; it names both, and what makes training smaller.
    """
    if needed.total > there:
        raise UserError(
            f"training needs about {needed.rows[0][1]} of memory, of which {gib(there)} are there; make it smaller, {REMEDIES}."
        )
