"""The panoptic merge against the card's steps taken literally; pairs, boxes and semantic map by hand."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.point2mask import merge
from weakseg.methods.point2mask.merge import (
    pair_boxes,
    panoptic_merge,
    score_masks,
    semantic_map,
    thing_instances,
    top_pairs,
)

THINGS = 4
SIZES = {"padded_size": (36, 52), "image_size": (33, 50), "output_size": (40, 61)}
THRESHOLDS = {"quality_thresholds": (0.25, 0.3), "overlap_thresholds": (0.4, 0.2)}


def literal_merge(masks, scores, classes, mask_index, sizes, quality_thresholds, overlap_thresholds):
    """No pruning, no chunks, no shared masks."""
    resized = F.interpolate(masks[mask_index][None], sizes["padded_size"], mode="bilinear", align_corners=False)
    resized = resized[..., : sizes["image_size"][0], : sizes["image_size"][1]]
    resized = F.interpolate(resized, sizes["output_size"], mode="bilinear", align_corners=False)[0]
    quality = []
    for p, score in zip(resized, scores):
        binary = p > 0.5
        quality.append((score * (p[binary].sum() / (binary.sum() + 1)) ** 2).item())
    id_map = torch.zeros(sizes["output_size"], dtype=torch.int32)
    segments = []
    for k in sorted(range(len(quality)), key=lambda k: -quality[k]):
        stuff = int(classes[k] >= THINGS)
        binary = resized[k] > 0.5
        area = binary.sum().item()
        if quality[k] < quality_thresholds[stuff] or area == 0:
            continue
        if (binary & (id_map > 0)).sum().item() / area > overlap_thresholds[stuff]:
            continue
        free = binary & (id_map == 0)
        id_map[free] = len(segments) + 1
        segments.append((len(segments) + 1, classes[k].item(), not stuff, free.sum().item(), quality[k], k))
    return id_map, segments


def candidates(seed, pairs=30, queries=12, stuff=3):
    generator = torch.Generator().manual_seed(seed)
    random = torch.rand(4, queries + stuff, 1, 1, generator=generator)
    height, width = random[0] * 2 + 1, random[1] * 3 + 1
    y, x = torch.arange(9.0)[:, None] - random[2] * 9, torch.arange(13.0) - random[3] * 13
    masks = 1.3 * (2 - (y / height) ** 2 - (x / width) ** 2).clamp(0, 1)
    return masks, {
        "scores": torch.rand(pairs + stuff, generator=generator) * 0.7 + 0.3,
        "classes": torch.cat([torch.randint(0, THINGS, (pairs,), generator=generator), torch.arange(stuff) + THINGS]),
        "mask_index": torch.cat(
            [torch.randint(0, queries, (pairs,), generator=generator), queries + torch.arange(stuff)]
        ),
    }


@pytest.mark.parametrize("chunk", [1, 2**24])
@pytest.mark.parametrize("seed", range(4))
def test_merge_equals_the_steps_taken_literally(seed, chunk, monkeypatch):
    monkeypatch.setattr(merge, "_CHUNK_PIXELS", chunk)
    masks, given = candidates(seed)
    id_map, segments, origins = panoptic_merge(masks, **given, num_things=THINGS, **SIZES, **THRESHOLDS)
    expected_map, expected = literal_merge(masks, **given, sizes=SIZES, **THRESHOLDS)
    assert id_map.dtype == torch.int32 and torch.equal(id_map, expected_map)
    assert len(segments) == len(expected) >= 3
    assert origins.tolist() == [segment[-1] for segment in expected]
    for segment, (number, label, isthing, area, quality, _) in zip(segments, expected):
        assert segment | {"score": 0} == {
            "id": number,
            "category_id": label,
            "isthing": isthing,
            "area": area,
            "score": 0,
        }
        assert segment["score"] == pytest.approx(quality, rel=1e-5)


def test_merge_resizes_only_what_can_pass_and_each_mask_once(monkeypatch):
    resized = []

    def counting(maps, *sizes):
        resized.append(len(maps))
        return torch.zeros(len(maps), *sizes[2])

    monkeypatch.setattr(merge, "resize_and_crop", counting)
    masks = torch.tensor([1.0, 0.9, 0.45, 2.0]).view(4, 1, 1).expand(4, 2, 2)
    panoptic_merge(
        masks,
        torch.tensor([0.26, 0.24, 0.4, 0.3, 1.0, 0.07, 0.06]),
        classes=torch.tensor([0, 1, 0, 0, 0, 2, 2]),
        mask_index=torch.tensor([0, 0, 0, 1, 2, 3, 3]),
        num_things=THINGS,
        **SIZES,
        **THRESHOLDS,
    )
    assert sum(resized) == 2  # masks 0 and 3; mask 1 reaches 0.243, mask 2 is nowhere above 0.5


def merge_pixels(masks, scores, classes, quality=(0.25, 0.25), overlap=(0.4, 0.2)):
    """Merge masks of 1 x n pixels without any resizing."""
    masks = torch.tensor(masks)[:, None]
    size = tuple(masks.shape[1:])
    id_map, segments, _ = panoptic_merge(
        masks,
        torch.tensor(scores),
        classes=torch.tensor(classes),
        mask_index=torch.arange(len(masks)),
        num_things=THINGS,
        padded_size=size,
        image_size=size,
        output_size=size,
        quality_thresholds=quality,
        overlap_thresholds=overlap,
    )
    return id_map[0].tolist(), segments


def test_quality_exactly_at_the_threshold_is_kept():
    pixel = [[1.0, 0.0]]
    assert merge_pixels(pixel, [1.0], [0])[0] == [1, 0]  # quality (1 / 2)^2
    assert merge_pixels(pixel, [0.999], [0])[0] == [0, 0]
    assert merge_pixels(pixel, [1.0], [0], quality=(0.26, 0.25)) == ([0, 0], [])
    assert merge_pixels(pixel, [1.0], [THINGS], quality=(0.26, 0.25))[0] == [1, 0]


@pytest.mark.parametrize("label, limit, ids", [(0, 0.4, [1, 1, 2, 2, 2]), (0, 0.39, [1, 1, 0, 0, 0])])
def test_overlap_exactly_at_the_threshold_is_kept(label, limit, ids):
    masks = [[9.0, 9.0, 0, 0, 0], [1.0, 1, 1, 1, 1]]
    painted, segments = merge_pixels(masks, [1.0, 1.0], [label, label], overlap=(limit, 0.2))
    assert painted == ids and [segment["area"] for segment in segments] == [ids.count(i) for i in {1, max(ids)}]
    stuff, _ = merge_pixels(masks, [1.0, 1.0], [THINGS, THINGS], overlap=(0.2, limit))
    assert stuff == ids


def test_masks_decide_strictly_above_one_half_and_scores_may_exceed_one():
    id_map, segments = merge_pixels([[0.5, 4.0, 0.51, 4.0]], [0.5], [1])
    assert id_map == [0, 1, 1, 1]
    assert segments[0]["score"] == pytest.approx(0.5 * (8.51 / 4) ** 2) and segments[0]["score"] > 1


def test_equal_candidates_are_painted_in_their_order():
    id_map, segments = merge_pixels([[2.0, 2.0], [2.0, 2.0]], [0.9, 0.9], [3, 1])
    assert id_map == [1, 1] and [segment["category_id"] for segment in segments] == [3]


def test_nothing_passes_and_no_candidate():
    assert merge_pixels([[0.0, 0.0], [0.6, 0.0]], [1.0, 1.0], [0, 5]) == ([0, 0], [])
    nothing = {"scores": torch.zeros(0), "classes": torch.zeros(0).long(), "mask_index": torch.zeros(0).long()}
    id_map, segments, origins = panoptic_merge(
        torch.zeros(0, 9, 13), **nothing, num_things=THINGS, **SIZES, **THRESHOLDS
    )
    assert torch.equal(id_map, torch.zeros(40, 61, dtype=torch.int32)) and segments == [] and origins.shape == (0,)
    instances = thing_instances(id_map, segments, torch.zeros(0, 4))
    assert len(instances) == 0 and instances.pred_masks.shape == (0, 40, 61)


def test_instances_are_the_things_of_the_map():
    id_map = torch.tensor([[1, 1, 2], [3, 0, 2]], dtype=torch.int32)
    segments = [
        {"id": 1, "category_id": 2, "isthing": True, "area": 2, "score": 0.9},
        {"id": 2, "category_id": 5, "isthing": False, "area": 2, "score": 0.8},
        {"id": 3, "category_id": 0, "isthing": True, "area": 1, "score": 0.3},
    ]
    boxes = torch.tensor([[0.0, 0, 2, 1.5], [0, 1, 1, 2]])
    instances = thing_instances(id_map, segments, boxes)
    assert instances.image_size == (2, 3)
    assert instances.pred_masks.tolist() == [[[True, True, False], [False] * 3], [[False] * 3, [True, False, False]]]
    assert instances.pred_classes.tolist() == [2, 0] and instances.pred_classes.dtype == torch.int64
    assert torch.equal(instances.scores, torch.tensor([0.9, 0.3]))
    assert torch.equal(instances.pred_boxes.tensor, boxes)


def test_mask_scores_by_hand():
    masks = torch.tensor([[[0.6, 1.4], [0.5, 0.2]], [[0.1, 0.2], [0.3, 0.5]]])
    size = (2, 2)
    binary, area, scores = score_masks(masks, padded_size=size, image_size=size, output_size=size)
    assert binary.tolist() == [[[True, True], [False, False]], [[False, False], [False, False]]]
    assert area.tolist() == [2, 0]
    torch.testing.assert_close(scores, torch.tensor([2.0 / 3, 0.0]))


def test_top_pairs_by_hand():
    logits = torch.tensor([[0.0, 2.0], [3.0, -1.0], [2.0, 0.5]])
    scores, queries, classes = top_pairs(logits, 4)
    assert list(zip(queries.tolist(), classes.tolist())) == [(1, 0), (0, 1), (2, 0), (2, 1)]
    torch.testing.assert_close(scores, torch.tensor([3.0, 2.0, 2.0, 0.5]).sigmoid())
    assert len(top_pairs(logits, 100)[0]) == 6


def test_pair_boxes_are_clipped_and_scaled_to_the_original():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.9, 0.1, 0.4, 0.4]])
    actual = pair_boxes(boxes, torch.tensor([1, 0, 1]), image_size=(40, 80), output_size=(20, 160))
    large = [112.0, 0.0, 160.0, 6.0]
    torch.testing.assert_close(actual, torch.tensor([large, [40.0, 7.5, 120.0, 12.5], large]))


@pytest.mark.parametrize("chunk", [1, 2 * 40 * 61, 2**24])
def test_semantic_map_is_the_first_largest_class_in_any_chunks(chunk, monkeypatch):
    monkeypatch.setattr(merge, "_CHUNK_PIXELS", chunk)
    logits = torch.randn(7, 9, 13, generator=torch.Generator().manual_seed(0))
    logits[5] = logits[2] = logits[2] + 0.5
    full = F.interpolate(logits[None], SIZES["padded_size"], mode="bilinear", align_corners=False)
    full = full[..., : SIZES["image_size"][0], : SIZES["image_size"][1]]
    full = F.interpolate(full, SIZES["output_size"], mode="bilinear", align_corners=False)[0]
    label = semantic_map(logits, **SIZES)
    assert label.dtype == torch.int64 and torch.equal(label, full.argmax(0))
    assert (label == 2).any() and not (label == 5).any()


def test_a_raw_prediction_becomes_segments_of_its_things_and_stuff():
    """Two things (classes 1 and 0, of queries 3 and 1) and two stuff classes, a quarter of the image each."""
    masks = torch.zeros(4, 8, 8)
    for mask, (rows, columns) in zip(
        masks, [(slice(4), slice(4)), (slice(4), slice(4, 8)), (slice(4, 8), slice(4)), (slice(4, 8), slice(4, 8))]
    ):
        mask[rows, columns] = 1
    logits = torch.full((5, 2), -9.0)
    logits[1, 0], logits[3, 1] = 4.0, 6.0
    boxes = torch.zeros(5, 4)
    boxes[1], boxes[3] = torch.tensor([0.25, 0.25, 0.5, 0.5]), torch.tensor([0.75, 0.25, 0.5, 0.5])
    raw = merge.RawPrediction(
        class_logits=logits[None],
        boxes=boxes[None],
        queries=[torch.tensor([1, 3])],
        thing_masks=[masks[:2]],
        stuff_masks=masks[None, 2:],
        stuff_logits=torch.tensor([[2.0, 3.0]]),
        semantic_logits=masks[None],
    )
    result = merge.image_result(
        raw,
        0,
        num_things=2,
        topk=2,
        padded_size=(8, 8),
        image_size=(8, 8),
        output_size=(16, 16),
        quality_thresholds=(0.25, 0.25),
        overlap_thresholds=(0.4, 0.2),
    )
    ids, segments = result["panoptic_seg"]
    by_place = [next(s for s in segments if s["id"] == ids[y, x]) for y, x in ((2, 2), (2, 13), (13, 2), (13, 13))]
    assert [segment["category_id"] for segment in by_place] == [0, 1, 2, 3]
    assert [segment["isthing"] for segment in by_place] == [True, True, False, False]
    # Best first: the thing of query 3, then that of query 1, then stuff.
    assert [segment["category_id"] for segment in segments] == [1, 0, 3, 2]
    assert result["instances"].pred_classes.tolist() == [1, 0]
    assert result["instances"].pred_boxes.tensor.tolist() == [[8, 0, 16, 8], [0, 0, 8, 8]]
    assert result["sem_seg"][2, 2] == 0 and result["sem_seg"][13, 13] == 3
