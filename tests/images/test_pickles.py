"""Pickles: arrays and plain containers are read, anything else is refused and not run."""

import os
import pickle
import random
import warnings

import numpy as np
import pytest

from metarun.images.pickles import load_arrays
from metarun.tasks import DataError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_containers_are_read(tmp_path, protocol):
    data = {"image_data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "class_dict": {"n01": [0, 1]}}
    data |= {"scalar": np.int64(3), "set": {1}, "bytes": b"\x00\xff", "nested": ((1.5, None), [True])}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data, protocol))
    contents = load_arrays(tmp_path / "x.pkl")
    assert np.array_equal(contents.pop("image_data"), data.pop("image_data")) and contents == data


def test_pickles_of_numpy_1_are_read(tmp_path):
    old = pickle.dumps(np.arange(5), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core" in old
    (tmp_path / "x.pkl").write_bytes(old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_arrays(tmp_path / "x.pkl").tolist() == [0, 1, 2, 3, 4]


class Payload:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("hidden", ["plain", "in an object array"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, protocol, hidden):
    mark = tmp_path / "it ran"
    payload = Payload(os.system, f"touch '{mark}'")
    data = payload if hidden == "plain" else np.array([payload, None], dtype=object)
    raw = pickle.dumps({"image_data": data}, protocol)
    (tmp_path / "x.pkl").write_bytes(raw)
    with pytest.raises(DataError, match=r"x\.pkl is refused: it asks for posix\.system"):
        load_arrays(tmp_path / "x.pkl")
    assert not mark.exists()
    pickle.loads(raw)  # the payload is a real one
    assert mark.exists()


@pytest.mark.parametrize("call", [eval, exec, getattr, __import__, np.load, np.fromfile])
def test_other_names_are_refused(tmp_path, call):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Payload(call, "0")))
    with pytest.raises(DataError, match="it asks for"):
        load_arrays(tmp_path / "x.pkl")


class State:
    """Pickled as a call of `numpy.dtype` whose state is set to anything."""

    def __init__(self, spec, state):
        self.spec, self.state = spec, state

    def __reduce__(self):
        return np.dtype, (self.spec, False, True), self.state


class Contents:
    """Pickled as an array whose state is anything, as `numpy.ndarray.__reduce__` does it."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), self.state


class Reduced:
    """Pickled as a call, with a state if it is given one."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


PLAIN = (3, "|", None, None, None, -1, -1, 0)
CORRUPTING = [
    (3, "|", None, ("a",), {"a": (np.dtype("u1"), 1 << 40)}, 1, 1, 0),  # a field far outside
    (3, "|", None, None, None, 1 << 30, 1, 0),  # an item of a gigabyte
    (3, "|", None, None, None, 1, 1, 63),  # flags of objects: bytes are taken for addresses
    (3, "|", (np.dtype("u1"), (1 << 40,)), None, None, 1, 1, 0),  # a subarray
    (3, "|", None, (), {}, -1, -1, 0),
    (4, "|", None, None, None, -1, -1, 0, {}),
    (3, "|", None, None, None, -1, -1),
    ([],),
    None,
    "",
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("state", CORRUPTING)
def test_a_dtype_has_the_state_of_a_plain_one_or_is_refused(tmp_path, protocol, state):
    """NumPy's `__setstate__` believes whatever it is given, and then reads and writes outside of its memory."""
    for dtype in (State("V8", state or ()), State("u1", state or ())):
        array = Contents(1, (2,), dtype, False, b"\1\2")
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"image_data": array}, protocol))
        with pytest.raises(DataError, match=r"x\.pkl is refused: it asks for an array of dtype '(V8|u1)'"):
            load_arrays(tmp_path / "x.pkl")


@pytest.mark.parametrize("spec", ["O8", "V8", "M8", "m8", "u1,u1", "O", "S0", "", "u16", 3, None, ("u1", 4)])
def test_other_dtypes_are_refused(tmp_path, spec):
    for pickled in (Contents(1, (1,), State(spec, PLAIN), False, b"\1" * 8), Contents(1, (1,), 5, False, b"1")):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(pickled))
        with pytest.raises(DataError, match=r"x\.pkl is refused: "):
            load_arrays(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "state",
    [
        (1, (1 << 40,), State("u1", PLAIN), False, b"1"),
        (1, (-1,), State("u1", PLAIN), False, b"1"),
        (1, (2,), State("u1", PLAIN), False, b"1"),
        (1, [1], State("u1", PLAIN), False, b"1"),
        (1, (True,), State("u1", PLAIN), False, b"1"),
        (1, (1,) * 40, State("u1", PLAIN), False, b"1"),
        (1, (1,), State("u1", PLAIN), False, [1]),
        (1, (1,), State("u1", PLAIN), False, None),
        (1, (1,), State("u1", PLAIN)),
    ],
)
def test_an_array_has_as_many_bytes_as_its_shape_or_is_refused(tmp_path, state):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Contents(*state)))
    with pytest.raises(DataError, match=r"x\.pkl is refused: "):
        load_arrays(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "value",
    [
        Reduced(np.ndarray, ((1 << 30,), "u1")),
        Reduced(bytearray, (1 << 40,)),
        Reduced(np._core.multiarray.scalar, (State("u1", PLAIN), b"12")),
        Reduced(np._core.numeric._frombuffer, (b"1", State("f8", PLAIN), (1,), "C")),
        Reduced(np._core.numeric._frombuffer, (3, State("u1", PLAIN), (1,), "C")),
    ],
)
def test_calls_with_other_arguments_are_refused(tmp_path, value):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=r"x\.pkl is refused: "):
        load_arrays(tmp_path / "x.pkl")


def test_a_pickle_changes_nothing_of_the_reader(tmp_path):
    """BUILD with attributes of a class: it would change what the next pickle is read by."""
    hostile = b"\x80\x02cnumpy\nndarray\nN}X\x05\x00\x00\x00plaincbuiltins\nset\ns\x86b."
    (tmp_path / "x.pkl").write_bytes(hostile)
    with pytest.raises(DataError, match=r"it sets _NdarrayName\.plain"):
        load_arrays(tmp_path / "x.pkl")
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(np.arange(3)))
    assert load_arrays(tmp_path / "y.pkl").tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["?", "u1", "<i4", ">i4", ">f8", "<f2", "c16", "S3", "<U4", ">U4"])
def test_plain_dtypes_in_any_order_are_read(tmp_path, protocol, dtype):
    for array in (
        np.arange(6).reshape(2, 3).astype(dtype),
        np.zeros((0, 3), dtype),
        np.asfortranarray(np.ones((2, 3), dtype)),
    ):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(array, protocol))
        read = load_arrays(tmp_path / "x.pkl")
        assert np.array_equal(read, array) and read.shape == array.shape
        assert read.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


@pytest.mark.slow
def test_damage_is_named_whatever_it_is(tmp_path):
    """300 kinds of flipped bytes, in all protocols: an error, or some value, and no crash. Seed 0."""
    rng = random.Random(0)
    data = {"image_data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "class_dict": {"n01": [0, 1]}}
    for n in range(300):
        raw = bytearray(pickle.dumps(data, n % 6))
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path / "x.pkl").write_bytes(raw)
        try:
            load_arrays(tmp_path / "x.pkl")
        except DataError:
            pass


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"\n <!DOCTYPE html><html>", "a web page"), (b"<html><body>", "a web page"), (b"", "an empty file")],
)
def test_a_download_that_failed_is_told_as_such(tmp_path, content, what):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.pkl is refused: it is {what}, not a pickle\. Download it again"):
        load_arrays(tmp_path / "x.pkl")


@pytest.mark.parametrize("damage", [b"", b"<!DOCTYPE html>", pickle.dumps(np.arange(1000))[:400]])
def test_a_damaged_pickle_is_named(tmp_path, damage):
    (tmp_path / "x.pkl").write_bytes(damage)
    with pytest.raises(DataError, match=r"x\.pkl is refused"):
        load_arrays(tmp_path / "x.pkl")
