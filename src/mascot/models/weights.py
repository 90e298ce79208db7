"""The size of weights in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, UntypedStorage, nn


def size_of(modules: Iterable[nn.Module], more: Iterable[Tensor] = ()) -> int:
    """Count the bytes of modules' parameters and buffers, and of more tensors.

    The scales of quantized weights count too. Storage that several tensors share counts once.
    """
    storages = {id(storage): storage for module in modules for storage in storages_of(module)}
    storages |= {id(storage): storage for storage in (tensor.untyped_storage() for tensor in more)}
    return sum(storage.nbytes() for storage in storages.values())


def storages_of(module: nn.Module) -> Iterator[UntypedStorage]:
    """Yield the storage of every parameter and buffer of a module."""
    for tensor in (*module.state_dict(keep_vars=True).values(), *module.buffers()):
        yield tensor.untyped_storage()
