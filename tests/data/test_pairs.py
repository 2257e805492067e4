"""The laws of pairs: balanced, two images of one class or one of each of two, of classes that belong to the part."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numbered_images import ODDS, Toy, class_of, generator, numbered, numbers
from scipy.stats import chisquare

from metarun.data.pairs import OmniglotPairs, SyntheticPairs, Verification
from metarun.images.sampler import Sampler
from metarun.images.store import Images
from metarun.tasks import BLOCK, DataError

COUNTS = pytest.mark.parametrize("counts", [[10] * 8, [4, 10, 6, 2, 5, 10, 8, 7]], ids=["equal", "unequal"])
SPLITS = ("train", "val", "test")


class ToyPairs(Verification, Toy):
    """Images that say which they are; the parts hold other numbers."""

    def load(self, part):
        images = numbered([20] * 60)
        first = 400 * SPLITS.index(part)
        return Images(
            images.pixels[first : first + sum(self.counts)], numbered(self.counts).names, torch.tensor(self.counts)
        )


def toy(counts=(20,) * 20, **changes):
    return ToyPairs(**{"counts": list(counts), "pairs": 8, "pair_batch_size": 6, "device": "cpu"} | changes)


def sampled(counts, tasks=40, batch=12, seed=3):
    return Sampler(numbered(counts), torch.device("cpu"), None, None).pairs(tasks, batch, generator(seed))


@COUNTS
def test_half_of_the_pairs_are_of_one_class(counts):
    pairs = sampled(counts)
    assert pairs.x.shape == (40, 12, 2, 1, 1, 2) and pairs.x.dtype == torch.float32
    assert pairs.y.shape == (40, 12) and pairs.y.dtype == torch.int64
    assert pairs.y.sum(1).tolist() == [6] * 40  # in every task, not on average
    first, second = class_of(numbers(pairs.x), counts).unbind(-1)
    assert torch.equal(pairs.y, (first == second).long())


@COUNTS
def test_no_pair_holds_an_image_twice(counts):
    first, second = numbers(sampled(counts, tasks=500).x).unbind(-1)
    assert (first != second).all()


@COUNTS
def test_classes_and_images_of_pairs_are_uniform(counts):
    pairs = sampled(counts, tasks=2000, batch=20)
    drawn = numbers(pairs.x)
    same, different = drawn[pairs.y == 1], drawn[pairs.y == 0]
    assert len(same) == len(different) == 20_000
    assert chisquare(torch.bincount(class_of(same[:, 0], counts), minlength=8).numpy()).pvalue > ODDS
    cells = class_of(different, counts) @ torch.tensor([8, 1])
    seen = torch.bincount(cells, minlength=64).view(8, 8)
    assert chisquare(seen[~torch.eye(8, dtype=torch.bool)].numpy()).pvalue > ODDS  # ordered choices of two classes
    for images in (same[:, 0], same[:, 1], different[:, 0], different[:, 1]):
        seen = torch.bincount(images, minlength=sum(counts)).numpy()
        expected = np.repeat(len(images) / 8 / np.array(counts), counts)
        assert chisquare(seen, expected).pvalue > ODDS


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
    with pytest.raises(ValueError, match="stream: wanted one of pairs, got 'episodes'"):
        data.sample("train", "episodes", 1, generator())
    scores, y = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 0, 0])
    torch.testing.assert_close(data.loss(scores, y), F.binary_cross_entropy(scores.sigmoid(), y.float()))


def test_each_part_has_its_own_images():
    """Identities that were trained on never come up in the test."""
    seen = [set(numbers(toy().sample(part, "pairs", 100, generator()).x).flatten().tolist()) for part in SPLITS]
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
    with pytest.raises(ValueError, match=rf"data\.{name}: wanted an even whole number of at least 2, got {value!r}"):
        toy(**{name: value})


@pytest.mark.parametrize("counts", [[20], [20, 1, 20]])
def test_classes_that_make_no_pairs_are_refused(counts):
    with pytest.raises(DataError, match="at least 2 classes and 2 images of each; part 'test' .* has"):
        toy(counts).sample("test", "pairs", 1, generator())


def test_synthetic_pairs_without_any_file():
    classes = {"train_classes": 5, "val_classes": 4, "test_classes": 3}
    data = SyntheticPairs(
        glyph_seed=0, drawings=3, partition="glyphs", pairs=4, pair_batch_size=6, device="cpu", **classes
    )
    assert data.sample("train", "pairs", 2, generator()).x.shape == (2, 6, 2, *data.in_shape("pairs"))
    names = [set(data.classes(part)) for part in SPLITS]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])


@pytest.mark.data
@pytest.mark.parametrize("partition", ["small"])
def test_omniglots_test_pairs_are_of_characters_unseen_in_training(real_root, partition):
    data = OmniglotPairs(
        root=real_root, partition=partition, partition_seed=0, pairs=4, pair_batch_size=4, device="cpu"
    )
    characters = [{name.rpartition("/rot")[0] for name in data.classes(part)} for part in SPLITS]
    assert not (characters[0] & characters[1] or characters[0] & characters[2] or characters[1] & characters[2])
    assert {name.rpartition("/")[2] for name in data.classes("test")} == {"rot000"}
