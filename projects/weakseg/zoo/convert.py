"""Checkpoints as a method's authors publish them into ours, which predict alone, and back."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from torch import Tensor

from weakseg import __version__
from weakseg.data.catalog import metadata_of
from weakseg.data.convert.densepose import densepose_categories
from weakseg.data.convert.voc import voc_categories
from weakseg.inference import WeakPredictor
from weakseg.inference.predictor import register_classes
from weakseg.methods.point2mask import checkpoint as point2mask
from weakseg.methods.spml import checkpoint as spml
from weakseg.safe_io import read_weights
from weakseg.weights import some_names, without_extra_state
from weakseg.zoo.published import POINT2MASK, SPML

State = dict[str, Tensor]

_KNOWN_CLASSES = {
    "weakseg_voc_2012_train_aug_panoptic": voc_categories,
    "weakseg_voc_2012_train_aug_sem_seg": lambda: [{**category, "isthing": 0} for category in voc_categories()],
    "weakseg_coco_2017_train_panoptic": lambda: COCO_CATEGORIES,
    "weakseg_densepose_2014_train_sem_seg": densepose_categories,
}
"""Data set of the published rows -> its classes in our order: things, then stuff."""


class Method(NamedTuple):
    """to_ours, to_published: rename the tensors of a state dict; config_name: see `default_config`; entries: of a
    published file, of which all but "meta" hold tensors; join: these into one state dict, split: back; source: where
    its authors publish the files."""

    to_ours: Callable[[State], State]
    to_published: Callable[[State], State]
    config_name: Callable[[State], str]
    entries: tuple[str, ...]
    join: Callable[[dict[str, State]], State]
    split: Callable[[State], dict[str, State]]
    source: str


METHODS = {
    "point2mask": Method(
        point2mask.to_ours,
        point2mask.to_published,
        point2mask.config_name,
        entries=("meta", "state_dict"),
        join=itemgetter("state_dict"),
        split=lambda state: {"state_dict": state},
        source=POINT2MASK,
    ),
    "spml": Method(
        spml.to_ours,
        spml.to_published,
        spml.config_name,
        entries=("embedding_model", "prediction_model"),
        join=spml.join_parts,
        split=spml.split_parts,
        source=SPML,
    ),
}


class PublishedCheckpoint(NamedTuple):
    """A file as published: its tensors by name, without "module.", and its "meta" (class names, versions, ...)."""

    path: Path
    state: State
    meta: dict[str, Any]


def read_published(path: str | Path, method: str) -> PublishedCheckpoint:
    """Read a file with the entries of `METHODS`; others, as an optimiser's state, are left out. Where one entry holds
    all tensors, a file may also be these alone."""
    path, form = Path(path), METHODS[method]
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: expected a published checkpoint of {method}; found nothing there. Get it from {form.source}."
        )
    content = read_weights(path)
    parts = [entry for entry in form.entries if entry != "meta"]
    if len(parts) == 1 and _holds_tensors(content):
        content = {parts[0]: content}
    meta = content.get("meta", {})
    if not (all(_holds_tensors(content.get(part)) for part in parts) and isinstance(meta, dict)):
        entries = " and ".join(f'"{entry}"' for entry in form.entries)
        raise ValueError(
            f"{path}: expected a published checkpoint of {method}, {entries}; found the keys "
            f"{some_names(list(content))}. Get one from {form.source}, or add --reverse to convert a file of WeakSeg's "
            "back."
        )
    state = form.join({part: content[part] for part in parts})
    return PublishedCheckpoint(path, {name.removeprefix("module."): value for name, value in state.items()}, meta)


def default_config(checkpoint: PublishedCheckpoint, method: str) -> str:
    """The config of a published row, relative to configs/, that has these tensors."""
    name = METHODS[method].config_name(checkpoint.state)
    if not name:
        raise ValueError(
            f"{checkpoint.path}: expected a checkpoint of {method} with the classes and backbone of a published row; "
            f"found tensors like {some_names(list(checkpoint.state))}. Name its config with --config-file."
        )
    return f"{method}/{name}.yaml"


def from_published(checkpoint: PublishedCheckpoint, method: str, cfg: CfgNode) -> dict[str, Any]:
    """The content of our file: model, config and classes as training writes them, and under "published" what the way
    back needs besides. The data sets of `cfg` need not be prepared where they are of a published row.

    Raises ValueError unless the file has exactly the tensors of the model that `cfg` describes.
    """
    renaming = METHODS[method]
    classes = _classes(cfg, checkpoint.meta.get("CLASSES"))
    _check_exactly(renaming.to_published(_planned_state(cfg, classes)), checkpoint)
    model = renaming.to_ours(checkpoint.state)
    back = renaming.to_published(model)
    # Such as the batch counters of frozen norms, which ours have not.
    lost = {name: value for name, value in checkpoint.state.items() if not _is_equal(value, back[name])}
    return {
        "model": model,
        "weakseg_version": __version__,
        "config": cfg.dump(),
        "metadata": classes,
        "published": {"meta": checkpoint.meta, "state_dict": lost},
    }


def to_published(path: str | Path, method: str) -> dict[str, Any]:
    """The content of a published file, the entries of `METHODS`, from a checkpoint of ours, converted or trained.
    Raises ValueError unless that is complete, and of a network that the authors publish."""
    form, predictor = METHODS[method], WeakPredictor.from_checkpoint(path, device="cpu")
    content = read_weights(path)
    try:
        state = form.to_published(without_extra_state(content["model"]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    published = content.get("published", {"meta": {"CLASSES": predictor.metadata.stuff_classes}, "state_dict": {}})
    entries = {"meta": published["meta"], **form.split(state | published["state_dict"])}
    return {entry: entries[entry] for entry in form.entries}


def _holds_tensors(state: Any) -> bool:
    return isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )


def _is_equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _classes(cfg: CfgNode, published_names: Any) -> dict[str, list]:
    """Names and colours of the classes of the first data set of `cfg`, under the keys of a checkpoint's "metadata".
    published_names: of all classes or of the things, which then count; else None."""
    data_set = next(iter([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]), "")
    known = next((classes() for name, classes in _KNOWN_CLASSES.items() if data_set.startswith(name)), None)
    if known is None:
        metadata = metadata_of(cfg)
        names, colors, num_things = metadata.stuff_classes, metadata.stuff_colors, len(metadata.thing_classes)
    else:
        names, colors = [category["name"] for category in known], [category["color"] for category in known]
        num_things = sum(category["isthing"] for category in known)
    if isinstance(published_names, (list, tuple)) and len(published_names) in (num_things, len(names)):
        # The published names of COCO have one with a blank in front (Point2Mask card, fault z).
        names = [str(name).strip() for name in published_names] + list(names[len(published_names) :])
    colors = [list(map(int, color)) for color in colors]
    return {
        "thing_classes": list(names[:num_things]),
        "stuff_classes": list(names),
        "thing_colors": colors[:num_things],
        "stuff_colors": colors,
    }


def _planned_state(cfg: CfgNode, classes: dict[str, list]) -> State:
    """State dict without data of the model that `cfg` describes for these classes."""
    name = "classes of a published checkpoint"
    register_classes(name, classes)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.WEIGHTS = "meta", ""
    with torch.device("meta"):
        return without_extra_state(build_model(cfg).state_dict())


def _check_exactly(expected: State, checkpoint: PublishedCheckpoint) -> None:
    """Raises ValueError unless the file has exactly the names and shapes of `expected`, a published state dict."""
    found = checkpoint.state
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    reshaped = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    faults = [f"{len(missing)} missing ({some_names(missing)})"] if missing else []
    faults += [f"{len(unknown)} too many ({some_names(unknown)})"] if unknown else []
    if reshaped:
        first = reshaped[0]
        faults.append(
            f"{len(reshaped)} of another shape ({first}: {tuple(found[first].shape)} instead of "
            f"{tuple(expected[first].shape)})"
        )
    if faults:
        raise ValueError(
            f"{checkpoint.path}: expected exactly the {len(expected)} published tensors of this config's model; found "
            f"{', '.join(faults)}. Choose the config that the file belongs to with --config-file, or fetch the "
            "file again."
        )
