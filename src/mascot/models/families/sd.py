"""Stable Diffusion 1.x and 2.x, and the embedded starter: one CLIP text encoder, a UNet in latent space, noise or velocity answers."""

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
    kind=StableDiffusionPipeline,
    denoiser="unet",
    clips=("text_encoder",),
    options={
        "safety_checker": None,
        "requires_safety_checker": False,
        "feature_extractor": None,
        "image_encoder": None,
    },
)


@dataclass(kw_only=True)
class StableDiffusionStage(UNetStage):
    """The one stage."""

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """The text encoder's last hidden states, padded to full length; framings are not told to this family."""
        del framings
        return {"encoder_hidden_states": self.read_clip("text_encoder", prompts).last_hidden_state}

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the UNet once; the answer is float32."""
        return self.ask(noisy_BCHW, timestep_B, conditioning["encoder_hidden_states"])

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens of a prompt with both ends, and how many are heard."""
        return self.count_tokens("text_encoder", prompt)


def load(source: str, *, device: str, precision: Precision) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    stage = StableDiffusionStage.open(LAYOUT, source, device=device, dtype=DTYPES[precision])
    stage.attend_plainly()
    return LoadedFamily(name=NAME, identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
