"""Torch's compiler may lack, fail or be interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest
import torch

from metarun.experiment.signals import signals
from metarun.training import compilation
from metarun.training.compilation import CompilationError, CompiledProgram, cause_of, signals_wait


def test_signals_wait_for_what_runs_inside_and_for_processes_it_starts():
    script = "for name in INT TERM HUP; do kill -$name $$; done; echo done"
    with signals() as received:
        with signals_wait():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            results = [subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)]
            worker = threading.Thread(
                target=lambda: results.append(
                    subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
                )
            )
            worker.start()
            worker.join()
        assert set(received) == {signal.SIGINT, signal.SIGTERM}
    assert [(result.returncode, result.stdout) for result in results] == [(0, "done\n")] * 2
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode == -signal.SIGINT


class CompilersError(RuntimeError):
    __module__ = "torch._inductor.exc"


class Compiled:
    """A compiled program that fails the first times."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self, x):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return x + 1


def plain(x):
    return x + 2


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    monkeypatch.setattr(compilation, "remove_broken_files", lambda: None)


def test_without_failure_the_compiled_program_is_called():
    assert CompiledProgram(plain, Compiled())(1) == 2


@pytest.mark.parametrize("error", [CompilersError("no compiler"), OSError("no space"), AssertionError("nonsense")])
def test_where_torch_cannot_compile_the_function_itself_is_called_from_there_on(error):
    told, program = [], Compiled(error)
    called = CompiledProgram(plain, program, told.append)
    assert [called(1), called(1)] == [3, 3]
    assert program.calls == 1 and [str(e) for e in told] == [f"torch cannot compile: {type(error).__name__}: {error}"]


def test_what_is_wrong_with_the_function_itself_is_told_as_its_own():
    told = []

    def broken(x):
        raise KeyError(x)

    with pytest.raises(KeyError):
        CompiledProgram(broken, Compiled(CompilersError("graph break")), told.append)(1)
    with pytest.raises(ZeroDivisionError):
        CompiledProgram(plain, Compiled(ZeroDivisionError()), told.append)(1)
    assert told == []


def test_where_compiling_was_asked_for_by_name_it_fails_in_one_line():
    with pytest.raises(CompilationError, match=r"^torch cannot compile: CompilersError: first line$") as caught:
        CompiledProgram(plain, Compiled(CompilersError("first line\n\nsecond")))(1)
    assert isinstance(caught.value.__cause__, CompilersError)


def test_a_broken_compiled_file_is_made_anew_once(monkeypatch, caplog):
    monkeypatch.setattr(compilation, "remove_named", lambda error: "/cache/ab/c.so" if "short" in str(error) else None)
    short = CompilersError("ImportError: /cache/ab/c.so: file too short")
    program = Compiled(short)
    assert CompiledProgram(plain, program)(1) == 2 and program.calls == 2
    assert caplog.messages == ["/cache/ab/c.so was broken; it is compiled anew"]
    with pytest.raises(CompilationError):
        CompiledProgram(plain, Compiled(short, short))(1)


def test_of_a_compilers_output_the_first_error_is_told():
    class CppCompileError(RuntimeError):
        output = "In file included from a.h:\na.cpp:3:1: error: expected ';'\n" + "note: more\n" * 2000

    wrapped = CompilersError("long")
    wrapped.inner_exception = CppCompileError("C++ compile error\n\nCommand:\n...")
    assert cause_of(wrapped) == "CppCompileError: a.cpp:3:1: error: expected ';'"
    assert cause_of(CompilersError("")) == "CompilersError: no reason given"
    assert len(cause_of(CompilersError("x" * 5000))) == compilation.LONGEST_CAUSE


def test_a_real_compiler_that_fails_is_torchs_error(monkeypatch):
    """What is caught is what torch raises; its own compiler is not called here."""

    def fail(*_: object) -> None:
        raise OSError("no space left")

    torch._dynamo.reset()
    told = []
    called = CompiledProgram(plain, torch.compile(plain, backend=fail), told.append)
    assert called(torch.ones(2)).tolist() == [3.0, 3.0]
    assert [str(error) for error in told] == ["torch cannot compile: OSError: no space left"]
