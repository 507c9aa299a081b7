"""The training command: a whole run on rendered scenes, and mistakes that end in one sentence."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from engine.toy import loggers_as_before
from tiny import CONFIGS, scenes, shrunk_config
from weakseg.engine import run_command

TOOL = Path(__file__).parents[2] / "tools" / "train_net.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path) -> Path:
    """Two steps of the demo's config, shrunk, on three scenes."""
    label_file = scenes(tmp_path / "data", count=3)
    cfg = shrunk_config(CONFIGS / "point2mask/demo.yaml", label_file, tmp_path / "output", SOLVER__MAX_ITER=2)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return tmp_path / "config.yaml"


@pytest.fixture
def command(tool, monkeypatch, capsys):
    """Run the command in this process: (exit status, stderr)."""

    def run(*arguments) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        capsys.readouterr()
        with loggers_as_before():
            try:
                run_command(tool.main)
            except SystemExit as end:
                return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def test_train_resume_evaluate(command, config):
    output = config.parent / "output"
    assert command("--config-file", config)[0] == 0
    first = torch.load(output / "model_final.pth")
    assert first["iteration"] == 1
    assert (output / "config.yaml").is_file()

    assert command("--config-file", config, "--resume", "SOLVER.MAX_ITER", 3)[0] == 0
    assert torch.load(output / "model_final.pth")["iteration"] == 2
    losses = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in losses if "total_loss" in row] == [1, 2]
    assert any("panoptic_seg/PQ" in row for row in losses)

    before = (output / "model_final.pth").read_bytes()
    assert command("--config-file", config, "--eval-only", "MODEL.WEIGHTS", output / "model_final.pth")[0] == 0
    assert (output / "model_final.pth").read_bytes() == before


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["SOLVER.BASE_LERNING", 1], "unknown key SOLVER.BASE_LERNING. Did you mean SOLVER.BASE_LR?"),
        (["MODEL.WEIGHTS", "absent.pth"], "absent.pth: expected a checkpoint; found nothing there."),
        (["--eval-only"], "--eval-only: expected a checkpoint in MODEL.WEIGHTS; found none."),
        (["DATASETS.TRAIN", "('absent.json',)"], "expected a label file at absent.json; found none."),
        (["DATASETS.TRAIN", "('nothing',)"], "found 'nothing'."),
        (["MODEL.WEAK_HEAD.NAME", "NoHead"], "MODEL.WEAK_HEAD.NAME: expected one of"),
        (["SOLVER.IMS_PER_BATCH", 3, "SOLVER.ACCUMULATE", 2], "SOLVER.IMS_PER_BATCH: expected a multiple of"),
        (["--num-gpus", "0"], "--num-gpus: expected the number of processes, at least 1; found 0."),
    ],
)
def test_mistake_is_one_sentence_and_status_2(command, config, arguments, sentence):
    status, text = command("--config-file", config, *arguments)
    assert status == 2
    last = text.splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last
    assert "Traceback" not in text


def test_another_number_of_classes_is_refused_when_resuming_and_evaluating(command, config):
    output = config.parent / "output"
    assert command("--config-file", config)[0] == 0
    path = output / "model_final.pth"
    labels = json.loads((config.parent / "data" / "train.json").read_text())
    extra = {**labels["categories"][0], "id": 99, "name": "one more"}
    (config.parent / "data" / "more.json").write_text(
        json.dumps(labels | {"categories": [*labels["categories"], extra]})
    )
    more_file = f"('{config.parent}/data/more.json',)"
    more = ["DATASETS.TRAIN", more_file, "DATASETS.TEST", more_file]
    count = len(labels["categories"])
    for options in (["--resume"], ["--eval-only"]):
        status, text = command("--config-file", config, *options, "MODEL.WEIGHTS", path, *more)
        assert status == 2
        assert f"found {count} classes" in text.splitlines()[-1]
        assert f"where the data set has {count + 1}" in text.splitlines()[-1]
    status, text = command("--config-file", config, "DATASETS.TRAIN", more_file)
    assert status == 2
    assert "DATASETS.TEST: expected " in text.splitlines()[-1]
    # Fine-tuning replaces what is class-shaped.
    fresh = ["OUTPUT_DIR", config.parent / "fine", "MODEL.WEIGHTS", path]
    assert command("--config-file", config, *fresh, *more, "SOLVER.MAX_ITER", 1)[0] == 0
    assert "classes: " in (config.parent / "fine" / "log.txt").read_text()


def test_help_shows_examples(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(TOOL), "--help"])
    with pytest.raises(SystemExit, match="0"):
        run_command(tool.main)
    text = capsys.readouterr().out
    options = (
        "--config-file",
        "--num-gpus",
        "--num-machines",
        "--machine-rank",
        "--dist-url",
        "--resume",
        "--eval-only",
    )
    assert [option for option in options if option not in text] == []
    assert "torchrun --nproc-per-node" in text
