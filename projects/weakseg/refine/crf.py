"""Dense CRF: class probabilities are made to agree between near pixels and between pixels of like colour.

Kraehenbuehl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NeurIPS 2011), in the
form that the SPML card describes (section 5.5). Two engines compute the same: `lattice`, which needs torch alone and
runs on any device, and `pydensecrf`, the compiled library.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from weakseg.refine.permutohedral import PermutohedralLattice

_SMALLEST_PROBABILITY = 1e-5


@torch.no_grad()
def dense_crf(
    probabilities: Tensor,
    image: Tensor,
    *,
    iterations: int = 10,
    gaussian_weight: float = 3,
    gaussian_sigma: float = 1,
    bilateral_weight: float = 4,
    bilateral_sigma: float = 67,
    bilateral_color_sigma: float = 3,
    engine: str = "lattice",
) -> Tensor:
    """Marginals Q after `iterations` steps of mean field with a Gaussian and a bilateral Potts kernel (SPML card 5.5).

    probabilities (K, H, W) floating point, clipped to [1e-5, 1]; they need not sum to 1. image (H, W, 3) uint8 RGB.
    `gaussian_sigma` and `bilateral_sigma` in pixels, `bilateral_color_sigma` in steps of the 0..255 colours.
    Returns (K, H, W) float32 on the device of `probabilities`, sum 1 over classes, no gradient.
    """
    _check(probabilities, image, iterations, (gaussian_sigma, bilateral_sigma, bilateral_color_sigma))
    if engine not in _ENGINES:
        raise ValueError(f"CRF engine: expected one of {', '.join(_ENGINES)}; found {engine!r}.")
    scores = probabilities.float().clamp(_SMALLEST_PROBABILITY, 1)
    gaussian, bilateral = (gaussian_weight, gaussian_sigma), (bilateral_weight, bilateral_sigma, bilateral_color_sigma)
    return _ENGINES[engine](scores, image.to(scores.device), gaussian, bilateral, iterations)


def crf_features(image: Tensor, sigma: float, color_sigma: float | None = None) -> Tensor:
    """(x, y) / sigma and, where given, (R, G, B) / color_sigma of the pixels of (H, W, 3): (H * W, 2 or 5) float32."""
    height, width, _ = image.shape
    y, x = torch.meshgrid(*(torch.arange(n, device=image.device) for n in (height, width)), indexing="ij")
    features = torch.stack([x, y], dim=2).float() / sigma
    if color_sigma is not None:
        features = torch.cat([features, image.float() / color_sigma], dim=2)
    return features.flatten(0, 1)


@torch.no_grad()
def mean_field(
    log_scores: Tensor, kernels: Sequence[tuple[float, PermutohedralLattice]], counts: Tensor, *, iterations: int
) -> Tensor:
    """Q_0 = softmax(log_scores), then Q <- softmax(log_scores + sum of weight * (kernel Q)), all points in parallel.

    log_scores (R, N) = -U; kernels [(weight, lattice of N points)]; counts (R,): row r stands for counts[r] classes of
    the same unary, whose Q are equal at every step because Potts treats all classes alike. Returns Q (R, N), of one
    such class a row.
    """
    counts = counts.unsqueeze(1)
    biased = log_scores + counts.log()
    marginals = biased.softmax(0).div_(counts)
    for _ in range(iterations):
        values, energy = marginals.t().contiguous(), biased.clone()
        for weight, lattice in kernels:
            energy.add_(lattice.filter(values).t(), alpha=weight)
        marginals = energy.softmax(0).div_(counts)
    return marginals


def _lattice_crf(scores: Tensor, image: Tensor, gaussian: tuple, bilateral: tuple, iterations: int) -> Tensor:
    """Lattices once per image; the classes whose score is nowhere above the clipping bound are one counted row."""
    rows = scores.flatten(1)
    absent = (rows <= _SMALLEST_PROBABILITY).all(1)
    order = absent.long().argsort(stable=True)  # the present classes first
    number = len(rows) - max(int(absent.sum()) - 1, 0)
    counts = torch.ones(number, device=rows.device)
    counts[-1] = len(rows) - number + 1
    row_of_class = order.argsort().clamp(max=number - 1)
    kernels = [
        (weight, PermutohedralLattice(crf_features(image, *sigmas)).normalized())
        for weight, *sigmas in (gaussian, bilateral)
        if iterations
    ]
    marginals = mean_field(rows[order[:number]].log(), kernels, counts, iterations=iterations)
    return marginals[row_of_class].view(scores.shape)


def _pydensecrf(scores: Tensor, image: Tensor, gaussian: tuple, bilateral: tuple, iterations: int) -> Tensor:
    try:
        densecrf = importlib.import_module("pydensecrf.densecrf")
    except ImportError as error:
        raise ValueError(
            "CRF engine pydensecrf: expected the package pydensecrf2; found none; run pip install "
            "--no-build-isolation -e '.[crf]' in the checkout, or use the engine lattice."
        ) from error
    classes, height, width = scores.shape
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(-scores.flatten(1).log().cpu().numpy()))
    crf.addPairwiseGaussian(sxy=gaussian[1], compat=gaussian[0])
    colors = np.ascontiguousarray(image.cpu().numpy())
    crf.addPairwiseBilateral(sxy=bilateral[1], srgb=bilateral[2], rgbim=colors, compat=bilateral[0])
    marginals = torch.from_numpy(np.asarray(crf.inference(iterations), dtype=np.float32))
    return marginals.view(scores.shape).to(scores.device)


_ENGINES = {"lattice": _lattice_crf, "pydensecrf": _pydensecrf}


def _check(probabilities: Tensor, image: Tensor, iterations: int, sigmas: Sequence[float]) -> None:
    if probabilities.ndim != 3 or not probabilities.numel() or not probabilities.is_floating_point():
        found = f"{probabilities.dtype} of shape {tuple(probabilities.shape)}"
        raise ValueError(f"dense CRF: expected floating point scores (K, H, W) of a class or more; found {found}.")
    if image.dtype != torch.uint8 or image.shape != (*probabilities.shape[1:], 3):
        expected = (*probabilities.shape[1:], 3)
        found = f"{image.dtype} of shape {tuple(image.shape)}"
        raise ValueError(
            f"dense CRF: expected a uint8 RGB image of shape {expected}, that of the scores; found {found}."
        )
    if iterations < 0 or not all(sigma > 0 for sigma in sigmas):
        raise ValueError(f"dense CRF: expected iterations >= 0 and sigmas > 0; found {iterations} and {tuple(sigmas)}.")
