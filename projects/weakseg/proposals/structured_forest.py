"""The random forest of structured edge detection: the published `model.yml.gz`, checked, and its fast copy `.npz`."""

from __future__ import annotations

import gzip
import logging
import re
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from weakseg.safe_io import atomic_write, read_npz, read_yml_gz
from weakseg.zoo.published import hint

logger = logging.getLogger(__name__)

_LARGEST_OPTION = 256
_ARRAYS = {
    "children": ("childs", np.int32),
    "feature_ids": ("featureIds", np.int32),
    "thresholds": ("thresholds", np.float32),
    "edge_boundaries": ("edgeBoundaries", np.int64),
    "edge_bins": ("edgeBins", np.int32),
}
"""Array of a forest -> its name in the published file, and its type."""


@dataclass(frozen=True)
class ForestOptions:
    """Options of a forest (Point2Mask card, section 3.5), in the order and, in snake case, with the names of the
    file. Sizes and radii in pixels."""

    stride: int
    shrink_number: int
    patch_size: int
    patch_inner_size: int
    number_of_gradient_orientations: int
    gradient_smoothing_radius: int
    reg_feature_smoothing_radius: int
    ss_feature_smoothing_radius: int
    gradient_normalization_radius: int
    selfsimilarity_grid_size: int
    number_of_trees: int
    number_of_trees_to_evaluate: int

    @property
    def channels(self) -> int:
        """Feature channels: Luv, and magnitude and histogram at two scales."""
        return 2 * (self.number_of_gradient_orientations + 1) + 3

    @property
    def cells(self) -> int:
        """Side of a patch in the feature map."""
        return self.patch_size // self.shrink_number

    @property
    def patch_features(self) -> int:
        """Number of features that are one value of the patch; the ids after these are differences of two values."""
        return self.cells**2 * self.channels

    @property
    def cell_pairs(self) -> int:
        """Number of pairs of cells that are compared, per channel."""
        count = self.selfsimilarity_grid_size**2
        return count * (count - 1) // 2


_OPTIONS = {
    field.name: re.sub(r"_(.)", lambda letter: letter[1].upper(), field.name) for field in fields(ForestOptions)
}


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees of equally many nodes. A node whose child is 0 is a leaf; otherwise the way goes to node `child - 1` of its
    tree where the feature is below the threshold, else to node `child`. Leaf `tree * nodes + node` = t votes for
    `edge_bins[edge_boundaries[t] : edge_boundaries[t + 1]]`.

    children (trees, nodes) int32; feature_ids (trees, nodes) int32; thresholds (trees, nodes) float32; edge_boundaries
    (trees * nodes + 1,) int64, rising; edge_bins (votes,) int32, ids of pixels of the inner patch, column by column.
    """

    options: ForestOptions
    children: np.ndarray
    feature_ids: np.ndarray
    thresholds: np.ndarray
    edge_boundaries: np.ndarray
    edge_bins: np.ndarray

    def __post_init__(self):
        for name, (_, dtype) in _ARRAYS.items():
            if getattr(self, name).dtype != dtype:
                raise ValueError(f"{name} of type {getattr(self, name).dtype}, not {np.dtype(dtype)}")
        _check_options(self.options)
        _check_trees(self)
        _check_votes(self)


def read_forest(path: str | Path) -> Forest:
    """The forest in `path` (`model.yml.gz`), all lengths and indices checked.

    What was read is kept beside the file (`model.npz`) and taken from there as long as the file stays as it was; where
    the folder cannot be written, it is read anew each time.
    """
    path = Path(path)
    if not path.exists():
        where = hint(path) or "Check the path, or put the file there."
        raise FileNotFoundError(f"{path}: expected a forest of structured edges; found nothing there. {where}")
    cache = path.with_name(path.name.removesuffix(".gz").removesuffix(".yml") + ".npz")
    kept = _from_cache(cache, path)
    if kept is not None:
        return kept
    source = _source_state(path)
    forest = _from_storage(path)
    try:
        with atomic_write(cache) as temporary:
            arrays = {name: getattr(forest, name) for name in _ARRAYS}
            np.savez(temporary, source=source, options=np.array(astuple(forest.options)), **arrays)
    except OSError as error:
        logger.warning("%s is read anew each time, as %s cannot be written (%s).", path, cache, error.strerror)
    return forest


def write_forest(path: str | Path, forest: Forest) -> None:
    """Write a forest in the published format, a gzipped YAML of OpenCV's FileStorage."""
    with atomic_write(path) as temporary, gzip.open(temporary, "wt", compresslevel=1, encoding="ascii") as stream:
        stream.write("%YAML:1.0\n---\noptions:\n")
        for name, published in _OPTIONS.items():
            stream.write(f"   {published}: {getattr(forest.options, name)}\n")
        for name, (published, _) in _ARRAYS.items():
            rows = np.atleast_2d(getattr(forest, name)).tolist()
            stream.write(f"{published}:\n" + "".join(f"   - [ {', '.join(map(str, row))} ]\n" for row in rows))


def _from_cache(cache: Path, path: Path) -> Forest | None:
    """The forest kept in `cache` when it belongs to the file at `path` as it is now."""
    if not cache.is_file() or not path.is_file() or cache.stat().st_mtime_ns < path.stat().st_mtime_ns:
        return None
    try:
        arrays = read_npz(cache)
        if arrays.pop("source").tolist() != _source_state(path):
            return None
        return Forest(ForestOptions(*arrays.pop("options").tolist()), **arrays)
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s is made anew from %s (%s).", cache, path, error)
        return None


def _source_state(path: Path) -> list[int]:
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _from_storage(path: Path) -> Forest:
    storage = read_yml_gz(path)
    try:
        needed = ["options", *(published for published, _ in _ARRAYS.values())]
        if missing := [name for name in needed if name not in storage]:
            raise ValueError(f"no node {', '.join(missing)}")
        arrays = {name: _joined(storage[published], published, dtype) for name, (published, dtype) in _ARRAYS.items()}
        for name in ("children", "feature_ids", "thresholds"):
            arrays[name] = arrays[name].reshape(_shape(storage[_ARRAYS[name][0]], _ARRAYS[name][0]))
        arrays["edge_boundaries"] = arrays["edge_boundaries"][: arrays["children"].size + 1]
        return Forest(_options(storage["options"]), **arrays)
    except ValueError as error:
        advice = hint(path) or "Fetch the file again."
        raise ValueError(f"{path}: expected a forest of structured edges; found {error}. {advice}") from error


def _options(node: Any) -> ForestOptions:
    found = node if isinstance(node, dict) else {}
    wrong = [name for name in _OPTIONS.values() if not isinstance(found.get(name), int)]
    if wrong:
        raise ValueError(f"the option {wrong[0]} = {found.get(wrong[0])}, which is no integer")
    return ForestOptions(**{name: found[published] for name, published in _OPTIONS.items()})


def _joined(node: Any, name: str, dtype: type) -> np.ndarray:
    """The numbers of all sequences of a node, one after the other."""
    if isinstance(node, dict):
        raise ValueError(f"{name} that are a mapping")
    array: np.ndarray = np.concatenate([np.zeros(0, dtype), *node]) if isinstance(node, list) else node
    with np.errstate(over="ignore", invalid="ignore"):
        cast: np.ndarray = array.astype(dtype)
    if np.dtype(dtype).kind == "i" and not np.array_equal(cast, array):
        raise ValueError(f"{name} that are not all integers of {8 * cast.itemsize} bits")
    return cast


def _shape(node: Any, name: str) -> tuple[int, int]:
    """(trees, nodes) of a node with one sequence a tree."""
    lengths = {len(row) for row in node} if isinstance(node, list) else set()
    if len(lengths) != 1:
        raise ValueError(f"{name} with sequences of {sorted(lengths) or 'no'} entries, not one length for all trees")
    return len(node), lengths.pop()


def _check_options(options: ForestOptions) -> None:
    for name, published in _OPTIONS.items():
        value, least = getattr(options, name), 0 if name.endswith("radius") else 1
        if not least <= value <= _LARGEST_OPTION:
            raise ValueError(f"the option {published} = {value}, not in {least}..{_LARGEST_OPTION}")
    border, rest = divmod(options.patch_size - options.patch_inner_size, 2)
    if border < 0 or rest:
        raise ValueError(
            f"an inner patch of {options.patch_inner_size} that cannot lie in the middle of {options.patch_size} pixels"
        )
    if options.patch_size % options.shrink_number:
        raise ValueError(f"a patch of {options.patch_size} pixels that shrinks {options.shrink_number} times")


def _check_trees(forest: Forest) -> None:
    options, shape = forest.options, forest.children.shape
    if len(shape) != 2 or shape[0] != options.number_of_trees:
        raise ValueError(f"childs of {shape[0]} trees where the options say {options.number_of_trees}")
    for name, array in (("featureIds", forest.feature_ids), ("thresholds", forest.thresholds)):
        if array.shape != shape:
            raise ValueError(f"{name} of shape {array.shape} beside childs of shape {shape}")
    # A child before its parent could lead round in a circle.
    inner, nodes = forest.children != 0, shape[1]
    if np.any(inner & ((forest.children < np.arange(2, nodes + 2)) | (forest.children >= nodes))):
        raise ValueError(f"childs that lead back, or beyond the {nodes} nodes of a tree")
    count = options.patch_features + options.cell_pairs * options.channels
    if np.any((forest.feature_ids < 0) | (forest.feature_ids >= count)):
        raise ValueError(f"featureIds outside 0..{count - 1}")
    if not np.isfinite(forest.thresholds).all():
        raise ValueError("thresholds that are not finite")


def _check_votes(forest: Forest) -> None:
    options, boundaries, bins = forest.options, forest.edge_boundaries, forest.edge_bins
    if boundaries.shape != (forest.children.size + 1,):
        raise ValueError(f"{boundaries.size} edgeBoundaries for {forest.children.size} nodes, which need one more")
    if boundaries[0] < 0 or np.any(np.diff(boundaries) < 0) or boundaries[-1] > bins.size:
        raise ValueError(f"edgeBoundaries that do not rise from 0 to at most the {bins.size} edgeBins")
    count = options.patch_inner_size**2 * options.channels
    if bins.size and (bins.min() < 0 or bins.max() >= count):
        raise ValueError(f"edgeBins outside 0..{count - 1}")
