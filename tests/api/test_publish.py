"""Laws of publishing: what a stranger gets, what stays here, and the hub's refusals."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from PIL import Image

from laws.bad_places import empty_scores
from mascot.adapters.adapter_file import Adapter
from mascot.adapters.peft_folder import settings_beside
from mascot.api.adapters.publication.contents import kohya_name
from mascot.api.adapters.publish import publish
from mascot.api.train import train
from mascot.evaluation.scores import FoldScores, ImageScores, PromptScores, Score, Scores
from mascot.generation.stack.adapter_sources import read_source
from mascot.recipe.recipe import Recipe
from mascot.storage import model_hub
from mascot.storage.image_files import write_image
from mascot.storage.run_folder import Run
from tiny.commands import Command
from tiny.hub import TOKEN, Hub, local_hub
from tiny.photos import noise

REPO = "me/my-owl"
COMMON = (
    "training.steps=2",
    "previews.every=0",
    "prior.weight=0",
    "precision=fp32",
    "device=cpu",
    "knobs.steps=1",
    "selection.active=false",
)
NAMES = ("grandma_garden.png", "IMG_20251128.png")


@pytest.fixture(scope="module")
def run(tiny_base: Path, home: Path) -> Run:
    """A run on photos with telling names, in a folder with one."""
    folder = home / "holiday_in_rome"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        noise(64, 64 + number).save(folder / name)
    recipe = Recipe.preset(
        base=str(tiny_base),
        overrides=COMMON,
        photos=(str(folder),),
        class_noun="dog",
        token="zwx",  # noqa: S106
    )
    return train(recipe, out=home / "published_run", report=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the library asks, with a token that it accepts."""
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        model_hub.reaches_hub.cache_clear()
        yield hub
    model_hub.reaches_hub.cache_clear()


def test_a_dry_run_writes_everything_and_nothing_private(run: Run, tmp_path: Path, mascot: Command) -> None:
    """No byte of a photo, no name of one, no path; the hub is not asked."""
    out = tmp_path / "files"
    code, printed, errors = mascot("publish", run.folder, "--repo", REPO, "--dry-run", "--out", out)
    assert (code, errors) == (0, "")
    assert str(out / "README.md") in printed
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {path.relative_to(out).as_posix() for path in written if path.suffix != ".png"} == {
        "README.md",
        "my-owl.safetensors",
        "pytorch_lora_weights.safetensors",
    }
    photos = [path.read_bytes() for path in (run.folder.parent / "holiday_in_rome").iterdir()]
    private = [*NAMES, *(name[:-4] for name in NAMES), "holiday_in_rome", str(run.folder), str(Path.home())]
    for path in written:
        content = path.read_bytes()
        assert not [word for word in private if word.encode() in content], path
        assert not [photo for photo in photos if photo in content or photo[60:160] in content], path
    assert len([path for path in written if path.suffix == ".png"]) == 6
    assert all(Image.open(path).size == (64, 64) for path in written if path.suffix == ".png")


def test_the_card_says_how_to_use_it(run: Run, tiny_base: Path, tmp_path: Path) -> None:
    """YAML for the hub, and code for each tool, which is right for this base."""
    text = (publish(run, REPO, license="cc-by-4.0", dry_run=True, out=tmp_path / "a").folder / "README.md").read_text()
    front = text.split("---")[1]
    assert 'license: "cc-by-4.0"' in front
    assert 'instance_prompt: "zwx dog"' in front
    assert "base_model" not in front, "a folder has no id on the hub"
    assert re.findall(r'url: "(images/[^"]+)"', front) == [
        f"images/{name}" for name in sorted_by_card(tmp_path / "a", front)
    ]
    assert f'mascot generate {REPO} "a photo of a zwx dog in the snow" --base {tiny_base.name}' in text
    assert f'pipe.load_lora_weights("{REPO}", weight_name="pytorch_lora_weights.safetensors"' in text
    assert "<lora:my-owl:1>" in text
    assert "strength_model" in text
    header = Adapter.read(tmp_path / "a" / "my-owl.safetensors").metadata
    assert header["modelspec.license"] == "cc-by-4.0"
    assert header["ss_output_name"] == "my-owl"
    assert header["modelspec.thumbnail"].startswith("data:image/jpeg")
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    compile(code, "card", "exec")
    assert "dtype=torch.float32" in code  # else the parts of a half base meet in two dtypes


def test_no_file_of_a_repository_takes_the_place_of_another(run: Run, tmp_path: Path) -> None:
    """The repository's name may be that of diffusers' file, of ours, or of a trained word."""
    folder = publish(run, "me/pytorch_lora_weights", dry_run=True, out=tmp_path / "files").folder
    forms = {path.stem: Adapter.read(path) for path in folder.glob("*.safetensors")}
    assert {name: adapter.format for name, adapter in forms.items()} == {
        "pytorch_lora_weights": None,
        "pytorch_lora_weights_lora": "kohya",
    }
    assert forms["pytorch_lora_weights_lora"].metadata["ss_output_name"] == "pytorch_lora_weights_lora"
    assert "<lora:pytorch_lora_weights_lora:1>" in (folder / "README.md").read_text(encoding="utf-8")
    assert kohya_name("Zwx", ["zwx"]) == "Zwx_lora"


def sorted_by_card(folder: Path, front: str) -> list[str]:
    names = [path.name for path in (folder / "images").iterdir()]
    return sorted(names, key=front.index)


def test_images_are_chosen_by_score_and_photos_leave_the_scores(run: Run, tmp_path: Path) -> None:
    """The best image of each prompt, the best prompt first; folds, hashes and names stay here."""
    folder = tmp_path / "scored"
    shutil.copytree(run.folder, folder)
    scored = Run(folder)
    prompts: list[PromptScores] = []
    for number, name in enumerate(("red", "green", "blue")):
        images: list[ImageScores] = []
        for seed in range(2):
            file = f"evaluation/{name}_{seed}.png"
            write_image(Image.new("RGB", (8, 8), (number * 80, seed * 80, 0)), folder / file, "")
            images.append(ImageScores(seed=seed, file=file, values={"identity": number / 10 + (1 - seed) / 100}))
        values = {"identity": number / 10, "clip_t": 0.1}
        prompts.append(PromptScores(template=name, prompt=f"a {name} zwx dog", values=values, images=tuple(images)))
    fold = FoldScores(
        photo=NAMES[0],
        thumbnail=f"evaluation/{NAMES[0]}",
        step=1,
        training_similarity=0.5,
        held_out_similarity=0.5,
        held_out_share=0.5,
        base_copying=None,
        images=(),
    )
    values = empty_scores(seed=0).values | {"identity": Score(value=0.625)}
    told = {"prompts": tuple(prompts), "photos": ("0123456789abcdef",), "folds": (fold,), "values": values}
    notes = (f"{NAMES[1]} is measured twice, in {folder.absolute()}.",)
    empty_scores(seed=0).model_copy(update={**told, "notes": notes}).write(scored.scores)
    out = publish(folder, REPO, dry_run=True, out=tmp_path / "out").folder
    text, card = ((out / name).read_text(encoding="utf-8") for name in ("scores.json", "README.md"))
    assert re.findall(r'url: "(.+)"', card) == [f"images/a-{name}-zwx-dog_0.png" for name in ("blue", "green", "red")]
    assert Image.open(out / "images" / "a-blue-zwx-dog_0.png").getpixel((0, 0)) == (160, 0, 0)
    assert "| identity | 0.625 |" in card
    assert Scores.read(out / "scores.json").prompts[2].images[0].file == "images/a-blue-zwx-dog_0.png"
    for word in (*NAMES, "0123456789abcdef", str(folder.absolute())):
        assert word not in text
        assert word not in card


def test_what_is_uploaded_generates_as_the_run_does(
    run: Run, hub: Hub, tmp_path: Path, mascot: Command, tiny_base: Path
) -> None:
    """By the command `generate owner/name`, bit for bit; a second upload replaces the first."""
    code, printed, errors = mascot("publish", run.folder, "--repo", REPO, "--license", "mit", "--private")
    assert (code, errors) == (0, "")
    assert printed.strip().endswith(f"{hub.url}/{REPO}")
    assert hub.private == {REPO}
    assert hub.repositories[REPO].keys() >= {"README.md", "my-owl.safetensors", "pytorch_lora_weights.safetensors"}
    assert mascot("publish", run.folder, "--repo", REPO, "--license", "mit")[0] == 0
    words = ("a {subject}", "--count", 1, "--steps", 1, "--base", tiny_base, "--out")
    assert mascot("generate", run.folder, *words, tmp_path / "run")[::2] == (0, "")
    assert mascot("generate", REPO, *words, tmp_path / "hub")[::2] == (0, "")
    [ours], [theirs] = ((tmp_path / name).glob("*.png") for name in ("run", "hub"))
    assert Image.open(ours).tobytes() == Image.open(theirs).tobytes()


REFUSALS: dict[str, tuple[dict[str, int], str]] = {
    "401": ({"create": 401}, "does not accept this machine's token; run `hf auth login`"),
    "403": ({"create": 403}, "your token may not write to me/my-owl; give a --repo of your own"),
    "409": ({"/commit/": 409}, "was changed while it was uploaded to; run the same command again"),
    "500": ({"/commit/": 418}, "answered with status 418; run the same command again later"),
    "broken": ({"/commit/": 0}, "the upload to me/my-owl broke off"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_of_the_hub_is_one_sentence(
    case: str, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy works: the same call succeeds when the hub no longer refuses."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits longer before each of its attempts
    (tmp_path / "README.md").write_text("hello", encoding="utf-8")
    hub.refusals, said = REFUSALS[case]
    with pytest.raises(Exception, match=re.escape(said)) as refused:
        model_hub.upload_folder(tmp_path, REPO, private=False)
    assert type(refused.value).__name__ == "UserError"
    assert str(refused.value).count("\n") == 0
    hub.refusals = {}
    assert model_hub.upload_folder(tmp_path, REPO, private=False) == f"{hub.url}/{REPO}"
    assert hub.repositories[REPO]["README.md"] == b"hello"


def test_without_token_or_hub_nothing_is_begun(
    run: Run, hub: Hub, mascot: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("publish", run.folder, "--repo", REPO, "--license", "mit")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run.folder / "no_token"))
    code, _, said = mascot(*words)
    assert (code, "no token of the model hub on this machine; run `hf auth login`" in said) == (2, True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    model_hub.reaches_hub.cache_clear()
    assert "the model hub cannot be reached" in mascot(*words)[2]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is switched off by HF_HUB_OFFLINE" in mascot(*words)[2]
    assert not [asked for asked in hub.asked if asked.startswith("POST")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--repo", REPO), "without a license nobody may use what you publish; give --license with one of apache-2.0"),
        (("--repo", "my-owl", "--dry-run"), "--repo my-owl is no repository of the model hub; give owner/name"),
        (
            ("--repo", REPO, "--license", "mitt"),
            "--license mitt: the model hub knows no such license; did you mean 'mit'?",
        ),
        (("--repo", REPO, "--dry-run", "--private"), "--private is about the repository, and --dry-run makes none"),
        (("--repo", REPO, "--dry-run", "--out", "{photos}"), "is not empty; give another --out"),
    ],
)
def test_wrong_options_are_refused(words: tuple[str, ...], said: str, run: Run, mascot: Command) -> None:
    photos = str(run.folder.parent / "holiday_in_rome")
    code, printed, errors = mascot("publish", run.folder, *(word.replace("{photos}", photos) for word in words))
    assert (code, printed) == (2, "")
    assert said in errors


def test_an_unfinished_run_is_refused(tmp_path: Path, mascot: Command) -> None:
    code, _, said = mascot("publish", tmp_path, "--repo", REPO, "--dry-run")
    assert (code, "is not a mascot run" in said) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["textual-inversion", "pivotal", "dreambooth"])
def test_other_methods_are_published_in_the_forms_that_tools_read(
    method: str, tiny_base: Path, home: Path, tmp_path: Path, hub: Hub, mascot: Command
) -> None:
    more = ("method.extract_rank=2", "method.learning_rate=1e-3") if method == "dreambooth" else ()
    recipe = Recipe.preset(
        base=str(tiny_base),
        overrides=(*COMMON, f'method.name="{method}"', *more),
        photos=(str(home / "photos"),),
        class_noun="dog",
        token="zwx",  # noqa: S106
    )
    trained = train(recipe, out=tmp_path / "run", report=False)
    expected = {
        "textual-inversion": {"adapter.safetensors", "zwx.safetensors"},
        "pivotal": {"adapter.safetensors", "zwx.safetensors", "pytorch_lora_weights.safetensors", "my-owl.safetensors"},
        "dreambooth": {"adapter.safetensors", "pytorch_lora_weights.safetensors", "my-owl.safetensors"},
    }
    assert mascot("publish", trained.folder, "--repo", REPO, "--license", "mit")[0] == 0
    found = {name for name in hub.repositories[REPO] if name.endswith(".safetensors") and "/" not in name}
    assert found == expected[method]
    assert ("model_index.json" in hub.repositories[REPO]) == (method == "dreambooth")
    words = ("a {subject}", "--count", 1, "--steps", 1, "--base", tiny_base, "--out")
    assert mascot("generate", trained.folder, *words, tmp_path / "own")[::2] == (0, "")
    assert mascot("generate", REPO, *words, tmp_path / "hub_images")[::2] == (0, "")
    [ours], [theirs] = ((tmp_path / name).glob("*.png") for name in ("own", "hub_images"))
    assert Image.open(ours).tobytes() == Image.open(theirs).tobytes()


def test_the_settings_of_a_peft_repository_come_with_its_weights(hub: Hub) -> None:
    hub.repositories["someone/cat"] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
    file = Path(str(read_source("someone/cat").file()))
    assert (file.name, settings_beside(file)) == ("adapter_model.safetensors", True)
