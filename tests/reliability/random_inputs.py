"""Strategies of bad inputs: photos, captions, recipes, options, adapters, bases, runs, places."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from hypothesis import strategies as st
from safetensors.numpy import load, save

from laws.bad_commands import PLAIN
from mascot.recipe.mistakes import sections_of
from mascot.recipe.recipe import Recipe
from tiny.photos import EXTENSIONS, noise

Draw = st.DrawFn
OWN = "own"
"""The folder of an attempt's own files."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Attempt:
    """One command line, and the files that are made for it."""

    words: tuple[str, ...]
    copies: dict[str, str] = field(default_factory=dict[str, str])
    """Name below `own` -> file or folder that is copied there by links first."""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Name below `own` -> content, in place of what was copied."""
    special: dict[str, str] = field(default_factory=dict[str, str])
    """Name below `own` -> `pipe`, `folder`, `gone` or the target of a link."""

    def __repr__(self) -> str:
        """Show the words and the beginnings of the files, on one page."""
        files = {name: data[:300] + b"..." * (len(data) > 300) for name, data in self.files.items()}
        return f"{self.words}, copies {self.copies}, files {files}, special {self.special}"[:3000]

    def lay_out(self, places: Path) -> None:
        """Make the files."""
        own = places / OWN
        own.mkdir()
        for name, source in self.copies.items():
            copy_by_links(places / source, own / name)
        for name in (*self.files, *self.special):
            remove(own / name)
            (own / name).parent.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (own / name).write_bytes(data)
        for name, kind in self.special.items():
            make_special(own / name, kind)


def copy_by_links(source: Path, target: Path) -> None:
    """Copy a file or a folder without its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        os.link(source, target)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_special(path: Path, kind: str) -> None:
    """Make what is no regular file, or nothing."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.symlink_to(kind)


SPECIAL = st.sampled_from(
    ["pipe", "folder", "gone", "nowhere", ".", "/dev/zero", "/dev/null", "/proc/self/mem", "/dev/full"]
)

ODD_TEXT = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "\t\n",
            "{",
            "}",
            "{}",
            "{0}",
            "{token",
            "{subject!r}",
            "{subject.__class__}",
            "{class:>9999999999}",
            "{unknown}",
            "a\x1b[31mb",
            "\ufeff",
            "\u202eabc",
            "e\u0301" * 50,
            "😀" * 100,
            "x" * 5000,
            "../../etc/passwd",
            "~",
            "-",
            "--",
            "nul",
            "caf\udce9",
            "none",
            "null",
            "NaN",
            "true",
            "[]",
            "a" * 300,
        ]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
)
NUMERALS = (
    "nan inf -inf -1 0 -0 0.0 1e400 1e-400 1e9 99999999999999999999 0x10 1_000 \N{ARABIC-INDIC DIGIT ONE} "
    "\N{FULLWIDTH DIGIT ONE} 1,5 1.5.2 +-1 --1 1e 1000000 2147483648 4294967296 -9223372036854775809 0.5 1/2 5% 3; None"
)
ODD_NUMBER = st.sampled_from([*NUMERALS.split(), "", " ", "1 2", "9" * 5000])
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.sampled_from([10**6, 10**9, 10**30, -(10**9), 0.5, -0.5, 1e308, float("nan"), float("inf")]),
        ODD_TEXT.filter(lambda text: "\udce9" not in text),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


ACCIDENTS: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "cut": lambda data, at, _: data[:at],
    "flip": lambda data, at, other: (
        data[:at] + bytes(255 - byte for byte in data[at : at + len(other)]) + data[at + len(other) :]
    ),
    "insert": lambda data, at, other: data[:at] + other + data[at:],
    "zeros": lambda data, at, _: data[:at] + bytes(len(data) - at),
    "twice": lambda data, _, __: data + data,
    "utf-16": lambda data, _, __: data.decode("latin-1").encode("utf-16"),
    "random": lambda _, __, other: other,
}
"""What happens to a file of some bytes, at a position, with some other bytes."""


@st.composite
def spoiled(draw: Draw, data: bytes) -> bytes:
    """Bytes of a file after one accident: cut, overwritten, mixed up, or another file's."""
    accident, at = draw(st.sampled_from(sorted(ACCIDENTS))), draw(st.integers(0, max(0, len(data) - 1)))
    return ACCIDENTS[accident](data, at, draw(st.binary(min_size=1, max_size=64)))


@cache
def photo_bytes() -> dict[str, bytes]:
    """A photo in each of several formats."""
    made: dict[str, bytes] = {}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = BytesIO()
        noise().save(buffer, kind)
        made[kind] = buffer.getvalue()
    return made


def train(*words: str, photos: str = "photos", base: str = "base") -> tuple[str, ...]:
    """The words of a training in which only what is added can be at fault."""
    return ("train", photos, "--base", base, "--out", "out", *PLAIN, "--steps", "2", *words)


@st.composite
def photos(draw: Draw) -> Attempt:
    """A file that is called a photo."""
    name = draw(st.sampled_from(["p", "é", "a b", "-x", "x" * 200, "%s", "p.png", "."])) + draw(
        st.sampled_from([*EXTENSIONS, ".JPG", ".txt", ""])
    )
    words = train(photos=f"{OWN}/{draw(st.sampled_from([name, '.']))}")
    if draw(st.integers(0, 5)) == 0:
        return Attempt(words=words, special={name: draw(SPECIAL)})
    kind = draw(st.sampled_from(sorted(photo_bytes())))
    return Attempt(words=words, files={name: draw(spoiled(photo_bytes()[kind]))})


@st.composite
def start_images(draw: Draw) -> Attempt:
    """A file that is called the image to start from, or its mask."""
    name = draw(st.sampled_from(["p", "é", "a b", "x" * 200, "%s", "p.mask"])) + draw(
        st.sampled_from([*EXTENSIONS, ".JPG", ".txt", ".csv", ""])
    )
    given = draw(st.sampled_from([("--image",), ("--image", "photos/1.png", "--mask")]))
    words = ("generate", "adapter.safetensors", "a {subject}", "--count", "1", "--steps", "2", "--out", "out", *given)
    words = (*words, f"{OWN}/{name}")
    if draw(st.integers(0, 5)) == 0:
        return Attempt(words=words, special={name: draw(SPECIAL)})
    kind = draw(st.sampled_from(sorted(photo_bytes())))
    return Attempt(words=words, files={name: draw(spoiled(photo_bytes()[kind]))})


@st.composite
def captions(draw: Draw) -> Attempt:
    """A caption that cannot be used, beside a photo that can."""
    files = {"1.png": photo_bytes()["PNG"]}
    name = draw(st.sampled_from(["1.txt", "1.caption", "1.png.txt"]))
    words = train(photos=OWN)
    if draw(st.integers(0, 4)) == 0:
        return Attempt(words=words, files=files, special={name: draw(SPECIAL)})
    text = draw(st.one_of(ODD_TEXT.map(lambda text: text.encode("utf-8", "surrogateescape")), st.binary(max_size=60)))
    return Attempt(words=words, files=files | {name: text * draw(st.sampled_from([1, 1, 1, 100_000]))})


@st.composite
def metadata(draw: Draw) -> Attempt:
    """A table of captions that cannot be used, beside photos that can."""
    files = {"1.png": photo_bytes()["PNG"], "2.png": photo_bytes()["PNG"]}
    name = draw(st.sampled_from(["metadata.jsonl", "metadata.csv", "metadata.json"]))
    words = train(photos=OWN)
    if draw(st.integers(0, 5)) == 0:
        return Attempt(words=words, files=files, special={name: draw(SPECIAL)})
    row = st.one_of(JSON, st.fixed_dictionaries({"file_name": JSON, "text": JSON}))
    good = json.dumps({"file_name": "1.png", "text": "a {subject}"})
    lines = [json.dumps(draw(row)), good, draw(st.sampled_from(["", "{", good, "\ufeff" + good, '{"a":' * 3000]))]
    data = "\n".join(draw(st.permutations(lines))).encode()
    return Attempt(words=words, files=files | {name: draw(st.one_of(st.just(data), spoiled(data)))})


@cache
def recipe_keys() -> tuple[str, ...]:
    """Every key of a recipe, with its section."""
    return tuple(
        f"{section}.{key}" if section else key for section, keys in dict(sections_of(Recipe)).items() for key in keys
    )


@st.composite
def recipes(draw: Draw) -> Attempt:
    """A recipe file with one odd value, or an accident in its text."""
    values: dict[str, Any] = {"photos": ["photos"], "base": "base", "device": "cpu", "prior": {"count": 0}}
    key = draw(st.sampled_from(recipe_keys()))
    *sections, name = (key + draw(st.sampled_from(["", "", "", "s", "_", "é"]))).split(".")
    inside = values
    for section in sections:
        inside = inside.setdefault(section, {})
    inside[name] = draw(JSON.filter(lambda value: value is not None and "null" not in json.dumps(value)))
    text = tomli_w.dumps(values).encode()
    if draw(st.booleans()):
        text = draw(spoiled(text))
    words = ("train", "--recipe", f"{OWN}/r.toml", "--out", "out", "--steps", "2")
    if draw(st.integers(0, 8)) == 0:
        return Attempt(words=words, special={"r.toml": draw(SPECIAL)})
    return Attempt(words=words, files={"r.toml": text})


@st.composite
def overrides(draw: Draw) -> Attempt:
    """A `--set` with an odd key or value."""
    key = draw(st.sampled_from(recipe_keys()))
    key = draw(st.sampled_from([key, key, key, key.upper(), key[:-1], f"{key}.x", f" {key}", key.replace(".", "..")]))
    value = draw(st.one_of(ODD_TEXT, ODD_NUMBER, JSON.map(json.dumps)))
    item = draw(st.sampled_from([f"{key}={value}", f"{key}={value}", f"{key} {value}", f"={value}", key]))
    return Attempt(words=train("--set", item))


def adapter_parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: object, body: bytes) -> bytes:
    """Write a safetensors file whose header may say anything."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def odd_entry(draw: Draw, data: bytes, name: str) -> bytes:
    """A lie about one tensor in the header."""
    header, body = adapter_parts(data)
    header[name][draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = draw(JSON)
    return with_header(header, body)


def odd_manifest(draw: Draw, data: bytes, _: str) -> bytes:
    """An odd value of the manifest, or of what a library notes beside it."""
    header, body = adapter_parts(data)
    key = draw(st.sampled_from([key for key, text in sorted(header["__metadata__"].items()) if text.startswith("{")]))
    inside = json.loads(header["__metadata__"][key])
    inside[draw(st.sampled_from(sorted(inside)))] = draw(JSON)
    header["__metadata__"][key] = json.dumps(inside)
    return with_header(header, body)


def odd_metadata(draw: Draw, data: bytes, _: str) -> bytes:
    """Metadata of another tool, or of none."""
    header, body = adapter_parts(data)
    header["__metadata__"] = draw(st.one_of(JSON, st.dictionaries(st.text(max_size=5), ODD_TEXT, max_size=3)))
    return with_header(header, body)


def odd_name(draw: Draw, data: bytes, name: str) -> bytes:
    """A tensor under a name that no layer has."""
    header, body = adapter_parts(data)
    renamed = draw(st.sampled_from([name + ".x", "lora_unet_" + name.replace(".", "_"), name.upper(), "", "é"]))
    header[renamed] = header.pop(name)
    return with_header(header, body)


def odd_tensor(draw: Draw, data: bytes, name: str) -> bytes:
    """A tensor of another shape, or with numbers that are none."""
    values, (header, _) = load(data), adapter_parts(data)
    whole = values[name]
    factor = np.float32(draw(st.sampled_from([float("nan"), float("inf"), 1e30])))
    with np.errstate(all="ignore"):
        values[name] = draw(st.sampled_from([whole[:1], whole.T.copy(), whole.ravel(), whole * factor, whole * factor]))
    return save(values, header["__metadata__"])


def odd_bytes(draw: Draw, data: bytes, _: str) -> bytes:
    """An accident of the whole file."""
    return draw(spoiled(data))


@st.composite
def adapters(draw: Draw, data: bytes) -> Attempt:
    """An adapter of ours after an accident, a lie in its header, or with odd numbers in it."""
    name = draw(st.sampled_from(["a.safetensors", "a.safetensors", "a.pt", "a"]))
    words = draw(
        st.sampled_from(
            [
                ("generate", f"{OWN}/{name}", "a {subject}", "--count", "1", "--steps", "1", "--out", "out"),
                ("evaluate", f"{OWN}/{name}", "--photos", "photos", "--images", "1", *ENCODERS),
            ]
        )
    )
    if draw(st.integers(0, 8)) == 0:
        return Attempt(words=words, special={name: draw(SPECIAL)})
    change = draw(
        st.sampled_from([odd_bytes, odd_entry, odd_manifest, odd_manifest, odd_metadata, odd_name, odd_tensor])
    )
    tensor = draw(st.sampled_from(sorted(set(adapter_parts(data)[0]) - {"__metadata__"})))
    return Attempt(words=words, files={name: change(draw, data, tensor)})


ENCODERS = ("--identity", "seer", "--clip", "reader", "--device", "cpu")
CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
)
WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)


@st.composite
def bases(draw: Draw, base: dict[str, bytes]) -> Attempt:
    """A base with one odd value in a config, or one file after an accident."""
    words = train(*draw(st.sampled_from([(), (), ("--method", "dreambooth")])), base=f"{OWN}/base")
    copies = {"base": "base"}
    accident = draw(st.sampled_from(["config", "config", "config", "config", "bytes", "special"]))
    if accident == "special":
        name = draw(st.sampled_from(sorted(base)))
        return Attempt(words=words, copies=copies, special={f"base/{name}": draw(SPECIAL)})
    if accident == "bytes":
        name = draw(st.sampled_from(sorted(base)))
        return Attempt(words=words, copies=copies, files={f"base/{name}": draw(spoiled(base[name]))})
    name = draw(st.sampled_from([name for name in CONFIGS if name in base]))
    values = json.loads(base[name])
    key = draw(st.sampled_from(sorted(values)))
    if draw(st.booleans()):
        values[key] = draw(JSON)
    else:
        del values[key]
    return Attempt(words=words, copies=copies, files={f"base/{name}": json.dumps(values).encode()})


SYNTAX = "( ) [ ] \\ | , : :1.3) :-1) :9e9) :nan) :\u0663) BREAK <owl:0.8> red {subject} \x00 \u00ad".split(" ")
BRACKETS = st.lists(
    st.sampled_from([*SYNTAX, " ", " BREAK ", "a dog in the snow, " * 20, "sks " * 80]), max_size=12
).map("".join)
"""Prompts with weights, escapes, chunks and the syntax of other tools, in any order."""


@st.composite
def prompts(draw: Draw) -> Attempt:
    """An odd prompt, negative prompt, token or class noun."""
    text = draw(st.one_of(ODD_TEXT, BRACKETS))
    generate = ("generate", "adapter.safetensors")
    few = ("--count", "1", "--steps", "1", "--out", "out")
    return Attempt(
        words=draw(
            st.sampled_from(
                [
                    (*generate, text, *few),
                    (*generate, "a {subject}", "--negative", text, *few),
                    ("evaluate", "run", "--prompt", text, "--images", "1", *ENCODERS),
                    ("sweep", "run", "--over", "guidance=1,2", "--prompt", text, "--out", "out.png"),
                    train("--token", text),
                    train("--class-noun", text),
                    train("--set", f"previews.prompts={json.dumps([text])}"),
                ]
            )
        )
    )


NUMBERS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (train(), ("--steps", "--seed")),
    (
        ("generate", "adapter.safetensors", "a {subject}", "--out", "out"),
        ("--count", "--seed", "--guidance", "--unet-scale", "--text-scale", "--steps", "--size", "--solver"),
    ),
    (("evaluate", "run", *ENCODERS), ("--images", "--seed", "--folds")),
    (("suite", "collection", "--base", "base", "--out", "out", *ENCODERS), ("--images", "--steps", "--seed")),
    (("diagnose", "run", *ENCODERS), ("--images", "--seed")),
    (("token", "--base", "base"), ("--count", "--candidates", "--seed")),
    (("sweep", "sweep.toml", "--out", "out"), ("--over", "--steps", "--images")),
)


@st.composite
def numbers(draw: Draw) -> Attempt:
    """An odd number for an option."""
    words, options = draw(st.sampled_from(NUMBERS))
    option, value = draw(st.sampled_from(options)), draw(st.one_of(ODD_NUMBER, ODD_TEXT))
    return Attempt(words=(*words, f"{option}={value}" if draw(st.booleans()) else option, *([value])))


PLACES = (
    ("train", "{}", "--base", "base", "--out", "out", *PLAIN),
    ("train", "photos", "--base", "{}", "--out", "out", *PLAIN),
    ("train", "photos", "--base", "base", "--out", "{}", *PLAIN),
    ("train", "photos", "--base", "base", "--recipe", "{}", "--out", "out", *PLAIN),
    ("train", "--resume", "--out", "{}"),
    ("doctor", "{}", "--base", "base", "--no-measure", *PLAIN),
    ("generate", "{}", "a {subject}", "--count", "1", "--steps", "1", "--out", "out"),
    ("generate", "adapter.safetensors", "a {subject}", "--count", "1", "--steps", "1", "--out", "{}"),
    ("generate", "adapter.safetensors", "a {subject}", "--base", "{}", "--count", "1", "--steps", "1", "--out", "out"),
    ("evaluate", "{}", "--images", "1", *ENCODERS),
    ("evaluate", "run", "--photos", "{}", "--images", "1", *ENCODERS),
    ("evaluate", "run", "--images", "1", "--identity", "{}", "--clip", "reader"),
    ("evaluate", "run", "--images", "1", "--identity", "seer", "--clip", "{}"),
    ("suite", "{}", "--base", "base", "--out", "out", *ENCODERS),
    ("diagnose", "{}", *ENCODERS),
    ("compare", "{}", "run"),
    ("compare", "run", "{}"),
    ("sweep", "{}", "--over", "guidance=1,2", "--out", "out.png"),
    ("sweep", "sweep.toml", "--over", "method.rank=2,4", "--out", "{}"),
    ("token", "--base", "{}"),
)
ODD_PLACE = st.one_of(
    st.sampled_from(
        [
            f"{OWN}/odd",
            f"{OWN}/odd",
            f"{OWN}/odd",
            f"{OWN}/odd/below",
            "photos",
            "base",
            "run",
            "collection",
            "empty",
            "note.txt",
            "adapter.safetensors",
            "photos/1.png",
            ".",
            "..",
            "/",
            "/dev/null",
            "/dev/zero",
            "/proc",
            "/proc/self/mem",
            "~nobody",
            "$HOME",
            "http://example.com/a",
            "owner/name",
            "owner/name/more",
            "n" * 300,
            "a/" * 2500,
            "C:\\photos",
        ]
    ),
    ODD_TEXT,
)


@st.composite
def places(draw: Draw) -> Attempt:
    """A path that is not what the command needs there."""
    place = draw(ODD_PLACE)
    words = tuple(place if word == "{}" else word for word in draw(st.sampled_from(PLACES)))
    what = draw(st.integers(0, 2))
    if what == 0:
        return Attempt(words=words, special={"odd": draw(SPECIAL)})
    return Attempt(words=words, files={"odd" if what == 1 else "odd/1.txt": draw(st.binary(max_size=50))})


RUN_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("train", "--resume", "--out", f"{OWN}/run"),
    ("train", "--resume", "--out", f"{OWN}/run"),
    ("generate", f"{OWN}/run", "a {subject}", "--count", "1", "--steps", "1", "--out", "out"),
    ("evaluate", f"{OWN}/run", "--images", "1", *ENCODERS),
    ("diagnose", f"{OWN}/run", *ENCODERS),
    ("compare", f"{OWN}/run", "trained"),
    ("sweep", f"{OWN}/run", "--over", "guidance=1,2", "--out", "out.png"),
)


@st.composite
def runs(draw: Draw, run: dict[str, bytes]) -> Attempt:
    """A trained run of which one file had an accident or holds another value."""
    words, copies = draw(st.sampled_from(RUN_COMMANDS)), {"run": "trained"}
    name = draw(st.sampled_from(sorted(run)))
    target = f"run/{name}"
    if draw(st.integers(0, 4)) == 0:
        return Attempt(words=words, copies=copies, special={target: draw(SPECIAL)})
    if name.endswith(".json") and draw(st.booleans()):
        values = json.loads(run[name])
        values[draw(st.sampled_from(sorted(values)))] = draw(JSON)
        return Attempt(words=words, copies=copies, files={target: json.dumps(values).encode()})
    return Attempt(words=words, copies=copies, files={target: draw(spoiled(run[name]))})


Strategy = Callable[[], st.SearchStrategy[Attempt]]


def kinds(places_folder: Path) -> dict[str, Strategy]:
    """Every kind of bad input, by name; some are made from the files of `places_folder`."""
    adapter = (places_folder / "adapter.safetensors").read_bytes()
    base = read_files(places_folder / "base")
    run = read_files(places_folder / "trained")
    return {
        "photos": photos,
        "start_images": start_images,
        "captions": captions,
        "metadata": metadata,
        "recipes": recipes,
        "overrides": overrides,
        "adapters": lambda: adapters(adapter),
        "bases": lambda: bases(base),
        "prompts": prompts,
        "numbers": numbers,
        "places": places,
        "runs": lambda: runs(run),
    }


def read_files(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in {".png", ".html", ".lock"}
    }
