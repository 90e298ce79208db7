"""Laws of where captions come from: texts, tables, names; which wins, and what errors say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mascot.data.captioning.file_name_captions import caption_of_name
from mascot.data.captions import CaptionSources, caption_photos
from mascot.data.photos import PhotoSet, read_photos
from mascot.errors import UserError

USERS = Path("user_reports")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.png", "2.png", "3.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    return tmp_path


def read(folder: Path, **sources: bool) -> PhotoSet:
    return caption_photos(read_photos([folder]), CaptionSources(templates=("the template",), **sources))


def captions(folder: Path, **sources: bool) -> list[tuple[str, ...]]:
    return [photo.captions for photo in read(folder, **sources).photos]


def test_a_caption_file_counts_like_a_text_file(folder: Path) -> None:
    (folder / "1.caption").write_text("of the caption file", encoding="utf-8")
    (folder / "2.caption").write_text("not this", encoding="utf-8")
    (folder / "2.txt").write_text("of the text file", encoding="utf-8")
    (folder / "3.TXT").write_text("of capitals", encoding="utf-8")
    assert captions(folder) == [("of the caption file",), ("of the text file",), ("of capitals",)]
    (note,) = read(folder).notes
    assert note == (
        "2.png: 2.txt and 2.caption give different captions; that of 2.txt is used, so delete the other one."
    )


def test_files_that_agree_are_not_remarked_on(folder: Path) -> None:
    for extension in ("txt", "caption"):
        (folder / f"1.{extension}").write_text("the same\n", encoding="utf-8")
    (folder / "metadata.csv").write_text("file_name,text\n1.png,the  same\n", encoding="utf-8")
    assert read(folder).notes == ()


def test_tables_have_an_order_and_contradictions_are_named(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "lines"}', encoding="utf-8")
    (folder / "metadata.csv").write_text("file_name,text\n1.png,csv\n2.png,csv\n", encoding="utf-8")
    (folder / "metadata.json").write_text(json.dumps(dict.fromkeys("123", "json")), encoding="utf-8")
    assert captions(folder) == [("lines",), ("csv",), ("json",)]
    assert [note.split(";")[0] for note in read(folder).notes] == [
        "1.png: metadata.jsonl, line 1 and metadata.csv, line 2 give different captions",
        "2.png: metadata.csv, line 3 and metadata.json, '2' give different captions",
    ]


@pytest.mark.parametrize(
    "table",
    [
        'file_name,text\n1.png,"one, two"\n',
        '\ufefffile_name,text\r\n1.png,"one, two"\r\n\r\n',
        "caption;file\none, two;1.png\n",
        "image\tprompt\tscore\n1.png\tone, two\t3\n",
    ],
)
def test_csv_tables_of_several_kinds(folder: Path, table: str) -> None:
    (folder / "metadata.csv").write_text(table, encoding="utf-8")
    assert captions(folder)[0] == ("one, two",)


@pytest.mark.parametrize(
    "table",
    [
        {"1": {"caption": "one", "tags": "two, three"}},
        {"1.png": {"caption": "one, two", "tags": ["three"]}},
        {"/home/me/train/1": {"tags": "one, two, three", "train_resolution": [64, 64]}},
        {"C:\\train\\1.png": {"caption": "one, two, three"}},
        {"1": "one, two, three"},
        [{"file_name": "1.png", "text": "one, two, three"}],
        {"1": {"caption": ["one, two, three"]}},
    ],
)
def test_json_tables_of_several_kinds(folder: Path, table: object) -> None:
    (folder / "metadata.json").write_text(json.dumps(table), encoding="utf-8")
    assert captions(folder)[0] == ("one, two, three",)


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("metadata.csv", "", "metadata.csv, line 1: name the columns file_name,text"),
        ("metadata.csv", "a,b\n1.png,x\n", "metadata.csv, line 1: name the columns file_name,text"),
        ("metadata.csv", "file_name,text\n1.png,one, two\n", "line 2: there are 3 columns, and 2 in line 1; put a cap"),
        ("metadata.csv", "file_name,text\n1.png\n", "line 2: there are 1 columns"),
        ("metadata.csv", 'file_name,text\n1.png,"a\n', "this is not CSV"),
        ("metadata.csv", "file_name,text\n4.png,x\n", "line 2: there is no file '4.png'"),
        ("metadata.csv", "file_name,text\n1.png,x\n1.png,y\n", "line 3: 1.png has a caption already"),
        ("metadata.csv", "file_name,text\n1.png, \n", "line 2: text is empty"),
        ("metadata.csv", "file_name,text\n1.png,{tokn}\n", "line 2: .*did you mean 'token'"),
        ("metadata.json", "{", "metadata.json is not JSON"),
        ("metadata.json", "3", "metadata.json: write a group"),
        ("metadata.json", '[["1.png"]]', "metadata.json, entry 1: write an object"),
        ("metadata.json", '{"9": "x"}', "metadata.json, '9': there is no file '9'"),
        ("metadata.json", '{"1": {}}', "metadata.json, '1': there is no caption"),
        ("metadata.json", '{"1": {"tags": []}}', "metadata.json, '1': caption is empty"),
        ("metadata.json", '{"1": 5}', "metadata.json, '1': caption is empty or not a text"),
        ("metadata.json", '{"1": "x", "1.png": "y"}', "metadata.json, '1.png': 1.png has a caption already"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": ["x", 3]}', "line 1: text is empty or not a text"),
        ("1.caption", " ", "1.caption, line 1: the caption is empty"),
        ("1.caption", "{a|token}", "1.caption: .*placeholder inside the wildcard"),
    ],
)
def test_a_bad_table_is_named_with_its_place(folder: Path, name: str, table: str, message: str) -> None:
    (folder / name).write_text(table, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        captions(folder)


def test_each_line_is_a_caption_on_request(folder: Path) -> None:
    (folder / "1.txt").write_text("one  a\n\n two\n", encoding="utf-8")
    (folder / "metadata.jsonl").write_text('{"file_name": "2.png", "text": ["x", "y\\nz"]}', encoding="utf-8")
    assert captions(folder) == [("one a two",), ("x", "y z"), ("the template",)]
    (note,) = read(folder).notes
    assert note.startswith(
        "1.png: a caption of several lines is read as one; give --set dataset.caption_each_line=true"
    )
    assert captions(folder, each_line=True) == [("one a", "two"), ("x", "y", "z"), ("the template",)]
    assert read(folder, each_line=True).notes == ()


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("a brown dog on grass (2).jpg", "a brown dog on grass"),
        ("a_sks_dog_in_the_snow_03.png", "a sks dog in the snow"),
        ("black-and-white cat.webp", "black and white cat"),
        ("a {subject} at night-12.png", "a {subject} at night"),
        ("curly {brace.png", "curly {{brace"),
        ("1.png", None),
        ("IMG_1234.jpg", None),
        ("DSC01234.JPG", None),
        ("PXL_20240101_120000123.jpg", None),
        ("photo (3).png", None),
        ("Screenshot 2024-01-01 at 12.00.00.png", None),
        ("00 copy.png", None),
        ("x.png", None),
        ("---.png", None),
    ],
)
def test_names_are_captions_unless_they_say_nothing(name: str, caption: str | None) -> None:
    assert caption_of_name(Path(name)) == caption


def test_names_come_after_files_and_before_templates(tmp_path: Path) -> None:
    for name in ("a dog.png", "a cat.png", "7.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    (tmp_path / "a cat.txt").write_text("its own", encoding="utf-8")
    assert captions(tmp_path, from_names=True) == [("the template",), ("its own",), ("a dog",)]
    assert captions(tmp_path) == [("the template",), ("its own",), ("the template",)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("caption_ext", "a sks owl standing on grass number 0"),
        ("meta_csv", "a sks owl in the rain"),
        ("meta_json", "a sks owl in the rain"),
        ("no_trigger", "an owl with a red mouth, picture 1"),
        ("kohya_parent_with_caption/10_sks dog", "sks dog, standing, grass"),
    ],
)
def test_what_users_lay_out_is_read(shared_data: Path, name: str, expected: str) -> None:
    assert captions(shared_data / USERS / name)[0] == (expected,)
