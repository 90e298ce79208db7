"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): two CLIPs and a T5 tell a transformer that follows a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from mascot.families import Precision, fingerprint
from mascot.flows import FlowStage
from mascot.pipelines import DTYPES, Autoencoder, check_whole, open_pipeline, reload_part, weight_files
from mascot.protocols import Conditioning, Framing, Stage

NAME = "sd3"
CLIPS = ("text_encoder", "text_encoder_2")
PARTS = ("transformer", "vae", *CLIPS, "text_encoder_3")
KINDS: Mapping[str, Any] = {
    "vae": AutoencoderKL, "text_encoder": CLIPTextModelWithProjection, "text_encoder_2": CLIPTextModelWithProjection,
    "text_encoder_3": T5EncoderModel,
}  # fmt: skip
T5_LENGTH = 256
"""Tokens of a prompt that the T5 hears (the pipeline's own default)."""
ATTENTION = (*(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),)
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION, "transformer": (*ATTENTION, *FEED_FORWARD),
    "all": (*ATTENTION, *FEED_FORWARD, "norm1.linear", "norm1_context.linear", "proj_out"),
}  # fmt: skip


@dataclass(kw_only=True)
class StableDiffusion3Stage(FlowStage):
    """The one stage."""

    tokenizers: Mapping[str, Any]
    """Text encoder's name -> its tokenizer; a base that leaves its T5 out has two."""

    @property
    def resolution(self) -> int:
        """The side the base was trained at."""
        return int(self.transformer.config.sample_size) * self.factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels and cells of the noise."""
        return int(self.transformer.config.in_channels), height // self.factor, width // self.factor

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Both CLIPs' last but one states side by side, widened to the T5's, before the T5's states; both pooled projections.

        Where a base leaves its T5 out, zeros stand in for it, as in training (Esser et al. 2024, section 5.3.3).
        """
        del framings
        answers = [self.read_clip(name, self.tokenizers[name], prompts) for name in CLIPS]
        states = torch.cat([answer.hidden_states[-2] for answer in answers], dim=-1)
        if "text_encoder_3" in self.tokenizers:
            long = self.read_t5("text_encoder_3", self.tokenizers["text_encoder_3"], prompts, T5_LENGTH)
        else:
            length = self.tokenizers["text_encoder"].model_max_length
            long = torch.zeros(len(prompts), length, int(self.transformer.config.joint_attention_dim), device=self.device)
        states = F.pad(states, (0, long.shape[-1] - states.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([states, long.to(states)], dim=-2),
            "pooled_projections": torch.cat([answer.text_embeds for answer in answers], dim=-1),
        }

    def predict(self, noisy_BCHW: Tensor, level_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the transformer once; the answer is float32."""
        answer = self.transformer(
            hidden_states=noisy_BCHW.to(self.device, self.dtype),
            timestep=level_B.to(self.device),
            encoder_hidden_states=conditioning["encoder_hidden_states"].to(self.dtype),
            pooled_projections=conditioning["pooled_projections"].to(self.dtype),
            return_dict=False,
        )[0]
        return answer.float()

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with its ends, and how many are heard: by the T5 where there is one, as it hears most."""
        if "text_encoder_3" in self.tokenizers:
            return len(self.tokenizers["text_encoder_3"](prompt).input_ids), T5_LENGTH
        tokenizer = self.tokenizers["text_encoder"]
        return len(tokenizer(prompt).input_ids), int(tokenizer.model_max_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class StableDiffusion3:
    """One loaded base of this family."""

    identity: str
    stages: tuple[Stage, ...]
    name: str = NAME


def load(source: str, *, device: str, precision: Precision) -> StableDiffusion3:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    dtype = DTYPES[precision]
    pipeline = open_pipeline(StableDiffusion3Pipeline, source)
    tokenizers = {"text_encoder": pipeline.tokenizer, "text_encoder_2": pipeline.tokenizer_2, "text_encoder_3": pipeline.tokenizer_3}
    parts: dict[str, nn.Module] = {name: module for name in KINDS if (module := getattr(pipeline, name)) is not None}
    tokenizers = {name: tokenizer for name, tokenizer in tokenizers.items() if name in parts}
    encoders = {name: module for name, module in parts.items() if name != "vae"}
    check_whole(source, [pipeline.transformer, pipeline.vae], encoders, {name: tokenizers[name] for name in CLIPS})

    def load_part(name: str) -> nn.Module:
        return parts.pop(name, None) or reload_part(StableDiffusion3Pipeline, source, name, KINDS[name])

    stage = StableDiffusion3Stage(
        source=source,
        device=torch.device(device),
        dtype=dtype,
        transformer=pipeline.transformer.to(device, dtype).eval().requires_grad_(requires_grad=False),
        tokenizers=tokenizers,
        scheduler=pipeline.scheduler,
        encoders=CLIPS,
        layers=LAYERS,
        patch=int(pipeline.transformer.config.patch_size),
        pictures=Autoencoder(load=lambda: load_part("vae"), device=torch.device(device)),
        load_text=load_part,
    )
    return StableDiffusion3(identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
