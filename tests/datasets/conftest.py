"""The commands of datasets/, run as a user runs them but in this process, which has the imports behind it."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def command(monkeypatch, capfd):
    """run(script, *arguments) -> returncode, stdout and stderr of the finished command."""

    def run(script: str, *arguments) -> SimpleNamespace:
        path = Path(__file__).parents[2] / "datasets" / script
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        monkeypatch.syspath_prepend(str(path.parent))
        capfd.readouterr()
        message = None
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            message = stop.code
        out, err = capfd.readouterr()
        if isinstance(message, str):  # what the interpreter does with it
            return SimpleNamespace(returncode=1, stdout=out, stderr=f"{err}{message}\n")
        return SimpleNamespace(returncode=message or 0, stdout=out, stderr=err)

    return run
