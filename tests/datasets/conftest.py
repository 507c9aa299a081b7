"""The commands of datasets/, run as a user runs them."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def command():
    """run(script, *arguments) -> the finished process, with its text output."""

    def run(script: str, *arguments) -> subprocess.CompletedProcess:
        path = Path(__file__).parents[2] / "datasets" / script
        return subprocess.run([sys.executable, path, *map(str, arguments)], capture_output=True, text=True)

    return run
