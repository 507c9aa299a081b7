"""Say what WeakSeg finds on this machine, what is missing, and the line that installs it.

Exit status 1 when something required is missing or broken. Works with nothing installed but Python.
"""

import argparse
import importlib
import os
import platform
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = f"{sys.executable} -m pip install"
DETECTRON2 = f"{PIP} --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
OPENCV = "opencv-contrib-python-headless"
IMAGES = {"numpy": "numpy>=2", "scipy": "scipy", "skimage": "scikit-image", "PIL": "pillow>=10"}
FILES = {"pycocotools": "pycocotools>=2.0.7", "safetensors": "safetensors", "cloudpickle": "cloudpickle"}
DETECTRON2_NEEDS = {"fvcore": "fvcore>=0.1.5,<0.1.6", "iopath": "iopath>=0.1.7", "yacs": "yacs"}
LOGS = {"tqdm": "tqdm", "tensorboard": "tensorboard", "tabulate": "tabulate", "termcolor": "termcolor"}
PLAIN = IMAGES | FILES | DETECTRON2_NEEDS | LOGS | {"timm": "timm>=1.0"}
"""Required modules that must import, nothing more: module, and what pip installs."""
OPTIONAL = {
    "faster_coco_eval": "faster-coco-eval",
    "pydensecrf": "--no-build-isolation pydensecrf2",
    "onnxruntime": "onnx onnxscript onnxruntime",
    "nbclient": "ipykernel nbformat nbclient",
}
"""Modules that some parts use, and what pip installs, the package of the module last."""


class Missing(Exception):
    """What was found instead, and the line that mends it."""

    def __init__(self, found: str, remedy: str):
        super().__init__(found)
        self.remedy = remedy


def imported(module: str, remedy: str):
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken package raises anything while it is imported
        reason = str(error).splitlines()[0] if str(error) else ""
        raise Missing(f"{type(error).__name__}: {reason}", remedy) from None


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "no version stated"


def python() -> str:
    if sys.version_info < (3, 10):  # noqa: UP036  (this file is what an older Python is told by)
        raise Missing(platform.python_version(), "install Python 3.10 or newer")
    return platform.python_version()


def torch() -> str:
    return imported("torch", f"{PIP} torch").__version__


def torchvision() -> str:
    """Its operators must run, not only import."""
    script = f"{sys.executable} {ROOT}/tools/setup/torchvision_cpu.py"
    remedy = f"{PIP} torchvision   (of torch's build; beside a CPU-only torch then run: {script})"
    boxes = imported("torch", f"{PIP} torch").tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    module = imported("torchvision", remedy)
    try:
        kept = imported("torchvision.ops", remedy).nms(boxes, boxes[:, 2], 0.5).tolist()
    except RuntimeError as error:
        raise Missing(f"operators do not load: {str(error).splitlines()[0]}", remedy) from None
    if kept != [0]:
        raise Missing("operators give wrong results", remedy)
    loader = ", through torchvision-cpu-loader" if version("torchvision_cpu_loader")[0].isdigit() else ""
    return f"{module.__version__}, operators load{loader}"


def detectron2() -> str:
    """`create_local_process_group` came after release 0.5, `modeling.ViT` after release 0.6 of 2021."""
    remedy = f"{DETECTRON2}   (without internet: {sys.executable} {ROOT}/tools/setup/install_detectron2.py)"
    imported("detectron2", remedy)
    recent = hasattr(imported("detectron2.utils.comm", remedy), "create_local_process_group")
    if not (recent and hasattr(imported("detectron2.modeling", remedy), "ViT")):
        raise Missing(f"{version('detectron2')}, older than December 2023", remedy)
    imported("detectron2.model_zoo", f"{PIP} 'setuptools<82'   (it needs pkg_resources)")
    try:
        importlib.import_module("detectron2._C")
        compiled = "_C compiled"
    except ImportError:
        compiled = "without _C, which WeakSeg does not use"
    return f"{version('detectron2')}, {compiled}"


def opencv() -> str:
    """Two wheels overwrite each other's files; the contrib modules are then silently empty."""
    found = sorted({name for d in metadata.distributions() if (name := d.name or "").startswith("opencv")})
    remedy = f"{sys.executable} -m pip uninstall -y {' '.join(found)}; {PIP} {OPENCV}" if found else f"{PIP} {OPENCV}"
    module = imported("cv2", remedy)
    if len(found) > 1:
        raise Missing(f"several wheels in one place ({', '.join(found)})", remedy)
    contrib = hasattr(module, "ximgproc") and hasattr(module.ximgproc, "createSuperpixelSLIC")
    return f"{module.__version__} ({', '.join(found) or 'not from pip'}), ximgproc {'there' if contrib else 'absent'}"


def weakseg() -> str:
    return imported("weakseg", f"{PIP} --no-build-isolation --no-deps -e {ROOT}").__version__


def plain(module: str, requirement: str) -> str:
    remedy = f"{PIP} '{requirement}'" if ">" in requirement else f"{PIP} {requirement}"
    imported(module, remedy)
    found = version(requirement.split()[-1].partition(">")[0])
    if module == "numpy" and found.startswith("1."):
        raise Missing(found, remedy)
    return found


def device() -> str:
    cuda = imported("torch", f"{PIP} torch").cuda
    if not cuda.is_available():
        return f"CPU, {os.cpu_count()} cores (no GPU found)"
    return ", ".join(cuda.get_device_name(i) for i in range(cuda.device_count()))


def data_root() -> str:
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    if not root.is_dir():
        raise Missing(f"no folder {root}", "export DETECTRON2_DATASETS=/where/your/data/is   (see datasets/README.md)")
    return f"{root}: {', '.join(sorted(entry.name for entry in root.iterdir() if entry.is_dir())) or 'empty'}"


def weights() -> str:
    found = sorted(
        path.name for path in Path("models").glob("*") if path.suffix in (".pth", ".pt", ".pkl", ".safetensors")
    )
    if not found:
        raise Missing("no weights in models/", "see models/README.md; a run that starts from scratch needs none")
    return ", ".join(found)


def report(name: str, check: Callable[[], str], required: bool = True) -> bool:
    """Print one line, and the remedy below it; True unless something required is missing."""
    try:
        print(f"[ok]      {name:<16} {check()}")
        return True
    except Missing as missing:
        print(f"{'[MISSING]' if required else '[absent] '} {name:<16} {missing}\n{'':27}-> {missing.remedy}")
        return not required


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.simplefilter("ignore")
    complete = [report("python", python), report("torch", torch), report("torchvision", torchvision)]
    complete += [report("detectron2", detectron2), report("opencv", opencv)]
    complete += [report(name, lambda m=name, r=wanted: plain(m, r)) for name, wanted in PLAIN.items()]
    complete += [report("weakseg", weakseg)]
    for name, wanted in OPTIONAL.items():
        report(name, lambda m=name, r=wanted: plain(m, r), required=False)
    for name, check in {"device": device, "data": data_root, "weights": weights}.items():
        report(name, check, required=False)
    missing = complete.count(False)
    print(f"{missing} required part(s) missing" if missing else "WeakSeg can run here.")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
