"""A machine is named in words."""

from __future__ import annotations

from scripts.results.machine import machine, processor


def test_the_processor_is_the_one_that_the_system_names(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert processor(file) == "Some CPU @ 2 GHz"
    assert processor(tmp_path / "missing").endswith("processor")


def test_a_cpu_has_no_gpu():
    assert machine().endswith("no GPU") and " of " in machine()
