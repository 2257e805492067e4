"""What is said, and how often."""

import io
import sys

from metarun.images.notices import counted, listed, progress_bar, tell


def test_a_line_is_said_once_on_stderr(capsys):
    for _ in range(2):
        tell("a line of test_notices")
    assert capsys.readouterr() == ("", "metarun: a line of test_notices\n")


def test_the_first_process_alone_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    tell("a line of another process")
    monkeypatch.setenv("RANK", "0")
    tell("a line of the first process")
    assert capsys.readouterr().err == "metarun: a line of the first process\n"


def test_names_cannot_steer_the_terminal(capsys):
    tell("a\x1b[31m/b\r.png é\nnext \udcff")
    assert capsys.readouterr().err == "metarun: a\ufffd[31m/b\ufffd.png é\nnext \ufffd\n"


def test_words():
    assert (
        counted(1, "file") == "1 file" and counted(1200, "file") == "1,200 files" and counted(2, "class") == "2 classes"
    )
    assert listed(["a"]) == "a" and listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_the_bar_is_silent_without_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar() as bar:
        assert list(bar.track([1, 2], description="x")) == [1, 2]
    assert sys.stderr.getvalue() == ""
