"""Checks of a base's parts: their settings before anything is built, their weights once read."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from mascot.errors import UserError
from mascot.storage.model_hub import hub_file
from mascot.storage.untrusted_files import UnreadableFile, read_json_object

Width = Annotated[int, Field(ge=1, le=1_000_000)]
"""Numbers of a vector, or entries of a table."""
Layers = Annotated[int, Field(ge=0, le=512)]
"""Layers or blocks; more of them would be built for hours."""
Blocks = Annotated[list[Width], Field(min_length=1, max_length=16)]
Names = Annotated[list[str], Field(min_length=1, max_length=16)]
Variance = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]

UNLIMITED = 10**6
"""From here on, a tokenizer's length means that it has none."""


class ModuleSettings(BaseModel):
    """The settings of a denoiser, an autoencoder or a text encoder that decide what is built.

    The defaults only say which of them may be absent; the libraries have their own.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    in_channels: Width = 1
    out_channels: Width | None = 1
    latent_channels: Width = 1
    block_out_channels: Blocks = [1]
    down_block_types: Names = [""]
    up_block_types: Names = [""]
    layers_per_block: Layers | list[Layers] = 1
    transformer_layers_per_block: Layers | list[Layers | list[Layers]] = 1
    cross_attention_dim: Width | list[Width] | None = 1
    attention_head_dim: Width | list[Width] | None = 1
    num_attention_heads: Width | list[Width] | None = 1
    norm_num_groups: Width | None = 1
    encoder_hid_dim: Width | None = 1
    patch_size: Width = 1
    num_layers: Layers = 1
    num_single_layers: Layers = 1
    joint_attention_dim: Width = 1
    caption_projection_dim: Width = 1
    pooled_projection_dim: Width = 1
    pos_embed_max_size: Annotated[int, Field(ge=1, le=4096)] = 1
    axes_dims_rope: Annotated[list[Width], Field(min_length=1, max_length=8)] = [1]
    scaling_factor: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    shift_factor: Number | None = 0.0
    vocab_size: Annotated[int, Field(ge=3, le=10_000_000)] = 3
    hidden_size: Width = 1
    intermediate_size: Width = 1
    projection_dim: Width = 1
    num_hidden_layers: Annotated[int, Field(ge=1, le=512)] = 1
    max_position_embeddings: Annotated[int, Field(ge=3, le=1_000_000)] = 3
    d_model: Width = 1
    d_ff: Width = 1
    d_kv: Width = 1
    num_heads: Width = 1
    relative_attention_num_buckets: Width = 1
    relative_attention_max_distance: Width = 1
    model_type: str = ""
    hidden_act: str | None = ""
    act_fn: str | None = ""
    feed_forward_proj: str = ""
    mid_block_type: str | None = ""
    time_embedding_type: str | None = ""
    resnet_time_scale_shift: str | None = ""
    class_embed_type: str | None = ""
    addition_embed_type: str | None = ""
    encoder_hid_dim_type: str | None = ""

    @model_validator(mode="after")
    def check_axes(self) -> ModuleSettings:
        """Check that the axes of rotary embeddings make up the width of a head."""
        if "axes_dims_rope" in self.model_fields_set and sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError("axes_dims_rope does not add up to attention_head_dim")
        return self


class SizedModuleSettings(ModuleSettings):
    """The settings of a denoiser that says the size of images it was trained at."""

    sample_size: Annotated[int, Field(ge=1, le=1024)]


class SchedulerSettings(BaseModel):
    """The settings of a noise schedule."""

    model_config = ConfigDict(extra="allow", strict=True)

    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = 2
    beta_start: Variance = 0.5
    beta_end: Variance = 0.5
    beta_schedule: str = ""
    prediction_type: str | None = ""
    rescale_betas_zero_snr: bool | None = False
    set_alpha_to_one: bool | None = False
    clip_sample: bool | None = False
    thresholding: bool | None = False
    use_dynamic_shifting: bool | None = False
    trained_betas: Annotated[list[Variance], Field(min_length=2, max_length=100_000)] | None = None
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"
    steps_offset: Annotated[int, Field(ge=0, le=1000)] = 0
    shift: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = 1.0
    base_shift: Number | None = 0.0
    max_shift: Number | None = 0.0
    base_image_seq_len: Width | None = 1
    max_image_seq_len: Width | None = 2

    @model_validator(mode="after")
    def check_lengths(self) -> SchedulerSettings:
        """Check that shifts can be interpolated between two lengths."""
        if self.base_image_seq_len == self.max_image_seq_len:
            raise ValueError("base_image_seq_len and max_image_seq_len are the same")
        return self


class TokenizerSettings(BaseModel):
    """The settings of a tokenizer."""

    model_config = ConfigDict(extra="allow", strict=True)

    model_max_length: Annotated[int, Field(ge=3)] | Annotated[float, Field(ge=UNLIMITED, allow_inf_nan=False)] = 3

    @model_validator(mode="after")
    def check_length(self) -> TokenizerSettings:
        """Check that a length is one that prompts can be padded to, or none."""
        if 100_000 < self.model_max_length < UNLIMITED:
            raise ValueError("model_max_length is longer than any prompt")
        return self


SETTINGS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("scheduler", "scheduler_config.json", SchedulerSettings),
    ("image_noising_scheduler", "scheduler_config.json", SchedulerSettings),
    ("tokenizer", "tokenizer_config.json", TokenizerSettings),
    ("unet", "config.json", SizedModuleSettings),
    ("vae", "config.json", ModuleSettings),
    ("text_encoder", "config.json", ModuleSettings),
    ("transformer", "config.json", ModuleSettings),
)
"""Beginning of a part's name, the file of its settings, and what they must be."""


def check_settings(source: str, index: Mapping[str, object]) -> None:
    """Check the settings of all parts of a base, before anything is built or its weights are read.

    Args:
        source: A folder or a hub id.
        index: The base's `model_index.json`; a part that is null is not there.

    Raises:
        UserError: a setting is missing, of another type, or beyond what any base has.
    """
    if "unet" in index and "FlowMatch" in str(index.get("scheduler")):
        raise UserError(
            f"the base {source} cannot be loaded (its scheduler is of flow matching, which no UNet was trained by); "
            "download the base again."
        )
    for name, part in index.items():
        found = next((row for row in SETTINGS if name.startswith(row[0])), None)
        if found is None or not isinstance(part, list) or part[0] is None:
            continue
        path = settings_file(source, f"{name}/{found[1]}")
        if path is None:
            continue  # whoever builds the part says what is missing
        sized = found[2] is ModuleSettings and "StableDiffusion3" in str(index.get("_class_name")) and name[0] == "t"
        check_file(source, path, SizedModuleSettings if sized and name == "transformer" else found[2])


def settings_file(source: str, name: str) -> Path | None:
    """Return a settings file of a base; None where it has none or cannot be reached."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.exists() else None
    try:
        return hub_file(source, name)
    except Exception:  # noqa: BLE001 - the hub's library has errors of its own; loading reports them
        return None


def check_file(source: str, path: Path, kind: type[BaseModel]) -> None:
    """Check the settings in one file.

    Raises:
        UserError: one of them cannot be used.
    """
    where = f"{path.parent.name}/{path.name}"
    settings: Mapping[str, object] = {}
    try:
        settings = read_json_object(path)
        kind.model_validate(settings)
    except UnreadableFile as error:
        raise UserError(
            f"the base {source} cannot be loaded ({where}: {error.reason}); download the base again."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][0] if first["loc"] else ""
        shown = f"{key} = {str(settings[str(key)])[:60]}: " if key in settings else f"{key}: " if key else ""
        raise UserError(
            f"the base {source} cannot be loaded ({where}: {shown}{first['msg']}); "
            "correct that file, or download the base again."
        ) from None


@contextmanager
def quiet_reading() -> Generator[None]:
    """Keep the libraries from printing what the error that follows says, while a part is read."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = [(logging, logging.get_verbosity()) for logging in (diffusers_logging, transformers_logging)]
    for logging, _ in before:
        logging.set_verbosity(1000)  # above every level
    try:
        yield
    finally:
        for logging, level in before:
            logging.set_verbosity(level)


def check_finite(source: str, parts: Mapping[str, nn.Module]) -> None:
    """Refuse parts with weights that are infinite or not a number, before anything is computed.

    Args:
        source: The base or encoder, for the message.
        parts: The modules by name.

    Raises:
        UserError: a weight is not finite.
    """
    for part, module in parts.items():
        broken = next(unfinite_weights(module), None)
        if broken is not None:
            where = f"{part}: {broken}" if part else broken
            raise UserError(
                f"{source} has weights that are not finite numbers ({where}); download it again, or give another one."
            )


def unfinite_weights(module: nn.Module) -> Iterator[str]:
    """Yield the names of weights with infinite values or NaN.

    A sum is finite where all values are, unless it overflows: it is quick and needs no memory.
    """
    for name, weight in (*module.named_parameters(), *module.named_buffers()):
        if not weight.is_floating_point() or weight.is_meta or torch.isfinite(weight.detach().sum()):
            continue
        if not torch.isfinite(weight).all():
            yield name


def check_fit(
    source: str, unet: Any, autoencoder: Any, encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]
) -> None:
    """Refuse parts that cannot work together, which are healthy each alone.

    Args:
        source: The base, for the message.
        unet: The denoiser.
        autoencoder: What makes the latents that it reads.
        encoders: The CLIP text encoders, by the names of their folders.
        tokenizers: Their tokenizers, by the same names.

    Raises:
        UserError: it names both parts, and the numbers in which they differ.
    """
    asked = next((key for key in ("class_embed_type", "num_class_embeds") if unet.config.get(key) is not None), None)
    if asked is not None:
        raise UserError(
            f"the base {source} cannot be personalized (its UNet reads class labels, by {asked}); "
            "give a text-to-image base."
        )
    width = unet.config.get("encoder_hid_dim") or unet.config["cross_attention_dim"]
    made, latents = sum(encoder.config.hidden_size for encoder in encoders.values()), unet.config["out_channels"]
    faults = [
        f"{name} has {encoder.config.vocab_size} tokens, and its tokenizer {len(tokenizers[name])}"
        for name, encoder in encoders.items()
        if len(tokenizers[name]) > encoder.config.vocab_size
    ]
    if isinstance(width, int) and width != made:
        faults.append(f"unet reads text embeddings of width {width}, and {' and '.join(encoders)} write {made}")
    if autoencoder.config.latent_channels != latents:
        faults.append(f"unet writes {latents} channels, and vae reads {autoencoder.config.latent_channels}")
    if faults:
        raise UserError(
            f"the base {source} cannot be loaded ({faults[0]}); its parts are of different bases, so download it again."
        )
