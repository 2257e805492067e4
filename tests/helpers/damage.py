"""Kinds of harm to the files of a run's folder, as disks, editors, other programs and strangers do it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Harm = Callable[[Path], object]
LONG = "x" * 100_000


def content(data: bytes | str) -> Harm:
    """The file has other content."""
    return lambda path: path.write_bytes(data if isinstance(data, bytes) else data.encode())


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    """Every 37th byte is another."""
    data = bytearray(path.read_bytes())
    for at in range(5, len(data), 37):
        data[at] ^= 0xFF
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def huge(path: Path) -> None:
    """As large as no run makes it; it takes no space."""
    os.truncate(path, 1 << 40)


def fields(**values: Any) -> Harm:
    """Fields of the result have other values."""

    def act(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return act


ANY = {
    "empty": content(b""),
    "half": half,
    "zeros": content(bytes(4096)),
    "not utf-8": content(b"\xff\xfe{\x00}\x00"),
    "flipped bytes": flipped,
    "a folder": folder,
    "a pipe": pipe,
    "a device that never ends": endless,
    "a link to itself": circle,
    "a terabyte": huge,
}
JSON = {
    "a list": content("[1, 2]"),
    "a number": content("3"),
    "null": content("null"),
    "nested too deeply": content("[" * 100_000),
    "nested deeply, and whole": content('{"a":' * 5000 + "1" + "}" * 5000),
    "a number of 5000 digits": content('{"status": "completed", "mean": ' + "9" * 5000 + "}"),
    "an html page": content("<!DOCTYPE html><html></html>"),
}
RESULT = {
    **ANY,
    **JSON,
    "NaN": fields(mean=float("nan")),
    "no status": content('{"algo": "maml", "mean": 0.5}'),
    "mean is text": fields(mean="0.5"),
    "mean is a list": fields(mean=[0.5]),
    "mean is true": fields(mean=True),
    "mean of 400 digits": fields(mean=10**400),
    "interval is negative": fields(ci95=-1),
    "interval is text": fields(ci95="wide"),
    "metric is a mapping": fields(metric={"mse": 1}),
    "metric is a number": fields(metric=3),
    "learner is a list": fields(algo=["maml"]),
    "data is a mapping": fields(data={}),
    "seed is a list": fields(seed=[0]),
    "steps is text": fields(steps="none"),
    "steps of text": fields(steps=["a"]),
    "steps without numbers": fields(steps=[{"step": None, "mean": "x"}]),
    "metrics is a list": fields(metrics=[1]),
    "paper is text": fields(paper="table 1"),
    "paper without a value": fields(paper={"source": "table 1"}),
    "published value is text": fields(paper={"value": "70 %"}),
    "iterations is text": fields(iterations="many"),
    "time is negative": fields(train_seconds=-5),
    "error is a mapping": fields(error={"a": 1}),
    "fingerprint is a list": fields(episodes=[1]),
    "overrides is a mapping": fields(overrides={"a": 1}),
    "overrides of numbers": fields(overrides=[1]),
    "better is text": fields(higher_is_better="no"),
    "ways is a list": fields(ways=[5]),
    "a million values": fields(details=list(range(1_000_000))),
}
CONFIG = {
    **{name: harm for name, harm in ANY.items() if harm is not half},  # half of it may be one
    "a list": content("[1, 2]"),
    "a number": content("3"),
    "null": content("null"),
    "no yaml": content("a: [1\nb: {"),
    "tabs": content("a:\n\tb: 1"),
    "a python object": content("a: !!python/object/apply:os.system [exit]"),
    "an unknown tag": content("a: !mine 1"),
    "an integer without digits": content('a: !!int ""'),
    "a float without digits": content('a: !!float ""'),
    "no boolean": content("a: !!bool maybe"),
    "no time": content("a: !!timestamp soon"),
    "a day that is none": content("a: 2026-99-99"),
    "a key that is a list": content("? [a]\n: 1"),
    "an alias of nothing": content("a: *b"),
    "two documents": content("a: 1\n---\nb: 2"),
    "an alias in itself": content("a: &a\n  b: *a"),
    "aliases of aliases": content(
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    ),
    "nested too deeply": content("[" * 5000),
    "nested until the parser's stack ends": content("[" * 300_000),
    "nested deeply, and whole": content("[" * 500 + "]" * 500),
    "an old schedule that is none": content("optimizer: {schedule: [1]}"),
    "an integer of 5000 digits": content("a: " + "9" * 5000),
}
# Whole, and of other content than a run writes: the run is no broken one.
ODD_CONFIG = {
    "groups that are no mappings": content("algo: 3\ndata: [1]\nbackbone: x\nrun: null\nseed: {a: [1]}"),
    "keys that are no text": content("1: 2\nnull: 3\n2026-01-01: 4\ndata: {1: {2: 3}}"),
    "values of all kinds": content(
        "algo: {inner_lr: 2026-01-01, b: !!binary aGk=, c: !!set {x}, d: .nan, e: .inf, f: [{2026-01-01: 1}], "
        f"g: {LONG}, h: {'9' * 400}}}"
    ),
    "control characters": content('algo: {inner_lr: "\\e[2J\\0", root: "a\\nb"}'),
    "interpolations without an end": content("algo: {inner_lr: '${algo.inner_lr}', x: '${', y: '${a:}'}"),
}
METRICS = {
    **ANY,
    "a list a line": content("[]\n[]\n[]\n"),
    "a number a line": content("1\n2\n3\n"),
    "no iteration": content('{"train/mse": 1}\n' * 3),
    "iteration is text": content('{"iteration": "1"}\n' * 3),
    "iteration is null": content('{"iteration": null}\n' * 3),
    "iteration is true": content('{"iteration": true}\n' * 3),
    "iteration of 400 digits": content('{"iteration": 1' + "0" * 400 + ', "train/mse": 1}\n' + '{"iteration": 1}\n'),
    "nested too deeply": content("[" * 100_000 + "\n" + '{"iteration": 1}\n'),
    "an html page": content("<!DOCTYPE html>\n<html>\n</html>\n"),
    "one line of all": content('{"iteration": 1, "train/mse": 1}' * 20 + "\n" + '{"iteration": 1}\n'),
}
# A number is missing or in vain; the line is one.
ODD_METRICS = {
    "values are text": content('{"iteration": 1, "train/mse": "low", "val/mse": []}\n' * 3),
    "NaN and infinity": content('{"iteration": 1, "train/mse": NaN, "val/mse": Infinity}\n' * 3),
    "iterations backwards": content("".join(f'{{"iteration": {-n}, "train/mse": 1}}\n' for n in range(5))),
    "a value of 400 digits": content('{"iteration": 1, "train/mse": 1' + "0" * 400 + "}\n"),
}


def arrays(**values: Any) -> Harm:
    """The file holds other arrays."""

    def act(path: Path) -> None:
        np.savez(path, **({"headline_step": np.int64(1), "mse": np.ones((20, 4))} | values))

    return act


def member(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> Harm:
    """A member of the archive has other content."""

    def act(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(name, data)

    return act


def header(shape: str, descr: str = "'<f8'") -> bytes:
    """The beginning of an array's file."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def encrypted(path: Path) -> None:
    """The flag of encryption is set in both headers of a member."""
    member("mse.npy", header("(2,)") + bytes(16))(path)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def unknown_method(path: Path) -> None:
    """The member is compressed by a method that nobody has."""
    member("mse.npy", header("(2,)") + bytes(16))(path)
    data = bytearray(path.read_bytes())
    data[8] = 77
    data[data.index(b"PK\x01\x02") + 10] = 77
    path.write_bytes(data)


def one_array(path: Path) -> None:
    opened = io.BytesIO()
    np.save(opened, np.ones(3))
    path.write_bytes(opened.getvalue())


def bomb(path: Path) -> None:
    """A member says that it holds three gigabytes."""
    member("mse.npy", header("(2,)") + bytes(16))(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (3 << 30).to_bytes(4, "little")
    path.write_bytes(data)


EPISODES = {
    **ANY,
    "missing": lambda path: path.unlink(),
    "one array": one_array,
    "no archive": content(b"PK half"),
    "an archive of nothing": content(b"PK\x05\x06" + bytes(18)),
    "encrypted": encrypted,
    "compressed by an unknown method": unknown_method,
    "no array in it": member("mse.npy", b"text"),
    "a header only": member("mse.npy", header("(20, 4)")),
    "more than any memory": member("mse.npy", header(f"({10**9}, {10**9})")),
    "a header that is no header": member("mse.npy", header("('a',)")),
    "a header that is code": member("mse.npy", header("__import__('os')")),
    "objects": arrays(mse=np.array([{"a": 1}], dtype=object)),
    "text": arrays(mse=np.array([["a"] * 4] * 20)),
    "complex numbers": arrays(mse=np.ones((20, 4), complex)),
    "three axes": arrays(mse=np.ones((2, 3, 4))),
    "one number": arrays(mse=np.float64(1)),
    "no tasks": arrays(mse=np.ones((0, 4))),
    "a step that is none": arrays(headline_step=np.float64("nan")),
    "a step too far": arrays(headline_step=np.int64(4)),
    "a negative step": arrays(headline_step=np.int64(-1)),
    "several steps": arrays(headline_step=np.arange(3)),
    "NaN on a task": arrays(mse=np.full((20, 4), np.nan)),
    "infinity on a task": arrays(mse=np.full((20, 4), np.inf)),
    "another metric": member("accuracy.npy", header("()") + bytes(8)),
    "other tasks than the result's": arrays(mse=np.ones((7, 4))),
    "a bomb": bomb,
}
