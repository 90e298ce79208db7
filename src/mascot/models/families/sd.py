"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), and the embedded starter.

One CLIP text encoder conditions a UNet in latent space, which predicts noise or velocity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from torch import Tensor

from mascot.diffusion.prompt_chunks import Chunk, join_states
from mascot.models.base_files.base_reading import DIFFUSION, BaseReading
from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily, check_clip_skip
from mascot.models.unet_stage import UNetStage
from mascot.protocols import Conditioning, Framing

NAME = "sd"
ENCODER = "text_encoder"
CHUNKED = (ENCODER,)
PARTS = ("unet", "vae", "text_encoder")
READINGS = (*DIFFUSION, "clip_skip")
LAYOUT = PipelineLayout(
    pipeline_class=StableDiffusionPipeline,
    denoiser="unet",
    clip_encoders=("text_encoder",),
    options={
        "safety_checker": None,
        "requires_safety_checker": False,
        "feature_extractor": None,
        "image_encoder": None,
    },
)


@dataclass(kw_only=True)
class StableDiffusionStage(UNetStage):
    """The only stage of a Stable Diffusion base."""

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Return the text encoder's last hidden states, padded to full length.

        With clip skip the states of an earlier layer pass through the last normalization instead.
        """
        del framings
        return {"encoder_hidden_states": self.states(self.read_clip(ENCODER, prompts))}

    def states(self, output: Any) -> Tensor:
        """Return the states in a text encoder's output that the UNet reads. Shape B x N x D."""
        if self.clip_skip:
            encoder = self.text_encoder(ENCODER)
            normalize = getattr(encoder, "text_model", encoder).final_layer_norm
            return normalize(output.hidden_states[-1 - self.clip_skip])
        return output.last_hidden_state

    @property
    def chunk_lengths(self) -> Mapping[str, int]:
        """The most tokens of a chunk."""
        return {name: self.chunk_length(name) for name in CHUNKED}

    def condition_chunks(self, text: str, chunks: Mapping[str, Sequence[Chunk]], framing: Framing) -> Conditioning:
        """Return the weighted states of all chunks (see `ReadsChunks`)."""
        del text, framing
        outputs = self.read_chunks(ENCODER, chunks[ENCODER])
        return {"encoder_hidden_states": join_states([self.states(output) for output in outputs], chunks[ENCODER])}

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the UNet once; the prediction is float32."""
        return self.run_unet(noisy_BCHW, timestep_B, conditioning["encoder_hidden_states"], image=conditioning)

    def truncations(self, prompt: str) -> Mapping[str, tuple[int, int, str]]:
        """Return what the text encoder leaves out of a prompt."""
        return self.truncations_in(prompt, {ENCODER: None})


def load(source: str, *, device: str, precision: Precision, reading: BaseReading) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable, or cannot be read so.
    """
    stage = StableDiffusionStage.open(LAYOUT, source, device=device, dtype=DTYPES[precision])
    stage.inpainting_pipeline = StableDiffusionInpaintPipeline
    stage.use_plain_attention()
    identity = stage.read_as(reading, fingerprint(weight_files(source, PARTS)))
    check_clip_skip(stage, stage.clip_skip)
    return LoadedFamily(name=NAME, identity=identity, stages=(stage,))
