"""Prompts through the commands: weights, long prompts, sizes, solvers and negative prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from laws.bad_places import fresh_adapter
from mascot.adapters.adapter_file import Adapter
from mascot.errors import UserError
from mascot.models.families.registry import load_family
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import check_base
from mascot.storage.image_files import read_png
from tiny.commands import Command
from tiny.families import CASCADES, MAKERS, tiny_base
from tiny.world import World

QUICK = ("--count", "1", "--steps", "1")
LONG = ", ".join(["a dog in the snow"] * 20)


def test_generate_says_in_the_image_and_once_on_stderr_how_it_reads_prompts(
    world: World, tmp_path: Path, mascot: Command
) -> None:
    typed = "a ({subject}:1.5) in [the snow]"
    words = ["generate", world.run.folder, typed, LONG, "a dog", "--negative", "(blurry:1.2)", "--count", "2"]
    code, printed, err = mascot(*words, "--steps", "1", "--out", tmp_path)
    out = printed.splitlines()
    assert (code, len(out)) == (0, 6)
    assert sorted(line.split(" is read ")[1] for line in err.splitlines() if line.startswith("note: ")) == [
        "in 2 chunks.",
        "with the weights 'blurry' 1.2.",
        "with the weights 'sks dog' 1.5, 'the snow' 0.909091.",
    ]
    texts = [read_png(Path(line))[1]["parameters"].splitlines() for line in out]
    assert texts[0][:2] == ["a (sks dog:1.5) in [the snow]", "Negative prompt: (blurry:1.2)"]
    assert ", Emphasis: Original" in texts[0][-1]
    assert "Prompt chunks" not in texts[0][-1]
    assert texts[2][-1].endswith("Emphasis: Original, Prompt chunks: 2")
    weighted, plain = (read_png(Path(line))[0].tobytes() for line in (out[0], out[4]))
    assert weighted != plain


def test_weights_of_1_are_the_same_bytes_as_no_brackets(world: World, tmp_path: Path, mascot: Command) -> None:
    images = [
        mascot("generate", world.run.folder, prompt, *QUICK, "--out", tmp_path / str(number))[1]
        for number, prompt in enumerate(("a {subject} in the snow", "a ({subject}:1.0) in (the:1) snow"))
    ]
    one, other = (read_png(Path(line.strip()))[0].tobytes() for line in images)
    assert one == other


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a (red:13) dog",), "give a weight from 0 to 3"),
        (("a [cat:dog:0.5]",), "between steps"),
        (("a dog <lora:owl:0.8>",), "prompts load no adapters"),
        (("a dog", "--negative", "(red:-2)"), "give a weight from 0 to 3"),
        (("a dog", "--size", "x64"), "give 512x768, or 768 for a square"),
        (("a dog", "--size", "100"), "such as 96x96 or 112x112"),
        (("a dog", "--solver", "ddmi"), "give one of ddim, dpm++, euler, unipc"),
    ],
)
def test_what_cannot_be_drawn_ends_in_one_sentence(
    world: World, tmp_path: Path, mascot: Command, words: tuple[str, ...], says: str
) -> None:
    code, out, err = mascot("generate", world.run.folder, *words, *QUICK, "--out", tmp_path / "images")
    assert (code, out) == (2, "")
    assert says in err
    assert not (tmp_path / "images").exists()


def test_subjects_of_several_adapters_are_weighted_by_their_names(
    world: World, tmp_path: Path, mascot: Command
) -> None:
    other = world.write("other", seed=1)
    words = ("generate", world.run.folder, other.folder, "a ({run}:1.5) BREAK a [{other}]", *QUICK, "--out", tmp_path)
    code, out, err = mascot(*words)
    assert (code, out.count("\n")) == (0, 1), err
    assert "is read in 2 chunks, with the weights 'sks dog' 1.5, 'sks dog' 0.909091." in err
    parameters = read_png(Path(out.strip()))[1]["parameters"]
    assert parameters.startswith("a (sks dog:1.5) BREAK a [sks dog]\n")
    assert parameters.endswith("Emphasis: Original, Prompt chunks: 2")


def test_a_grid_fills_the_prompts_of_its_axis(world: World, tmp_path: Path, mascot: Command) -> None:
    over = ("--over", "prompt=a {subject} hat,a ({subject}:1.5) hat", "--over", "guidance=3,5")
    code, out, err = mascot("sweep", world.run.folder, *over, "--out", tmp_path / "grid.png")
    assert (code, out) == (0, f"{tmp_path / 'grid.png'}\n"), err
    assert "note: 'a (sks dog:1.5) hat' is read with the weights 'sks dog' 1.5." in err
    assert read_png(tmp_path / "grid.png")[1]["parameters"].startswith("a sks dog hat\n")
    code, _, err = mascot("sweep", world.run.folder, "--over", "prompt=a {owl}", "--out", tmp_path / "none.png")
    assert (code, "unknown placeholder {owl}" in err) == (2, True)
    code, _, err = mascot("sweep", world.run.folder, "--over", "prompt=a (b:9)", "--out", tmp_path / "none.png")
    assert (code, "give a weight from 0 to 3" in err) == (2, True)
    assert not (tmp_path / "none.png").exists()


def test_clip_t_reads_prompts_without_their_brackets(world: World) -> None:
    """Weights change images and not what CLIP compares them with."""
    plain, weighted = (world.evaluate(prompts=[prompt]) for prompt in ("a {subject} hat", "a {subject} (hat:1.7)"))
    assert [prompt.prompt for prompt in weighted.prompts] == ["a sks dog (hat:1.7)"]
    assert any("without the token: 'a dog hat'" in note for note in weighted.notes)
    names = [
        [Path(image.file).name for prompt in scores.prompts for image in prompt.images] for scores in (plain, weighted)
    ]
    assert not set(names[0]) & set(names[1])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "flux")) for name in (*MAKERS, *CASCADES)]
)
def test_every_family_takes_what_it_can_and_refuses_the_rest_by_name(
    tmp_path: Path, mascot: Command, name: str
) -> None:
    base = tiny_base(name, tmp_path / "base")
    adapter = fresh_adapter(base, **({"text_learning_rate": 0.0} if name.startswith("deepfloyd") else {}))
    assert adapter.manifest is not None
    manifest = adapter.manifest.model_copy(update={"base": str(base), "recipe": {"knobs": {"steps": 1}}})
    path = tmp_path / "owl.safetensors"
    Adapter(tensors=adapter.tensors, metadata=adapter.metadata, manifest=manifest).write(path)
    chunked = name in {"sdxl", "sd3"}
    words = ("generate", path, *QUICK, "--out", tmp_path / "images")
    code, out, err = mascot(*words, "--size", "64", r"a \(red\) {subject}")
    assert (code, out.count("\n")) == (0, 1), err
    assert read_png(Path(out.strip()))[0].size == (64, 64)
    for prompt in ("a (red:1.3) {subject}", "a {subject} BREAK snow"):
        code, out, err = mascot(*words, "--size", "64", prompt)
        assert code == (0 if chunked else 2), err
        assert ("is read " if chunked else "leave ") in err
    code, _, err = mascot(*words, "--size", "64", "--solver", "bogus", "a {subject}")
    flow = name in {"sd3", "flux"}
    assert (code, ("give euler with" if flow else "give one of ddim, dpm++, euler, unipc") in err) == (2, True)
    negative = ("--negative", "a hat", *(("--true-guidance", "3") if name == "flux" else ("--guidance", "3")))
    assert mascot(*words, "--size", "64", *negative, "a {subject}")[0] == 0
    code, _, err = mascot(*words, "--size", "64", "--negative", "a hat", "--guidance", "1", "a {subject}")
    assert (code, "--negative has no effect" in err) == (2, True)


@pytest.mark.parametrize("name", ["flux", "sdxl"])
def test_previews_that_a_base_cannot_read_are_refused_before_training(tmp_path: Path, name: str) -> None:
    base = tiny_base(name, tmp_path / "base")
    family = load_family(str(base), device="cpu", precision="fp32")
    overrides = ['previews.prompts=["a (red:1.3) {subject}"]', "token=sks", "knobs.height=64", "knobs.width=64"]
    recipe = Recipe.preset(photos=(str(tmp_path),), base=str(base), class_noun="dog", overrides=overrides)
    if name == "sdxl":
        check_base(recipe, family, ())
        return
    with pytest.raises(UserError, match="reads no weights"):
        check_base(recipe, family, ())
    escaped = [r'previews.prompts=["a \\(red\\) {subject}"]', *overrides[1:]]
    check_base(Recipe.preset(photos=(str(tmp_path),), base=str(base), class_noun="dog", overrides=escaped), family, ())


@pytest.mark.parametrize("words", [{"class_noun": "dog (small)"}, {"token": "s[ks"}, {"class_noun": "BREAK"}])
def test_names_of_subjects_have_no_brackets(tmp_path: Path, tiny_base: Path, words: dict[str, str]) -> None:
    """Training reads them as letters, and every prompt would read them as weights."""
    family = load_family(str(tiny_base), device="cpu", precision="fp32")
    given = {"class_noun": "dog", "token": "sks", **words}
    recipe = Recipe.preset(photos=(str(tmp_path),), base=str(tiny_base), **given)
    with pytest.raises(UserError, match="weigh words in prompts; give another --token or --class-noun"):
        check_base(recipe, family, ())
