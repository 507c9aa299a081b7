"""A whole model with random weights, a batch for it, and where the time of its parts goes."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model as build_meta_architecture
from torch import nn

from benchmarks import synchronize
from benchmarks.scenes import Scene, make_scene
from weakseg.engine.defaults import load_config
from weakseg.labels import LabelFile, WeakLabels, write_label_file

CONFIGS = Path(__file__).parents[2] / "configs" / "point2mask"
CLASSES = {"voc": (20, 1), "coco": (80, 53)}


def add_model_arguments(parser: argparse.ArgumentParser, *, height: int, width: int, images: int) -> None:
    parser.add_argument("--config", default=str(CONFIGS / "voc_r50.yaml"), help="config file; its weights are not read")
    parser.add_argument("--classes", choices=CLASSES, default="voc", help="20 + 1 or 80 + 53 classes")
    parser.add_argument("--height", type=int, default=height, help="of the network input")
    parser.add_argument("--width", type=int, default=width)
    parser.add_argument("--images", type=int, default=images, help="images of the batch")
    parser.add_argument("--things", type=int, default=10, help="thing instances an image")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--opts", nargs="*", default=[], help="further config keys and values by turns")


def build_model(args: argparse.Namespace) -> nn.Module:
    """The model of `args` with random weights from a fixed seed."""
    num_things, num_stuff = CLASSES[args.classes]
    with tempfile.TemporaryDirectory() as folder:
        label_file = Path(folder, "classes.json")
        categories = [
            {"id": k + 1, "name": f"class {k}", "isthing": int(k < num_things)} for k in range(num_things + num_stuff)
        ]
        write_label_file(label_file, LabelFile(categories, [], {}))
        cfg = load_config(args.config, args.opts)
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (str(label_file),)
        cfg.MODEL.BACKBONE.WEIGHTS = cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.DEVICE = args.device
        torch.manual_seed(0)
        return build_meta_architecture(cfg)


def scene_of(args: argparse.Namespace) -> Scene:
    num_things, num_stuff = CLASSES[args.classes]
    counts = {"num_things": num_things, "num_stuff": num_stuff, "stuff_classes": min(num_stuff, 2)}
    return make_scene(args.height, args.width, images=args.images, things=args.things, **counts)


def training_batch(scene: Scene, model: nn.Module) -> list[dict]:
    """Samples as the loader hands them out: a point per instance and per stuff class."""
    batch = []
    pixels = (scene.image * model.pixel_std.cpu() + model.pixel_mean.cpu()).clamp(0, 255).byte()
    for b, image in enumerate(pixels):
        point_map = scene.point_map[b]
        stuff = ((point_map >= scene.num_things) & (point_map != 255)).nonzero()
        pixel = torch.cat([scene.points[b][:, 1:], stuff])
        weak = WeakLabels(
            image_size=scene.size,
            classes=torch.cat([scene.classes[b], point_map[stuff[:, 0], stuff[:, 1]]]),
            is_crowd=torch.zeros(len(pixel), dtype=torch.bool),
            points=pixel.flip(1) + 0.5,
            point_target=torch.arange(len(pixel)),
            point_positive=torch.ones(len(pixel), dtype=torch.bool),
        )
        size = {"height": scene.size[0], "width": scene.size[1]}
        batch.append({"image": image, **size, "weak": weak, "evidence": {}})
    return batch


class PartTimer:
    """Seconds by part, summed over the calls of one run; parts are wrapped functions and `measure` blocks."""

    def __init__(self, device: str = "cpu"):
        self.device = device
        self.runs: list[dict[str, float]] = []

    def start_run(self) -> None:
        self.runs.append({})

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.runs[-1][part] = self.runs[-1].get(part, 0.0) + time.perf_counter() - start

    def wrap(self, owner: Any, name: str, part: str, change: Callable[[Any], Any] = lambda result: result) -> None:
        """Count every call of `owner.name`, a bound method, as `part`; the caller gets `change(result)`."""
        function = getattr(owner, name)

        @wraps(function)
        def timed(*args, **kwargs):
            with self.measure(part):
                result = function(*args, **kwargs)
            return change(result)

        setattr(owner, name, timed)

    def shares(self, prefix: str, parts: list[str]) -> list[dict]:
        """A row a part: median seconds over the runs, and the median of its share of a run's sum."""
        table = np.array([[run.get(part, 0.0) for part in parts] for run in self.runs])
        shares = table / table.sum(axis=1, keepdims=True)
        return [
            {
                "name": f"{prefix}{part}",
                "runs": len(self.runs),
                "seconds": float(np.median(table[:, k])),
                "share": float(np.median(shares[:, k])),
                "largest_share": float(shares[:, k].max()),
            }
            for k, part in enumerate(parts)
        ]
