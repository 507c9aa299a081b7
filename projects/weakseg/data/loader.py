"""Loaders for training and for test: gate, filter, data set, sampler, workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from weakseg.data.catalog import dataset_metadata, dataset_names
from weakseg.data.gate import gate, has_label
from weakseg.data.mapper import WeakMapper
from weakseg.data.sampler import GlobalBatchSampler

logger = logging.getLogger(__name__)

Mapper = Callable[[dict, np.random.Generator], dict]


def build_train_loader(cfg, mapper: WeakMapper, *, start: int = 0) -> DataLoader:
    """Endless batches, lists of samples: this rank's share of `SOLVER.IMS_PER_BATCH` images, by micro-batch.

    What a global batch holds, and how it is augmented, depends on the config and the data alone, not on the number of
    workers or processes. start: global batches to skip, without loading them.
    """
    names = dataset_names(cfg, "train")
    records = gate(_training_records(names), cfg.INPUT.SUPERVISION)
    _log_what_is_seen(cfg.INPUT.SUPERVISION, mapper)
    if "semantic" not in mapper.evidence:  # which labels every image
        records = _labelled(records, names, cfg.INPUT.SUPERVISION)
    sampler = GlobalBatchSampler(
        np.array([(record["height"], record["width"]) for record in records]),
        cfg.SOLVER.IMS_PER_BATCH,
        seed=cfg.SEED,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
        micro_batches=cfg.SOLVER.ACCUMULATE,
        start=start,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
    )
    return DataLoader(
        MappedRecords(records, mapper, cfg.SEED),
        batch_sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_list,
        worker_init_fn=_one_thread,
        generator=_generator(cfg),
    )


def build_test_loader(cfg, dataset_name: str, mapper: WeakMapper) -> DataLoader:
    """Batches of one sample; over all ranks each image of the data set exactly once, in order. The samples' labels are
    what `TEST.INPUTS` allows, and expressions."""
    kinds = [name for name in cfg.TEST.INPUTS if name != "proposals"]
    records = gate(DatasetCatalog.get(dataset_name), [*kinds, "expressions"], key="TEST.INPUTS")
    if not records:
        raise ValueError(
            f"DATASETS.TEST: expected images to test on in {dataset_name}; found none. Check its label file."
        )
    return DataLoader(
        MappedRecords(records, mapper, seed=0),
        sampler=[(0, index) for index in InferenceSampler(len(records))],
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_list,
        worker_init_fn=_one_thread,
        generator=_generator(cfg),
    )


class MappedRecords(Dataset):
    """Samples by key (epoch, index). Records are kept as bytes that the workers share; each sample draws from its own
    generator, seeded from (seed, epoch, index)."""

    def __init__(self, records: list[dict], mapper: Mapper, seed: int):
        self.records = DatasetFromList(records, serialize=True)
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        return self.mapper(self.records[index], np.random.default_rng((self.seed, epoch, index)))


def _training_records(names: list[str]) -> Iterable[dict]:
    if not names:
        raise ValueError("DATASETS.TRAIN: expected at least one data set; found none. Name one, or a label file.")
    classes = [dataset_metadata(name).get("stuff_classes") for name in names]
    for name, other in zip(names, classes):
        if other != classes[0]:
            raise ValueError(
                f"DATASETS.TRAIN: expected {name} to have the classes of {names[0]}; found others. Give both label "
                "files the same categories, or train on one of them."
            )
    return (record for name in names for record in DatasetCatalog.get(name))


def _labelled(records: list[dict], names: list[str], supervision: Sequence[str]) -> list[dict]:
    kept = [record for record in records if has_label(record)]
    kinds = " or ".join(supervision) or "labels that INPUT.SUPERVISION () lets through"
    what = f"{', '.join(names)}: {len(records) - len(kept)} of {len(records)} images have no {kinds}"
    if not kept:
        raise ValueError(f"{what}; nothing to learn from. Check the label file, or set INPUT.SUPERVISION.")
    if len(kept) < len(records):
        logger.info("%s and are left out.", what)
    return kept


def _log_what_is_seen(supervision: Iterable[str], mapper: WeakMapper) -> None:
    logger.info("Supervision: %s", ", ".join(supervision) or "none but evidence")
    for name, loader in mapper.evidence.items():
        logger.info("Evidence %s: %s", name, loader.provenance)


def _generator(cfg) -> torch.Generator:
    # Without one, a loader draws the seed of its workers from the global generator.
    return torch.Generator().manual_seed(cfg.SEED)


def _as_list(samples: list[dict]) -> list[dict]:
    return samples


def _one_thread(_: int) -> None:
    # A forked child must not wait for the threads of its parent's pools.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
