"""The stage of flow-matching transformers: objective, solver and adaptable layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from mascot.diffusion.objectives import FlowObjective
from mascot.diffusion.solvers import EulerSolver, timestep_shift
from mascot.errors import UserError, likely, suggest
from mascot.models.adaptable_layers import TEXT_LAYERS, layers_ending
from mascot.models.pipeline_stage import PipelineStage

FLOW_SOLVERS = ("euler",)


@dataclass(kw_only=True)
class FlowStage(PipelineStage):
    """A transformer trained with flow matching, in an autoencoder's latent space.

    A family subclasses it and adds `condition`, `predict`, `truncations`, `latent_shape` and
    `resolution`.
    """

    transformer: Any
    scheduler: FlowMatchEulerDiscreteScheduler
    layers: Mapping[str, tuple[str, ...]]
    """Name of a layer set -> the endings of the names of the transformer's layers in it."""
    packing: int = 1
    """Latent cells along a side that are packed into one before the transformer's own patches."""
    even_sigmas: bool = False
    """Whether the steps end at a noise share of 1 / steps; otherwise at the base's least timestep.

    Where timesteps are shifted for the size, they do so in any case.
    """
    denoiser: Final = "transformer"
    default_solver: Final = "euler"

    @property
    def embeds_guidance(self) -> bool:
        """Whether the transformer reads the guidance scale, so that one prediction is enough."""
        return bool(self.transformer.config.get("guidance_embeds", False))

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The transformer, then the trainable text encoders, by folder name."""
        return {"transformer": self.transformer, **{name: self.text_encoder(name) for name in self.encoders}}

    @property
    def objective(self) -> FlowObjective:
        """The flow objective with the base's own timesteps."""
        return self.flow

    @cached_property
    def flow(self) -> FlowObjective:
        """The flow objective, made once from the scheduler's settings."""
        scheduler: Any = type(self.scheduler).from_config(self.scheduler.config)
        return FlowObjective(scheduler.timesteps.float().to(self.device))

    @property
    def multiple(self) -> int:
        """Sides must divide by this, in pixels, so that image tokens are whole."""
        return self.factor * self.packing * int(self.transformer.config.patch_size)

    def adaptable(self, part: str, layers: str) -> list[str]:
        """List the linear layers of a part in a layer set: attention, transformer or all.

        Raises:
            UserError: the layer set is unknown.
        """
        if layers not in self.layers:
            raise UserError(f"unknown layer set {layers!r}{suggest(layers, self.layers)}")
        return layers_ending(self.parts[part], self.layers[layers] if part == self.denoiser else TEXT_LAYERS[layers])

    def solver(self, name: str, steps: int, height: int, width: int) -> EulerSolver:
        """Set up Euler's method with the base's schedule.

        The timesteps are shifted for the size where the base does so.

        Raises:
            UserError: the solver is unknown for flows.
        """
        if name not in FLOW_SOLVERS:
            raise UserError(
                f"unknown solver {name!r} of a flow{likely(name, FLOW_SOLVERS)}; give {' or '.join(FLOW_SOLVERS)} "
                "with --solver, or knobs.solver in a recipe."
            )
        scheduler: Any = type(self.scheduler).from_config(self.scheduler.config)
        if scheduler.config.use_dynamic_shifting or self.even_sigmas:
            tokens = (height // self.multiple) * (width // self.multiple)
            shift = timestep_shift(scheduler.config, tokens) if scheduler.config.use_dynamic_shifting else None
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
        else:
            scheduler.set_timesteps(steps)
        return EulerSolver(scheduler)
