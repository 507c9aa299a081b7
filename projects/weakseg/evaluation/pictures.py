"""One picture per test image (`TEST.SHOW_DIR`): the image beside what was predicted on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator

from weakseg.safe_io import read_image, write_png
from weakseg.visualize import paint_classes, paint_panoptic, sheet


class PictureWriter(DatasetEvaluator):
    """Writes one PNG an image below `folder` while an evaluation runs, where the image lies below the data set's
    `image_root` and under its name. It measures nothing."""

    def __init__(self, metadata: Metadata, folder: str | Path):
        self._metadata, self._folder = metadata, Path(folder)
        self._image_root = Path(metadata.image_root).resolve()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for sample, result in zip(inputs, outputs):
            image = read_image(sample["file_name"])
            panels = [("image", image)]
            if "panoptic_seg" in result:
                ids, segments = result["panoptic_seg"]
                names, colors = self._metadata.stuff_classes, self._metadata.stuff_colors
                panels.append(("panoptic", paint_panoptic(image, ids.cpu().numpy(), segments, colors, names)))
            if "sem_seg" in result:
                semantic = result["sem_seg"].cpu().numpy()
                classes = semantic.argmax(0) if semantic.ndim == 3 else semantic
                panels.append(("semantic", paint_classes(image, classes, self._metadata.stuff_colors)))
            height = int(np.clip(image.shape[0], 256, 512))
            name = Path(sample["file_name"]).resolve().relative_to(self._image_root).with_suffix(".png")
            write_png(self._folder / name, sheet(panels, height))
