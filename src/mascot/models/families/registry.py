"""The table of families, and loading a base by the family that its files name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from mascot.errors import UserError, suggest
from mascot.models.base_files.base_reading import BaseReading
from mascot.models.base_files.file_contents import check_channels, read_contents
from mascot.models.families.base_source import read_index_of, source_of, split_cascade
from mascot.models.pipeline_files import Precision
from mascot.protocols import Family
from mascot.storage.untrusted_files import UnreadableFile, read_json_object

FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "mascot.models.families.sd",
    "StableDiffusionXLPipeline": "mascot.models.families.sdxl",
    "StableDiffusionInpaintPipeline": "mascot.models.families.sd",
    "StableDiffusionXLInpaintPipeline": "mascot.models.families.sdxl",
    "StableDiffusion3Pipeline": "mascot.models.families.sd3",
    "FluxPipeline": "mascot.models.families.flux",
    "IFPipeline": "mascot.models.families.deepfloyd_if",
}
"""Pipeline class in a base's `model_index.json` -> module with `NAME` and `load`."""

CONTINUATIONS: Mapping[str, str] = {"IFSuperResolutionPipeline": "mascot.models.families.deepfloyd_if"}
"""Pipeline class of a super-resolution stage -> module of the family that it continues.

The `load` of that module takes its source as `continuation`.
"""


OTHER_PIPELINES: Mapping[str, str] = {
    "StableDiffusionInstructPix2PixPipeline": "edits an image by an instruction",
    "StableDiffusionXLInstructPix2PixPipeline": "edits an image by an instruction",
    "StableDiffusionDepth2ImgPipeline": "reads a depth map beside the prompt",
    "StableDiffusionUpscalePipeline": "enlarges an image",
    "StableDiffusionLatentUpscalePipeline": "enlarges an image",
    "StableDiffusionXLImg2ImgPipeline": "only improves the images of another base (a refiner)",
    "StableDiffusionImageVariationPipeline": "reads an image in place of a prompt",
    "StableUnCLIPPipeline": "reads the embedding of an image beside the prompt",
    "StableUnCLIPImg2ImgPipeline": "reads the embedding of an image beside the prompt",
}
"""Pipeline class that is close to one of a family -> why it cannot be personalized."""


def describe(base: str) -> dict[str, object]:
    """Return the `model_index.json` of a base without loading weights.

    Of FIRST+SECOND it is the first one's.

    Raises:
        UserError: the base does not exist, is no diffusers pipeline of a known family, or joins
            stages that do not belong together.
    """
    first, *more = split_cascade(base)
    index = check_pipeline(first, read_index_of(first))
    check_inputs(first)
    if len(more) > 1:
        raise UserError(
            f"the base {base} joins {len(more) + 1} stages; mascot knows bases of at most two: give FIRST+SECOND."
        )
    for second in more:
        kind = str(read_index_of(second).get("_class_name"))
        if CONTINUATIONS.get(kind) != FAMILIES[str(index["_class_name"])]:
            problem = f"{second} is a {kind}, which does not enlarge the images of a {index['_class_name']}"
            raise UserError(f"{problem}; give {first} alone, or joined with the next stage of its cascade.")
    return index


def check_pipeline(base: str, index: dict[str, object]) -> dict[str, object]:
    """Return the index of a base, if its pipeline can be the first or only stage.

    Raises:
        UserError: the pipeline is unknown, or only continues another one.
    """
    kind = str(index.get("_class_name"))
    if kind in CONTINUATIONS:
        raise UserError(
            f"{base} is a {kind}, which only enlarges the images of another base; give both, as --base FIRST+{base}."
        )
    if kind in OTHER_PIPELINES:
        raise UserError(
            f"{base} is a {kind}, which {OTHER_PIPELINES[kind]}; give a text-to-image or an inpainting base."
        )
    if kind not in FAMILIES:
        raise UserError(f"{base} is a {kind}, which mascot cannot personalize{suggest(kind, FAMILIES)}")
    return index


def check_inputs(base: str) -> None:
    """Refuse a folder whose UNet reads more than latents and a mask, by its settings alone.

    Raises:
        UserError: it does. Settings that cannot be read are refused when the base is loaded.
    """
    settings = Path(source_of(base), "unet", "config.json")
    if not settings.is_file():
        return
    try:
        values = read_json_object(settings)
    except UnreadableFile:
        return
    channels, latents = values.get("in_channels"), values.get("out_channels")
    # A UNet in pixel space predicts a variance too, in as many more channels.
    if isinstance(channels, int) and isinstance(latents, int) and latents != 2 * channels:
        check_channels(base, channels, latents)


def family_name(base: str) -> str:
    """Return the name of a base's family, from its index alone.

    Raises:
        UserError: as `describe`.
    """
    return import_module(FAMILIES[str(describe(base)["_class_name"])]).NAME


def preset_name(base: str) -> str:
    """Return the name of a base's presets, from its settings alone: its family's, or a kind's own.

    Raises:
        UserError: as `describe`.
    """
    module = import_module(FAMILIES[str(describe(base)["_class_name"])])
    own: Callable[[str], str] | None = getattr(module, "preset_name", None)
    return module.NAME if own is None else own(source_of(split_cascade(base)[0]))


def embeds_guidance(base: str) -> bool:
    """Tell whether a base's denoiser reads the guidance scale, from its settings alone.

    Raises:
        UserError: as `describe`.
    """
    module = import_module(FAMILIES[str(describe(base)["_class_name"])])
    own: Callable[[str], bool] | None = getattr(module, "embeds_guidance", None)
    return own is not None and own(source_of(base))


def reads_chunks(base: str) -> bool:
    """Tell whether a base reads weighted words and long prompts in chunks, from its index alone.

    Raises:
        UserError: as `describe`.
    """
    return bool(getattr(import_module(FAMILIES[str(describe(base)["_class_name"])]), "CHUNKED", ()))


def check_reading(base: str, reading: BaseReading) -> None:
    """Refuse settings of reading that a base's family cannot use, from its index alone.

    Raises:
        UserError: as `describe`, or a setting has no meaning for the family.
    """
    reading.check(base, import_module(FAMILIES[str(describe(base)["_class_name"])]).READINGS)


def load_family(base: str, *, device: str, precision: Precision, reading: BaseReading | None = None) -> Family:
    """Load a base model.

    Args:
        base: `starter`, a folder, a .safetensors file, a hub id, or FIRST+SECOND for a cascade.
        device: The device to compute on.
        precision: The dtype of denoiser and text encoders.
        reading: What the base predicts and which text layers count; None takes what the base says.

    Raises:
        UserError: the base is unknown, broken or does not exist, or cannot be read so.
    """
    module, reading = import_module(FAMILIES[str(describe(base)["_class_name"])]), reading or BaseReading()
    reading.check(base, module.READINGS)
    first, *more = map(source_of, split_cascade(base))
    options: dict[str, object] = {"continuation": more[0]} if more else {}
    options |= {"reading": reading} if module.READINGS else {}
    return module.load(first, device=device, precision=precision, **options)


def text_width(base: str) -> int | None:
    """Return the width of the texts that a base's UNet attends to, from settings or shapes alone.

    None stands for a base that has no UNet here, or is not on this machine.
    """
    source = Path(source_of(split_cascade(base)[0]))
    settings = source / "unet" / "config.json"
    try:
        if settings.is_file():
            width = read_json_object(settings).get("cross_attention_dim")
            return width if isinstance(width, int) else None
        shapes = read_contents(source).shapes if source.is_file() else {}
    except UserError:  # said where the base is loaded
        return None
    return next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), None)
