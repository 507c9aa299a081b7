"""A regression of six numbers in place of a segmenter, and a trainer for it: all of the engine, none of the images."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from itertools import count

import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn

from weakseg.engine import Trainer, load_config

DATASET = "toy_engine"
MetadataCatalog.get(DATASET).set(
    thing_classes=["cat", "dog"],
    stuff_classes=["cat", "dog", "grass"],
    thing_colors=[(255, 0, 0), (0, 255, 0)],
    stuff_colors=[(255, 0, 0), (0, 255, 0), (0, 0, 255)],
    thing_dataset_id_to_contiguous_id={1: 0, 2: 1},
    stuff_dataset_id_to_contiguous_id={3: 2},
)


class ToyHead(nn.Module):
    prepare = None

    def __init__(self, classes: int):
        super().__init__()
        self.classify = nn.Linear(6, classes)
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))

    def after_step(self) -> None:
        self.iteration += 1

    def start_anew(self) -> None:
        self.iteration.zero_()


class ToyModel(nn.Module):
    """Two mean losses of a batch: squared error of the sum of the class scores, and their mean absolute value."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.backbone = nn.Linear(6, 6)
        self.head = ToyHead(classes)

    def parameter_groups(self) -> list[dict]:
        return [
            {"params": list(self.backbone.parameters()), "lr_mult": 0.5, "decay_mult": 1.0},
            {"params": list(self.head.parameters()), "lr_mult": 1.0, "decay_mult": 0.0},
        ]

    def forward(self, batch: list[dict]):
        numbers = torch.stack([sample["image"] for sample in batch])
        scores = self.head.classify(torch.tanh(self.backbone(numbers)))
        if not self.training:
            return scores
        target = torch.stack([sample["target"] for sample in batch])
        return {"loss_sum": ((scores.sum(1) - target) ** 2).mean(), "loss_size": scores.abs().mean()}


def sample(index: int) -> dict:
    generator = torch.Generator().manual_seed(index)
    image = torch.randn(6, generator=generator)
    return {"image": image, "target": image.sum().sin(), "file_name": f"{index}.jpg"}


class ToyTrainer(Trainer):
    """Global batch i holds the samples i * IMS_PER_BATCH, ...; `test` gives the sum of all weights as its metric."""

    @classmethod
    def build_model(cls, cfg):
        return ToyModel().to(cfg.MODEL.DEVICE)

    @classmethod
    def build_train_loader(cls, cfg, *, prepare=None, start=0):
        share = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        first = comm.get_rank() * share
        for batch in count(start):
            index = batch * cfg.SOLVER.IMS_PER_BATCH + first
            yield [sample(i) for i in range(index, index + share)]

    @classmethod
    def test(cls, cfg, model, *, folder="inference"):
        assert not any(module.training for module in model.modules()) or folder
        return {"toy": {"sum": float(sum(parameter.detach().sum() for parameter in model.parameters()))}}


def toy_config(folder, *opts):
    data = ["DATASETS.TRAIN", (DATASET,), "DATASETS.TEST", (DATASET,)]
    fixed = [*data, "OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu", "SEED", 3]
    solver = ["SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 6, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 0]
    return load_config("", [*fixed, *solver, "SOLVER.BASE_LR", 0.05, *opts])


@contextmanager
def loggers_as_before():
    """Takes away what `setup` hangs on the loggers: handlers of files and of a captured console."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "weakseg")]
    before = [(list(logger.handlers), logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before):
        logger.handlers[:] = handlers
        logger.setLevel(level)


def train(folder, *opts, resume: bool = False) -> ToyTrainer:
    trainer = ToyTrainer(toy_config(folder, *opts))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def train_in_process(folder: str, opts: list) -> None:
    """For `launch`: importable, and leaves its weights behind."""
    train(folder, *opts)
