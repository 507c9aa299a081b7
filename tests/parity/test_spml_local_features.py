"""SPML's position and colour features against recorded ones."""

import torch

from parity.reference import Reference, reference_files
from weakseg.methods.spml.local_features import ColorFeatures, position_features


def compare_features(ref, name, actual):
    """To 1e-6 of the range, which is 1."""
    ref.compare(name, actual, rtol=1e-6, atol=1e-6)


@reference_files("spml", "unit_local_features")
def test_local_features(path):
    with Reference(path) as ref:
        for name in [name for name in ref.keys() if name.startswith("position_")]:
            compare_features(ref, name, position_features(*ref[name].shape[:2]))
        colors = ColorFeatures()
        ref.compare("kernel", colors.smooth_kernel.weight, rtol=1e-6)
        n, height, width, _ = ref["voc"].shape
        compare_features(ref, "voc", position_features(height, width).expand(n, -1, -1, -1))
        size = ref["densepose"].shape[1:3]
        position = position_features(*size).expand(n, -1, -1, -1)
        compare_features(ref, "densepose", torch.cat([position, colors(ref.tensor("image"), size)], -1))
