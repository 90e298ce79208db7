"""Laws of the caption audit: each fault is said with its count, and healthy captions are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from mascot.data.captioning.caption_audit import audit_captions
from mascot.data.captioning.caption_variants import TagSettings
from mascot.data.captions import caption_photos
from mascot.data.dataset import DatasetSettings
from mascot.data.photo_audit import PhotoFinding
from mascot.data.photos import Photo, read_photos
from mascot.data.prompt_templates import DEFAULT_TEMPLATE
from mascot.protocols import Subject

IMAGE = Image.new("RGB", (40, 40))
OWL = Subject("sks", "owl")
GOOD = ("a {subject} in the rain", "a sks owl at night", "sks owl, on a table, from above", "a {token} owl")


def audit(
    captions: Sequence[str], *, subject: Subject = OWL, token_given: bool = True, **settings: object
) -> dict[str, PhotoFinding]:
    photos = [
        Photo(path=Path(f"{number}.png"), image=IMAGE, captions=(caption,)) for number, caption in enumerate(captions)
    ]
    given = DatasetSettings(**settings)
    found = audit_captions(
        photos,
        subject,
        templates=given.templates,
        token_given=token_given,
        insert_token=given.insert_token,
        tags=given.tags,
        from_names=given.captions_from_names,
    )
    return {finding.kind: finding for finding in found}


def test_good_captions_have_no_findings() -> None:
    assert audit(GOOD) == {}
    assert audit([DEFAULT_TEMPLATE] * 5) == {}


def test_captions_that_never_name_the_subject_are_counted() -> None:
    found = audit(["an owl in rain", "two trees", "a {class} at night"])
    assert found["no-subject"].message == (
        "None of the 3 captions names either {subject} or the token 'sks', so prompts will use a token that these do "
        "not train."
    )
    assert "dataset.insert_token=true" in found["no-subject"].remedy
    assert audit(["an owl in rain", "two trees", "night"], insert_token=True) == {}


def test_some_captions_without_the_subject_are_named() -> None:
    found = audit([*GOOD, "an owl in rain"])["no-subject"]
    assert found.message.startswith("1 of the 5 captions names neither {subject} nor the token 'sks' (4.png), ")
    found = audit([*GOOD, "an owl in rain", "sksy owl"])["no-subject"]
    assert found.message.startswith("2 of the 6 captions name neither {subject} nor the token 'sks' (4.png, 5.png), ")


def test_a_token_that_is_chosen_later_is_in_no_caption() -> None:
    found = audit(["a sks owl in rain", "a sks owl, night", "sks"], token_given=False)["no-subject"]
    assert found.message.startswith("None of the 3 captions names either {subject} or the token (one is chosen, as ")
    assert found.remedy.endswith("or give the token of your captions by --token.")
    assert audit(GOOD[:1] + GOOD[3:], token_given=False) == {}


def test_a_word_of_the_class_noun_does_not_name_the_subject() -> None:
    captions = ["a great horned owl, rain", "a great horned owl at night", "great horned owl on a branch"]
    assert "no-subject" in audit(captions, subject=Subject("owl", "great horned owl"))


def test_what_is_always_written_is_named_by_phrase() -> None:
    captions = ["a {subject} with a red beak in rain", "red beak, {subject} at night", "a big {subject}, red beak"]
    found = audit(captions)["always-written"]
    assert found.message.startswith("All 3 captions say 'red beak'; what is always written is trained into these words")
    assert "place, pose, light" in found.remedy


def test_words_of_nine_in_ten_captions_count_as_always_written() -> None:
    captions = [
        f"a {{subject}} with striped wings, {word}" for word in "one two three four five six seven eight nine".split()
    ]
    found = audit([*captions, "a {subject} in the rain"])["always-written"]
    assert found.message.startswith("At least 9 of the 10 captions say 'striped wings'; ")
    assert audit([*captions[:8], "a {subject} in the rain", "a {subject} at dawn"]) == {}


def test_captions_that_are_all_alike_are_shown() -> None:
    found = audit([f"a {{subject}} standing on grass number {number}" for number in range(3)])
    assert found["same-captions"].message.startswith(
        "The captions of all 3 photos are alike: 'a {subject} standing on grass number 0'; "
    )
    assert "'standing'" in found["always-written"].message


def test_two_captions_may_share_words_by_chance() -> None:
    assert audit(["a {subject} on grass", "a {subject} on grass"]) == {}


def test_tag_dropout_must_not_reach_the_token() -> None:
    found = audit(["grass, sks owl", "sks owl, rain", "night, moon, {subject}"], tag_dropout=0.1)["token-dropped"]
    assert found.message == "Tag dropout may leave out the token in 2 of 3 captions (0.png, 2.png)."
    assert "token-dropped" not in audit(["a, sks owl", "sks owl, rain"], tag_dropout=0.1, keep_tags=2)
    assert "token-dropped" not in audit(["a, sks owl"], shuffle_tags=True)


@pytest.mark.parametrize("settings", [{"shuffle_tags": True}, {"tag_dropout": 0.5}])
def test_settings_that_change_nothing_are_said(settings: dict[str, object]) -> None:
    assert "no-tags" in audit(["a {subject}", "one {subject}"], **settings)
    assert "no-tags" in audit(["{subject}, rain"], keep_tags=2, **settings)
    assert "no-tags" not in audit(["{subject}, rain, night"], **settings)


def test_names_that_say_nothing_are_said() -> None:
    assert "no-names" in audit([DEFAULT_TEMPLATE] * 3, captions_from_names=True)


def test_what_users_reported_is_found(shared_data: Path) -> None:
    folder = shared_data / "user_reports" / "no_trigger"
    photos = caption_photos(read_photos([folder])).photos
    found = audit_captions(photos, OWL, templates=(DEFAULT_TEMPLATE,), token_given=True, tags=TagSettings())
    assert [finding.kind for finding in found] == ["no-subject", "same-captions", "always-written"]
    assert "'red mouth'" in found[-1].message
