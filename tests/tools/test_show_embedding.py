"""tools/show_embedding.py draws each panel where its title says, for both stages of SPML, and names what is missing."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from engine.toy import loggers_as_before
from tiny import CONFIGS, ROOT, scenes, shrunk_config
from weakseg.data import dataset_metadata
from weakseg.engine import run_command
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.trainer import Trainer
from weakseg.evaluation.truth import Truth
from weakseg.labels import ClassOrder, read_label_file, write_label_file
from weakseg.methods.spml.segmentation import SegmentationHead
from weakseg.safe_io import read_image, write_png
from weakseg.visualize import VOID_COLOR, legend, paint_classes, paint_labels, paint_segments

SCRIPT = ROOT / "tools/show_embedding.py"
SIZE, SCALE, TITLE = 64, 4, 24
"""Of the scenes in pixels, of a panel, and the height of its title."""
CONFIG_OF = {
    "SPMLHead": "spml/voc_point_r50",
    "SPMLClassifierHead": "spml/voc_mobilenet_small_classifier",
    "Point2MaskHead": "point2mask/demo",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scenes with sand as the background; regions; label PNGs, whose upper rows are ignored and lower unlabelled;
    and networks of all heads that never saw them."""
    folder = tmp_path_factory.mktemp("scenes")
    path = scenes(folder, count=2, size=SIZE)
    labels = read_label_file(path)
    labels.categories[-1]["name"] = "background"
    write_label_file(path, labels)
    for head, config in CONFIG_OF.items():
        cfg = shrunk_config(
            CONFIGS / f"{config}.yaml",
            path,
            folder / "run",
            INPUT__REGION_ROOT=str(folder / "regions"),
            INPUT__SEMANTIC_ROOT=str(folder / "semantic"),
        )
        Checkpointer(Trainer.build_model(cfg), str(folder), description=describe_run(cfg)).save(head)
        (folder / f"{head}.yaml").write_text(cfg.dump())
    truth = Truth(dataset_metadata(str(path)))
    order = ClassOrder.of(truth.class_names)
    for image in labels.images:
        name = image["file_name"].rpartition("/")[2].rpartition(".")[0] + ".png"
        write_png(folder / "regions" / name, truth.panoptic(image["id"])[0].astype(np.uint8))
        semantic = order.to_png(truth.class_map(image["id"]))
        semantic[:8], semantic[-8:] = 255, 254
        write_png(folder / "semantic" / name, semantic)
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """run(*arguments, head=) -> (exit status, stdout, the last line of stderr), of the command in this process."""
    specification = importlib.util.spec_from_file_location("show_embedding", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def run(*arguments, head="SPMLHead", weights=None):
        fixed = ["--config-file", folder / f"{head}.yaml", "--output", tmp_path / "out"]
        weights = folder / f"{head}.pth" if weights is None else weights
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, [*fixed, *arguments, "MODEL.WEIGHTS", weights])])
        capsys.readouterr()
        status = 0
        with loggers_as_before():
            try:
                run_command(module.main)
            except SystemExit as end:
                status = end.code
        printed = capsys.readouterr()
        return status, printed.out, (printed.err.splitlines() or [""])[-1]

    return run


@pytest.fixture
def results(monkeypatch):
    """Class 0 is the pseudo label of every pixel but the upper rows, which have none; class 1 is predicted."""
    pseudo = torch.zeros(SIZE, SIZE, dtype=torch.long)
    pseudo[:20] = 255
    monkeypatch.setattr(SegmentationHead, "pseudo_labels", lambda *_: [{"sem_seg": pseudo}])
    predicted = torch.ones(SIZE, SIZE, dtype=torch.long)
    monkeypatch.setattr(SegmentationHead, "predict", lambda *_: [{"sem_seg": predicted}])
    return pseudo.numpy(), predicted.numpy()


def panels_of(path, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The panels of a sheet at the size of the scene, four in a row, and what is below them."""
    picture = read_image(path)
    side = SIZE * SCALE
    assert picture.shape[1] == 4 * (side + 4)
    tops = [row * (side + TITLE) + TITLE for row in range(-(-count // 4))]
    panels = [
        picture[top : top + side, left : left + side] for top in tops for left in range(0, 4 * (side + 4), side + 4)
    ]
    below = picture[tops[-1] + side :]
    empty = panels[count:]
    assert all((panel == 255).all() for panel in empty)
    return [panel[::SCALE, ::SCALE] for panel in panels[:count]], below


def test_every_panel_shows_what_belongs_there(run, folder, tmp_path, results):
    status, out, _ = run()
    assert status == 0 and out.endswith(f"Pictures: {tmp_path}/out\n")
    truth = Truth(dataset_metadata(str(folder / "train.json")))
    colors = dataset_metadata(str(folder / "train.json")).stuff_colors
    labels = read_label_file(folder / "train.json")
    assert len(list((tmp_path / "out").glob("*.png"))) == len(labels.images) == 2
    for image in labels.images:
        name = image["file_name"].rpartition("/")[2].rpartition(".")[0]
        panels, below = panels_of(tmp_path / f"out/{name}.png", 8)
        photo, ids = read_image(folder / image["file_name"]), truth.panoptic(image["id"])[0]
        true_classes = truth.class_map(image["id"])
        assert (panels[0] == photo).all()
        for item in labels.annotations[image["id"]]:
            x, y = (int(value) for value in item["point_coords"][0])
            assert tuple(panels[1][y, x]) == tuple(colors[labels.class_index[item["category_id"]]])
        assert 0 < (panels[1] != photo).any(2).mean() < 0.4
        assert (panels[2] == paint_segments(photo, ids)).all()
        assert len(np.unique(panels[3].reshape(-1, 3), axis=0)) > 50
        outlined = (panels[4] == 255).all(2)
        assert 0.05 < outlined.mean() < 0.5 and len(np.unique(panels[4][~outlined], axis=0)) <= 9
        for panel, classes in zip(panels[5:], [*results, true_classes]):
            assert (panel == paint_classes(photo, classes, colors, truth.class_names)).all()
        shown = sorted({0, 1, *np.unique(true_classes).tolist()})
        names, patches = [truth.class_names[k] for k in shown], [colors[k] for k in shown]
        assert (below == legend([*names, "none"], [*patches, VOID_COLOR], below.shape[1])).all()


def test_the_classifier_stage_shows_its_label_maps_and_no_regions(run, folder, tmp_path, results):
    status, _, _ = run("--count", 1, head="SPMLClassifierHead")
    assert status == 0
    (path,) = (tmp_path / "out").glob("*.png")
    image = read_label_file(folder / "train.json").images[0]
    metadata = dataset_metadata(str(folder / "train.json"))
    panels, _ = panels_of(path, 7)
    photo = read_image(folder / image["file_name"])
    given = Truth(metadata).class_map(image["id"])
    given[:8], given[-8:] = 255, 254
    assert (panels[1] == paint_labels(photo, given, metadata.stuff_colors)).all()
    assert (panels[5] == paint_classes(photo, results[1], metadata.stuff_colors, metadata.stuff_classes)).all()


@pytest.mark.parametrize("head", ["SPMLHead", "SPMLClassifierHead"])
def test_a_network_makes_all_of_it(run, tmp_path, head):
    status, _, _ = run("--count", 1, head=head)
    assert status == 0
    (path,) = (tmp_path / "out").glob("*.png")
    panels, _ = panels_of(path, 8 if head == "SPMLHead" else 7)
    assert all((panel != panels[0]).any() for panel in panels[1:])


def test_without_truth_and_without_a_pseudo_label_map_their_panels_are_left_out(run, folder, tmp_path):
    labels = read_label_file(folder / "train.json")
    for items in labels.annotations.values():
        for item in items:
            del item["segmentation"]
    write_label_file(folder / "points.json", labels)
    status, _, _ = run("--dataset", folder / "points.json", "--count", 1, "MODEL.SPML.PSEUDO.METHOD", "prototypes")
    assert status == 0
    (path,) = (tmp_path / "out").glob("*.png")
    panels_of(path, 6)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ([], {"weights": ""}, "MODEL.WEIGHTS: expected a checkpoint; found none."),
        (["--count", "0"], {}, "--count: expected 1 or more; found 0."),
        (["DATASETS.TRAIN", "()"], {}, "DATASETS.TRAIN: expected one data set to draw; found none. Name one"),
        (
            ["DATASETS.TRAIN", "('a.json', 'b.json')"],
            {},
            "DATASETS.TRAIN: expected one data set to draw; found a.json, b.json. Name one with --dataset.",
        ),
        (["--dataset", "gone.json"], {}, "gone.json"),
        (
            [],
            {"head": "Point2MaskHead"},
            "MODEL.WEAK_HEAD.NAME: expected SPMLHead or SPMLClassifierHead, whose embedding is drawn; found "
            "Point2MaskHead. Choose the config of one of them.",
        ),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, options, sentence):
    status, _, error = run(*arguments, **options)
    assert status == 2 and error.startswith("error: ") and sentence in error
