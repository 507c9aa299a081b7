"""Run any head over a data set and write what it makes of each image: restartable, and shared by all processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from detectron2.utils import comm
from torch.utils.data import DataLoader
from tqdm import tqdm

from weakseg.labels import ClassOrder
from weakseg.proposals.map_folder import check_output, declare_provenance, read_provenance
from weakseg.pseudo_labels.files import RESULT_FILES, ResultFile

_WHAT = "pseudo labels"


class LabellingModel(Protocol):
    """What `make_pseudo_labels` asks of a model; see `WeaklySupervisedSegmenter.pseudo_labels`."""

    def train(self, mode: bool) -> Any: ...

    def pseudo_labels(self, batch: list[dict]) -> list[dict]: ...


def make_pseudo_labels(
    model: LabellingModel, loader: DataLoader, folder: str | Path, *, order: ClassOrder, provenance: str
) -> tuple[int, int]:
    """Write the files of `RESULT_FILES`, below `folder`, of each image of the loader's data set that lacks them.

    Collective: the processes divide the missing images among them. loader: of batches of one sample, as
    `data.build_test_loader` gives; which images it loads is decided here. provenance: what makes the files, in words;
    they are not mixed with those of another one. Returns how many images were written, and how many were there before.

    Stopped at any moment and started again, it goes on where it was: a file is there whole or not at all, an image is
    done when all its files are there, and no file is written before the folders of all of them are declared.
    """
    folder = Path(folder)
    images = [record["file_name"] for record in loader.dataset.records]  # type: ignore[attr-defined]
    _check_folders(folder, images)
    if comm.is_main_process():
        _remove_leftovers(folder, provenance)
    # No process writes before all have looked, and all go by what one has seen.
    missing = comm.all_gather(_missing(folder, images, provenance))[0]
    model.train(False)
    writer = _Writer(folder, order, provenance)
    with _progress(len(images), len(missing)) as bar:
        for batch in _batches(loader, missing[comm.get_rank() :: comm.get_world_size()]):
            for sample, result in zip(batch, model.pseudo_labels(batch)):
                writer.write(sample, result)
            # The other processes are about as far: a round of images is done.
            bar.update(min(comm.get_world_size(), bar.total - bar.n))
    comm.synchronize()
    return len(missing), len(images) - len(missing)


class _Writer:
    """Writes the results of images, all of which have the same keys."""

    def __init__(self, folder: Path, order: ClassOrder, provenance: str):
        self.folder, self.order, self.provenance = folder, order, provenance
        self.declared = {key for key, kind in RESULT_FILES.items() if _is_declared(folder, kind, provenance)}
        self.is_first = True

    def write(self, sample: dict, result: dict) -> None:
        image, size = sample["file_name"], (sample["height"], sample["width"])
        keys = [key for key in RESULT_FILES if key in result]
        if not keys:
            raise ValueError(
                f"{image}: expected pseudo labels of the kinds {', '.join(RESULT_FILES)}; found "
                f"{', '.join(result) or 'none'}. Choose a head that makes one of these (MODEL.WEAK_HEAD.NAME)."
            )
        if self.is_first:
            # An image is done when it has a file in each declared folder, so that all are declared before any file.
            for key in keys:
                declare_provenance(self.folder / RESULT_FILES[key].folder, self.provenance, what=_WHAT)
            self.declared |= set(keys)
            self.is_first = False
        if set(keys) != self.declared:
            raise ValueError(
                f"{image}: expected {', '.join(sorted(self.declared))}, as of the images before; found "
                f"{', '.join(sorted(keys))}. Write to an empty folder."
            )
        for key in keys:
            RESULT_FILES[key].write(RESULT_FILES[key].path(self.folder, image), result[key], self.order, size)


def _check_folders(folder: Path, images: Sequence[str]) -> None:
    for output in (folder, *(folder / kind.folder for kind in RESULT_FILES.values())):
        check_output(output, [Path(image) for image in images], what=_WHAT)


def _is_declared(folder: Path, kind: ResultFile, provenance: str) -> bool:
    return read_provenance(folder / kind.folder) == provenance


def _missing(folder: Path, images: Sequence[str], provenance: str) -> list[int]:
    """The indices of the images that lack a file in some folder with this provenance; of all where there is none."""
    kinds = [kind for kind in RESULT_FILES.values() if _is_declared(folder, kind, provenance)]
    return [
        index
        for index, image in enumerate(images)
        if not kinds or not all(kind.path(folder, image).is_file() for kind in kinds)
    ]


def _remove_leftovers(folder: Path, provenance: str) -> None:
    """Half files, under the names of `safe_io.atomic_write`, that a killed run left."""
    for kind in RESULT_FILES.values():
        if _is_declared(folder, kind, provenance):
            for path in (folder / kind.folder).glob(f".*{kind.suffix}"):
                path.unlink()


def _batches(loader: DataLoader, indices: list[int]) -> Iterator[list[dict]]:
    """The batches of `loader`, had it these images alone."""
    return iter(
        DataLoader(
            loader.dataset,
            sampler=[(0, index) for index in indices],
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
            generator=loader.generator,
        )
    )


def _progress(images: int, missing: int) -> tqdm:
    return tqdm(total=images, initial=images - missing, unit="image", disable=not comm.is_main_process())
