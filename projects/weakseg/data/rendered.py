"""Rendered scenes with exact truth: textured objects and clutter on textured ground, for the demo and for tests.

Four things are told apart by shape and pattern, two kinds of ground by pattern; colours are drawn from palettes that
the classes share, so that no colour gives a class away.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from weakseg.labels import LabelFile, boxes_from_masks, encode_mask, sample_points, write_label_file
from weakseg.safe_io import write_png

THINGS = ("ball", "crate", "cone", "ring")
STUFF = ("grass", "sand")
CLASS_COLORS = ((220, 60, 60), (60, 110, 220), (240, 170, 40), (150, 70, 190), (90, 160, 80), (225, 205, 160))

_PALETTE = np.array(
    [
        (205, 60, 50),
        (230, 150, 40),
        (220, 205, 70),
        (60, 90, 200),
        (70, 170, 190),
        (160, 70, 170),
        (235, 235, 230),
        (60, 55, 60),
    ],
    dtype=np.float32,
)
# Every colour belongs to two classes of things.
_COLORS_OF = {"ball": (0, 1, 3, 4), "crate": (1, 2, 5, 7), "cone": (0, 4, 6, 7), "ring": (2, 3, 5, 6)}
_GROUND_COLORS = {
    "grass": np.array([(90, 140, 70), (120, 150, 80), (100, 120, 60)], dtype=np.float32),
    "sand": np.array([(190, 170, 120), (150, 140, 90), (170, 150, 110)], dtype=np.float32),
}


def render_scene(rng: np.random.Generator, size: int = 128) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One scene of `size` x `size` pixels.

    Returns image (H, W, 3) uint8 RGB; segment map (H, W) int32 with k + 1 at segment k; classes, for each segment its
    index in THINGS + STUFF. Every segment is at least 60 pixels large, and at least half of each object is visible.
    """
    image, segments, classes = _ground(rng, size)
    _clutter(rng, image)
    visible_share = 0.5
    full_areas: list[int] = [0] * len(classes)
    for _ in range(int(rng.integers(2, 6))):
        thing = int(rng.integers(len(THINGS)))
        inside, color = _object(rng, size, THINGS[thing])
        area = int(inside.sum())
        remaining = np.bincount(segments[~inside], minlength=len(classes) + 1)[1:]
        hidden = remaining < np.maximum(60, visible_share * np.array(full_areas))
        if area < 60 or hidden.any():
            continue
        image[inside] = color[inside]
        classes.append(thing)
        full_areas.append(area)
        segments[inside] = len(classes)
    noise = rng.normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), segments, classes


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise (size, size) in about [-1, 1] with `cells` bumps per side."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    return x, y


def _ground(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One or two kinds of ground, parted by a wavy line: image, segment map, classes."""
    x, y = _grid(size)
    grass = _GROUND_COLORS["grass"][rng.integers(3)] + 16 * _noise(rng, size, size // 3)[..., None]
    ripples = np.sin((y + 6 * _noise(rng, size, 5)) * 2 * np.pi / rng.uniform(6, 9))
    sand = _GROUND_COLORS["sand"][rng.integers(3)] + 16 * ripples[..., None] + 8 * _noise(rng, size, 8)[..., None]
    angle = rng.uniform(0, np.pi)
    offset = rng.uniform(-0.6, 0.6) * size
    side = (x - size / 2) * np.cos(angle) + (y - size / 2) * np.sin(angle) + 0.1 * size * _noise(rng, size, 4) > offset
    image = np.where(side[..., None], grass, sand)
    parts = [(side, len(THINGS)), (~side, len(THINGS) + 1)]
    present = [(mask, kind) for mask, kind in parts if mask.sum() >= 0.1 * size * size]
    if len(present) == 1:
        image = grass if present[0][1] == len(THINGS) else sand
        return image.astype(np.float32), np.ones((size, size), np.int32), [present[0][1]]
    segments = np.where(side, 1, 2).astype(np.int32)
    return image.astype(np.float32), segments, [kind for _, kind in parts]


def _clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    """Twigs and pebbles in colours of the objects; they belong to the ground."""
    size = image.shape[0]
    for _ in range(int(rng.integers(4, 9))):
        color = tuple(float(value) for value in _PALETTE[rng.integers(len(_PALETTE))])
        start = rng.integers(0, size, 2)
        if rng.random() < 0.5:
            end = start + rng.integers(-size // 6, size // 6 + 1, 2)
            cv2.line(image, start.tolist(), end.tolist(), color, 1)
        else:
            cv2.circle(image, start.tolist(), int(rng.integers(1, 3)), color, -1)


def _object(rng: np.random.Generator, size: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mask (H, W) bool and colours (H, W, 3) float of one object at a random place, size and angle."""
    radius = rng.uniform(0.1, 0.21) * size
    center = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
    angle = rng.uniform(0, 2 * np.pi)
    x, y = _grid(size)
    u = ((x - center[0]) * np.cos(angle) + (y - center[1]) * np.sin(angle)) / radius
    v = (-(x - center[0]) * np.sin(angle) + (y - center[1]) * np.cos(angle)) / radius
    distance = np.hypot(u, v)
    if name == "ball":
        inside, shade = distance < 1, 1.15 - 0.6 * distance**2
    elif name == "crate":
        inside, shade = (np.abs(u) < 0.95) & (np.abs(v) < 0.7), 1 + 0.28 * np.sign(np.sin(u * 9))
    elif name == "cone":
        inside, shade = (v < 0.75) & (v > 1.9 * np.abs(u) - 1.05), 1 + 0.28 * np.sign(np.sin(v * 8))
        inside &= v > -1.05
    else:
        inside, shade = (distance < 1) & (distance > 0.5), 1 + 0.28 * np.sign(np.sin(np.arctan2(v, u) * 6))
    base = _PALETTE[rng.choice(_COLORS_OF[name])] + rng.normal(0, 12, 3)
    return inside, (base * shade[..., None]).astype(np.float32)


def render_data_set(folder: Path, split: str, *, count: int, size: int = 128, seed: int = 0) -> Path:
    """Write `count` scenes and their label file: one point, the mask and the box of every segment.

    Returns the path of the label file, `folder`/`split`.json, whose images lie in `folder`/`split`. Equal arguments
    give equal files.
    """
    images, annotations = [], {}
    for image_id in tqdm(range(1, count + 1), desc=f"rendering {split}", unit="image", leave=False):
        generator = np.random.default_rng((seed, image_id))
        image, segments, classes = render_scene(generator, size)
        masks = [segments == k + 1 for k in range(len(classes))]
        name = f"{split}/{image_id:05d}.png"
        write_png(folder / name, image)
        images.append({"id": image_id, "file_name": name, "height": size, "width": size})
        annotations[image_id] = [
            {
                "id": image_id * 100 + k,
                "image_id": image_id,
                "category_id": kind + 1,
                "iscrowd": 0,
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                "area": int(mask.sum()),
                "point_coords": points.tolist(),
                "segmentation": encode_mask(mask),
            }
            for k, (kind, mask, points, (x0, y0, x1, y1)) in enumerate(
                zip(classes, masks, sample_points(masks, 1, generator), boxes_from_masks(masks))
            )
        ]
    categories = [
        {"id": k + 1, "name": name, "isthing": int(k < len(THINGS)), "color": list(CLASS_COLORS[k])}
        for k, name in enumerate(THINGS + STUFF)
    ]
    path = folder / f"{split}.json"
    write_label_file(path, LabelFile(categories, images, annotations, {"description": "rendered scenes"}))
    return path
