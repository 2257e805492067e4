"""What comes after a run's numbers may fail."""

from __future__ import annotations

import errno

from metarun.experiment.attempts import Attempts


def test_what_fails_is_said_in_a_line_and_kept_with_its_traceback(tmp_path, capsys):
    attempt = Attempts(tmp_path)
    assert attempt("a sum", lambda: 1 + 1) == 2 and attempt.failed == []
    assert attempt("step_curve.png", lambda: 1 / 0) is None
    assert attempt.failed == ["step_curve.png: ZeroDivisionError: division by zero"]
    assert capsys.readouterr().err.count("\n") == 1
    assert "Traceback" in (tmp_path / "metarun.log").read_text()


def test_on_a_full_disk_the_failures_own_report_does_not_fail(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    attempt = Attempts(tmp_path)
    attempt("roc.png", full)
    assert "No space left" in attempt.failed[0] and "No space left" in capsys.readouterr().err
