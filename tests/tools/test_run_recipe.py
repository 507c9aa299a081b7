"""tools/run_recipe.py with stages that only note their call."""

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import ROOT
from weakseg.engine import run_command

SCRIPT = ROOT / "tools/run_recipe.py"

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
