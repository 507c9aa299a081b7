"""tools/run_recipe.py with stages that only note their call; and every recipe of configs/."""

import argparse
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import CONFIGS, ROOT
from weakseg.engine import load_config, run_command
from weakseg.engine.recipe import plan, read_recipe

SCRIPT = ROOT / "tools/run_recipe.py"
RECIPES = sorted(CONFIGS.glob("*/recipes/*.yaml"))

STAGE = '''
"""Notes its arguments in calls.txt; then does what FOLDER.txt says: dies of kill -9, or ends with a status."""
import os, pathlib, shlex, signal, sys
arguments = sys.argv[1:]
folder = pathlib.Path(arguments[arguments.index("--folder") + 1])
with open("calls.txt", "a") as calls:
    print(shlex.join(arguments), file=calls)
wish = pathlib.Path(folder.name + ".txt")
if wish.exists():
    (folder / "last_checkpoint").write_text("model_3.pth")
    if wish.read_text() == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(int(wish.read_text()))
(folder / "made").write_text("made")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The present folder, with a recipe of three stages, of which the first and the last have a config."""
    monkeypatch.chdir(tmp_path)
    Path("stage.py").write_text(STAGE)
    Path("a config.yaml").write_text("")
    commands = {
        "train": "stage.py --config-file 'a config.yaml' --folder {stage}",
        "label": "stage.py --folder {stage} --weights {train}/made",
        "test": "stage.py --config-file 'a config.yaml' --folder {stage} WEIGHTS {label}/made",
    }
    stages = [{"name": name, "command": command} for name, command in commands.items()]
    Path("small.yaml").write_text(json.dumps({"description": "Three stages.", "stages": stages}))
    return tmp_path


@pytest.fixture
def command(monkeypatch, capfd):
    """Run the command in this process: (exit status, stdout, stderr)."""
    specification = importlib.util.spec_from_file_location("run_recipe", SCRIPT)
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            run_command(tool.main)
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return run


def calls() -> list[str]:
    """How the stages were called since the last time."""
    path = Path("calls.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


TRAIN = "--config-file 'a config.yaml' --folder output/small/train"
LABEL = "--folder output/small/label --weights output/small/train/made"
TEST = "--config-file 'a config.yaml' --folder output/small/test WEIGHTS output/small/label/made"


def test_stages_run_in_order_and_once(folder, command):
    status, out, _ = command("small.yaml")
    assert status == 0
    assert out.splitlines() == [
        "Three stages.",
        "[1/3] train: starts",
        f"{sys.executable} stage.py {TRAIN}",
        "[2/3] label: starts",
        f"{sys.executable} stage.py {LABEL}",
        "[3/3] test: starts",
        f"{sys.executable} stage.py {TEST}",
    ]
    assert calls() == [TRAIN, LABEL, TEST]

    status, out, _ = command("small.yaml")
    assert (status, calls()) == (0, [])
    assert out.splitlines()[1:] == [f"[{k}/3] {name}: finished, skipped" for k, name in enumerate(STAGES, start=1)]


STAGES = ("train", "label", "test")


def test_a_printed_line_can_be_pasted(folder, command):
    _, out, _ = command("small.yaml", "--output", "with 'quotes", "--dry-run", "--opts", "KEY", "(1, 2)")
    Path("with 'quotes/train").mkdir(parents=True)
    subprocess.run(out.splitlines()[2], shell=True, check=True)
    assert shlex.split(calls()[0])[-3:] == ["with 'quotes/train", "KEY", "(1, 2)"]


def test_dry_run_runs_nothing(folder, command):
    status, out, _ = command("small.yaml", "--dry-run")
    assert (status, calls()) == (0, [])
    assert out.splitlines()[3:5] == ["[2/3] label: starts", f"{sys.executable} stage.py {LABEL}"]
    assert not Path("output").exists()
    command("small.yaml", "--stages", "train")
    before = sorted(Path("output").rglob("*"))
    out = command("small.yaml", "--dry-run")[1]
    assert out.splitlines()[1:3] == ["[1/3] train: finished, skipped", "[2/3] label: starts"]
    assert sorted(Path("output").rglob("*")) == before


def test_a_killed_stage_goes_on_at_the_second_call(folder, command):
    Path("label.txt").write_text("die")
    status, _, err = command("small.yaml")
    assert status == 137
    assert err == (
        "error: stage label ended with exit status 137; see its output above, then call again: finished stages are "
        "skipped.\n"
    )
    assert calls() == [TRAIN, LABEL]
    Path("label.txt").unlink()
    status, out, _ = command("small.yaml")
    assert (status, calls()) == (0, [f"--resume {LABEL}", TEST])
    assert out.splitlines()[1:4] == [
        "[1/3] train: finished, skipped",
        "[2/3] label: goes on",
        f"{sys.executable} stage.py --resume {LABEL}",
    ]


def test_a_failing_stage_ends_the_recipe_with_its_status(folder, command):
    Path("train.txt").write_text("7")
    status, _, err = command("small.yaml")
    assert (status, calls()) == (7, [TRAIN])
    assert err.startswith("error: stage train ended with exit status 7;") and err.count("\n") == 1


def test_options_processes_and_stages(folder, command):
    assert command("small.yaml", "--output", "o", "--num-gpus", 2, "--stages", "train", "--opts", "A.B", -1)[0] == 0
    assert calls() == ["--num-gpus 2 --config-file 'a config.yaml' --folder o/train A.B -1"]
    assert command("small.yaml", "--output", "o", "--stages", "label", "test", "--opts", "A.B", -2)[0] == 0
    assert calls()[1].endswith("WEIGHTS o/label/made A.B -2")


def test_another_command_is_refused_before_anything_runs(folder, command):
    Path("test.txt").write_text("1")
    assert command("small.yaml")[0] == 1
    calls()
    status, _, err = command("small.yaml", "--opts", "KEY", "5")
    assert (status, calls()) == (2, [])
    assert err.startswith("error: Stage train: expected output/small/train to be made by the command stage.py")
    assert err.endswith("Delete output/small/train, or choose another --output.\n") and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["absent.yaml"], "absent.yaml: expected a YAML file; found nothing there."),
        (["small.yaml", "--stages", "other"], "--stages: expected stages of the recipe (train, label, test); found"),
        (["small.yaml", "--opts", "KEY"], "--opts: expected pairs KEY VALUE; found 1 words (KEY)."),
        (["small.yaml", "--stages", "test"], "Stage test: expected stage label, which it reads, to be finished;"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(folder, command, arguments, sentence):
    status, _, err = command(*arguments)
    assert (status, calls()) == (2, [])
    assert err.startswith(f"error: {sentence}") and err.count("\n") == 1


def test_help_shows_examples(command):
    status, out, _ = command("--help")
    assert status == 0 and "run_recipe.py configs/spml/recipes/voc_point.yaml --num-gpus 4" in out


# The recipes of the repository.


def identity(path):
    return str(path.relative_to(CONFIGS))


@pytest.fixture
def stages(request, tmp_path, monkeypatch):
    """Each stage of a recipe by name, with what its command says: (stage, arguments, config)."""
    monkeypatch.chdir(ROOT)
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file")
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    found = {}
    for stage in plan(read_recipe(request.param), tmp_path / "output"):
        arguments = parser.parse_args(stage.command[1:])
        found[stage.name] = stage, arguments, load_config(arguments.config_file, arguments.opts)
    return found


every_recipe = pytest.mark.parametrize("stages", RECIPES, ids=identity, indirect=True)


@every_recipe
def test_scripts_configs_and_keys_exist(stages):
    """`plan` looks for the files, `load_config` knows the keys and their types."""
    for stage, arguments, cfg in stages.values():
        assert Path(stage.command[0]).parent.name in ("tools", "datasets")
        # Each writes to its own folder, where --resume looks for a checkpoint.
        written = arguments.output if stage.command[0] == "tools/make_pseudo_labels.py" else Path(cfg.OUTPUT_DIR)
        assert written == stage.folder


@every_recipe
def test_what_a_stage_reads_is_what_an_earlier_one_writes(stages):
    """Weights of a training; semantic, cams and prototypes of pseudo labels."""
    for stage, _, cfg in stages.values():
        read = {
            "model_final.pth": (cfg.MODEL.WEIGHTS, "tools/train_net.py"),
            "semantic": (cfg.INPUT.SEMANTIC_ROOT, "tools/make_pseudo_labels.py"),
            "cams": (cfg.INPUT.CAM_ROOT, "tools/make_pseudo_labels.py"),
            "prototypes": (cfg.MODEL.SPML.TEST.MEMORY, "tools/make_pseudo_labels.py"),
        }
        inputs = set(stage.inputs.values())
        for name, (path, script) in read.items():
            if Path(path).parent in inputs:
                inputs.remove(Path(path).parent)
                maker, arguments, maker_cfg = stages[Path(path).parent.name]
                assert Path(path).name == name and maker.command[0] == script and not arguments.eval_only
                if name == "prototypes":
                    assert maker_cfg.MODEL.SPML.PSEUDO.METHOD == "prototypes"
        # {cams}/semantic and {cams}/cams are one stage.
        assert not inputs or inputs == {Path(cfg.INPUT.SEMANTIC_ROOT).parent}


def spml(name: str):
    return pytest.mark.parametrize("stages", [CONFIGS / f"spml/recipes/{name}.yaml"], ids=[name], indirect=True)


def source(stages: dict, name: str) -> tuple[str, ...]:
    """Stages whose weights, label maps, and prototypes a stage takes; "" for none."""
    cfg = stages[name][2]
    made = (cfg.MODEL.WEIGHTS, cfg.INPUT.SEMANTIC_ROOT, cfg.MODEL.SPML.TEST.MEMORY)
    return tuple(Path(path).parent.name if Path(path).parent.name in stages else "" for path in made)


def config_and_method(stages: dict, name: str) -> tuple[str, str]:
    stage, arguments, cfg = stages[name]
    kind = "test" if arguments.eval_only else "train"
    if stage.command[0] == "tools/make_pseudo_labels.py":
        kind = cfg.MODEL.SPML.PSEUDO.METHOD
    return Path(arguments.config_file).stem, kind


def views_of(stages: dict, name: str) -> tuple[int, bool, bool]:
    """Number of scales (0: one size), flips, CRF."""
    cfg = stages[name][2]
    return len(cfg.MODEL.SPML.TEST.SCALES), cfg.MODEL.SPML.TEST.FLIP, cfg.TEST.CRF.ENABLED


@pytest.mark.parametrize(
    "stages, method",
    [
        (CONFIGS / "spml/recipes/voc_scribble.yaml", "classifier_walk"),
        (CONFIGS / "spml/recipes/voc_point.yaml", "classifier_walk"),
        (CONFIGS / "spml/recipes/densepose_point.yaml", "densepose_walk"),
    ],
    indirect=["stages"],
    ids=["scribble", "point", "densepose"],
)
def test_scribbles_and_points(stages, method):
    """Columns 3 and 4 of the card's table 3.12."""
    name = Path(stages["embedding"][1].config_file).stem
    steps = ["embedding", "evaluate_embedding", "labels", "classifier", "evaluate"]
    assert list(stages)[:5] == steps
    assert [config_and_method(stages, step) for step in steps] == [
        (name, "train"),
        (name, "test"),
        (name, method),
        (f"{name}_classifier", "train"),
        (f"{name}_classifier", "test"),
    ]
    assert [source(stages, step)[0] for step in steps] == ["", "embedding", "embedding", "embedding", "classifier"]
    assert source(stages, "classifier")[1] == "labels" and source(stages, "labels")[1] == ""
    assert [views_of(stages, step) for step in ("evaluate_embedding", "evaluate")] == [(0, False, False)] * 2
    if "evaluate_crf" in stages:
        assert config_and_method(stages, "evaluate_crf") == config_and_method(stages, "evaluate")
        assert source(stages, "evaluate_crf") == source(stages, "evaluate")
        assert views_of(stages, "evaluate_crf") == (0, False, True)
    assert ("evaluate_crf" in stages) == name.startswith("voc")


@spml("voc_box")
def test_boxes(stages):
    """Column 2 of the card's table 3.12, after activation maps inside the boxes."""
    assert {name: (config_and_method(stages, name), source(stages, name)[:2]) for name in stages} == {
        "cam": (("voc_cam", "train"), ("", "")),
        "cams": (("voc_cam", "classifier_walk"), ("cam", "")),
        "embedding": (("voc_box", "train"), ("", "cams")),
        "evaluate_embedding": (("voc_box", "test"), ("embedding", "")),
        "labels": (("voc_box", "classifier_walk"), ("embedding", "cams")),
        "classifier": (("voc_box_classifier", "train"), ("embedding", "labels")),
        "evaluate": (("voc_box_classifier", "test"), ("classifier", "")),
    }
    assert [tuple(stages[name][2].INPUT.SUPERVISION) for name in ("cam", "cams", "embedding")] == [("boxes",)] * 3
    assert views_of(stages, "evaluate_embedding") == (0, False, False)
    assert views_of(stages, "evaluate") == (0, False, True)


@spml("voc_tag")
def test_tags(stages):
    """Column 1 of the card's table 3.12, after activation maps."""
    assert {name: (config_and_method(stages, name), source(stages, name)) for name in stages} == {
        "cam": (("voc_cam", "train"), ("", "", "")),
        "cams": (("voc_cam", "classifier_walk"), ("cam", "", "")),
        "embedding": (("voc_tag", "train"), ("", "cams", "")),
        "evaluate_embedding": (("voc_tag", "test"), ("embedding", "", "")),
        "walk": (("voc_tag", "cam_walk"), ("embedding", "cams", "")),
        "prototypes_1": (("voc_tag", "prototypes"), ("embedding", "walk", "")),
        "labels_1": (("voc_tag", "nearest_segments"), ("embedding", "cams", "prototypes_1")),
        "classifier_1": (("voc_tag_classifier", "train"), ("embedding", "labels_1", "")),
        "evaluate_1": (("voc_tag_classifier", "test"), ("classifier_1", "", "")),
        "scores": (("voc_tag_classifier", "classifier_only"), ("classifier_1", "cams", "")),
        "prototypes_2": (("voc_tag", "prototypes"), ("embedding", "scores", "")),
        "labels_2": (("voc_tag", "nearest_segments"), ("embedding", "cams", "prototypes_2")),
        "classifier_2": (("voc_tag_classifier", "train"), ("embedding", "labels_2", "")),
        "evaluate_2": (("voc_tag_classifier", "test"), ("classifier_2", "", "")),
    }
    walk = stages["walk"][2]
    assert Path(walk.INPUT.CAM_ROOT) == stages["cams"][0].folder / "cams" and "cams" in walk.INPUT.EVIDENCE
    assert tuple(stages["evaluate_2"][2].MODEL.SPML.TEST.SCALES) == (0.5, 0.75, 1.0, 1.25, 1.5)
    for name in ("evaluate_1", "evaluate_2"):
        assert views_of(stages, name) == (5, True, True)
    for name in ("prototypes_1", "prototypes_2"):
        assert tuple(stages[name][2].MODEL.SPML.PSEUDO.SCALES) == (0.5, 1.0, 1.5)


@every_recipe
def test_pseudo_labels_are_refined_by_the_crf(stages):
    for stage, _, cfg in stages.values():
        if stage.command[0] == "tools/make_pseudo_labels.py":
            assert cfg.MODEL.SPML.PSEUDO.CRF, stage.name


def test_all_published_rows_have_a_recipe():
    rows = {"voc_tag", "voc_box", "voc_scribble", "voc_point", "densepose_point"}
    assert rows <= {path.stem for path in RECIPES if path.parts[-3] == "spml"}
