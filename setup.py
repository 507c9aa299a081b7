"""Install the package `weakseg` (folder projects/weakseg). torch, torchvision, detectron2 and OpenCV are left to the
user's environment: see README.md, or run tools/check_install.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "projects/weakseg/__init__.py").read_text()).group(1)

EXTRAS = {
    "crf": ["pydensecrf2"],
    "export": ["onnx", "onnxscript", "onnxruntime"],
    "notebooks": ["nbclient", "nbformat", "ipykernel"],
}
EXTRAS["dev"] = [
    *(name for names in EXTRAS.values() for name in names),
    *("pytest", "pytest-xdist", "pytest-timeout", "hypothesis", "psutil", "higra", "faster-coco-eval", "ruff", "mypy"),
]

setup(
    name="weakseg",
    version=VERSION,
    description="Segmentation from points, scribbles, boxes, tags and sentences, on Detectron2",
    python_requires=">=3.10",
    packages=["weakseg"] + [f"weakseg.{name}" for name in find_packages("projects/weakseg")],
    package_dir={"weakseg": "projects/weakseg"},
    install_requires=[
        "numpy>=2",
        "pillow>=10",
        "scipy",
        "scikit-image",
        "pycocotools>=2.0.7",
        "fvcore>=0.1.5,<0.1.6",
        "iopath>=0.1.7",
        "yacs",
        "timm>=1.0",
        "safetensors",
        "tqdm",
        "tensorboard",
        "tabulate",
        "termcolor",
        "cloudpickle",
    ],
    extras_require=EXTRAS,
)
