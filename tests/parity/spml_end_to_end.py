"""What the recorded end-to-end files of SPML share: the images, the filled network, the settings of the release."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from parity.reference import ROOT, Reference
from parity.spml_model import PIXEL_MEAN, PIXEL_STD, Model, filled_model
from weakseg.methods.spml.prediction import Tiling
from weakseg.methods.spml.views import to_bytes

INPUTS = ROOT / "spml" / "e2e_inputs.npz"
IMAGE_SIZE = 64
TILING = Tiling(crop_size=48, stride=40)
GRID = (12, 12)
ITERATIONS = 10
MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CRF_PARAMETERS = (
    "iterations",
    "gaussian_weight",
    "gaussian_sigma",
    "bilateral_weight",
    "bilateral_sigma",
    "bilateral_color_sigma",
)
LABEL_FRACTION = 0.01
"""Of the pixels of a label map, whose labels hang on rounding."""
TOLERANCE = 1e-3
"""Absolute, of scores and prototypes."""


def numbers(arrays: Reference, name: str) -> list[str]:
    """The images that `arrays` has `name` of, as written in the names of its arrays: "0", "1", ..."""
    return sorted((key.removeprefix(f"{name}_") for key in arrays.keys() if key.startswith(f"{name}_")), key=int)


def inputs() -> Reference:
    """The images, labels, regions and class activation maps of all end-to-end files."""
    return Reference(INPUTS)


def normalised(image: np.ndarray) -> Tensor:
    """image (H, W, 3) uint8 -> (3, H, W) float32 with the published arithmetic (card 3.11)."""
    return ((torch.from_numpy(image).float() / 255 - PIXEL_MEAN) / PIXEL_STD).permute(2, 0, 1).contiguous()


def labelled_images() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Number, normalised image (3, H, W) and dense labels (H, W) of each image of the inputs."""
    arrays = inputs()
    for number in numbers(arrays, "image_u8"):
        yield number, normalised(arrays[f"image_u8_{number}"]), arrays.tensor(f"ground_truth_{number}")


@functools.cache
def class_count() -> int:
    """K of the files without one of their own: the value of unlabelled pixels in the sparse maps."""
    arrays = inputs()
    return max(int(arrays[f"sparse_{number}"].max()) for number in numbers(arrays, "sparse"))


@functools.cache
def embedding_dim() -> int:
    """C of the recorded prototypes."""
    arrays = Reference(INPUTS.with_name("e2e_prototype.npz"))
    return next(arrays[key].shape[1] for key in arrays.keys() if arrays[key].dtype.kind == "f")


@functools.cache
def model() -> Model:
    """The network of all files but that of DensePose."""
    return filled_model("voc_deeplab_101", embedding_dim=embedding_dim(), num_classes=class_count())


def embed_with(network: Model) -> Callable[[Tensor], Tensor]:
    """Normalised images (B, 3, H, W) -> their embedding at stride 4."""

    @torch.no_grad()
    def embed(images: Tensor) -> Tensor:
        return network.network(network.backbone(images)["res5"])

    return embed


def crf_arguments(arrays: Reference) -> dict | None:
    """Keyword arguments of `dense_crf` from a recorded file; None where it was made without."""
    if "crf_parameters" not in arrays:
        return None
    return dict(zip(CRF_PARAMETERS, arrays["crf_parameters"].tolist(), strict=True))


def compare_crf_input(arrays: Reference, number: str, scores: Tensor, image: Tensor, fraction: float = 0.0) -> None:
    """What goes into the CRF for one image: scores (K, h, w), stored at every fourth row and column, of whose pixels a
    `fraction` may have other votes, and the normalised image (3, h, w) as the published bytes."""
    name = f"crf_input_slice_{number}"
    expected, actual = arrays.tensor(name), scores[:, ::4, ::4]
    assert actual.shape == expected.shape, f"{name}: expected shape {expected.shape}, found {actual.shape}"
    differing = ((actual - expected).abs() > TOLERANCE).any(0).float().mean().item()
    assert differing <= fraction, f"{name}: {differing:.2%} of the pixels differ, at most {fraction:.2%} may"
    arrays.compare(f"crf_image_{number}", to_bytes(image, MEAN, STD, official=True))
