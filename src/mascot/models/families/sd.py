"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), and the embedded starter.

One CLIP text encoder conditions a UNet in latent space, which predicts noise or velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers import StableDiffusionPipeline
from torch import Tensor

from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily
from mascot.models.unet_stage import UNetStage
from mascot.protocols import Conditioning, Framing

NAME = "sd"
PARTS = ("unet", "vae", "text_encoder")
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
        """Return the text encoder's last hidden states, padded to full length."""
        del framings
        return {"encoder_hidden_states": self.read_clip("text_encoder", prompts).last_hidden_state}

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the UNet once; the prediction is float32."""
        return self.run_unet(noisy_BCHW, timestep_B, conditioning["encoder_hidden_states"])

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Return the number of a prompt's tokens, start and end included, and how many are read."""
        return self.count_tokens("text_encoder", prompt)


def load(source: str, *, device: str, precision: Precision) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    stage = StableDiffusionStage.open(LAYOUT, source, device=device, dtype=DTYPES[precision])
    stage.use_plain_attention()
    return LoadedFamily(name=NAME, identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
