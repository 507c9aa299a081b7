"""A model that labels images by their names, a loader of names, and a run of both as one of several processes."""

import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from weakseg.data.loader import MappedRecords
from weakseg.labels import ClassOrder
from weakseg.pseudo_labels import make_pseudo_labels

SIZE = (2, 3)
ORDER = ClassOrder.of(["cat", "background", "dog"])
MADE_BY = "a stub"


class NameModel:
    """Image 7.jpg has class 7 mod 3 everywhere. `seen`: the numbers of the images it was asked for."""

    def __init__(self, keys=("sem_seg",), delay=0.0, fails_at=None):
        self.keys, self.delay, self.fails_at = keys, delay, fails_at
        self.seen = []
        self.mode = None

    def train(self, mode):
        self.mode = mode

    def pseudo_labels(self, batch):
        (sample,) = batch
        number = int(Path(sample["file_name"]).stem)
        self.seen.append(number)
        time.sleep(self.delay)
        if number == self.fails_at:
            raise FileNotFoundError(f"{number}: expected evidence; found none. Make it.")
        made = {
            "cams": {"0": torch.full(SIZE, number / 100)},
            "prototypes": {"prototype": torch.full((1, 4), number / 8), "prototype_label": torch.tensor([number])},
            "sem_seg": torch.full(SIZE, number % 3),
        }
        return [{key: made.get(key) for key in self.keys}]


def name_of(record, generator):
    return {"file_name": record["file_name"], "height": SIZE[0], "width": SIZE[1]}


def name_loader(count, workers=0):
    records = [{"file_name": f"photos/{number}.jpg"} for number in range(count)]
    return DataLoader(
        MappedRecords(records, name_of, seed=0),
        sampler=[(0, index) for index in range(count)],
        collate_fn=list,
        num_workers=workers,
    )


def make(model, folder, count, made_by=MADE_BY, workers=0):
    return make_pseudo_labels(model, name_loader(count, workers), folder, order=ORDER, provenance=made_by)


def share(folder, count):
    """One process of several: the images that it was asked for, and what it returned."""
    model = NameModel(("sem_seg", "prototypes"))
    result = make(model, folder, count)
    return model.seen, result
