"""Configs are read safely, and a mistake in one is a sentence that names its place and its cure."""

import argparse
import logging
import re

import pytest
import torch
import yaml

from engine.toy import loggers_as_before
from hostile import refused
from weakseg.engine import load_config, setup, with_seed
from weakseg.engine.defaults import setup_with_labels, write_config


def write(folder, text: str, name: str = "config.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def arguments(config_file: str = "", *opts: str, eval_only: bool = False) -> argparse.Namespace:
    return argparse.Namespace(config_file=config_file, opts=list(opts), eval_only=eval_only)


@pytest.fixture(autouse=True)
def own_loggers():
    with loggers_as_before():
        yield


def test_options_come_after_the_file_after_its_base(tmp_path):
    write(tmp_path, "SOLVER: {BASE_LR: 0.5, GAMMA: 0.25, MAX_ITER: 7}", "_base.yaml")
    path = write(tmp_path, "_BASE_: _base.yaml\nSOLVER: {GAMMA: 0.125, MAX_ITER: 8}")
    cfg = load_config(path, ["SOLVER.MAX_ITER", "9", "INPUT.SUPERVISION", "('masks',)"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA, cfg.SOLVER.MAX_ITER) == (0.5, 0.125, 9)
    assert cfg.INPUT.SUPERVISION == ("masks",)
    assert not cfg.is_frozen()


def test_without_a_file_there_are_the_defaults():
    assert load_config("").MODEL.META_ARCHITECTURE == "WeaklySupervisedSegmenter"


def test_unknown_key_of_a_file_is_named_with_the_nearest_known(tmp_path):
    path = write(tmp_path, "SOLVER: {BASE_LERNING: 0.5}\nMODEL: {DEVICE: cpu}")
    with pytest.raises(ValueError) as error:
        load_config(path)
    assert str(error.value) == (
        f"{path} (or its _BASE_): expected keys of the config; found the unknown key SOLVER.BASE_LERNING. "
        "Did you mean SOLVER.BASE_LR?"
    )


def test_unknown_key_of_the_options_is_named(tmp_path):
    with pytest.raises(ValueError, match="Options: .* unknown key SOLVER.MAX_ITERS. Did you mean SOLVER.MAX_ITER?"):
        load_config("", ["SOLVER.MAX_ITERS", "5"])


def test_odd_options_are_refused():
    with pytest.raises(ValueError, match=r"Options: expected pairs KEY VALUE; found 3 words \(SEED 3 OUTPUT_DIR\)"):
        load_config("", ["SEED", "3", "OUTPUT_DIR"])


@pytest.mark.parametrize("text", ["SEED: one", "SOLVER: 3", "SEED: {A: 1}"])
def test_value_of_another_type_is_refused(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=path):
        load_config(path)


def test_option_of_another_type_is_refused():
    with pytest.raises(ValueError, match="Options: .*SEED.*Give a value of the same type as the default"):
        load_config("", ["SEED", "one"])


def test_python_tags_are_refused_and_not_run(tmp_path):
    path = write(tmp_path, f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    with pytest.raises(ValueError, match="expected plain YAML; found .*python/object/apply:os.mkdir"):
        load_config(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["", "- 1\n- 2", "hello"])
def test_file_without_keys_is_refused(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=f"{path}: expected keys and values"):
        load_config(path)


def test_missing_file_or_base_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Config: expected a file .*absent.yaml; found none"):
        load_config(tmp_path / "absent.yaml")
    path = write(tmp_path, "_BASE_: gone.yaml")
    with pytest.raises(FileNotFoundError, match=f"expected a file .*gone.yaml; found none \\(config {path}\\)"):
        load_config(path)


def test_setup_decides_device_and_seed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO):
        cfg = setup(arguments("", "OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.GAMMA", "0.3"))
    assert cfg.is_frozen()
    assert cfg.MODEL.DEVICE == "cpu"
    assert cfg.SEED >= 0
    assert cfg.SOLVER.GAMMA == 0.3
    assert caplog.messages.count("No GPU found: training on the CPU") == 1
    assert "No GPU found: training on the CPU" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize("eval_only", [False, True])
def test_setup_leaves_the_config_of_an_earlier_run(tmp_path, eval_only):
    path = write(tmp_path, "SEED: 5")
    setup(arguments("", "OUTPUT_DIR", str(tmp_path), eval_only=eval_only))
    assert (tmp_path / "config.yaml").read_text() == "SEED: 5"
    cfg = load_config("", ["SOLVER.GAMMA", "0.3"])
    write_config(cfg, tmp_path)
    assert yaml.safe_load(open(path))["SOLVER"]["GAMMA"] == 0.3


def test_evaluation_says_that_it_runs_on_the_cpu(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO):
        setup(arguments("", "OUTPUT_DIR", str(tmp_path), eval_only=True))
    assert "No GPU found: evaluating on the CPU" in caplog.messages


def test_chosen_cpu_is_not_remarked(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        setup(arguments("", "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"))
    assert "No GPU" not in caplog.text


def test_gpu_stays_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert setup(arguments("", "OUTPUT_DIR", str(tmp_path))).MODEL.DEVICE == "cuda"


def test_a_command_shows_the_labels_of_one_data_set(tmp_path):
    args = arguments("", "MODEL.WEIGHTS", "a.pth", "INPUT.SUPERVISION", "('tags',)", "DATASETS.TRAIN", "('b', 'c')")
    args.dataset, args.output = "it's.json", tmp_path / "out"
    cfg = setup_with_labels(args, purpose="to draw")
    assert cfg.DATASETS.TRAIN == ("it's.json",) and cfg.TEST.INPUTS == ("tags", "proposals")
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.WEIGHTS, cfg.OUTPUT_DIR) == ("a.pth", "", str(tmp_path / "out"))
    assert args.eval_only and not cfg.is_frozen()


@pytest.mark.parametrize(
    ("opts", "sentence"),
    [
        ((), "MODEL.WEIGHTS: expected a checkpoint; found none."),
        (("MODEL.WEIGHTS", "a"), "DATASETS.TRAIN: expected one data set to draw; found none. Name one with --dataset."),
        (("MODEL.WEIGHTS", "a", "DATASETS.TRAIN", "('b', 'c')"), "expected one data set to draw; found b, c. Name one"),
    ],
)
def test_a_command_without_weights_or_one_data_set_is_refused(tmp_path, opts, sentence):
    args = arguments("", *opts)
    args.dataset, args.output = None, tmp_path
    refused(re.escape(sentence), setup_with_labels, args, purpose="to draw")


def test_given_seed_stays_and_drawn_seeds_differ():
    given = load_config("", ["SEED", 0])
    assert with_seed(given) is given
    none = load_config("")
    none.freeze()
    drawn = [with_seed(none) for _ in range(4)]
    assert all(0 <= cfg.SEED < 2**31 and cfg.is_frozen() for cfg in drawn)
    assert len({cfg.SEED for cfg in drawn}) > 1
    assert none.SEED == -1
