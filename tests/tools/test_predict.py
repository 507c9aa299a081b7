"""tools/predict.py: overlay, PNG and JSON; what cannot be read or used ends in one sentence."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from methods.spml.small_runs import BACKGROUND, small_config, small_data

from tiny import CONFIGS, ROOT, scenes, shrunk_config
from weakseg.engine import run_command
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.trainer import Trainer
from weakseg.inference import WeakPredictor
from weakseg.safe_io import read_image, read_json, read_label_png, read_weights, write_png
from weakseg.visualize import paint_classes

SCRIPT = ROOT / "tools/predict.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def predict():
    """The script as a module, for what a process of its own would show no better."""
    specification = importlib.util.spec_from_file_location("predict", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def set_arguments(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])


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
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("00001.png", "00002.png"):
        (photos / name).write_bytes((weights / "train" / name).read_bytes())
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    result = run("--weights", weights / "out/model_final.pth", "--input", photos, "--output", tmp_path)
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


def save_other(folder, **changes):
    """The checkpoint of `folder` with other entries."""
    path = folder / "out/other.pth"
    torch.save(read_weights(folder / "out/model_final.pth") | changes, path)
    return path


def test_a_missing_input_is_one_sentence_of_the_command(weights, tmp_path):
    result = run("--weights", weights / "out/model_final.pth", "--input", tmp_path / "no", "--output", tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: --input: expected an image or a folder at")


@pytest.mark.parametrize(
    "opts, sentence",
    [
        (["MODEL.DEVIC", "cpu"], "Options: expected keys of the config; found the unknown key MODEL.DEVIC. Did you"),
        (["MODEL.DEVICE"], "Options: expected pairs KEY VALUE; found 1 words (MODEL.DEVICE). Add what is missing."),
        (["SEED", "one"], "Options: Type mismatch"),
        (["MODEL.DEVICE", "abacus"], "MODEL.DEVICE: expected a device of this machine; found 'abacus'"),
        (["MODEL.POINT2MASK.NUM_QUERIES", "11"], "tensors of another shape"),
        (["MODEL.POINT2MASK.DEC_LAYERS", "3"], "tensors missing"),
    ],
)
def test_wrong_options_are_one_sentence(weights, tmp_path, predict, monkeypatch, capsys, opts, sentence):
    path = weights / "out/model_final.pth"
    fixed = ("--weights", path, "--input", weights / "train", "--output", tmp_path / "out")
    assert_one_sentence(predict, monkeypatch, capsys, [*fixed, *opts], sentence)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"model": {"weight": torch.zeros(1)}}, "other.pth: expected exactly the"),
        ({"model": {"weight": 1.0}}, "other.pth: expected tensors by name"),
        ({"metadata": {"thing_classes": ["ball"]}}, "other.pth: expected a checkpoint with config, metadata and model"),
        ({"config": "MODEL: ["}, "other.pth: expected a config in YAML"),
        ({"config": "hello"}, "other.pth: expected a config in YAML"),
        ({"config": "MODEL: {HEARD: 1}"}, "other.pth: expected keys of the config; found the unknown key MODEL.HEARD"),
    ],
)
def test_a_file_that_is_no_such_checkpoint_is_one_sentence(
    weights, tmp_path, predict, monkeypatch, capsys, changes, sentence
):
    path = save_other(weights, **changes)
    arguments = ["--weights", path, "--input", weights / "train", "--output", tmp_path]
    assert_one_sentence(predict, monkeypatch, capsys, arguments, sentence)


def test_a_file_that_is_no_weights_and_an_output_that_is_a_file_are_one_sentence(
    weights, tmp_path, predict, monkeypatch, capsys
):
    text = tmp_path / "text.pth"
    text.write_text("hello")
    arguments = ["--weights", text, "--input", weights / "train", "--output", tmp_path]
    assert_one_sentence(predict, monkeypatch, capsys, arguments, "text.pth: expected a checkpoint of tensors")
    arguments[-1] = text
    assert_one_sentence(predict, monkeypatch, capsys, arguments, "--output: expected a folder at")


def assert_one_sentence(predict, monkeypatch, capsys, arguments, sentence):
    set_arguments(monkeypatch, *arguments)
    with pytest.raises(SystemExit) as end:
        run_command(predict.main)
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sentence in line


def test_names_are_never_shared(predict):
    names = predict.output_names([Path(path) for path in ("x/a.jpg", "y/a.jpg", "z/a_2.jpg", "a.png", "b.png")])
    assert names == ["a.png", "a_3.png", "a_2.png", "a_4.png", "b.png"], "the first keeps its own name"


def test_images_of_one_name_and_an_interrupted_run(weights, tmp_path, predict, monkeypatch):
    """Three files are done, the fourth is not: JSON and PNGs name the same three."""
    for name in ("x/a.png", "y/a.png", "z/a_2.png", "z/b.png"):
        write_png(tmp_path / "photos" / name, np.full((64, 64, 3), 90, np.uint8))
    output = tmp_path / "predicted"
    paint = predict.paint_panoptic
    count = iter(range(4))

    def interrupted(*arguments):
        if next(count) == 3:
            raise KeyboardInterrupt
        return paint(*arguments)

    monkeypatch.setattr(predict, "paint_panoptic", interrupted)
    set_arguments(
        monkeypatch, "--weights", weights / "out/model_final.pth", "--input", tmp_path / "photos", "--output", output
    )
    with pytest.raises(KeyboardInterrupt):
        predict.main()
    content = read_json(output / "predictions.json")
    names = [annotation["file_name"] for annotation in content["annotations"]]
    assert [Path(image["file_name"]).relative_to(tmp_path / "photos").as_posix() for image in content["images"]] == [
        "x/a.png",
        "y/a.png",
        "z/a_2.png",
    ]
    assert len(set(names)) == 3
    for kind in ("overlay", "panoptic"):
        assert {path.name for path in (output / kind).iterdir()} == set(names)


@pytest.mark.parametrize("config", ["voc_point", "voc_mobilenet_small_classifier", "voc_cam"])
def test_classes_of_a_network_without_segments(tmp_path, predict, monkeypatch, config):
    """Heads SPMLHead, SPMLClassifierHead and CAMHead: PNG, overlay and JSON tell what the network gives."""
    data = small_data(tmp_path, background=True, count=2)
    cfg = small_config(data, tmp_path / "run", config, INPUT__SEMANTIC_ROOT=str(tmp_path))
    torch.manual_seed(0)
    Checkpointer(Trainer.build_model(cfg), str(tmp_path), description=describe_run(cfg)).save("model")
    arguments = ("--weights", tmp_path / "model.pth", "--input", tmp_path / "train", "--output", tmp_path / "out")
    set_arguments(monkeypatch, *arguments)
    predict.main()
    predictor = WeakPredictor.from_checkpoint(tmp_path / "model.pth", device="cpu")
    content = read_json(tmp_path / "out/predictions.json")
    assert len(content["images"]) == 2 and not (tmp_path / "out/panoptic").exists()
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        photo = read_image(image["file_name"])
        classes = predictor(photo[:, :, ::-1])["sem_seg"].numpy()
        stored = read_label_png(tmp_path / "out/semantic" / annotation["file_name"])
        areas = {segment["category_id"] - 1: segment["area"] for segment in annotation["segments_info"]}
        assert areas == {k: int((classes == k).sum()) for k in np.unique(classes).tolist()}
        for segment in annotation["segments_info"]:
            assert ((stored == segment["id"]) == (classes == segment["category_id"] - 1)).all()
        overlay = read_image(tmp_path / "out/overlay" / annotation["file_name"])
        names, colors = predictor.metadata.stuff_classes, predictor.metadata.stuff_colors
        assert (overlay == paint_classes(photo, classes, colors, names)).all()


@pytest.mark.parametrize("is_scores", [False, True])
def test_the_values_of_a_class_map(tmp_path, predict, is_scores):
    """By hand: the fifth of six classes, of which three are things, is the background; a pixel may have no class."""
    names = [f"class {k}" for k in range(6)]
    names[BACKGROUND] = "background"
    metadata = SimpleNamespace(
        thing_classes=names[:3], stuff_classes=names, stuff_colors=[[9 * k, 0, 0] for k in range(6)]
    )
    classes = torch.tensor([[BACKGROUND, BACKGROUND, 0], [2, 5, 0 if is_scores else 255]])
    given = torch.nn.functional.one_hot(classes, 6).permute(2, 0, 1).float() if is_scores else classes
    stub = type("Stub", (), {"metadata": metadata, "__call__": lambda self, image: {"sem_seg": given}})()
    segments = predict.write_prediction(stub, np.zeros((2, 3, 3), np.uint8), tmp_path, "a.png")
    assert read_label_png(tmp_path / "semantic/a.png").tolist() == [[0, 0, 1], [3, 5, 1 if is_scores else 254]]
    assert segments == [
        {"id": 1, "category_id": 1, "isthing": 1, "area": 2 if is_scores else 1},
        {"id": 3, "category_id": 3, "isthing": 1, "area": 1},
        {"id": 0, "category_id": 5, "isthing": 0, "area": 2},
        {"id": 5, "category_id": 6, "isthing": 0, "area": 1},
    ]


def test_a_network_of_neither_is_one_sentence(tmp_path, predict):
    with pytest.raises(ValueError, match="expected a network that gives panoptic_seg or sem_seg; found instances"):
        predict.write_prediction(lambda image: {"instances": 0}, np.zeros((2, 3, 3), np.uint8), tmp_path, "a.png")
