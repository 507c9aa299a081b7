"""Recorded inputs and outputs of the published systems: which file is tested by whom, and whether all of it was used.

The folder `WEAKSEG_REFERENCE_DIR` (default: ../shared/golden beside the checkout) holds `fill_rule.py` and one folder a
method. A file belongs to the *kind* that is the longest known prefix of its name, so that further files of a kind are
tested without an edit here. A test reads a file through `Reference`, which notes what was read.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(os.environ.get("WEAKSEG_REFERENCE_DIR", Path(__file__).parents[2].parent / "shared" / "golden"))

KINDS = {
    "point2mask": (
        "optimizer_groups",
        "state_dict",
        "tiny_edges",
        "train_step",
        "unit_boundary_loss",
        "unit_color",
        "unit_data",
        "unit_dijkstra",
        "unit_loss_weights",
        "unit_mask_attention",
        "unit_mask_losses",
        "unit_memory_proj",
        "unit_merge",
        "unit_metric_loss",
        "unit_msda",
        "unit_position",
        "unit_pq",
        "unit_pseudo",
        "unit_semantic_losses",
        "unit_set_losses",
        "unit_sinkhorn",
        "unit_structured_edges",
        "unit_swin",
        "unit_swin_adapt",
        "unit_tree",
        "whole",
    ),
    "spml": (
        "crf",
        "e2e_inputs",
        "e2e_prototype",
        "e2e_pseudo",
        "e2e_retrieval",
        "e2e_softmax",
        "imagenet_key_mapping",
        "optimizer_groups",
        "state_dict",
        "train_step",
        "unit_augmentation",
        "unit_clusters",
        "unit_colormap",
        "unit_gather_prototypes",
        "unit_heads",
        "unit_initial_clusters",
        "unit_label_propagation",
        "unit_local_features",
        "unit_loss_set",
        "unit_loss_single",
        "unit_majority_label",
        "unit_metrics",
        "unit_optimizer",
        "unit_random_walk",
        "unit_resize",
        "unit_retrieval",
        "unit_schedule",
        "unit_sync_bn",
        "unit_tiles",
        "whole",
    ),
}
"""Kinds of files that a test reads, by method."""


def kind_of(method: str, path: Path) -> str | None:
    """The longest known kind that `path`'s name starts with, or None."""
    return max((kind for kind in KINDS[method] if path.name.startswith(kind)), key=len, default=None)


def all_files(method: str) -> list[Path]:
    """Every recorded file of a method, README aside."""
    folder = ROOT / method
    return (
        sorted(path for path in folder.glob("*") if path.is_file() and path.suffix != ".md") if folder.is_dir() else []
    )


def reference_files(method: str, kind: str):
    """Parametrise a test over the files of a kind: argument `path`. Skips with a clear word where there is none."""
    if kind not in KINDS[method]:
        raise ValueError(f"{kind} is not a kind of {method}; add it to KINDS")
    paths = [path for path in all_files(method) if kind_of(method, path) == kind]
    if paths:
        return pytest.mark.parametrize("path", paths, ids=[path.name for path in paths])
    reason = f"no file {kind}* in {ROOT / method}; set WEAKSEG_REFERENCE_DIR to a folder with recorded outputs"
    return pytest.mark.parametrize("path", [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")])


def fill_rule():
    """The module `fill_rule.py` of the reference folder."""
    spec = importlib.util.spec_from_file_location("fill_rule", ROOT / "fill_rule.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reference:
    """One recorded .npz (or .json) file. Use as `with Reference(path) as ref:`; leaving the block without an error
    fails when an array was neither taken as an input (`ref["name"]`, `ref.tensor`) nor compared as an output
    (`ref.compare`)."""

    def __init__(self, path: Path):
        self.path = path
        if path.suffix == ".json":
            self._arrays = json.loads(path.read_text())
        else:
            with np.load(path, allow_pickle=False) as archive:
                self._arrays = {name: archive[name] for name in archive.files}
        self._used: set[str] = set()

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, error_type, error, trace) -> None:
        unused = sorted(set(self._arrays) - self._used)
        if error_type is None and unused:
            pytest.fail(f"{self.path.name}: neither taken nor compared: {', '.join(unused)}")

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def keys(self) -> list[str]:
        return list(self._arrays)

    def cases(self, suffix: str) -> list[str]:
        """Prefixes of all arrays whose name ends in `suffix`: cases("_cost") of {"two_cost", ...} is ["two", ...]."""
        return [name[: -len(suffix)] for name in self._arrays if name.endswith(suffix)]

    def __getitem__(self, name: str):
        """Take an array as an input."""
        self._used.add(name)
        return self._arrays[name]

    def tensor(self, name: str) -> torch.Tensor:
        """Take an array as an input tensor; int and uint arrays become int64."""
        array = np.asarray(self[name])
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array.copy())

    def bits(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Take a bool array of `shape` that was stored with `numpy.packbits`."""
        return np.unpackbits(self[name])[: int(np.prod(shape))].reshape(shape).astype(bool)

    def compare(self, name: str, actual, rtol: float = 0.0, atol: float = 0.0) -> None:
        """Compare an output: |actual - expected| <= atol + rtol |expected|, equal shapes, no NaN."""
        expected = np.asarray(self[name])
        actual = actual.detach().cpu().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
        assert actual.shape == expected.shape, f"{name}: expected shape {expected.shape}, found {actual.shape}"
        np.testing.assert_allclose(
            actual.astype(np.float64), expected.astype(np.float64), rtol, atol, equal_nan=False, err_msg=name
        )

    def compare_fraction(self, name: str, actual, expected=None, fraction: float = 1e-3) -> None:
        """Compare labels that hang on an argmax: at most `fraction` of the entries may differ. `expected` replaces the
        stored array where it had to be unpacked."""
        expected = np.asarray(self[name] if expected is None else expected)
        actual = actual.detach().cpu().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
        self._used.add(name)
        assert actual.shape == expected.shape, f"{name}: expected shape {expected.shape}, found {actual.shape}"
        differing = float((actual != expected).mean()) if expected.size else 0.0
        assert differing <= fraction, f"{name}: {differing:.2%} of the entries differ, at most {fraction:.2%} may"
