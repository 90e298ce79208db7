"""Laws of the default encoders: each base has its own, and each encoder describes itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mascot.errors import UserError
from mascot.evaluation.metrics import default_encoders
from mascot.evaluation.metrics.default_encoders import CLIP, IDENTITY, load_encoders
from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from mascot.models import starter
from mascot.models.starter import is_embedded
from tiny.encoders import tiny_clip, tiny_identity


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """Record which encoders would be loaded, and to which device, instead of loading them."""
    calls: dict[str, tuple[str, str]] = {}
    for kind in ("identity_encoder", "clip"):
        monkeypatch.setattr(
            default_encoders,
            f"read_{kind}",
            lambda source, device, kind=kind: calls.update({kind: (str(source), str(device))}),
        )
    return calls


@pytest.mark.parametrize("base", ["starter", str(starter.folder())])
def test_the_embedded_base_is_scored_by_the_embedded_encoders(loaded: dict[str, tuple[str, str]], base: str) -> None:
    load_encoders(base)
    assert loaded == {
        "identity_encoder": (str(starter.identity_folder()), "cpu"),
        "clip": (str(starter.clip_folder()), "cpu"),
    }


def test_other_bases_are_scored_as_published_tables_are(loaded: dict[str, tuple[str, str]]) -> None:
    load_encoders("owner/base", device="cuda")
    assert loaded == {"identity_encoder": (IDENTITY, "cuda"), "clip": (CLIP, "cuda")}
    assert (IDENTITY, CLIP) == ("facebook/dino-vits16", "openai/clip-vit-base-patch32")


def test_each_encoder_is_chosen_by_itself(loaded: dict[str, tuple[str, str]]) -> None:
    load_encoders("starter", identity="some/dino")
    assert loaded == {"identity_encoder": ("some/dino", "cpu"), "clip": (str(starter.clip_folder()), "cpu")}
    load_encoders("owner/base", clip="starter")
    assert loaded == {"identity_encoder": (IDENTITY, "cpu"), "clip": (str(starter.clip_folder()), "cpu")}


def test_folders_are_loaded_and_described(tmp_path: Path) -> None:
    identity, clip = tiny_identity(tmp_path / "seer"), tiny_clip(tmp_path / "reader")
    encoders = load_encoders("owner/base", str(identity), str(clip))
    assert encoders.describe() == {
        "identity": read_identity_encoder(identity).describe(),
        "clip": read_clip(clip).describe(),
    }
    assert encoders.describe()["identity"].startswith("seer (weights ")


def test_an_encoder_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path / "reader")
    with pytest.raises(UserError, match="vision transformer is needed"):
        load_encoders("starter", identity=str(clip))


def test_the_embedded_base_is_known_by_name_and_by_path(tmp_path: Path) -> None:
    assert is_embedded("starter")
    assert is_embedded(str(starter.folder()))
    assert not is_embedded(str(tmp_path))
