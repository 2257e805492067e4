"""The benchmark's sides compute the same: losses and meta-gradient of the same tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts.benchmark.sides import ROWS, fixed_batch, make_side, task_list

DISTINCT = ["sinusoid-5", "maml", "fomaml", "anil-data", "protonet-data", "mini"]


def computed(name: str, side: str, tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    row = ROWS[name]._replace(tasks=2, sampled=False)
    library, batch = make_side(row, side, None, tmp_path), fixed_batch(row)
    losses = library.losses(task_list(batch) if side == "learn2learn" else batch)
    return losses, torch.cat([p.grad.flatten() for p in library.parameters])


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("side", ["limit", "learn2learn"])
@pytest.mark.parametrize("name", DISTINCT)
def test_every_side_computes_what_ours_does(name, side, tmp_path):
    ours, our_gradient = computed(name, "eager", tmp_path)
    losses, gradient = computed(name, side, tmp_path)
    assert losses.shape == (2,) and our_gradient.norm() > 0
    torch.testing.assert_close(losses, ours, rtol=1e-9, atol=1e-12)
    assert (gradient - our_gradient).norm() < 1e-9 * our_gradient.norm()


@pytest.mark.slow
@pytest.mark.data
def test_both_pipelines_sample_a_meta_batch(tmp_path, real_data):
    """Images of Omniglot, laid out as files for learn2learn."""
    from scripts.benchmark.sides import lay_out_images, learn2learn_pipeline, our_pipeline

    row = ROWS["anil-data"]._replace(tasks=2)
    lay_out_images(str(real_data), tmp_path)
    theirs, ours = learn2learn_pipeline(row, tmp_path)(), our_pipeline(row, str(real_data))()
    for examples, wanted in zip((e for task in theirs for e in task), [*ours, *ours], strict=True):
        assert examples.x.shape == wanted.x.shape[1:] and examples.y.shape == wanted.y.shape[1:]
        assert examples.y.bincount().tolist() == [1] * row.ways
        assert 0 <= examples.x.min() and examples.x.max() <= 1


def test_without_omniglot_it_says_where_it_looked(tmp_path):
    from scripts.benchmark.sides import lay_out_images

    with pytest.raises(SystemExit, match=f"no Omniglot in {tmp_path}.*--data"):
        lay_out_images(str(tmp_path), tmp_path)
