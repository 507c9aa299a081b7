"""How every command ends: with 0, or with one sentence and exit status 2."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.multiprocessing import ProcessRaisedException

_PACKAGE = Path(__file__).resolve().parents[1]
_SENTENCES = (ValueError, FileNotFoundError, FloatingPointError)
_FRAME = re.compile(r'^ *File "([^"]+)", line \d+', re.MULTILINE)
_MESSAGE = re.compile(rf"^(?:{'|'.join(kind.__name__ for kind in _SENTENCES)}): ", re.MULTILINE)


def run_command(main: Callable[[], Any]) -> None:
    """Call `main` and end the process. Errors that the package itself raises for wrong input, also in a worker of the
    loader or in a process that `main` started, are one sentence on stderr and exit status 2; any other error is a fault
    of the program and keeps its traceback."""
    try:
        main()
    except (*_SENTENCES, ProcessRaisedException) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        sys.stderr.write(f"error: {sentence}\n")
        sys.exit(2)


def _sentence(error: Exception) -> str | None:
    """The error's sentence, or None when it was not raised by the package's own code."""
    text = str(error)
    # An error of a worker or of a process carries the text of its traceback instead of the frames.
    frames = _FRAME.findall(text)
    if frames:
        messages = _MESSAGE.split(text)
        return " ".join(messages[-1].split()) if len(messages) > 1 and _is_ours(frames[-1]) else None
    if isinstance(error, ProcessRaisedException):
        return None
    return text if _is_ours(traceback.extract_tb(error.__traceback__)[-1].filename) else None


def _is_ours(filename: str) -> bool:
    path = Path(filename).resolve()
    return path.is_relative_to(_PACKAGE) or path == Path(sys.argv[0]).resolve()
