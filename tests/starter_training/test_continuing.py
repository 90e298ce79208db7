"""Training that continues from earlier weights: tokens, latent channels, scales of latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from starter_training.models.autoencoder import equalize, latent_loss, make_autoencoder
from starter_training.models.base import continue_unet
from starter_training.models.tokenizer import POSITIONS, copy_weights, train_byte_pairs


def make_text_encoder(tokenizer: CLIPTokenizer, seed: int) -> CLIPTextModel:
    torch.manual_seed(seed)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=POSITIONS,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


def states(text: CLIPTextModel, tokenizer: CLIPTokenizer, caption: str) -> Tensor:
    ids = tokenizer(caption, return_tensors="pt").input_ids
    with torch.no_grad():
        return text(ids).last_hidden_state


def test_a_new_tokenizer_keeps_what_the_text_encoder_knows() -> None:
    """Captions of known tokens have the same states; a new word is the mean of its old tokens."""
    former = train_byte_pairs(["a dog on the beach", "a cat"] * 50)
    tokenizer = train_byte_pairs(["a sloth on the beach", "a dog", "a cat"] * 50)
    earlier, text = make_text_encoder(former, 1), make_text_encoder(tokenizer, 2)
    copy_weights(text, earlier, tokenizer, former)
    caption = "a dog on the beach"
    assert tokenizer(caption).input_ids != former(caption).input_ids
    torch.testing.assert_close(states(text, tokenizer, caption), states(earlier, former, caption))
    [whole], pieces = tokenizer.tokenize("sloth"), former.tokenize("sloth")
    assert len(pieces) > 1
    rows: Any = text.get_input_embeddings().weight
    before: Any = earlier.get_input_embeddings().weight
    expected = before[former.convert_tokens_to_ids(pieces)].mean(0)
    torch.testing.assert_close(rows[tokenizer.convert_tokens_to_ids(whole)], expected)


def make_unet(channels: int, seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    ).eval()


def test_new_latent_channels_change_nothing_at_first() -> None:
    """The known channels are predicted as before, whatever the new ones hold; these as zero."""
    earlier, unet = make_unet(4, 1), make_unet(6, 2)
    continue_unet(unet, earlier)
    noisy, states_BND = torch.randn(2, 6, 4, 4), torch.randn(2, 3, 8)
    with torch.no_grad():
        expected = earlier(noisy[:, :4], 10, states_BND).sample
        found = unet(noisy, 10, states_BND).sample
    torch.testing.assert_close(found[:, :4], expected)
    assert found[:, 4:].abs().max() == 0


@pytest.fixture
def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return make_autoencoder().eval()


@pytest.mark.parametrize("kept", [0, 4])
def test_equal_scales_leave_images_as_they_are(autoencoder: AutoencoderKL, kept: int) -> None:
    """Every channel gets the standard deviation of the kept ones, or of all; images stay."""
    pixels = torch.rand(4, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        before = autoencoder.encode(pixels).latent_dist
        image = autoencoder.decode(before.mean).sample
        equalize(autoencoder, before.mean, kept)
        after = autoencoder.encode(pixels).latent_dist
        again = autoencoder.decode(after.mean).sample
    torch.testing.assert_close(again, image, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        after.std / after.mean.std((0, 2, 3), keepdim=True), before.std / before.mean.std((0, 2, 3), keepdim=True)
    )
    usual = before.mean[:, :kept].std() if kept else before.mean.std()
    torch.testing.assert_close(after.mean.std((0, 2, 3))[kept:], usual.expand(8 - kept))
    torch.testing.assert_close(after.mean[:, :kept], before.mean[:, :kept])
    assert autoencoder.config.scaling_factor == pytest.approx(1 / usual.item(), abs=1e-5)


def test_latents_are_drawn_to_those_of_the_earlier_autoencoder(autoencoder: AutoencoderKL) -> None:
    """The loss is the distance to its latents of the image at half the size."""
    earlier = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
    ).eval()
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        target = earlier.encode(torch.nn.functional.avg_pool2d(pixels, 2)).latent_dist.mean
    means = torch.randn(2, 8, 16, 16)
    assert latent_loss(autoencoder, earlier, torch.cat([target, means[:, 4:]], 1), pixels) == 0
    expected = (means[:, :4] - target).square().mean()
    torch.testing.assert_close(latent_loss(autoencoder, earlier, means, pixels), expected)
