"""Let a model write the captions of photos that have none, once for each photo and model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mascot.data.captioning.caption_files import read_text
from mascot.data.photos import Photo, PhotoSet
from mascot.data.prompt_templates import mention_subject, one_line
from mascot.errors import UserError, list_some, printable
from mascot.protocols import Subject
from mascot.storage.atomic_write import atomic_write
from mascot.storage.model_hub import check_model_folder, only_local
from mascot.storage.user_cache import cache_folder

LONGEST_CAPTION = 60
"""Most tokens that a model writes for a photo; base models read 77 of a prompt."""
INSTRUCTION = "Describe this image in one sentence: what is shown, where it is, the view and the light."
"""What chat models are asked."""
IMAGE_MARK = "<|image_pad|>"
"""The token that stands for a patch of the image."""
TASK = "<DETAILED_CAPTION>"
"""What Florence-2 is asked."""

_OPENING = re.compile(
    r"^(?:in )?(?:the|this|an?) (?:image|photo|photograph|picture)"
    r"(?:,| (?:shows|features|depicts|captures|of|is of)) ",
    re.IGNORECASE,
)
"""How models begin where they speak of the image instead of what it shows."""

Describe = Callable[[Any, Any, Image.Image], str]
"""Describes an image by a model and its processor."""


def describe_plainly(model: Any, processor: Any, image: Image.Image) -> str:
    """Describe an image by a model that needs no instruction."""
    inputs = processor(images=image, return_tensors="pt").to(model.device, model.dtype)
    return str(processor.batch_decode(generate(model, inputs), skip_special_tokens=True)[0])


def describe_by_task(model: Any, processor: Any, image: Image.Image) -> str:
    """Describe an image by a model whose tasks are words in angle brackets."""
    inputs = processor(text=TASK, images=image, return_tensors="pt").to(model.device, model.dtype)
    return str(processor.batch_decode(generate(model, inputs), skip_special_tokens=True)[0])


def describe_in_chat(model: Any, processor: Any, image: Image.Image) -> str:
    """Describe an image by a model that answers messages, in the form of Qwen's.

    Its own processor also reads videos, and needs torchvision for that, so its two halves are used.
    """
    tokenizer, images = processor
    pixels = images(images=[image], return_tensors="pt")
    count = int(pixels["image_grid_thw"].prod()) // images.merge_size**2
    text = f"<|im_start|>user\n<|vision_start|>{IMAGE_MARK * count}<|vision_end|>{INSTRUCTION}<|im_end|>\n"
    inputs = dict(tokenizer(f"{text}<|im_start|>assistant\n", return_tensors="pt"))
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == tokenizer.convert_tokens_to_ids(IMAGE_MARK)).long()
    inputs = {name: value.to(model.device) for name, value in inputs.items()} | pixels.to(model.device, model.dtype)
    answer = generate(model, inputs)[:, inputs["input_ids"].shape[1] :]
    return str(tokenizer.batch_decode(answer, skip_special_tokens=True)[0])


def read_processor(source: str, **options: Any) -> Any:
    """Load the one that prepares both images and text."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(source, **options)


def read_halves(source: str, **options: Any) -> Any:
    """Load the two that prepare text and images."""
    from transformers import AutoImageProcessor, AutoTokenizer

    images = AutoImageProcessor.from_pretrained(source, backend="pil", **options)
    return AutoTokenizer.from_pretrained(source, **options), images


def generate(model: Any, inputs: Mapping[str, Any]) -> Any:
    """Write the most likely words, so that one photo always gets one caption."""
    return model.generate(**inputs, max_new_tokens=LONGEST_CAPTION, do_sample=False, num_beams=1)


CAPTIONERS: Mapping[str, tuple[Callable[..., Any], Describe]] = {
    "blip": (read_processor, describe_plainly),
    "blip-2": (read_processor, describe_plainly),
    "git": (read_processor, describe_plainly),
    "florence2": (read_processor, describe_by_task),
    "qwen2_vl": (read_halves, describe_in_chat),
    "qwen2_5_vl": (read_halves, describe_in_chat),
    "qwen3_vl": (read_halves, describe_in_chat),
}
"""`model_type` in config.json -> what prepares images for the model, and how it describes one."""


@dataclass(frozen=True, slots=True)
class Captioner:
    """A model that writes captions, which is loaded when the first is needed."""

    source: str
    """Its folder or hub id."""
    kind: str
    """Its `model_type`."""
    fingerprint: str
    """A hash of its configuration and of the sizes and times of its files."""

    def describe(self, photos: Sequence[Photo], device: str) -> list[str]:
        """Write what each photo shows, in one line.

        Raises:
            UserError: the model cannot be loaded, or fails.
        """
        from transformers import AutoModelForImageTextToText

        read, describe = CAPTIONERS[self.kind]
        try:
            local = only_local(self.source)
            processor = read(self.source, local_files_only=local)
            dtype = torch.float32 if device == "cpu" else torch.bfloat16
            model: Any = AutoModelForImageTextToText.from_pretrained(
                self.source, dtype=dtype, use_safetensors=True, local_files_only=local
            )
            model = model.to(device).eval()
            with torch.no_grad():
                return [one_line(describe(model, processor, photo.image)) for photo in photos]
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(
                f"{self.source} cannot write captions ({reason}); give another --set dataset.caption_with=MODEL, or "
                "none."
            ) from error


def open_captioner(source: str) -> Captioner:
    """Check that a folder or hub id is a model that writes captions; no weights are loaded.

    Raises:
        UserError: there is no such model, or it is of another kind.
    """
    from transformers import AutoConfig

    known = ", ".join(CAPTIONERS)
    if Path(source).is_dir():
        check_model_folder(Path(source))
    try:
        config: Any = AutoConfig.from_pretrained(source, local_files_only=only_local(source))
    except Exception as error:
        raise UserError(
            f"dataset.caption_with = {source!r} is not a model that can be read for captions "
            f"({type(error).__name__}); give a folder or a hub id of one of these kinds: {known}."
        ) from error
    kind = str(config.model_type)
    if kind not in CAPTIONERS:
        raise UserError(
            f"dataset.caption_with = {source!r} is a {kind} model, which mascot cannot let write captions; "
            f"give one of these kinds: {known}."
        )
    facts = [source, str(config.to_json_string()), str(getattr(config, "_commit_hash", None))]
    if Path(source).is_dir():
        files = sorted(path for path in Path(source).iterdir() if path.is_file())
        facts += [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return Captioner(source, kind, hashlib.sha256("\n".join(facts).encode()).hexdigest()[:20])


def caption_by_model(
    photos: PhotoSet, templates: Sequence[str], captioner: Captioner, subject: Subject, device: str
) -> PhotoSet:
    """Give the photos that have only the templates a caption by a model, which names the subject.

    Captions are cached by the photo's pixels and the model. They are written down in the set's
    `written`, and noted.

    Raises:
        UserError: the model cannot be loaded, or fails.
    """
    defaults = tuple(one_line(template) for template in templates)
    bare = [photo for photo in photos.photos if photo.captions == defaults]
    texts = dict(zip((photo.path for photo in bare), _cached(bare, captioner, device), strict=True))
    written = {path: mention_subject(text, subject) for path, text in texts.items() if text}
    silent = [printable(path) for path, text in texts.items() if not text]
    notes = [f"{printable(path)}: {caption!r}, written by {captioner.source}." for path, caption in written.items()]
    if silent:
        notes.append(f"{list_some(silent)}: {captioner.source} wrote nothing, so the template is used.")
    captioned = (replace(one, captions=(written[one.path],)) if one.path in written else one for one in photos.photos)
    return replace(
        photos,
        photos=tuple(captioned),
        notes=(*photos.notes, *notes),
        written=tuple((path.name, caption) for path, caption in written.items()),
    )


def _cached(photos: Sequence[Photo], captioner: Captioner, device: str) -> list[str]:
    """Read the texts of photos from the cache, and let the model write the missing ones."""
    folder = cache_folder() / "captions" / captioner.fingerprint
    files = {photo.path: folder / f"{_digest(photo)}.txt" for photo in photos}
    missing = [photo for photo in photos if not files[photo.path].exists()]
    for photo, text in zip(missing, captioner.describe(missing, device) if missing else [], strict=True):
        with atomic_write(files[photo.path]) as temporary:
            temporary.write_text(_cleaned(text), encoding="utf-8")
    return [one_line(read_text(files[photo.path])) for photo in photos]


def _digest(photo: Photo) -> str:
    return hashlib.sha256(f"{photo.size}".encode() + photo.image.tobytes()).hexdigest()[:32]


def _cleaned(text: str) -> str:
    """Remove how models begin, and the full stop at the end."""
    return re.sub(r"\baraf\w* ", "", _OPENING.sub("", one_line(text))).strip(" .")
