"""Stable Diffusion 1.x and 2.x, and the embedded starter: one CLIP text encoder, a UNet in latent space, noise or velocity answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from mascot.errors import UserError, suggest
from mascot.families import Precision, fingerprint
from mascot.objectives import Diffusion
from mascot.pipelines import DTYPES, LatentStage, check_whole, open_pipeline, reload_part, weight_files
from mascot.protocols import Conditioning, Framing, Solver, Stage

NAME = "sd"
PARTS = ("unet", "vae", "text_encoder")
SOLVERS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
    "euler": (EulerDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
LAYERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "attention": {"unet": ("to_q", "to_k", "to_v", "to_out.0"), "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj")},
    "transformer": {
        "unet": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
        "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    },
    "all": {
        "unet": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut"),
        "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    },
}
"""Text encoders always get a full set of projections: other tools load a partial one wrongly, in silence."""


OPTIONS: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False}


@dataclass(kw_only=True)
class StableDiffusionStage(LatentStage):
    """The one stage."""

    unet: UNet2DConditionModel
    tokenizer: CLIPTokenizer
    scheduler: Any
    denoiser: Final = "unet"

    @property
    def text_encoder(self) -> CLIPTextModel:
        """The text encoder, loaded when needed."""
        return self.text_part("text_encoder")

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """UNet and text encoder."""
        return {"unet": self.unet, "text_encoder": self.text_encoder}

    @property
    def objective(self) -> Diffusion:
        """What the UNet answers."""
        return self.diffusion

    @cached_property
    def diffusion(self) -> Diffusion:
        """Noise (1.x) or velocity (2.x and the starter), at the scheduler's own levels."""
        kind: str = self.scheduler.config.prediction_type
        if kind not in {"epsilon", "v_prediction"}:
            raise UserError(f"{self.source} answers {kind!r}; mascot trains epsilon and v_prediction bases.")
        return Diffusion(self.scheduler.alphas_cumprod.to(self.device), cast("Literal['epsilon', 'v_prediction']", kind))

    @property
    def multiple(self) -> int:
        """Sides divide by this, so that every level of the UNet has whole cells."""
        return self.factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    @property
    def resolution(self) -> int:
        """The side the base was trained at."""
        return int(self.unet.config["sample_size"]) * self.factor

    def adaptable(self, part: str, layers: str) -> list[str]:
        """Names of linear and convolution layers of `unet` or `text_encoder` in a set: attention, transformer or all."""
        if layers not in LAYERS:
            raise UserError(f"unknown layer set {layers!r}{suggest(layers, LAYERS)}")
        ends = tuple(f".{end}" for end in LAYERS[layers][part])
        return [
            name for name, module in self.parts[part].named_modules() if name.endswith(ends) and isinstance(module, nn.Linear | nn.Conv2d)
        ]

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """The text encoder's last hidden states, padded to full length; framings are not told to this family."""
        del framings
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
        return {"encoder_hidden_states": self.text_encoder(ids.to(self.device)).last_hidden_state}

    def predict(self, noisy_BCHW: Tensor, level_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the UNet once; the answer is float32."""
        states = conditioning["encoder_hidden_states"].to(self.dtype)
        answer = self.unet(noisy_BCHW.to(self.device, self.dtype), level_B, encoder_hidden_states=states, return_dict=False)[0]
        return answer.float()

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

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with both ends, and how many are heard."""
        return len(self.tokenizer(prompt).input_ids), int(self.tokenizer.model_max_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class StableDiffusion:
    """One loaded base of this family."""

    identity: str
    stages: tuple[Stage, ...]
    name: str = NAME


def load(source: str, *, device: str, precision: Precision) -> StableDiffusion:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    dtype = DTYPES[precision]
    dropped = {} if Path(source).is_file() else {"feature_extractor": None, "image_encoder": None}
    pipeline = open_pipeline(StableDiffusionPipeline, source, **OPTIONS, **dropped)
    encoders, tokenizers = {"text_encoder": pipeline.text_encoder}, {"text_encoder": pipeline.tokenizer}
    check_whole(source, [pipeline.unet, pipeline.vae], encoders, tokenizers)
    parts: dict[str, nn.Module] = {"vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    kinds: Mapping[str, Any] = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    unet = pipeline.unet.to(device).eval().requires_grad_(requires_grad=False)
    unet = unet if dtype == torch.float32 else unet.to(dtype)
    if device == "cpu":
        # The backward pass of torch's fused attention is slow on CPUs for the short sequences of small bases.
        unet.set_attn_processor(AttnProcessor())
    single = {"safety_checker": None} if Path(source).is_file() else {}
    stage = StableDiffusionStage(
        source=source,
        device=torch.device(device),
        dtype=dtype,
        unet=unet,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        load_part=lambda name: parts.pop(name, None) or reload_part(StableDiffusionPipeline, source, name, kinds[name], **single),
    )
    return StableDiffusion(identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
