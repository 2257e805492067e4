"""The compiler's folder can be written, and no broken file is left in it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from metarun.training import compiler_cache
from metarun.training.compiler_cache import cache_problem, remove_broken, remove_named


@pytest.fixture
def anew(monkeypatch):
    """As in a new process; what the environment names is set back."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "unset")
    monkeypatch.setattr(compiler_cache.atexit, "register", lambda *_, **__: None)
    cache_problem.cache_clear()
    yield monkeypatch
    cache_problem.cache_clear()


@pytest.mark.parametrize("kind", ["nowhere", "a file", "below a file"])
def test_a_folder_that_cannot_be_made_is_named_and_replaced(kind, anew, tmp_path):
    (tmp_path / "file").touch()
    named = {"nowhere": "/proc/x", "a file": str(tmp_path / "file"), "below a file": str(tmp_path / "file" / "x")}[kind]
    anew.setenv("TORCHINDUCTOR_CACHE_DIR", named)
    problem = cache_problem()
    assert problem is not None and problem.startswith(f"TORCHINDUCTOR_CACHE_DIR={named}: ")
    instead = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert instead.is_dir()
    instead.rmdir()
    assert cache_problem() == problem  # not forgotten


def test_a_folder_that_can_be_made_is_made(anew, tmp_path):
    anew.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert cache_problem() is None and (tmp_path / "a" / "b").is_dir()
    cache_problem.cache_clear()
    anew.delenv("TORCHINDUCTOR_CACHE_DIR")
    assert cache_problem() is None


LIBRARY = next(Path(torch.__file__).parent.glob("_C*.so"))
ELF = pytest.mark.skipif(sys.platform != "linux", reason="files of Linux")


def put(folder: Path, name: str, content: bytes, age: float = 3600) -> Path:
    file = folder / "ab" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (time.time() - age,) * 2)
    return file


@ELF
def test_whatever_breaks_off_is_removed_and_nothing_else(tmp_path):
    whole = LIBRARY.read_bytes()
    kept = [put(tmp_path, "whole.so", whole), put(tmp_path, "other.cpp", b""), put(tmp_path, "young.so", b"", 0)]
    broken = [put(tmp_path, f"{length}.so", whole[:length]) for length in (0, 10, 63, 64, len(whole) // 2)]
    broken.append(put(tmp_path, "zeros.so", bytes(len(whole))))  # the linker writes the head last
    assert sorted(remove_broken(tmp_path)) == sorted(broken)
    assert not any(file.exists() for file in broken) and all(file.exists() for file in kept)
    assert remove_broken(tmp_path) == []


@ELF
def test_a_file_that_an_error_names_is_removed_if_it_is_the_compilers_and_broken(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    broken, whole = put(tmp_path / "cache", "a.so", b"", 0), put(tmp_path / "cache", "b.so", LIBRARY.read_bytes())
    elsewhere = put(tmp_path, "c.so", b"")
    for file, removed in ((broken, broken), (broken, None), (whole, None), (elsewhere, None)):
        error = RuntimeError(f"backend='inductor' raised:\nImportError: {file}: file too short")
        assert remove_named(error) == removed
    assert whole.exists() and elsewhere.exists() and not broken.exists()
