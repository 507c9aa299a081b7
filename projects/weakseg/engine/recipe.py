"""A recipe: the stages of a published result, plain commands in order, each with a folder and a record of what made it.

    description: what comes out, and of what data
    stages:
      - name: embedding
        command: tools/train_net.py --config-file configs/METHOD/CONFIG.yaml OUTPUT_DIR {stage}
      - name: evaluate
        command: >-
          tools/train_net.py --eval-only --config-file configs/METHOD/CONFIG.yaml
          OUTPUT_DIR {stage} MODEL.WEIGHTS {embedding}/model_final.pth

A command is a Python script and its arguments, in the quoting of a shell. {output} is the recipe's folder, {stage} the
stage's own, {embedding} that of the earlier stage of this name. The folder holds `started.json`, which becomes
`finished.json` when the command has ended with status 0: the command, and which runs of earlier stages it has read.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from weakseg.safe_io import read_json, read_yaml, write_json

_STARTED, _FINISHED = "started.json", "finished.json"
_CHECKPOINT = "last_checkpoint"
_CONFIG = "--config-file"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_RESERVED = ("output", "stage")


@dataclass(frozen=True)
class Recipe:
    """commands: name of a stage -> words of its command, with their placeholders, in order."""

    description: str
    commands: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Stage:
    """command: script and arguments, without what decides only how it is run; inputs: folders of the stages it reads;
    num_processes: for --num-gpus, None leaves it to the command."""

    name: str
    folder: Path
    command: tuple[str, ...]
    inputs: dict[str, Path]
    num_processes: int | None

    @property
    def is_finished(self) -> bool:
        return (self.folder / _FINISHED).is_file()

    @property
    def is_started(self) -> bool:
        return (self.folder / _STARTED).is_file()

    def command_line(self) -> list[str]:
        """What is run now. A training that has left a checkpoint in the stage's folder goes on from there."""
        script, *arguments = self.command
        processes = [] if self.num_processes is None else ["--num-gpus", str(self.num_processes)]
        resume = ["--resume"] if (self.folder / _CHECKPOINT).is_file() else []
        return [sys.executable, script, *processes, *resume, *arguments]

    def run(self, lock: int) -> int:
        """Run the stage and return its exit status (128 + the signal that ended it). lock: see `locked`."""
        if not self.is_started:
            record = {"command": list(self.command), "inputs": self._present_inputs()}
            write_json(self.folder / _STARTED, {**record, "started": datetime.now(timezone.utc).isoformat()})
        status = _call(self.command_line(), lock)
        if status == 0:
            os.replace(self.folder / _STARTED, self.folder / _FINISHED)
        elif os.listdir(self.folder) == [_STARTED]:  # as after a mistyped option, which may then be corrected
            (self.folder / _STARTED).unlink()
        return status

    def check(self, before: Collection[str]) -> None:
        """Raises ValueError where the stage's folder holds something else than this stage, finished or not, and where
        what it reads is neither finished nor among `before`, the stages that run before it."""
        remedy = f"Delete {self.folder}, or choose another --output."
        record = _record(self.folder)
        if record is None:
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise ValueError(
                    f"Stage {self.name}: expected {self.folder} to be empty or made by this recipe; found other files "
                    f"there. {remedy}"
                )
        elif record.get("command") != list(self.command):
            found = record.get("command")
            found = shlex.join(map(str, found)) if isinstance(found, list) else "none"
            raise ValueError(
                f"Stage {self.name}: expected {self.folder} to be made by the command {shlex.join(self.command)}; "
                f"found {found}. {remedy}"
            )
        elif record.get("inputs") != (present := self._present_inputs()):
            known = record["inputs"] if isinstance(record.get("inputs"), dict) else {}
            changed = [name for name in present if present[name] != known.get(name)]
            raise ValueError(
                f"Stage {self.name}: expected {self.folder} to be made from the present {' and '.join(changed)}; found "
                f"that it was made from an earlier run. {remedy}"
            )
        if not self.is_finished:
            for name, folder in self.inputs.items():
                if name not in before and not (folder / _FINISHED).is_file():
                    raise ValueError(
                        f"Stage {self.name}: expected stage {name}, which it reads, to be finished; found no "
                        f"{folder / _FINISHED}. Run stage {name} first."
                    )

    def _present_inputs(self) -> dict[str, Any]:
        """When each stage that this one reads was started: what tells two runs of it apart."""
        return {name: (_record(folder) or {}).get("started") for name, folder in self.inputs.items()}


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file; ValueError in one sentence where it is none."""
    content = read_yaml(path)
    if not isinstance(content, dict) or set(content) != {"description", "stages"}:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: expected the keys description and stages; found {found}. Correct the recipe.")
    entries = content["stages"]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected at least one entry in stages; found none. Add a name and a command.")
    commands: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(entries, start=1):
        name, command = _entry(entry, f"{path}: stage {number}")
        if name in commands:
            raise ValueError(f"{path}: expected stages of different names; found {name} twice. Rename one.")
        _check_placeholders(command, (*_RESERVED, *commands), f"{path}: stage {name}")
        commands[name] = command
    return Recipe(str(content["description"]), commands)


def plan(
    recipe: Recipe,
    output: Path,
    *,
    only: Sequence[str] = (),
    options: Sequence[str] = (),
    num_processes: int | None = None,
) -> list[Stage]:
    """The stages to run or to skip, in order, each checked against what is in its folder.

    only: their names, none for all; options: config keys and values by turns, for every command with a --config-file;
    num_processes: of the same commands.
    """
    if len(options) % 2:
        raise ValueError(
            f"--opts: expected pairs KEY VALUE; found {len(options)} words ({' '.join(options)}). Add what is missing."
        )
    if unknown := set(only) - set(recipe.commands):
        raise ValueError(
            f"--stages: expected stages of the recipe ({', '.join(recipe.commands)}); found "
            f"{', '.join(sorted(unknown))}. Correct the name."
        )
    stages: list[Stage] = []
    for name in recipe.commands:
        if not only or name in only:
            stage = _stage(recipe, name, output, options, num_processes)
            _check_files(stage)
            stage.check([other.name for other in stages])
            stages.append(stage)
    return stages


@contextmanager
def locked(output: Path) -> Iterator[int]:
    """Makes the folder and keeps it for this process and the stages it starts, which inherit the descriptor: a stage
    that outlives a killed recipe still holds it. Raises ValueError where it is held."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{output}: expected that nothing runs there; found a recipe or one of its stages at work. Wait for "
                "its end, or stop it."
            ) from None
        yield file.fileno()


def _stage(recipe: Recipe, name: str, output: Path, options: Sequence[str], num_processes: int | None) -> Stage:
    folders = {**{other: output / other for other in recipe.commands}, "output": output, "stage": output / name}
    words = recipe.commands[name]
    command = tuple(_PLACEHOLDER.sub(lambda match: str(folders[match[1]]), word) for word in words)
    named = [other for word in words for other in _PLACEHOLDER.findall(word) if other not in _RESERVED]
    has_config = _CONFIG in command
    return Stage(
        name=name,
        folder=output / name,
        command=(*command, *options) if has_config else command,
        inputs={other: output / other for other in named},
        num_processes=num_processes if has_config else None,
    )


def _entry(entry: Any, where: str) -> tuple[str, tuple[str, ...]]:
    if not isinstance(entry, dict) or set(entry) != {"name", "command"}:
        found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"{where}: expected the keys name and command; found {found}. Correct the recipe.")
    name, command = entry["name"], entry["command"]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            f"{where}: expected a name of lower-case letters, digits and _ other than {' and '.join(_RESERVED)}; found "
            f"{name!r}. Rename it."
        )
    try:
        words = tuple(shlex.split(command)) if isinstance(command, str) else ()
    except ValueError as error:
        raise ValueError(f"{where}: expected a command in a shell's quoting; found {error}. Correct it.") from None
    if not words or not words[0].endswith(".py"):
        raise ValueError(
            f"{where}: expected a command that starts with a Python script; found {command!r}. Begin it with one of "
            "tools/ or datasets/."
        )
    return name, words


def _check_placeholders(command: Sequence[str], known: Sequence[str], where: str) -> None:
    for word in command:
        for name in _PLACEHOLDER.findall(word):
            if name not in known:
                raise ValueError(
                    f"{where}: expected placeholders of {', '.join(known)}; found {{{name}}} in {word!r}. Name an "
                    "earlier stage, or correct it."
                )


def _check_files(stage: Stage) -> None:
    """A missing file shall not be found out after days of earlier stages."""
    script, *arguments = stage.command
    configs = [value for word, value in zip(arguments, arguments[1:]) if word == _CONFIG]
    for file in (script, *configs):
        if not Path(file).is_file():
            raise FileNotFoundError(
                f"Stage {stage.name}: expected the file {file}; found none. Run from the folder that holds tools/ and "
                "configs/, or correct the recipe."
            )


def _record(folder: Path) -> dict | None:
    """What a stage left in its folder about itself; None where nothing is there."""
    for name in (_FINISHED, _STARTED):
        if (folder / name).is_file():
            content = read_json(folder / name)
            return content if isinstance(content, dict) else {}
    return None


def _call(command: list[str], lock: int) -> int:
    with subprocess.Popen(command, pass_fds=(lock,)) as process:
        try:
            status = process.wait()
        except BaseException:  # a stage shall not go on when its recipe is interrupted
            process.terminate()
            process.wait()
            raise
    return status if status >= 0 else 128 - status
