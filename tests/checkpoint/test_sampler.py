"""The order of the data follows from a count alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from rheostat.checkpoint.sampler import ResumableSampler
from rheostat.core.errors import InputError


def endless(sampler: ResumableSampler) -> Iterator[list[int]]:
    """Batches, epoch after epoch."""
    while True:
        yield from sampler


def take(sampler: ResumableSampler, count: int) -> list[list[int]]:
    """The next batches."""
    return list(itertools.islice(endless(sampler), count))


@settings(max_examples=50)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**64 - 1), st.booleans(), st.booleans()
)
def test_stopping_anywhere_and_going_on_gives_the_same_batches(
    length: int, batch: int, seed: int, shuffle: bool, drop_last: bool
) -> None:
    batch = min(batch, length)

    def sampler() -> ResumableSampler:
        return ResumableSampler(length, batch, seed=seed, shuffle=shuffle, drop_last=drop_last)

    whole = take(sampler(), 12)
    for stop in range(12):
        first = sampler()
        assert take(first, stop) == whole[:stop]
        second = sampler()
        second.load_state_dict(first.state_dict())
        assert take(second, 12 - stop) == whole[stop:]
        third = sampler()
        third.load_state_dict(sampler().state_dict(batches=stop))
        assert take(third, 12 - stop) == whole[stop:]


def test_each_epoch_has_each_sample_once_in_an_order_of_its_own() -> None:
    sampler = ResumableSampler(10, 3, drop_last=False, seed=1)
    epochs = [list(itertools.chain(*sampler)) for _ in range(5)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert (len(sampler), sampler.epoch) == (4, 5)
    assert len(ResumableSampler(10, 3)) == 3
    assert take(ResumableSampler(4, 2, shuffle=False), 3) == [[0, 1], [2, 3], [0, 1]]


def test_the_order_is_uniform_over_permutations() -> None:
    counts: dict[tuple[int, ...], int] = {}
    sampler = ResumableSampler(4, 4, seed=7)
    for epoch in range(24 * 200):
        order = tuple(sampler.indices(epoch).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom: 49.7 is the 0.1 % point.
    assert sum((n - 200) ** 2 / 200 for n in counts.values()) < 49.7


EXPECTED = [2, 4, 1, 3, 6, 5, 0, 7]


def test_the_order_does_not_change_with_versions() -> None:
    # Written down once. The raw stream is the published Philox4x64-10, which numpy keeps.
    assert ResumableSampler(8, 8, seed=3).indices(2).tolist() == EXPECTED
    raw = np.random.Philox(key=np.array([3, 2], np.uint64)).random_raw(8)
    assert sorted(range(8), key=lambda i: int(raw[i])) == EXPECTED


def test_the_ranks_share_each_batch_whatever_their_number() -> None:
    whole = take(ResumableSampler(20, 6, seed=2), 7)
    for ranks in (1, 2, 3, 6):
        shares = [
            take(ResumableSampler(20, 6, seed=2, rank=r, ranks=ranks), 7) for r in range(ranks)
        ]
        merged = [sorted(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
        assert merged == [sorted(batch) for batch in whole]
    two = ResumableSampler(20, 6, seed=2, rank=1, ranks=2)
    take(two, 4)
    one = ResumableSampler(20, 6, seed=2)
    one.load_state_dict(two.state_dict())
    assert take(one, 3) == whole[4:]


def test_what_was_drawn_ahead_is_not_lost() -> None:
    sampler = ResumableSampler(50, 5, seed=4)
    drawn = take(sampler, 7)  # of which the loop got three
    other = ResumableSampler(50, 5, seed=4)
    other.load_state_dict(sampler.state_dict(batches=3))
    loader = DataLoader(TensorDataset(torch.arange(50)), batch_sampler=other)
    assert [batch.tolist() for (batch,) in loader][:4] == drawn[3:]


@pytest.mark.slow
def test_a_loader_with_workers_goes_on_from_what_was_consumed() -> None:
    data = TensorDataset(torch.arange(50))

    def loader(sampler: ResumableSampler) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(
            data, batch_sampler=sampler, num_workers=1, multiprocessing_context="spawn"
        )

    sampler = ResumableSampler(50, 5, seed=4)
    consumed = [batch.tolist() for (batch,) in itertools.islice(loader(sampler), 3)]
    ahead, exact = sampler.state_dict(), sampler.state_dict(batches=3)
    assert ahead["batches"] > 3
    other = ResumableSampler(50, 5, seed=4)
    other.load_state_dict(exact)
    consumed += [batch.tolist() for (batch,) in loader(other)]
    assert consumed == take(ResumableSampler(50, 5, seed=4), 10)


def test_another_order_is_refused_by_what_differs() -> None:
    state = ResumableSampler(50, 5, seed=4).state_dict()
    with pytest.raises(InputError, match="saved length 50, here 60, seed 4, here 5"):
        ResumableSampler(60, 5, seed=5).load_state_dict(state)
    for wrong in (-1, None, "3", 1.5):
        with pytest.raises(InputError, match="batches"):
            ResumableSampler(50, 5, seed=4).load_state_dict({**state, "batches": wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"batch": 11},
        {"seed": -1},
        {"seed": 2**64},
        {"rank": 2, "ranks": 2},
        {"ranks": 3},
        {"ranks": 0},
    ],
)
def test_bad_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="sampler: "):
        ResumableSampler(10, **{"batch": 2, **wrong})


def test_what_is_left_out_does_not_come_again_and_epochs_keep_their_length() -> None:
    sampler = ResumableSampler(20, 4, seed=3)
    first = [*sampler]
    half = take(sampler, 2)
    sampler.leave_out(1)  # of the first epoch
    sampler.leave_out(6)  # of this one, already drawn
    rest = [*sampler]
    out = {*first[1], *half[1]}
    assert sorted(itertools.chain(*half, *rest)) == list(range(20))  # this epoch was begun before
    for _ in range(3):
        epoch = [*sampler]
        assert [len(batch) for batch in epoch] == [4] * 5
        assert {*itertools.chain(*epoch)} == {*range(20)} - out


def test_left_out_samples_are_saved_with_the_epoch_they_leave() -> None:
    sampler, again = ResumableSampler(20, 4, seed=3), ResumableSampler(20, 4, seed=3)
    _ = [*sampler], next(iter(sampler))
    sampler.leave_out(2)
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert [[*sampler] for _ in range(3)] == [[*again] for _ in range(3)]


def test_only_what_was_handed_out_can_be_left_out_and_never_all() -> None:
    sampler = ResumableSampler(4, 2)
    with pytest.raises(InputError, match=r"batch 0: 0 were handed out"):
        sampler.leave_out(0)
    _ = [*sampler]
    sampler.leave_out(0)
    with pytest.raises(InputError, match=r"no sample would be left"):
        sampler.leave_out(1)
