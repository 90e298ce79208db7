"""Files of other tools, recognized by the names of their tensors: what they are, and what to do."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mascot.storage.untrusted_files import UnreadableFile, open_regular


@dataclass(frozen=True, slots=True)
class ForeignFormat:
    """One kind of file that mascot does not read."""

    name: str
    """What the file is, with its article."""
    matches: Callable[[Collection[str]], bool]
    """Tells by the tensor names whether a file is of this kind."""
    remedy: str


def some(pattern: str) -> Callable[[Collection[str]], bool]:
    """Make a test whether one tensor name at least contains a pattern."""
    compiled = re.compile(pattern)
    return lambda names: any(compiled.search(name) for name in names)


def every(pattern: str) -> Callable[[Collection[str]], bool]:
    """Make a test whether all tensor names contain a pattern."""
    compiled = re.compile(pattern)
    return lambda names: all(compiled.search(name) for name in names)


USE_THERE: Final = "generate with that tool, or give a LoRA, LoCon, DoRA, LoHa or LoKr"
WHOLE: Final = "give it as --base, and an adapter that was trained on it"

FORMATS: Final = (
    ForeignFormat(
        "a whole checkpoint of a base model, not an adapter",
        some(r"^model\.diffusion_model\.|^first_stage_model\.|^cond_stage_model\.|^conditioner\.embedders\."),
        WHOLE,
    ),
    ForeignFormat(
        "a ControlNet, not an adapter of a subject",
        some(r"^control_model\.|^controlnet_cond_embedding\.|^controlnet_(down|mid)_block|^controlnet_blocks\."),
        "use it in diffusers, A1111 or ComfyUI",
    ),
    ForeignFormat(
        "an IP-Adapter, not an adapter of a subject",
        some(r"^(ip_adapter|image_proj)\."),
        "use it in diffusers, A1111 or ComfyUI",
    ),
    ForeignFormat("an OFT or BOFT of LyCORIS", some(r"\.(oft_|boft_)\w+(\.weight)?$"), USE_THERE),
    ForeignFormat(
        "an adapter of LyCORIS with whole weight changes, norms, IA3 or GLoRA",
        some(r"^(lora|lycoris)_.*\.(diff|diff_b|w_norm|b_norm|on_input|a1\.weight|scalar)$"),
        USE_THERE,
    ),
    ForeignFormat(
        "a custom diffusion adapter of diffusers",
        some(r"_custom_diffusion(\.|$)"),
        "load it in diffusers with load_attn_procs",
    ),
    ForeignFormat(
        "a control LoRA of Black Forest Labs, which changes norms and biases too",
        lambda names: some(r"_norm\.scale$")(names) and some(r"\.lora_[AB]\.")(names),
        "load it in diffusers with FluxControlPipeline",
    ),
    ForeignFormat(
        "the text encoder of a base model, not an adapter",
        every(
            r"^(text_model|encoder|embeddings|final_layer_norm|text_projection|shared|vision_model)\b"
            r"(?!.*[._](lora|hada|lokr|alpha$|dora_scale$))"
        ),
        "give an adapter's file",
    ),
    ForeignFormat(
        "the denoiser of a base model, not an adapter",
        some(r"^(conv_in|(x_embedder|pos_embed)(\.proj)?|img_in|time_text_embed\.\w+\.linear_1)\.weight$"),
        "give an adapter's file; a base is its whole folder, as --base",
    ),
    ForeignFormat(
        "an autoencoder, not an adapter",
        some(r"^(encoder|decoder)\.(conv_in|mid_block|mid|down|up)\b"),
        "give an adapter's file",
    ),
)
"""Formats by tensor names; the first that matches counts."""


def describe_foreign(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str] | None:
    """Recognize a file that is no low-rank adapter by the names and shapes of its tensors.

    Returns what the file is, and a remedy; None where its layers may be read, and where it is
    empty.
    """
    if not shapes:
        return None
    return next(((known.name, known.remedy) for known in FORMATS if known.matches(shapes)), None)


def describe_pickle(path: Path) -> str | None:
    """Name a file of pickled weights by its first bytes, without unpickling it; None for others.

    A textual inversion embedding and a hypernetwork of A1111 are told apart by words in the pickle.
    """
    try:
        with open_regular(path) as file:
            start = file.read(1 << 20)
            if start.startswith(b"PK\x03\x04"):
                with zipfile.ZipFile(file) as archive:
                    inner = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
                    if inner is None:
                        return None
                    with archive.open(inner) as pickled:
                        start = pickled.read(1 << 20)
            elif not re.match(rb"\x80[\x02-\x05]", start):
                return None
    except (UnreadableFile, OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return None
    if b"string_to_param" in start:
        return "a pickled textual inversion embedding of A1111"
    if b"string_to_token" in start or b"sd_checkpoint_name" in start:
        return "a pickled file of A1111"
    return "a file of pickled weights"
