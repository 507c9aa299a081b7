"""Backbone, embedding heads and classifier compute what the published network computes."""

import torch

from parity.reference import Reference, reference_files
from parity.spml_model import PIXEL_MEAN, PIXEL_STD, fill_module, filled_model
from weakseg.methods.spml.checkpoint import published_name
from weakseg.methods.spml.embedding_heads import DeepLabHead, PyramidPooling
from weakseg.methods.spml.segments import find_segments
from weakseg.methods.spml.views import resize_linear

KMEANS_GRIDS = {"voc": (6, 6), "densepose": (12, 12)}
"""Of the recorded segments, with 10 iterations."""


def published_part(prefix):
    """From a tensor's name in a part of the network to the published one."""
    return lambda name: published_name(f"head.network.embedding_head.{prefix}{name}").removeprefix("embedding_model.")


@torch.no_grad()
@reference_files("spml", "unit_heads")
def test_both_embedding_heads(path):
    with Reference(path) as ref:
        x = ref.tensor("x")
        deeplab = fill_module(DeepLabHead(x.shape[1], ref["aspp_out"].shape[1]), published_part(""))
        compare(ref, "aspp_out", deeplab(x), 1e-5)
        pooling = fill_module(PyramidPooling(x.shape[1], ref["pspp_out_eval"].shape[1]), published_part("pooling."))
        compare(ref, "pspp_out_eval", pooling.eval()(x), 1e-5)
        compare(ref, "pspp_out_train", pooling.train()(x), 1e-5)


def compare(ref, name, actual, tolerance):
    """Differences are measured by the largest value of the recorded array."""
    ref.compare(name, actual, atol=tolerance * abs(ref[name]).max())


def every(step, maps):
    """Every `step`-th row and column."""
    return maps[..., ::step, ::step]


@torch.no_grad()
@reference_files("spml", "whole")
def test_the_whole_network(path):
    with Reference(path) as ref:
        images = (ref.tensor("image_u8").float() / 255 - PIXEL_MEAN) / PIXEL_STD
        images = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)
        size = tuple(images.shape[-2:])
        dim, classes = ref["embedding"].shape[1], ref["logits_stride4"].shape[1]
        model = filled_model(path.stem, embedding_dim=dim, num_classes=classes)
        classifier = model.network.classifier

        features = model.backbone(images)
        for stage in ref.cases("_slice"):
            if stage in features:
                ref.compare(f"{stage}_shape", features[stage].shape)
                ref.compare(f"{stage}_norm", features[stage].norm(), rtol=1e-4)
                compare(ref, f"{stage}_slice", features[stage][0, :6], 1e-4)
        embedding = model.network(features["res5"])
        compare(ref, "embedding", embedding, 1e-4)
        full = resize_linear(embedding, size)
        compare(ref, "embedding_full_slice", every(2, full[:, : ref["embedding_full_slice"].shape[1]]), 1e-4)
        compare(ref, "embedding_full_norm", every(2, full.norm(dim=1)), 1e-4)

        logits_tolerance = 1e-3 if "_101" in path.stem else 1e-4
        compare(ref, "logits_stride4", classifier(embedding), logits_tolerance)
        ref.compare_fraction(
            "logits_stride4_upsampled_argmax",
            classifier.full_logits(embedding, size, at_stride_4=True).argmax(1),
            fraction=5e-3,
        )
        logits = classifier.full_logits(embedding, size)
        compare(ref, "logits_full_slice", every(3, logits), logits_tolerance)
        ref.compare_fraction("prediction_full", logits.argmax(1), fraction=5e-3)

        local = model.network.local_features(images, tuple(embedding.shape[-2:]))
        ref.compare("local_feature", local.expand(len(images), -1, -1, -1), atol=1e-5)
        grid = KMEANS_GRIDS[path.stem.split("_")[1]]
        for name, maps in (("segment_stride4", embedding), ("segment_full", full)):
            local = model.network.local_features(images, tuple(maps.shape[-2:]))
            segments = find_segments(maps, local=local, grid=grid, iterations=10)
            ref.compare_fraction(name, segments.segment, fraction=5e-3)
