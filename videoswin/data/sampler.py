"""Which clips make up each batch: decided by the seed, the epoch and the batch's number, whoever asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from videoswin._errors import InputError
from videoswin._text import plural
from videoswin.data.batch import Draw


class BatchSampler(Sampler[list[Draw]]):
    """Batches of draws, one epoch at an iteration, from wherever `load_state_dict` puts it.

    Every rank sees its own part of the same batch, so that N ranks learn from what one would. An epoch's last
    draws that do not fill a batch are left out; shuffling leaves out others each time.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """length: items in the dataset; batch_size: items in a batch of all ranks together.

        weights: how often each item is drawn, relatively and with replacement; None is each once an epoch.
        ValueError if the batch is larger than the dataset or does not divide among the ranks.
        """
        if not 1 <= batch_size <= length:
            raise InputError(
                f"a batch of {batch_size} cannot be drawn from {length} items: lower data.batch_size"
            )
        if batch_size % world_size:
            raise InputError(
                f"a batch of {plural(batch_size, 'item')} does not divide among {world_size} processes"
            )
        if weights is not None and len(weights) != length:
            raise InputError(f"there are {len(weights)} weights for {length} items")
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.weights = None if weights is None else np.asarray(weights, float) / np.sum(weights)
        self.rank, self.world_size = rank, world_size
        self.epoch, self.batch = 0, 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        """The rest of this epoch; the next iteration is the next epoch."""
        epoch, first = self.epoch, self.batch
        self.epoch, self.batch = epoch + 1, 0
        draws = self._draws(epoch)
        for batch in range(first, len(self)):
            whole = draws[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield whole[self.rank :: self.world_size]

    def _draws(self, epoch: int) -> list[Draw]:
        """All draws of an epoch; one item drawn again is another draw."""
        drawn: Counter[int] = Counter()
        draws = []
        for item in self._order(epoch).tolist():
            draws.append(Draw(epoch, item, drawn[item]))
            drawn[item] += 1
        return draws

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        if self.weights is not None:
            return rng.choice(self.length, size=self.length, p=self.weights)
        return rng.permutation(self.length) if self.shuffle else np.arange(self.length)

    def state_dict(self) -> dict[str, int]:
        """Where the next iteration begins. How far this one is, only the loop knows: workers fetch ahead."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration there: `batch` batches into epoch `epoch`."""
        self.epoch, self.batch = state["epoch"], state["batch"]
