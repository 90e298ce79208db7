"""Bad evaluations and comparisons, typed in the folder of `bad_places`."""

from __future__ import annotations

from collections.abc import Iterator

from laws.bad_commands import PLAIN, Command

JUDGES = ("--identity", "seer", "--clip", "reader", "--device", "cpu")
"""Encoders that are there; so only what is named besides is at fault."""


def bad_questions() -> list[Command]:
    """All of them, in a fixed order; no two have the same words and files."""
    return [
        *_evaluations(),
        *_cross_validations(),
        *_calibrations(),
        *_suites(),
        *_comparisons(),
        *_devices(),
    ]


def _command(says: str, *words: str, files: dict[str, bytes] | None = None) -> Command:
    return Command(name=" ".join(words)[:100], words=words, says=says, files=files or {})


def _evaluate(says: str, where: str, *words: str) -> Command:
    """An evaluation that has only this fault."""
    return _command(says, "evaluate", where, "--images", "1", *JUDGES, *words)


def _evaluations() -> Iterator[Command]:
    yield _command("missing argument", "evaluate")
    yield _evaluate("does not exist", "nowhere")
    yield _evaluate("a place is empty", "")
    for folder in ("empty", "photos"):
        yield _evaluate("not a mascot run", folder)
    yield _evaluate("not trained to the end", "unfinished")
    yield _evaluate("file of pickled weights", "pickled.ckpt")
    for name in ("note.txt", "truncated.safetensors", "empty.safetensors", "runs/broken_adapter"):
        yield _evaluate("not a whole .safetensors file", name)
    yield _evaluate("does not name its subject", "adapters/no_manifest.safetensors")
    yield _evaluate("another version of mascot", "adapters/manifest_newer.safetensors")
    yield _evaluate("another version of mascot", "adapters/manifest_knobs.safetensors")
    yield _evaluate("does not fit the base", "adapters/other_shapes.safetensors")
    yield _evaluate("was trained on", "adapters/other_base.safetensors")
    yield _evaluate("'gone' does not exist", "adapters/lost_base.safetensors")
    yield _evaluate("gone does not exist", "runs/gone_photos")
    yield _evaluate("not valid TOML", "runs/trained_broken_recipe")
    yield _evaluate("evaluation cannot be made", "runs/blocked")
    yield _evaluate("nowhere does not exist", "run", "nowhere")
    for option, value in {"--images": "4", "--seed": "0", "--prompt": "x", "--photos": "photos"}.items():
        yield _command(f"so {option} has no effect", "evaluate", "photos", "--real", option, value)
    for option, values in {
        "--images": ("0", "1001", "x"),
        "--seed": ("-1", "x"),
        "--device": ("gpu",),
        "--imges": ("3",),
    }.items():
        for value in values:
            yield _command(option, "evaluate", "run", option, value)
    for option in ("--identity", "--clip"):
        yield _evaluate("no folder", "run", option, "nowhere")
        for place in ("photos", "empty", "note.txt", "base", "reader" if option == "--identity" else "seer"):
            yield _evaluate(place, "run", option, place)
    yield _evaluate("does not exist", "run", "--base", "nowhere")
    yield _evaluate("was trained on", "run", "--base", "bases/other_seed")
    yield _evaluate("cannot be loaded", "run", "--base", "bases/no_vae")
    for place, says in {
        "nowhere": "does not exist",
        "empty": "no photos",
        "note.txt": "is a caption",
        "bad": "no usable photo",
    }.items():
        yield _evaluate(says, "run", "--photos", place)
    yield _command("one subject", "evaluate", "run", "run", "--photos", "photos")
    for prompt, says in {
        "a dog": "does not name the subject",
        "a {dog}": "unknown placeholder",
        "a {": "lone {",
        " ": "empty",
    }.items():
        yield _evaluate(says, "run", "--prompt", prompt)


def _cross_validations() -> Iterator[Command]:
    for value in ("0", "-1", "some", "1.5", ""):
        yield _evaluate("neither all nor a number", "run", "--cross-validate", value)
    yield _evaluate("requires an argument", "run", "--cross-validate")
    yield _evaluate("2 photos cannot be held out of the 1", "run", "--cross-validate", "2")
    yield _evaluate("without --photos", "run", "--cross-validate", "all", "--photos", "photos")
    yield _evaluate("put them back", "runs/gone_photos", "--cross-validate", "all")
    yield _command("--real generates nothing", "evaluate", "photos", "--real", "--cross-validate", "all")


def _calibrations() -> Iterator[Command]:
    for place, says in {
        "nowhere": "does not exist",
        "empty": "no photos",
        "note.txt": "is a caption",
        "bad": "no usable photo",
    }.items():
        yield _command(says, "evaluate", "--real", place, *JUDGES)
    yield _command("missing argument", "evaluate", "--real")
    for words in (("--prompt", "a {subject}"), ("--photos", "photos"), ("--live",)):
        yield _command("--real generates nothing", "evaluate", "--real", "photos", *words)
    yield _command("no folder", "evaluate", "--real", "photos", "--identity", "nowhere")


def _suites() -> Iterator[Command]:
    def suite(says: str, place: str, *words: str) -> Command:
        return _command(says, "suite", place, "--out", "suite-out", "--base", "base", *JUDGES, *words)

    yield _command("missing argument", "suite")
    for place in ("nowhere", "empty", "photos", "note.txt", "clutter"):
        yield suite(place, place)
    yield suite("collection", "collection", "--subjects", "lizard")
    yield suite("unknown method", "collection", "--methods", "lorra")
    yield suite("--prompts", "collection", "--prompts", "0")
    yield suite("--images", "collection", "--images", "0")
    yield suite("is not a setting", "collection", "--set", "trainig.steps=3")
    yield suite("method.rank", "collection", "--set", "method.rank=0")
    yield suite("no such option", "collection", "--cross-validate", "all")
    yield suite("no such option", "collection", "--real")
    yield suite("no folder", "collection", "--identity", "nowhere")
    yield suite("does not exist", "collection", "--base", "nowhere")
    yield suite("no such option", "collection", "--engine", "spark")
    for place in ("note.txt", "note.txt/suite", "/dev/null"):
        yield suite(f"{place} cannot be written", "collection", "--out", place)
    yield _command("no such option", "evaluate", "run", "--suite", "collection")
    for words in (("--methods", "x"), ("--subjects", "x"), ("--prompts", "3"), ("--out", "x")):
        yield _command("no such option", "evaluate", "run", *words)


def _comparisons() -> Iterator[Command]:
    def compare(says: str, *words: str) -> Command:
        return _command(says, "compare", *words)

    yield compare("missing argument")
    yield compare("missing argument", "run")
    for place in ("nowhere", "empty", "photos", "note.txt", "unfinished", "run", "adapter.safetensors"):
        says = {"empty": "not a mascot run", "photos": "not a mascot run", "nowhere": "does not exist"}.get(
            place, "evaluate"
        )
        yield compare(says, place, "runs/scored")
        yield compare(says, "runs/scored", place)
    for place in ("runs/scores_text", "runs/scores_cut", "runs/scores_newer"):
        yield compare("another version of mascot", "runs/scored", place)
    yield compare("first seeds", "runs/scored", "runs/scored_otherwise")
    yield compare("no such option", "runs/scored", "runs/scored", "--outt", "x")
    yield compare("cannot be written", "runs/scored", "runs/scored", "--out", "note.txt/page.html")
    yield compare("cannot be written", "runs/scored", "runs/scored", "--out", "photos")
    yield compare("cannot be written", "runs/scored", "runs/scored", "--out", "x" * 300)


def _devices() -> Iterator[Command]:
    """A device that this machine has not: no machine has both of these."""
    for words in (
        ("train", "photos", "--base", "base", "--out", "out", "--set", "prior.count=0"),
        ("doctor", "photos", "--base", "base", "--set", "prior.count=0"),
    ):
        yield _command("no mps device", *words, "--set", "device=mps")
    yield _command(
        "no mps device", "evaluate", "run", "--images", "1", "--identity", "seer", "--clip", "reader", "--device", "mps"
    )
    yield _command(
        "no mps device", "evaluate", "--real", "photos", "--identity", "seer", "--clip", "reader", "--device", "mps"
    )
    yield _command(
        "no mps device",
        "train",
        "photos",
        "--base",
        "base",
        "--out",
        "out",
        *PLAIN[:2],
        "--set",
        "device=mps",
        "--seed",
        "1",
    )
