"""Laws of collections: the published file is read whole, mistakes are named, shares are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mascot.errors import UserError
from mascot.experiments.subject_collection import Collection, read_collection, spread
from mascot.generation.prompts.prompt_sets import PAPER, PAPER_PROPERTIES

FILE = """Classes

subject_name,class
cat9,cat
mug,cup
robot,robot,no
gone,toy

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the snow'.format(unique_token, class_token),
'a {0} {1} on the beach'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
"a {0} {1} wearing a dog's hat".format(unique_token, class_token),
'a wet {0} {1}'.format(unique_token, class_token)
]
"""


def written(folder: Path, text: str = FILE, *, home: str = "") -> Path:
    """A collection with folders for three of its four subjects."""
    (folder / home).mkdir(exist_ok=True)
    (folder / home / "prompts_and_classes.txt").write_text(text, encoding="utf-8")
    for name in ("cat9", "mug", "robot", "unnamed"):
        (folder / home / name).mkdir(exist_ok=True)
    return folder


def test_the_published_file_is_read_whole(shared_data: Path) -> None:
    """It has 30 subjects, some of them here, the paper's prompts, and only cats and dogs live."""
    found = read_collection(shared_data / "dreambooth")
    assert len(found.subjects) + len(found.missing) == 30
    assert found.prompts == PAPER
    assert {subject.class_noun for subject in found.subjects if subject.live} == {"cat", "dog"}
    assert {subject.name: subject.class_noun for subject in found.subjects}["pink_sunglasses"] == "glasses"


@pytest.mark.parametrize("home", ["", "dataset"])
def test_subjects_prompts_and_liveness_are_read(tmp_path: Path, home: str) -> None:
    found = read_collection(written(tmp_path, home=home))
    assert [(one.name, one.class_noun, one.live) for one in found.subjects] == [
        ("cat9", "cat", True),
        ("mug", "cup", False),
        ("robot", "robot", False),
    ]
    assert found.missing == ("gone",)
    assert found.prompts.objects == ("a {subject} in the snow", "a {subject} on the beach", "a red {subject}")
    assert found.prompts.live == ("a {subject} wearing a dog's hat", "a wet {subject}")
    assert all(one.photos.is_dir() for one in found.subjects)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("subject_name,class", "name;class", "has no line `subject_name,class`"),
        ("mug,cup", "mug", "line 5: 'mug' is not of the form"),
        ("mug,cup", "mug,cup,maybe", "line 5: 'mug,cup,maybe'"),
        ("mug,cup", "../mug,cup", "line 5"),
        ("mug,cup", "cat9,cup", "names cat9 more than once"),
        ("Object Prompts", "Prompts of objects", "no prompts under `Object Prompts`"),
        ("a red {0} {1}", "a red {1}", "'a red {1}' must have {0} {1} once"),
        ("a red {0} {1}", "a {2} {0} {1}", "must have {0} {1} once"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(UserError) as caught:
        read_collection(written(tmp_path, FILE.replace(old, new, 1)))
    assert message in str(caught.value)


def test_a_folder_without_the_file_or_without_subjects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no prompts_and_classes\.txt"):
        read_collection(tmp_path)
    (tmp_path / "prompts_and_classes.txt").write_text(FILE, encoding="utf-8")
    with pytest.raises(UserError, match=r"names 4 subjects, and .* holds a folder of none"):
        read_collection(tmp_path)


def test_a_selection_has_what_is_asked_for(tmp_path: Path) -> None:
    whole = read_collection(written(tmp_path))
    part = whole.select(subjects=["robot", "cat9", "robot"], prompts=1)
    assert [one.name for one in part.subjects] == ["robot", "cat9"]
    assert (len(part.prompts.objects), len(part.prompts.live)) == (1, 1)
    assert whole.select() == whole
    with pytest.raises(UserError, match="no subject 'robt' in this collection; did you mean 'robot'"):
        whole.select(subjects=["robt"])
    with pytest.raises(UserError, match="--prompts needs 1"):
        whole.select(prompts=0)


@given(total=st.integers(1, 60), count=st.integers(1, 80))
def test_a_spread_is_a_part_in_order_without_repeats(total: int, count: int) -> None:
    prompts = [str(i) for i in range(total)]
    found = spread(prompts, count)
    assert len(found) == min(total, count)
    assert list(found) == sorted(set(found), key=int)


def test_five_of_the_papers_prompts_have_one_property() -> None:
    """A fifth of the paper's prompts change a property: five evenly chosen ones keep that share."""
    assert sum(prompt in PAPER_PROPERTIES for prompt in spread(PAPER.objects, 5)) == 1
    assert isinstance(Collection(subjects=(), prompts=PAPER).select(prompts=5), Collection)
