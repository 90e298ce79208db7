"""How each tool uses a published adapter: code and words that are right for its kind and base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from mascot.adapters.headers.hub_facts import ENCODERS, LAYERS_FILE, READ_BY_A1111, prompt_name
from mascot.generation.knobs import Knobs
from mascot.models import starter
from mascot.reports.model_card import CardUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAdapter:
    """What tools must know to use an adapter's repository."""

    repository: str
    base: str
    """As strangers can load it, or the name of what they must have."""
    is_public: bool
    """Whether the base is on the hub, or embedded."""
    architecture: str | None
    prompt: str
    """An example prompt."""
    token: str
    knobs: Knobs
    size: int
    """Side of its images in pixels."""
    main: str
    """The file that mascot reads."""
    layers: str | None
    """The file that diffusers reads layers from; None where there is none."""
    kohya: str | None
    """The file that A1111 and ComfyUI read layers from."""
    words: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Token, file, and names of the tensors in it, of each word."""
    is_whole: bool
    """Whether the repository is a whole pipeline."""
    parts: frozenset[str]
    """Parts of the base that its layers change."""


def usages(adapter: PublishedAdapter) -> tuple[CardUsage, ...]:
    """Write a section for each tool that can use the adapter."""
    return tuple(usage for usage in (in_mascot(adapter), *in_diffusers(adapter), *in_other_tools(adapter)))


def in_mascot(adapter: PublishedAdapter) -> CardUsage:
    """Write the command of mascot."""
    base = "" if adapter.is_public else f" --base {adapter.base}"
    words = "" if adapter.is_public else f" Give the place of your copy of {adapter.base} as `--base`."
    return CardUsage(
        tool="mascot",
        words=f"It uses the recommended settings by itself.{words}",
        code=f'mascot generate {adapter.repository} "{adapter.prompt}"{base}',
        language="bash",
    )


def in_diffusers(adapter: PublishedAdapter) -> Iterator[CardUsage]:
    """Write code for diffusers, where it can read one of the files."""
    if not (adapter.is_whole or adapter.layers or adapter.words):
        return
    lines = ["import torch", "from diffusers import DiffusionPipeline"]
    source = json.dumps(adapter.repository if adapter.is_whole else adapter.base, ensure_ascii=False)
    if starter.is_embedded(adapter.base) and not adapter.is_whole:
        lines += ["from mascot.models import starter", ""]
        source = "starter.folder()"
    else:
        lines += [""]
    missing = "" if adapter.is_public or adapter.is_whole else "  # the place of your copy"
    # One dtype for all parts: without it a stored half text encoder meets a float32 denoiser.
    lines += [f"pipe = DiffusionPipeline.from_pretrained({source}, dtype=torch.float32){missing}"]
    prompt = adapter.prompt
    if adapter.layers is not None and not adapter.is_whole:
        lines += list(load_layers(adapter))
    if not adapter.is_whole:
        for token, file, names in adapter.words:
            lines += load_word(adapter.repository, token, file, names)
            prompt = prompt.replace(token, f"<{token}>")
    yield CardUsage(tool="diffusers", words="", code="\n".join([*lines, *call(adapter, prompt)]), language="python")


def load_layers(adapter: PublishedAdapter) -> Iterator[str]:
    """Write the lines that load layers, at the recommended strengths."""
    name = json.dumps(adapter.repository)
    yield f'pipe.load_lora_weights({name}, weight_name="{adapter.layers}", adapter_name="subject")'
    unet, text = adapter.knobs.unet_scale, adapter.knobs.text_scale
    if unet == text:
        yield f'pipe.set_adapters("subject", {unet:g})'
    else:
        scales = {part: text if part.startswith("text_encoder") else unet for part in sorted(adapter.parts)}
        yield f'pipe.set_adapters("subject", {json.dumps(scales)})'


def load_word(repository: str, token: str, file: str, names: tuple[str, ...]) -> list[str]:
    """Write the lines that load a word; its token gets brackets, as it may be a word already."""
    name, bracketed = json.dumps(repository), json.dumps(f"<{token}>", ensure_ascii=False)
    file = json.dumps(file, ensure_ascii=False)
    if not set(names) <= ENCODERS.keys():
        return [f"pipe.load_textual_inversion({name}, weight_name={file}, token={bracketed})"]
    lines = [
        "from huggingface_hub import hf_hub_download",
        "from safetensors.torch import load_file",
        f"rows = load_file(hf_hub_download({name}, {file}))",
    ]
    return lines + [
        f'pipe.load_textual_inversion(rows["{key}"], token={bracketed}, '
        f"text_encoder=pipe.{ENCODERS[key][0]}, tokenizer=pipe.{ENCODERS[key][1]})"
        for key in names
    ]


def call(adapter: PublishedAdapter, prompt: str) -> list[str]:
    """Write the lines that generate an image with the recommended settings."""
    knobs = adapter.knobs
    height, width = knobs.height or adapter.size, knobs.width or adapter.size
    lines = [
        "image = pipe(",
        f"    {json.dumps(prompt, ensure_ascii=False)},",
        f"    num_inference_steps={knobs.steps}, guidance_scale={knobs.guidance:g}, height={height}, width={width},",
    ]
    if knobs.negative:
        lines += [f"    negative_prompt={json.dumps(knobs.negative, ensure_ascii=False)},"]
    return [*lines, ").images[0]", 'image.save("image.png")']


def in_other_tools(adapter: PublishedAdapter) -> Iterator[CardUsage]:
    """Describe the use in A1111 and ComfyUI, where they have the base."""
    if adapter.kohya and starter.is_embedded(adapter.base):
        words = f"`{adapter.kohya}` is the form that they read. They have no checkpoint of the embedded base, though."
        yield CardUsage(tool="A1111, ComfyUI", words=words)
    if adapter.architecture is None or starter.is_embedded(adapter.base):
        return
    calls = prompt_name(adapter.kohya.removesuffix(".safetensors"), adapter.knobs.unet_scale) if adapter.kohya else ""
    files = ", ".join(f"`{file}`" for _, file, _ in adapter.words)
    settings = f"{adapter.knobs.steps} steps, a CFG scale of {adapter.knobs.guidance:g}"
    first = "A1111, Forge" if adapter.architecture in READ_BY_A1111 else "Forge"
    if adapter.kohya or files:
        layers = f"Put `{adapter.kohya}` into `models/Lora`. " if adapter.kohya else ""
        words = f"Put {files} into `embeddings`. " if files else ""
        yield CardUsage(
            tool=first, words=f"{layers}{words}Recommended are {settings}.", code=f"{adapter.prompt} {calls}".strip()
        )
        text = f"{adapter.knobs.text_scale:g}"
        layers = (
            f"Put `{adapter.kohya}` into `models/loras`, and load it with the node *Load LoRA*, with "
            f"`strength_model` {adapter.knobs.unet_scale:g} and `strength_clip` {text}. "
            if adapter.kohya
            else ""
        )
        words = f"Put {files} into `models/embeddings`, and write `embedding:` before the token. " if files else ""
        prompt = adapter.prompt
        for token, _, _ in adapter.words:
            prompt = prompt.replace(token, f"embedding:{token}")
        yield CardUsage(tool="ComfyUI", words=f"{layers}{words}".strip(), code=prompt)


def file_words(name: str, published: PublishedAdapter) -> str:
    """Describe a file of the repository."""
    if name == LAYERS_FILE:
        return "the layers, for diffusers" + (" and mascot" if name == published.main else "")
    if name == published.kohya:
        return "the layers in kohya's form, for A1111, Forge and ComfyUI"
    if any(name == file for _, file, _ in published.words):
        return "a trained word, for diffusers, A1111, Forge and ComfyUI"
    return "the whole adapter, for mascot"
