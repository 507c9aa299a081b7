"""Images per second of a whole model, and where the time goes. Its weights are random: masks and scores that the merge
works on are put in from a scene, so that it has segments to paint."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.model import PartTimer, add_model_arguments, build_model, scene_of, training_batch
from benchmarks.scenes import Scene
from weakseg.inference.views import plain_view
from weakseg.methods.point2mask.merge import RawPrediction, top_pairs

HELP = "images per second, and the share of each part"
_PARTS = ["preprocess", "backbone", "encoder", "location decoder", "mask decoders", "merge", "other"]
_NETWORK = {
    "encode": "encoder",
    "locate": "location decoder",
    "thing_masks": "mask decoders",
    "stuff": "mask decoders",
    "semantic": "mask decoders",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, height=600, width=800, images=1)
    parser.add_argument("--runs", type=int, default=15, help="timed batches")


def run(args: argparse.Namespace) -> list[dict]:
    """One row a part, then the whole with its images per second."""
    model = build_model(args).eval()
    scene = scene_of(args)
    batch = training_batch(scene, model)
    timer = PartTimer(args.device)
    timer.wrap(model, "preprocess", "preprocess")
    timer.wrap(model.backbone, "forward", "backbone")
    for name, part in _NETWORK.items():
        timer.wrap(model.head.network, name, part)
    for _ in range(args.runs + 1):
        predict(model, batch, scene, timer)
    del timer.runs[0]  # warm-up
    rows = timer.shares("", _PARTS)
    total = PartTimer()
    total.runs = [{"whole": sum(times.values())} for times in timer.runs]
    whole = total.shares("", ["whole"])[0]
    return [*rows, whole | {"images_per_second": len(batch) / whole["seconds"]}]


@torch.no_grad()
def predict(model: nn.Module, batch: list[dict], scene: Scene, timer: PartTimer) -> list[dict]:
    timer.start_run()
    times = timer.runs[-1]
    images = model.preprocess(batch)
    features = model.backbone(images.tensor)
    before = sum(times.values())
    with timer.measure("head"):
        raw = model.head(features, images, batch)
    times["other"] = before + times["head"] - (sum(times.values()) - times["head"])
    del times["head"]
    raw = with_segments(raw, scene)
    with timer.measure("merge"):
        return model.head.finish([(plain_view(images), raw)], batch)


def with_segments(raw: RawPrediction, scene: Scene) -> RawPrediction:
    """`raw` with the scene's objects as the best queries of their class, and its grounds as stuff. Each further query
    repeats an object with a score that fails, as most of a trained network's do."""
    size = raw.semantic_logits.shape[-2:] if raw.semantic_logits is not None else raw.stuff_masks.shape[-2:]
    class_logits = torch.full_like(raw.class_logits, -6.0)
    queries, thing_masks, stuff_masks = [], [], torch.zeros_like(raw.stuff_masks)
    for b, labels in enumerate(scene.classes):
        objects = scene.owner[b] == torch.arange(len(labels))[:, None, None]
        small = F.interpolate(objects[None].float(), size=size, mode="bilinear", align_corners=False)[0]
        small = small.to(raw.stuff_masks)
        query = torch.arange(class_logits.shape[1])
        kind = labels[query % len(labels)]
        class_logits[b, query, kind] = torch.where(query < len(labels), 3.0, -1.0 - 0.01 * query).to(class_logits)
        queries.append(top_pairs(class_logits[b], 100)[1].unique())
        thing_masks.append(small[queries[-1] % len(labels)])
        for u in range(scene.num_stuff):
            ground = ((scene.semantic[b] == scene.num_things + u) & (scene.owner[b] < 0))[None, None].float()
            stuff_masks[b, u] = F.interpolate(ground, size=size, mode="bilinear", align_corners=False)[0, 0]
    return replace(
        raw,
        class_logits=class_logits,
        queries=queries,
        thing_masks=thing_masks,
        stuff_masks=stuff_masks,
        stuff_logits=torch.full_like(raw.stuff_logits, 2.0),
    )
