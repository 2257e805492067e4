"""The laws of pairs: balanced, two images of one class or one of each of two, of classes that belong to the split."""

import pytest
import torch
import torch.nn.functional as F
from numbered_images import Toy, generator, numbered, numbers

from metarun.data.pairs import OmniglotPairs, SyntheticPairs, Verification
from metarun.images.store import Images
from metarun.tasks import BLOCK, DataError

SPLITS = ("train", "val", "test")


class ToyPairs(Verification, Toy):
    """Images that say which they are; the splits hold other numbers."""

    def load(self, split):
        images = numbered([20] * 60)
        first = 400 * SPLITS.index(split)
        return Images(
            images.pixels[first : first + sum(self.counts)], numbered(self.counts).names, torch.tensor(self.counts)
        )


def toy(counts=(20,) * 20, **changes):
    return ToyPairs(**{"counts": list(counts), "pairs": 8, "pair_batch_size": 6, "device": "cpu"} | changes)


def test_every_image_data_set_offers_pairs_for_training(sizes):
    data = Toy([20] * 30, **sizes | {"pair_batch_size": 10})
    assert data.sample("train", "pairs", 3, generator()).x.shape == (3, 10, 2, 1, 1, 2)
    assert data.outputs("train", "pairs") == 1
    assert (data.kind, data.evaluation_stream) == ("classification", "episodes")


def test_a_task_of_verification():
    data = toy()
    assert (data.kind, data.evaluation_stream, data.streams) == ("verification", "pairs", ("pairs",))
    assert (data.metric, data.higher_is_better, data.outputs("test", "pairs")) == ("auc", True, 1)
    assert data.describe() == {"ways": None, "shots": None, "queries": None, "pairs": 8, "partition": "toy"}
    assert data.sample("train", "pairs", 2, generator()).y.shape == (2, 6)
    assert data.sample("val", "pairs", 2, generator()).y.shape == (2, 8)
    with pytest.raises(ValueError, match="stream must be one of pairs; got 'episodes'"):
        data.sample("train", "episodes", 1, generator())
    scores, y = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 0, 0])
    torch.testing.assert_close(data.loss(scores, y), F.binary_cross_entropy(scores.sigmoid(), y.float()))


def test_each_split_has_its_own_images():
    """Identities that were trained on never come up in the test."""
    seen = [set(numbers(toy().sample(split, "pairs", 100, generator()).x).flatten().tolist()) for split in SPLITS]
    for at, images in enumerate(seen):
        assert images <= set(range(400 * at, 400 * (at + 1))) and len(images) > 300


def test_held_out_pairs_are_the_same_for_every_run():
    one, other = toy().eval_block("test", "pairs", 1), toy(pair_batch_size=20).eval_block("test", "pairs", 1)
    assert one.x.shape == (BLOCK, 8, 2, 1, 1, 2)
    assert torch.equal(one.x, other.x)
    assert not torch.equal(one.x, toy().eval_block("test", "pairs", 0).x)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    toy().sample("train", "pairs", 4, generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["pairs", "pair_batch_size"])
@pytest.mark.parametrize("value", [0, -2, 3, 2.0, "4", True, None])
def test_a_bad_number_of_pairs_is_named(name, value):
    with pytest.raises(ValueError, match=rf"data\.{name} must be an even integer of at least 2; got {value!r}"):
        toy(**{name: value})


@pytest.mark.parametrize("counts", [[20], [20, 1, 20]])
def test_classes_that_make_no_pairs_are_refused(counts):
    with pytest.raises(
        DataError, match=f"split 'test' .* at least 2 classes and 2 images of each .*; got {len(counts)} classes"
    ):
        toy(counts).sample("test", "pairs", 1, generator())


def test_synthetic_pairs_without_any_file():
    classes = {"train_classes": 5, "val_classes": 4, "test_classes": 3}
    data = SyntheticPairs(
        glyph_seed=0, drawings=3, partition="glyphs", pairs=4, pair_batch_size=6, device="cpu", **classes
    )
    assert data.sample("train", "pairs", 2, generator()).x.shape == (2, 6, 2, *data.in_shape("pairs"))
    names = [set(data.classes(split)) for split in SPLITS]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("partition", ["small"])
def test_omniglots_test_pairs_are_of_characters_unseen_in_training(real_root, partition):
    data = OmniglotPairs(root=real_root, partition=partition, split_seed=0, pairs=4, pair_batch_size=4, device="cpu")
    characters = [{name.rpartition("/rot")[0] for name in data.classes(split)} for split in SPLITS]
    assert not (characters[0] & characters[1] or characters[0] & characters[2] or characters[1] & characters[2])
    assert {name.rpartition("/")[2] for name in data.classes("test")} == {"rot000"}
