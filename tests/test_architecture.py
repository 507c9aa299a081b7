"""Which room of the package imports which: a table, and a few arrows beside it with the reason for each."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "projects" / "weakseg"

ROOMS = {
    "_restricted_pickle": "",
    "_opencv_storage": "",
    "_restricted_xml": "",
    "safe_io": "",
    "weights": "safe_io",
    "config_merge": "",
    "labels": "safe_io",
    "refine": "layers",
    "layers": "refine",
    "proposals": "safe_io refine labels",
    "data": "labels proposals safe_io refine",
    "backbones": "layers safe_io",
    "heads": "labels data",
    "inference": "labels data heads layers",
    "segmenter": "heads backbones labels data inference",
    "methods": "safe_io labels refine layers proposals data backbones heads segmenter inference",
    "evaluation": "safe_io labels data",
    "pseudo_labels": "data labels safe_io inference",
    "engine": "data evaluation heads safe_io",
    "zoo": "methods safe_io",
    "config": "methods",
    "visualize": "labels",
}
"""Room (a folder or a file of the package) -> the rooms that it may import."""

EXTRA = {
    ("safe_io", "_restricted_pickle"): "the part of safe_io that reads legacy pickles",
    ("safe_io", "_opencv_storage"): "the part of safe_io that reads OpenCV's YAML",
    ("safe_io", "_restricted_xml"): "the part of safe_io that reads XML",
    ("pseudo_labels", "proposals"): "its folders carry a word on what made them, as those of all evidence",
    ("zoo", "data"): "class names that a published file does not carry",
    ("zoo", "inference"): "a converted file must predict alone",
    ("zoo", "weights"): "its sentences name tensors in the same way",
    ("weights", "labels"): "a file whose background is another class has its channels in another order",
    ("weights", "zoo"): "a missing file's error says where it is published",
    ("backbones", "weights"): "a missing file's error says where it is published",
    ("proposals", "zoo"): "a missing file's error says where it is published",
    ("inference", "config"): "a checkpoint alone predicts: its keys are merged into the defaults",
    ("inference", "weights"): "a checkpoint alone predicts: it must be exactly the model's",
    ("inference", "config_merge"): "options of a prediction are refused as those of a run are",
    ("engine", "weights"): "a checkpoint must be exactly the model's, or says what is replaced",
    ("engine", "config_merge"): "load_config refuses unknown keys",
    ("evaluation", "visualize"): "TEST.SHOW_DIR: a picture of each test image",
    ("engine", "config"): "load_config starts from the defaults",
}
"""(room, imported room) -> why, beside ROOMS."""


def imported_modules(source: str) -> set[str]:
    """Full names of everything of weakseg that a file imports, wherever in the file; submodules count as such."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "weakseg"}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: expected `from weakseg.x import y`; found a relative import"
            if node.module.split(".")[0] == "weakseg":
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found - {"weakseg.__version__"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def files() -> list[Path]:
    """All files but the package's own __init__.py, which imports rooms so that they register themselves."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def arrows() -> dict[tuple[str, str], str]:
    """(room, imported room) -> a file with that import."""
    found = {}
    for path in files():
        for module in sorted(imported_modules(path.read_text())):
            target = module.split(".")[1]
            if target != room_of(path):
                found[room_of(path), target] = f"{path.relative_to(PACKAGE)}: {module}"
    return found


def test_every_room_is_in_the_table():
    rooms = {room_of(path) for path in files()}
    assert rooms == set(ROOMS), "add the room to ROOMS, with what it may import"
    assert {target for allowed in ROOMS.values() for target in allowed.split()} <= rooms


def test_no_other_arrow():
    wrong = {
        arrow: where
        for arrow, where in arrows().items()
        if arrow[1] not in ROOMS[arrow[0]].split() and arrow not in EXTRA
    }
    assert not wrong, "\n".join(f"{room} imports {target} ({where})" for (room, target), where in wrong.items())


def test_every_extra_arrow_is_in_use_and_not_in_the_table():
    assert set(EXTRA) <= set(arrows())
    assert not [arrow for arrow in EXTRA if arrow[1] in ROOMS[arrow[0]].split()]


def test_no_method_imports_another():
    methods = PACKAGE / "methods"
    for path in methods.rglob("*.py"):
        if path == methods / "__init__.py":
            continue
        method = path.relative_to(methods).parts[0]
        for module in imported_modules(path.read_text()):
            if module.startswith("weakseg.methods."):
                assert module.split(".")[2] == method, (
                    f"{path}: {module}; move what both need to layers, refine or labels"
                )


def test_the_common_rooms_know_no_method():
    """`config` alone asks each method, and only for its keys."""
    for path in files():
        for module in imported_modules(path.read_text()):
            if room_of(path) not in ("methods", "zoo") and module.startswith("weakseg.methods"):
                assert room_of(path) == "config" and module.split(".")[3] == "config", f"{path}: {module}"


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import weakseg.engine.trainer as t", {"weakseg.engine.trainer"}),
        ("def f():\n    from weakseg.methods import point2mask", {"weakseg.methods.point2mask"}),
        ("from weakseg import segmenter, __version__", {"weakseg.segmenter"}),
        ("import weaksegment, torch\nfrom os import path", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source, modules):
    assert imported_modules(source) == modules


def test_relative_imports_are_refused():
    with pytest.raises(AssertionError, match="line 2"):
        imported_modules("import os\nfrom . import labels")
