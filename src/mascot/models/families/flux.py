"""FLUX.1 (Black Forest Labs 2024), a flow-matching transformer on packed latents.

The states of a T5 and the pooled output of a CLIP condition it.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxPipeline
from torch import Tensor

from mascot.errors import UserError
from mascot.models.adaptable_layers import JOINT_ATTENTION, JOINT_FEED_FORWARD
from mascot.models.base_files.file_contents import read_contents
from mascot.models.flow_stage import FlowStage
from mascot.models.pipeline_files import DTYPES, PipelineLayout, Precision, fingerprint, weight_files
from mascot.models.pipeline_stage import LoadedFamily
from mascot.protocols import Conditioning, Framing
from mascot.storage.model_hub import hub_file
from mascot.storage.untrusted_files import read_json_object

NAME = "flux"
CLIP, T5 = "text_encoder", "text_encoder_2"
READINGS = ()
PARTS = ("transformer", "vae", CLIP, T5)
LAYOUT = PipelineLayout(
    pipeline_class=FluxPipeline, denoiser="transformer", clip_encoders=(CLIP,), frozen_encoders=(T5,)
)

SETTINGS = "transformer/config.json"
"""The settings that say whether the transformer reads the guidance scale."""

RESOLUTION = 1024
"""The side that these bases were trained at, in pixels; their transformer's settings lack it."""

T5_LENGTH = 512
"""The most tokens of a prompt that the T5 reads (the pipeline's own default)."""

FEED_FORWARD = (*JOINT_FEED_FORWARD, "proj_mlp", "proj_out")
LAYERS: Mapping[str, tuple[str, ...]] = {
    "attention": JOINT_ATTENTION,
    "transformer": (*JOINT_ATTENTION, *FEED_FORWARD),
    "all": (*JOINT_ATTENTION, *FEED_FORWARD, "norm.linear", "norm1.linear", "norm1_context.linear"),
}
"""Name of a layer set -> the endings of the names of the transformer's layers in it."""


def embeds_guidance(source: str) -> bool:
    """Tell from a base's settings whether it reads the guidance scale: dev does, schnell does not.

    Settings that cannot be read count as dev's: loading the base then says what is wrong.
    """
    path = Path(source)
    if path.is_file():
        return any("guidance_in." in name for name in read_contents(path).shapes)
    try:
        settings = path / SETTINGS if path.is_dir() else hub_file(source, SETTINGS)
        return bool(read_json_object(settings).get("guidance_embeds", False))
    except (UserError, OSError, ValueError):
        return True


def preset_name(source: str) -> str:
    """Return the name of the presets of a base: schnell has its own."""
    return NAME if embeds_guidance(source) else f"{NAME}_schnell"


def pack(latents_BCHW: Tensor) -> Tensor:
    """Pack each 2 x 2 latent cells into one token. Shape B x (H/2 x W/2) x 4C."""
    count, channels, height, width = latents_BCHW.shape
    cells = latents_BCHW.view(count, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(count, height // 2 * (width // 2), channels * 4)


def unpack(tokens_BND: Tensor, height: int, width: int) -> Tensor:
    """Unpack tokens to latents, the inverse of `pack`; height and width in latent cells."""
    count, _, depth = tokens_BND.shape
    cells = tokens_BND.view(count, height // 2, width // 2, depth // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(count, depth // 4, height, width)


def position_ids(height: int, width: int, device: torch.device) -> Tensor:
    """Return 0, row and column of each token of `height` x `width` latent cells. Shape N x 3."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float().to(device)


@dataclass(kw_only=True)
class FluxStage(FlowStage):
    """The only stage of a FLUX.1 base."""

    @property
    def t5_length(self) -> int:
        """Tokens of a prompt that the T5 reads: as its tokenizer says, if that is a real length."""
        return min(int(self.tokenizers[T5].model_max_length), T5_LENGTH)

    @property
    def resolution(self) -> int:
        """The side that the base was trained at, in pixels."""
        return RESOLUTION

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape C, H, W of the noise before packing, for an image of some pixels."""
        return int(self.transformer.config.in_channels) // 4, height // self.factor, width // self.factor

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Return the T5's states and the CLIP's pooled output; framings are not used."""
        del framings
        return {
            "encoder_hidden_states": self.read_t5(T5, prompts, self.t5_length),
            "pooled_projections": self.read_clip(CLIP, prompts).pooler_output,
        }

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the transformer once; the prediction is float32.

        Without `guidance` in the conditioning the guidance scale is 1, as in training.
        """
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

    def truncations(self, prompt: str) -> Mapping[str, tuple[int, int, str]]:
        """Return what each text encoder leaves out of a prompt."""
        return self.truncations_in(prompt, {CLIP: None, T5: self.t5_length})


def load(source: str, *, device: str, precision: Precision) -> LoadedFamily:
    """Load a folder, a single-file checkpoint or a hub id.

    Raises:
        UserError: the weights are missing, incomplete or unreadable.
    """
    own = {"layers": LAYERS, "packing": 2, "even_sigmas": True}
    stage = FluxStage.open(LAYOUT, source, device=device, dtype=DTYPES[precision], **own)
    return LoadedFamily(name=NAME, identity=fingerprint(weight_files(source, PARTS)), stages=(stage,))
