"""Which images form which batch of training: the same for any number of workers and processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
from torch.utils.data import Sampler


class GlobalBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of keys (epoch, index), one rank's share of each global batch.

    Each epoch is a permutation drawn from (seed, epoch). With `aspect_ratio_grouping` a global batch is all landscape
    or all portrait, decided from `sizes` before anything is loaded; images that fill no batch wait for the next epoch.
    So global batches depend on nothing but (sizes, batch size, seed), and `start` skips some without loading.

    In a global batch images stand by micro-batch, then rank: micro-batch k of all ranks together is micro-batch k of a
    single process.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
        start: int = 0,
        aspect_ratio_grouping: bool = True,
    ):
        """sizes (N, 2): height and width of each image; batch_size: images of a global batch, over all ranks and
        micro-batches; start: global batches to skip."""
        if batch_size < 1 or micro_batches < 1 or batch_size % (world_size * micro_batches):
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH: expected a multiple of {world_size} processes x SOLVER.ACCUMULATE = "
                f"{micro_batches}, all at least 1; found {batch_size}. Change one of the three."
            )
        if seed < 0:
            raise ValueError(f"SEED: expected a number >= 0 once training starts; found {seed}. Set SEED, or draw one.")
        if len(sizes) == 0:
            raise ValueError("DATASETS.TRAIN: expected images to train on; found none. Check the label file.")
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.micro_batches = micro_batches
        self.start = start
        sizes = np.asarray(sizes)
        # Height first: group 1 is landscape.
        self._groups = (sizes[:, 1] > sizes[:, 0]).astype(int) * aspect_ratio_grouping

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.batch_size // (self.world_size * self.micro_batches)
        firsts = range(self.rank * size, self.batch_size, self.world_size * size)
        for batch in islice(self._global_batches(), self.start, None):
            yield [key for first in firsts for key in batch[first : first + size]]

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
        # The images' own generators are seeded from (seed, epoch, index) with index < images.
        return np.random.default_rng((self.seed, epoch, images)).permutation(images).tolist()
