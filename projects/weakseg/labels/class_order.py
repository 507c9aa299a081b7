"""The background first: the order of classes in label PNGs, and in methods that need the background as class 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weakseg.labels.weak_labels import NO_CLASS

BACKGROUND = "background"
UNLABELLED = 254
"""In a label map whose pixels need not have a label: any class is possible."""
IGNORED = 255
"""In a label map: the pixel takes no part in anything."""
MAX_CLASSES = UNLABELLED - 1


@dataclass(frozen=True)
class ClassOrder:
    """The classes of a data set with the background, where there is one, before the others.

    Three numberings: *house* indices 0..C-1 of the data set (255 for none); *ordered* ones, 0..C-1 with the background
    first; values of a *label PNG*: 0 the background, k >= 1 the k-th other class, 255 ignored, any other value (without
    a background also 0) unlabelled.
    """

    class_index: tuple[int, ...]
    """House index of each ordered class."""
    has_background: bool

    @classmethod
    def of(cls, class_names: Sequence[str]) -> ClassOrder:
        """class_names: in house order. The class named "background" comes first, the others keep their order. Raises
        ValueError for two of that name."""
        if len(class_names) > MAX_CLASSES:
            raise ValueError(
                f"Expected at most {MAX_CLASSES} classes, as a label map keeps 8 bits a pixel; found "
                f"{len(class_names)}. Use a data set of fewer classes."
            )
        found = [index for index, name in enumerate(class_names) if name == BACKGROUND]
        if len(found) > 1:
            raise ValueError(
                f'Expected at most one class named "{BACKGROUND}"; found {len(found)}. Rename the others in the label '
                "file."
            )
        others = [index for index, name in enumerate(class_names) if name != BACKGROUND]
        return cls(class_index=(*found, *others), has_background=bool(found))

    def to_png(self, class_map: np.ndarray) -> np.ndarray:
        """House indices (H, W) -> label PNG (H, W) uint8; no class is unlabelled, 254."""
        return _table(self.class_index, self._png_values)[class_map]

    def from_png(self, values: np.ndarray) -> np.ndarray:
        """Label PNG (H, W) uint8 -> ordered classes (H, W) uint8; 254 unlabelled, 255 ignored."""
        table = _table(self._png_values, range(len(self.class_index)))
        table[IGNORED] = IGNORED
        return table[values]

    def from_house(self, classes: np.ndarray) -> np.ndarray:
        """House indices of any shape -> ordered classes, uint8; no class is unlabelled, 254."""
        return _table(self.class_index, range(len(self.class_index)))[classes]

    def to_house(self, classes: np.ndarray) -> np.ndarray:
        """Ordered classes of any shape -> house indices, uint8; 255 for what is unlabelled or ignored."""
        return _table(range(len(self.class_index)), self.class_index, rest=NO_CLASS)[classes]

    @property
    def _png_values(self) -> range:
        first = 0 if self.has_background else 1
        return range(first, first + len(self.class_index))


def _table(keys: Sequence[int], values: Sequence[int], rest: int = UNLABELLED) -> np.ndarray:
    """(256,) uint8: `values` at `keys`, `rest` elsewhere."""
    table = np.full(256, rest, dtype=np.uint8)
    table[list(keys)] = list(values)
    return table
