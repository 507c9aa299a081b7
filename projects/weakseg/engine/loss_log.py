"""The losses of the last steps, on their way from the device to the event storage without stopping the device."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor


@dataclass
class _Entry:
    iteration: int
    names: list[str]
    values: Tensor
    """(N,) on the host; on a GPU run complete once `copied` has happened."""
    copied: torch.cuda.Event | None
    images: list[str]

    def losses(self) -> dict[str, float]:
        if self.copied is not None:
            self.copied.synchronize()
        return dict(zip(self.names, self.values.tolist()))


class LossLog:
    """Collects the losses of every (micro-)batch, refuses those that are not finite, and writes them in one go.

    A GPU's numbers are copied in the background and looked at one batch later, when they have long arrived.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._checked = 0
        self._data_time: dict[int, float] = {}

    def add(self, losses: dict[str, Tensor], images: Iterable[str], iteration: int) -> None:
        """losses: scalars by name, of one micro-batch of `images` (file names). Raises as `check` does: on the CPU for
        these losses, on a GPU for those before."""
        values = torch.stack([loss.detach().float().reshape(()) for loss in losses.values()])
        copied = None
        # To the CPU without blocking: the copy lands in pinned memory and is complete when the event has happened.
        host = values.to("cpu", non_blocking=True)
        if values.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
            self.check()
        self._entries.append(_Entry(iteration, list(losses), host, copied, list(images)))
        if not values.is_cuda:
            self.check()

    def add_data_time(self, seconds: float, iteration: int) -> None:
        """Seconds that step `iteration` waited for its images."""
        self._data_time[iteration] = seconds

    def check(self) -> None:
        """Raises FloatingPointError, naming loss, iteration and images, when one not looked at yet is not finite."""
        for entry in self._entries[self._checked :]:
            wrong = {name: value for name, value in entry.losses().items() if not math.isfinite(value)}
            if wrong:
                raise FloatingPointError(
                    f"iteration {entry.iteration}: expected finite losses; found "
                    f"{', '.join(f'{name} = {value}' for name, value in wrong.items())} on the images "
                    f"{', '.join(entry.images)}. Look at their labels, or lower SOLVER.BASE_LR."
                )
        self._checked = len(self._entries)

    def write(self, storage: EventStorage) -> None:
        """Collective: put the mean over micro-batches and ranks of every loss, their sum `total_loss`, and the longest
        `data_time` of any rank into the main process' storage, under the iteration they belong to; forget them."""
        self.check()
        losses_of_ranks = comm.gather(self._mean_losses())
        times_of_ranks = comm.gather(self._data_time)
        self._entries, self._checked, self._data_time = [], 0, {}
        if not comm.is_main_process():
            return
        for iteration in losses_of_ranks[0]:
            losses = _mean([losses[iteration] for losses in losses_of_ranks])
            storage.put_scalars(cur_iter=iteration, **losses, total_loss=sum(losses.values()))
            storage.put_scalar("data_time", max(times[iteration] for times in times_of_ranks), cur_iter=iteration)

    def _mean_losses(self) -> dict[int, dict[str, float]]:
        by_iteration: dict[int, list[dict[str, float]]] = {}
        for entry in self._entries:
            by_iteration.setdefault(entry.iteration, []).append(entry.losses())
        return {iteration: _mean(losses) for iteration, losses in by_iteration.items()}


def _mean(losses: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each name; a name that some lack counts there as 0."""
    names = dict.fromkeys(name for part in losses for name in part)
    return {name: sum(part.get(name, 0.0) for part in losses) / len(losses) for name in names}
