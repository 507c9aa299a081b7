"""Training steps of both stages of SPML: losses, segments, prototypes, gradients and statistics of the release."""

import copy
import functools
import re
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from parity.reference import Reference, reference_files
from parity.spml_model import PIXEL_MEAN, PIXEL_STD, filled_model
from weakseg.methods.spml.checkpoint import published_name
from weakseg.methods.spml.classifier import pixel_cross_entropy
from weakseg.methods.spml.criterion import Contrast, Criterion, Relation, Relations
from weakseg.methods.spml.memory_bank import MemoryBank
from weakseg.methods.spml.segments import segment_prototypes

IGNORED = 255
OFF = Relation(weight=0.0, concentration=1.0)
KMEANS_ITERATIONS = 10
EXACT, ROUNDED = 1e-6, 1e-3
"""Relative to the largest value of an array: files of float64, and embedding, prototypes and statistics of float32."""
BACKBONE = 0.05
"""Gradients in float32 through a random deep network: "a few per cent"."""


@dataclass(frozen=True)
class Recipe:
    """The column of card 3.12 that a file's name tells. Weight and kappa of the relations, grid of the k-means."""

    annotation: Relation
    cooccurrence: Relation = OFF
    affinity: Relation = OFF
    depth: int = 50
    densepose: bool = False

    @property
    def grid(self):
        return (12, 12) if self.densepose else (6, 6)


def recipe_of(name):
    """By words of the name; "notags" is a file of points, of which an image has no tag."""
    if "densepose" in name:
        affinity = Relation(0.5, 12.0) if "affinity" in name else OFF
        return Recipe(annotation=Relation(1.0, 6.0), affinity=affinity, densepose=True)
    if "scribble" in name:
        return Recipe(annotation=Relation(1.0, 6.0), cooccurrence=Relation(0.5, 12.0), depth=101)
    weight = 0.1 if "notags" in name or "point" in name else 0.3
    return Recipe(annotation=Relation(weight, 6.0), cooccurrence=Relation(weight, 8.0))


def inputs_of(path):
    """The file with the inputs of a step: what was computed in float64 has those of its namesake."""
    return path.with_name(path.name.replace("_float64", ""))


def earlier_steps(path):
    """Files with the inputs of the iterations before the one in `path`, from the first on."""
    found = re.search(r"iter(\d+)", path.name)
    names = [path.name.replace(found[0], f"iter{i}") for i in range(int(found[1]))] if found else []
    return [inputs_of(path.with_name(name)) for name in names]


@functools.lru_cache(maxsize=1)
def filled(network, embedding_dim, num_classes):
    """Not to be changed: tests run on a copy."""
    return filled_model(network, embedding_dim=embedding_dim, num_classes=num_classes)


def model_of(recipe, embedding_dim, num_classes, dtype):
    """The filled network without dropout, every layer with a gradient."""
    network = f"densepose_pspnet_{recipe.depth}" if recipe.densepose else f"voc_deeplab_{recipe.depth}"
    model = copy.deepcopy(filled(network, embedding_dim, num_classes)).to(dtype)
    model.backbone.requires_grad_(True)
    model.network.classifier.dropout.p = 0.0
    return model


def normalised(ref, labels, dtype):
    """(N, 3, H, W); of the first image 0 where the label map has its padding."""
    images = ((ref.tensor("image_u8").float() / 255 - PIXEL_MEAN) / PIXEL_STD).permute(0, 3, 1, 2).contiguous()
    images[0] = images[0].masked_fill(labels[0] == IGNORED, 0.0)
    return images.to(dtype)


@dataclass
class Step:
    """A step after its forward pass."""

    embedding: torch.Tensor
    contrast: Contrast
    losses: dict[str, torch.Tensor]


class Training:
    """The published loop with our parts, without an optimiser."""

    def __init__(self, recipe, *, embedding_dim, num_classes, dtype):
        self.model = model_of(recipe, embedding_dim, num_classes, dtype).train()
        self.recipe, self.num_classes, self.dtype = recipe, num_classes, dtype
        self.criterion = Criterion(
            num_classes=num_classes,
            relations=Relations(
                annotation=recipe.annotation,
                cooccurrence=recipe.cooccurrence,
                image=Relation(0.1, 16.0),
                affinity=recipe.affinity,
                image_of_embedding=recipe.densepose,
            ),
            pixel_loss_weight=1.0,
            kmeans_grid=recipe.grid,
            kmeans_iterations=KMEANS_ITERATIONS,
            memory=MemoryBank(length=0 if recipe.densepose else 2, channels=embedding_dim, num_classes=num_classes),
            squeeze=0.1 if recipe.densepose else 1.0,
            official=True,
        )

    def step(self, ref):
        labels, regions = ref.tensor("semantic_label"), ref.tensor("region_label")
        tags = recorded_tags(ref, labels)[:, : self.num_classes]
        images, network = normalised(ref, labels, self.dtype), self.model.network
        embedding = network(self.model.backbone(images)["res5"])
        local = network.local_features(images, tuple(embedding.shape[-2:]))
        contrast = self.criterion.contrast(embedding, local, labels, regions, tags)
        losses = self.criterion(contrast, network.classifier(embedding), labels)
        self.criterion.remember(contrast.prototypes)
        self.criterion.end_step()
        return Step(embedding, contrast, losses)


def recorded_tags(ref, labels):
    """(N, 256) bool: the values of each label map; whether the padding is one of them is the recording's choice."""
    tags = torch.from_numpy(np.unpackbits(ref["tags"], axis=1)).bool()
    for image_tags, image_labels in zip(tags, labels):
        values = image_tags.nonzero()[:, 0]
        assert values[values != IGNORED].tolist() == image_labels[image_labels != IGNORED].unique().tolist()
    return tags


@reference_files("spml", "train_step")
def test_steps_of_the_release(path):
    if "classifier" in path.name:
        check_classifier_stage(path)
    else:
        check_embedding_stage(path)


def check_embedding_stage(path):
    with Reference(path) as ref:
        inputs = ref if inputs_of(path) == path else Reference(inputs_of(path))
        training = Training(
            recipe_of(path.name),
            embedding_dim=inputs["embedding"].shape[1],
            num_classes=len(inputs["grad64/prediction.semantic_classifier.4.bias"]),
            dtype=torch.float64 if is_double(ref) else torch.float32,
        )
        with torch.no_grad():
            for earlier in earlier_steps(path):
                training.step(Reference(earlier))
        step = training.step(inputs)
        step.embedding.retain_grad()
        compare_losses(ref, step.losses, training.recipe)
        sum(step.losses.values()).backward()
        compare_step(ref, step)
        compare_statistics(ref, training.model)
        compare_gradients(ref, training.model)


def check_classifier_stage(path):
    """In float32, and what was computed in float64 too in that."""
    with Reference(path) as ref:
        labels, num_classes = ref.tensor("semantic_label"), ref["logits_slice"].shape[1]
        for dtype, suffix, tolerances in ((torch.float32, "", (1e-4, 1e-3)), (torch.float64, "_f64", (1e-6, 1e-6))):
            embedding_dim = len(ref["running_mean_classifier"]) // 2
            model = model_of(recipe_of(path.name), embedding_dim, num_classes, dtype)
            classifier = model.network.classifier.train()
            images = normalised(ref, labels, dtype)
            with torch.no_grad():
                embedding = model.network(model.backbone(images)["res5"])
            logits = classifier(embedding)
            total, count = pixel_cross_entropy(logits, labels)
            loss = total / count
            ref.compare(f"loss{suffix}", loss, rtol=tolerances[0])
            loss.backward()
            full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
            found = full.argmax(1)
            right = (found == labels)[labels < num_classes].double().mean()
            # In float32 a pixel may change its class by rounding.
            ref.compare(f"accuracy{suffix}", right, atol=1e-6 if suffix else 1 / int(count))
            for name, parameter in classifier.named_parameters():
                key = published_name(f"head.network.classifier.{name}").removeprefix("prediction_model.")
                compare_gradient(ref, key, parameter.grad, first="grad", suffix=suffix, tolerance=tolerances[1])
            if not suffix:
                compare_all(ref, "running_mean_classifier", classifier.norm.running_mean, ROUNDED)
                compare_all(ref, "logits_slice", full[..., ::4, ::4], 1e-4)
                ref.compare_fraction("prediction", found, fraction=5e-3)


def is_double(ref):
    return ref["total"].dtype == np.float64


def compare_losses(ref, losses, recipe):
    tolerance = 1e-6 if is_double(ref) else 1e-4
    assert all(loss.dtype == (torch.float64 if is_double(ref) else torch.float32) for loss in losses.values())
    ref.compare("cross_entropy_unweighted", losses["loss_pixel"] / recipe.annotation.weight, rtol=tolerance)
    ref.compare("sem_ann_loss", losses["loss_pixel"] + losses["loss_annotation"], rtol=tolerance)
    ref.compare("img_sim_loss", losses["loss_image"], rtol=tolerance)
    others = losses.keys() - {"loss_pixel", "loss_annotation", "loss_image"}
    assert len(others) == ("sem_occ_loss" in ref)
    for name in others:
        ref.compare("sem_occ_loss", losses[name], rtol=tolerance)
    ref.compare("total", sum(losses.values()), rtol=tolerance)


def compare_step(ref, step):
    """Whole maps, or in float64 their norms."""
    segments, prototypes = step.contrast.segments, step.contrast.prototypes
    located = segment_prototypes(segments.located.detach(), segments.segment, len(segments.segment_image))
    maps = {"embedding": step.embedding, "prototype": prototypes.vector, "grad_embedding": step.embedding.grad}
    ref.compare("prototype_with_location_norm", located.norm(), rtol=EXACT if is_double(ref) else ROUNDED)
    for name, values in maps.items():
        if is_double(ref):
            ref.compare(f"{name}_norm", values.norm(), rtol=1e-5 if name == "grad_embedding" else EXACT)
        else:
            compare_all(ref, name, values, ROUNDED)
    if is_double(ref):
        return
    ref.compare("segment", segments.segment)
    for name in ("image", "semantic", "region"):
        ref.compare(f"pixel_{name}", getattr(segments, name))
        ref.compare(f"prototype_{name}", getattr(prototypes, name))
    ref.compare("accuracy", step.contrast.accuracy(), atol=1e-4)


def compare_all(ref, name, actual, tolerance):
    """Differences are measured by the largest value of the recorded array."""
    ref.compare(name, actual, atol=tolerance * np.abs(ref[name]).max())


def compare_statistics(ref, model):
    """Of the norms "stem" (the last of it), "classifier", or one of the backbone such as "res5_0_bn3"."""
    tensors = published_tensors(model.state_dict())
    for key in ref.keys():
        found = re.fullmatch(r"(running_(?:mean|var))_(.+)", key)
        if found:
            statistic, layer = found.groups()
            place = {"stem": "resnet_backbone.conv1.bn1", "classifier": "prediction.semantic_classifier.1"}.get(
                layer, "resnet_backbone." + layer.replace("_", ".")
            )
            compare_all(ref, key, tensors[f"{place}.{statistic}"], EXACT if is_double(ref) else ROUNDED)


def compare_gradients(ref, model):
    gradients = published_tensors({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    missing = [name for name, gradient in gradients.items() if gradient is None]
    assert not missing, f"no gradient for {missing}"
    for name in (key.removeprefix("gradnorm/") for key in ref.keys() if key.startswith("gradnorm/")):
        if is_double(ref):
            tolerance = 1e-5
        else:
            tolerance = BACKBONE if name.startswith("resnet_backbone.") else 1e-3
        compare_gradient(ref, name, gradients[name], first="grad64", tolerance=tolerance)


def compare_gradient(ref, name, gradient, *, first, tolerance, suffix=""):
    """The norm, and the first values of it, as many as were recorded."""
    # In float32 torch's sum of 19 million squares is wrong by 1e-3.
    ref.compare(f"gradnorm/{name}{suffix}", gradient.double().norm(), rtol=tolerance)
    key = f"{first}/{name}{suffix}"
    compare_all(ref, key, gradient.flatten()[: len(ref[key])], tolerance)


def published_tensors(tensors):
    """By the recorded names."""
    return {
        published_name(name).removeprefix("embedding_model.").replace("prediction_model.", "prediction."): value
        for name, value in tensors.items()
    }
