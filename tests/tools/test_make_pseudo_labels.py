"""tools/make_pseudo_labels.py: what it writes, starts again, refuses; one process and two."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.toy import loggers_as_before
from pseudo_labels import first_point_head
from tiny import CONFIGS, ROOT, scenes, shrunk_config
from weakseg.engine import run_command
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.trainer import Trainer
from weakseg.labels import read_label_file, write_label_file
from weakseg.proposals.map_folder import declare_provenance, read_provenance
from weakseg.safe_io import read_label_png, write_png

SCRIPT = ROOT / "tools/make_pseudo_labels.py"
COUNT = 4

# Its processes know the head too: they import it again with this file.
WITH_HEAD = f"""
import sys
sys.path += {[str(ROOT / "tools"), str(ROOT / "tests")]}
import make_pseudo_labels
from pseudo_labels import first_point_head
from weakseg.engine import run_command

if __name__ == "__main__":
    run_command(make_pseudo_labels.main)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes, the last without points, a region map of each, and a config and a checkpoint of FirstPointHead."""
    folder = tmp_path_factory.mktemp("scenes")
    path = scenes(folder, count=COUNT)
    labels = read_label_file(path)
    for item in labels.annotations[labels.images[-1]["id"]]:
        del item["point_coords"]
    write_label_file(path, labels)
    for image in labels.images:
        write_png(folder / "regions" / f"{stem(image)}.png", np.zeros((image["height"], image["width"]), np.uint8))
    for head in ("FirstPointHead", "PredictingHead", "Point2MaskHead"):
        cfg = shrunk_config(CONFIGS / "point2mask/demo.yaml", path, folder / "run", MODEL__WEAK_HEAD__NAME=head)
        cfg.INPUT.EVIDENCE, cfg.INPUT.REGION_ROOT = ("regions",), str(folder / "regions")
        Checkpointer(Trainer.build_model(cfg), str(folder), description=describe_run(cfg)).save(head)
        (folder / f"{head}.yaml").write_text(cfg.dump())
    return folder


def stem(image):
    return image["file_name"].rpartition("/")[2].rpartition(".")[0]


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """run(*arguments) -> (exit status, stdout, the last line of stderr), of the command in this process."""
    specification = importlib.util.spec_from_file_location("make_pseudo_labels", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def run(*arguments, head="FirstPointHead", weights=None):
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


def check_maps(labels, root):
    """Every pixel has the class of the image's first point, counted from 1; where there is none it is unlabelled."""
    for image in labels.images:
        found = read_label_png(root / f"{stem(image)}.png")
        first = [item for item in labels.annotations[image["id"]] if item.get("point_coords")][:1]
        expected = labels.class_index[first[0]["category_id"]] + 1 if first else 254
        assert found.shape == (image["height"], image["width"]) and (found == expected).all()


def test_it_writes_what_the_head_makes_of_the_points(run, folder, tmp_path):
    status, out, _ = run()
    assert status == 0 and out.endswith(f"{tmp_path}/out: {COUNT} images written, 0 there before\n")
    labels = read_label_file(folder / "train.json")
    check_maps(labels, tmp_path / "out/semantic")
    values = {read_label_png(path).max() for path in (tmp_path / "out/semantic").glob("*.png")}
    assert len(values) > 1 and 254 in values
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"semantic", "log.txt"}
    made_by = read_provenance(tmp_path / "out/semantic")
    assert made_by.startswith(
        f"FirstPointHead with {folder.name}/FirstPointHead.pth from points, regions of train.json ("
    )


def test_it_goes_on(run, folder, tmp_path):
    run()
    first, *_, last = sorted((tmp_path / "out/semantic").glob("*.png"))
    kept, time = first.read_bytes(), first.stat().st_mtime_ns
    last.unlink()
    status, out, bar = run("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "1")
    assert status == 0 and "1 images written, 3 there before" in out and "4/4" in bar
    assert (first.read_bytes(), first.stat().st_mtime_ns) == (kept, time) and last.exists()


def test_another_data_set(run, folder, tmp_path):
    labels = read_label_file(folder / "train.json")
    labels.images.pop(0)
    write_label_file(folder / "other.json", labels)
    status, out, _ = run("--dataset", folder / "other.json")
    assert status == 0 and "3 images written" in out
    check_maps(labels, tmp_path / "out/semantic")


def other_points(folder, path):
    """The label file with a point a pixel further to the right."""
    labels = read_label_file(folder / "train.json")
    labels.annotations[labels.images[0]["id"]][0]["point_coords"][0][0] += 1
    write_label_file(path, labels)
    return path


def test_what_would_mix_is_refused(run, folder, tmp_path):
    shutil.copytree(folder / "regions", tmp_path / "regions")
    shutil.copytree(folder / "regions", tmp_path / "memory")
    fixed = ("INPUT.REGION_ROOT", tmp_path / "regions", "MODEL.SPML.TEST.MEMORY", tmp_path / "memory")
    assert run(*fixed)[0] == 0
    (tmp_path / folder.name).mkdir()
    weights = shutil.copy(folder / "FirstPointHead.pth", tmp_path / folder.name)
    with Path(weights).open("ab") as file:
        file.write(b"\0")
    (folder / "more.json").write_bytes((folder / "train.json").read_bytes())
    for arguments in (
        ("INPUT.MIN_SIZE_TEST", "64"),
        ("MODEL.SPML.PSEUDO.POWER", "3"),
        ("TEST.CRF.POS_W", "2.0"),
        ("INPUT.EVIDENCE", "()"),
        ("MODEL.SPML.TEST.MEMORY", ""),
        ("DATASETS.TRAIN", f"('{folder}/more.json',)"),
        ("DATASETS.TRAIN", f"('{other_points(folder, tmp_path / 'train.json')}',)"),
    ):
        check_refused(run(*fixed, *arguments), tmp_path)
    check_refused(run(*fixed, weights=weights), tmp_path)


@pytest.mark.parametrize("changed", ["regions", "memory"])
def test_what_was_made_of_other_evidence_is_not_gone_on_with(run, folder, tmp_path, changed):
    """The folder says it, or a file there was written at another time, be it of the same size."""
    for name in ("regions", "memory"):
        shutil.copytree(folder / "regions", tmp_path / name)
    fixed = ("INPUT.REGION_ROOT", tmp_path / "regions", "MODEL.SPML.TEST.MEMORY", tmp_path / "memory")
    assert run(*fixed)[0] == 0
    root, kept = tmp_path / changed, tmp_path / "kept"
    root.rename(kept)
    shutil.copytree(kept, root)
    first = next(root.glob("*.png"))
    os.utime(first, ns=(0, first.stat().st_mtime_ns + 1))
    check_refused(run(*fixed), tmp_path)
    shutil.rmtree(root)
    kept.rename(root)
    assert run(*fixed)[1].endswith("0 images written, 4 there before\n")
    declare_provenance(root, "another program", what="maps")
    check_refused(run(*fixed), tmp_path)


def check_refused(result, tmp_path):
    status, _, error = result
    assert status == 2 and error.startswith(f"error: {tmp_path}/out/semantic: expected pseudo labels made by")


def test_what_writes_the_same_goes_on(run, folder, tmp_path):
    """Other options of a test, and the same files elsewhere."""
    shutil.copytree(folder / "regions", tmp_path / "a/regions")
    declare_provenance(tmp_path / "a/regions", "a program", what="maps")
    fixed = ("INPUT.REGION_ROOT", tmp_path / "a/regions", "MODEL.SPML.TEST.MEMORY", tmp_path / "a/regions")
    assert run(*fixed)[0] == 0
    (tmp_path / folder.name).mkdir()
    weights = shutil.copy(folder / "FirstPointHead.pth", tmp_path / folder.name)
    labels = shutil.copy(folder / "train.json", tmp_path)
    shutil.copytree(tmp_path / "a/regions", tmp_path / "b")
    (tmp_path / "b/later.png").touch()
    moved = ("INPUT.REGION_ROOT", tmp_path / "b", "MODEL.SPML.TEST.MEMORY", tmp_path / "b")
    for arguments in (
        ("TEST.SHOW_DIR", tmp_path / "shown", "TEST.EVAL_PERIOD", "7", "TEST.VOC_COMPETITION", "comp5"),
        ("INPUT.EDGE_ROOT", "edges", "INPUT.CAM_ROOT", "cams", "SEED", "5"),
        (*moved, "DATASETS.TRAIN", f"('{labels}',)"),
    ):
        status, out, error = run(*fixed, *arguments, weights=weights)
        assert status == 0 and out.endswith("0 images written, 4 there before\n"), error


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ([], {"weights": ""}, "MODEL.WEIGHTS: expected a checkpoint; found none."),
        ([], {"weights": "gone.pth"}, "gone.pth"),
        (["--num-gpus", "0"], {}, "--num-gpus: expected the number of processes, at least 1; found 0."),
        (["--dataset", "gone.json"], {}, "gone.json"),
        (["DATASETS.TRAIN", "()"], {}, "DATASETS.TRAIN: expected one data set to label; found none."),
        (["DATASETS.TRAIN", "('a.json', 'b.json')"], {}, "found a.json, b.json. Name one with --dataset."),
        ([], {"head": "PredictingHead"}, "expected a head that makes pseudo labels; found PredictingHead"),
        ([], {"head": "Point2MaskHead"}, "of the kinds sem_seg, prototypes, cams; found panoptic_seg, boundary."),
        (["INPUT.REGION_ROOT", "gone"], {}, "INPUT.REGION_ROOT: expected a folder"),
    ],
)
def test_mistakes_are_one_sentence(run, tmp_path, arguments, options, sentence):
    status, _, error = run(*arguments, **options)
    assert status == 2 and error.startswith("error: ") and sentence in error
    assert not (tmp_path / "out/semantic").exists()


def test_a_file_as_output(run, tmp_path):
    (tmp_path / "out").write_text("")
    status, _, error = run()
    assert (status, error) == (
        2,
        f"error: --output: expected a folder at {tmp_path}/out; found a file. Choose another path.",
    )


def test_two_processes_one_of_which_lacks_evidence(run, folder, tmp_path):
    """What was written stays, and one process alone goes on with it."""
    (tmp_path / "command.py").write_text(WITH_HEAD)
    labels = read_label_file(folder / "train.json")
    shutil.copytree(folder / "regions", tmp_path / "regions")
    declare_provenance(tmp_path / "regions", "a program", what="maps")
    gone = tmp_path / "regions" / f"{stem(labels.images[2])}.png"
    gone.unlink()
    options = ("MODEL.WEIGHTS", folder / "FirstPointHead.pth", "INPUT.REGION_ROOT", tmp_path / "regions")
    command = [
        sys.executable,
        tmp_path / "command.py",
        "--config-file",
        folder / "FirstPointHead.yaml",
        "--num-gpus",
        2,
    ]
    ended = subprocess.run(
        [str(word) for word in [*command, "--output", tmp_path / "out", *options]],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"error: {gone}: expected the region map of")
    written = sorted(path.stem for path in (tmp_path / "out/semantic").glob("[!.]*.png"))
    assert stem(labels.images[0]) in written and stem(labels.images[2]) not in written
    shutil.copy(folder / "regions" / gone.name, gone)
    status, out, _ = run(*options[2:], weights=folder / "FirstPointHead.pth")
    assert status == 0 and f"{COUNT - len(written)} images written, {len(written)} there before" in out
    check_maps(labels, tmp_path / "out/semantic")


def test_help_has_examples(run, capsys):
    status, out, _ = run("--help")
    assert status == 0 and "configs/spml/voc_point.yaml --output" in out and "MODEL.WEIGHTS" in out


def test_the_head_of_these_tests_is_registered():
    assert first_point_head.WEAK_HEAD_REGISTRY.get("FirstPointHead") is first_point_head.FirstPointHead
