"""Point2Mask's inference merge, pair boxes and semantic map against recorded ones."""

import numpy as np
import torch

from parity.point2mask_model import PUBLISHED
from parity.reference import Reference, reference_files
from weakseg.layers.resize import resize_and_crop
from weakseg.methods.point2mask.merge import pair_boxes, panoptic_merge, semantic_map, top_pairs


@reference_files("point2mask", "unit_merge")
def test_pairs_maps_and_boxes(path):
    with Reference(path) as ref:
        for case in ref.cases("_cfg"):
            num_things, num_stuff, pairs, h, w, out_h, out_w, batch_h, batch_w = ref[f"{case}_cfg"].tolist()
            sizes = {"padded_size": (batch_h, batch_w), "image_size": (h, w), "output_size": (out_h, out_w)}

            scores, queries, labels = top_pairs(ref.tensor(f"{case}_cls"), pairs)
            ref.compare(f"{case}_query", queries)
            ref.compare(f"{case}_label", labels)
            check_boxes(ref, case, queries, scores, sizes["image_size"])

            masks = torch.cat([ref.tensor(f"{case}_thing_masks"), ref.tensor(f"{case}_stuff_masks")])
            num_queries = len(masks) - num_stuff
            id_map, segments, _ = panoptic_merge(
                masks,
                torch.cat([scores, ref.tensor(f"{case}_stuff_logit").sigmoid()]),
                classes=torch.cat([labels, torch.arange(num_things, num_things + num_stuff)]),
                mask_index=torch.cat([queries, torch.arange(num_queries, len(masks))]),
                num_things=num_things,
                quality_thresholds=tuple(ref[f"{case}_quality"].tolist()),
                overlap_thresholds=PUBLISHED.overlap_thresholds,
                **sizes,
            )
            undecided = ((resize_and_crop(masks, *sizes.values()) - 0.5).abs() < 1e-6).any(0)
            published = published_encoding(id_map, segments, num_things + num_stuff)
            compare_decided(ref, f"{case}_pan", published, undecided)

            existence = ref.tensor(f"{case}_sem_logit").sigmoid()[:, None, None]
            weight, bias = (ref.tensor(f"{case}_proj_{name}")[:, None, None] for name in ("weight", "bias"))
            logits = (weight * ref.tensor(f"{case}_sem_masks") + bias) * existence
            first, second = resize_and_crop(logits, *sizes.values()).topk(2, dim=0).values
            compare_decided(ref, f"{case}_semantic", semantic_map(logits, **sizes).numpy(), first - second < 1e-6)


def compare_decided(ref, name, actual, undecided):
    """Exactly, but for pixels that rounding decides."""
    ref.compare(name, np.where(undecided, ref[name], actual))


def check_boxes(ref, case, queries, scores, image_size):
    """The release divides by a scale factor that the file does not hold: one number for each axis of all boxes."""
    boxes, expected = ref.tensor(f"{case}_box"), ref.tensor(f"{case}_boxes")
    seen = pair_boxes(boxes, queries, image_size=image_size, output_size=image_size)
    across, down = (float(expected[:, axis:4:2].max() / seen[:, axis::2].max()) for axis in (0, 1))
    output_size = (image_size[0] * down, image_size[1] * across)
    original = pair_boxes(boxes, queries, image_size=image_size, output_size=output_size)
    ref.compare(f"{case}_boxes", torch.cat([original, expected[:, 4:]], 1), atol=1e-4)
    np.testing.assert_allclose(scores, expected[:, 4], rtol=0, atol=1e-6)


def published_encoding(id_map, segments, num_classes):
    """id * 1000 + class, and num_classes where nothing is."""
    values = np.array([num_classes] + [segment["id"] * 1000 + segment["category_id"] for segment in segments])
    for segment in segments:
        assert segment["area"] == int((id_map == segment["id"]).sum())
    return values[id_map.numpy()]
