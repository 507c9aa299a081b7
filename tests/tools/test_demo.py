"""tools/demo.py, shrunk to a few scenes and steps, ends with its table and one picture per held-out scene."""

import subprocess
import sys

import pytest

from tiny import ROOT
from weakseg.safe_io import read_image, read_json


@pytest.mark.parametrize("baseline", [False, True], ids=["points", "with baseline"])
def test_the_demo_runs_to_its_table(tmp_path, baseline):
    sizes = ["--train-images", "4", "--test-images", "2", "--output", str(tmp_path)]
    opts = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "MODEL.POINT2MASK.HIDDEN_DIM", "32"]
    command = [sys.executable, str(ROOT / "tools/demo.py"), *sizes, *(["--baseline"] if baseline else []), *opts]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "before training" in result.stdout and "trained from points" in result.stdout
    assert ("trained from masks" in result.stdout) == baseline
    assert "nearest-point split" in result.stdout
    assert result.stdout.strip().splitlines()[-1].endswith(str(tmp_path / "pictures"))
    pictures = sorted((tmp_path / "pictures").glob("*.png"))
    assert [picture.name for picture in pictures] == ["00001.png", "00002.png"]
    assert read_image(pictures[0]).shape == (256 + 24, 6 * (256 + 4), 3)
    report = read_json(tmp_path / "report.json")
    assert set(report["mean_iou_of_targets"]) == {"pseudo masks", "nearest-point split"}
    assert report["points"]["training_seconds"] > 0
