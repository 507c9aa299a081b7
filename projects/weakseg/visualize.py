"""Every picture that the project draws. Pictures are uint8 RGB arrays (H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

VOID_COLOR = (60, 60, 60)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def paint_panoptic(
    image: np.ndarray,
    segment_map: np.ndarray,
    segments: Sequence[dict],
    colors: Sequence[Sequence[int]],
    names: Sequence[str] = (),
    alpha: float = 0.55,
) -> np.ndarray:
    """Segments painted over an image in the colour of their class, shaded from thing to thing, and outlined.

    image (H, W, 3) RGB; segment_map (H, W) ids, 0 is void (dark grey); segments: dicts of id, category_id, isthing and
    optionally score; colors and names: per class. Without `names` nothing is written into the picture.
    """
    paint = np.empty_like(image)
    paint[:] = VOID_COLOR
    shades = (1.0, 0.8, 1.2, 0.65, 1.35)
    for number, segment in enumerate(segments):
        shade = shades[number % len(shades)] if segment["isthing"] else 1.0
        color = np.clip(np.array(colors[segment["category_id"]]) * shade, 0, 255)
        paint[segment_map == segment["id"]] = color
    picture = (alpha * paint + (1 - alpha) * image).astype(np.uint8)
    picture[_outlines(segment_map)] = (255, 255, 255)
    if names:
        _write_names(picture, segment_map, segments, names)
    return picture


def paint_classes(
    image: np.ndarray, class_map: np.ndarray, colors: Sequence[Sequence[int]], alpha: float = 0.55
) -> np.ndarray:
    """A class map (H, W), 255 for none (dark grey), painted over an image."""
    table = np.full((256, 3), VOID_COLOR, dtype=np.uint8)
    table[: len(colors)] = np.asarray(colors, dtype=np.uint8)
    return (alpha * table[class_map.astype(np.uint8)] + (1 - alpha) * image).astype(np.uint8)


def paint_map(values: np.ndarray) -> np.ndarray:
    """A map (H, W) of numbers in [0, 1], dark to bright."""
    grey = np.clip(255 * values, 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def draw_points(
    image: np.ndarray, points: np.ndarray, classes: np.ndarray, colors: Sequence[Sequence[int]]
) -> np.ndarray:
    """Points (P, 2) as (x, y) in pixels of the image: dots in the colour of their class (P,), ringed in white."""
    picture = image.copy()
    radius = max(3, min(image.shape[:2]) // 60)
    for (x, y), kind in zip(points, classes):
        center = (int(x), int(y))
        cv2.circle(picture, center, radius + 2, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(picture, center, radius, tuple(int(v) for v in colors[int(kind)]), -1, cv2.LINE_AA)
    return picture


def sheet(panels: Sequence[tuple[str, np.ndarray]], height: int = 256) -> np.ndarray:
    """Pictures side by side, each scaled to `height` pixels and titled."""
    titled = []
    for title, picture in panels:
        width = round(picture.shape[1] * height / picture.shape[0])
        scaled = cv2.resize(
            picture, (width, height), interpolation=cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_NEAREST
        )
        bar = np.full((24, width, 3), 255, dtype=np.uint8)
        cv2.putText(bar, title, (6, 17), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        titled.append(
            cv2.copyMakeBorder(np.vstack([bar, scaled]), 0, 0, 0, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        )
    return np.hstack(titled)


def _outlines(segment_map: np.ndarray) -> np.ndarray:
    edge = np.zeros(segment_map.shape, dtype=bool)
    edge[:, 1:] |= segment_map[:, 1:] != segment_map[:, :-1]
    edge[1:] |= segment_map[1:] != segment_map[:-1]
    return edge


def _write_names(picture: np.ndarray, segment_map: np.ndarray, segments: Sequence[dict], names: Sequence[str]) -> None:
    scale = max(0.35, min(picture.shape[:2]) / 1000)
    for segment in segments:
        inside = (segment_map == segment["id"]).astype(np.uint8)
        # The pixel farthest from the segment's border: the name stands inside also for bent segments.
        depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        text = names[segment["category_id"]]
        if segment.get("score") is not None:
            text += f" {segment['score']:.2f}"
        (width, height), _ = cv2.getTextSize(text, _FONT, scale, 1)
        origin = (
            int(np.clip(x - width // 2, 0, max(0, picture.shape[1] - width))),
            int(np.clip(y + height // 2, height, picture.shape[0])),
        )
        # Thicker strokes would also be set wider: the black rim is the same text, moved by a pixel each way.
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            cv2.putText(picture, text, (origin[0] + dx, origin[1] + dy), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
        cv2.putText(picture, text, origin, _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
