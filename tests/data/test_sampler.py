"""Batches are decided by seed, epoch and number, are shared out among ranks, and go on from anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoswin.data.dataset import BatchSampler

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)).filter(lambda pair: pair[1] <= pair[0])


@given(sizes, st.integers(0, 5), st.booleans())
def test_an_epoch_draws_no_item_twice(size, seed, shuffle):
    length, batch = size
    drawn = [draw.item for draws in BatchSampler(length, batch, seed=seed, shuffle=shuffle) for draw in draws]
    assert len(drawn) == len(set(drawn)) == length // batch * batch
    assert set(drawn) <= set(range(length))


@given(sizes, st.data())
def test_it_goes_on_from_any_batch_as_if_it_had_not_stopped(size, data):
    length, batch = size
    whole = BatchSampler(length, batch, seed=3)
    batches = [list(whole), list(whole)]
    epoch, first = data.draw(st.integers(0, 1)), data.draw(st.integers(0, length // batch - 1))
    resumed = BatchSampler(length, batch, seed=3)
    resumed.load_state_dict({"epoch": epoch, "batch": first})
    assert list(resumed) == batches[epoch][first:]
    assert resumed.state_dict() == {"epoch": epoch + 1, "batch": 0}


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_the_ranks_share_the_batches_of_one(world_size, per_rank, batches):
    length, batch = world_size * per_rank * batches, world_size * per_rank
    alone = list(BatchSampler(length, batch, seed=1))
    shared = zip(
        *(
            BatchSampler(length, batch, seed=1, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ),
        strict=True,
    )
    for together, parts in zip(alone, shared, strict=True):
        assert all(len(part) == per_rank for part in parts)
        assert sorted(draw for part in parts for draw in part) == sorted(together)


def test_epochs_and_seeds_differ_and_repeat():
    sampler = BatchSampler(100, 10, seed=0)
    first, second = list(sampler), list(sampler)
    assert {draw.epoch for batch in second for draw in batch} == {1}
    assert [draw.item for batch in first for draw in batch] != [
        draw.item for batch in second for draw in batch
    ]
    assert list(BatchSampler(100, 10, seed=0)) == first
    assert list(BatchSampler(100, 10, seed=1)) != first


def test_without_shuffling_the_order_is_that_of_the_data():
    assert [d.item for batch in BatchSampler(6, 2, seed=0, shuffle=False) for d in batch] == list(range(6))


def test_an_item_that_is_drawn_again_in_an_epoch_is_another_draw():
    drawn = [draw for batch in BatchSampler(10, 2, seed=0, weights=[1.0] * 9 + [50.0]) for draw in batch]
    assert len({draw.item for draw in drawn}) < len(drawn)
    assert len(set(drawn)) == len(drawn)


def test_weights_decide_how_often_an_item_is_drawn():
    weights = [1 / 90] * 90 + [1 / 10] * 10  # two classes, one nine times as large
    sampler = BatchSampler(100, 10, seed=0, weights=weights)
    drawn = [draw.item for _ in range(40) for batch in sampler for draw in batch]
    assert sum(index >= 90 for index in drawn) / len(drawn) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("length", "batch", "options", "message"),
    [
        (4, 8, {}, "data.batch_size must be from 1 to the number of items, 4, got 8"),
        (4, 0, {}, "data.batch_size must be from 1 to the number of items, 4, got 0"),
        (8, 3, {"world_size": 2}, "data.batch_size must be a multiple of the 2 processes, got 3"),
        (8, 4, {"weights": [1.0]}, "weights must have one value for each of 8 items, got 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(length, batch, options, message):
    with pytest.raises(ValueError, match=message):
        BatchSampler(length, batch, seed=0, **options)
