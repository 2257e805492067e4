"""Pickles: arrays and plain containers are read, anything else is refused and not run."""

import os
import pickle
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


@pytest.mark.parametrize("damage", [b"", b"<!DOCTYPE html>", pickle.dumps(np.arange(1000))[:400]])
def test_a_damaged_pickle_is_named(tmp_path, damage):
    (tmp_path / "x.pkl").write_bytes(damage)
    with pytest.raises(DataError, match=r"x\.pkl is refused"):
        load_arrays(tmp_path / "x.pkl")
