"""Estimate of the memory that training needs, made before it starts.

It adds up weights, gradients, the optimizer's state, the weight average and activations.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mascot.errors import UserError
from mascot.models.devices import AllocationLedger, gib
from mascot.models.quantization import size_of, without_int8_kernels
from mascot.protocols import ParameterGroup
from mascot.training.optimizers import OPTIMIZERS, OptimizerName

REMEDIES = (
    "in order of effect: --set training.gradient_checkpointing=true, training.batch_size=1 with more "
    "training.gradient_accumulation_steps, training.optimizer=adamw8bit, a low-rank --method, base_weights=nf4 with "
    "it, or a smaller dataset.resolution"
)
"""Settings that make training smaller, as the end of an error message."""


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
