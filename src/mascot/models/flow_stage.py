"""What flow-matching transformers in latent space share: schedules, solvers, layers to adapt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from mascot.diffusion.objectives import FlowObjective
from mascot.diffusion.solvers import EulerSolver, shift_for
from mascot.errors import UserError, suggest
from mascot.models.adaptable_layers import TEXT_LAYERS, layers_ending
from mascot.models.pipeline_stage import PipelineStage

SOLVERS = ("euler",)


@dataclass(kw_only=True)
class FlowStage(PipelineStage):
    """A transformer that follows a flow, with an autoencoder before and after it; what it is told is the family's own."""

    transformer: Any
    scheduler: FlowMatchEulerDiscreteScheduler
    layers: Mapping[str, tuple[str, ...]]
    """Word -> how the names of the transformer's layers end."""
    packing: int = 1
    """Latent cells along a side that become one before the transformer cuts its own patches."""
    denoiser: Final = "transformer"
    default_solver: Final = "euler"

    @property
    def embeds_guidance(self) -> bool:
        """Whether the guidance scale is something that the transformer is told, not a second answer without the prompt."""
        return bool(self.transformer.config.get("guidance_embeds", False))

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Transformer and the text encoders that may learn."""
        return {"transformer": self.transformer, **{name: self.text_part(name) for name in self.encoders}}

    @property
    def objective(self) -> FlowObjective:
        """What the transformer answers."""
        return self.flow

    @cached_property
    def flow(self) -> FlowObjective:
        """Straight lines, at the levels that the scheduler was made with."""
        table: Any = type(self.scheduler).from_config(self.scheduler.config)
        return FlowObjective(table.timesteps.float().to(self.device))

    @property
    def multiple(self) -> int:
        """Sides divide by this, so that tokens are whole."""
        return self.factor * self.packing * int(self.transformer.config.patch_size)

    def adaptable(self, part: str, layers: str) -> list[str]:
        """Names of the linear layers of a part in a set: attention, transformer or all."""
        if layers not in self.layers:
            raise UserError(f"unknown layer set {layers!r}{suggest(layers, self.layers)}")
        return layers_ending(self.parts[part], self.layers[layers] if part == self.denoiser else TEXT_LAYERS[layers])

    def solver(self, name: str, steps: int, height: int, width: int) -> EulerSolver:
        """Set up Euler's method with the base's own schedule, shifted for the size where the base does so."""
        if name not in SOLVERS:
            raise UserError(f"unknown solver {name!r} for a flow{suggest(name, SOLVERS)}")
        scheduler: Any = type(self.scheduler).from_config(self.scheduler.config)
        if scheduler.config.use_dynamic_shifting:
            tokens = (height // self.multiple) * (width // self.multiple)
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift_for(scheduler.config, tokens))
        else:
            scheduler.set_timesteps(steps)
        return EulerSolver(scheduler)
