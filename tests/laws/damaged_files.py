"""Adapter files of every format, each with one fault that a download or a stranger may give it."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile

import torch
from safetensors.torch import save
from torch import Tensor

from laws.bad_places import fresh_adapter, fresh_token
from mascot.adapters.adapter_file import MANIFEST_KEY, Adapter
from mascot.adapters.formats.numbered_layers import unet_layers
from mascot.adapters.formats.registry import write_format
from mascot.adapters.lora_keys import METADATA_KEY
from mascot.adapters.peft_folder import write_peft_folder

ENDING: Final = ".safetensors"
MANY: Final = 10_000
"""Tensors of a file with too many."""
LONG: Final = 10_000
"""Letters of a name that is too long."""


@dataclass(frozen=True, slots=True)
class Content:
    """What one whole file holds."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def bytes(self) -> bytes:
        """Write it as a safetensors file."""
        return save(
            {key: tensor.contiguous().clone() for key, tensor in self.tensors.items()}, dict(self.metadata) or None
        )


def contents(base: Path) -> dict[str, Content]:
    """A whole file of each format: those of layers for this base, and two for real ones."""
    adapter, word = fresh_adapter(base), fresh_token(base)
    made = {"ours": own(adapter)}
    for to in ("kohya", "comfyui"):
        made[to] = Content(*write_format(to, adapter.tensors, adapter.metadata, None))
    rows = next(iter(word.tensors.values()))
    made["words"] = Content({"<owl>": rows}, {})
    made["parameters"] = Content({"emb_params": rows}, {})
    made["bundle"] = Content({**made["kohya"].tensors, "bundle_emb.owl.emb_params": rows}, {})
    made["trained_word"] = own(word)
    made["numbered"] = numbered()
    made["fused"] = fused()
    return made


def own(adapter: Adapter) -> Content:
    """What our own file holds, with its manifest."""
    assert adapter.manifest is not None
    return Content(adapter.tensors, {**adapter.metadata, MANIFEST_KEY: adapter.manifest.model_dump_json()})


def numbered() -> Content:
    """A file of cloneofsimo's for Stable Diffusion 1."""
    tensors: dict[str, Tensor] = {}
    for number, (_, (out, *inner)) in enumerate(unet_layers(("attn1", "ff", "attn2"), 768, residual=False)):
        tensors |= {f"unet:{number}:up": torch.ones(out, 1) / 99, f"unet:{number}:down": torch.ones(1, *inner) / 99}
    return Content(tensors, {"unet": '["CrossAttention", "GEGLU"]'})


def fused() -> Content:
    """A file of kohya's for FLUX.1, with joined queries, keys and values."""
    name = "lora_unet_double_blocks_{}_img_attn_qkv"
    tensors: dict[str, Tensor] = {}
    for block in (0, 18):
        layer = name.format(block)
        tensors |= {
            f"{layer}.lora_down.weight": torch.ones(2, 3072) / 99,
            f"{layer}.lora_up.weight": torch.ones(9216, 2) / 99,
            f"{layer}.alpha": torch.tensor(2.0),
        }
    return Content(tensors, {})


def pack(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Write a safetensors file with any header: an object, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def unpack(whole: bytes) -> tuple[dict[str, dict[str, object]], bytes]:
    """Split a whole file into its header and its data."""
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def broken_bytes(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield versions of a file that no reader may take for a whole one."""
    length = int.from_bytes(whole[:8], "little")
    for name, end in {
        "nothing": 0,
        "half_length": 4,
        "length_alone": 8,
        "half_header": 8 + length // 2,
        "header_alone": 8 + length,
        "half": (8 + length + len(whole)) // 2,
        "last_byte_gone": len(whole) - 1,
    }.items():
        yield f"cut_{name}", whole[:end]
    yield "one_byte_more", whole + b"\0"
    for number in (0, 1, length - 1, length + 1, 10**8 + 1, 2**63, 2**64 - 1):
        yield f"length_{number}", number.to_bytes(8, "little") + whole[8:]
    yield from lying_headers(whole)
    yield "text", b"just a note, and no weights at all\n" * 9
    yield "web_page", b"<!DOCTYPE html><html><body>Not found</body></html>"
    yield "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    yield "pickle", pickle.dumps({"weights": [1.0]})
    yield "code", pickle.dumps(Caller())
    for name, inside in {"zip": whole, "bomb": bytes(2**22)}.items():
        packed = io.BytesIO()
        with ZipFile(packed, "w", ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", inside)
        yield name, packed.getvalue()


class Caller:
    """An object that makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        """Return what would be called."""
        return os.mkdir, ("ran",)


def lying_headers(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield versions of a file whose header says what is not so."""
    header, data = unpack(whole)
    first, *others = [key for key in header if key != "__metadata__"]
    own: dict[str, object] = header[first]
    start, end = own["data_offsets"]  # type: ignore[misc]
    entries: dict[str, object] = {
        "offsets_outside": own | {"data_offsets": [start, end + len(data)]},
        "offsets_turned": own | {"data_offsets": [end, start]},
        "offsets_negative": own | {"data_offsets": [-4, end]},
        "offsets_fraction": own | {"data_offsets": [0.5, end]},
        "offsets_one": own | {"data_offsets": [start]},
        "offsets_huge": own | {"data_offsets": [0, 10**30]},
        "offsets_absent": {"dtype": "F32", "shape": [1]},
        "shape_huge": own | {"shape": [2**40, 2**40]},
        "shape_overflow": own | {"shape": [2**62, 4, 2**62]},
        "shape_negative": own | {"shape": [-1, 4]},
        "shape_other": own | {"shape": [3, 3]},
        "shape_text": own | {"shape": "4x4"},
        "shape_deep": own | {"shape": [1] * 5000},
        "type_unknown": own | {"dtype": "F33"},
        "type_number": own | {"dtype": 32},
        "entry_list": [],
        "entry_null": None,
    }
    if others:
        entries["offsets_overlap"] = own | {"data_offsets": header[others[0]]["data_offsets"]}
    for name, entry in entries.items():
        yield name, pack(header | {first: entry}, data)
    yield "gap", pack({first: own | {"data_offsets": [start + 4, end + 4]}}, data + bytes(8))
    yield "header_list", pack([header], data)
    yield "header_null", pack(b"null", data)
    yield "header_no_json", pack(b"{" * 200, data)
    yield "header_deep", pack(b'{"a":' * 3000 + b"1" + b"}" * 3000, data)
    yield "header_digits", pack(b'{"a":' + b"9" * 5000 + b"}", data)
    yield "header_no_utf8", pack(b'{"\xff\xfe":1}', data)
    yield "header_surrogate", pack(json.dumps(header | {"\ud800": own}).encode(), data)
    yield "metadata_number", pack(header | {"__metadata__": {"a": 1}}, data)
    yield "metadata_list", pack(header | {"__metadata__": []}, data)
    yield "metadata_null", pack(header | {"__metadata__": {"a": None}}, data)


def broken_tensors(content: Content) -> Iterator[tuple[str, Content]]:
    """Yield whole files whose tensors are no adapter that can be applied."""
    tensors, metadata = dict(content.tensors), content.metadata
    first = next(iter(tensors))
    matrix = next(key for key in tensors if tensors[key].ndim > 1)

    def changed(**named: Tensor | None) -> Content:
        made = tensors | {matrix: next(iter(named.values()))}
        return Content({key: tensor for key, tensor in made.items() if tensor is not None}, metadata)

    good = tensors[matrix]
    yield "nan", changed(a=good.clone().fill_(torch.nan))
    yield "infinite", changed(a=good.clone().fill_(-torch.inf))
    yield "one_nan", changed(a=good.clone().index_fill_(0, torch.tensor([0]), torch.nan))
    yield "whole_numbers", changed(a=good.int())
    yield "booleans", changed(a=good.bool())
    yield "scalar", changed(a=torch.tensor(1.0))
    if len(good.flatten()) != good.shape[-1]:
        yield "flat", changed(a=good.flatten())
    yield "deep", changed(a=good[None, None, None])
    yield "no_rows", changed(a=good[:0])
    yield "no_columns", changed(a=good[:, :0])
    yield "enormous", changed(a=good.clone().fill_(3e38))
    yield "nothing", Content({}, metadata)
    if any(ending in matrix for ending in ("lora", ":")):
        yield "half", changed(a=None)
        yield "other_rank", changed(a=good.repeat(3, *[1] * (good.ndim - 1)))
        yield (
            "high_rank",
            Content(
                {key: torch.zeros_like(one).repeat(9999, 1) if key == matrix else one for key, one in tensors.items()},
                {},
            ),
        )
    unknown = {f"lora_unet_nowhere_{key.replace('.', '_')}.lora_up.weight": one for key, one in tensors.items()}
    yield "all_unknown", Content(unknown, metadata)
    yield "one_unknown", Content(tensors | {"lora_unet_nowhere.lora_up.weight": good}, metadata)
    yield "stray", Content(tensors | {"spice.level": torch.tensor([1.0])}, metadata)
    if first.startswith("lora_"):
        yield "many", Content({f"{first}.{n}": torch.zeros(1) for n in range(MANY)}, {})
    yield "long_name", Content(tensors | {"x" * LONG: good}, metadata)
    yield "control_name", Content(tensors | {"a\x1b[31m\x00\r\nb\x7f": good}, metadata)
    yield "unicode_name", Content(tensors | {"lora_unet_\N{OWL}\N{RIGHT-TO-LEFT OVERRIDE}.alpha": good}, metadata)
    yield "empty_name", Content(tensors | {"": good}, metadata)
    yield "up_name", Content(tensors | {"../../owl.lora_up.weight": good}, metadata)
    yield "metadata_own", Content(tensors, {**metadata, METADATA_KEY: '{"unet.r": -1, "unet.lora_alpha": 1e400}'})
    for name, text in MANIFESTS.items():
        yield name, Content(tensors, {**metadata, MANIFEST_KEY: text})


MANIFESTS: Final = {
    "manifest_text": "no JSON",
    "manifest_null": "null",
    "manifest_empty": "{}",
    "manifest_newer": '{"version": 2}',
    "manifest_deep": "[" * 9000,
}
"""Manifests that are none."""


def broken_alphas(content: Content) -> Iterator[tuple[str, Content]]:
    """Yield files of kohya's form with alphas that are none."""
    key = next(key for key in content.tensors if key.endswith(".alpha"))
    for name, alpha in {
        "nan": torch.tensor(torch.nan),
        "infinite": torch.tensor(torch.inf),
        "enormous": torch.tensor(1e30),
        "several": torch.ones(3),
        "empty": torch.ones(0),
        "boolean": torch.tensor(1.0).bool(),
    }.items():
        yield f"alpha_{name}", Content({**content.tensors, key: alpha}, content.metadata)
    yield "alpha_alone", Content({key: torch.tensor(1.0)}, {})


def broken_words(content: Content) -> Iterator[tuple[str, Content]]:
    """Yield files with words that no prompt or file can have."""
    rows = next(tensor for key, tensor in content.tensors.items() if key.startswith("bundle_emb."))
    layers = {key: tensor for key, tensor in content.tensors.items() if not key.startswith("bundle_emb.")}
    for name, key in {
        "empty": "bundle_emb..emb_params",
        "space": "bundle_emb. .emb_params",
        "control": "bundle_emb.a\nb\x1b.emb_params",
        "long": f"bundle_emb.{'w' * LONG}.emb_params",
        "brace": "bundle_emb.{subject}.emb_params",
        "other": "bundle_emb.owl.surprise",
    }.items():
        yield f"word_{name}", Content({**layers, key: rows}, content.metadata)
    for name, made in {
        "rows": torch.ones(500, rows.shape[-1]),
        "no_rows": torch.ones(0, rows.shape[-1]),
        "scalar": torch.tensor(1.0),
        "nan": rows * torch.nan,
        "deep": rows[None, None],
        "whole_numbers": rows.int(),
    }.items():
        yield f"word_{name}_tensor", Content({**layers, "bundle_emb.owl.emb_params": made}, content.metadata)
    thousand = {f"bundle_emb.w{n}.emb_params": rows for n in range(1000)}
    yield "word_thousand", Content({**layers, **thousand}, content.metadata)


def lay_out_damaged(folder: Path, base: Path) -> dict[str, list[str]]:
    """Write all files; returns format -> paths from `folder`'s parent, each of which is refused."""
    made = contents(base)
    for name, content in made.items():
        put(folder / "whole" / f"{name}{ENDING}", content.bytes())
    for name, content in made.items():
        for fault, broken in broken_tensors(content):
            put(folder / name / f"{fault}{ENDING}", broken.bytes())
    for name in ("ours", "kohya", "words"):
        for fault, data in broken_bytes(made[name].bytes()):
            put(folder / name / f"{fault}{ENDING}", data)
    for name in ("kohya", "comfyui", "fused"):
        for fault, broken in broken_alphas(made[name]):
            put(folder / name / f"{fault}{ENDING}", broken.bytes())
    for fault, broken in broken_words(made["bundle"]):
        put(folder / "bundle" / f"{fault}{ENDING}", broken.bytes())
    lay_out_pickles(folder / "pickles", made["parameters"])
    lay_out_folders(folder / "peft", fresh_adapter(base))
    (folder / "kohya" / f"folder{ENDING}").mkdir()
    os.mkfifo(folder / "kohya" / f"fifo{ENDING}")
    (folder / "kohya" / f"loop{ENDING}").symlink_to(f"loop{ENDING}")
    (folder / "kohya" / f"lost{ENDING}").symlink_to("nowhere")
    (folder / "kohya" / f"device{ENDING}").symlink_to("/dev/zero")
    return {
        part.name: sorted(str(path.relative_to(folder.parent)) for path in part.iterdir())
        for part in sorted(folder.iterdir())
    }


def lay_out_pickles(folder: Path, content: Content) -> None:
    """Write pickled words with faults."""
    rows = next(iter(content.tensors.values()))
    packed = io.BytesIO()
    torch.save({"string_to_param": {"*": rows}}, packed)
    whole = packed.getvalue()
    put(folder / "half.pt", whole[: len(whole) // 2])
    put(folder / "nothing.pt", b"")
    put(folder / "text.bin", b"a note\n")
    put(folder / "code.pt", pickle.dumps(Caller()))
    put(folder / "list.pt", pickle.dumps([1, 2]))
    for name, value in {
        "code_inside": {"string_to_param": {"*": rows}, "x": Caller()},
        "nan": {"string_to_param": {"*": rows * torch.nan}},
        "scalar": {"string_to_param": {"*": torch.tensor(1.0)}},
        "texts": {"string_to_param": {"*": "rows"}},
        "other": {"string_to_param": 3},
        "numbers": {"emb_params": rows.int()},
        "sparse": {"emb_params": rows.to_sparse()},
        "empty": {},
        "layers": {"a.b": rows, "c": rows},
        "meta": {"emb_params": rows.to("meta")},
        "complex": {"emb_params": rows.to(torch.complex64)},
        "quantized": {"emb_params": torch.quantize_per_tensor(rows, 0.1, 0, torch.qint8)},
    }.items():
        packed = io.BytesIO()
        torch.save(value, packed)
        put(folder / f"{name}.pt", packed.getvalue())
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**28 + 1))
    put(folder / "bomb.pt", packed.getvalue())


def lay_out_folders(folder: Path, adapter: Adapter) -> None:
    """Write folders of peft with faults."""
    tensors, metadata = write_format("peft", adapter.tensors, adapter.metadata, None)
    folder.mkdir()
    write_peft_folder(folder.parent / "whole" / "peft", tensors, metadata)
    part = next(path.name for path in sorted((folder.parent / "whole" / "peft").iterdir(), reverse=True))
    config, weights = "adapter_config.json", "adapter_model.safetensors"
    whole = (folder.parent / "whole" / "peft" / part / weights).read_bytes()
    settings = json.loads((folder.parent / "whole" / "peft" / part / config).read_bytes())
    faults: dict[str, tuple[str, bytes | None]] = {
        "no_weights": (weights, None),
        "cut_weights": (weights, whole[:-9]),
        "no_json": (config, b"{"),
        "list": (config, b"[]"),
        "empty": (config, b""),
        "other_kind": (config, json.dumps(settings | {"peft_type": "IA3"}).encode()),
        "kind_list": (config, json.dumps(settings | {"peft_type": ["LORA"]}).encode()),
        "rank_text": (config, json.dumps(settings | {"r": "high"}).encode()),
        "rank_other": (config, json.dumps(settings | {"r": 77}).encode()),
        "rank_negative": (config, json.dumps(settings | {"r": -2}).encode()),
        "alpha_enormous": (config, json.dumps(settings | {"lora_alpha": 10**30}).encode()),
        "alpha_nan": (config, json.dumps(settings | {"lora_alpha": float("nan")}).encode()),
        "pattern_list": (config, json.dumps(settings | {"rank_pattern": [1]}).encode()),
        "pattern_regex": (config, json.dumps(settings | {"alpha_pattern": {"(": 3}}).encode()),
    }
    for name, (file, data) in faults.items():
        shutil.copytree(folder.parent / "whole" / "peft", folder / name)
        (folder / name / part / file).unlink()
        if data is not None:
            (folder / name / part / file).write_bytes(data)


def put(path: Path, data: bytes) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def mutated(whole: bytes, seed: int) -> bytes:
    """Change a few bytes of a file's header, or exchange or cut data, at random."""
    chance = random.Random(seed)
    length = int.from_bytes(whole[:8], "little")
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(8 + length) if chance.random() < 0.8 else chance.randrange(len(data))
        data[place] = chance.choice((chance.randrange(256), ord(chance.choice('0123456789"{}[],:ABlora_.weight'))))
    return bytes(data)
