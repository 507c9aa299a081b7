"""Reading a checkpoint, its tensors, and loading them into a model that must have exactly these."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from weakseg.labels.class_order import BACKGROUND
from weakseg.safe_io import read_weights
from weakseg.zoo.published import hint

logger = logging.getLogger(__name__)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """`read_weights`; of a missing file that others publish, the error says where."""
    try:
        return read_weights(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} {hint(path)}".rstrip()) from None


def load_exactly(
    model: nn.Module, content: dict[str, Any], path: str, *, class_names: Sequence[str] = (), remedy: str
) -> None:
    """Load the tensors of a checkpoint into `model`. Raises ValueError, and leaves the model as it was, unless they
    have exactly the names and shapes of the model's. Extra state (see `without_extra_state`) is loaded where both have
    it; without it in the file that of the model stays, which is empty at first.

    content: what the file at `path` holds; class_names: those of the run; the file must call the same class the
    background, and other differences are said in messages. remedy: the last sentence of the error.
    """
    loaded = tensors_by_name(content, path)
    state, own = without_extra_state(loaded), without_extra_state(model.state_dict())
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    reshaped = [name for name in own if name in state and state[name].shape != own[name].shape]
    here, there = list(class_names), _class_names(content)
    if here and there and here != there and len(here) == len(there):
        logger.warning("%s was trained on other class names (%s) than this data set's.", path, some_names(there))
    faults = []
    if here and there and len(here) != len(there):
        faults.append(
            f"{len(there)} classes ({some_names(there)}) where the data set has {len(here)} ({some_names(here)})"
        )
    if reshaped:
        first = reshaped[0]
        faults.append(
            f"{len(reshaped)} tensors of another shape ({first}: {tuple(state[first].shape)} instead of "
            f"{tuple(own[first].shape)})"
        )
    faults += [f"{len(missing)} tensors missing ({some_names(missing)})"] if missing else []
    faults += [f"{len(unexpected)} tensors too many ({some_names(unexpected)})"] if unexpected else []
    if missing or unexpected or reshaped:
        raise ValueError(
            f"{path}: expected exactly the {len(own)} tensors of this model; found {', '.join(faults)}. {remedy}"
        )
    check_background(there, here, path)
    model.load_state_dict(loaded, strict=False)  # not strict about extra state; all else has been compared


def check_background(class_names: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Raise ValueError where one of two lists of as many classes calls another class "background" than the other: a
    network's channels would stand for other classes (see `labels.ClassOrder`)."""
    pairs = list(zip(class_names, expected)) if len(class_names) == len(expected) else []
    for index, (found, wanted) in enumerate(pairs):
        if found != wanted and BACKGROUND in (found, wanted):
            raise ValueError(
                f"{where}: expected class {index} to be {wanted!r}, as the place of the class {BACKGROUND!r} decides "
                f"the order of channels; found {found!r}. Use a data set whose background has the same name and place."
            )


def tensors_by_name(content: dict[str, Any], path: str) -> dict[str, Tensor]:
    """The tensors of a file that holds them under "model" or "state_dict", or nothing else."""
    state = content.get("model", content.get("state_dict", content))
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError(
            f'{path}: expected tensors by name, or a dict with them under "model"; found the keys '
            f"{some_names(content)}. Convert the file first."
        )
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return state


def without_extra_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters and buffers of a state dict. The rest is what modules keep by `get_extra_state`, such as a memory
    of the last iterations: of any size, no weights, and needed for nothing but going on."""
    return {name: value for name, value in state.items() if not name.endswith("_extra_state")}


def some_names(names: Collection[Any]) -> str:
    """The first three names, of a set in alphabetical order, and how many others there are."""
    ordered = [str(name) for name in names] if isinstance(names, (list, dict)) else sorted(names)
    others = f" and {len(ordered) - 3} others" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + others


def _class_names(content: dict[str, Any]) -> list[str]:
    metadata = content.get("metadata")
    return metadata.get("stuff_classes", []) if isinstance(metadata, dict) else []
