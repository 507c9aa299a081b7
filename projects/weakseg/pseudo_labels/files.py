"""The files that pseudo labels become: one for each kind of result of an image, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weakseg.data.convert.voc import voc_palette
from weakseg.labels import ClassOrder
from weakseg.safe_io import atomic_write, write_png


@dataclass(frozen=True)
class ResultFile:
    """FOLDER/NAME + suffix for the image NAME.jpg; write(path, result, order of the classes, size (H, W) of the image),
    atomically."""

    folder: str
    suffix: str
    write: Callable[[Path, Any, ClassOrder, tuple[int, int]], None]

    def path(self, root: Path, image: str | Path) -> Path:
        return root / self.folder / f"{Path(image).stem}{self.suffix}"


def write_label_map(path: Path, class_map: torch.Tensor, order: ClassOrder, size: tuple[int, int]) -> None:
    """class_map (H, W): house class indices, 255 for none. A label PNG (see `ClassOrder`) in VOC's colours."""
    _check(path, class_map, size, "a map of class indices", is_right=not class_map.is_floating_point())
    write_png(path, order.to_png(class_map.cpu().numpy()), voc_palette())


def write_prototypes(path: Path, prototypes: dict[str, torch.Tensor], order: ClassOrder, size: tuple[int, int]) -> None:
    """prototypes: "prototype" (n, C) and "prototype_label" (n,), numbered by the method."""
    vectors, labels = (prototypes[key].cpu().numpy() for key in ("prototype", "prototype_label"))
    _write_npz(path, {"prototype": vectors.astype(np.float32), "prototype_label": labels.astype(np.int64)})


def write_cams(path: Path, cams: dict[str, torch.Tensor], order: ClassOrder, size: tuple[int, int]) -> None:
    """cams: class number -> map (H, W) in 0..1, see `proposals.cams`. Kept in float16."""
    for number, values in cams.items():
        _check(path, values, size, f"a map of class {number}")
    _write_npz(path, {number: values.cpu().numpy().astype(np.float16) for number, values in cams.items()})


def _check(path: Path, values: torch.Tensor, size: tuple[int, int], what: str, *, is_right: bool = True) -> None:
    if values.shape != size or not is_right:
        raise ValueError(
            f"{path}: expected {what} of {size[1]} x {size[0]} pixels, as the image has; found {values.dtype} of shape "
            f"{tuple(values.shape)}. Let the head's pseudo_labels give it at the sample's height and width."
        )


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


RESULT_FILES = {
    "sem_seg": ResultFile("semantic", ".png", write_label_map),
    "prototypes": ResultFile("prototypes", ".npz", write_prototypes),
    "cams": ResultFile("cams", ".npz", write_cams),
}
"""Key of a head's result -> its files. Panoptic and instance labels ("panoptic_seg", "instances") are to be entered
here by the first method that writes them."""
