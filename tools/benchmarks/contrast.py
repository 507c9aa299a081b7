"""SPML's contrastive losses C and O, forward and backward, against the literal form of the card (3.5): time, and the
memory that a step keeps and allocates."""

from __future__ import annotations

import argparse
import weakref
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import add_growth, add_timing_arguments, compare, on_cpu
from benchmarks import literal_spml as literal
from benchmarks.memory import SavedTensors
from weakseg.methods.spml.contrast import annotation_loss, cooccurrence_loss
from weakseg.methods.spml.segments import Prototypes, Segments, local_prototypes

HELP = "SPML's contrastive losses C and O, forward and backward, and their memory"
CHANNELS, CLASSES, IMAGES, CLASSES_PER_IMAGE = 64, 21, 4, 4
CONCENTRATION = {"C": 6.0, "O": 8.0}
REQUIRED_RATIO = 3
ALLOWED_SHARE = 0.25
_LOSS_ERROR = 1e-5
_GRADIENT_ERROR = 1e-4
_MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_timing_arguments(parser)
    parser.add_argument("--pixels", type=int, nargs="+", default=[4096, 8192, 16384], help="pixels of the batch")
    parser.add_argument("--segments", type=int, default=3000, help="segments of the batch")


def run(args: argparse.Namespace) -> list[dict]:
    """A row of times for each relation and size, and one of the memory at the last size."""
    rows = []
    for relation in CONCENTRATION:
        table = []
        for pixels in args.pixels:
            forms = Forms(relation, *make_scene(pixels, args.segments, args.device))
            name = f"relation {relation}, {pixels} pixels x {args.segments} segments"
            timing = {"pairs": args.pairs, "device": args.device}
            table.append(compare(name, forms.literal, forms.ours, check_results, **timing))
        rows += add_growth(table, args.pixels)
        if on_cpu(args.device):
            rows[-1]["required_ratio"] = REQUIRED_RATIO
        rows.append(memory_row(f"{name}, memory", forms))
    return rows


class Forms:
    """Both forms of the loss of a relation. Each returns the mean over pixels, not yet propagated back, and the leaves
    that the gradient is for: pixels (M, C) and prototypes (P, C)."""

    def __init__(self, relation: str, segments: Segments, prototypes: Prototypes, tags: Tensor):
        self.relation, self.segments, self.prototypes, self.tags = relation, segments, prototypes, tags
        self.concentration = CONCENTRATION[relation]

    def literal(self) -> tuple[Tensor, ...]:
        return with_gradients(*self.literal_loss())

    def ours(self) -> tuple[Tensor, ...]:
        return with_gradients(*self.our_loss())

    def literal_loss(self) -> tuple[Tensor, Tensor, Tensor]:
        segments, prototypes = self._leaves()
        if self.relation == "C":
            positive = literal.same_label(segments.semantic, prototypes.semantic)
        else:
            positive = literal.shared_tag(self.tags[segments.image, 1:], prototypes.tags[:, 1:])
        losses = literal.contrast(segments.embedding, prototypes.vector, positive, segments.segment, self.concentration)
        return losses.mean(), segments.embedding, prototypes.vector

    def our_loss(self) -> tuple[Tensor, Tensor, Tensor]:
        segments, prototypes = self._leaves()
        options = {"first": 0, "concentration": self.concentration}
        if self.relation == "C":
            loss, count = annotation_loss(segments, prototypes, num_classes=CLASSES, **options)
        else:
            loss, count = cooccurrence_loss(segments, prototypes, self.tags, **options)
        return loss / count, segments.embedding, prototypes.vector

    def _leaves(self) -> tuple[Segments, Prototypes]:
        return (
            replace(self.segments, embedding=self.segments.embedding.detach().requires_grad_()),
            replace(self.prototypes, vector=self.prototypes.vector.detach().requires_grad_()),
        )


def with_gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def make_scene(pixels: int, segments: int, device: str = "cpu") -> tuple[Segments, Prototypes, Tensor]:
    """Segments of random directions around those of their classes, spread evenly over the images and pixels, all of
    them labelled; their prototypes, and the tags (N, K) of the images."""
    generator = torch.Generator().manual_seed(0)

    def noise(rows: int) -> Tensor:
        return torch.randn(rows, CHANNELS, generator=generator)

    classes = torch.rand(IMAGES, CLASSES, generator=generator).argsort(1)[:, :CLASSES_PER_IMAGE]
    image = torch.arange(segments) * IMAGES // segments
    semantic = classes[image, torch.randint(CLASSES_PER_IMAGE, (segments,), generator=generator)]
    segment = torch.arange(pixels) * segments // pixels
    centres = noise(CLASSES)[semantic] + noise(segments)
    embedding = F.normalize(centres[segment] + noise(pixels), dim=1)
    counts = [tuple(indices.bincount(minlength=IMAGES).tolist()) for indices in (image[segment], image)]
    tensors = {
        "embedding": embedding,
        "located": embedding,
        "segment": segment,
        "semantic": semantic[segment],
        "region": torch.zeros_like(segment),
        "image": image[segment],
        "segment_semantic": semantic,
        "segment_region": torch.zeros_like(semantic),
        "segment_image": image,
    }
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    found = Segments(**tensors, pixels_per_image=counts[0], segments_per_image=counts[1])
    tags = torch.zeros(IMAGES, CLASSES, dtype=torch.bool).scatter(1, classes, True).to(device)
    return found, local_prototypes(found, tags), tags


def check_results(literal_result: tuple[Tensor, ...], our_result: tuple[Tensor, ...]) -> None:
    """Equal loss and gradients, up to rounding (card 8)."""
    for expected, found, allowed in zip(
        literal_result, our_result, (_LOSS_ERROR, _GRADIENT_ERROR, _GRADIENT_ERROR), strict=True
    ):
        error = float((expected - found).norm() / expected.norm())
        if not error <= allowed:
            raise ValueError(f"expected loss and gradients equal to {allowed}; found relative error {error:.1e}.")


def memory_row(name: str, forms: Forms) -> dict:
    """What either form keeps for the backward pass, and the peak of what it allocates until that has ended."""
    row: dict = {"name": name}
    for form, loss in (("literal", forms.literal_loss), ("our", forms.our_loss)):
        saved, allocated = SavedTensors(nn.Identity()), AllocatedTensors()
        with allocated:
            with saved:
                results = loss()
            with_gradients(*results)
        del results
        row[f"{form}_saved_mib"] = saved.bytes / _MIB
        row[f"{form}_peak_mib"] = allocated.peak / _MIB
    share = row["our_peak_mib"] / row["literal_peak_mib"]
    return row | {"share": share, "allowed_share": ALLOWED_SHARE}


class AllocatedTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that live at a time among those made while it is entered, each storage once;
    `peak` is the most. Scratch within an operation is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if _is_tensor(tensor)}
        for tensor in filter(_is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._alive | given:
                self._alive.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, storage: int, size: int) -> None:
        self._alive.remove(storage)
        self.now -= size


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
