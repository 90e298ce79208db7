"""Tiny random-weight base models of the other families, as pipeline folders."""

# diffusers and transformers annotate some arguments by their defaults: a tuple of one, never None.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    IFPipeline,
    IFSuperResolutionPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from tiny.stable_diffusion import SIDE, WIDTH, WORDS, text_config, tiny_clip_tokenizer


def tiny_t5_tokenizer(positions: int = 32) -> T5Tokenizer:
    """Make a unigram tokenizer over a few words and every letter."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-_<>"
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [("▁" + word, -3.0) for word in WORDS if len(word) > 1] + [(letter, -6.0) for letter in letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=positions)


def tiny_t5(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    """Make a T5 encoder of two layers."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_ff=2 * width,
        d_kv=8,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config).eval()


def tiny_autoencoder(**options: Any) -> AutoencoderKL:
    """Make an autoencoder of two levels, so latents have half of the side."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
        **options,
    )


def make_sdxl() -> StableDiffusionXLPipeline:
    """Make an SDXL: two text encoders, six numbers of framing."""
    one, two = tiny_clip_tokenizer(), tiny_clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIDE // 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1),
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + WIDTH,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(
        vae=tiny_autoencoder(),
        text_encoder=CLIPTextModel(text_config(one)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(two, hidden_act="gelu")),
        tokenizer=one,
        tokenizer_2=two,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def make_sd3() -> StableDiffusion3Pipeline:
    """Make an SD3: two CLIP text encoders and a T5."""
    one, two, three = tiny_clip_tokenizer(), tiny_clip_tokenizer(), tiny_t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
        pos_embed_max_size=64,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModelWithProjection(text_config(one)),
        tokenizer=one,
        text_encoder_2=CLIPTextModelWithProjection(text_config(two)),
        tokenizer_2=two,
        text_encoder_3=tiny_t5(three, 2 * WIDTH),
        tokenizer_3=three,
    )


def make_flux(*, guidance_embeds: bool = True) -> FluxPipeline:
    """Make a FLUX.1 dev, whose transformer takes the guidance scale as input, or else schnell."""
    one, two = tiny_clip_tokenizer(), tiny_t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=guidance_embeds, shift=3.0 if guidance_embeds else 1.0
        ),
        vae=tiny_autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModel(text_config(one)),
        tokenizer=one,
        text_encoder_2=tiny_t5(two, WIDTH),
        tokenizer_2=two,
        transformer=transformer,
    )


def tiny_pixel_denoiser(**options: Any) -> UNet2DConditionModel:
    """Make one of IF's UNets: pixels in, six channels predicted."""
    return UNet2DConditionModel(
        out_channels=6,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=32,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        **options,
    )


def tiny_pixel_scheduler() -> DDPMScheduler:
    """Make a scheduler with the noise schedule of IF's UNets."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )


def make_deepfloyd_if() -> IFPipeline:
    """Make IF's first stage."""
    tokenizer = tiny_t5_tokenizer(77)
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_t5(tokenizer, WIDTH),
        unet=tiny_pixel_denoiser(sample_size=SIDE, in_channels=3),
        scheduler=tiny_pixel_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def make_second_stage() -> IFSuperResolutionPipeline:
    """Make IF's second stage: twice the side, no text encoder, as in its usual download."""
    return IFSuperResolutionPipeline(
        tokenizer=None,
        text_encoder=None,
        unet=tiny_pixel_denoiser(sample_size=2 * SIDE, in_channels=6, class_embed_type="timestep"),
        scheduler=tiny_pixel_scheduler(),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


MAKERS: Mapping[str, Callable[[], Any]] = {
    "sdxl": make_sdxl,
    "sd3": make_sd3,
    "flux": make_flux,
    "deepfloyd_if": make_deepfloyd_if,
}
"""Family -> the function that makes its tiny pipeline."""

CASCADES: Mapping[str, tuple[Callable[[], Any], ...]] = {"deepfloyd_if_cascade": (make_deepfloyd_if, make_second_stage)}
"""Base of several stages, which has no family of its own -> the function for each stage."""


def tiny_base(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a base of one family into `folder` and return the folder; a seed fixes the bytes.

    The stages of a cascade get a folder each (`1`, `2`). Their paths are returned joined with `+`,
    as users name a base of several stages.
    """
    if name in CASCADES:
        stages = [_written(make, folder / str(number), seed) for number, make in enumerate(CASCADES[name], 1)]
        return Path("+".join(map(str, stages)))
    return _written(MAKERS[name], folder, seed)


def _written(make: Callable[[], Any], folder: Path, seed: int) -> Path:
    """Write a pipeline of seeded weights into a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = make()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.save_pretrained(folder)
    return folder


def pipeline_options(name: str, noise: Tensor, *, steps: int, guidance: float) -> dict[str, Any]:
    """Make the options with which a pipeline of diffusers starts from given noise, at 64 pixels."""
    options: dict[str, Any] = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "height": 64,
        "width": 64,
        "output_type": "np",
    }
    if name == "flux":
        from mascot.models.families.flux import pack

        return options | {"latents": pack(noise), "max_sequence_length": 32}
    return options | {"latents": noise, "negative_prompt": ""}
