"""Held-out tasks and the seeds of streams."""

from __future__ import annotations

import torch
import toy

from metarun.sampling import stream_generator, stream_seed
from metarun.tasks import BLOCK


def test_streams_have_seeds_of_their_own():
    seeds = {stream_seed(*names) for names in [(0, "noise"), (1, "noise"), (0, "tasks/flat"), (0, "n", "oise")]}
    assert len(seeds) == 4
    assert stream_seed(0, "noise") == stream_seed("0", "noise") < 2**63


def test_a_stream_repeats():
    draws = [torch.rand(3, generator=stream_generator("cpu", 7, "tasks")) for _ in range(2)]
    assert torch.equal(*draws)


def test_held_out_blocks_are_fixed_and_different():
    a, b = toy.sinusoid(), toy.sinusoid()
    assert torch.equal(a.eval_block("test", "episodes", 3).query.y, b.eval_block("test", "episodes", 3).query.y)
    blocks = {(p, i): a.eval_block(p, "episodes", i).support.x.sum().item() for p in ("val", "test") for i in range(3)}
    assert len(set(blocks.values())) == 6
    assert len(a.eval_block("test", "episodes", 0).support.x) == BLOCK


def test_loss_and_metric_go_with_the_kind():
    assert (toy.sinusoid().metric, toy.Blobs().metric) == ("mse", "accuracy")
    assert toy.Blobs().higher_is_better and not toy.sinusoid().higher_is_better
