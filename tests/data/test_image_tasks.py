"""The laws of the sampler. Images here are two bytes that say which image they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_images import ODDS, Toy, class_of, generator, numbered, numbers
from scipy.stats import chisquare

from metarun.images.sampler import Sampler
from metarun.images.store import Images
from metarun.sampling import draw_below, draw_distinct
from metarun.tasks import BLOCK, DataError


@given(
    rows=st.integers(1, 40),
    population=st.integers(1, 300),
    k=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_drawn_numbers_are_distinct_and_in_range(rows, population, k, seed):
    k = min(k, population)
    drawn = draw_distinct(rows, population, k, generator(seed))
    assert drawn.shape == (rows, k) and drawn.dtype == torch.int64
    assert drawn.min() >= 0 and drawn.max() < population
    assert all(len(set(row)) == k for row in drawn.tolist())


@given(counts=st.lists(st.integers(3, 20), min_size=1, max_size=30), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_drawn_numbers_stay_below_their_rows_count(counts, seed):
    drawn = draw_below(torch.tensor(counts), max(counts), 3, generator(seed))
    assert (drawn < torch.tensor(counts)[:, None]).all()
    assert all(len(set(row)) == 3 for row in drawn.tolist())


@pytest.mark.parametrize("population", [5, 7, 8, 12])  # 2 * 2 * 2 = 8 divides the two ways to draw
def test_every_ordered_choice_is_equally_likely(population):
    drawn = draw_distinct(60_000, population, 2, generator(1))
    seen = torch.bincount(drawn[:, 0] * population + drawn[:, 1], minlength=population**2)
    seen = seen.view(population, population)
    assert seen.diagonal().sum() == 0
    pairs = seen[~torch.eye(population, dtype=torch.bool)]
    assert chisquare(pairs.numpy()).pvalue > ODDS


def test_rows_are_independent():
    drawn = draw_distinct(40_000, 6, 1, generator(2)).flatten()
    pairs = torch.bincount(drawn[:-1] * 6 + drawn[1:], minlength=36)
    assert chisquare(pairs.numpy()).pvalue > ODDS


@pytest.mark.parametrize("counts", [[20] * 30, [7, 20, 9, 300, 8, 11, 50, 7, 9, 12]], ids=["equal", "unequal"])
@pytest.mark.parametrize("shots, queries, ways", [(1, 1, 2), (1, 6, 5), (5, 2, 10), (6, 1, 3)])
def test_an_episode(counts, shots, queries, ways):
    tasks = 40
    task = Sampler(numbered(counts), torch.device("cpu"), None, None).episodes(
        tasks, ways, shots, queries, generator(3)
    )
    assert task.support.x.shape == (tasks, ways * shots, 1, 1, 2) and task.support.x.dtype == torch.float32
    assert task.query.x.shape == (tasks, ways * queries, 1, 1, 2)
    assert task.support.y.dtype == task.query.y.dtype == torch.int64
    assert task.support.y.is_contiguous() and task.query.y.is_contiguous()
    support, query = numbers(task.support.x), numbers(task.query.x)
    for t in range(tasks):
        assert task.support.y[t].tolist() == [way for way in range(ways) for _ in range(shots)]
        assert task.query.y[t].tolist() == [way for way in range(ways) for _ in range(queries)]
        drawn = support[t].tolist() + query[t].tolist()
        assert len(set(drawn)) == len(drawn)  # no image twice: support and query are disjoint
        of = class_of(support[t], counts)[::shots]
        assert len(of.unique()) == ways
        assert torch.equal(class_of(support[t], counts), of[task.support.y[t]])
        assert torch.equal(class_of(query[t], counts), of[task.query.y[t]])


@pytest.mark.parametrize("counts", [[10] * 8, [4, 10, 6, 10, 5, 10, 8, 7]], ids=["equal", "unequal"])
def test_classes_and_images_are_uniform(counts):
    sampler = Sampler(numbered(counts), torch.device("cpu"), None, None)
    task = sampler.episodes(20_000, 2, 1, 2, generator(4))
    for x in (task.support.x, task.query.x):
        drawn = numbers(x).flatten()
        classes = torch.bincount(class_of(drawn, counts), minlength=8)
        # Both of a task's classes differ, and so do a class's two queries: the counts vary less than those of
        # independent draws, and the test is on the safe side.
        assert chisquare(classes.numpy()).pvalue > ODDS
        seen = torch.bincount(drawn, minlength=sum(counts))
        expected = len(drawn) / 8 / torch.tensor(counts, dtype=torch.float64)
        assert chisquare(seen.numpy(), expected.repeat_interleave(torch.tensor(counts)).numpy()).pvalue > ODDS


@pytest.mark.parametrize("counts", [[10] * 8, [4, 10, 6, 10, 5, 10, 8, 7]], ids=["equal", "unequal"])
def test_the_flat_stream(counts):
    sampler = Sampler(numbered(counts), torch.device("cpu"), None, None)
    batch = sampler.batches(500, 40, generator(5))
    assert batch.x.shape == (500, 40, 1, 1, 2) and batch.y.shape == (500, 40) and batch.y.dtype == torch.int64
    drawn = numbers(batch.x)
    assert torch.equal(batch.y, class_of(drawn, counts))
    assert chisquare(torch.bincount(drawn.flatten(), minlength=sum(counts)).numpy()).pvalue > ODDS


def test_normalisation():
    pixels = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8, generator=generator())
    images = Images(pixels, ("a", "b"), torch.tensor([3, 3]))
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    x = Sampler(images, torch.device("cpu"), mean, std).images(torch.arange(6))
    wanted = (pixels.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(x, wanted)
    plain = Sampler(images, torch.device("cpu"), None, None).images(torch.arange(6))
    torch.testing.assert_close(plain, pixels.float() / 255)
    assert pixels.equal(images.pixels)


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
    wanted["split"] = "toy"
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


@pytest.mark.parametrize("value", [0, -1, 1.5, [2, 1], [0, 3], [1, 2.5], [1, True], "no"])
def test_a_bad_range_of_training_shots_is_named(sizes, value):
    with pytest.raises(ValueError, match=r"data\.train_shots: wanted a whole number .* or a range"):
        Toy([20] * 30, **sizes | {"train_shots": value})


def test_the_largest_number_of_training_shots_must_fit(sizes):
    with pytest.raises(DataError, match=r"data.train_shots \+ data.train_queries: a task takes 20 \+ 1 = 21 images"):
        Toy([20] * 30, **sizes | {"train_shots": [1, 20]}).sample("train", "episodes", 1, generator())


@pytest.mark.parametrize("name", ["ways", "shots", "queries", "train_ways", "train_queries", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "5", True, None])
def test_a_bad_number_is_named(sizes, name, value):
    with pytest.raises(ValueError, match=rf"data\.{name}: wanted a whole number .* got {value!r}"):
        Toy([20] * 30, **sizes | {name: value})


def test_too_many_ways(sizes):
    with pytest.raises(DataError, match=r"data\.ways: wanted at most the 4 classes of part 'val' .* got 5"):
        Toy([20] * 4, **sizes | {"ways": 5}).sample("val", "episodes", 1, generator())
    with pytest.raises(DataError, match=r"data\.train_ways: .* got 6"):
        Toy([20] * 4, **sizes | {"train_ways": 6}).sample("train", "episodes", 1, generator())


def test_classes_with_too_few_images_are_named(sizes):
    toy = Toy([20, 4, 20, 3], **sizes | {"shots": 2, "queries": 3})
    with pytest.raises(DataError, match=r"2 \+ 3 = 5 images of a class, .* class1 \(4\), class3 \(3\)"):
        toy.prepare()


def test_all_images_of_a_class_can_be_used(sizes):
    task = Toy([3] * 4, **sizes | {"ways": 4}).sample("val", "episodes", 5, generator())
    drawn = torch.cat([numbers(task.support.x), numbers(task.query.x)], 1).sort().values
    assert torch.equal(drawn, torch.arange(12).repeat(5, 1))


def test_an_episode_and_a_flat_batch_in_one_draw(sizes):
    """Both of the same part: the flat images and their classes are the training part's, never another one's."""
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
    for part in (drawn.support, drawn.query):
        of = class_of(numbers(part.x), [20] * 30)
        assert torch.equal(of, drawn.classes.gather(1, part.y))
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


def test_given_classes_and_merged_ones_exclude_each_other(sizes):
    toy = Toy([20] * 30, **sizes, classes_per_way=2)
    with pytest.raises(DataError, match="data.classes_per_way: wanted 1 where tasks are drawn of given classes, got 2"):
        toy.sample("train", "episodes_of_classes", 2, generator())


def test_unknown_words_are_refused(sizes):
    toy = Toy([20] * 4, **sizes)
    with pytest.raises(ValueError, match="stream: wanted one of episodes, batches, .*, got 'oracle'"):
        toy.sample("train", "oracle", 1, generator())
    with pytest.raises(ValueError, match="part: wanted one of train, val, test, got 'valid'"):
        toy.sample("valid", "episodes", 1, generator())


def test_training_images_are_changed_at_random_and_no_others(sizes):
    plain, changed = (Toy([20] * 30, **sizes, **extra) for extra in ({}, {"augment": ["flip"]}))
    for stream in ("episodes", "batches", "pairs"):
        for part in ("train", "val", "test"):
            one, other, again = (toy.sample(part, stream, 30, generator(1)) for toy in (plain, changed, changed))
            x = [(batch.support.x if stream == "episodes" else batch.x) for batch in (one, other, again)]
            assert torch.equal(x[1], x[2])
            assert torch.equal(x[0], x[1]) == (part != "train")
            assert torch.equal(x[0].sort(-1).values, x[1].sort(-1).values)  # mirrored, whichever
    with pytest.raises(ValueError, match=r"data\.augment"):
        Toy([20] * 30, **sizes, augment=["turn"])


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
            here = batch.y[task] == way
            assert here.sum() == 5 and len(of[task][here].unique()) == 1
            assert batch.scored[task][here].nonzero().flatten().tolist() == [2]  # after two shots
        assert len(of[task].unique()) == 3
    at_place = torch.stack([(batch.y == way).sum(0) for way in range(3)])
    assert all(chisquare(counts).pvalue > ODDS for counts in at_place.T.numpy())  # every label as likely at each place


def test_instances_must_suffice_and_be_there(sizes):
    with pytest.raises(DataError, match="data.instances: a class that is judged after 3 shots .* got 3"):
        Toy([20] * 12, **sizes | {"shots": 3}, instances=3).sample("val", "sequences", 1, generator())
    with pytest.raises(DataError, match="data.instances: wanted at most the 8 images .* got 9"):
        Toy([8] * 12, **sizes | {"shots": 1, "queries": 1, "train_queries": 1}, instances=9).sample(
            "val", "sequences", 1, generator()
        )
    with pytest.raises(ValueError, match=r"data\.instances"):
        Toy([20] * 12, **sizes, instances=1)


def test_classes_can_be_put_together(sizes):
    """A way is then several classes, each with its shots and queries; which go together is drawn anew for each task."""
    toy = Toy([20] * 30, **sizes | {"ways": 3, "shots": 2, "queries": 4}, classes_per_way=2)
    task = toy.sample("test", "episodes", 50, generator())
    for part, n in ((task.support, 2), (task.query, 4)):
        assert torch.equal(part.y[0], torch.arange(3).repeat_interleave(2 * n))
        of = class_of(numbers(part.x), [20] * 30).view(50, 3, 2, n)
        assert (of == of[..., :1]).all() and all(len(row.unique()) == 6 for row in of)
    assert toy.describe()["classes_per_way"] == 2 and toy.outputs("test") == 3
    with pytest.raises(DataError, match="wanted at most the 4 classes .* got 3 of 2 merged classes"):
        Toy([20] * 4, **sizes | {"ways": 3}, classes_per_way=2).sample("test", "episodes", 1, generator())
    with pytest.raises(ValueError, match=r"data\.merged"):
        Toy([20] * 30, **sizes, classes_per_way=0)
