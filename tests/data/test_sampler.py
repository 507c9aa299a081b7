"""Global batches: a function of the seed and the sizes, cut into equal slices for the ranks."""

from itertools import islice

import numpy as np
import pytest

from weakseg.data.sampler import GlobalBatchSampler

SIZES = np.array([(30, 40), (40, 30), (30, 40), (30, 30), (40, 30), (20, 50), (30, 40)])
LANDSCAPE = {0, 2, 5, 6}


def batches(count, batch_size=2, **arguments):
    return list(islice(GlobalBatchSampler(SIZES, batch_size, **{"seed": 3, **arguments}), count))


def test_each_epoch_shows_every_image_once():
    keys = [key for batch in batches(70, batch_size=3) for key in batch]
    for epoch in range(25):
        assert sorted(index for e, index in keys if e == epoch) == list(range(len(SIZES)))


def test_batches_are_all_landscape_or_all_not():
    kinds = [{index in LANDSCAPE for _, index in batch} for batch in batches(50)]
    assert all(len(kind) == 1 for kind in kinds)
    assert {True} in kinds and {False} in kinds


def test_without_grouping_batches_follow_the_epochs_order():
    sampler = GlobalBatchSampler(SIZES, 2, seed=3, aspect_ratio_grouping=False)
    keys = [key for batch in islice(sampler, 7) for key in batch]
    assert [epoch for epoch, _ in keys] == [0] * 7 + [1] * 7
    assert any({i in LANDSCAPE for _, i in batch} == {True, False} for batch in islice(sampler, 7))


def test_grouping_keeps_the_order_within_a_group():
    arguments = {"seed": 3, "aspect_ratio_grouping": False}
    plain = [key for batch in islice(GlobalBatchSampler(SIZES, 1, **arguments), 70) for key in batch]
    grouped = [key for batch in batches(30) for key in batch]
    for is_landscape in (True, False):
        expected = [key for key in plain if (key[1] in LANDSCAPE) == is_landscape]
        found = [key for key in grouped if (key[1] in LANDSCAPE) == is_landscape]
        assert found == expected[: len(found)]


def test_seed_and_epoch_change_the_order():
    first, again, other = batches(30), batches(30), batches(30, seed=4)
    assert first == again != other
    orders = [[i for e, i in sum(batches(40, aspect_ratio_grouping=False), []) if e == epoch] for epoch in (0, 1, 2)]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_cut_the_same_global_batches(world_size):
    whole = batches(20, batch_size=4)
    parts = [batches(20, batch_size=4, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert all(len(batch) == 4 // world_size for part in parts for batch in part)
    assert [sum(slices, []) for slices in zip(*parts)] == whole


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 2), (2, 1), (2, 2), (3, 2), (2, 3)])
def test_micro_batches_of_all_ranks_are_those_of_one_process(world_size, micro_batches):
    whole = batches(9, batch_size=12)
    ranks = [
        batches(9, batch_size=12, rank=rank, world_size=world_size, micro_batches=micro_batches)
        for rank in range(world_size)
    ]
    size, share = 12 // micro_batches, 12 // micro_batches // world_size
    for batch, parts in zip(whole, zip(*ranks)):
        for k in range(micro_batches):
            together = [key for part in parts for key in part[k * share : (k + 1) * share]]
            assert together == batch[k * size : (k + 1) * size]


def test_share_of_a_rank_by_hand():
    whole = batches(1, batch_size=8)[0]
    (second,) = batches(1, batch_size=8, rank=1, world_size=2, micro_batches=2)
    assert second == [whole[2], whole[3], whole[6], whole[7]]


def test_start_skips_global_batches():
    assert batches(10, start=13) == batches(23)[13:]
    second_of_two = {"batch_size": 4, "rank": 1, "world_size": 2}
    assert batches(10, start=5, **second_of_two) == batches(15, **second_of_two)[5:]


def test_iterating_twice_gives_the_same():
    sampler = GlobalBatchSampler(SIZES, 3, seed=0)
    assert list(islice(sampler, 9)) == list(islice(sampler, 9))


def test_a_set_smaller_than_the_batch_takes_images_of_several_epochs():
    sampler = GlobalBatchSampler(np.array([(10, 20)]), 3, seed=0)
    assert next(iter(sampler)) == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 3, "world_size": 2}, "multiple of 2 processes x SOLVER.ACCUMULATE = 1, .*found 3"),
        ({"batch_size": 6, "world_size": 2, "micro_batches": 2}, "2 processes x SOLVER.ACCUMULATE = 2, .*found 6"),
        ({"batch_size": 4, "micro_batches": 0}, "1 processes x SOLVER.ACCUMULATE = 0, all at least 1; found 4"),
        ({"batch_size": 0}, "IMS_PER_BATCH.*found 0"),
        ({"seed": -1}, "SEED: expected a number >= 0.*found -1"),
    ],
)
def test_wrong_arguments_say_so(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(1, **arguments)


def test_no_image_says_so():
    with pytest.raises(ValueError, match="DATASETS.TRAIN: expected images to train on; found none"):
        GlobalBatchSampler(np.zeros((0, 2)), 2, seed=0)
