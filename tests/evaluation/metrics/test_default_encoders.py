"""Laws of the judges: every base is judged by the encoders that belong to it, any others on request, and each says what it is."""

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
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """What would be loaded, and where to, in place of loading it."""
    found: dict[str, tuple[str, str]] = {}
    for kind in ("identity_encoder", "clip"):
        monkeypatch.setattr(
            default_encoders,
            f"read_{kind}",
            lambda where, device, kind=kind: found.update({kind: (str(where), str(device))}),
        )
    return found


@pytest.mark.parametrize("base", ["starter", str(starter.folder())])
def test_the_embedded_base_is_judged_by_the_embedded_encoders(asked: dict[str, tuple[str, str]], base: str) -> None:
    load_encoders(base)
    assert asked == {
        "identity_encoder": (str(starter.identity_folder()), "cpu"),
        "clip": (str(starter.clip_folder()), "cpu"),
    }


def test_other_bases_are_judged_as_published_tables_are(asked: dict[str, tuple[str, str]]) -> None:
    load_encoders("owner/base", device="cuda")
    assert asked == {"identity_encoder": (IDENTITY, "cuda"), "clip": (CLIP, "cuda")}
    assert (IDENTITY, CLIP) == ("facebook/dino-vits16", "openai/clip-vit-base-patch32")


def test_each_encoder_is_chosen_by_itself(asked: dict[str, tuple[str, str]]) -> None:
    load_encoders("starter", identity="some/dino")
    assert asked == {"identity_encoder": ("some/dino", "cpu"), "clip": (str(starter.clip_folder()), "cpu")}
    load_encoders("owner/base", clip="starter")
    assert asked == {"identity_encoder": (IDENTITY, "cpu"), "clip": (str(starter.clip_folder()), "cpu")}


def test_folders_are_read_and_described(tmp_path: Path) -> None:
    identity, clip = tiny_identity(tmp_path / "seer"), tiny_clip(tmp_path / "reader")
    found = load_encoders("owner/base", str(identity), str(clip))
    assert found.describe() == {
        "identity": read_identity_encoder(identity).describe(),
        "clip": read_clip(clip).describe(),
    }
    assert found.describe()["identity"].startswith("seer (weights ")


def test_an_encoder_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path / "reader")
    with pytest.raises(UserError, match="vision transformer is needed"):
        load_encoders("starter", identity=str(clip))


def test_the_embedded_base_is_known_by_name_and_place(tmp_path: Path) -> None:
    assert is_embedded("starter")
    assert is_embedded(str(starter.folder()))
    assert not is_embedded(str(tmp_path))
