"""Laws of naming adapters: what is an adapter, what is a prompt, and where a path ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mascot.errors import UserError
from mascot.generation.loading import resolve_adapter
from mascot.generation.stack.adapter_sources import AdapterSource, name_of, read_source, split_words
from mascot.storage.run_folder import Run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs, adapter files and photos."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/owl", "runs/owl:0.5", "runs/night@owl", "owl", "style=a"):
        Path(name).mkdir(parents=True)
        if name != "owl":
            Path(name, "recipe.toml").touch()
    Path("runs/peft").mkdir()
    Path("runs/peft/adapter_config.json").touch()
    for name in ("style.safetensors", "old.pt", "a:b.safetensors", "0.8", "notes"):
        Path(name).touch()
    return tmp_path


def parts(text: str) -> tuple[str | None, str, tuple[float, ...]]:
    source = read_source(text)
    return source.name, str(source.place), source.scales


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/owl", (None, "runs/owl", ())),
        ("runs/owl:0.8", (None, "runs/owl", (0.8,))),
        ("runs/owl:0.8:.5", (None, "runs/owl", (0.8, 0.5))),
        ("runs/owl:0.5", (None, "runs/owl:0.5", ())),  # a folder of that very name is there
        ("runs/owl:0.5:1", (None, "runs/owl:0.5", (1.0,))),
        ("runs/owl:0.5:1:2", (None, "runs/owl:0.5", (1.0, 2.0))),
        ("a:b.safetensors:1e-1", (None, "a:b.safetensors", (0.1,))),
        ("runs/night@owl", (None, "runs/night@owl", ())),
        ("runs/owl@50", (None, "runs/owl@50", ())),
        ("runs/owl@50:0.8", (None, "runs/owl@50", (0.8,))),
        ("bird=runs/owl:0.8", ("bird", "runs/owl", (0.8,))),
        ("style=a", (None, "style=a", ())),
        ("someone/style:0.6", (None, "someone/style", (0.6,))),
    ],
)
def test_the_longest_path_that_exists_counts(
    here: Path, text: str, expected: tuple[str | None, str, tuple[float, ...]]
) -> None:
    if text in {"runs/owl:0.8", "runs/owl:0.8:.5"}:
        (here / "runs/owl:0.5").rename(here / "other")
    assert parts(text) == expected


def test_adapters_come_first_and_the_rest_are_prompts(here: Path) -> None:
    assert here.is_dir()
    words = ["runs/owl@50", "style.safetensors:0.6", "runs/peft", "old.pt", "someone/style", "an owl", "owl", "notes"]
    sources, prompts = split_words(words, ["bird=runs/owl:1"])
    assert [source.text for source in sources] == [*words[:5], "bird=runs/owl:1"]
    assert prompts == ["an owl", "owl", "notes"]  # a folder of photos and a file of text are no adapters
    assert split_words(["{subject}", "(an owl:1.3)"], ["runs/owl"])[1] == ["{subject}", "(an owl:1.3)"]
    assert split_words(["runs/owl", f"{'very ' * 2000}long"], [])[1] == [f"{'very ' * 2000}long"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["runs/owl"], "no prompt is given"),
        (["runs/owll", "an owl"], "runs/owll does not exist; did you mean runs/owl"),
        (["runs/owl", "runs/night", "an owl"], "runs/night does not exist"),
        (["runs/owl", "styl.safetensors:0.6", "an owl"], "did you mean style.safetensors"),
        (["runs/owl", "my style.safetensors"], "my style.safetensors does not exist"),
        (["runs/owl", "owl@20"], "owl@20 is neither"),
        (["runs/owl", "robin@20"], "robin@20 does not exist"),
        (["runs/owl", "robin:0.8", "an owl"], "robin does not exist"),
        (["runs/owl", "./owl", "an owl"], "neither a run's folder nor an adapter file"),
        (["runs/owl", "an owl", "style.safetensors"], "comes after a prompt"),
        (["runs/owl:9", "an owl"], "not between 0 and 4; give one that is, such as runs/owl:0.8"),
        (["runs/owl:-1", "an owl"], "not between 0 and 4"),
        (["runs/owl:nan", "an owl"], "not between 0 and 4"),
        (["an owl", "at night"], "an owl does not exist"),
        (["class=runs/owl", "an owl"], "cannot be called class, as {class} has a meaning"),
    ],
)
def test_a_word_that_looks_like_a_path_is_never_a_prompt(here: Path, words: list[str], says: str) -> None:
    assert here.is_dir()
    with pytest.raises(UserError, match=says):
        split_words(words, [])


def test_an_adapter_is_called_by_its_folder_or_file(here: Path) -> None:
    named = {"runs/owl": "owl", "runs/owl@50:1": "owl", "style.safetensors": "style", "bird=old.pt": "bird"}
    assert {text: name_of(read_source(text)) for text in named} == named
    assert name_of(read_source("someone/style:0.5")) == "style"
    (here / "runs/owl/adapter.safetensors").touch()
    assert name_of(read_source("runs/owl/adapter.safetensors")) == "owl"
    assert name_of(read_source(Run(here / "runs/owl"))) == "owl"


def repository(folder: Path, name: str, *files: str) -> None:
    """A repository in the hub's cache."""
    snapshot = folder / f"models--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    for file in files:
        save_file({}, snapshot / file)


def test_a_repository_of_the_hub_is_read_from_its_cache(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "hub"))
    repository(here / "hub", "someone/owl", "adapter.safetensors", "low_rank.safetensors")
    repository(here / "hub", "someone/style", "ink.safetensors")
    repository(here / "hub", "someone/both", "one.safetensors", "two.safetensors")
    repository(here / "hub", "someone/none")
    files = [read_source(f"someone/{name}").file() for name in ("owl", "style")]
    assert [Path(str(file)).name for file in files] == ["adapter.safetensors", "ink.safetensors"]
    for name, says in {
        "both": "several .safetensors files, one.safetensors, two.safetensors; download",
        "none": "has no .safetensors file",
        "absent": "the model hub cannot be reached; give a file, or a prompt with a blank",
    }.items():
        with pytest.raises(UserError, match=says):
            AdapterSource(text="", place=Path(f"someone/{name}")).file()


def test_a_folder_as_it_is_on_the_hub_is_read_like_a_repository(here: Path) -> None:
    adapter = {"unet.a.lora_A.weight": torch.ones(1, 2), "unet.a.lora_B.weight": torch.ones(2, 1)}
    folder = here / "published"
    folder.mkdir()
    for name in ("owl.safetensors", "pytorch_lora_weights.safetensors"):
        save_file(adapter, folder / name)
    assert resolve_adapter(folder)[1] == folder / "pytorch_lora_weights.safetensors"
    assert split_words(["published", "a dog"], [])[1] == ["a dog"]


def test_a_base_in_the_place_of_an_adapter_is_called_a_base(here: Path) -> None:
    (here / "owl" / "model_index.json").touch()
    with pytest.raises(UserError, match=r"owl is a base, and no adapter; give an adapter, and this folder as --base"):
        resolve_adapter(here / "owl")
