"""Structured edges: every step as recorded from the published detector, and the forest file that it was given."""

from dataclasses import asdict

import cv2
import numpy as np
import pytest

from parity.point2mask_forest import recorded_forest
from parity.reference import Reference, reference_files
from weakseg.proposals.structured_edges import (
    detect_edges,
    edge_features,
    edge_orientation,
    read_forest,
    structured_edges,
    suppress_non_maxima,
)

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
ARRAYS = {
    "childs": "children",
    "featureIds": "feature_ids",
    "thresholds": "thresholds",
    "edgeBoundaries": "edge_boundaries",
    "edgeBins": "edge_bins",
}
TIES = 0.01
"""Share of entries that may differ: an orientation between two bins, a feature at a threshold, equal neighbours."""


@pytest.fixture
def forest(path, tmp_path):
    return recorded_forest(path, "unit_structured_edges", tmp_path)


def compare(ref: Reference, name: str, actual: np.ndarray, atol: float) -> None:
    """Equal but for `atol`, at all entries but a share of TIES."""
    expected = ref[name]
    assert actual.shape == expected.shape, name
    ref.compare_fraction(name, np.where(np.abs(actual - expected) <= atol, expected, actual), fraction=TIES)


def one_vote(forest) -> float:
    options = forest.options
    return 2 * options.stride**2 / options.patch_inner_size**2 / options.number_of_trees_to_evaluate


@reference_files("point2mask", "unit_structured_edges")
def test_every_step_on_images(path, forest):
    options = forest.options
    with Reference(path) as ref:
        cases = ref.cases("_image")
        assert cases
        for case in cases:
            image = ref[f"{case}_image"].astype(np.float32) / 255
            border = (options.patch_size - options.patch_inner_size) // 2
            padded = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REFLECT)
            compare(ref, f"{case}_features", edge_features(padded, options)[::3, ::3], 1e-5)
            edges = detect_edges(image, forest)
            ref.compare(f"{case}_edges", edges, atol=one_vote(forest))
            compare(ref, f"{case}_edges", edges, 1e-6)
            # From the recorded edges on, so that a vote more or less is not counted three times.
            orientation = edge_orientation(ref[f"{case}_edges"], options.gradient_normalization_radius)
            compare(ref, f"{case}_orientation", orientation, 1e-4)
            thin = suppress_non_maxima(ref[f"{case}_edges"], ref[f"{case}_orientation"])
            compare(ref, f"{case}_nms", thin, 1e-6)
            compare(ref, f"{case}_nms", structured_edges(image, forest), 1e-6)
        batch = zip(ref["batch"], ref["batch_edges"], strict=True) if "batch" in ref else ()
        for image, edges in batch:
            denormalised = image.transpose(1, 2, 0) * STD + MEAN
            stored = (denormalised.clip(0, 1) * 255).astype(np.uint8)
            found = structured_edges(stored[..., ::-1], forest)  # blue first, as the published head has it
            different = np.abs(found - edges) > 1e-6
            assert found.shape == edges.shape and different.mean() <= TIES


@reference_files("point2mask", "tiny_edges")
def test_the_forest_file_holds_what_opencv_reads_from_it(path, tmp_path):
    (tmp_path / path.name).write_bytes(path.read_bytes())
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    options = storage.getNode("options")
    for read in (read_forest(tmp_path / path.name), read_forest(tmp_path / path.name)):  # the file, then its fast copy
        for name, value in asdict(read.options).items():
            first, *rest = name.split("_")
            assert options.getNode(first + "".join(map(str.capitalize, rest))).real() == value, name
        for name, ours in ARRAYS.items():
            node = storage.getNode(name)
            rows = [node.at(row) for row in range(node.size())]
            numbers = np.array([row.at(index).real() for row in rows for index in range(row.size())])
            assert numbers.size
            array = getattr(read, ours)
            np.testing.assert_array_equal(array.ravel(), numbers.astype(array.dtype)[: array.size])
            assert array.size == (read.children.size + 1 if name == "edgeBoundaries" else numbers.size)
