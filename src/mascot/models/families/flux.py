"""FLUX.1 (Black Forest Labs 2024): a CLIP's pooled answer and a T5 tell a transformer that follows a flow over packed latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import FluxPipeline
from torch import Tensor

from mascot.models.flow_stage import FlowStage
from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily
from mascot.protocols import Conditioning, Framing

NAME = "flux"


CLIP, T5 = "text_encoder", "text_encoder_2"


PARTS = ("transformer", "vae", CLIP, T5)


LAYOUT = PipelineLayout(kind=FluxPipeline, denoiser="transformer", clips=(CLIP,), listeners=(T5,))


RESOLUTION = 1024
"""The side these bases were trained at; their transformer does not say."""


ATTENTION = (
    *(
        f"attn.{name}"
        for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    ),
)


FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out")


LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION, "transformer": (*ATTENTION, *FEED_FORWARD),
    "all": (*ATTENTION, *FEED_FORWARD, "norm.linear", "norm1.linear", "norm1_context.linear"),
}  # fmt: skip


def pack(latents_BCHW: Tensor) -> Tensor:
    """Put each 2 x 2 cells into one token: B x (H/2 x W/2) x 4C."""
    count, channels, height, width = latents_BCHW.shape
    cells = latents_BCHW.view(count, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(count, height // 2 * (width // 2), channels * 4)


def unpack(tokens_BND: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`; height and width in latent cells."""
    count, _, depth = tokens_BND.shape
    cells = tokens_BND.view(count, height // 2, width // 2, depth // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(count, depth // 4, height, width)


def position_ids(height: int, width: int, device: torch.device) -> Tensor:
    """N x 3: row and column of each token, after a 0."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float().to(device)


@dataclass(kw_only=True)
class FluxStage(FlowStage):
    """The one stage."""

    @property
    def resolution(self) -> int:
        """The side the base was trained at."""
        return RESOLUTION

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels and cells of the noise, before they are packed."""
        return int(self.transformer.config.in_channels) // 4, height // self.factor, width // self.factor

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """The T5's states and the CLIP's pooled answer."""
        del framings
        return {
            "encoder_hidden_states": self.read_t5(T5, prompts),
            "pooled_projections": self.read_clip(CLIP, prompts).pooler_output,
        }

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the transformer once; the answer is float32. Told no guidance scale, it is asked at 1, as in training."""
        height, width = noisy_BCHW.shape[-2:]
        dtype = self.dtype_of(self.transformer)
        states = conditioning["encoder_hidden_states"].to(dtype)
        guidance = conditioning.get("guidance", torch.ones(len(noisy_BCHW)))
        prediction = self.transformer(
            hidden_states=pack(noisy_BCHW.to(self.device, dtype)),
            timestep=timestep_B.to(self.device) / len(self.flow.timesteps_T),
            guidance=guidance.to(self.device, torch.float32) if self.embeds_guidance else None,
            encoder_hidden_states=states,
            pooled_projections=conditioning["pooled_projections"].to(dtype),
            txt_ids=torch.zeros(states.shape[1], 3, device=self.device),
            img_ids=position_ids(height, width, self.device),
            return_dict=False,
        )[0]
        return unpack(prediction.float(), height, width)

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with its end, and how many the T5 hears."""
        return self.count_tokens(T5, prompt)


def load(source: str, *, device: str, precision: Precision) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    stage = FluxStage.open(LAYOUT, source, device=device, dtype=DTYPES[precision], layers=LAYERS, packing=2)
    return LoadedFamily(name=NAME, identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
