"""tools/predict.py: overlay, PNG and JSON; files that cannot be read are named and left out."""

import subprocess
import sys

import numpy as np
import pytest

from tiny import CONFIGS, ROOT, scenes, shrunk_config
from weakseg.engine.trainer import Trainer
from weakseg.safe_io import read_image, read_json


def run(*arguments):
    command = [sys.executable, str(ROOT / "tools/predict.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    cfg = shrunk_config(
        CONFIGS / "point2mask/demo.yaml",
        scenes(folder, count=2),
        folder / "out",
        SOLVER__MAX_ITER=1,
        DATASETS__TEST=(),
        MODEL__POINT2MASK__TEST__QUALITY_THRESH_STUFF=0.0,
    )
    Trainer(cfg).train()
    return folder


def test_a_folder_with_a_broken_image(weights, tmp_path):
    (weights / "train/broken.jpg").write_bytes(b"\xff\xd8 no image")
    result = run("--weights", weights / "out/model_final.pth", "--input", weights / "train", "--output", tmp_path)
    assert result.returncode == 1
    assert "left out:" in result.stderr and "broken.jpg" in result.stderr and "Traceback" not in result.stderr
    content = read_json(tmp_path / "predictions.json")
    assert [image["height"] for image in content["images"]] == [64, 64]
    assert [category["name"] for category in content["categories"]][:2] == ["ball", "crate"]
    for annotation in content["annotations"]:
        rgb = read_image(tmp_path / "panoptic" / annotation["file_name"]).astype(int)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        described = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
        assert {int(k): int((ids == k).sum()) for k in np.unique(ids) if k} == described
        assert read_image(tmp_path / "overlay" / annotation["file_name"]).shape == (64, 64, 3)


def test_a_missing_input_is_one_sentence(weights, tmp_path):
    result = run("--weights", weights / "out/model_final.pth", "--input", tmp_path / "no", "--output", tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: --input: expected an image or a folder at")
