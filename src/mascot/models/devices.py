"""Devices: which one computes, what memory it has, and what memory a computation takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mascot.errors import UserError
from mascot.storage.untrusted_files import UnreadableFile, read_text

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Files that hold the limit of a Linux control group, of version 2 and of version 1."""


def choose_device(requested: str, remedy: str = "give --set device=cpu") -> str:
    """Return the requested device, or the best one there is for `auto` (cuda, then mps, then cpu).

    Args:
        requested: `auto`, `cpu`, `cuda` or `mps`.
        remedy: What the user can do where the device is missing; the end of the error message.

    Raises:
        UserError: the requested device is missing.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if requested == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[requested]:
        raise UserError(f"this machine has no {requested} device; {remedy}.")
    return requested


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


@torch.no_grad()
def inference_bytes(call: Callable[[], object]) -> int:
    """Count the peak bytes of a computation without gradients, without computing it.

    The weights that it reads may be counted with it.

    Args:
        call: Computes; its tensors are fake, and it must keep none of them.

    Raises:
        RuntimeError: a layer needs real values, or has no fake kernel.
    """
    ledger = AllocationLedger()
    with FakeTensorMode(allow_non_fake_inputs=True), ledger:
        call()
    return ledger.peak


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


def gib(size: int) -> str:
    """Write bytes in gibibytes, or in mebibytes below one gibibyte."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
