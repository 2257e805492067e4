"""Where a run is recorded is read as it was written, and damage is as nothing."""

import pytest

from metarun.tracking.begun import read_begun, write_begun


def test_what_is_written_is_read(tmp_path):
    write_begun(tmp_path / "new" / "mlflow.json", {"uri": "sqlite:///x", "other": 3})
    assert read_begun(tmp_path / "new" / "mlflow.json", ("uri", "other", "none")) == {"uri": "sqlite:///x"}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"uri": 3}', "[" * 100_000])
def test_damage_is_as_nothing(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    assert read_begun(tmp_path / "file.json", ("uri",)) == {} == read_begun(tmp_path / "none", ("uri",))
