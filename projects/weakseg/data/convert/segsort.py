"""Files in the layout of SegSort and SPML: list files, label and region PNGs, result PNGs (card 5.6, 6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weakseg.data.convert.voc import voc_palette
from weakseg.safe_io import read_label_png, resolve_inside, write_png


@dataclass(frozen=True)
class ListEntry:
    """One line of a list: the files of an image; semantic and region are None where the list names images alone."""

    image: Path
    semantic: Path | None = None
    region: Path | None = None


def read_list(path: str | Path, root: str | Path) -> list[ListEntry]:
    """The lines of a list file in order: three paths below `root` (image, semantic label, region label), separated by
    one space, or the image alone. Lists of two columns are refused: they name no region label."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a list of images; found nothing there. Check the path.")
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        names = line.split()
        if len(names) not in (0, 1, 3):
            raise ValueError(
                f"{path}, line {number}: expected three paths (image, semantic label, region label) or the image "
                f"alone; found {len(names)}. Use a list with region labels, such as panoptic_val.txt for val.txt."
            )
        if names:
            entries.append(ListEntry(*(resolve_inside(root, name) for name in names)))
    if not entries:
        raise ValueError(f"{path}: expected a list of images; found an empty file. Fetch it again.")
    return entries


def read_label_map(path: str | Path) -> np.ndarray:
    """A semantic label or region map (H, W) uint8: palette indices or grey values as stored, never colours (fault t).
    Colour and 16-bit PNGs are refused."""
    label_map = read_label_png(path)
    if label_map.ndim != 2 or label_map.dtype != np.uint8:
        channels = 1 if label_map.ndim == 2 else label_map.shape[2]
        raise ValueError(
            f"{path}: expected a label PNG of 8 bits, grey or with a palette; found {channels} channel(s) of "
            f"{label_map.dtype}. Write one value a pixel."
        )
    return label_map


def write_semantic_pngs(folder: str | Path, stem: str, classes: np.ndarray) -> None:
    """Write a result (H, W), classes 0..255, as `semantic_gray/STEM.png` (8 bits, the class of each pixel) and
    `semantic_color/STEM.png` (RGB, VOC's colours)."""
    classes = classes.astype(np.uint8)
    write_png(resolve_inside(Path(folder, "semantic_gray"), f"{stem}.png"), classes)
    write_png(resolve_inside(Path(folder, "semantic_color"), f"{stem}.png"), voc_palette()[classes])
