"""Where data sets are looked for."""

from pathlib import Path

from metarun.data.roots import data_roots


def test_roots(monkeypatch, tmp_path):
    monkeypatch.delenv("METARUN_DATA", raising=False)
    assert data_roots(tmp_path) == [tmp_path]
    assert data_roots(None)[0] == Path("data") and len(data_roots(None)) == 2
    monkeypatch.setenv("METARUN_DATA", str(tmp_path / "named"))
    assert data_roots(None) == [tmp_path / "named"]
    assert data_roots(tmp_path) == [tmp_path]
