"""tools/show_pseudo_labels.py draws what a checkpoint grows points to, and names what is missing."""

import importlib.util
import sys

import pytest

from tiny import CONFIGS, ROOT, scenes, shrunk_config
from weakseg.engine import run_command
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.trainer import Trainer
from weakseg.labels import read_label_file, write_label_file
from weakseg.safe_io import read_image

SCRIPT = ROOT / "tools/show_pseudo_labels.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three scenes, the first without points, and a network that never saw them."""
    folder = tmp_path_factory.mktemp("scenes")
    path = scenes(folder, count=3)
    labels = read_label_file(path)
    for item in labels.annotations[labels.images[0]["id"]]:
        del item["point_coords"]
    write_label_file(path, labels)
    cfg = shrunk_config(CONFIGS / "point2mask/demo.yaml", path, folder / "run")
    Checkpointer(Trainer.build_model(cfg), str(folder), description=describe_run(cfg)).save("model")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (exit status, stdout, the last line of stderr), of the command in this process."""
    specification = importlib.util.spec_from_file_location("show_pseudo_labels", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def run(*arguments, weights=folder / "model.pth"):
        fixed = ["--config-file", folder / "config.yaml", "--output", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, [*fixed, *arguments, "MODEL.WEIGHTS", weights])])
        status = 0
        try:
            run_command(module.main)
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err.splitlines()[-1]

    return run


def test_it_draws_and_measures(run, tmp_path):
    status, out, _ = run("--count", 2)
    assert status == 0 and "pseudo masks" in out and "nearest-point split" in out
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert len(pictures) == 2
    assert read_image(pictures[0]).shape == (256 + 24, 5 * (256 + 4), 3)


def test_an_image_without_points_is_drawn_and_not_compared(run, tmp_path):
    status, out, _ = run("--count", 1)
    assert status == 0 and "mean IoU" not in out
    (picture,) = (tmp_path / "out").glob("*.png")
    assert read_image(picture).shape == (256 + 24, 5 * (256 + 4), 3)


@pytest.mark.parametrize(
    ("arguments", "weights", "sentence"),
    [
        ([], "", "MODEL.WEIGHTS: expected a checkpoint; found none."),
        (["--count", "0"], "x.pth", "--count: expected 1 or more; found 0."),
        (
            ["DATASETS.TRAIN", "('a.json', 'b.json')"],
            "x.pth",
            "DATASETS.TRAIN: expected one data set to draw; found a.json, b.json. Name one with --dataset.",
        ),
        (["DATASETS.TRAIN", "()"], "x.pth", "DATASETS.TRAIN: expected one data set to draw; found none."),
        (["--dataset", "gone.json"], "x.pth", "gone.json"),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, weights, sentence):
    status, _, error = run(*arguments, weights=weights)
    assert status == 2 and error.startswith("error: ") and sentence in error
