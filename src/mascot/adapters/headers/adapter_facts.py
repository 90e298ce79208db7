"""What is known of an adapter besides its tensors, and the header that is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from mascot.adapters.headers.kohya_header import TrainingFacts, kohya_keys
from mascot.adapters.headers.model_spec import PREFIX, ModelSpec
from mascot.adapters.headers.tensor_hashes import with_places
from mascot.adapters.lora_keys import DOWN, TENSOR_MARKS

PARTS: Final = ("unet.", "transformer.", "text_encoder")
"""How the names of a base's own weights begin."""
FAMILIES: Final[Mapping[str, str]] = {"sd": "sd1", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux"}
"""Family of a base -> the architecture of its adapters, as the registry of formats names it."""
TEXT_WIDTH_2: Final = 1024
"""Width of the text embeddings of Stable Diffusion 2, of the same family as 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFacts:
    """What a header says, from a recipe, a manifest, or the header of another file."""

    architecture: str | None
    """As the registry of formats names it; None where no other tool has a name for it."""
    family: str
    """Name of the base's family."""
    resolution: tuple[int, int] | None
    """Width and height in pixels; None where it is not known."""
    title: str
    output_name: str
    """The adapter's name in A1111's prompts, and usually its file's."""
    triggers: Mapping[str, int] = field(default_factory=dict[str, int])
    """Trigger words of each subject -> the number of its photos, 0 where it is not known."""
    description: str = ""
    prediction: str | None = None
    license: str | None = None
    date: str | None = None
    thumbnail: str | None = None

    def header(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, to: str) -> dict[str, str]:
        """Return the keys for other tools, with places for hashes (see `tensor_hashes`).

        Args:
            tensors: The adapter's tensors in our own form, whatever the file's is.
            metadata: Their ranks and alphas.
            to: The format that the file is written in.
        """
        kind = kind_of(tensors)
        spec = ModelSpec(
            architecture=self.architecture,
            family=self.family,
            kind=kind,
            title=self.title,
            resolution=self.resolution,
            trigger=", ".join(self.triggers),
            description=self.description,
            prediction=self.prediction,
            license=self.license,
            date=self.date,
            thumbnail=self.thumbnail,
        )
        widths = {tensor.shape[1] for key, tensor in tensors.items() if key.endswith(DOWN)}
        keys = spec.keys(tensors, widths, to)
        if kind == "lora" and self.architecture is not None:
            counts = sum(self.triggers.values())
            keys |= kohya_keys(
                TrainingFacts(output_name=self.output_name, images=counts or None, triggers=self.triggers),
                architecture=self.architecture,
                prediction=self.prediction,
                resolution=self.resolution,
                tensors=tensors,
                metadata=metadata,
            )
        return with_places(keys)


def architecture_in(family: str, text_width: int | None) -> str | None:
    """Name the architecture of a base's adapters by its family and the width of its texts.

    None stands for a family that no other tool reads adapters of.
    """
    known = FAMILIES.get(family)
    return "sd2" if known == "sd1" and text_width == TEXT_WIDTH_2 else known


def kind_of(names: Iterable[str]) -> str:
    """Tell by its tensors' names what a file is (see `model_spec.KINDS`)."""
    names = list(names)
    if any(mark in name for name in names for mark in TENSOR_MARKS):
        return "lora"
    return "" if any(name.startswith(PARTS) for name in names) else "textual-inversion"


def is_header_key(key: str) -> bool:
    """Tell whether a key of a file's metadata is written for other tools alone."""
    return key.startswith((PREFIX, "ss_", "sshs_"))


def without_header(metadata: Mapping[str, str]) -> dict[str, str]:
    """Remove what is written for other tools alone, such as hashes of another file."""
    return {key: value for key, value in metadata.items() if not is_header_key(key)}
