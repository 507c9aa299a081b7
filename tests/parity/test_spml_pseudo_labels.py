"""The five ways to pseudo labels, from the image to the class map, against recorded ones."""

import functools

import pytest
import torch

from parity.reference import Reference, reference_files
from parity.spml_end_to_end import (
    GRID,
    INPUTS,
    ITERATIONS,
    LABEL_FRACTION,
    MEAN,
    STD,
    TILING,
    class_count,
    compare_crf_input,
    crf_arguments,
    embed_with,
    inputs,
    model,
    normalised,
    numbers,
)
from parity.spml_model import filled_model
from weakseg.methods.spml import prediction
from weakseg.methods.spml.prediction import make_prototypes
from weakseg.methods.spml.pseudo_labels import PseudoLabeller

DENSEPOSE_GRID = (24, 24)
DENSEPOSE_EMBEDDING_DIM = 32
"""Of the release (card 3.12)."""
PROTOTYPE_SCALES = (0.5, 1.0, 1.5)
VOTE_FRACTION = 0.02
"""Of the pixels whose votes rounding may change."""


@pytest.mark.skipif(not INPUTS.is_file(), reason=f"no {INPUTS.name} beside the recorded results")
@reference_files("spml", "e2e_pseudo")
def test_pseudo_labels(path, crf_inputs):
    method = path.stem.removeprefix("e2e_pseudo_")
    way = next(function for name, function in WAYS.items() if method.startswith(name))
    fraction = VOTE_FRACTION if way is nearest_segments else 0.0
    with Reference(path) as ref:
        for number in numbers(inputs(), "image_u8"):
            image = normalised(inputs()[f"image_u8_{number}"])
            result = way(ref, number, image)
            ref.compare_fraction(f"prediction_{number}", result, fraction=LABEL_FRACTION)
            if "crf_parameters" in ref:
                scores, image_bytes = crf_inputs.pop()
                compare_crf_input(ref, number, scores, image, fraction=fraction)
                ref.compare(f"crf_image_{number}", image_bytes)
        assert not crf_inputs


@pytest.fixture
def crf_inputs(monkeypatch):
    """Scores and image of each call of the CRF."""
    seen, dense_crf = [], prediction.dense_crf

    def seeing_crf(scores, image, **arguments):
        seen.append((scores, image))
        return dense_crf(scores, image, **arguments)

    monkeypatch.setattr(prediction, "dense_crf", seeing_crf)
    return seen


def cam_walk(ref, number, image):
    cams, prefix = torch.zeros(class_count() - 1, *image.shape[-2:]), f"cam_{number}_"
    for name in (name for name in inputs().keys() if name.startswith(prefix)):
        cams[int(name.removeprefix(prefix))] = inputs().tensor(name)
    return labeller(ref).cam_walk(image, embed_with(model()), cams)


def classifier_walk(ref, number, image):
    return labeller(ref).classifier_walk(image, embed_with(model()), model().network.classifier, sparse(number))


def classifier_only(ref, number, image):
    return labeller(ref).classifier_only(image, embed_with(model()), model().network.classifier, sparse(number))


def nearest_segments(ref, number, image):
    memory = memory_of(ref.path.with_name(ref.path.name.replace("nearest_segment", "cam_walk")))
    return labeller(ref).nearest_segments(image, embed_with(model()), memory, sparse(number))


def densepose_walk(ref, number, image):
    num_classes = len(ref[f"crf_input_slice_{number}"])
    labels, region = ref.tensor(f"label_{number}"), inputs().tensor(f"region_{number}")
    embed = embed_with(densepose_model(num_classes))
    ways = labeller(ref, num_classes=num_classes, kmeans_grid=DENSEPOSE_GRID)
    return ways.densepose_walk(image, embed, labels, region)


WAYS = {
    "cam_walk": cam_walk,
    "classifier_walk": classifier_walk,
    "classifier_only": classifier_only,
    "nearest_segment": nearest_segments,
    "densepose": densepose_walk,
}
"""By what the names of the recorded files say."""


def labeller(ref, **changes):
    settings = {"num_classes": class_count(), "kmeans_grid": GRID, "kmeans_iterations": ITERATIONS} | changes
    tiles = {"crop_size": TILING.crop_size, "stride": TILING.stride}
    return PseudoLabeller(**settings, **tiles, crf=crf_arguments(ref), mean=MEAN, std=STD, official=True)


def sparse(number):
    return inputs().tensor(f"sparse_{number}")


@functools.cache
def densepose_model(num_classes):
    return filled_model("densepose_pspnet_101", embedding_dim=DENSEPOSE_EMBEDDING_DIM, num_classes=num_classes)


@functools.cache
def memory_of(path):
    """The multi-scale prototypes of all images, labelled with the recorded results of another way."""
    labels = Reference(path)
    settings = {"tiling": TILING, "scales": PROTOTYPE_SCALES, "kmeans_grid": GRID, "kmeans_iterations": ITERATIONS}
    images = [
        make_prototypes(
            normalised(inputs()[f"image_u8_{number}"]),
            embed_with(model()),
            labels.tensor(f"prediction_{number}"),
            **settings,
        )
        for number in numbers(inputs(), "image_u8")
    ]
    return tuple(torch.cat(parts) for parts in zip(*images))
