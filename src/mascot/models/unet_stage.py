"""What UNets in latent space share, whatever tells them what to draw: layers to adapt, schedules, solvers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, cast

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from mascot.diffusion.objectives import DiffusionObjective
from mascot.diffusion.solvers import SOLVERS
from mascot.errors import UserError, suggest
from mascot.models.adaptable_layers import LAYERS, TEXT_LAYERS, layers_ending
from mascot.models.pipeline_stage import PipelineStage
from mascot.protocols import Solver


@dataclass(kw_only=True)
class UNetStage(PipelineStage):
    """A UNet with an autoencoder before and after it; what it is told is the family's own."""

    unet: UNet2DConditionModel
    scheduler: Any
    denoiser: Final = "unet"
    default_solver: Final = "ddim"
    embeds_guidance: Final = False

    def attend_plainly(self) -> None:
        """On a CPU, exchange torch's fused attention for the plain one.

        The fused one's backward pass is slow there for the short sequences of small bases.
        """
        if self.device.type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """UNet and text encoders."""
        return {"unet": self.unet, **{name: self.text_part(name) for name in self.encoders}}

    @property
    def objective(self) -> DiffusionObjective:
        """What the UNet answers."""
        return self.diffusion

    @cached_property
    def diffusion(self) -> DiffusionObjective:
        """Noise or velocity, at the scheduler's own levels."""
        kind: str = self.scheduler.config.prediction_type
        if kind not in {"epsilon", "v_prediction"}:
            raise UserError(f"{self.source} answers {kind!r}; mascot trains epsilon and v_prediction bases.")
        return DiffusionObjective(
            self.scheduler.alphas_cumprod.to(self.device), cast("Literal['epsilon', 'v_prediction']", kind)
        )

    @property
    def multiple(self) -> int:
        """Sides divide by this, so that every level of the UNet has whole cells."""
        return self.factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    @property
    def resolution(self) -> int:
        """The side the base was trained at."""
        return int(self.unet.config["sample_size"]) * self.factor

    def adaptable(self, part: str, layers: str) -> list[str]:
        """Names of linear and convolution layers of a part in a set: attention, transformer or all."""
        if layers not in LAYERS:
            raise UserError(f"unknown layer set {layers!r}{suggest(layers, LAYERS)}")
        return layers_ending(self.parts[part], LAYERS[layers] if part == self.denoiser else TEXT_LAYERS[layers])

    def ask(self, noisy_BCHW: Tensor, timestep_B: Tensor, states_BND: Tensor, **told: Any) -> Tensor:
        """Ask the UNet once; the answer is float32."""
        dtype = self.dtype_of(self.unet)
        noisy, states = noisy_BCHW.to(self.device, dtype), states_BND.to(dtype)
        return self.unet(noisy, timestep_B, encoder_hidden_states=states, return_dict=False, **told)[0].float()

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels and cells of the noise."""
        return int(self.unet.config["in_channels"]), height // self.factor, width // self.factor

    def solver(self, name: str, steps: int, height: int, width: int) -> Solver:
        """Set up one of ddim, dpm++, euler, unipc with the base's own schedule."""
        del height, width
        if name not in SOLVERS:
            raise UserError(f"unknown solver {name!r}{suggest(name, SOLVERS)}")
        kind, options = SOLVERS[name]
        if float(self.scheduler.alphas_cumprod[-1]) == 0 and name != "ddim":
            # At zero terminal SNR the first step has infinite noise over signal; only DDIM's algebra survives it.
            raise UserError(f"this base has zero terminal SNR, which {name} cannot start from; use --solver ddim.")
        solver = kind.from_config(self.scheduler.config, **options)
        solver.set_timesteps(steps)
        return solver
