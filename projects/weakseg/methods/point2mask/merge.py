"""Inference: from class scores and small masks to one panoptic map, its instances, and the semantic map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_convert

from weakseg.layers.resize import resize_and_crop

_CHUNK_PIXELS = 2**24
"""Pixels of full-size float maps that are held at a time (64 MB)."""

_ROUNDING = 1 + 1e-5
"""Interpolation and sums in fp32 stay within this factor of their exact bound."""


@dataclass
class RawPrediction:
    """One view of a batch. Last layers only: class_logits (B, Q, T); boxes (B, Q, 4) cxcywh in [0, 1]; per image the
    queries (M,) that may become segments and their masks (M, h0, w0); stuff masks (B, U, h0, w0) and existence logits
    (B, U); semantic logits (B, C, h0, w0), or None when they are not asked for."""

    class_logits: Tensor
    boxes: Tensor
    queries: list[Tensor]
    thing_masks: list[Tensor]
    stuff_masks: Tensor
    stuff_logits: Tensor
    semantic_logits: Tensor | None


def image_result(
    raw: RawPrediction,
    b: int,
    *,
    num_things: int,
    topk: int,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    quality_thresholds: tuple[float, float],
    overlap_thresholds: tuple[float, float],
) -> dict:
    """Image b at its original size (card section 5): "panoptic_seg"; "instances", its things with their queries' boxes;
    and, if there are semantic logits, "sem_seg", the class map. Arguments as in `panoptic_merge`."""
    sizes = {"padded_size": padded_size, "image_size": image_size, "output_size": output_size}
    scores, queries, classes = top_pairs(raw.class_logits[b], topk)
    stuff = torch.arange(raw.stuff_logits.shape[1], device=classes.device)
    ids, segments, candidates = panoptic_merge(
        torch.cat([raw.thing_masks[b], raw.stuff_masks[b]]),
        torch.cat([scores, raw.stuff_logits[b].sigmoid()]),
        classes=torch.cat([classes, num_things + stuff]),
        mask_index=torch.cat([torch.searchsorted(raw.queries[b], queries), len(raw.queries[b]) + stuff]),
        num_things=num_things,
        quality_thresholds=quality_thresholds,
        overlap_thresholds=overlap_thresholds,
        **sizes,
    )
    thing_queries = queries[candidates[candidates < len(queries)]]
    boxes = pair_boxes(raw.boxes[b].float(), thing_queries, image_size=image_size, output_size=output_size)
    result: dict = {"panoptic_seg": (ids, segments), "instances": thing_instances(ids, segments, boxes)}
    if raw.semantic_logits is not None:
        result["sem_seg"] = semantic_map(raw.semantic_logits[b], **sizes)
    return result


def top_pairs(class_logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k best (query, class) pairs of one image, best first (card section 5, step 1); queries may repeat.

    class_logits (Q, T). Returns scores (k,) in [0, 1], queries (k,), classes (k,); fewer where Q T < k.
    """
    scores, index = class_logits.float().sigmoid().flatten().sort(descending=True, stable=True)
    index = index[:k]
    num_things = class_logits.shape[1]
    return scores[:k], index // num_things, index % num_things


def pair_boxes(
    boxes: Tensor, queries: Tensor, *, image_size: tuple[int, int], output_size: tuple[float, float]
) -> Tensor:
    """Boxes of the pairs' queries in the original image, absolute xyxy (K, 4), clipped. boxes (Q, 4) cxcywh in [0, 1];
    sizes (height, width): the image as the network saw it (unpadded), and the original."""
    height, width = image_size
    scale = boxes.new_tensor([width, height, width, height])
    absolute = torch.minimum((box_convert(boxes[queries], "cxcywh", "xyxy") * scale).clamp(min=0), scale)
    return absolute * boxes.new_tensor([output_size[1], output_size[0], output_size[1], output_size[0]]) / scale


def panoptic_merge(
    masks: Tensor,
    scores: Tensor,
    *,
    classes: Tensor,
    mask_index: Tensor,
    num_things: int,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    quality_thresholds: tuple[float, float],
    overlap_thresholds: tuple[float, float],
) -> tuple[Tensor, list[dict], Tensor]:
    """Paint the candidates of one image by falling quality, each on what is still free (card section 5, steps 3 to 6).

    masks (M, h0, w0), >= 0, decision level 0.5; N candidates: class scores (N,), classes (N,) in 0..C-1, and the mask
    of each, mask_index (N,) in 0..M-1 (pairs of one query share its mask). Sizes (height, width) as in
    `resize_and_crop`; thresholds for (things, stuff).

    Quality = class score * (mask score)^2. A candidate below the quality threshold, with an empty mask, or with more
    than the overlap threshold of its mask already painted is left out. Returns the id map (H0, W0) int32, 0 void; per
    accepted candidate, ids from 1: id, category_id, isthing, area (painted pixels), score (quality); and which of the N
    candidates these are, (S,) int64.
    """
    is_thing = classes < num_things
    thing_quality, stuff_quality = quality_thresholds
    threshold = torch.where(is_thing, scores.new_tensor(thing_quality), scores.new_tensor(stuff_quality))

    # A resized mask never exceeds the small one: what cannot pass is not resized.
    peak = masks.float().flatten(1).amax(1)[mask_index] * _ROUNDING
    possible = ((scores * peak**2 * _ROUNDING >= threshold) & (peak > 0.5)).nonzero()[:, 0]
    distinct, which = mask_index[possible].unique(return_inverse=True)
    binary, area, mask_score = score_masks(
        masks[distinct], padded_size=padded_size, image_size=image_size, output_size=output_size
    )
    quality = scores[possible] * mask_score[which] ** 2
    quality, order = quality.sort(descending=True, stable=True)
    keep = (quality >= threshold[possible[order]]) & (area[which[order]] > 0)
    quality, order = quality[keep], order[keep]
    kept_classes = classes[possible[order]].tolist()
    limits = [overlap_thresholds[0 if label < num_things else 1] for label in kept_classes]

    id_map, accepted, painted = _paint(binary, area, which[order].tolist(), limits)
    segments: list[dict] = []
    for label, ok, pixels, score in zip(kept_classes, accepted.tolist(), painted.tolist(), quality.tolist()):
        if ok:
            segments.append(
                {
                    "id": len(segments) + 1,
                    "category_id": label,
                    "isthing": label < num_things,
                    "area": pixels,
                    "score": score,
                }
            )
    return id_map, segments, possible[order][accepted]


def thing_instances(id_map: Tensor, segments: list[dict], boxes: Tensor) -> Instances:
    """The S' thing segments of a panoptic map as Detectron2's instances, in the order of the segments: pred_masks
    (S', H0, W0) bool, what was painted; pred_classes (S',); scores (S',), the quality; pred_boxes, which are given:
    boxes (S', 4) absolute xyxy."""
    things = [segment for segment in segments if segment["isthing"]]
    ids = id_map.new_tensor([segment["id"] for segment in things])
    return Instances(
        (id_map.shape[0], id_map.shape[1]),
        pred_boxes=Boxes(boxes),
        scores=boxes.new_tensor([segment["score"] for segment in things]),
        pred_classes=ids.new_tensor([segment["category_id"] for segment in things], dtype=torch.int64),
        pred_masks=id_map == ids[:, None, None],
    )


def score_masks(
    masks: Tensor, *, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (M, h0, w0) at the original size: binary (M, H0, W0) where > 0.5, their area (M,) in pixels, and mask score
    (M,), the sum of the mask over its binary mask / (area + 1), which may exceed 1 (card section 5, step 4)."""
    binary, areas, scores = [], [], []
    for some in masks.float().split(_chunk(padded_size, output_size)):
        resized = resize_and_crop(some, padded_size, image_size, output_size)
        above = resized > 0.5
        area = above.sum((1, 2))
        binary.append(above)
        areas.append(area)
        scores.append(torch.where(above, resized, 0).sum((1, 2)) / (area + 1))
    return torch.cat(binary), torch.cat(areas), torch.cat(scores)


def semantic_map(
    scaled_logits: Tensor, *, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Class of the largest logit per pixel of the original image, (H0, W0) int64; of equal ones the first class (card
    section 5, step 7). scaled_logits (C, h0, w0)."""
    chunk = _chunk(padded_size, output_size)
    chunks = scaled_logits.float().split(chunk)
    winners = (resize_and_crop(some, padded_size, image_size, output_size).max(0) for some in chunks)
    best, label = next(winners)
    for k, (value, index) in enumerate(winners, start=1):
        larger = value > best
        best, label = torch.where(larger, value, best), torch.where(larger, index + k * chunk, label)
    return label


def _chunk(padded_size: tuple[int, int], output_size: tuple[int, int]) -> int:
    return max(1, _CHUNK_PIXELS // max(padded_size[0] * padded_size[1], output_size[0] * output_size[1]))


def _paint(binary: Tensor, area: Tensor, masks: list[int], limits: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The id map, and per entry of `masks` (rows of `binary`, in painting order) whether it was accepted and how many
    pixels it got. Decisions stay on the device."""
    id_map = torch.zeros(binary.shape[1:], dtype=torch.int32, device=binary.device)
    accepted = torch.zeros(len(masks), dtype=torch.bool, device=binary.device)
    painted = torch.zeros(len(masks), dtype=torch.int64, device=binary.device)
    for k, (row, limit) in enumerate(zip(masks, limits)):
        free = binary[row] & (id_map == 0)
        painted[k] = free.sum()
        accepted[k] = (area[row] - painted[k]).double() / area[row] <= limit
        next_id = accepted[: k + 1].sum(dtype=torch.int32)
        id_map = torch.where(free & accepted[k], next_id, id_map)
    return id_map, accepted, painted
