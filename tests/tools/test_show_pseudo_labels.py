"""tools/show_pseudo_labels.py draws what a checkpoint grows points to, and names what is missing."""

import subprocess
import sys

from tiny import CONFIGS, ROOT, scenes, shrunk_config
from weakseg.engine.trainer import Trainer
from weakseg.safe_io import read_image


def run(*arguments):
    command = [sys.executable, str(ROOT / "tools/show_pseudo_labels.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_draws_and_measures(tmp_path):
    cfg = shrunk_config(
        CONFIGS / "point2mask/demo.yaml", scenes(tmp_path, count=3), tmp_path / "run", SOLVER__MAX_ITER=1
    )
    Trainer(cfg).train()
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    result = run("--config-file", config, "--count", 2, "--output", tmp_path / "out")
    assert result.returncode == 2
    assert "error: MODEL.WEIGHTS: expected a checkpoint; found none." in result.stderr

    weights = ("MODEL.WEIGHTS", tmp_path / "run/model_final.pth")
    result = run("--config-file", config, "--count", 2, "--output", tmp_path / "out", *weights)
    assert result.returncode == 0, result.stderr
    assert "pseudo masks" in result.stdout and "nearest-point split" in result.stdout
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert len(pictures) == 2
    assert read_image(pictures[0]).shape == (256 + 24, 5 * (256 + 4), 3)
