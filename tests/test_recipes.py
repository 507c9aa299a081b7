"""Every recipe of configs/ is made of what exists, and has the stages of the card's table 3.12."""

import argparse
import shlex
from pathlib import Path

import pytest

from tiny import CONFIGS, ROOT
from weakseg.engine import load_config
from weakseg.engine.recipe import plan, read_recipe

RECIPES = sorted(CONFIGS.glob("*/recipes/*.yaml"))


def identity(path):
    return str(path.relative_to(CONFIGS))


@pytest.fixture
def stages(request, tmp_path, monkeypatch):
    """Each stage of a recipe by name, with what its command says: (stage, arguments, config)."""
    monkeypatch.chdir(ROOT)
    return {
        stage.name: (stage, *parsed(stage.command)) for stage in plan(read_recipe(request.param), tmp_path / "output")
    }


def parsed(command):
    """The arguments of a script, and the config that they give."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file")
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(command[1:])
    return arguments, load_config(arguments.config_file, arguments.opts)


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
        (CONFIGS / "spml/recipes/densepose_point_affinity.yaml", "densepose_walk"),
    ],
    indirect=["stages"],
    ids=["scribble", "point", "densepose", "densepose_affinity"],
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


@spml("voc_point")
def test_retrieval(stages):
    """Row 2 of the card's table 3.12, with the pseudo labels in the place of the full ground truth (fault s)."""
    assert list(stages)[-2:] == ["prototypes", "evaluate_retrieval"]
    assert config_and_method(stages, "prototypes") == ("voc_point", "prototypes")
    assert config_and_method(stages, "evaluate_retrieval") == ("voc_point", "test")
    assert source(stages, "prototypes") == ("embedding", "labels", "")
    assert source(stages, "evaluate_retrieval") == ("embedding", "", "prototypes")
    made, evaluated = (stages[name][2] for name in ("prototypes", "evaluate_retrieval"))
    assert tuple(made.INPUT.EVIDENCE) == ("semantic", "regions") and tuple(made.MODEL.SPML.PSEUDO.SCALES) == ()
    assert evaluated.MODEL.SPML.TEST.PREDICTOR == "retrieval"
    assert views_of(stages, "evaluate_retrieval") == (0, False, False)


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
    rows = {"voc_tag", "voc_box", "voc_scribble", "voc_point", "densepose_point", "densepose_point_affinity"}
    assert rows <= {path.stem for path in RECIPES if path.parts[-3] == "spml"}


@pytest.mark.parametrize("row", ["voc_scribble_080", "voc_scribble_050", "voc_scribble_030", "voc_point_r50"])
def test_rows_without_a_recipe_have_the_commands_of_the_readme(row, monkeypatch):
    monkeypatch.chdir(ROOT)
    block = (ROOT / "models/README.md").read_text().split("    row=voc_scribble_080\n")[1].split("\n\n")[0]
    lines = block.replace("\\\n", "").replace("${row}", row).replace("$row", row).strip().splitlines()
    commands = [shlex.split(line)[1:] for line in lines]
    assert [command[0] for command in commands] == [
        f"tools/{name}.py" for name in ("train_net", "make_pseudo_labels", "train_net", "train_net")
    ]
    (embedding, cfg), (labels, of_labels), (classifier, of_classifier), (test, of_test) = map(parsed, commands)
    stages = (embedding, labels, classifier, test)
    assert [Path(arguments.config_file).stem for arguments in stages] == [row] * 2 + [f"{row}_classifier"] * 2
    assert [arguments.eval_only for arguments in stages] == [False, False, False, True]
    assert of_labels.MODEL.WEIGHTS == of_classifier.MODEL.WEIGHTS == f"{cfg.OUTPUT_DIR}/model_final.pth"
    assert of_labels.MODEL.SPML.PSEUDO.METHOD == "classifier_walk"
    assert of_classifier.INPUT.SEMANTIC_ROOT == f"{labels.output}/semantic"
    assert of_test.MODEL.WEIGHTS == f"{of_classifier.OUTPUT_DIR}/model_final.pth"
    assert cfg.INPUT.REGION_ROOT == of_labels.INPUT.REGION_ROOT == "regions"
