"""Personalize a text-to-image diffusion model with a few photos of one subject.

    import mascot

    recipe = mascot.Recipe.preset(photos="photos/", class_noun="dog")
    run = mascot.train(recipe, out="runs/dog")
    images = mascot.generate(run, "a {subject} in the snow")
    scores = mascot.evaluate(run)

In a notebook, `on_event=mascot.LiveProgress()` shows a verb at work, and `mascot.show` its result.

Public names are imported when they are first used (PEP 562): `import mascot` loads no library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mascot.api.adapters.bake import bake
    from mascot.api.adapters.convert import convert
    from mascot.api.adapters.extract import extract
    from mascot.api.adapters.inspect import inspect
    from mascot.api.adapters.merge import merge
    from mascot.api.adapters.publish import publish
    from mascot.api.adapters.resize import resize
    from mascot.api.diagnose import diagnose
    from mascot.api.doctor import doctor
    from mascot.api.evaluate import evaluate
    from mascot.api.experiments.compare import compare
    from mascot.api.experiments.cross_validate import cross_validate
    from mascot.api.experiments.evaluate_suite import evaluate_suite
    from mascot.api.experiments.sweep import generate_knob_grid, sweep
    from mascot.api.generate import generate, open_adapter
    from mascot.api.installation.check_machine import check_machine
    from mascot.api.notebook.bundle import bundle, offer_download
    from mascot.api.notebook.library_notices import quiet_libraries
    from mascot.api.notebook.live_progress import LiveProgress
    from mascot.api.notebook.notebook_photos import example_photos, upload_photos
    from mascot.api.notebook.shown import show
    from mascot.api.train import train
    from mascot.errors import UserError as UserError
    from mascot.evaluation.scores import Scores
    from mascot.generation.knobs import Knobs
    from mascot.recipe.recipe import Recipe
    from mascot.storage.run_folder import Run

__version__ = "0.1.0"

PUBLIC = {
    "Knobs": "mascot.generation.knobs",
    "LiveProgress": "mascot.api.notebook.live_progress",
    "Recipe": "mascot.recipe.recipe",
    "Run": "mascot.storage.run_folder",
    "Scores": "mascot.evaluation.scores",
    "UserError": "mascot.errors",
    "bake": "mascot.api.adapters.bake",
    "bundle": "mascot.api.notebook.bundle",
    "extract": "mascot.api.adapters.extract",
    "merge": "mascot.api.adapters.merge",
    "resize": "mascot.api.adapters.resize",
    "check_machine": "mascot.api.installation.check_machine",
    "compare": "mascot.api.experiments.compare",
    "convert": "mascot.api.adapters.convert",
    "cross_validate": "mascot.api.experiments.cross_validate",
    "diagnose": "mascot.api.diagnose",
    "doctor": "mascot.api.doctor",
    "evaluate": "mascot.api.evaluate",
    "evaluate_suite": "mascot.api.experiments.evaluate_suite",
    "example_photos": "mascot.api.notebook.notebook_photos",
    "generate": "mascot.api.generate",
    "generate_knob_grid": "mascot.api.experiments.sweep",
    "inspect": "mascot.api.adapters.inspect",
    "offer_download": "mascot.api.notebook.bundle",
    "open_adapter": "mascot.api.generate",
    "publish": "mascot.api.adapters.publish",
    "quiet_libraries": "mascot.api.notebook.library_notices",
    "show": "mascot.api.notebook.shown",
    "sweep": "mascot.api.experiments.sweep",
    "train": "mascot.api.train",
    "upload_photos": "mascot.api.notebook.notebook_photos",
}
"""Public name -> the module that defines it."""

__all__ = [
    "Knobs",
    "LiveProgress",
    "Recipe",
    "Run",
    "Scores",
    "UserError",
    "bake",
    "bundle",
    "check_machine",
    "compare",
    "convert",
    "cross_validate",
    "diagnose",
    "doctor",
    "evaluate",
    "evaluate_suite",
    "example_photos",
    "extract",
    "generate",
    "generate_knob_grid",
    "inspect",
    "merge",
    "offer_download",
    "open_adapter",
    "publish",
    "quiet_libraries",
    "resize",
    "show",
    "sweep",
    "train",
    "upload_photos",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'mascot' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
