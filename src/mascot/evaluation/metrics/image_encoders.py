"""Image encoders: vision transformers such as DINO for identity, and CLIP for images and prompts.

Embeddings are unit vectors. Published tables use `facebook/dino-vits16` and
`openai/clip-vit-base-patch32`; folders of the same layout work too. Images are prepared by Pillow
and by `image_preprocessing`, so that no other library's version can change a score.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, CLIPModel, CLIPTokenizer

from mascot.errors import UserError, raise_unrelated, suggest
from mascot.evaluation.metrics.image_preprocessing import (
    Preprocessing,
    check_side,
    read_json,
    read_preprocessing,
    to_pixels,
)
from mascot.models.base_files.part_checks import check_finite, quiet_reading
from mascot.storage.model_hub import check_model_folder, only_local

BATCH_SIZE = 32
"""Images or prompts in one pass through an encoder."""

IDENTITY_KINDS: Mapping[str, Mapping[str, object]] = {
    "vit": {"add_pooling_layer": False},  # DINO has no pooler; a random one would change the fingerprint
    "dinov2": {},
    "dinov2_with_registers": {},
    "dinov3_vit": {},
}
"""Kinds of identity encoders (`model_type` in config.json), with options for loading each."""

FIXED_SIDE_KINDS = frozenset({"vit"})
"""Identity encoders whose position embeddings fit images of one side only, as CLIP's do."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityEncoder:
    """A vision transformer that embeds images of one subject near each other."""

    name: str
    """The hub id, or the folder's name."""
    fingerprint: str
    """A hash of the weights (see `fingerprint`)."""
    preprocessing: Preprocessing
    model: nn.Module
    device: torch.device
    leading: int
    """Number of tokens before the patches: the class token and registers."""

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed images by the class token of the last hidden state.

        Shape B x D, unit length, float32, on the CPU.

        Raises:
            ValueError: there are no images.
        """
        return _in_batches(images, lambda batch: self._states(batch)[:, 0])

    def patches(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed each patch of the images, row by row.

        Shape B x N x D, unit length, float32, on the CPU.

        Raises:
            ValueError: there are no images.
        """
        return _in_batches(images, lambda batch: self._states(batch)[:, self.leading :])

    def describe(self) -> str:
        """Describe encoder, weights and preprocessing in one line, for tables and cache keys."""
        return f"{self.name} (weights {self.fingerprint}): {self.preprocessing.describe()}"

    def _states(self, images: Sequence[Image.Image]) -> Tensor:
        return self.model(pixel_values=to_pixels(images, self.preprocessing).to(self.device)).last_hidden_state


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEncoder:
    """A CLIP model (Radford et al. 2021, arXiv 2103.00020), for images and prompts in one space."""

    name: str
    """The hub id, or the folder's name."""
    fingerprint: str
    """A hash of the weights (see `fingerprint`)."""
    preprocessing: Preprocessing
    model: Any  # transformers annotates the features as tuples, which they are not
    tokenizer: Any  # as above
    device: torch.device

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed images. Shape B x D, unit length, float32, on the CPU.

        Raises:
            ValueError: there are no images.
        """
        return _in_batches(images, self._image_features)

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts, truncated to the text encoder's length (see `truncated`).

        Shape B x D, unit length, float32, on the CPU.

        Raises:
            ValueError: there are no prompts.
        """
        return _in_batches(prompts, self._text_features)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """List the prompts that the text encoder does not read to their end, in order."""
        return [prompt for prompt in prompts if len(self.tokenizer(prompt, verbose=False).input_ids) > self._positions]

    def describe(self) -> str:
        """Describe encoder, weights and preprocessing in one line, for tables and cache keys."""
        return f"{self.name} (weights {self.fingerprint}): {self.preprocessing.describe()}"

    @property
    def _positions(self) -> int:
        return min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)

    def _image_features(self, images: Sequence[Image.Image]) -> Tensor:
        pixels_BCHW = to_pixels(images, self.preprocessing).to(self.device)
        return self.model.get_image_features(pixel_values=pixels_BCHW).pooler_output

    def _text_features(self, prompts: Sequence[str]) -> Tensor:
        # Always padded to the full length: a prompt has the same embedding in any batch.
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._positions, return_tensors="pt"
        )
        return self.model.get_text_features(**tokens.to(self.device)).pooler_output


def read_identity_encoder(source: str | Path, device: torch.device | str = "cpu") -> IdentityEncoder:
    """Load a vision transformer in float32 from a folder or by its hub id.

    Raises:
        UserError: it does not exist, is no vision transformer of a known kind, or is incomplete.
    """
    found, config = _open(source, IDENTITY_KINDS, "vision transformer", "identity")
    preprocessing = read_preprocessing(found, identity=True)
    model = _load(AutoModel, found, **IDENTITY_KINDS[config["model_type"]]).to(device)
    if config["model_type"] in FIXED_SIDE_KINDS:
        check_side(found, model.config.image_size, preprocessing)
    return IdentityEncoder(
        name=_name(found),
        fingerprint=fingerprint(model),
        preprocessing=preprocessing,
        model=model,
        device=torch.device(device),
        leading=1 + getattr(model.config, "num_register_tokens", 0),
    )


def read_clip(source: str | Path, device: torch.device | str = "cpu") -> ClipEncoder:
    """Load a CLIP model and its tokenizer in float32 from a folder or by its hub id.

    Raises:
        UserError: it does not exist, is no CLIP model, or is incomplete.
    """
    found, _ = _open(source, ("clip",), "CLIP model", "clip")
    preprocessing = read_preprocessing(found, identity=False)
    model = _load(CLIPModel, found).to(device)
    check_side(found, model.config.vision_config.image_size, preprocessing)
    return ClipEncoder(
        name=_name(found),
        fingerprint=fingerprint(model),
        preprocessing=preprocessing,
        model=model,
        tokenizer=_tokenizer(found, model.config.text_config),
        device=torch.device(device),
    )


def fingerprint(model: nn.Module) -> str:
    """Hash a model's weights by name, shape and value, 16 hexadecimal digits.

    The hash does not depend on how the weights are stored.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _in_batches(items: Sequence[_Item], embed: Callable[[Sequence[_Item]], Tensor]) -> Tensor:
    """Embed items in batches, and normalize. Shape B x ... x D."""
    if not items:
        raise ValueError("there is nothing to embed")
    rows = [embed(items[start : start + BATCH_SIZE]).float().cpu() for start in range(0, len(items), BATCH_SIZE)]
    return F.normalize(torch.cat(rows), dim=-1)


def _open(source: str | Path, kinds: Iterable[str], wanted: str, option: str) -> tuple[str, dict[str, Any]]:
    """Find an encoder and check its kind; returns its folder or hub id, and its config.json."""
    found = str(source).strip()
    path = Path(found)
    hub_id = found.count("/") == 1 and not found.startswith((".", "/", "~")) and not path.is_file()
    if not found or not (path.is_dir() or hub_id):
        raise UserError(
            f"the encoder {found!r} (--{option}, in a recipe selection.{option}) is no folder; give the folder of a "
            f"{wanted}, or a hub id such as owner/name."
        )
    if path.is_dir():
        check_model_folder(path)
    config = read_json(found, "config.json")
    kind = str(config.get("model_type"))
    if kind not in kinds:
        raise UserError(
            f"{found} holds a model of the kind {kind!r}, where a {wanted} is needed for --{option} (in a recipe "
            f"selection.{option}){suggest(kind, kinds)}"
        )
    return found, config


def _name(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source


def _load(kind: Any, source: str, **options: Any) -> Any:  # transformers types no loader like another
    """Load a model in float32, frozen; weights that its file lacks are an error."""
    try:
        with quiet_reading():
            model, info = kind.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=only_local(source),
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        raise_unrelated(error)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"the weights of {source} cannot be loaded ({reason}); it must have a whole model.safetensors."
        ) from error
    if info["missing_keys"]:
        raise UserError(
            f"the weights of {source} are incomplete ({min(info['missing_keys'])} is missing); "
            "download the encoder again."
        )
    check_finite(f"the encoder {source}", {"": model})
    return model.eval().requires_grad_(requires_grad=False)


def _tokenizer(source: str, text_config: Any) -> Any:
    """Load the tokenizer, and check that its ids are those of the text encoder.

    With another end-of-prompt id every prompt would have the same embedding.
    """
    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=only_local(source))
    except Exception as error:
        raise_unrelated(error)
        raise UserError(
            f"the tokenizer of {source} cannot be loaded ({type(error).__name__}); download the encoder again."
        ) from error
    # Old configurations say 2; transformers then takes the largest id as the end. Without tokenizer
    # files it makes up two tokens.
    end = text_config.vocab_size - 1 if text_config.eos_token_id == 2 else text_config.eos_token_id
    if tokenizer.eos_token_id != end or len(tokenizer) > text_config.vocab_size:
        raise UserError(
            f"the tokenizer of {source} is missing or is not its text encoder's; download the encoder again."
        )
    return tokenizer
