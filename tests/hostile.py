"""Objects that run code when a file is read without care, and the form of a refusal."""

from pathlib import Path

import pytest


class Bomb:
    """Makes `marker` when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def refused(match, call, *args, **kwargs):
    """The one-line message with which `call` refuses its arguments."""
    with pytest.raises(ValueError, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)
