"""Torch's compiler, which may lack, fail or be interrupted: a run goes on uncompiled, or says why in one line."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from metarun.training.compiler_cache import cache_problem, remove_broken, remove_named

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST_CAUSE = 300  # characters


class CompilationError(RuntimeError):
    """Torch could not compile; one line that names the cause. The compiler's own words are its `__cause__`."""


OnFailure = Callable[[CompilationError], object]


def compiler_problem(device: str) -> str | None:
    """Why nothing can be compiled for a type of device here, as far as it can be seen without trying; None: nothing.

    On a CPU torch calls the compiler that CXX names, else `g++` (macOS: `clang++`), and no other.
    """
    if (problem := cache_problem()) is not None:
        return f"the compiler cannot keep its files ({problem})"
    own = "clang++" if sys.platform == "darwin" else "g++"
    name = os.environ.get("CXX", own) if device == "cpu" else "c++"
    words = shlex.split(name)
    if words and shutil.which(words[0]) is not None:
        return None
    return f"there is no C++ compiler {name!r}" + (", which CXX names" if "CXX" in os.environ else "")


@cache
def warn_uncompiled(cause: str) -> None:
    """Say, once in a process, that runs go on uncompiled."""
    log.warning(f"torch cannot compile here: {cause}. Runs go on uncompiled (device.compile=false asks for that)")


@contextmanager
def signals_wait() -> Iterator[None]:
    """Inside, signals wait; also for processes that are started here, which inherit that.

    A terminal sends Ctrl-C to a compiler too, a scheduler SIGTERM: it would fail, or leave half a file that torch takes
    for a whole one.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CompiledProgram:
    """A compiled function, called as the function itself.

    A broken file in the compiler's cache is removed and compiled anew.

    Args:
        function: what is compiled.
        program: the compiled one, as `torch.compile` makes it: it compiles when it is called, for each shape.
        on_failure: called with the error where it cannot be compiled; then the function itself is called from there
            on. None: the error is raised.

    Raises:
        CompilationError: when it is called; nothing has been computed.
    """

    def __init__(self, function: Callable, program: Callable, on_failure: OnFailure | None = None) -> None:
        self._function, self._program, self._on_failure = function, program, on_failure
        self._compiles = True
        self._begun = False

    def __call__(self, *arguments: Any) -> Any:
        if not self._compiles:
            return self._function(*arguments)
        if not self._begun:
            self._begun = True
            remove_broken_files()
        try:
            return self._compiled(*arguments)
        except CompilationError as error:
            if self._on_failure is None:
                raise
            result = self._function(*arguments)  # raises itself what is no fault of the compiler's
            self._compiles = False
            self._on_failure(error)
            return result

    def _compiled(self, *arguments: Any, again: bool = True) -> Any:
        try:
            with signals_wait():
                return self._program(*arguments)
        except Exception as error:
            if not is_compilers(error):
                raise
            if again and (file := remove_named(error)) is not None:
                log.warning(f"{file} was broken; it is compiled anew")
                return self._compiled(*arguments, again=False)
            raise CompilationError(f"torch cannot compile: {cause_of(error)}") from error


@cache
def remove_broken_files() -> None:
    """Clear the compiler's cache of broken files, once in a process."""
    for file in remove_broken():
        log.warning(
            f"{file} was broken, as a compiler that is killed leaves it; it is compiled anew where it is needed"
        )


def is_compilers(error: BaseException) -> bool:
    """Whether an error is the compiler's, not the program's own."""
    torchs = any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)
    return torchs or isinstance(error, OSError | ImportError | AssertionError)


def cause_of(error: BaseException) -> str:
    """One line of what the compiler says; of a C++ compiler's output the first error."""
    inner = getattr(error, "inner_exception", None) or error
    output = getattr(inner, "output", None)
    text = output if isinstance(output, str) else str(inner)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    first = next((line for line in lines if output and "error" in line), lines[0] if lines else "no reason given")
    return f"{type(inner).__name__}: {first}"[:LONGEST_CAUSE]
