"""What words of the command line name."""

from __future__ import annotations

import pytest
from coloured import picture

from metarun.predict.examples import Picture, queries, support
from metarun.tasks import DataError


def test_folders_are_classes(pictures):
    found = support(pictures / "support")
    assert [(p.path.relative_to(pictures).as_posix(), p.label) for p in found.pictures] == [
        ("support/blue/0.png", "blue"),
        ("support/blue/1.png", "blue"),
        ("support/green/0.png", "green"),
        ("support/red/0.png", "red"),
        ("support/red/1.png", "red"),
        ("support/red/2.png", "red"),
    ]


def test_a_table_names_pictures_beside_it(pictures):
    (pictures / "labels.csv").write_text(
        "label,path,note\na,support/red/0.png,x\nb,support/blue/1.png,\n,asked/red/0.png,\n"
    )
    found = support(pictures / "labels.csv")
    assert found.pictures == [
        Picture(pictures / "support/red/0.png", "a"),
        Picture(pictures / "support/blue/1.png", "b"),
    ]
    assert [p.label for p in queries([str(pictures / "labels.csv")]).pictures] == ["a", "b", None]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path\nx.png\n", "must have the columns path and label in its first line; it has no label"),
        ("path,label\n,a\n", "line 2: there is no path"),
        ("path,label\nx.png,a\ny.png,a\n", "pictures of at least two classes"),
        ("", "it has no path"),
        (b"path,label\n\xff\xfe,a\n", "cannot be read as a CSV"),
    ],
)
def test_a_table_that_is_none_is_refused(table, message, tmp_path):
    (tmp_path / "t.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(DataError, match=message):
        support(tmp_path / "t.csv")


def test_no_support_is_refused(tmp_path):
    with pytest.raises(DataError, match="--support must be a folder of classes or a CSV"):
        support(tmp_path / "nowhere")
    picture(tmp_path / "one" / "red" / "0.png", "red")
    with pytest.raises(DataError, match="found 1 pictures of 1"):
        support(tmp_path / "one")


def test_queries_are_files_folders_and_patterns_each_once(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    (pictures / "asked" / "red" / "notes.txt").write_text("x")
    picture(pictures / "asked" / "plain.png", "red")
    found = queries(["asked/red/0.png", "asked", "asked/*/1.png"])
    assert [(str(p.path), p.label) for p in found.pictures] == [
        ("asked/red/0.png", None),
        ("asked/blue/0.png", "blue"),
        ("asked/blue/1.png", "blue"),
        ("asked/green/0.png", "green"),
        ("asked/green/1.png", "green"),
        ("asked/plain.png", None),
        ("asked/red/1.png", "red"),
    ]
    assert found.notes == ["asked: 1 file skipped, no picture by its suffix"]
    assert len(queries(["asked/**/*.png"]).pictures) == 7


@pytest.mark.parametrize("word", ["nowhere.png", "asked/*.jpg", "empty"])
def test_a_word_that_names_nothing_is_refused(word, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    (pictures / "empty").mkdir()
    with pytest.raises(DataError, match="--query"):
        queries(["asked", word])
