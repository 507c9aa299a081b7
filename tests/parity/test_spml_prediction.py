"""SPML's predictions from the image to the class map against recorded ones, in every mode."""

import functools

import pytest
import torch

from parity.reference import Reference, reference_files
from parity.spml_end_to_end import (
    GRID,
    IMAGE_SIZE,
    INPUTS,
    ITERATIONS,
    LABEL_FRACTION,
    MEAN,
    STD,
    TILING,
    TOLERANCE,
    class_count,
    compare_crf_input,
    crf_arguments,
    embed_with,
    labelled_images,
    model,
    numbers,
)
from weakseg.methods.spml.prediction import Predictor, make_prototypes, single_scale_size, view_segments
from weakseg.methods.spml.views import resize_linear

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
PROTOTYPE_SCALES = (0.5, 1.0, 1.5)

needs_inputs = pytest.mark.skipif(not INPUTS.is_file(), reason=f"no {INPUTS.name} beside the recorded results")


@reference_files("spml", "e2e_inputs")
def test_inputs_belong_together(path):
    with Reference(path) as ref:
        for number in numbers(ref, "image_u8"):
            size = ref[f"image_u8_{number}"].shape[:2]
            for name in ("ground_truth", "sparse", "region"):
                assert ref[f"{name}_{number}"].shape == size
        for name in [name for name in ref.keys() if name.startswith("cam_")]:
            number, label = name.split("_")[1:]
            assert ref[name].shape == ref[f"sparse_{number}"].shape
            assert int(label) + 1 in ref[f"sparse_{number}"]


@needs_inputs
@reference_files("spml", "e2e_prototype")
def test_prototypes(path):
    multi_scale = path.stem.endswith("_msc")
    with Reference(path) as ref:
        for number, vectors, labels in prototypes(multi_scale):
            ref.compare(f"prototype_label_{number}", labels)
            if f"prototype_{number}" in ref:
                ref.compare(f"prototype_{number}", vectors, atol=TOLERANCE)
            if f"prototype_slice_{number}" in ref:
                every = 5 if multi_scale else 3
                ref.compare(f"prototype_slice_{number}", vectors[::every], atol=TOLERANCE)
        for number, image, _ in labelled_images():
            if f"cluster_map_{number}" in ref:
                ref.compare_fraction(f"cluster_map_{number}", cluster_map(image), fraction=LABEL_FRACTION)


@functools.cache
def prototypes(multi_scale):
    """Number, vectors and labels of each image of the inputs."""
    settings = {"scales": PROTOTYPE_SCALES} if multi_scale else {"image_size": IMAGE_SIZE}
    settings |= {"tiling": TILING, "kmeans_grid": GRID, "kmeans_iterations": ITERATIONS}
    embed = embed_with(model())
    return [(number, *make_prototypes(image, embed, labels, **settings)) for number, image, labels in labelled_images()]


def cluster_map(image):
    view = resize_linear(image, single_scale_size(image, IMAGE_SIZE))
    segments = view_segments(view, embed_with(model()), tiling=TILING, grid=GRID, iterations=ITERATIONS, padded=True)
    return segments.segment.view(view.shape[-2:])


@needs_inputs
@reference_files("spml", "e2e_softmax")
def test_softmax(path):
    with Reference(path) as ref:
        check(ref, softmax_scores(is_multi_scale(ref)))


@needs_inputs
@reference_files("spml", "e2e_retrieval")
def test_retrieval(path):
    with Reference(path) as ref:
        if is_multi_scale(ref) or crf_arguments(ref):
            check(ref, retrieval_scores(is_multi_scale(ref)), fraction=LABEL_FRACTION)
            return
        predictor, memory = recorded_predictor(False), recorded_memory()
        for number, image, _ in labelled_images():
            prediction = predictor.retrieval(image, embed_with(model()), memory)
            ref.compare_fraction(f"prediction_{number}", prediction, fraction=LABEL_FRACTION)


def is_multi_scale(ref):
    return ref.path.stem.endswith("_msc")


@functools.cache
def softmax_scores(multi_scale):
    """Scores of each image of the inputs, and the image at their size."""
    predictor, classifier = recorded_predictor(multi_scale), model().network.classifier
    return [predictor.softmax_scores(image, embed_with(model()), classifier) for _, image, _ in labelled_images()]


@functools.cache
def retrieval_scores(multi_scale):
    """Shares of the votes for each image of the inputs, and the image at their size."""
    predictor, memory = recorded_predictor(multi_scale), recorded_memory()
    return [predictor.retrieval_scores(image, embed_with(model()), memory) for _, image, _ in labelled_images()]


def recorded_memory():
    _, vectors, labels = zip(*prototypes(multi_scale=False))
    return torch.cat(vectors), torch.cat(labels)


def recorded_predictor(multi_scale, crf=None):
    return Predictor(
        num_classes=class_count(),
        image_size=IMAGE_SIZE,
        tiling=TILING,
        scales=SCALES if multi_scale else (),
        flip=multi_scale,
        kmeans_grid=GRID,
        kmeans_iterations=ITERATIONS,
        crf=crf,
        mean=MEAN,
        std=STD,
        official=True,
    )


def check(ref, scores, fraction=0.0):
    """`scores` of each image before the CRF, of whose pixels a `fraction` may have other votes."""
    crf = crf_arguments(ref)
    assert (crf is not None) == ("_crf" in ref.path.stem)
    predictor = recorded_predictor(is_multi_scale(ref), crf)
    for (number, image, _), (maps, base) in zip(labelled_images(), scores, strict=True):
        if crf is not None:
            compare_crf_input(ref, number, maps, base, fraction)
        prediction = predictor.label_map(maps, base, image.shape[-2:])
        ref.compare_fraction(f"prediction_{number}", prediction, fraction=LABEL_FRACTION)
