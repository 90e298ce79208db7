"""The stage of UNets that were trained by diffusion: objective, solvers and adaptable layers.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, cast

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from mascot.diffusion.objectives import DiffusionObjective
from mascot.diffusion.solvers import SOLVERS
from mascot.errors import UserError, likely, suggest
from mascot.models.adaptable_layers import TEXT_LAYERS, UNET_LAYERS, layers_ending
from mascot.models.base_files.base_reading import BaseReading
from mascot.models.base_files.file_contents import check_channels
from mascot.models.pipeline_stage import PipelineStage
from mascot.protocols import Conditioning, Solver, Stage

MASK, SHOWN = "inpainting_mask", "shown_latents"
"""Names in the conditioning of an inpainting base: mask, and latents of the image outside it."""
NO_IMAGE: Conditioning = {}


@dataclass(kw_only=True)
class UNetStage(PipelineStage):
    """A UNet with an image codec. A family adds `condition`, `predict` and `truncations`."""

    unet: UNet2DConditionModel
    scheduler: Any
    clip_skip: int = 0
    """Last layers of the CLIP text encoders that are skipped."""
    encoded_empty: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])
    """Height and width in cells -> the latents of an empty image, which inpainting bases read."""
    inpainting_pipeline: type[DiffusionPipeline] | None = None
    """The pipeline that a base with mask channels is saved as."""
    denoiser: Final = "unet"
    default_solver: Final = "ddim"
    embeds_guidance: Final = False

    def read_as(self, reading: BaseReading, identity: str) -> str:
        """Read the base as settings say, and return its identity as it is then read.

        Args:
            reading: The settings.
            identity: The hash of the base's weights.

        Raises:
            UserError: the base cannot be read so.
        """
        own, self.scheduler = self.scheduler, reading.adjusted(self.scheduler)
        self.clip_skip = reading.clip_skip
        check_channels(self.source, int(self.unet.config["in_channels"]), int(self.unet.config["out_channels"]))
        if self.reopen is not None and (self.scheduler is not own or self.is_inpainting):
            reopen, inpainting = self.reopen, self.inpainting_pipeline if self.is_inpainting else None
            self.reopen = lambda: adjusted_pipeline(reopen(), self.scheduler, inpainting)
        return reading.identify(identity, own, self.scheduler)

    def use_plain_attention(self) -> None:
        """Replace torch's fused attention by the plain one on a CPU.

        The fused one's backward pass is slow there for the short sequences of small bases.
        """
        if self.device.type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The UNet, then the trainable text encoders, by folder name."""
        return {"unet": self.unet, **{name: self.text_encoder(name) for name in self.encoders}}

    @property
    def objective(self) -> DiffusionObjective:
        """Noise or velocity prediction, with the base's own schedule.

        Raises:
            UserError: the base predicts something else.
        """
        return self.diffusion

    @cached_property
    def diffusion(self) -> DiffusionObjective:
        """The diffusion objective, made once from the scheduler's settings."""
        kind: str = self.scheduler.config.prediction_type
        if kind not in {"epsilon", "v_prediction"}:
            raise UserError(
                f"{self.source} predicts {kind!r}, and mascot trains bases that predict epsilon or v_prediction; "
                "give another --base."
            )
        prediction = cast("Literal['epsilon', 'v_prediction']", kind)
        return DiffusionObjective(self.scheduler.alphas_cumprod.to(self.device), prediction)

    @property
    def multiple(self) -> int:
        """Sides must divide by this, in pixels, so that all UNet resolutions have whole cells."""
        return self.factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    @property
    def resolution(self) -> int:
        """The side that the base was trained at, in pixels."""
        return int(self.unet.config["sample_size"]) * self.factor

    def adaptable(self, part: str, layers: str) -> list[str]:
        """List a part's linear and convolution layers in a set: attention, transformer or all.

        Raises:
            UserError: the layer set is unknown.
        """
        if layers not in UNET_LAYERS:
            raise UserError(f"unknown layer set {layers!r}{suggest(layers, UNET_LAYERS)}")
        return layers_ending(self.parts[part], UNET_LAYERS[layers] if part == self.denoiser else TEXT_LAYERS[layers])

    @property
    def is_inpainting(self) -> bool:
        """Whether the UNet also reads a mask and the latents of the image outside it."""
        return int(self.unet.config["in_channels"]) == 2 * int(self.unet.config["out_channels"]) + 1

    def empty_latents(self, height: int, width: int) -> Tensor:
        """Return the latents of an empty image, by height and width in cells. Shape C x H x W.

        The autoencoder is dropped again where it was loaded for this alone.
        """
        if (height, width) not in self.encoded_empty:
            was_loaded = self.image_codec.is_loaded
            pixels = torch.zeros(1, 3, height * self.factor, width * self.factor)
            with torch.autocast(self.device.type, enabled=False):
                self.encoded_empty[height, width] = self.encode(pixels).mean_BCHW[0]
            if not was_loaded:
                self.image_codec.release()
        return self.encoded_empty[height, width]

    def run_unet(
        self,
        noisy_BCHW: Tensor,
        timestep_B: Tensor,
        states_BND: Tensor,
        *,
        image: Conditioning = NO_IMAGE,
        **conditioning: object,
    ) -> Tensor:
        """Run the UNet once; the prediction is float32. `image` is for inpainting bases."""
        dtype = self.dtype_of(self.unet)
        noisy, states = noisy_BCHW.to(self.device, dtype), states_BND.to(dtype)
        if self.is_inpainting:
            given = [image[name].to(noisy) for name in (MASK, SHOWN) if name in image]
            noisy = torch.cat([noisy, *given], dim=1) if given else join_empty_image(self, noisy)
        unet: Any = self.unet
        return unet(noisy, timestep_B, encoder_hidden_states=states, return_dict=False, **conditioning)[0].float()

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape C, H, W of the noise for an image of some pixels."""
        channels = int(self.unet.config["out_channels" if self.is_inpainting else "in_channels"])
        return channels, height // self.factor, width // self.factor

    def solver(self, name: str, steps: int, height: int, width: int) -> Solver:
        """Set up ddim, dpm++, euler or unipc with the base's own schedule.

        Raises:
            UserError: the solver is unknown, or cannot start from zero terminal SNR.
        """
        del height, width
        if name not in SOLVERS:
            raise UserError(
                f"unknown solver {name!r}{likely(name, SOLVERS)}; give one of {', '.join(SOLVERS)} with --solver, or "
                "knobs.solver in a recipe."
            )
        kind, options = SOLVERS[name]
        if float(self.scheduler.alphas_cumprod[-1]) == 0 and name != "ddim":
            # The first step has infinite noise over signal (Lin et al. 2023); only DDIM's formula
            # stays finite.
            raise UserError(f"this base has zero terminal SNR, which {name} cannot start from; use --solver ddim.")
        solver = kind.from_config(self.scheduler.config, **options)
        solver.set_timesteps(steps)
        return solver


def reads_mask(stage: Stage) -> bool:
    """Tell whether a stage's denoiser also reads a mask, and the image outside it."""
    return isinstance(stage, UNetStage) and stage.is_inpainting


@torch.no_grad()
def inpainting_conditioning(stage: Stage, pixels_BCHW: Tensor, mask_B1HW: Tensor) -> Conditioning:
    """Return what an inpainting base reads of an image: a mask, and the latents with gray in it.

    Args:
        stage: one that `reads_mask`.
        pixels_BCHW: the image, in -1..1.
        mask_B1HW: of the same size, 1 where pixels are hidden; so are the cells of such pixels.
    """
    shown = stage.encode(pixels_BCHW * (1 - mask_B1HW)).mean_BCHW
    return {MASK: functional.adaptive_max_pool2d(mask_B1HW, shown.shape[-2:]), SHOWN: shown}


def join_empty_image(stage: UNetStage, noisy_BCHW: Tensor) -> Tensor:
    """Join noisy latents, a mask of the whole image, and the latents of an empty image.

    An inpainting base then generates from the prompt alone. The empty image is gray, as it is
    where the base was trained (Rombach et al. 2022, arXiv 2112.10752, section 4.5).
    """
    size = noisy_BCHW.shape[-2:]
    if isinstance(noisy_BCHW, FakeTensor):  # memory is counted: no value matters, and none is kept
        empty_CHW = torch.zeros_like(noisy_BCHW[0])
    else:
        empty_CHW = stage.empty_latents(*size).to(noisy_BCHW)
    mask_B1HW = torch.ones_like(noisy_BCHW[:, :1])
    return torch.cat([noisy_BCHW, mask_B1HW, empty_CHW.expand_as(noisy_BCHW)], dim=1)


def adjusted_pipeline(
    pipeline: DiffusionPipeline, scheduler: Any, inpainting: type[DiffusionPipeline] | None
) -> DiffusionPipeline:
    """Give a pipeline another scheduler, and the class for inpainting; both are saved with it."""
    pipeline.register_modules(scheduler=scheduler)
    return pipeline if inpainting is None else inpainting(**pipeline.components)
