"""Every learner's outer step, as the benchmark times it."""

from __future__ import annotations

from scripts.benchmark.learners import outer_steps


def test_outer_steps_are_timed_with_their_data():
    (result,) = outer_steps("maml", "sinusoid", 0.01, None)
    assert result["repetitions"] >= 1 and result["inner_steps"] >= 1
    assert result["step_ms"] > result["sample_ms"] > 0


def test_what_an_algorithm_cannot_do_is_refused():
    (result,) = outer_steps("protonet", "sinusoid", 0.01, None)
    assert "cannot run on data=sinusoid" in result["refused"]
    (result,) = outer_steps("scratch", "sinusoid", 0.01, None)
    assert result == {"refused": "not trained"}
