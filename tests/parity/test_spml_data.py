"""SPML's input and evaluation against recorded results: augmentation, resizing, tiles, colours, mean IoU."""

import numpy as np
import torch

from parity.reference import Reference, reference_files
from weakseg.data.convert.voc import voc_palette
from weakseg.evaluation.published_mean_iou import (
    class_iou,
    instance_weighted_iou,
    iou_counts,
    mean_iou,
    pixel_accuracy,
)
from weakseg.inference.tiles import tile_ends
from weakseg.methods.spml.augmentation import MEAN, augment
from weakseg.methods.spml.resizing import (
    labels_at_embedding,
    longer_side_ratio,
    pad_to,
    resize_image,
    resize_labels,
    scaled_size,
)
from weakseg.methods.spml.views import resize_nearest, views

STD = (0.229, 0.224, 0.225)
LEFT_RIGHT_PARTS = ((2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13))
"""Values of DensePose's right and left body parts, which a mirrored image swaps."""


class Recorder:
    """The legacy generator of the recorded samples, which notes what is drawn."""

    def __init__(self, seed):
        self.generator, self.draws = np.random.RandomState(seed), []

    def uniform(self, low, high):
        self.draws.append(self.generator.uniform(low, high))
        return self.draws[-1]


def published_draws(draws, grey_and_blur):
    """As recorded: the crop's start as integers, and -1 where no sigma was drawn."""
    draws = [*draws[:2], *np.floor(draws[2:4]), *draws[4:]]
    return [*draws, -1.0] if grey_and_blur and len(draws) == 6 else draws


@reference_files("spml", "unit_augmentation")
def test_augmentation(path):
    with Reference(path) as ref:
        image = (ref["image_u8"] / np.float32(255)).astype(np.float32)
        region = ref["region"]
        for case in ref.cases("_draws_f64"):
            dataset, seed = case.rsplit("_", 1)
            is_densepose, is_classifier = dataset.startswith("Densepose"), "Classifier" in dataset
            semantic = ref["semantic_densepose" if is_densepose else "semantic"]
            generator = Recorder(int(seed))
            result, labels, regions, tags = augment(
                image,
                semantic,
                region,
                generator,
                crop_size=ref[f"{case}_image"].shape[1],
                scale_range=(0.5, 2.0) if is_classifier else (0.5, 1.5),
                flip_pairs=LEFT_RIGHT_PARTS if is_densepose else (),
                grey_probability=0.3 if is_classifier else 0.0,
                blur_probability=0.5 if is_classifier else 0.0,
                official=True,
            )
            ref.compare(f"{case}_draws_f64", published_draws(generator.draws, is_classifier))
            normalised = (result - np.float32(MEAN)) / np.float32(STD)
            ref.compare(f"{case}_image", normalised.transpose(2, 0, 1), atol=2e-5)
            ref.compare(f"{case}_semantic", labels)
            ref.compare(f"{case}_region", regions)
            if f"{case}_tag_ids" in ref:
                ref.compare(f"{case}_tag_ids", tags)


@reference_files("spml", "unit_resize")
def test_resizing(path):
    with Reference(path) as ref:
        image, labels = ref["image"], ref["label"]
        for number in ref.cases("_image"):
            if number.startswith("larger"):
                size = scaled_size(image.shape[:2], longer_side_ratio(image.shape[:2], int(number[len("larger") :])))
                ref.compare(f"{number}_image", resize_image(image, size), atol=1e-6)
                ref.compare(f"{number}_label", resize_labels(labels[..., 0], size))
        for name in [name for name in ref.keys() if name.startswith("ratio_")]:
            number = name.removeprefix("ratio_")
            # Recorded in float32; the ratio itself had few digits.
            size = scaled_size(image.shape[:2], round(float(ref[name]), 6))
            ref.compare(f"image_{number}", resize_image(image, size), atol=1e-6)
            ref.compare(f"label_{number}", resize_labels(labels, size))
        for name in [name for name in ref.keys() if name.startswith("label_to_")]:
            size = tuple(int(side) for side in name.removeprefix("label_to_").split("x"))
            first = torch.from_numpy(labels[None, :, :, 0].astype(np.int64))
            ref.compare(name, labels_at_embedding(first, size))
        compare_padded(ref, image)
        compare_pyramid(ref, image, labels[..., 0])


def compare_padded(ref, image):
    """The padded part of the image is what it has in common with the image; the rest is the colour."""
    padded = ref["padded"]
    height, width = (
        sum((own == other).all() for own, other in zip(line, there))
        for line, there in ((padded[:, 0], image[:, 0]), (padded[0], image[0]))
    )
    ref.compare("padded", pad_to(image[:height, :width], padded.shape[:2], padded[-1, -1]))


def compare_pyramid(ref, image, labels):
    names = [name for name in ref.keys() if name.startswith("pyramid_flip_")]
    flips = [bool(ref[f"pyramid_flip_{number}"]) for number in range(len(names))]
    scales = []
    for number in (number for number, is_flipped in enumerate(flips) if not is_flipped):
        # The smallest scale that gives the recorded size, which is all that a view shows of its scale.
        sides = ref[f"pyramid_label_{number}"].shape
        scales.append(max(new / old for new, old in zip(sides, image.shape)) * (1 + 1e-9))
    # In double: in float32 torch's coordinates are rounded, which moves values by a few 1e-6.
    found = list(views(torch.from_numpy(image).permute(2, 0, 1).double(), scales, any(flips)))
    assert [is_flipped for _, is_flipped in found] == flips
    for number, (view, is_flipped) in enumerate(found):
        ref.compare(f"pyramid_image_{number}", view, atol=1e-6)
        view_labels = resize_nearest(torch.from_numpy(labels), view.shape[-2:])
        ref.compare(f"pyramid_label_{number}", view_labels.flip(-1) if is_flipped else view_labels)


@reference_files("spml", "unit_tiles")
def test_tile_ends(path):
    with Reference(path) as ref:
        for name in [name for name in ref.keys() if name.startswith("size_")]:
            number = name.removeprefix("size_")
            height, width, crop, stride = (int(value) for value in ref[name])
            ref.compare(f"ends_y_{number}", tile_ends(height, crop, stride))
            ref.compare(f"ends_x_{number}", tile_ends(width, crop, stride))


@reference_files("spml", "unit_colormap")
def test_colours(path):
    with Reference(path) as ref:
        ref.compare("colormap", voc_palette())


@reference_files("spml", "unit_metrics")
def test_metrics(path):
    with Reference(path) as ref:
        num_classes = len(ref["iou"])
        numbers = [name.removeprefix("truth_") for name in ref.keys() if name.startswith("truth_")]
        images = [tuple(ref[f"{kind}_{n}"] for kind in ("prediction", "truth", "instance")) for n in numbers]
        maps = [iou_counts(image[0], image[1], num_classes=num_classes, official=True) for image in images]
        counts = sum(maps[1:], maps[0])
        ref.compare("iou", 100 * class_iou(counts), atol=5.1e-5)
        ref.compare("mean_iou", 100 * mean_iou(counts, official=True), atol=5.1e-5)
        ref.compare("pixel_accuracy", pixel_accuracy(counts), atol=5.1e-5)
        iou, _ = instance_weighted_iou(images, num_classes=num_classes, official=True)
        ref.compare("instance_iou", 100 * iou, atol=5.1e-5)
        ref.compare("instance_mean_iou", 100 * iou.mean(), atol=5.1e-5)
