"""The order of the data as a function of a count: a run can go on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from rheostat.core.errors import InputError


class ResumableSampler(Sampler[list[int]]):
    """Batches of indices whose order follows from (seed, epoch); its state is one count.

    Give it to a `DataLoader` as `batch_sampler`. Each pass yields what is left of an epoch; the
    next goes on with the next epoch. The order of an epoch is the stable sort of the indices by the
    raw output of numpy's Philox generator with the key (seed, epoch), a stream that numpy promises
    never to change: it depends on no library's version, global generator or number of workers.

    A loader with workers draws batches ahead of the loop: what was handed out is more than what was
    trained on. So a loop saves `state_dict(batches)` with its own count of batches consumed.

    Args:
        length: the number of samples, at least one batch.
        batch: samples in a batch, over all ranks together.
        seed: of the order.
        shuffle: False keeps the order of the data.
        drop_last: leave out the last batch of an epoch where it is smaller.
        rank, ranks: this process's share: of each batch every `ranks`-th sample from `rank` on. The
            batches are the same for any number of ranks that divides `batch`.

    Raises:
        InputError: a number out of its range.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not 1 <= batch <= length:
            raise InputError(f"sampler: batch={batch}: should be 1 to length={length}")
        if not 0 <= rank < ranks or batch % ranks:
            raise InputError(
                f"sampler: rank={rank}, ranks={ranks}, batch={batch}: rank should be below ranks, "
                "and batch a multiple of ranks"
            )
        if not 0 <= seed < 1 << 64:
            raise InputError(f"sampler: seed={seed}: should be 0 or more and below 2**64")
        self._share = slice(rank, None, ranks)
        self._order = {
            "length": length,
            "batch": batch,
            "seed": seed,
            "shuffle": shuffle,
            "drop_last": drop_last,
        }
        self._per_epoch = length // batch if drop_last else -(-length // batch)
        self._batches = 0
        self._left_out: dict[int, int] = {}
        """Samples that do not come again, and the first epoch without each."""

    @property
    def epoch(self) -> int:
        """The epoch, from 0, of the next batch."""
        return self._batches // self._per_epoch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        """What is left of this epoch."""
        epoch, size = self.epoch, self._order["batch"]
        indices = self.indices(epoch)
        while self.epoch == epoch:
            begin = self._batches % self._per_epoch * size
            self._batches += 1
            yield indices[begin : begin + size][self._share].tolist()

    def indices(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """All indices in the order of an epoch.

        Where samples are left out, the first of the others fill their places at the end: an epoch
        keeps its length.
        """
        length = self._order["length"]
        order = np.arange(length)
        if self._order["shuffle"]:
            key = np.array([self._order["seed"], epoch], np.uint64)
            order = np.argsort(np.random.Philox(key=key).random_raw(length), kind="stable")
        without = [index for index, since in self._left_out.items() if since <= epoch]
        return np.resize(order[~np.isin(order, without)], length) if without else order

    def leave_out(self, number: int) -> None:
        """From the next epoch on, leave out the samples of the batch of this number, from 0.

        Raises:
            InputError: it has not been handed out yet, or no sample would be left.
        """
        if not 0 <= number < self._batches:
            raise InputError(f"sampler: batch {number}: {self._batches} were handed out so far")
        epoch, place = divmod(number, self._per_epoch)
        size = self._order["batch"]
        samples = self.indices(epoch)[place * size : (place + 1) * size].tolist()
        # Epochs that were begun keep their order: a resumed run must find it again.
        since = (self._batches - 1) // self._per_epoch + 1
        more = {index: since for index in samples if index not in self._left_out}
        if len(self._left_out) + len(more) >= self._order["length"]:
            raise InputError(f"sampler: without batch {number} no sample would be left")
        self._left_out |= more

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """The state after `batches` batches of this run and those before it [all handed out]."""
        left_out = [[*pair] for pair in self._left_out.items()]
        count = self._batches if batches is None else batches
        return {**self._order, "batches": count, "left_out": left_out}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, on any number of ranks.

        Raises:
            InputError: it is of another order of the data; says what differs.
        """
        saved = {**state}
        left_out: list[tuple[int, int]] = saved.pop("left_out", [])
        wanted = {**self._order, "batches": saved.get("batches")}
        differ = [
            f"{key} {saved.get(key)!r}, here {wanted.get(key)!r}"
            for key in sorted({*saved, *wanted})
            if saved.get(key) != wanted.get(key)
        ]
        count = saved.get("batches")
        if differ or not isinstance(count, int) or count < 0:
            said = ", ".join(differ) or f"batches {count!r}"
            raise InputError(f"the sampler's state is of another order of the data: saved {said}")
        self._batches = count
        self._left_out = dict(left_out)
