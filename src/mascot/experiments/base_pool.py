"""A pool that loads a base model once and lends it to one run after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from torch import nn

from mascot.data.encoding_cache import EncodingCache
from mascot.models.base_files.base_reading import BaseReading
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import load_base

LoadSettings = tuple[str, str, str, str | None, BaseReading]
"""What decides how a base is loaded; recipes with equal settings can share one base."""


def load_settings(recipe: Recipe) -> LoadSettings:
    """Return base, device, precision, quantization and reading of a recipe."""
    return recipe.base, recipe.device, recipe.precision, recipe.base_weights, recipe.reading


@dataclass(frozen=True, slots=True)
class PooledBase:
    """A loaded base, and a snapshot of its denoisers before anyone used it."""

    settings: LoadSettings
    family: Family
    denoisers: tuple[nn.Module, ...]
    """Kept here, as asking a stage for its parts would load its text encoders again."""
    original: tuple[object, ...]

    @classmethod
    def load(cls, recipe: Recipe) -> PooledBase:
        """Load a recipe's base."""
        family = load_base(recipe)
        denoisers = tuple(stage.parts[stage.denoiser] for stage in family.stages)
        return cls(load_settings(recipe), family, denoisers, snapshot(denoisers))

    def is_unchanged(self) -> bool:
        """Tell whether the denoisers have their own layers, weights, switches and hooks again."""
        return snapshot(self.denoisers) == self.original


class BasePool:
    """Lends a base to one run at a time, and the same base again to the next run that can use it.

    At most one base is kept, and only if it came back unchanged; otherwise the next run loads it
    again. So no run changes the result of the next: neither one that fails, nor one that leaves
    something attached, nor a permanent switch (gradient checkpointing, compilation). Text encoders
    and autoencoder are released in between, and trained tokens with them.
    """

    def __init__(self) -> None:
        self._kept: PooledBase | None = None
        self._encoded: tuple[LoadSettings, str] | None = None
        self.encodings = EncodingCache()
        """Latents and text embeddings of the base that is lent, from all runs so far."""

    @contextmanager
    def lend(self, recipe: Recipe) -> Generator[Family]:
        """Lend a recipe's base, unchanged, while the context lasts.

        Raises:
            UserError: the base cannot be loaded.
        """
        kept, self._kept = self._kept, None
        if kept is None or kept.settings != load_settings(recipe):
            del kept  # out of memory before the next one is loaded
            kept = PooledBase.load(recipe)
        encoded = (kept.settings, kept.family.identity)
        if self._encoded != encoded:  # a base that was only loaded again has the same encodings
            self._encoded, self.encodings = encoded, EncodingCache()
        yield kept.family
        for stage in kept.family.stages:
            stage.release_encoders(text=True)
        if kept.is_unchanged():
            self._kept = kept

    def __reduce__(self) -> tuple[object, tuple[()]]:
        """Pickle as the receiving process's own pool; loaded models stay in theirs."""
        return base_pool, ()


@cache
def base_pool() -> BasePool:
    """Return the one pool of this process."""
    return BasePool()


def snapshot(modules: tuple[nn.Module, ...]) -> tuple[object, ...]:
    """Record all that training or an adapter could leave behind in modules.

    That is: the identity and write count of each weight, layers, switches and hooks.
    """
    return tuple(fact for module in modules for fact in module_facts(module))


def module_facts(module: nn.Module) -> Iterator[object]:
    """List the comparable facts of a module and of each layer in it, in order."""
    for name, weight in module.named_parameters(remove_duplicate=False):
        yield name, id(weight), weight._version, weight.requires_grad  # noqa: SLF001 - torch has no public name for it
    for name, layer in module.named_modules():
        facts = vars(layer)
        switches = {key: value for key, value in facts.items() if isinstance(value, bool | int | float | str)}
        hooks = {key: len(value) for key, value in facts.items() if "hooks" in key and isinstance(value, dict)}
        yield name, type(layer), switches, hooks, facts.get("_compiled_call_impl") is None
