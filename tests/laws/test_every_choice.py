"""Laws of choices: each choice of each recipe key and each option runs through the command.

It ends in 0 with every promised file, or in 2 with one sentence that names it. Keys and options are
walked from the schema and the signatures, so that a new one without a case fails here. The default
run takes a sample.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from experiments.test_subject_collection import FILE
from laws.choices import (
    TABLES,
    UNUSED,
    Setting,
    all_settings,
    choices_of,
    command_options,
    lacks_texts,
    put,
    settings_to_plan,
    settings_to_train,
)
from laws.refusals import REFUSED
from mascot.api.adapters.bake import bake
from mascot.cli.app import main
from mascot.cli.options import OPTION_OF
from mascot.methods.registry import DEFAULT
from mascot.recipe.overrides import parse_overrides, write_none
from tiny.captioners import tiny_captioner
from tiny.encoders import tiny_clip, tiny_identity
from tiny.photos import noise

SMALL = (
    "training.steps=2",
    "training.checkpoint_every=1",
    "previews.every=1",
    "prior.count=1",
    "prior.steps=1",
    "knobs.steps=1",
    "method.rank=2",
    "dataset.resolution=64",
    "precision=fp32",
    "selection.checkpoints=1",
    "selection.cost=5",
    "selection.identity={identity}",
    "selection.clip={clip}",
    "report.images=2",
)
"""Settings of every run, with memory count, previews, selection, knob search and diagnosis on."""
SETS = tuple(word for setting in SMALL for word in ("--set", setting))
SAMPLE = 3
"""Settings, and options, that the default run tries."""

GIVEN: Mapping[str, Sequence[str]] = {
    "token": ("--token",),
    "class_noun": ("--class-noun",),
    "base": ("--base",),
    "photos": ("photos",),
    "subject": ("photos", "--class-noun", "--token"),
}
"""Key or section to the options that give it too, and that give way to `--set`."""

Words = Mapping[str, Sequence[str]]
"""Name of an option or argument -> its words, the name included for an option."""

COMMANDS: Mapping[str, Words] = {
    "train": {
        "photos": ["{photos}"],
        "--class-noun": ["--class-noun", "dog"],
        "--token": ["--token", "sks"],
        "--base": ["--base", "{base}"],
        "--set": SETS,
        "--out": ["--out", "{out}"],
    },
    "generate": {
        "words": ["{run}", "a dog"],
        "--count": ["--count", "1"],
        "--steps": ["--steps", "1"],
        "--out": ["--out", "{out}"],
    },
    "evaluate": {
        "runs": ["{run}"],
        "--prompt": ["--prompt", "a {subject}"],
        "--images": ["--images", "1"],
    },
    "suite": {
        "folder": ["{collection}"],
        "--subjects": ["--subjects", "cat9"],
        "--prompts": ["--prompts", "1"],
        "--images": ["--images", "1"],
        "--base": ["--base", "{base}"],
        "--set": SETS,
        "--out": ["--out", "{out}"],
    },
    "diagnose": {"run": ["{run}"], "--prompt": ["--prompt", "a {subject}"]},
    "compare": {"one": ["{evaluated}"], "other": ["{other}"], "--out": ["--out", "{out}/page.html"]},
    "sweep": {
        "what": ["{recipe}"],
        "--over": ["--over", "method.rank=2"],
        "--out": ["--out", "{out}"],
    },
    "token": {"--candidates": ["--candidates", "1"]},
    "inspect": {"files": ["{run}"]},
    "convert": {"adapter": ["{run}"], "out": ["{out}/a.safetensors"], "--to": ["--to", "diffusers"]},
    "merge": {"adapters": ["{run}:0.7", "other={other}:0.5:0.2"], "--out": ["--out", "{out}/merged.safetensors"]},
    "extract": {
        "tuned": ["{tuned}"],
        "--base": ["--base", "{base}"],
        "--rank": ["--rank", "2"],
        "--out": ["--out", "{out}/extracted.safetensors"],
    },
    "resize": {
        "adapter": ["{run}"],
        "--rank": ["--rank", "1"],
        "--out": ["--out", "{out}/resized.safetensors"],
    },
    "publish": {
        "run": ["{run}"],
        "--repo": ["--repo", "me/owl"],
        "--dry-run": ["--dry-run"],
        "--out": ["--out", "{out}/files"],
    },
    "doctor": {
        "photos": ["{photos}"],
        "--class-noun": ["--class-noun", "dog"],
        "--token": ["--token", "sks"],
        "--base": ["--base", "{base}"],
        "--set": SETS,
        "--measure": ["--no-measure"],
    },
}
"""Command -> what it is called with; a case replaces the words of its own option."""

FILES: Mapping[str, Sequence[str]] = {
    "train": ("{out}/adapter.safetensors", "{out}/report.html", "{out}/recipe.toml", "{out}/steps.jsonl"),
    "generate": ("{out}/*_0.png",),
    "evaluate": ("{run}/scores.json", "{run}/scores.html"),
    "suite": ("{out}/suite.json", "{out}/suite.html"),
    "diagnose": ("{run}/diagnosis.json", "{run}/diagnosis.html"),
    "compare": ("{out}/page.html",),
    "sweep": ("{out}/leaderboard.json", "{out}/leaderboard.html"),
    "token": (),
    "inspect": (),
    "convert": ("{out}/*",),
    "merge": ("{out}/*",),
    "extract": ("{out}/extracted.safetensors",),
    "resize": ("{out}/resized.safetensors",),
    "publish": ("{out}/files/README.md", "{out}/files/*.safetensors", "{out}/files/images/*.png"),
    "doctor": (),
}
"""Command -> the files that it promises, as patterns."""

SHARED: Mapping[str, Sequence[Sequence[str]]] = {
    "--base": (["--base", "{base}"], ["--base", "nowhere"]),
    "--token": (["--token", "sks"], ["--token", "two words"]),
    "--class-noun": (["--class-noun", "dog"],),
    "--method": tuple(["--method", name] for name in ("lora", "dreambooth", "textual-inversion", "pivotal", "bogus")),
    "--identity": (["--identity", "{identity}"], ["--identity", "starter"], ["--identity", "nowhere"]),
    "--clip": (["--clip", "{clip}"], ["--clip", "starter"], ["--clip", "nowhere"]),
    "--set": ([*SETS, "--set", "method.rank=4"], ["--set", "bogus=1"]),
    "--steps": (["--steps", "1"], ["--steps", "0"]),
    "--recipe": (["--recipe", "{recipe}"],),
    "--prompt": (["--prompt", "a {token} {class} on the beach", "--prompt", "a {subject}"],),
    "photos": (["{photos}"], ["{photos}/0.png", "{photos}/1.png"]),
    "run": (["{run}"], ["{run}/adapter.safetensors"]),
}
"""Option -> words of its cases, in every command that has it; beside the choices of its type."""

OWN: Mapping[tuple[str, str], Sequence[Sequence[str]]] = {
    ("train", "--out"): (["--out", "{out}/deeper/run"],),
    ("train", "--resume"): (["--resume"],),
    ("train", "--events"): (["--events", "{out}/events/log.jsonl"],),
    ("train", "--from"): (["--from", "{run}"], ["--from", "nowhere"]),
    **{
        (command, option): ([option, value], [option, "nowhere"])
        for command in ("train", "doctor")
        for option, value in (("--class-images", "{class_images}"), ("--caption-with", "{captioner}"))
    },
    ("doctor", "--from"): (["--from", "{run}"], ["--from", "nowhere"]),
    ("generate", "words"): (
        ["{run}", "a {subject}", "a dog"],
        ["{run}/adapter.safetensors:0.5", "a dog"],
        ["{run}:0.5:0", "a dog"],
        ["nowhere", "a dog"],
    ),
    ("generate", "--adapter"): (["--adapter", "{other}"], ["--adapter", "nowhere"]),
    ("generate", "--count"): (["--count", "1"], ["--count", "0"]),
    ("generate", "--guidance"): (["--guidance", "0"], ["--guidance", "100"], ["--guidance", "nan"]),
    ("generate", "--unet-scale"): (["--unet-scale", "0"], ["--unet-scale", "4"], ["--unet-scale", "-1"]),
    ("generate", "--text-scale"): (["--text-scale", "0"], ["--text-scale", "4"], ["--text-scale", "5"]),
    ("generate", "--true-guidance"): (["--true-guidance", "0"], ["--true-guidance", "3"], ["--true-guidance", "-1"]),
    ("generate", "--negative"): (["--negative", "blurry"], ["--negative", ""]),
    ("generate", "--solver"): tuple(["--solver", name] for name in ("ddim", "dpm++", "euler", "unipc", "bogus")),
    ("generate", "--size"): (["--size", "64x128"], ["--size", "64"], ["--size", "8x8"], ["--size", "64x"]),
    ("generate", "--image"): (
        ["--image", "{photos}/0.png", "--steps", "4"],
        ["--image", "nowhere.png"],
    ),
    ("generate", "--strength"): (
        *(["--strength", value, "--image", "{photos}/0.png", "--steps", "4"] for value in ("1", "0.3", "0", "2")),
        ["--strength", "0.6"],
    ),
    ("generate", "--mask"): (
        ["--mask", "{mask}", "--image", "{photos}/0.png", "--steps", "4"],
        ["--mask", "{photos}/0.mask.png", "--image", "{photos}/0.png", "--steps", "4"],
        ["--mask", "{mask}"],
    ),
    ("generate", "--out"): (["--out", "{out}/deeper"],),
    ("evaluate", "runs"): (["{run}"], ["{run}", "{other}"]),
    ("evaluate", "--real"): (["--real", "{photos}"],),
    ("evaluate", "--images"): (["--images", "1"], ["--images", "2"]),
    ("evaluate", "--photos"): (["--photos", "{photos}/2.png"], ["--photos", "{photos}"]),
    ("evaluate", "--cross-validate"): (["--cross-validate", "1"], ["--cross-validate", "x"]),
    ("suite", "folder"): (["{collection}"],),
    ("suite", "--methods"): (["--methods", "lora"], ["--methods", "bogus"]),
    ("suite", "--subjects"): (["--subjects", "cat9,mug"], ["--subjects", "bogus"]),
    ("suite", "--images"): (["--images", "1"], ["--images", "2"]),
    ("suite", "--out"): (["--out", "{out}/deeper"],),
    ("diagnose", "--photos"): (["--photos", "{photos}"],),
    ("compare", "one"): (["{evaluated}"], ["{evaluated}/adapter.safetensors"]),
    ("compare", "other"): (["{other}"],),
    ("compare", "--out"): (["--out", "{out}/deeper/page.html"],),
    ("sweep", "what"): (["{recipe}"],),
    ("sweep", "--over"): (["--over", "method.rank=2,4"], ["--over", "bogus=1"]),
    ("sweep", "--set"): (["--set", "method.alpha=4"], ["--set", "bogus=1"]),
    ("sweep", "--trials"): (["--trials", "1", "--over", "method.learning_rate=1e-5..1e-3"],),
    ("sweep", "--by"): (["--by", "clip_t"], ["--by", "bogus"]),
    ("sweep", "--images"): (["--images", "1"], ["--images", "2"]),
    ("sweep", "--engine"): (["--engine", "local"], ["--engine", "bogus"]),
    ("sweep", "--address"): (["--address", "nowhere:1"],),
    ("sweep", "--out"): (["--out", "{out}/deeper"],),
    ("merge", "adapters"): (["{run}"], ["{run}", "two={run}:0:0.5"], ["nowhere"]),
    ("merge", "--rank"): (["--rank", "1"], ["--rank", "0"]),
    ("merge", "--energy"): (["--energy", "0.9"], ["--energy", "1"], ["--energy", "2"]),
    ("merge", "--into"): (["--into", "{base}", "--out", "{out}/base"], ["--into", "nowhere"]),
    ("merge", "--base"): (["--base", "{base}"],),
    ("merge", "--to"): tuple(["--to", name] for name in ("diffusers", "kohya", "comfyui", "peft", "bogus")),
    ("merge", "--out"): (["--out", "{out}/deeper/merged.safetensors"], ["--out", "{out}/merged"]),
    ("extract", "tuned"): (["{tuned}"], ["nowhere"]),
    ("extract", "--base"): (["--base", "{base}"], ["--base", "nowhere"]),
    ("extract", "--rank"): (["--rank", "1"], ["--rank", "0"]),
    ("extract", "--energy"): (["--energy", "0.9"], ["--energy", "1"], ["--energy", "2"]),
    ("extract", "--conv-rank"): (["--conv-rank", "1"], ["--conv-rank", "0"]),
    ("extract", "--to"): tuple(["--to", name] for name in ("diffusers", "kohya", "comfyui", "peft", "bogus")),
    ("extract", "--out"): (["--out", "{out}/deeper/extracted.safetensors"],),
    ("resize", "adapter"): (["{run}"], ["{run}/adapter.safetensors"], ["nowhere"]),
    ("resize", "--rank"): (["--rank", "1"], ["--rank", "0"]),
    ("resize", "--energy"): (["--energy", "0.9"], ["--energy", "1"], ["--energy", "2"]),
    ("resize", "--ratio"): (["--ratio", "10"], ["--ratio", "0.5"]),
    ("resize", "--base"): (["--base", "{base}"],),
    ("resize", "--to"): tuple(["--to", name] for name in ("diffusers", "kohya", "comfyui", "peft", "bogus")),
    ("resize", "--out"): (["--out", "{out}/deeper/resized.safetensors"],),
    ("token", "--base"): (["--base", "starter"], ["--base", "nowhere"]),
    ("token", "--candidates"): (["--candidates", "1"], ["--candidates", "2"]),
    ("inspect", "files"): (["{run}"], ["{run}", "{other}/adapter.safetensors"], ["nowhere"]),
    ("convert", "adapter"): (["{run}"], ["{other}/adapter.safetensors"], ["nowhere"]),
    ("convert", "out"): (["{out}/deeper/b.safetensors"], ["b.bin"]),
    ("convert", "--to"): (["--to", "diffusers"], ["--to", "kohya"], ["--to", "comfyui"], ["--to", "peft"]),
    ("convert", "--private"): (["--private"],),
    ("convert", "--thumbnail"): (
        ["--thumbnail", "{photos}/0.png"],
        ["--thumbnail", "run"],
        ["--thumbnail", "nowhere.png"],
    ),
    ("convert", "--dtype"): (["--dtype", "fp32"], ["--dtype", "fp16"], ["--dtype", "bf16"]),
    ("publish", "run"): (["{run}"], ["nowhere"]),
    ("publish", "--repo"): (["--repo", "me/owl"], ["--repo", "owl"]),
    ("publish", "--license"): (["--license", "mit"], ["--license", "bogus"]),
    ("publish", "--private"): (["--private"],),
    ("publish", "--dry-run"): (["--dry-run"],),
    ("publish", "--out"): (["--out", "{out}/files"], ["--out", "{photos}"]),
    ("doctor", "--measure"): (["--measure"], ["--no-measure"]),
    ("doctor", "--json"): (["--json"],),
    ("doctor", "--report"): (["--report", "{out}/report.md"],),
}
"""Command and option -> words of its cases, in place of those of its type."""


def cases_of(command: str, name: str, choices: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """List the words of every case of an option."""
    if (command, name) in OWN:
        return list(OWN[command, name])
    return [*choices, *(words for words in SHARED.get(name, ()) if list(words) not in [*map(list, choices)])]


SETTINGS = settings_to_train()
PLANNED = settings_to_plan()
OPTIONS: list[tuple[str, str, tuple[str, ...]]] = [
    (option.command, option.name, tuple(words))
    for option in command_options()
    for words in cases_of(option.command, option.name, option.choices)
]


def name_of(case: tuple[str, str, tuple[str, ...]]) -> str:
    """Name of an option's case: the command and the option's words, without the small settings."""
    command, _, words = case
    return f"{command} {' '.join(words[len(SETS) :] if words[: len(SETS)] == SETS else words)}"


def option_names(name: str, words: Sequence[str]) -> tuple[str, ...]:
    """Words by which a sentence names an option: its name, or the keys of `--set` and `--over`."""
    if name in {"--set", "--over"}:
        return tuple(word.partition("=")[0] for word in words if "=" in word)
    if not name.startswith("-"):
        return tuple(words)
    if name == "--methods":
        return (name, "method.name")
    return (name, *(key for key, option in OPTION_OF.items() if option == name))


LONG = {"sweep", "suite", "token"}
"""Commands that take longer than the default run has time for."""


def marked(cases: Sequence[object], names: Sequence[str], quick: Callable[[int], bool]) -> list[object]:
    """Mark as slow what is not in a seeded sample of the quick cases."""
    chosen = random.Random(0).sample([i for i in range(len(cases)) if quick(i)], SAMPLE)
    return [
        pytest.param(case, id=names[i], marks=[pytest.mark.slow] * (i not in chosen)) for i, case in enumerate(cases)
    ]


class Mascot:
    """Runs the command in this process, in a folder with a run, photos, a recipe and encoders."""

    def __init__(self, folder: Path, base: Path) -> None:
        names = ("photos", "identity", "clip", "captioner", "class_images", "run", "other", "evaluated", "collection")
        self.places = {name: str(folder / name) for name in (*names, "tuned")}
        self.places |= {"base": str(base), "recipe": str(folder / "recipe.toml"), "out": str(folder / "out")}
        self.places |= {"mask": str(folder / "mask.png")}
        tiny_identity(folder / "identity")
        tiny_clip(folder / "clip")
        tiny_captioner("blip", folder / "captioner")
        (folder / "class_images").mkdir()
        noise(80, 80).save(folder / "class_images" / "0.png")
        for target in (folder / "photos", folder / "collection" / "cat9", folder / "collection" / "mug"):
            target.mkdir(parents=True)
            for number in range(3):
                noise(64 + number, 64).save(target / f"{number}.png")
        for number in range(3):
            Image.new("L", (64 + number, 64), 255).save(folder / "photos" / f"{number}.mask.png")
        half = Image.new("L", (64, 64))
        half.paste(255, (0, 0, 64, 32))
        half.save(self.places["mask"])
        (folder / "collection" / "prompts_and_classes.txt").write_text(FILE, encoding="utf-8")

    def words(self, command: str, changed: Words | None = None) -> list[str]:
        """The words of a command, with those of some options replaced."""
        words = [word for found in ({**COMMANDS[command], **(changed or {})}).values() for word in found]
        return [command, *(put(word, self.places) for word in words)]

    def files(self, command: str) -> list[list[Path]]:
        """The files that a command promises and that are there."""
        found: list[list[Path]] = []
        for pattern in FILES[command]:
            path = Path(put(pattern, self.places))
            found.append(sorted(path.parent.glob(path.name)))
        return found

    def clear(self, command: str) -> None:
        """Remove what an earlier case has left."""
        shutil.rmtree(self.places["out"], ignore_errors=True)
        for paths in self.files(command):
            for path in paths:
                path.unlink()


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def mascot(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Mascot]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("choices")
        patch.setenv("MASCOT_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        made = Mascot(folder, tiny_base)
        for name in ("run", "other"):
            token = {"--token": ["--token", {"run": "sks", "other": "zwx"}[name]]}
            patch.setattr(
                sys, "argv", ["mascot", *made.words("train", {"--out": ["--out", made.places[name]], **token})]
            )
            with pytest.raises(SystemExit) as stop:
                main()
            assert stop.value.code == 0
        shutil.copytree(made.places["run"], made.places["evaluated"])
        shutil.copyfile(f"{made.places['run']}/recipe.toml", made.places["recipe"])
        bake([made.places["run"]], made.places["base"], made.places["tuned"])
        for name in ("evaluated", "other"):
            patch.setattr(sys, "argv", ["mascot", *made.words("evaluate", {"runs": [made.places[name]]})])
            with pytest.raises(SystemExit) as stop:
                main()
            assert stop.value.code == 0
        yield made


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command: its exit code, standard output and standard error."""

    def run(words: Sequence[str]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mascot", *words])
        monkeypatch.setenv("COLUMNS", "400")
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed, errors = capfd.readouterr()
        return int(str(stop.value.code)), printed, errors

    return run


def assert_refused(errors: str, case: str, *names: str) -> None:
    """One sentence on standard error that names the key or the option, of a listed case."""
    assert errors.startswith("mascot: ")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert any(name and name in errors for name in names), errors
    assert case in REFUSED, f"{case!r} is refused; if that is right, list it in laws.refusals. {errors}"


def assert_runs(case: str) -> None:
    """A case that ran is not among those that are refused; a device may be there or not."""
    assert case not in REFUSED or {"cuda", "mps"} & set(re.split(r"[= ]", case)), (
        f"{case!r} runs; remove it from laws.refusals"
    )


def stored(recipe: Mapping[str, object], key: str) -> object:
    """The value of a dotted key."""
    found: object = recipe
    for part in key.split("."):
        found = found[0] if isinstance(found, list) else found  # the first of several tables
        assert isinstance(found, Mapping)
        found = found[part]
    return found


def names_of(setting: Setting) -> tuple[str, ...]:
    """The key as a user writes it; that of a table is numbered, or named as options name it."""
    if setting.section not in TABLES:
        return (setting.key,)
    last = setting.key.partition(".")[2]
    return (f"{setting.section}.0.{last}", last.replace("_", " "))


def test_every_key_has_a_case() -> None:
    """A new key whose choices its type does not tell needs values in `laws.choices.TEXTS`."""
    missing = [key for _, key, info in all_settings() if not choices_of(key, info) or lacks_texts(key, info)]
    assert missing == []


def test_every_option_has_a_case() -> None:
    """A new option whose choices its type does not tell needs words in `SHARED` or `OWN`."""
    missing = [
        (option.command, option.name)
        for option in command_options()
        if not cases_of(option.command, option.name, option.choices)
    ]
    assert missing == []


@pytest.mark.parametrize(
    "setting", marked(SETTINGS, [setting.name for setting in SETTINGS], lambda i: SETTINGS[i].key != "base")
)
def test_a_setting_trains(setting: Setting, mascot: Mascot, call: Call) -> None:
    """To an adapter, a report and a recipe that holds the value; or it is refused by name."""
    mascot.clear("train")
    given_twice: Words = {option: [] for option in GIVEN.get(setting.section, ())}
    words = mascot.words("train", {"--set": own_sets(setting), **given_twice})
    code, printed, errors = call([*words, *setting.words(mascot.places)])
    if code == 2:
        assert_refused(errors, setting.name, *names_of(setting))
        assert not mascot.files("train")[0]
        return
    assert_runs(setting.name)
    assert (code, errors) == (0, ""), errors
    assert all(mascot.files("train"))
    recipe = tomllib.loads(mascot.files("train")[2][0].read_text(encoding="utf-8"))
    given = stored(write_none(parse_overrides([put(setting.text, mascot.places)])), setting.key)
    if not setting.key.endswith("token") or given != "none":  # one is chosen
        assert stored(recipe, setting.key) == (tuple(given) if isinstance(given, tuple) else given)
    assert "effective settings" in printed
    assert "memory, estimated" in json.loads((Path(mascot.places["out"]) / "effective.json").read_text())["settings"]


def own_sets(setting: Setting) -> tuple[str, ...]:
    """The small settings that a setting's method has, and that it does not replace."""
    keys = {key for method, key, _ in all_settings() if method == setting.method or not key.startswith("method.")}
    keys -= {setting.key}
    method = setting.value if setting.key == "method.name" else setting.method
    unused = (*UNUSED.get(setting.given, ()), *UNUSED.get(method, ()))
    kept = [text for text in SMALL if text.partition("=")[0] in keys and not (unused and text.startswith(unused))]
    return tuple(word for text in kept for word in ("--set", text))


def sets_beside(command: str, name: str, words: Sequence[str]) -> Words:
    """The small settings of a command that an option neither gives nor leaves without effect."""
    key = next((key for key, option in OPTION_OF.items() if option == name), None)
    if key is None or "--set" not in COMMANDS[command]:
        return {}
    method = words[-1] if key == "method.name" else DEFAULT
    return {"--set": own_sets(Setting(key, words[-1], method))}


@pytest.mark.parametrize("setting", marked(PLANNED, [setting.name for setting in PLANNED], lambda _: True))
def test_an_end_is_planned(setting: Setting, mascot: Mascot, call: Call) -> None:
    """The ends of ranges that would train for hours are read by `doctor`, or refused by name."""
    words = mascot.words("doctor", {"--set": own_sets(setting)})
    code, printed, errors = call([*words, *setting.words(mascot.places)])
    if code == 2:
        assert_refused(errors, setting.name, *names_of(setting))
        return
    assert_runs(setting.name)
    assert (code, errors) == (0, "")
    assert "effective settings" in printed


@pytest.mark.parametrize(
    "case",
    marked(OPTIONS, [name_of(case) for case in OPTIONS], lambda i: OPTIONS[i][0] not in LONG),
)
def test_an_option_runs(case: tuple[str, str, tuple[str, ...]], mascot: Mascot, call: Call) -> None:
    """To every file that the command promises, or it is refused by name."""
    command, name, given = case
    mascot.clear(command)
    words = mascot.words(command, {**sets_beside(command, name, given), name: given})
    if name == "--resume":
        words = ["train", *given, "--out", mascot.places["other"]]
    if name == "--real":
        words = [
            "evaluate",
            *(put(word, mascot.places) for word in given),
            "--identity",
            "starter",
            "--clip",
            "starter",
        ]
    code, printed, errors = call(words)
    if code == 2:
        assert_refused(errors, name_of(case), *option_names(name, given))
        return
    assert_runs(name_of(case))
    assert (code, errors) == (0, ""), errors
    if name in {"--resume", "--real"}:
        assert printed
    elif name == "--out":
        assert list(Path(mascot.places["out"]).rglob("*.*"))
    else:
        assert all(mascot.files(command))
        assert printed
