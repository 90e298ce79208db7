"""Pictures and prompts as unit vectors, the same everywhere: vision transformers such as DINO for likeness, CLIP for both.

The encoders that published tables use are `facebook/dino-vits16` and `openai/clip-vit-base-patch32`; folders of the same layout work
alike. Pictures are prepared by Pillow and by what is written here, so that no other library's version can move a score.

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

from mascot.errors import UserError, suggest
from mascot.evaluation.metrics.image_preprocessing import (
    Preprocessing,
    check_side,
    read_preprocessing,
    read_settings,
    to_pixels,
)

BATCH = 32
"""Pictures or prompts that go through an encoder at once."""


IDENTITY: Mapping[str, Mapping[str, Any]] = {
    "vit": {"add_pooling_layer": False},  # DINO has no pooler; made up at random, it would only change the fingerprint
    "dinov2": {},
    "dinov2_with_registers": {},
    "dinov3_vit": {},
}
"""Kinds of vision transformers that identity is read from (`model_type` in config.json), and how transformers loads each."""


FIXED = frozenset({"vit"})
"""Of them, those whose position embeddings are for pictures of one side only, as CLIP's are."""


_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityEncoder:
    """A vision transformer whose embeddings are near each other for pictures of one thing."""

    name: str
    """The hub id, or the folder's name."""
    fingerprint: str
    """A hash of the weights, wherever they came from."""
    preprocessing: Preprocessing
    model: nn.Module
    device: torch.device
    leading: int
    """Tokens before the patches: the class token and registers."""

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures by the class token of the last hidden state. Shape B x D, unit length, float32, on the CPU.

        Raises:
            ValueError: there are no pictures.
        """
        return _in_batches(images, lambda batch: self._states(batch)[:, 0])

    def patches(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed each patch of the pictures, row by row. Shape B x N x D, unit length, float32, on the CPU.

        Raises:
            ValueError: there are no pictures.
        """
        return _in_batches(images, lambda batch: self._states(batch)[:, self.leading :])

    def describe(self) -> str:
        """Name encoder, weights and preprocessing in one line: it belongs beside every table of its scores."""
        return f"{self.name} (weights {self.fingerprint}): {self.preprocessing.describe()}"

    def _states(self, images: Sequence[Image.Image]) -> Tensor:
        return self.model(pixel_values=to_pixels(images, self.preprocessing).to(self.device)).last_hidden_state


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEncoder:
    """A CLIP model (Radford et al. 2021): pictures and prompts in one space."""

    name: str
    """The hub id, or the folder's name."""
    fingerprint: str
    """A hash of the weights, wherever they came from."""
    preprocessing: Preprocessing
    model: Any  # transformers annotates the features as tuples, which they are not
    tokenizer: Any
    device: torch.device

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures. Shape B x D, unit length, float32, on the CPU.

        Raises:
            ValueError: there are no pictures.
        """
        return _in_batches(images, self._image_features)

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts, cut off where the text tower ends (see `truncated`). Shape B x D, unit length, float32, on the CPU.

        Raises:
            ValueError: there are no prompts.
        """
        return _in_batches(prompts, self._text_features)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """List the prompts whose end the text tower does not hear, in their order."""
        return [prompt for prompt in prompts if len(self.tokenizer(prompt, verbose=False).input_ids) > self._positions]

    def describe(self) -> str:
        """Name encoder, weights and preprocessing in one line: it belongs beside every table of its scores."""
        return f"{self.name} (weights {self.fingerprint}): {self.preprocessing.describe()}"

    @property
    def _positions(self) -> int:
        return min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)

    def _image_features(self, images: Sequence[Image.Image]) -> Tensor:
        return self.model.get_image_features(
            pixel_values=to_pixels(images, self.preprocessing).to(self.device)
        ).pooler_output

    def _text_features(self, prompts: Sequence[str]) -> Tensor:
        # Always at full length: the same prompt is the same arithmetic in any batch.
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self._positions, return_tensors="pt"
        )
        return self.model.get_text_features(**tokens.to(self.device)).pooler_output


def read_identity_encoder(where: str | Path, device: torch.device | str = "cpu") -> IdentityEncoder:
    """Load a vision transformer in float32 from a folder, or by its hub id.

    Raises:
        UserError: it is not there, is no vision transformer of a known kind, or is not whole.
    """
    source, config = _open(where, IDENTITY, "vision transformer")
    preprocessing = read_preprocessing(source, identity=True)
    model = _load(AutoModel, source, **IDENTITY[config["model_type"]]).to(device)
    if config["model_type"] in FIXED:
        check_side(source, model.config, preprocessing)
    return IdentityEncoder(
        name=_name(source),
        fingerprint=fingerprint(model),
        preprocessing=preprocessing,
        model=model,
        device=torch.device(device),
        leading=1 + getattr(model.config, "num_register_tokens", 0),
    )


def read_clip(where: str | Path, device: torch.device | str = "cpu") -> ClipEncoder:
    """Load a CLIP model and its tokenizer in float32 from a folder, or by its hub id.

    Raises:
        UserError: it is not there, is no CLIP model, or is not whole.
    """
    source, _ = _open(where, ("clip",), "CLIP model")
    preprocessing = read_preprocessing(source, identity=False)
    model = _load(CLIPModel, source).to(device)
    check_side(source, model.config.vision_config, preprocessing)
    return ClipEncoder(
        name=_name(source),
        fingerprint=fingerprint(model),
        preprocessing=preprocessing,
        model=model,
        tokenizer=_tokenizer(source, model),
        device=torch.device(device),
    )


def fingerprint(model: nn.Module) -> str:
    """Hash a model's weights by name, shape and value, 16 hexadecimal digits: how they are stored does not matter."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tuple(weight.shape)}".encode())
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _in_batches(items: Sequence[_Item], embed: Callable[[Sequence[_Item]], Tensor]) -> Tensor:
    if not items:
        raise ValueError("there is nothing to embed")
    rows = [embed(items[start : start + BATCH]).float().cpu() for start in range(0, len(items), BATCH)]
    return F.normalize(torch.cat(rows), dim=-1)


def _open(where: str | Path, kinds: Iterable[str], wanted: str) -> tuple[str, dict[str, Any]]:
    """Where the encoder is, and its config.json once its kind is known to fit."""
    source = str(where).strip()
    path = Path(source)
    hub_id = source.count("/") == 1 and not source.startswith((".", "/", "~")) and not path.is_file()
    if not source or not (path.is_dir() or hub_id):
        raise UserError(
            f"the encoder {source!r} is no folder; give the folder of a {wanted}, or a hub id such as owner/name."
        )
    config = read_settings(source, "config.json")
    kind = str(config.get("model_type"))
    if kind not in kinds:
        raise UserError(
            f"{source} holds a model of the kind {kind!r}, where a {wanted} is needed{suggest(kind, kinds)}"
        )
    return source, config


def _name(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source


def _load(kind: Any, source: str, **options: Any) -> Any:
    """The model in float32, frozen; nothing that its file lacks is made up."""
    local = Path(source).is_dir()
    try:
        model, info = kind.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"the weights of {source} cannot be loaded ({reason}); it must have a whole model.safetensors."
        ) from error
    if info["missing_keys"]:
        raise UserError(
            f"the weights of {source} are not whole ({min(info['missing_keys'])} is missing); download the encoder again."
        )
    return model.eval().requires_grad_(requires_grad=False)


def _tokenizer(source: str, model: Any) -> Any:
    """The tokenizer, whose ids are known to be the text tower's: with another end of prompt every prompt would embed alike."""
    text = model.config.text_config
    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=Path(source).is_dir())
    except Exception as error:
        raise UserError(
            f"the tokenizer of {source} cannot be loaded ({type(error).__name__}); download the encoder again."
        ) from error
    # Old configurations say 2; transformers then takes the largest id for the end. Where there are no files, it makes two tokens up.
    end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    if tokenizer.eos_token_id != end or len(tokenizer) > text.vocab_size:
        raise UserError(f"the tokenizer of {source} is missing or is not its text tower's; download the encoder again.")
    return tokenizer
