"""The benchmark's tables say what was measured."""

from __future__ import annotations

import pytest

from scripts.benchmark import tables


@pytest.mark.parametrize(
    ("ratio", "bar", "maximum", "words"),
    [(31.0, 30, False, "reaches"), (29.0, 30, False, "MISSES"), (1.2, 1.3, True, "within"), (1.4, 1.3, True, "MISSES")],
)
def test_a_verdict(ratio, bar, maximum, words):
    assert words in tables.verdict(ratio, bar, maximum)


def test_learners_stand_beside_learn2learns_own():
    cell = {"setting": "sinusoid", "sample_ms": 0.1, "growth_mb": 3.0}
    results = [{"algo": "maml", "step_ms": 2.0, **cell}, {"algo": "learn2learn/maml", "step_ms": 16.0, **cell}]
    results += [{"algo": algo, "setting": name, "refused": "no"} for algo in ("maml", "learn2learn/maml")
                for name in list(tables.SETTINGS)[1:]]  # fmt: skip
    results += [{"algo": "broken", "setting": name, "failed": "Traceback"} for name in tables.SETTINGS]
    _, _, *lines = tables.learners_table(results).splitlines()
    assert lines == [
        "| maml | 2.0 (0.1; 3) |  |  | 8.0 |",
        "| learn2learn/maml | 16.0 (0.1; 3) |  |  |  |",
        "| broken | FAILED | FAILED | FAILED |  |",
    ]


def test_memory_by_micro_batch():
    result = {"tasks": 32, "inner_steps": 5, "micro_batch": 4, "growth_mb": 120.4, "ms": 88.8}
    assert tables.memory_table([result]).splitlines()[-1] == "| 32 | 5 | 4 | 120 | 89 |"
