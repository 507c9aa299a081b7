"""Scenes for the benchmarks: objects on ground, and what a half-trained network says of them.

Everything is drawn from a seed. Logits, boundary and embedding follow the objects and are blurred and noisy as maps of
stride 8 are; labelled pixels lie inside the objects.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import BenchmarkError
from weakseg.labels import NO_CLASS
from weakseg.methods.point2mask.semantic_losses import DilatedPoints, dilate_points

_EMBEDDING = 128


@dataclass
class Scene:
    """B images of (H, W) with T thing and U stuff classes, maps of the network at (h0, w0) = (H / 8, W / 8).

    image (B, 3, H, W) normalised; owner (B, H, W) instance, -1 nobody; semantic (B, H, W) class; classes per image
    (n,); points per image (P, 3) rows (instance, y, x); point_map (B, H, W), 255 none; logits (B, C, h0, w0) >= 0;
    boundary (B, h0, w0) logits; embedding (B, 128, h0, w0) of unit length.
    """

    num_things: int
    num_stuff: int
    image: Tensor
    owner: Tensor
    semantic: Tensor
    classes: list[Tensor]
    points: list[Tensor]
    point_map: Tensor
    logits: Tensor
    boundary: Tensor
    embedding: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """Each image fills the batch."""
        return [self.size] * len(self.image)

    def dilated(self) -> DilatedPoints:
        return dilate_points(self.point_map, self.num_things + self.num_stuff)

    def first(self) -> Scene:
        """The first image alone."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Scene(**{name: value if isinstance(value, int) else value[:1] for name, value in values.items()})


def make_scene(
    height: int,
    width: int,
    *,
    images: int = 1,
    things: int = 10,
    num_things: int = 20,
    num_stuff: int = 1,
    thing_classes: int = 5,
    stuff_classes: int = 1,
    points_per_target: int = 1,
    block: int = 1,
    certainty: float = 2.0,
    device: str = "cpu",
    seed: int = 0,
) -> Scene:
    """`things` objects of at most `thing_classes` classes on bands of `stuff_classes` grounds. Each labelled pixel is a
    square of `block` pixels a side, as nearest upscaling leaves it. certainty: what the logit of the true class is
    above the noise, 2 early in training, 7 late."""
    generator = torch.Generator().manual_seed(seed)
    size, small = (height, width), (-(-height // 8), -(-width // 8))
    owner = torch.stack([_objects(size, things, generator) for _ in range(images)])
    thing_kinds = torch.randperm(num_things, generator=generator)[:thing_classes]
    stuff_kinds = num_things + torch.randperm(num_stuff, generator=generator)[:stuff_classes]
    classes = [thing_kinds[torch.randint(len(thing_kinds), (things,), generator=generator)] for _ in range(images)]
    bands = stuff_kinds[torch.arange(height) * len(stuff_kinds) // height]
    semantic = torch.stack([torch.where(o < 0, bands[:, None], c[o.clamp(min=0)]) for o, c in zip(owner, classes)])
    points, point_map = _labelled_pixels(owner, semantic, classes, stuff_kinds, points_per_target, block, generator)

    shape = (images, num_things + num_stuff)
    truth = F.one_hot(semantic, shape[1]).permute(0, 3, 1, 2).float()
    truth = _blurred(F.interpolate(truth, size=small, mode="area"))
    logits = (certainty * truth + _smooth_noise((*shape, *small), 0.7, generator)).clamp(min=0)
    segment = _segments(owner, semantic)
    edges = _blurred(F.interpolate(_edges(segment)[:, None], size=small, mode="area"))[:, 0]
    boundary = 12 * edges - 3 + _smooth_noise((images, 1, *small), 0.5, generator)[:, 0]
    looks = torch.randn(images, _EMBEDDING + 3, int(segment.max()) + 1, generator=generator)
    near = F.interpolate(segment[:, None].float(), size=small, mode="nearest")[:, 0].long()
    kind = torch.stack([look[:, index] for look, index in zip(looks[:, :_EMBEDDING], near)])
    embedding = F.normalize(_blurred(kind) + _smooth_noise(kind.shape, 0.5, generator), dim=1)
    color = torch.stack([look[:, index] for look, index in zip(looks[:, _EMBEDDING:], segment)])
    image = _blurred(color) + _smooth_noise(color.shape, 0.2, generator)
    image = (image + 0.03 * torch.randn(color.shape, generator=generator)).clamp(-2, 2)
    return Scene(
        num_things=num_things,
        num_stuff=num_stuff,
        image=image.to(device),
        owner=owner.to(device),
        semantic=semantic.to(device),
        classes=[labels.to(device) for labels in classes],
        points=[rows.to(device) for rows in points],
        point_map=point_map.to(device),
        logits=logits.to(device),
        boundary=boundary.to(device),
        embedding=embedding.to(device),
    )


def _objects(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Owner (H, W) of overlapping ellipses, one in each of `count` cells of a grid, so that all of them are seen."""
    height, width = size
    columns = max(round((count * width / height) ** 0.5), 1)
    rows = max(-(-count // columns), 1)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    owner = torch.full(size, -1, dtype=torch.int64)
    for k in range(count):
        row, column, dy, dx, tall, wide = (k // columns, k % columns, *torch.rand(4, generator=generator).tolist())
        centre_y, centre_x = (row + 0.35 + 0.3 * dy) * height / rows, (column + 0.35 + 0.3 * dx) * width / columns
        radius_y, radius_x = (0.25 + 0.35 * tall) * height / rows, (0.25 + 0.35 * wide) * width / columns
        owner[((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 < 1] = k
    return owner


def _labelled_pixels(
    owner: Tensor,
    semantic: Tensor,
    classes: list[Tensor],
    stuff_kinds: Tensor,
    count: int,
    block: int,
    generator: torch.Generator,
) -> tuple[list[Tensor], Tensor]:
    """Points (P, 3) of each image's instances, and the class map of all labelled pixels."""
    point_map = torch.full_like(semantic, NO_CLASS)
    points = []
    for b, labels in enumerate(classes):
        rows = []
        targets = [(owner[b] == k, kind, k) for k, kind in enumerate(labels.tolist())]
        targets += [((semantic[b] == kind), kind, -1) for kind in stuff_kinds.tolist()]
        for inside, kind, k in targets:
            pixels = inside.nonzero()
            if not len(pixels):
                height, width = owner.shape[1:]
                raise BenchmarkError(
                    f"--things: expected objects and grounds that are in sight; found one hidden among {len(labels)} "
                    f"things at {width}x{height}. Ask for larger images or fewer things."
                )
            chosen = pixels[torch.randint(len(pixels), (count,), generator=generator)]
            for dy in range(block):
                for dx in range(block):
                    y = (chosen[:, 0] + dy).clamp(max=owner.shape[1] - 1)
                    x = (chosen[:, 1] + dx).clamp(max=owner.shape[2] - 1)
                    point_map[b, y, x] = kind
                    if k >= 0:
                        rows.append(torch.stack([torch.full_like(y, k), y, x], dim=1))
        points.append(torch.cat(rows) if rows else torch.zeros(0, 3, dtype=torch.int64))
    return points, point_map


def _segments(owner: Tensor, semantic: Tensor) -> Tensor:
    """Number of each pixel's segment: the classes' grounds, then the instances."""
    return torch.where(owner < 0, semantic, owner + int(semantic.max()) + 1)


def _edges(segment: Tensor) -> Tensor:
    """(B, H, W) 1 where the right or the lower neighbour is of another segment."""
    edges = torch.zeros(segment.shape)
    edges[:, :, :-1] += segment[:, :, 1:] != segment[:, :, :-1]
    edges[:, :-1] += segment[:, 1:] != segment[:, :-1]
    return edges.clamp(max=1)


def _smooth_noise(shape: tuple[int, ...], strength: float, generator: torch.Generator) -> Tensor:
    """Noise (B, C, h, w) whose bumps are a sixth of the map wide."""
    coarse = strength * torch.randn(*shape[:2], 6, 8, generator=generator)
    return F.interpolate(coarse, size=tuple(shape[2:]), mode="bicubic", align_corners=False)


def _blurred(maps: Tensor) -> Tensor:
    """Mean of 3 x 3 neighbours."""
    return F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
