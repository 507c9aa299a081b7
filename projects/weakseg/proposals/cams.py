"""Class activation maps as evidence: one file of maps by class an image (evidence "cams")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weakseg.proposals.map_folder import EvidenceFolder, map_file
from weakseg.proposals.registry import PROPOSAL_LOADER_REGISTRY
from weakseg.safe_io import read_npz, read_pickled_npy

_MAX_NUMBER = 252
_ROUNDING = 1e-3
_WORDS = "maps of numbers 0 to 1 by class number, from 0 for the first class that is not the background"


class ActivationMaps(EvidenceFolder):
    """Reads the class activation maps of the image STEM.jpg: `root`/STEM.npz as tools/make_pseudo_labels.py writes it,
    or `root`/STEM.npy as others publish it.

    Gives (H, W, n) float32 in [0, 1]: channel k is the map of the k-th class that is not the background, counted from
    0, and 0 where the file has none of it. n: the highest number in the file + 1, at least 1; the channels of further
    classes are 0 and left out.
    """

    def __init__(self, root: str | Path):
        super().__init__(
            root,
            key="INPUT.CAM_ROOT",
            what="class activation map",
            remedy="Make it with: python tools/make_pseudo_labels.py --config-file YAML --output FOLDER (it writes "
            "FOLDER/cams for a classifier of image tags), or put published ones there.",
        )

    def __call__(self, record: dict) -> np.ndarray:
        npz = map_file(self.root, record["file_name"]).with_suffix(".npz")
        npy = npz.with_suffix(".npy")
        if npz.is_file():
            return _stacked(read_npz(npz), npz, record)
        if npy.is_file():
            return _stacked(_by_class(read_pickled_npy(npy)), npy, record)
        raise FileNotFoundError(
            f"{npz}: expected the class activation maps of {record['file_name']} there, or in {npy.name}; found "
            "neither. Make the missing ones with tools/make_pseudo_labels.py, or correct INPUT.CAM_ROOT."
        )


@PROPOSAL_LOADER_REGISTRY.register()
def cams(cfg) -> ActivationMaps:
    """`INPUT.CAM_ROOT`."""
    return ActivationMaps(cfg.INPUT.CAM_ROOT)


def _by_class(content: Any) -> Any:
    """A published dict as class number -> map: it is such a dict, or has the numbers under "keys" and, in that order,
    the maps (n, H, W) under "high_res"."""
    numbers, maps = (content.get(key) for key in ("keys", "high_res")) if isinstance(content, dict) else (None, None)
    if not (isinstance(numbers, np.ndarray) and isinstance(maps, np.ndarray) and numbers.shape == maps.shape[:1]):
        return content
    return dict(zip(numbers.tolist(), maps))


def _stacked(maps: Any, path: Path, record: dict) -> np.ndarray:
    size = (record["height"], record["width"])
    numbers = [_class_number(key) for key in maps] if isinstance(maps, dict) else [-1]
    if -1 in numbers:
        found = ", ".join(map(repr, list(maps)[:3])) if isinstance(maps, dict) else f"a {type(maps).__name__}"
        raise ValueError(f"{path}: expected {_WORDS}; found {found}. Write them anew.")
    stacked = np.zeros((*size, max(numbers, default=0) + 1), dtype=np.float32)
    for number, values in zip(numbers, maps.values()):
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.shape != size:
            found = (
                f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            )
            raise ValueError(
                f"{path}: expected the map of class {number} as real numbers for {size[1]} x {size[0]} pixels; found "
                f"{found}. Make it again from {record['file_name']}."
            )
        if not ((values >= -_ROUNDING) & (values <= 1 + _ROUNDING)).all():
            raise ValueError(
                f"{path}: expected {_WORDS}; found {values.min():.3g} to {values.max():.3g} for class {number}. Divide "
                "each map by its maximum."
            )
        stacked[..., number] = values
    return stacked


def _class_number(key: Any) -> int:
    """The number that the key of a map names, -1 for none."""
    number = int(key) if isinstance(key, (int, np.integer)) or (isinstance(key, str) and key.isdecimal()) else -1
    return number if number <= _MAX_NUMBER else -1
