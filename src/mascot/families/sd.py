"""Stable Diffusion 1.x and 2.x, and the embedded starter: one CLIP text encoder, a UNet in latent space, noise or velocity answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from mascot.errors import UserError, suggest
from mascot.families import Precision, fingerprint
from mascot.objectives import Diffusion
from mascot.protocols import Conditioning, Framing, Latents, Solver, Stage

NAME = "sd"
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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


@dataclass(kw_only=True)
class StableDiffusionStage:
    """The one stage. The autoencoder and the text encoder are loaded when first needed and can be let go."""

    source: str
    device: torch.device
    dtype: torch.dtype
    unet: UNet2DConditionModel
    tokenizer: CLIPTokenizer
    scheduler: Any
    load_part: Callable[[str], nn.Module]
    loaded: dict[str, Any] = field(default_factory=dict[str, Any])
    denoiser: Final = "unet"

    @property
    def vae(self) -> Any:
        """The autoencoder, loaded when needed; in float32 on an accelerator too, where half precision turns pictures black."""
        if "vae" not in self.loaded:
            self.loaded["vae"] = self.load_part("vae").to(self.device).eval().requires_grad_(requires_grad=False)
        return self.loaded["vae"]  # diffusers annotates its answers as tuples, which they are not

    @property
    def text_encoder(self) -> CLIPTextModel:
        """The text encoder, loaded when needed."""
        if "text_encoder" not in self.loaded:
            module = self.load_part("text_encoder").to(self.device, self.dtype)
            self.loaded["text_encoder"] = module.eval().requires_grad_(requires_grad=False)
        return cast("CLIPTextModel", self.loaded["text_encoder"])

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

    @cached_property
    def factor(self) -> int:
        """Pixels to a latent, along a side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

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

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Encode pixels in -1..1, one picture at a time, to scaled latents."""
        scale = float(self.vae.config["scaling_factor"])
        posteriors = [self.vae.encode(pixels[None].to(self.device, torch.float32)).latent_dist for pixels in pixels_BCHW]
        mean = torch.cat([posterior.mean for posterior in posteriors])
        return Latents(mean_BCHW=mean * scale, deviation_BCHW=torch.cat([posterior.std for posterior in posteriors]) * scale)

    @torch.no_grad()
    def decode(self, x0_BCHW: Tensor) -> Tensor:
        """Decode latents to pixels in 0..1, one picture at a time, so that the batch cannot change a picture."""
        scale = float(self.vae.config["scaling_factor"])
        rows = [self.vae.decode(x0[None].float() / scale).sample for x0 in x0_BCHW]
        return (torch.cat(rows) / 2 + 0.5).clamp(0, 1)

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

    def release_encoders(self, *, text: bool) -> None:
        """Drop the autoencoder, and the text encoder on request; they are read from the base again when needed."""
        _ = self.factor
        self.loaded.pop("vae", None)
        if text:
            self.loaded.pop("text_encoder", None)


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
    path = Path(source)
    options: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False, "dtype": torch.float32}
    try:
        if path.is_file():
            pipeline = StableDiffusionPipeline.from_single_file(source, **options)
        else:
            options |= {"feature_extractor": None, "image_encoder": None, "local_files_only": path.is_dir(), "use_safetensors": True}
            pipeline = StableDiffusionPipeline.from_pretrained(source, **options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"the base {source} cannot be loaded ({reason}); check that it is a complete Stable Diffusion model.") from error
    check_whole(source, pipeline)
    parts: dict[str, nn.Module] = {"vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    unet = pipeline.unet.to(device).eval().requires_grad_(requires_grad=False)
    unet = unet if dtype == torch.float32 else unet.to(dtype)
    if device == "cpu":
        # The backward pass of torch's fused attention is slow on CPUs for the short sequences of small bases.
        unet.set_attn_processor(AttnProcessor())
    stage = StableDiffusionStage(
        source=source,
        device=torch.device(device),
        dtype=dtype,
        unet=unet,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        load_part=lambda name: parts.pop(name, None) or reload(source, name),
    )
    return StableDiffusion(identity=fingerprint(weight_files(source)), stages=(stage,))


def check_whole(source: str, pipeline: Any) -> None:
    """Refuse what the libraries fill in silence: weights that a file lacks, a tokenizer that is not there."""
    missing = [name for part in (pipeline.unet, pipeline.vae) for name, weight in part.named_parameters() if weight.is_meta]
    names = {name for file in weight_files(source) if file.parent.name == "text_encoder" for name in tensor_names(file)}
    if names and len(names) < len(list(pipeline.text_encoder.parameters())):
        missing.append("text_encoder")
    if pipeline.tokenizer.model_max_length > pipeline.text_encoder.config.max_position_embeddings:
        missing.append("tokenizer")
    if missing:
        raise UserError(f"the base {source} cannot be loaded ({missing[0]} is not whole); download it again.")


def tensor_names(file: Path) -> list[str]:
    """What a .safetensors file holds, without reading it."""
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def reload(source: str, name: str) -> nn.Module:
    """Read one part of a base again."""
    kinds: dict[str, Any] = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    if Path(source).is_file():
        return getattr(StableDiffusionPipeline.from_single_file(source, safety_checker=None, dtype=torch.float32), name)
    options: dict[str, Any] = {
        "subfolder": name,
        "use_safetensors": True,
        "local_files_only": Path(source).is_dir(),
        "dtype": torch.float32,
    }
    return kinds[name].from_pretrained(source, **options)


def weight_files(source: str) -> list[Path]:
    """The files whose bytes make a base what it is; a hub id's lie in the hub's local cache."""
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(source, local_files_only=True, allow_patterns=["*.safetensors", "*.json"]))
    weights = [file for part in ("unet", "vae", "text_encoder") for file in sorted((path / part).glob("*.safetensors"))]
    return [*weights, path / "scheduler" / "scheduler_config.json"]  # it says what the answers mean
