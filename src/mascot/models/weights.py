"""TODO models.weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, UntypedStorage, nn


def size_of(modules: Iterable[nn.Module], more: Iterable[Tensor] = ()) -> int:
    """Bytes of modules' parameters and buffers, scales of quantised ones included, and of more tensors; what is shared counts once."""
    storages = {id(storage): storage for module in modules for storage in storages_of(module)}
    storages |= {id(storage): storage for storage in (tensor.untyped_storage() for tensor in more)}
    return sum(storage.nbytes() for storage in storages.values())


def storages_of(module: nn.Module) -> Iterator[UntypedStorage]:
    """Walk through the memory that a module holds."""
    for tensor in (*module.state_dict(keep_vars=True).values(), *module.buffers()):
        yield tensor.untyped_storage()
