"""Every recorded file of every method belongs to a kind that some test reads."""

from pathlib import Path

import pytest

from parity.reference import KINDS, ROOT, all_files, kind_of


@pytest.mark.parametrize("method", KINDS)
def test_every_file_is_of_a_known_kind(method):
    paths = all_files(method)
    if not paths:
        pytest.skip(f"no recorded outputs in {ROOT}; set WEAKSEG_REFERENCE_DIR to a folder that has them")
    unknown = [p.name for p in paths if kind_of(method, p) is None]
    assert not unknown, f"files of no kind: {', '.join(unknown)}"


@pytest.mark.parametrize("method", KINDS)
def test_every_kind_has_a_test(method):
    sources = "".join(p.read_text() for p in Path(__file__).parent.glob(f"test_{method}_*.py"))
    missing = [kind for kind in KINDS[method] if f'reference_files("{method}", "{kind}")' not in sources]
    assert not missing, f"kinds without a test: {', '.join(missing)}"
