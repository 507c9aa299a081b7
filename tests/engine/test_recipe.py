"""Recipes: what a file may say, what commands it gives, and when the files of a stage are refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from weakseg.engine.recipe import Recipe, locked, plan, read_recipe

MAKE = "import pathlib, sys; pathlib.Path(sys.argv[1], 'made').write_text('made')"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The present folder: two scripts, of which one needs a config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "make.py").write_text(MAKE)
    (tmp_path / "train.py").write_text("")
    (tmp_path / "config.yaml").write_text("")
    return tmp_path


def recipe_of(**commands: str) -> Recipe:
    stages = [{"name": name, "command": command} for name, command in commands.items()]
    Path("recipe.yaml").write_text(json.dumps({"description": "a test", "stages": stages}))
    return read_recipe("recipe.yaml")


@pytest.fixture
def two() -> Recipe:
    return recipe_of(first="make.py {stage}", second="make.py {stage} {first}/made {output}/all")


def run_all(stages, output=Path("out")) -> list[int]:
    with locked(output) as lock:
        return [stage.run(lock) for stage in stages]


def test_words_and_placeholders():
    recipe = recipe_of(a="make.py {stage}/x \"('{output}', 'b c')\" {1: 2}", b_2="make.py {a}/{stage} '{a}'\n --x")
    assert recipe.description == "a test"
    first, second = plan(recipe, Path("o p"))
    assert first.command == ("make.py", "o p/a/x", "('o p', 'b c')", "{1:", "2}")
    assert second.command == ("make.py", "o p/a/o p/b_2", "o p/a", "--x")
    assert (first.inputs, second.inputs) == ({}, {"a": Path("o p/a")})
    assert (first.folder, second.folder) == (Path("o p/a"), Path("o p/b_2"))
    assert not Path("o p").exists()


def test_only_a_command_with_a_config_takes_options_and_processes():
    recipe = recipe_of(a="make.py {stage}", b="train.py --eval-only --config-file config.yaml KEY 1")
    plain, with_config = plan(recipe, Path("out"), options=["KEY", "2"], num_processes=3)
    assert plain.command_line() == [sys.executable, "make.py", "out/a"]
    words = ["--eval-only", "--config-file", "config.yaml", "KEY", "1", "KEY", "2"]
    assert with_config.command_line() == [sys.executable, "train.py", "--num-gpus", "3", *words]
    # How many processes share the work is no part of what is made.
    assert with_config.command == ("train.py", *words)
    assert plan(recipe, Path("out"))[1].command_line() == [sys.executable, "train.py", *words[:-2]]


def test_a_stage_with_a_checkpoint_goes_on(two):
    stage = plan(two, Path("out"))[0]
    run_all([stage])
    assert stage.command_line() == [sys.executable, "make.py", "out/first"]
    Path("out/first/last_checkpoint").write_text("model_7.pth")
    assert stage.command_line() == [sys.executable, "make.py", "--resume", "out/first"]


def test_a_finished_stage_has_a_record_of_command_and_inputs(two):
    stages = plan(two, Path("out"))
    assert not any(stage.is_finished or stage.is_started for stage in stages)
    assert run_all(stages) == [0, 0]
    assert all(stage.is_finished and not stage.is_started for stage in stages)
    first, second = (json.loads(Path("out", name, "finished.json").read_text()) for name in ("first", "second"))
    assert first["command"] == ["make.py", "out/first"] and first["inputs"] == {}
    assert second["inputs"] == {"first": first["started"]} and second["started"] > first["started"]


def test_a_stopped_stage_is_started_and_keeps_its_record(two):
    Path("make.py").write_text(f"{MAKE}; sys.exit(5)")
    stage = plan(two, Path("out"))[0]
    assert run_all([stage]) == [5]
    assert stage.is_started and not stage.is_finished
    record = Path("out/first/started.json").read_text()
    Path("make.py").write_text(MAKE)
    assert run_all(plan(two, Path("out"), only=["first"])) == [0]
    assert Path("out/first/finished.json").read_text() == record


def test_a_stage_that_left_nothing_may_be_corrected(two):
    Path("make.py").write_text("import sys; sys.exit(2)")
    assert run_all(plan(two, Path("out"), only=["first"])) == [2]
    assert not list(Path("out/first").iterdir())
    plan(recipe_of(first="make.py {stage} other"), Path("out"))


def test_the_status_of_a_killed_stage_is_that_of_a_shell(two):
    Path("make.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert run_all(plan(two, Path("out"), only=["first"])) == [128 + 9]


@pytest.mark.parametrize("finished", [True, False])
def test_another_command_is_refused(two, finished):
    Path("make.py").write_text(MAKE if finished else f"{MAKE}; sys.exit(1)")
    run_all(plan(two, Path("out"), only=["first"]))
    plan(two, Path("out"))
    with pytest.raises(ValueError) as error:
        plan(recipe_of(first="make.py {stage} 'more words'"), Path("out"))
    assert str(error.value) == (
        "Stage first: expected out/first to be made by the command make.py out/first 'more words'; found make.py "
        "out/first. Delete out/first, or choose another --output."
    )
    plan(recipe_of(first="make.py {stage} 'more words'"), Path("other"))


@pytest.mark.parametrize("made_again", [True, False])
def test_what_was_made_from_an_earlier_run_is_refused(two, made_again):
    run_all(plan(two, Path("out")))
    for file in Path("out/first").iterdir():
        file.unlink()
    if made_again:
        run_all(plan(two, Path("out"), only=["first"]))
    with pytest.raises(ValueError, match="Stage second: expected out/second to be made from the present first; found"):
        plan(two, Path("out"))


def test_what_a_stage_reads_must_be_finished_or_before_it(two):
    with pytest.raises(ValueError) as error:
        plan(two, Path("out"), only=["second"])
    assert str(error.value) == (
        "Stage second: expected stage first, which it reads, to be finished; found no out/first/finished.json. Run "
        "stage first first."
    )
    run_all(plan(two, Path("out"), only=["first"]))
    (stage,) = plan(two, Path("out"), only=["second"])
    assert stage.name == "second"


def test_the_order_is_that_of_the_recipe(two):
    assert [stage.name for stage in plan(two, Path("out"), only=["second", "first"])] == ["first", "second"]


@pytest.mark.parametrize("content", ["{}", "[1]", '{"command": "x", "inputs": [], "started": 3}'])
def test_a_damaged_record_is_refused(two, content):
    Path("out/first").mkdir(parents=True)
    Path("out/first/finished.json").write_text(content)
    with pytest.raises(ValueError, match="Stage first: expected out/first to be made by the command make.py out/first"):
        plan(two, Path("out"))


def test_files_of_something_else_are_refused(two):
    Path("out/first").mkdir(parents=True)
    plan(two, Path("out"))
    Path("out/first/model.pth").write_text("")
    with pytest.raises(ValueError, match="Stage first: expected out/first to be empty or made by this recipe; found"):
        plan(two, Path("out"))


def test_a_file_in_place_of_the_folder_is_refused(two):
    Path("out").mkdir()
    Path("out/first").write_text("")
    with pytest.raises(ValueError, match="Stage first: expected out/first to be empty or made by this recipe; found"):
        plan(two, Path("out"))


@pytest.mark.parametrize("file, command", [("absent.py", "absent.py"), ("no.yaml", "train.py --config-file no.yaml")])
def test_a_missing_file_of_a_later_stage_is_found_before_anything_runs(file, command):
    recipe = recipe_of(first="make.py {stage}", second=command)
    with pytest.raises(FileNotFoundError, match=f"Stage second: expected the file {file}; found none. Run from the"):
        plan(recipe, Path("out"))
    assert len(plan(recipe, Path("out"), only=["first"])) == 1


def test_wrong_choices_are_one_sentence(two):
    with pytest.raises(ValueError, match=r"--stages: expected stages of the recipe \(first, second\); found a, b\."):
        plan(two, Path("out"), only=["b", "first", "a"])
    with pytest.raises(ValueError, match=r"--opts: expected pairs KEY VALUE; found 1 words \(KEY\)\."):
        plan(two, Path("out"), options=["KEY"])


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("[]", "expected the keys description and stages; found list"),
        ("{description: a}", "expected the keys description and stages; found description"),
        ("{description: a, stages: [], more: 1}", "found description, stages, more"),
        ("{description: a, stages: []}", "expected at least one entry in stages; found none"),
        ("{description: a, stages: {a: b}}", "expected at least one entry in stages; found none"),
        ("{description: a, stages: [a]}", "stage 1: expected the keys name and command; found str"),
        ("{description: a, stages: [{name: a, command: a.py, config: 1}]}", "found name, command, config"),
        ("{description: a, stages: [{name: ../a, command: a.py}]}", "expected a name of lower-case letters"),
        ("{description: a, stages: [{name: output, command: a.py}]}", "other than output and stage; found 'output'"),
        ("{description: a, stages: [{name: 3, command: a.py}]}", "found 3"),
        ("{description: a, stages: [{name: a, command: rm -r x}]}", "expected a command that starts with a Python"),
        ("{description: a, stages: [{name: a, command: ''}]}", "expected a command that starts with a Python script"),
        ("{description: a, stages: [{name: a, command: [a.py]}]}", "expected a command that starts with a Python"),
        ("{description: a, stages: [{name: a, command: a.py 'x}]}", "a shell's quoting; found No closing quotation"),
        ("{description: a, stages: [{name: a, command: 'a.py {b}'}]}", "placeholders of output, stage; found {b}"),
        ("{description: a, stages: [{name: a, command: 'a.py x{a}'}]}", "found {a} in 'x{a}'. Name an earlier stage"),
        (
            "{description: a, stages: [{name: a, command: a.py}, {name: a, command: a.py}]}",
            "expected stages of different names; found a twice",
        ),
        ("{description: a, stages: [", "cannot read it"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(content, sentence):
    Path("wrong.yaml").write_text(content)
    with pytest.raises(ValueError) as error:
        read_recipe("wrong.yaml")
    assert str(error.value).startswith("wrong.yaml: ") and sentence in str(error.value)


def test_a_folder_is_worked_in_by_one_recipe():
    with locked(Path("out")):
        with pytest.raises(ValueError, match="out: expected that nothing runs there; found a recipe or one of its"):
            with locked(Path("out")):
                pass
    with locked(Path("out")):
        pass


def test_a_stage_that_outlives_its_recipe_keeps_the_folder(two):
    """As after kill -9 of the recipe alone: here a part of the stage stays behind."""
    Path("make.py").write_text(
        "import os, pathlib, time\n"
        "child = os.fork()\n"
        "if child: pathlib.Path('child').write_text(str(child))\n"
        "else: time.sleep(60)"
    )
    run_all(plan(two, Path("out"), only=["first"]))
    child = int(Path("child").read_text())
    try:
        with pytest.raises(ValueError, match="found a recipe or one of its stages at work"), locked(Path("out")):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_interrupted_recipe_ends_its_stage(two, monkeypatch):
    Path("make.py").write_text(
        "import pathlib, sys, time; pathlib.Path(sys.argv[1], 'running').touch(); time.sleep(60)"
    )
    original = subprocess.Popen.wait
    started = []

    def interrupted_once(self, *arguments, **keywords):
        if not started:
            started.append(self)
            while not Path("out/first/running").exists():
                assert self.poll() is None
            raise KeyboardInterrupt
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        run_all(plan(two, Path("out"), only=["first"]))
    assert started[0].poll() == -15
    assert plan(two, Path("out"))[0].is_started
