"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206), flow-matching transformers.

Two CLIPs and a T5 condition the transformer; some bases leave the T5 out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor
from torch.nn import functional as F

from mascot.diffusion.prompt_chunks import Chunk, join_states
from mascot.models.adaptable_layers import JOINT_ATTENTION, JOINT_FEED_FORWARD
from mascot.models.base_files.base_reading import BaseReading
from mascot.models.flow_stage import FlowStage
from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily, check_clip_skip
from mascot.protocols import Conditioning, Framing

NAME = "sd3"
CLIPS = ("text_encoder", "text_encoder_2")
T5 = "text_encoder_3"
CHUNKED = CLIPS
PARTS = ("transformer", "vae", *CLIPS, T5)
READINGS = ("clip_skip",)
LAYOUT = PipelineLayout(
    pipeline_class=StableDiffusion3Pipeline,
    denoiser="transformer",
    clip_encoders=CLIPS,
    frozen_encoders=(T5,),
    optional_encoders=(T5,),
)

T5_LENGTH = 256
"""Tokens of a prompt that the T5 reads (the pipeline's own default)."""

LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": JOINT_ATTENTION,
    "transformer": (*JOINT_ATTENTION, *JOINT_FEED_FORWARD),
    "all": (*JOINT_ATTENTION, *JOINT_FEED_FORWARD, "norm1.linear", "norm1_context.linear", "proj_out"),
}
"""Name of a layer set -> the endings of the names of the transformer's layers in it."""


@dataclass(kw_only=True)
class StableDiffusion3Stage(FlowStage):
    """The only stage of a Stable Diffusion 3 base."""

    clip_skip: int = 0
    """Last layers of the CLIP text encoders that are skipped."""

    @property
    def resolution(self) -> int:
        """The side that the base was trained at, in pixels."""
        return int(self.transformer.config.sample_size) * self.factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape C, H, W of the noise for an image of some pixels."""
        return int(self.transformer.config.in_channels), height // self.factor, width // self.factor

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Return the hidden states of all encoders, and both CLIPs' pooled projections.

        The last but one states of the CLIPs, or earlier ones by clip skip, are joined along the
        width and padded to the T5's width. The T5's states follow them. Where a base leaves its T5
        out, zeros replace them, as in training (Esser et al. 2024, section 5.3.3). Framings are not
        used.
        """
        del framings
        outputs = [self.read_clip(name, prompts) for name in CLIPS]
        return self.join(
            [self.states(output) for output in outputs], [output.text_embeds for output in outputs], prompts
        )

    def states(self, output: Any) -> Tensor:
        """Return the states in a CLIP's output that the transformer reads. Shape B x N x D."""
        return output.hidden_states[-2 - self.clip_skip]

    def join(self, clip_states: Sequence[Tensor], pooled: Sequence[Tensor], prompts: Sequence[str]) -> Conditioning:
        """Join both CLIPs' states and pooled projections, and add the T5's states of prompts."""
        states = torch.cat([*clip_states], dim=-1)
        if T5 in self.tokenizers:
            t5_states = self.read_t5(T5, prompts, T5_LENGTH)
        else:
            length = self.tokenizers["text_encoder"].model_max_length
            width = int(self.transformer.config.joint_attention_dim)
            t5_states = torch.zeros(len(prompts), length, width, device=self.device)
        states = F.pad(states, (0, t5_states.shape[-1] - states.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([states, t5_states.to(states)], dim=-2),
            "pooled_projections": torch.cat([*pooled], dim=-1),
        }

    @property
    def chunk_lengths(self) -> Mapping[str, int]:
        """The most tokens of a chunk, by CLIP; the T5 reads one text of `T5_LENGTH` tokens."""
        return {name: self.chunk_length(name) for name in CHUNKED}

    def condition_chunks(self, text: str, chunks: Mapping[str, Sequence[Chunk]], framing: Framing) -> Conditioning:
        """Return the CLIPs' weighted states of all chunks, and the T5's states of the text.

        The pooled projections are those of the first chunk. The T5 reads no weights, as in A1111.
        """
        del framing
        outputs = {name: self.read_chunks(name, chunks[name]) for name in CLIPS}
        states = [join_states([self.states(one) for one in outputs[name]], chunks[name]) for name in CLIPS]
        return self.join(states, [outputs[name][0].text_embeds for name in CLIPS], [text])

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the transformer once; the prediction is float32."""
        dtype = self.dtype_of(self.transformer)
        prediction = self.transformer(
            hidden_states=noisy_BCHW.to(self.device, dtype),
            timestep=timestep_B.to(self.device),
            encoder_hidden_states=conditioning["encoder_hidden_states"].to(dtype),
            pooled_projections=conditioning["pooled_projections"].to(dtype),
            return_dict=False,
        )[0]
        return prediction.float()

    def truncations(self, prompt: str) -> Mapping[str, tuple[int, int, str]]:
        """Return what each text encoder leaves out of a prompt."""
        return self.truncations_in(prompt, {name: T5_LENGTH if name == T5 else None for name in self.tokenizers})


def load(source: str, *, device: str, precision: Precision, reading: BaseReading) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    stage = StableDiffusion3Stage.open(LAYOUT, source, device=device, dtype=DTYPES[precision], layers=LAYERS)
    stage.clip_skip = reading.clip_skip
    check_clip_skip(stage, reading.clip_skip, last=2)
    identity = reading.identify(fingerprint(weight_files(source, PARTS)), stage.scheduler, stage.scheduler)
    return LoadedFamily(name=NAME, identity=identity, stages=(stage,))
