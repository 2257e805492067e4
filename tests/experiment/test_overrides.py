"""One KEY=VALUE: its key, its value, its sweep, and what is said of one that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarun.experiment.overrides import (
    FOLDERS,
    UsageError,
    choices_of,
    first_choice,
    key_of,
    lines_of,
    quoted,
    read,
    same_value,
    written,
)


@pytest.mark.parametrize("key", [*FOLDERS, "data.root"])
@pytest.mark.parametrize("path", ["sw1/inner_lr=0.1_seed=0", "a b/c", "(1)", "é/ü", "x'y", 'x"y', "#1;", "[0]", "a:b"])
def test_any_path_is_a_value_quoted_or_not(key, path):
    assert read(f"{key}={path}").value() == path
    assert read(f"++{key}={quoted(path)}").value() == path


@pytest.mark.parametrize("path", ["2024", "1e3", "true", "a,b", "a{b}"])
def test_what_looks_like_another_value_is_the_name_of_a_folder(path):
    assert read(f"run.resume={path}").value() == path


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
def test_quotes_keep_every_text(text):
    assert read(f"algo.x={quoted(text)}").value() == text


def test_a_home_folder_is_expanded_as_the_shell_would(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read("data.root=~/x").value() == "/home/me/x"
    assert read("run.resume='~/x=1'").value() == "/home/me/x=1"
    assert read("data.root=a~b").value() == "a~b"


def test_a_list_of_cells_is_a_sweep_over_paths_and_a_folder_with_a_comma_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sw/seed=0", "sw/seed=1", "x,y"):
        Path(name).mkdir(parents=True)
    assert choices_of(read("run.init_from=sw/seed=0,sw/seed=1")) == ["'sw/seed=0'", "'sw/seed=1'"]
    assert read("run.init_from=x,y").value() == "x,y"
    assert lines_of(read("data.root=a,b")) == ["data.root=a", "data.root=b"]


def test_letters_outside_ascii_need_no_quotes_where_they_are_one_word():
    assert read("tracker.wandb.project=é").value() == "é"
    assert read("tracker.wandb.tags=[a]").value() == ["a"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "algo.x=a;b",
            "from the mark on; in quotes it is text: \"algo.x='a;b'\"\n  algo.x=a;b\n          ^",
        ),
        ("a.b..c=1", "cannot read this key from the mark on\n  a.b..c=1\n     ^"),
        ("x=é,b", "x='é,b'"),
        ("x=10^30", "x='10^30'"),
        ("x=interval(1)", "missing a required argument: 'end'"),
        ("x=choice()", "empty choice"),
        ("x=" + "[" * 3000, "cannot read"),
        ("x=\x1b[31m", "x=\ufffd[31m"),
    ],
)
def test_what_cannot_be_read_is_shown_with_the_place(argument, message):
    with pytest.raises(UsageError) as error:
        read(argument)
    assert message in str(error.value)
    assert "Exception" not in str(error.value) and "\x1b" not in str(error.value)


def test_a_sweep_has_lines_and_a_first_one():
    assert lines_of(read("++seed=5,6")) == ["++seed=5", "++seed=6"]
    assert first_choice(read("seed=range(3,9)")) == "seed=3"
    assert first_choice(read("algo=glob(maml*)")) == "algo=maml"
    assert first_choice(read("algo.inner_lr=tag(log,interval(1e-4,1))")) == "algo.inner_lr=0.0001"
    assert lines_of(read("~algo.x")) == ["~algo.x"]
    for nothing in ("seed=range(0)", "algo=glob(zzz*)"):
        with pytest.raises(UsageError, match="must be at least one value"):
            lines_of(read(nothing))


def test_two_settings_say_the_same_however_they_are_written():
    assert same_value(read("x='a'"), read("+x=a"))
    assert same_value(read("seed=1,2"), read("++seed=1, 2"))
    assert not same_value(read("seed=1,2"), read("seed=2,1"))
    assert not same_value(read("seed=1"), read("~seed"))
    assert key_of(read("++a/b@c=d")) == "a/b@c"


@pytest.mark.parametrize("value", [None, True, 3, 2.5e-05, "a, b='c'", "${data.ways}", [1, [2.0, None]], {"a": ["x"]}])
def test_a_value_is_written_as_it_is_read(value):
    assert read(f"x={written(value)}").value() == value
