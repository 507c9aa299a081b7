"""Checkpoints: written in one step, loaded either exactly or, for fine-tuning, as far as they fit."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import Tensor, nn

from weakseg import __version__
from weakseg.data.catalog import metadata_of
from weakseg.safe_io import atomic_write
from weakseg.weights import load_exactly, read_checkpoint, some_names, tensors_by_name, without_extra_state

logger = logging.getLogger(__name__)

_REMEDY = (
    "Use the config and the data set that the file was trained with, or fine-tune: train with it as MODEL.WEIGHTS, "
    "without --resume."
)


def describe_run(cfg: CfgNode) -> dict[str, Any]:
    """What a checkpoint carries besides tensors, so that the file alone predicts: "weakseg_version", "config" (YAML),
    and "metadata": names and colours of the classes under the keys of Detectron2's metadata."""
    metadata = metadata_of(cfg)
    classes = {key: list(metadata.get(key)) for key in ("thing_classes", "stuff_classes")}
    colors = {key: [list(map(int, color)) for color in metadata.get(key)] for key in ("thing_colors", "stuff_colors")}
    return {"weakseg_version": __version__, "config": cfg.dump(), "metadata": {**classes, **colors}}


class Checkpointer(FvcoreCheckpointer):
    """Saves `<save_dir>/<name>.pth` on the main process and loads on all. A file holds "model", the state of each of
    `checkpointables`, and `description` (see `describe_run`)."""

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, description: dict[str, Any] | None = None, **checkpointables: Any
    ):
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.description = description or {}

    def save(self, name: str, **extra: Any) -> None:
        """A file with this name is always complete: an error while writing leaves the old one and the pointer as is."""
        if not self.save_dir or not self.save_to_disk:
            return
        state = {key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        with atomic_write(path) as temporary:
            torch.save({"model": self.model.state_dict(), **state, **self.description, **extra}, temporary)
        self.tag_last_checkpoint(path.name)
        logger.info("Saved %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_write(Path(self.save_dir, "last_checkpoint")) as temporary:
            temporary.write_text(last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the last checkpoint of `save_dir` exactly when `resume` and there is one; else fine-tune from `path`,
        which may be empty. Returns what the exactly loaded file holds beyond model and checkpointables."""
        if resume and self.has_checkpoint():
            return self.load(self.get_checkpoint_file())
        if resume:
            logger.warning("%s has no checkpoint to resume; training starts anew.", self.save_dir)
        if path:
            self.fine_tune(path)
        return {}

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load every tensor, and `checkpointables` (default: all) as far as the file holds them. Raises ValueError
        unless the file's tensors have exactly the names and shapes of the model's (see `load_exactly`)."""
        content = self._load_file(path)
        class_names = self.description.get("metadata", {}).get("stuff_classes", [])
        load_exactly(self.model, content, path, class_names=class_names, remedy=_REMEDY)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in content:
                self.checkpointables[key].load_state_dict(content.pop(key))
            else:
                logger.warning("%s holds no %s; it starts anew.", path, key)
        logger.info("%s: all %d tensors loaded", path, len(without_extra_state(self.model.state_dict())))
        return {key: value for key, value in content.items() if key != "model"}

    def fine_tune(self, path: str) -> None:
        """Load the tensors that fit. Those of another first size are class-shaped: they keep their fresh values, which
        one line of the log says; extra state starts new too. Raises ValueError for any other difference of shape, for
        another backbone, and where (almost) no name of the file is one of the model's."""
        state = without_extra_state(tensors_by_name(self._load_file(path), path))
        own = without_extra_state(self.model.state_dict())
        matching = [name for name in own if name in state]
        if len(matching) < max(1, 0.1 * min(len(state), len(own))):
            raise ValueError(
                f"{path}: expected tensors like {next(iter(own))!r}; found {next(iter(state), 'none')!r} and others, "
                f"of which {len(matching)} of {len(state)} belong to this model. Convert the file to WeakSeg's names, "
                "or choose the config it was made with."
            )
        reshaped = [name for name in matching if state[name].shape != own[name].shape]
        for name in reshaped:
            if not _differ_in_first_size(state[name], own[name]):
                raise ValueError(
                    f"{path}: expected {name} of shape {tuple(own[name].shape)}; found {tuple(state[name].shape)}. "
                    "Only the number of classes may differ: choose the config with the sizes of this file."
                )
        missing, unused = own.keys() - state.keys(), state.keys() - own.keys()
        _check_backbone(missing, unused, path)
        loaded = {name: state[name] for name in matching if name not in reshaped}
        self.model.load_state_dict(loaded, strict=False)
        sizes = dict.fromkeys(f"{len(state[name])} -> {len(own[name])}" for name in reshaped)
        notes = [f"{', '.join(sizes)} classes: {some_names(reshaped)} start new"] if reshaped else []
        notes += [f"{len(loaded)} of {len(own)} tensors loaded"]
        notes += [f"not in the file: {some_names(missing)}"] if missing else []
        notes += [f"not in the model: {some_names(unused)}"] if unused else []
        logger.info("%s: %s", path, "; ".join(notes))

    def _load_file(self, f: str) -> dict[str, Any]:
        return read_checkpoint(f)


def _check_backbone(missing: Collection[str], unused: Collection[str], path: str) -> None:
    faults = []
    for names, kind in ((missing, "missing"), (unused, "too many")):
        wrong = {name for name in names if name.startswith("backbone.") and not name.endswith("num_batches_tracked")}
        faults += [f"{len(wrong)} {kind} ({some_names(wrong)})"] if wrong else []
    if faults:
        raise ValueError(
            f"{path}: expected exactly the tensors of this backbone; found {' and '.join(faults)}. Choose a file with "
            "this backbone, or the config that the file was made with."
        )


def _differ_in_first_size(a: Tensor, b: Tensor) -> bool:
    return a.dim() == b.dim() > 0 and a.shape[1:] == b.shape[1:]
