"""TEST.SHOW_DIR: one picture per test image."""

from tiny import CONFIGS, scenes, shrunk_config
from weakseg.engine.trainer import Trainer
from weakseg.safe_io import read_image


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
