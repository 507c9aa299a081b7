"""Every picture that the project draws. Pictures are uint8 RGB arrays (H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from weakseg.labels import IGNORED, UNLABELLED

VOID_COLOR = (60, 60, 60)
_WHITE = (255, 255, 255)
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
    picture[_outlines(segment_map)] = _WHITE
    if names:
        _write_names(picture, segment_map, segments, names)
    return picture


def paint_classes(
    image: np.ndarray,
    class_map: np.ndarray,
    colors: Sequence[Sequence[int]],
    names: Sequence[str] = (),
    alpha: float = 0.55,
) -> np.ndarray:
    """A class map (H, W), 255 for none (dark grey), painted over an image. names: per class, each written once; without
    them nothing is."""
    table = np.full((256, 3), VOID_COLOR, dtype=np.uint8)
    table[: len(colors)] = np.asarray(colors, dtype=np.uint8)
    picture = (alpha * table[class_map.astype(np.uint8)] + (1 - alpha) * image).astype(np.uint8)
    if names:
        classes = [{"id": k, "category_id": k} for k in np.unique(class_map).tolist() if k < len(names)]
        _write_names(picture, class_map, classes, names)
    return picture


def paint_labels(image: np.ndarray, label_map: np.ndarray, colors: Sequence[Sequence[int]]) -> np.ndarray:
    """Labels that need not cover an image, as a class map (H, W) with 254 for unlabelled pixels, which show the image,
    and 255 for ignored ones (dark grey). Dots and lines are made wider and rimmed in white, to be seen."""
    table = np.full((256, 3), VOID_COLOR, dtype=np.uint8)
    table[: len(colors)] = np.asarray(colors, dtype=np.uint8)
    radius = max(2, min(image.shape[:2]) // 120)
    distance, nearest = _nearest_label(label_map)
    open_to_labels = label_map == UNLABELLED
    picture = image.copy()
    picture[open_to_labels & (distance <= radius + 2)] = _WHITE
    near = open_to_labels & (distance <= radius)
    picture[near] = table[nearest[near]]
    picture[~open_to_labels] = table[label_map[~open_to_labels]]
    return picture


def paint_segments(image: np.ndarray, segment_map: np.ndarray) -> np.ndarray:
    """The segments of a map (H, W) of any integers, each in the mean colour of its pixels; outlines are white, those of
    bright segments black."""
    ids, segment = np.unique(segment_map.ravel(), return_inverse=True)
    sums = [np.bincount(segment, channel, minlength=len(ids)) for channel in image.reshape(-1, 3).T]
    means = np.stack(sums, axis=1) / np.bincount(segment)[:, None]
    picture = np.rint(means).astype(np.uint8)[segment].reshape(image.shape)
    outlines = _outlines(segment_map)
    is_bright = picture[outlines].mean(axis=1, keepdims=True) > 160
    picture[outlines] = np.where(is_bright, 0, 255)
    return picture


def paint_embeddings(embeddings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Embeddings (h, w, D) of several images, h and w their own, as pictures whose colours can be compared.

    Red, green and blue are the first three principal components of all pixels together, each scaled so that its 1st to
    99th percentile fill 0..255; what does not vary is 128. A component points to where its largest weight is positive.
    """
    vectors = np.concatenate([embedding.reshape(-1, embedding.shape[-1]) for embedding in embeddings])
    mean = vectors.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(np.cov(vectors, rowvar=False, bias=True).reshape(2 * mean.shape))
    axes = axes[:, ::-1][:, :3]
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    # Rounding alone also has components.
    axes[:, variances[::-1][:3] <= 1e-9 * max(variances[-1], np.square(mean).sum())] = 0
    axes = np.pad(axes, ((0, 0), (0, 3 - axes.shape[1])))
    low, high = np.percentile((vectors - mean) @ axes, (1, 99), axis=0)
    spread = np.where(high > low, high - low, 1.0)
    colors = [((embedding - mean) @ axes - low) / spread for embedding in embeddings]
    return [np.where(high > low, np.rint(255 * np.clip(c, 0, 1)), 128).astype(np.uint8) for c in colors]


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


def legend(names: Sequence[str], colors: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Names beside patches of their colours, (H, width, 3) on white: in as many lines as they need."""
    side, gap = 14, 8
    x = gap
    lines: list[list[int]] = []
    for name in names:
        step = side + 3 * gap + cv2.getTextSize(name, _FONT, 0.5, 1)[0][0]
        if not lines or x + step > width:
            lines.append([])
            x = gap
        lines[-1].append(x)
        x += step
    picture = np.full((24 * len(lines), width, 3), 255, dtype=np.uint8)
    places = [(left, 24 * line) for line, lefts in enumerate(lines) for left in lefts]
    for name, color, (left, top) in zip(names, colors, places):
        picture[top + 5 : top + 5 + side, left : left + side] = color
        cv2.putText(picture, name, (left + side + gap, top + 17), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures from top to bottom, filled up with white at the right to the widest."""
    width = max(picture.shape[1] for picture in pictures)
    return np.vstack([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures])


def _nearest_label(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (H, W) in pixels to the nearest pixel with a class, infinite without any, and that class (H, W)."""
    has_class = (label_map != UNLABELLED) & (label_map != IGNORED)
    if not has_class.any():
        return np.full(label_map.shape, np.inf), label_map
    distance, place = cv2.distanceTransformWithLabels(
        (~has_class).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    class_at = np.zeros(place.max() + 1, dtype=label_map.dtype)
    class_at[place[has_class]] = label_map[has_class]
    return distance, class_at[place]


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
