"""The laws of tasks out of classes. Images here are two bytes that say which image they are."""

import pytest
import torch
from numbered_images import ODDS, Toy, class_of, generator, numbers
from referees import chisquare
from torch.utils import _pytree as pytree

from metarun.data.class_tasks import ClassTasks
from metarun.data.pairs import Verification
from metarun.images.sampler import Sampler
from metarun.tasks import BLOCK, DataError, TaskAndBatch

AT_LEAST_2 = ("ways", "train_ways", "instances")


def test_the_seed_decides_the_tasks(sizes):
    toy = Toy([20] * 30, **sizes)
    for stream in toy.streams:
        one, same, other = (toy.sample("train", stream, 8, generator(s)) for s in (1, 1, 2))
        x = [(b.query.x if "episodes" in stream else b.x) for b in (one, same, other)]
        assert torch.equal(x[0], x[1]) and not torch.equal(x[0], x[2])


def test_the_global_generator_is_left_alone(sizes):
    toy = Toy([20] * 30, **sizes)
    before = torch.get_rng_state()
    toy.sample("train", "episodes", 8, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_held_out_blocks_are_the_same_for_every_run(sizes):
    first, second = Toy([20] * 30, **sizes), Toy([20] * 30, **sizes | {"train_ways": 7, "train_queries": 9})
    second.sample("train", "episodes", 3, generator(9))
    blocks = [first.eval_block("test", "episodes", b) for b in range(3)]
    again = [second.eval_block("test", "episodes", b) for b in reversed(range(3))][::-1]
    for one, same in zip(blocks, again, strict=True):
        assert one.query.x.shape[0] == BLOCK
        assert torch.equal(one.query.x, same.query.x) and torch.equal(one.support.x, same.support.x)
    assert not torch.equal(blocks[0].query.x, blocks[1].query.x)
    assert not torch.equal(blocks[0].query.x, first.eval_block("val", "episodes", 0).query.x)


def test_training_has_its_own_ways_and_queries(sizes):
    toy = Toy([20] * 30, **sizes | {"ways": 3, "queries": 4, "train_ways": 6, "train_queries": 2})
    assert toy.sample("train", "episodes", 2, generator()).query.y.shape == (2, 12)
    assert toy.sample("val", "episodes", 2, generator()).query.y.shape == (2, 12)
    assert toy.outputs("train") == 6 and toy.outputs("test") == 3 and toy.outputs("train", "batches") == 30
    wanted = {"ways": 3, "shots": 1, "queries": 4, "train_ways": 6, "train_shots": 1, "train_queries": 2}
    wanted["partition"] = "toy"
    assert toy.describe() == wanted


def test_training_shots_may_be_a_range(sizes):
    """Each meta-batch has one number of them, all appear, and the test has its own."""
    toy = Toy([20] * 30, **sizes | {"shots": 2, "train_shots": [1, 3]})
    drawn = [toy.sample("train", "episodes", 4, generator(s)).support.y.shape for s in range(60)]
    counts = [drawn.count((4, 2 * shots)) for shots in (1, 2, 3)]
    assert sum(counts) == 60 and min(counts) > 8
    assert toy.sample("test", "episodes", 4, generator()).support.y.shape == (4, 4)
    assert toy.describe()["train_shots"] == [1, 3] and not toy.fixed_shapes
    fixed = Toy([20] * 30, **sizes | {"train_shots": 5})
    assert fixed.sample("train", "episodes", 4, generator()).support.y.shape == (4, 10)
    assert fixed.describe()["train_shots"] == 5 and fixed.fixed_shapes


@pytest.mark.parametrize("value", [0, -1, 1.5, [2, 1], [0, 3], [1, 2.5], [1, True], "no", [], [1, 2, 3]])
def test_a_bad_range_of_training_shots_is_named(sizes, value):
    with pytest.raises(
        ValueError, match=r"data\.train_shots must be an integer of at least 1, or a range .*; got "
    ) as caught:
        Toy([20] * 30, **sizes | {"train_shots": value})
    assert str(caught.value).endswith(f"got {value!r}")


def test_the_largest_number_of_training_shots_must_fit(sizes):
    with pytest.raises(
        DataError, match=r"data.train_shots \+ data.train_queries must be at most the images .*; got 20 \+ 1 = 21"
    ):
        Toy([20] * 30, **sizes | {"train_shots": [1, 20]}).sample("train", "episodes", 1, generator())


@pytest.mark.parametrize("name", [*AT_LEAST_2, *("shots", "queries", "train_queries", "batch_size", "classes_per_way")])
@pytest.mark.parametrize("value", [0, -1, 1.5, "5", True, None])
def test_a_bad_number_is_named(sizes, name, value):
    least = 2 if name in AT_LEAST_2 else 1
    with pytest.raises(ValueError, match=rf"data\.{name} must be an integer of at least {least}; got {value!r}"):
        Toy([20] * 30, **sizes | {name: value})


def test_too_many_ways(sizes):
    with pytest.raises(
        DataError, match=r"data\.ways must be at most 4, as split 'val' \(partition 'toy'\) has 4 classes; got 5$"
    ):
        Toy([20] * 4, **sizes | {"ways": 5}).sample("val", "episodes", 1, generator())
    with pytest.raises(DataError, match=r"data\.train_ways must be at most 4, .*; got 6$"):
        Toy([20] * 4, **sizes | {"train_ways": 6}).sample("train", "episodes", 1, generator())


def test_classes_with_too_few_images_are_named(sizes):
    toy = Toy([20, 4, 20, 3], **sizes | {"shots": 2, "queries": 3})
    with pytest.raises(DataError, match=r"the images of each class; got 2 \+ 3 = 5, .*: class1 \(4\), class3 \(3\)"):
        toy.prepare()


def test_a_stream_needs_no_more_than_it_draws(sizes):
    """Classes too small for episodes serve mini-batches; a split that no stream is drawn from is not loaded."""

    class Lacking(Toy):
        def load(self, split):
            assert split != "val", "nobody asked for it"
            return super().load(split)

    toy = Lacking([20, 1, 20], **sizes)
    toy.prepare({"train": {"batches"}})
    assert toy.sample("train", "batches", 3, generator()).x.shape == (3, 5, 1, 1, 2) and len(toy.classes("train")) == 3
    toy.prepare({})
    for stream, says in (
        ("episodes", r"the images of each class; got 1 \+ 1 = 2, .*class1 \(1\)"),
        ("episodes_and_batches", r"the images of each class; got 1 \+ 1 = 2"),
        ("episodes_of_classes", r"the images of each class; got 1 \+ 1 = 2"),
        ("pairs", "at least 2 classes and 2 images of each to draw pairs from; got 3 classes of 1 to 20 images"),
        ("sequences", r"data\.instances must be at most 1"),
    ):
        with pytest.raises(DataError, match=says):
            toy.prepare({"train": {stream}})
        with pytest.raises(DataError, match=says):
            toy.sample("train", stream, 2, generator())
    with pytest.raises(DataError, match=r"data\.train_ways must be at most 3"):
        Toy([20] * 3, **sizes | {"train_ways": 4}).prepare({"train": {"sequences"}})


def test_all_images_of_a_class_can_be_used(sizes):
    task = Toy([3] * 4, **sizes | {"ways": 4}).sample("val", "episodes", 5, generator())
    drawn = torch.cat([numbers(task.support.x), numbers(task.query.x)], 1).sort().values
    assert torch.equal(drawn, torch.arange(12).repeat(5, 1))


def test_an_episode_and_a_mini_batch_in_one_draw(sizes):
    """Both are of the same split: the mini-batch holds images and classes of the training split."""
    toy = Toy([20] * 30, **sizes)
    pair = toy.sample("train", "episodes_and_batches", 8, generator(1))
    episodes = toy.sample("train", "episodes", 8, generator(1))
    assert torch.equal(pair.support.x, episodes.support.x) and torch.equal(pair.query.x, episodes.query.x)
    assert pair.batch.x.shape == (8, 5, 1, 1, 2) and pair.batch.y.shape == (8, 5)
    assert torch.equal(pair.batch.y, class_of(numbers(pair.batch.x), [20] * 30))
    assert toy.outputs("train", "episodes_and_batches") == toy.outputs("train")


def test_an_episode_tells_its_classes(sizes):
    toy = Toy([20] * 30, **sizes | {"train_ways": 3, "train_shots": [1, 3]})
    drawn = toy.sample("train", "episodes_of_classes", 8, generator(1))
    assert drawn.classes.shape == (8, 3) and drawn.classes.dtype == torch.int64
    for examples in (drawn.support, drawn.query):
        of = class_of(numbers(examples.x), [20] * 30)
        assert torch.equal(of, drawn.classes.gather(1, examples.y))
    assert toy.outputs("train", "episodes_of_classes") == 3


@pytest.mark.parametrize("counts", [[20] * 12, [9, 20, 8, 11, 30, 7, 12, 9]], ids=["equal", "unequal"])
def test_episodes_of_given_classes(counts, sizes):
    """Classes in the order given, images drawn anew, all equally likely."""
    toy = Toy(counts, **sizes | {"train_shots": 2, "train_queries": 3})
    classes = torch.tensor([[4, 1], [0, 7]]).repeat(2000, 1)
    drawn = toy.sample_classes("train", classes, generator(1))
    assert torch.equal(drawn.classes, classes)
    assert drawn.support.y.shape == (4000, 4) and drawn.query.y.shape == (4000, 6)
    shown = torch.cat([numbers(drawn.support.x), numbers(drawn.query.x)], 1)
    of = class_of(shown, counts)
    assert torch.equal(of, classes.gather(1, torch.cat([drawn.support.y, drawn.query.y], 1)))
    assert all(len(set(row)) == 10 for row in shown[:100].tolist())
    for k in (4, 1, 0, 7):
        seen = torch.bincount(numbers(drawn.query.x).flatten(), minlength=sum(counts))[class_of_all(counts) == k]
        assert len(seen) == counts[k] and chisquare(seen.numpy()).pvalue > ODDS
    again = toy.sample_classes("train", classes, generator(1))
    assert torch.equal(again.query.x, drawn.query.x)


def class_of_all(counts):
    return class_of(torch.arange(sum(counts)), counts)


def test_given_classes_and_several_to_a_way_exclude_each_other(sizes):
    toy = Toy([20] * 30, **sizes, classes_per_way=2)
    with pytest.raises(DataError, match="data.classes_per_way must be 1 where tasks are drawn of given classes; got 2"):
        toy.sample("train", "episodes_of_classes", 2, generator())


def test_unknown_words_are_refused(sizes):
    toy = Toy([20] * 4, **sizes)
    with pytest.raises(ValueError, match="stream must be one of episodes, batches, .*; got 'oracle'"):
        toy.sample("train", "oracle", 1, generator())
    with pytest.raises(ValueError, match="split must be one of train, val, test; got 'valid'"):
        toy.sample("valid", "episodes", 1, generator())


@pytest.mark.parametrize("counts", [[20] * 12, [9, 20, 8, 11, 30, 7, 12, 9]], ids=["equal", "unequal"])
def test_a_sequence_shows_each_class_equally_often_in_a_random_order(counts, sizes):
    toy = Toy(counts, **sizes | {"ways": 3, "shots": 2, "train_ways": 4}, instances=5)
    batch = toy.sample("test", "sequences", 400, generator())
    assert batch.x.shape == (400, 15, 1, 1, 2) and batch.y.shape == batch.scored.shape == (400, 15)
    assert toy.sample("train", "sequences", 2, generator()).y.shape == (2, 20)
    shown = numbers(batch.x)
    assert all(len(row.unique()) == 15 for row in shown)
    of = class_of(shown, counts)
    for task in range(50):
        for way in range(3):
            shows = batch.y[task] == way
            assert shows.sum() == 5 and len(of[task][shows].unique()) == 1
            assert batch.scored[task][shows].nonzero().flatten().tolist() == [2]  # after two shots
        assert len(of[task].unique()) == 3
    at_place = torch.stack([(batch.y == way).sum(0) for way in range(3)])
    assert all(chisquare(counts).pvalue > ODDS for counts in at_place.T.numpy())  # every label as likely at each place


def test_instances_must_suffice_and_be_there(sizes):
    with pytest.raises(DataError, match="data.instances must be above data.shots=3, .*; got 3"):
        Toy([20] * 12, **sizes | {"shots": 3}, instances=3).sample("val", "sequences", 1, generator())
    with pytest.raises(
        DataError, match="data.instances must be at most 8, the images of the smallest class of split 'val'; got 9"
    ):
        Toy([8] * 12, **sizes | {"shots": 1, "queries": 1, "train_queries": 1}, instances=9).sample(
            "val", "sequences", 1, generator()
        )
    with pytest.raises(ValueError, match=r"data\.instances"):
        Toy([20] * 12, **sizes, instances=1)


def test_classes_can_be_put_together(sizes):
    """A way is then several classes, each with its shots and queries; which go together is drawn anew for each task."""
    toy = Toy([20] * 30, **sizes | {"ways": 3, "shots": 2, "queries": 4}, classes_per_way=2)
    task = toy.sample("test", "episodes", 50, generator())
    for examples, n in ((task.support, 2), (task.query, 4)):
        assert torch.equal(examples.y[0], torch.arange(3).repeat_interleave(2 * n))
        of = class_of(numbers(examples.x), [20] * 30).view(50, 3, 2, n)
        assert (of == of[..., :1]).all() and all(len(row.unique()) == 6 for row in of)
    assert toy.describe()["classes_per_way"] == 2 and toy.outputs("test") == 3
    with pytest.raises(
        DataError, match="data.ways must be at most 2, as split 'test' .* has 4 classes; got 3 of 2 classes each"
    ):
        Toy([20] * 4, **sizes | {"ways": 3}, classes_per_way=2).sample("test", "episodes", 1, generator())
    with pytest.raises(ValueError, match=r"data\.classes_per_way"):
        Toy([20] * 30, **sizes, classes_per_way=0)


# --------------------------------------------------------------------------------- examples that are no images


class Vectors:
    """A store that is no image: example i is the vector (i, i / 2, u), u drawn when it is taken."""

    def __init__(self, counts):
        self.names = tuple(f"class{i}" for i in range(len(counts)))
        self.counts = torch.tensor(counts)
        self.table = torch.arange(sum(counts), dtype=torch.float32)[:, None] * torch.tensor([1.0, 0.5])

    def take(self, index, generator):
        return torch.cat([self.table[index], torch.rand(*index.shape, 1, generator=generator)], -1)


class VectorTasks(ClassTasks):
    partitions = ("toy",)
    noun = "vectors"

    def __init__(self, counts, **sizes):
        super().__init__(partition="toy", **sizes)
        self.counts = counts

    def in_shape(self, stream="episodes"):
        return (3,)

    def store(self, split):
        return Vectors(self.counts)


class VectorPairs(Verification, VectorTasks):
    """Pairs of them."""


STORES = pytest.mark.parametrize("counts", [[20] * 12, [9, 20, 8, 11, 30, 7, 12, 9]], ids=["equal", "unequal"])
MERGED = {"train_shots": [1, 3], "classes_per_way": 2}


def first_draw(batch):
    """What a batch takes from its store first, before the store itself draws a number."""
    return batch.support.x if hasattr(batch, "support") else batch.x


@STORES
@pytest.mark.parametrize("stream", ClassTasks.streams)
def test_a_store_of_anything_serves_every_stream(stream, counts, sizes):
    """A store decides what an example is, and not which are drawn: those are the images that the same seed draws."""
    vectors, images = (data(counts, **sizes, train_shots=[1, 3], instances=5) for data in (VectorTasks, Toy))
    for split in ("train", "val", "test"):
        batch, pictures = (data.sample(split, stream, 6, generator(3)) for data in (vectors, images))
        assert type(batch) is type(pictures) and vectors.outputs(split, stream) == images.outputs(split, stream)
        x, drawn = first_draw(batch), numbers(first_draw(pictures))
        assert x.shape == (*drawn.shape, 3) and x.dtype == torch.float32
        assert torch.equal(x[..., 0].long(), drawn) and torch.equal(x[..., 1], drawn / 2)
        labels = [[leaf for leaf in pytree.tree_leaves(b) if leaf.dtype != torch.float32] for b in (batch, pictures)]
        if not isinstance(batch, TaskAndBatch):  # whose mini-batch is drawn after the store has drawn
            assert all(map(torch.equal, *labels))
        again = vectors.sample(split, stream, 6, generator(3))
        assert all(map(torch.equal, pytree.tree_leaves(batch), pytree.tree_leaves(again)))
        block = first_draw(vectors.eval_block(split, stream, 0))
        assert block.shape[0] == BLOCK and block.shape[-1:] == vectors.in_shape(stream)


@STORES
def test_labels_are_those_of_the_vectors_drawn(counts, sizes):
    data = VectorTasks(counts, **sizes, instances=5)
    both = data.sample("train", "episodes_and_batches", 6, generator())
    assert torch.equal(both.batch.y, class_of(both.batch.x[..., 0].long(), counts))
    episode = data.sample("test", "episodes_of_classes", 6, generator())
    for examples in (episode.support, episode.query):
        assert torch.equal(class_of(examples.x[..., 0].long(), counts), episode.classes.gather(1, examples.y))
    merged = VectorTasks(counts, **sizes | MERGED).sample("train", "episodes", 6, generator())
    assert len(merged.query.x[0, :, 0].unique()) == merged.query.y.shape[1] == 4
    sequence = data.sample("val", "sequences", 6, generator())
    of = class_of(sequence.x[..., 0].long(), counts)
    assert torch.equal(sequence.y[:, None] == sequence.y[:, :, None], of[:, None] == of[:, :, None])


@STORES
def test_pairs_of_vectors_are_verified(counts):
    data = VectorPairs(counts=counts, pairs=8, pair_batch_size=6, device="cpu")
    assert (data.kind, data.streams) == ("verification", ("pairs",))
    assert data.sample("train", "pairs", 2, generator()).x.shape == (2, 6, 2, 3)
    pairs = data.sample("test", "pairs", 5, generator())
    of = class_of(pairs.x[..., 0].long(), counts)
    assert pairs.y.shape == (5, 8) and torch.equal(pairs.y == 1, of[..., 0] == of[..., 1])
    with pytest.raises(DataError, match="2 vectors of each to draw pairs from; got 2 classes of 1 to 5 vectors"):
        VectorPairs(counts=[5, 1], pairs=8, pair_batch_size=6, device="cpu").sample("test", "pairs", 1, generator())


def test_errors_call_examples_by_their_name(sizes):
    with pytest.raises(DataError, match=r"must be at most the vectors of each class; got 1 \+ 2 = 3, .*: class1 \(2\)"):
        VectorTasks([9, 2], **sizes).sample("test", "episodes", 1, generator())
    with pytest.raises(DataError, match="data.instances must be at most 8, the vectors of the smallest class"):
        VectorTasks([8, 9], **sizes, instances=9).sample("test", "sequences", 1, generator())
    assert VectorTasks([9, 9], **sizes).classes("val") == ("class0", "class1")


def test_a_sampler_needs_no_more_of_a_store_than_names_counts_and_take():
    batch = Sampler(Vectors([2, 3])).batches(50, 20, generator())
    assert torch.equal(batch.y, class_of(batch.x[..., 0].long(), [2, 3])) and len(batch.x[..., 0].unique()) == 5
