"""Every recorded file of Point2Mask belongs to a kind that some test reads."""

from pathlib import Path

import pytest

from parity.reference import KINDS, ROOT, all_files, kind_of


def test_every_file_is_of_a_known_kind():
    paths = all_files("point2mask")
    if not paths:
        pytest.skip(f"no recorded outputs in {ROOT}; set WEAKSEG_REFERENCE_DIR to a folder that has them")
    unknown = [p.name for p in paths if kind_of("point2mask", p) is None]
    assert not unknown, f"files of no kind: {', '.join(unknown)}"


def test_every_kind_has_a_test():
    sources = "".join(p.read_text() for p in Path(__file__).parent.glob("test_point2mask_*.py"))
    missing = [kind for kind in KINDS["point2mask"] if f'reference_files("point2mask", "{kind}")' not in sources]
    assert not missing, f"kinds without a test: {', '.join(missing)}"
