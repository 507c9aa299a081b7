"""Point2Mask from image to all raw outputs and the final maps, against recordings of the published model."""

import itertools

import numpy as np
import torch

from parity.point2mask_model import (
    PUBLISHED,
    build_model,
    filled_state,
    input_batch,
    quality_thresholds,
    resnet_depth,
)
from parity.reference import Reference, reference_files
from weakseg.methods.point2mask.merge import panoptic_merge, semantic_map, top_pairs

FEATURES = ("res3", "res4", "res5")


def compare_thinned(ref, name, full, **tolerance):
    """Compare an array of which only every s-th entry along some axes was stored: s follows from the lengths, and where
    several s give the same length, the one that fits."""
    stored = ref[name]
    assert stored.ndim == full.ndim, f"{name}: expected {stored.ndim} axes, found {full.ndim}"
    strides = [[s for s in range(1, n + 1) if -(-n // s) == m] for n, m in zip(full.shape, stored.shape)]
    candidates = [full[tuple(slice(None, None, s) for s in choice)] for choice in itertools.product(*strides)]
    assert candidates, f"{name}: no part of {tuple(full.shape)} has the shape {stored.shape}"
    ref.compare(name, min(candidates, key=lambda c: np.abs(c.numpy() - stored).max(initial=0.0)), **tolerance)


@reference_files("point2mask", "whole")
@torch.no_grad()
def test_image_to_raw_outputs(path):
    with Reference(path) as ref:
        batch, image_sizes = input_batch(ref)
        depth = resnet_depth(path, ref.keys())
        num_things, num_stuff = ref["cls"].shape[-1], len(ref["stuff_scores0"])
        model = build_model(depth, num_things=num_things, num_stuff=num_stuff).eval()
        model.load_state_dict(filled_state(model, ref))
        network = model.head.network

        features = [model.backbone(batch)[name] for name in FEATURES]
        for level, feature in enumerate(features):
            compare_thinned(ref, f"backbone{level}", feature, atol=1e-4)
            ref.compare(f"backbone{level}_meanabs", feature[:, :64].abs().mean((0, 2, 3)), atol=1e-4)
        for level, feature in enumerate(network.neck(features)):
            compare_thinned(ref, f"neck{level}", feature, atol=1e-4)

        encoded = network.encode(features, image_sizes, batch.shape[-2:])
        compare_thinned(ref, "memory", encoded.memory, atol=1e-4)
        location = network.locate(encoded)
        compare_thinned(ref, "hs", location.states, atol=1e-4)
        ref.compare("init_reference", location.initial_reference, atol=1e-5)
        ref.compare("cls", location.class_logits[-1], atol=1e-4)
        compare_thinned(ref, "cls_all", location.class_logits, atol=1e-4)
        ref.compare("boxes", location.boxes, atol=1e-5)
        embedding, boundary = network.embed(encoded)
        compare_thinned(ref, "embedding", embedding, atol=1e-4)
        ref.compare("boundary", boundary[:, None], atol=1e-4)

        # The recorded pairs are taken, ours are compared by score: the order of nearly equal scores may differ.
        pairs = torch.stack([ref.tensor(f"top_index{i}") for i in range(len(batch))])
        num_pairs = pairs.shape[1]
        all_scores = location.class_logits[-1].sigmoid().flatten(1)
        states = torch.stack([state[query] for state, query in zip(location.states[-1], pairs // num_things)])
        thing_masks = network.thing_masks(states, encoded)
        stuff_masks, stuff_existence = network.stuff(encoded)
        semantic_logits, semantic_existence = network.semantic(encoded)
        stuff_scores = stuff_existence[-1].sigmoid()
        for i in range(len(batch)):
            scores = all_scores[i][pairs[i]]
            ref.compare(f"top_scores{i}", scores, atol=1e-4)
            ref.compare(f"top_scores{i}", top_pairs(location.class_logits[-1, i], num_pairs)[0], atol=1e-4)
            compare_thinned(ref, f"thing_masks{i}", thing_masks[-1, i], atol=1e-4)
            compare_thinned(ref, f"thing_masks_layer0_{i}", thing_masks[0, i], atol=1e-4)
            compare_thinned(ref, f"stuff_masks{i}", stuff_masks[-1, i], atol=1e-4)
            ref.compare(f"stuff_scores{i}", stuff_scores[i], atol=1e-4)
            compare_thinned(ref, f"semantic_logits{i}", semantic_logits[-1, i], atol=1e-4)
            ref.compare(f"semantic_exist{i}", semantic_existence[-1, i], atol=1e-4)

            sizes = {
                "padded_size": tuple(batch.shape[-2:]),
                "image_size": image_sizes[i],
                "output_size": tuple(ref["ori_shape"][i].tolist()),
            }
            ids, segments, _ = panoptic_merge(
                torch.cat([thing_masks[-1, i], stuff_masks[-1, i]]),
                torch.cat([scores, stuff_scores[i]]),
                classes=torch.cat([pairs[i] % num_things, num_things + torch.arange(num_stuff)]),
                mask_index=torch.arange(num_pairs + num_stuff),
                num_things=num_things,
                quality_thresholds=quality_thresholds(path.stem),
                overlap_thresholds=PUBLISHED.overlap_thresholds,
                **sizes,
            )
            # Recorded as id * 1000 + class, with class C and id 0 where there is no segment.
            values = [num_things + num_stuff] + [s["id"] * 1000 + s["category_id"] for s in segments]
            ref.compare_fraction(f"pan{i}", torch.tensor(values)[ids.long()])
            ref.compare_fraction(f"semantic{i}", semantic_map(semantic_logits[-1, i], **sizes))
