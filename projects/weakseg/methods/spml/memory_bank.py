"""The prototypes of the last iterations, as constant segments for the losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weakseg.methods.spml.segments import Prototypes


class MemoryBank(nn.Module):
    """First in, first out, of the whole sets of prototypes of `length` iterations (card section 3.8; none with 0).

    Only what the losses read is kept: vectors, classes and image tags, detached. The content is the same in every
    process. It is part of the state dict, as one tensor (rows, 2 + C + K) of (age, class, vector, tags).
    """

    _place: Tensor

    def __init__(self, *, length: int, channels: int, num_classes: int):
        super().__init__()
        self.length, self.channels, self.num_classes = length, channels, num_classes
        self._iterations: list[Tensor] = []
        self.register_buffer("_place", torch.zeros(0), persistent=False)

    def append(self, prototypes: Prototypes) -> None:
        """Add the prototypes of an iteration, of all processes; the oldest set goes when there are too many. A set
        without prototypes is not counted."""
        if not len(prototypes.semantic) or not self.length:
            return
        vector = prototypes.vector.detach()
        rows = torch.cat([prototypes.semantic[:, None].to(vector), vector, prototypes.tags.to(vector)], 1)
        self._iterations = [*self._iterations, rows][-self.length :]

    def prototypes(self) -> Prototypes | None:
        """All of them, the oldest first, belonging to no image of a batch; None when there is none."""
        if not self._iterations:
            return None
        rows = torch.cat(self._iterations)
        nothing = torch.full((len(rows),), -1, dtype=torch.long, device=rows.device)
        return Prototypes(
            vector=rows[:, 1 : 1 + self.channels],
            semantic=rows[:, 0].long(),
            region=nothing,
            image=nothing,
            tags=rows[:, 1 + self.channels :].bool(),
            propagated=nothing,
        )

    def get_extra_state(self) -> Tensor:
        width = 2 + self.channels + self.num_classes
        rows = [torch.cat([rows.new_full((len(rows), 1), age), rows], 1) for age, rows in enumerate(self._iterations)]
        return torch.cat([torch.zeros(0, width, device=self._place.device), *rows])

    def set_extra_state(self, state: Tensor) -> None:
        width = 2 + self.channels + self.num_classes
        if state.ndim != 2 or state.shape[1] != width:
            raise ValueError(
                f"Memory bank: expected (rows, {width}) numbers for {self.num_classes} image tags and prototypes of "
                f"length {self.channels}; found {tuple(state.shape)}. Load a checkpoint of the same classes."
            )
        state = state.to(self._place.device)
        iterations = [state[state[:, 0] == age, 1:] for age in state[:, 0].unique()]
        self._iterations = iterations[-self.length :] if self.length else []

    def _apply(self, fn, recurse: bool = True) -> MemoryBank:
        self._iterations = [fn(rows) for rows in self._iterations]
        return super()._apply(fn, recurse)
