"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): two CLIPs and a T5 tell a transformer that follows a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor
from torch.nn import functional as F

from mascot.models.flow_stage import FlowStage
from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily
from mascot.protocols import Conditioning, Framing

NAME = "sd3"


CLIPS = ("text_encoder", "text_encoder_2")


T5 = "text_encoder_3"


PARTS = ("transformer", "vae", *CLIPS, T5)


LAYOUT = PipelineLayout(
    kind=StableDiffusion3Pipeline, denoiser="transformer", clips=CLIPS, listeners=(T5,), dispensable=(T5,)
)


T5_LENGTH = 256
"""Tokens of a prompt that the T5 hears (the pipeline's own default)."""


ATTENTION = (
    *(
        f"attn.{name}"
        for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    ),
)


FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")


LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION, "transformer": (*ATTENTION, *FEED_FORWARD),
    "all": (*ATTENTION, *FEED_FORWARD, "norm1.linear", "norm1_context.linear", "proj_out"),
}  # fmt: skip


@dataclass(kw_only=True)
class StableDiffusion3Stage(FlowStage):
    """The one stage."""

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
        answers = [self.read_clip(name, prompts) for name in CLIPS]
        states = torch.cat([prediction.hidden_states[-2] for prediction in answers], dim=-1)
        if T5 in self.tokenizers:
            long = self.read_t5(T5, prompts, T5_LENGTH)
        else:
            length = self.tokenizers["text_encoder"].model_max_length
            long = torch.zeros(
                len(prompts), length, int(self.transformer.config.joint_attention_dim), device=self.device
            )
        states = F.pad(states, (0, long.shape[-1] - states.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([states, long.to(states)], dim=-2),
            "pooled_projections": torch.cat([prediction.text_embeds for prediction in answers], dim=-1),
        }

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the transformer once; the answer is float32."""
        dtype = self.dtype_of(self.transformer)
        prediction = self.transformer(
            hidden_states=noisy_BCHW.to(self.device, dtype),
            timestep=timestep_B.to(self.device),
            encoder_hidden_states=conditioning["encoder_hidden_states"].to(dtype),
            pooled_projections=conditioning["pooled_projections"].to(dtype),
            return_dict=False,
        )[0]
        return prediction.float()

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with its ends, and how many are heard: by the T5 where there is one, as it hears most."""
        return (
            self.count_tokens(T5, prompt, T5_LENGTH)
            if T5 in self.tokenizers
            else self.count_tokens("text_encoder", prompt)
        )


def load(source: str, *, device: str, precision: Precision) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    stage = StableDiffusion3Stage.open(LAYOUT, source, device=device, dtype=DTYPES[precision], layers=LAYERS)
    return LoadedFamily(name=NAME, identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
