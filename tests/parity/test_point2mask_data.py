"""Reading a point PNG, resize and flip, as the published reader does (card sections 4 and 6)."""

import numpy as np
import torch

from parity.point2mask_model import PIXEL_MEAN, PIXEL_STD
from parity.reference import Reference, reference_files
from weakseg.data.augmentation import ResizeFlip
from weakseg.data.convert.point_png import point_labels_from_png
from weakseg.labels import WeakLabels
from weakseg.methods.point2mask.augmentation import resize_labelled_pixels
from weakseg.methods.point2mask.targets import NO_CLASS, point_targets


@reference_files("point2mask", "unit_data")
def test_labelled_pixels_and_image_after_resize_and_flip(path):
    with Reference(path) as ref:
        weak, num_things = _labels(ref)
        image = ref["image"]
        for case in ref.cases("_scale"):
            long_side, short_side, is_flipped = ref[f"{case}_scale"].tolist()
            augment = ResizeFlip(
                short_sides=(short_side,),
                long_side=long_side,
                flip_probability=float(is_flipped),
                resize_labels=resize_labelled_pixels,
            )
            new_image, new_weak, _ = augment(image, weak, {}, np.random.default_rng(0))
            pixels = (torch.from_numpy(new_image.copy()) - PIXEL_MEAN) / PIXEL_STD
            ref.compare(f"{case}_img", pixels.permute(2, 0, 1), atol=2e-2)

            (height, width), (old_height, old_width) = new_weak.image_size, weak.image_size
            scale = np.array([width / old_width, height / old_height] * 2)
            ref.compare(f"{case}_scale_factor", scale, rtol=1e-6)

            targets = point_targets([new_weak], (height, width), num_things=num_things, official=True)
            ref.compare(f"{case}_labels", targets.classes[0])
            masks = torch.zeros(len(targets.classes[0]), height, width)
            masks[targets.points[0].unbind(1)] = 1
            ref.compare(f"{case}_masks", masks)
            ref.compare(f"{case}_sem", targets.point_map[0])


def _labels(ref: Reference) -> tuple[WeakLabels, int]:
    """Labels of the stored PNG, and a number of things: the instances, then a target for each other labelled pixel."""
    # The file does not say how many classes are things. Any number does that makes those with an instance things; a
    # crowd of a class beyond it is read like stuff, with the same result.
    num_things = 1 + max((int(label) for case in ref.cases("_labels") for label in ref[f"{case}_labels"]), default=-1)
    class_index = {int(category): index for index, category in enumerate(ref["category_ids"])}
    segments = [
        {"id": id_, "category_id": category, "area": area, "iscrowd": iscrowd, "bbox": [side / 2 for side in box]}
        for id_, category, area, iscrowd, *box in ref["segments"].tolist()
    ]
    classes, points, semantic = point_labels_from_png(ref["png"], segments, class_index, num_things)
    for instance in points:
        x, y = instance.astype(int).T
        semantic[y, x] = NO_CLASS
    y, x = np.nonzero(semantic != NO_CLASS)
    others = semantic[y, x].astype(np.int64)
    owner = [np.full(len(instance), number) for number, instance in enumerate(points)]
    weak = WeakLabels(
        image_size=ref["png"].shape[:2],
        classes=torch.from_numpy(np.concatenate([classes, others])),
        is_crowd=torch.from_numpy(np.concatenate([np.zeros(len(classes), bool), others < num_things])),
        points=torch.from_numpy(np.concatenate([*points, np.stack([x, y], axis=1) + 0.5]).astype(np.float32)),
        point_target=torch.from_numpy(np.concatenate([*owner, len(classes) + np.arange(len(x))])),
    )
    return weak.replace(point_positive=torch.ones(len(weak.points), dtype=torch.bool)), num_things
