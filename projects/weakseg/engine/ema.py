"""An exponential moving average of a model's parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from weakseg.weights import without_extra_state


class ModelEMA:
    """Averages the parameters and buffers in `model.state_dict()`: after update n (from 1), average +=
    (1 - d) (value - average) with d = min(decay, n / (9 + n)), so that a short run does not consist of its random
    start. Integer buffers are copied. Extra state, whose size changes, has no average and stays in the model as it is.

    The count of updates is part of `state_dict`. `model` is the unwrapped one, the same in every call.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(
                f"SOLVER.EMA.DECAY: expected 0 <= decay < 1; found {decay}. Usual values are 0.99 to 0.9999."
            )
        self.decay = decay
        self.reset(model)

    def reset(self, model: nn.Module) -> None:
        """Start again from the present values of `model`."""
        self.updates = 0
        self.average: dict[str, Tensor] = {name: value.clone() for name, value in _tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the values after an optimiser step."""
        self.updates += 1
        decay = min(self.decay, self.updates / (9 + self.updates))
        averages, values = [], []
        for name, value in _tensors(model).items():
            if value.is_floating_point():
                averages.append(self.average[name])
                values.append(value)
            else:
                self.average[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    @contextmanager
    @torch.no_grad()
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within the context `model` has the averaged values; afterwards its own again."""
        state = _tensors(model)
        own = {name: value.clone() for name, value in state.items()}
        try:
            for name, value in state.items():
                value.copy_(self.average[name])
            yield
        finally:
            for name, value in state.items():
                value.copy_(own[name])

    def state_dict(self) -> dict:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        """Names and shapes must be those of the model; the checkpointer has compared them."""
        self.updates = state["updates"]
        for name, value in self.average.items():
            value.copy_(state["average"][name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return without_extra_state(model.state_dict())
