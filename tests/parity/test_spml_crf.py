"""Dense CRF against the recorded outputs of SPML's compiled library: our lattice and the library that is installed."""

import pytest
import torch

from parity.reference import Reference, reference_files
from weakseg.refine.crf import crf_features, dense_crf, mean_field
from weakseg.refine.permutohedral import PermutohedralLattice

TOLERANCE = 2e-4
PARAMETERS = (
    "iterations",
    "gaussian_weight",
    "gaussian_sigma",
    "bilateral_weight",
    "bilateral_sigma",
    "bilateral_color_sigma",
)
FILTERS = {"gaussian": (2,), "bilateral": (9, 11)}
"""Standard deviations that the README gives for files of filters: position, and colour."""


@pytest.mark.parametrize("engine", ["lattice", "pydensecrf"])
@reference_files("spml", "crf")
def test_marginals_and_filters(path, engine):
    if engine == "pydensecrf":
        pytest.importorskip("pydensecrf", reason="needs the extra [crf]")
    with Reference(path) as ref:
        probabilities, image = ref.tensor("probability"), torch.from_numpy(ref["image"])
        if "q0" in ref:
            check_filters(ref, probabilities, image, engine)
        else:
            parameters = dict(zip(PARAMETERS, ref["parameters"].tolist(), strict=True))
            marginals = dense_crf(probabilities, image, **parameters, engine=engine)
            compare_marginals(ref, "marginals", marginals)


def check_filters(ref, probabilities, image, engine):
    """Each kernel alone: what it makes of Q_0, and Q after one step with weight 1."""
    unary = probabilities.clamp(1e-5, 1).log()
    start = dense_crf(probabilities, image, iterations=0, engine=engine)
    compare_marginals(ref, "q0", start)
    for name, (sigma, *color_sigma) in FILTERS.items():
        lattice = PermutohedralLattice(crf_features(image, sigma, *color_sigma)).normalized()
        filtered = lattice.filter(start.flatten(1).t().contiguous()).t().view_as(start)
        ref.compare(f"filtered_{name}", filtered, atol=TOLERANCE)
        step = mean_field(unary.flatten(1), [(1, lattice)], torch.ones(len(unary)), iterations=1).view_as(start)
        compare_marginals(ref, f"q1_{name}", step)
        weights = {f"{kernel}_weight": float(kernel == name) for kernel in FILTERS}
        sigmas = {f"{name}_sigma": sigma, **dict(zip(["bilateral_color_sigma"], color_sigma))}
        whole = dense_crf(probabilities, image, iterations=1, engine=engine, **weights, **sigmas)
        compare_marginals(ref, f"q1_{name}", whole)


def compare_marginals(ref, name, marginals):
    ref.compare(name, marginals, atol=TOLERANCE)
    ref.compare_fraction(name, marginals.argmax(0), expected=ref[name].argmax(0))
