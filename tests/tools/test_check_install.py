"""The report on an installation works with parts missing, says how to mend it, and ends accordingly."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_install.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("check_install", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [str(TOOL)])
    return module


def remove(monkeypatch, *modules: str) -> None:
    """As if they were not installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] in modules:
            monkeypatch.delitem(sys.modules, name)
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


def distributions(*names: str):
    return lambda: [SimpleNamespace(name=name) for name in names]


def test_complete_environment_passes(tool, capsys):
    assert tool.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "WeakSeg can run here."
    assert not [line for line in lines if line.startswith("[MISSING]")]
    for part in ("python", "torch", "torchvision", "detectron2", "opencv", "numpy", "timm", "weakseg"):
        assert [line for line in lines if line.split()[:2] == ["[ok]", part]], part
    assert [line for line in lines if line.startswith("[ok]      device")]


def test_missing_required_package_is_named_with_the_line_that_installs_it(tool, monkeypatch, capsys):
    remove(monkeypatch, "timm", "pycocotools")
    assert tool.main() == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("[MISSING] timm"))
    assert lines[at + 1].strip() == f"-> {sys.executable} -m pip install 'timm>=1.0'"
    assert lines[-1].endswith("required part(s) missing")


def test_missing_optional_package_is_no_failure(tool, monkeypatch, capsys):
    remove(monkeypatch, "onnxruntime")
    assert tool.main() == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("[absent]  onnxruntime"))
    assert lines[at + 1].strip() == f"-> {sys.executable} -m pip install onnx onnxscript onnxruntime"


def test_two_opencv_wheels_are_a_fault(tool, monkeypatch):
    monkeypatch.setattr(
        tool.metadata, "distributions", distributions("opencv-python", "numpy", "opencv-contrib-python")
    )
    with pytest.raises(
        tool.Missing, match=r"several wheels in one place \(opencv-contrib-python, opencv-python\)"
    ) as missing:
        tool.opencv()
    assert "pip uninstall -y opencv-contrib-python opencv-python; " in missing.value.remedy


def test_old_detectron2_is_a_fault(tool, monkeypatch):
    from detectron2.utils import comm

    monkeypatch.delattr(comm, "create_local_process_group")
    with pytest.raises(tool.Missing, match="older than December 2023"):
        tool.detectron2()


def test_operators_of_torchvision_that_do_not_load_are_a_fault(tool, monkeypatch):
    import torchvision

    def absent(*_):
        raise RuntimeError("operator torchvision::nms does not exist\nsecond line")

    monkeypatch.setattr(torchvision.ops, "nms", absent)
    with pytest.raises(
        tool.Missing, match="operators do not load: operator torchvision::nms does not exist$"
    ) as missing:
        tool.torchvision()
    assert "torchvision_cpu.py" in missing.value.remedy


def test_old_numpy_is_a_fault(tool, monkeypatch):
    monkeypatch.setattr(tool, "version", lambda package: "1.26.4")
    with pytest.raises(tool.Missing, match="1.26.4"):
        tool.plain("numpy", "numpy>=2")


def test_data_root_lists_its_folders(tool, monkeypatch, tmp_path):
    (tmp_path / "VOC2012").mkdir()
    (tmp_path / "note.txt").touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert tool.data_root() == f"{tmp_path}: VOC2012"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    with pytest.raises(tool.Missing, match="no folder"):
        tool.data_root()


def test_weights_are_listed(tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tool.Missing, match="no weights in models/"):
        tool.weights()
    (tmp_path / "models").mkdir()
    for name in ("README.md", "b.pth", "a.safetensors"):
        (tmp_path / "models" / name).touch()
    assert tool.weights() == "a.safetensors, b.pth"


def test_bare_python_gets_a_report_too():
    """-S -I: the standard library alone."""
    done = subprocess.run([sys.executable, "-S", "-I", TOOL], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == ""
    assert f"-> {sys.executable} -m pip install torch\n" in done.stdout
    assert "[MISSING] weakseg" in done.stdout
