"""Which images form which batch of training: the same for any number of workers and processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
from torch.utils.data import Sampler


class GlobalBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of keys (epoch, index), one rank's slice of each global batch.

    Each epoch is a permutation drawn from (seed, epoch). With `aspect_ratio_grouping` a global batch is all landscape
    or all portrait, decided from `sizes` before anything is loaded; images that fill no batch wait for the next epoch.
    So global batches depend on nothing but (sizes, batch size, seed), and `start` skips some without loading.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        aspect_ratio_grouping: bool = True,
        shuffle: bool = True,
    ):
        """sizes (N, 2): height and width of each image; batch_size: images of a global batch, over all ranks;
        start: global batches to skip."""
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH: expected a positive multiple of the {world_size} processes; found {batch_size}."
            )
        if seed < 0:
            raise ValueError(f"SEED: expected a number >= 0 once training starts; found {seed}. Set SEED, or draw one.")
        if len(sizes) == 0:
            raise ValueError("The training set has no image; check DATASETS.TRAIN.")
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.shuffle = shuffle
        sizes = np.asarray(sizes)
        # Height first: group 1 is landscape.
        self._groups = (sizes[:, 1] > sizes[:, 0]).astype(int) * aspect_ratio_grouping

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch_size // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        for batch in islice(self._global_batches(), self.start, None):
            yield batch[mine]

    def _global_batches(self) -> Iterator[list[tuple[int, int]]]:
        waiting: tuple[list, list] = ([], [])
        for epoch in count():
            for index in self._order(epoch):
                group = waiting[self._groups[index]]
                group.append((epoch, index))
                if len(group) == self.batch_size:
                    yield group.copy()
                    group.clear()

    def _order(self, epoch: int) -> list[int]:
        images = len(self._groups)
        if not self.shuffle:
            return list(range(images))
        # The images' own generators are seeded from (seed, epoch, index) with index < images.
        return np.random.default_rng((self.seed, epoch, images)).permutation(images).tolist()
