"""TEST.SHOW_DIR: one picture per test image."""

from pathlib import Path

import numpy as np
import torch
from detectron2.data.catalog import Metadata

from tiny import CONFIGS, scenes, shrunk_config
from weakseg.engine.trainer import Trainer
from weakseg.evaluation.pictures import PictureWriter
from weakseg.safe_io import read_image, write_png


def test_one_picture_per_test_image(tmp_path):
    cfg = shrunk_config(
        CONFIGS / "point2mask/demo.yaml", scenes(tmp_path, count=3), tmp_path, TEST__SHOW_DIR=str(tmp_path / "show")
    )
    trainer = Trainer(cfg)
    results = trainer.test(cfg, trainer.module)
    pictures = sorted((tmp_path / "show").rglob("*.png"))
    assert [picture.name for picture in pictures] == ["00001.png", "00002.png", "00003.png"]
    # image, panoptic, semantic, side by side
    assert read_image(pictures[0]).shape == (256 + 24, 3 * (256 + 4), 3)
    assert set(results) == {"panoptic_seg", "sem_seg"}


def test_equal_names_in_different_folders_stay_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metadata = Metadata(image_root="photos", stuff_classes=["sky"], stuff_colors=[[0, 0, 255]])
    writer = PictureWriter(metadata, "show")
    for name, grey in (("x/a.png", 10), ("y/a.png", 200), ("b.png", 100)):
        write_png(tmp_path / "photos" / name, np.full((256, 256, 3), grey, np.uint8))
        result = {"sem_seg": torch.zeros(256, 256, dtype=torch.int64)}
        writer.process([{"file_name": str(tmp_path / "photos" / name)}], [result])
    greys = {path.as_posix(): int(read_image(path)[150, 100, 0]) for path in sorted(Path("show").rglob("*.png"))}
    assert greys == {"show/b.png": 100, "show/x/a.png": 10, "show/y/a.png": 200}
