"""Base models that are loaded once and lent to one run after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from mascot.data.encoding_cache import EncodingCache
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import load_base

Loading = tuple[str, str, str, str | None]
"""What decides how a base is loaded: recipes that agree in it can share one."""


def loading_of(recipe: Recipe) -> Loading:
    """What of a recipe decides how its base is loaded."""
    return recipe.base, recipe.device, recipe.precision, recipe.base_weights


@dataclass(frozen=True, slots=True)
class PooledBase:
    """A loaded base, and what it looked like before anyone used it."""

    loading: Loading
    family: Family
    denoisers: tuple[nn.Module, ...]
    """Held here: to ask a stage for its parts would load its text encoders again."""
    look: tuple[Any, ...]

    @classmethod
    def load(cls, recipe: Recipe) -> PooledBase:
        """Load a recipe's base."""
        family = load_base(recipe)
        denoisers = tuple(stage.parts[stage.denoiser] for stage in family.stages)
        return cls(loading_of(recipe), family, denoisers, snapshot(denoisers))

    def is_untouched(self) -> bool:
        """Whether nothing is attached to its denoisers, no weight was written to, and no switch was turned."""
        return snapshot(self.denoisers) == self.look


class BasePool:
    """Lends a base to one run at a time, and the same one again to the next run that can use it; keeps one in memory.

    A base is lent again only if it came back as it was. So a run that fails, one that leaves what it learned attached, and one that turns
    a switch for good (gradient checkpointing, compilation) costs the next run a loading, and never changes its result. Text encoders and
    autoencoder are let go in between, with every word that was learned.
    """

    def __init__(self) -> None:
        self._kept: PooledBase | None = None
        self._encoded: tuple[Loading, str] | None = None
        self.encodings = EncodingCache()
        """What the encoders of the base that is lent said so far, in all runs: of no use beside another base."""

    @contextmanager
    def lend(self, recipe: Recipe) -> Generator[Family]:
        """Give a recipe's base, untouched, until the block ends.

        Raises:
            UserError: the base cannot be loaded.
        """
        kept, self._kept = self._kept, None
        if kept is None or kept.loading != loading_of(recipe):
            del kept  # out of memory before the next one comes in
            kept = PooledBase.load(recipe)
        if self._encoded != (
            kept.loading,
            kept.family.identity,
        ):  # a base that was only loaded again says the same again
            self._encoded, self.encodings = (kept.loading, kept.family.identity), EncodingCache()
        yield kept.family
        for stage in kept.family.stages:
            stage.release_encoders(text=True)
        if kept.is_untouched():
            self._kept = kept

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """What is loaded stays with its process; another one has its own."""
        return base_pool, ()


@cache
def base_pool() -> BasePool:
    """The one lender of a worker, for all runs that it is given."""
    return BasePool()


def snapshot(modules: tuple[nn.Module, ...]) -> tuple[Any, ...]:
    """All that training or an adapter could leave behind in modules: weights by identity and count of writes, layers, switches, hooks."""
    return tuple(fact for module in modules for fact in facts_of(module))


def facts_of(module: nn.Module) -> Iterator[Any]:
    """What there is to compare of one module and of every layer in it, in order."""
    for name, weight in module.named_parameters(remove_duplicate=False):
        yield name, id(weight), weight._version, weight.requires_grad  # noqa: SLF001 - torch has no public name for it
    for name, layer in module.named_modules():
        facts = vars(layer)
        switches = {key: value for key, value in facts.items() if isinstance(value, bool | int | float | str)}
        hooks = {key: len(value) for key, value in facts.items() if "hooks" in key and isinstance(value, dict)}
        yield name, type(layer), switches, hooks, facts.get("_compiled_call_impl") is None
