"""tools/convert_checkpoint.py: there and back on the command line, and one sentence for what cannot be converted."""

import importlib.util
import sys

import pytest
import torch

from tiny import ROOT
from weakseg.engine import run_command
from weakseg.inference import WeakPredictor
from zoo import small_spml
from zoo.small_published import published_content, small_config, small_model

SCRIPT = ROOT / "tools/convert_checkpoint.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; returns exit status, stdout and stderr."""
    specification = importlib.util.spec_from_file_location("convert_checkpoint", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        status = 0
        try:
            run_command(module.main)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    model = small_model(folder, small_config(folder))
    torch.save(published_content(model, CLASSES=["a"] * 21), folder / "published.pth")
    return folder


def test_there_and_back(folder, tmp_path, run):
    target = tmp_path / "new folder/ours.pth"
    arguments = ("--method", "point2mask", "--config-file", folder / "voc_r50.yaml", folder / "published.pth", target)
    status, out, errors = run(*arguments)
    assert (status, errors) == (0, "")
    assert f"{target}: 493 tensors of {folder}/published.pth" in out
    assert WeakPredictor.from_checkpoint(target, device="cpu").metadata.thing_classes == ["a"] * 20

    status, _, errors = run("--method", "point2mask", "--reverse", target, tmp_path / "back.pth")
    assert (status, errors) == (0, "")
    original, restored = torch.load(folder / "published.pth"), torch.load(tmp_path / "back.pth")
    assert set(restored) == {"meta", "state_dict"} and restored["meta"] == original["meta"]
    for name, value in original["state_dict"].items():
        assert torch.equal(restored["state_dict"].pop(name.removeprefix("module.")), value), name
    assert not restored["state_dict"]


def test_spml_there_and_back(tmp_path, run):
    config_file = small_spml.small_config(tmp_path)
    content = small_spml.published_content(small_spml.small_model(tmp_path, config_file))
    torch.save(content, tmp_path / "published.pth")
    arguments = ("--method", "spml", "--config-file", config_file, tmp_path / "published.pth", tmp_path / "ours.pth")
    status, out, errors = run(*arguments)
    assert (status, errors) == (0, "")
    count = sum(map(len, content.values()))
    assert out == (f"config: {config_file}\n{tmp_path}/ours.pth: {count} tensors of {tmp_path}/published.pth\n")

    status, out, errors = run("--method", "spml", "--reverse", tmp_path / "ours.pth", tmp_path / "back.pth")
    assert (status, errors) == (0, "")
    assert out == f"{tmp_path}/back.pth: {count} tensors of {tmp_path}/ours.pth\n"
    restored = torch.load(tmp_path / "back.pth")
    assert restored.keys() == content.keys()
    for part, tensors in content.items():
        assert restored[part].keys() == tensors.keys()
        assert all(torch.equal(restored[part][name], value) for name, value in tensors.items())


def test_help_has_examples(run):
    status, out, _ = run("--help")
    assert status == 0 and "python tools/convert_checkpoint.py --method point2mask --reverse" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        # The config of the published row, which this small file is not of.
        (["published.pth", "out.pth"], "published.pth: expected exactly the 1039 published tensors"),
        (["none.pth", "out.pth"], "none.pth: expected a published checkpoint of point2mask; found nothing there"),
        (["classes.json", "out.pth"], "classes.json: expected a checkpoint"),
        (["--reverse", "published.pth", "out.pth"], "published.pth: expected a checkpoint with config, metadata"),
        (["--config-file", "none.yaml", "published.pth", "out.pth"], "Config: expected a file none.yaml"),
        (["published.pth", "out"], "OUTPUT: expected the name of a .pth file"),
        (["published.pth", "./published.pth"], "OUTPUT: expected another file than the input"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(folder, run, monkeypatch, arguments, sentence):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    status, _, errors = run("--method", "point2mask", *arguments)
    assert status == 2
    assert errors.startswith(f"error: {sentence}") and errors.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_config_beside_reverse_is_a_wrong_use(run):
    status, _, errors = run("--method", "point2mask", "--reverse", "--config-file", "a.yaml", "in.pth", "out.pth")
    assert status == 2 and "leave it out with --reverse" in errors
