"""A toy model whose state grows: what SPML's memory bank is to a segmenter."""

import torch
from torch import nn

from engine.toy import ToyModel, ToyTrainer

EXTRA = "head.memory._extra_state"


class Memory(nn.Module):
    """The largest score of each step so far, as extra state of as many numbers."""

    def __init__(self):
        super().__init__()
        self.seen = torch.zeros(0)

    def append(self, number: torch.Tensor) -> None:
        self.seen = torch.cat([self.seen, number.detach().reshape(1)])

    def get_extra_state(self) -> torch.Tensor:
        return self.seen.clone()

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.seen = state.clone()


class RememberingModel(ToyModel):
    """Its loss depends on everything that it remembers."""

    def __init__(self, *seen: float):
        super().__init__()
        self.head.memory = Memory()
        self.head.memory.seen = torch.tensor(seen)

    @property
    def seen(self) -> list[float]:
        return self.head.memory.seen.tolist()

    def forward(self, batch: list[dict]):
        result = super().forward(batch)
        if self.training:
            scores = self.head.classify(torch.tanh(self.backbone(batch[0]["image"])))
            result["loss_memory"] = (scores.max() - self.head.memory.seen.sum()).square()
            self.head.memory.append(scores.max())
        return result


class RememberingTrainer(ToyTrainer):
    @classmethod
    def build_model(cls, cfg):
        return RememberingModel().to(cfg.MODEL.DEVICE)
