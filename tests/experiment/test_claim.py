"""A folder belongs to one process."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from commands import ROOT

from metarun.experiment import claim as module
from metarun.experiment.claim import FolderError, claim

HOLDS = "import sys, time; from metarun.experiment.claim import claim; from pathlib import Path\n"
HOLDS += "own = claim(Path(sys.argv[1]), 'hydra.run.dir'); print('held', flush=True); time.sleep(60)"


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path/run."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_and_told_who_holds_it_until_that_is_killed(other, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(FolderError, match=rf"{folder} is in use by process {other.pid} on .+ since 20\d\d-"):
        claim(folder, "hydra.run.dir")
    other.kill()
    other.wait()
    own = claim(folder, "hydra.run.dir")
    assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid() and own.made == []
    own.release()
    own.release()
    claim(folder, "hydra.run.dir").release()


def test_so_is_a_second_time_in_one_process(tmp_path):
    own = claim(tmp_path / "run", "hydra.run.dir")
    with pytest.raises(FolderError, match=f"process {os.getpid()}"):
        claim(tmp_path / "run", "hydra.run.dir")
    own.release()


def test_only_what_was_made_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    own = claim(tmp_path / "mine" / "a" / "b", "hydra.run.dir")
    (own.folder / "metrics.jsonl").write_text("")
    own.withdraw()
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"] and not list((tmp_path / "mine").iterdir())
    own = claim(tmp_path / "mine", "hydra.run.dir")
    (own.folder / "result.json").write_text("{}")
    own.withdraw()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["result.json"]


def test_the_users_own_files_stay(tmp_path):
    (tmp_path / "metarun.log").write_text("mine")
    own = claim(tmp_path, "hydra.run.dir")
    own.withdraw()
    assert (tmp_path / "metarun.log").read_text() == "mine" and tmp_path.is_dir()


def test_the_current_folder_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim(module.Path("."), "hydra.run.dir").withdraw()
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


def file_in_its_place(folder):
    folder.write_text("")


def file_above(folder):
    folder.parent.joinpath("file").write_text("")
    return folder.parent / "file" / "run"


def too_long(folder):
    return folder.parent / ("x" * 300)


def lock_is_a_link(folder):
    folder.mkdir()
    (folder / ".lock").symlink_to(folder.parent / "elsewhere")


def lock_is_a_folder(folder):
    (folder / ".lock").mkdir(parents=True)


def lock_is_a_pipe(folder):
    folder.mkdir()
    os.mkfifo(folder / ".lock")


def dangling_link(folder):
    folder.symlink_to(folder.parent / "nowhere")


@pytest.mark.parametrize(
    "place",
    [file_in_its_place, file_above, too_long, lock_is_a_link, lock_is_a_folder, lock_is_a_pipe, dangling_link],
    ids=lambda place: place.__name__,
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(place, tmp_path):
    folder = place(tmp_path / "run") or tmp_path / "run"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FolderError, match=r"^hydra.run.dir must be a folder that can be .+ \(.+\); got ") as error:
        claim(folder, "hydra.run.dir")
    assert "\n" not in str(error.value) and "Errno" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_so_is_one_that_cannot_be_made(code, tmp_path, monkeypatch):
    make = module.Path.mkdir

    def mkdir(self, *arguments, **keywords):
        if self.name == "run":
            raise OSError(code, os.strerror(code), str(self))
        make(self, *arguments, **keywords)

    monkeypatch.setattr(module.Path, "mkdir", mkdir)
    with pytest.raises(FolderError, match=os.strerror(code)):
        claim(tmp_path / "above" / "run", "hydra.run.dir")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_this_is_said_once(code, tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.fcntl, "flock", flock)
    for _ in range(2):
        claim(tmp_path / "run", "hydra.run.dir").release()
    assert capsys.readouterr().err.count("cannot be locked") == 1


def test_a_forked_process_does_not_keep_the_folder(tmp_path):
    own = claim(tmp_path / "run", "hydra.run.dir")
    child = os.fork()
    if not child:
        os._exit(own.descriptor is not None)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(FolderError):  # it is still this process's
        claim(tmp_path / "run", "hydra.run.dir")
    own.release()


def test_a_folder_that_its_holder_removes_is_made_anew(tmp_path, monkeypatch):
    folder, opened = tmp_path / "run", module.open_lock
    first = claim(folder, "hydra.run.dir")

    def late(path):
        monkeypatch.undo()
        descriptor = opened(path)
        first.withdraw()  # between opening and locking
        return descriptor

    monkeypatch.setattr(module, "open_lock", late)
    own = claim(folder, "hydra.run.dir")
    assert (folder / ".lock").is_file() and own.descriptor is not None
    own.release()
