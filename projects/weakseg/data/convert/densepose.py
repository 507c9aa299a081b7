"""COCO-DensePose annotations to the semantic truth of 14 body parts, with sampled points.

Of the published JSON these keys of a person count: `dp_masks`, 14 run lengths of 256 x 256 pixels that cover the
person's `bbox`, in the order of `PARTS`, an empty list where a part cannot be seen; and `segmentation`, COCO's own mask
of the person. Not every person has `dp_masks`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from weakseg.data.catalog import IGNORE_LABEL, label_file_name
from weakseg.data.convert.segments import add_points, annotations_of, image_generator, mapped, numbered, tags_of
from weakseg.data.convert.segsort import read_list
from weakseg.data.convert.voc import voc_palette
from weakseg.labels import LabelFile, decode_segmentation, read_label_file, write_label_file
from weakseg.safe_io import resolve_inside, write_png

PARTS = (
    "torso",
    "right hand",
    "left hand",
    "left foot",
    "right foot",
    "right thigh",
    "left thigh",
    "right leg",
    "left leg",
    "left arm",
    "right arm",
    "left forearm",
    "right forearm",
    "head",
)
"""The order of `dp_masks` (card section 6); the first has category id 1."""
BACKGROUND_ID = len(PARTS) + 1
GRID = 256
"""Side of the part masks, which cover the person's box whatever its size."""
NOT_ANNOTATED = -1


def densepose_categories() -> list[dict]:
    """Ids 1..14 for the parts, 15 for the background, all of them stuff; VOC's colours."""
    colors = voc_palette().tolist()
    parts = [{"id": k, "name": name, "isthing": 0, "color": colors[k]} for k, name in enumerate(PARTS, 1)]
    return [*parts, {"id": BACKGROUND_ID, "name": "background", "isthing": 0, "color": colors[0]}]


def prepare_densepose(
    root: Path,
    output: Path,
    *,
    splits: list[str],
    list_file: Path | None = None,
    points: int = 0,
    seed: int = 0,
    workers: int = 1,
) -> dict[str, int]:
    """Write {split}_sem_seg.json and {split}_sem_seg/NAME.png for each of `splits` ("train", "minival",
    "valminusminival"), from `root`/annotations; the photos are not read.

    list_file: a SegSort list; only the photos that it names are taken, of one split, in the order of the JSON. points:
    pixels drawn in each part of each person and in the background, none for 0; with several, the name of the label file
    says so. Returns the number of images of each split.
    """
    if list_file is not None and len(splits) != 1:
        raise ValueError(f"--list: expected one split beside a list; found {' '.join(splits)}. Name it with --splits.")
    counts = {}
    for split in splits:
        path = _annotation_file(root, split)
        photos = _photos(path)
        if list_file is not None:
            photos = _listed(photos, list_file, root, path)
        folder = output / f"{split}_sem_seg"
        convert = partial(_convert_photo, path=path, folder=folder, points=points, seed=seed)
        results = mapped(convert, photos, workers=workers, description=f"DensePose {split}")
        images = [{"id": number, **image} for number, (image, _) in enumerate(results, 1)]
        truth = numbered(images, [annotations for _, annotations in results])
        info = {"description": f"COCO-DensePose 2014 {split}, sem_seg"}
        labels = LabelFile(densepose_categories(), images, truth, info)
        write_label_file(output / label_file_name(split, "sem_seg", points), labels)
        counts[split] = len(images)
    return counts


def part_instances(people: list[dict], height: int, width: int) -> np.ndarray:
    """Which part of which person each pixel shows: (height, width) int32, 14 k + part (1..14) for person k = 0, 1, ...
    of `people` (annotations of one image), 0 for the background, -1 where nobody said.

    Parts lie over those of earlier people. A person without a part leaves its `segmentation` as "nobody said", below
    all parts; without that too it is background. Raises ValueError that names the annotation.
    """
    instances = np.zeros((height, width), dtype=np.int32)
    for person in people:
        if not _has_parts(person) and "segmentation" in person:
            instances[_decoded(person, person["segmentation"], (height, width), "the person")] = NOT_ANNOTATED
    for number, person in enumerate(people):
        if _has_parts(person):
            _paste(instances, _part_grid(person), person["bbox"], len(PARTS) * number)
    return instances


def semantic_map(instances: np.ndarray) -> np.ndarray:
    """Class indices (H, W) uint8 of a map of `part_instances`: parts 0..13, background 14, void 255."""
    classes = np.where(instances > 0, (instances - 1) % len(PARTS), BACKGROUND_ID - 1)
    return np.where(instances == NOT_ANNOTATED, IGNORE_LABEL, classes).astype(np.uint8)


def _annotation_file(root: Path, split: str) -> Path:
    """The annotations of a split, by either of the names under which they are published."""
    first, second = (
        root / "annotations" / name for name in (f"densepose_coco_2014_{split}.json", f"densepose_{split}2014.json")
    )
    if not first.is_file() and not second.is_file():
        raise FileNotFoundError(
            f"{first}: expected the annotations of COCO-DensePose, or {second.name}; found neither. Fetch them there."
        )
    return first if first.is_file() else second


def _photos(path: Path) -> list[tuple[dict, list[dict]]]:
    """The images of a file, each with its people and what counts of them."""
    labels = read_label_file(path)
    if not any("dp_masks" in person for people in labels.annotations.values() for person in people):
        raise ValueError(
            f"{path}: expected annotations with dp_masks; found none. Put COCO-DensePose's file there, not COCO's own."
        )
    keys = ("id", "image_id", "bbox", "dp_masks", "segmentation")
    return [
        (
            {key: image[key] for key in ("file_name", "height", "width")},
            [{key: person[key] for key in keys if key in person} for person in labels.annotations[image["id"]]],
        )
        for image in labels.images
    ]


def _listed(photos: list[tuple[dict, list[dict]]], list_file: Path, root: Path, path: Path) -> list:
    names = {entry.image.name for entry in read_list(list_file, root)}
    missing = names - {image["file_name"] for image, _ in photos}
    if missing:
        raise ValueError(
            f"{path}: expected every photo of {list_file}; found no {min(missing)}. Name that list's split: --splits."
        )
    return [photo for photo in photos if photo[0]["file_name"] in names]


def _convert_photo(
    photo: tuple[dict, list[dict]], *, path: Path, folder: Path, points: int, seed: int
) -> tuple[dict, list[dict]]:
    """Write the PNG of one photo. Returns its image entry and its annotations, one for each class that is present."""
    image, people = photo
    try:
        instances = part_instances(people, image["height"], image["width"])
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    class_map = semantic_map(instances)
    annotations, _ = annotations_of(class_map, [{"id": k, "category_id": k + 1} for k in range(BACKGROUND_ID)])
    _add_points(annotations, instances, points, image_generator(seed, image["file_name"]))
    write_png(resolve_inside(folder, f"{Path(image['file_name']).stem}.png"), class_map)
    return {**image, "tags": tags_of(annotations)}, annotations


def _has_parts(person: dict) -> bool:
    masks = person.get("dp_masks")
    return any(masks) if isinstance(masks, list) else bool(masks)


def _part_grid(person: dict) -> np.ndarray:
    """The part (1..14) that each cell of the person's box shows, 0 for none: (256, 256) uint8; later parts lie over
    earlier ones."""
    masks = person["dp_masks"]
    is_list = isinstance(masks, list) and all(isinstance(mask, dict) or mask == [] for mask in masks)
    if not is_list or len(masks) != len(PARTS):
        found = f"{len(masks)} of them" if is_list else str(masks)[:60]
        raise ValueError(
            f"{_name(person)}: expected dp_masks, run lengths or [] for each of {len(PARTS)} parts; found {found}. "
            "Fetch COCO-DensePose's file again."
        )
    if "bbox" not in person:
        raise ValueError(
            f"{_name(person)}: expected the bbox that its dp_masks cover; found none. Fetch the file again."
        )
    grid = np.zeros((GRID, GRID), dtype=np.uint8)
    for part, mask in enumerate(masks, 1):
        if mask:
            grid[_decoded(person, mask, grid.shape, PARTS[part - 1])] = part
    return grid


def _paste(instances: np.ndarray, grid: np.ndarray, box: list[float], offset: int) -> None:
    """Set the pixels of `instances` (H, W) whose centres lie in a cell of the grid that has a part to offset + part;
    the cells divide the box [x, y, width, height] evenly."""
    left, top, width, height = box
    if width <= 0 or height <= 0:
        return
    rows, columns = (
        np.floor((np.arange(size) + 0.5 - start) * GRID / side)
        for size, start, side in zip(instances.shape, (top, left), (height, width))
    )
    y, x = (np.flatnonzero((cells >= 0) & (cells < GRID)) for cells in (rows, columns))
    parts = grid[np.ix_(rows[y].astype(int), columns[x].astype(int))]
    window = np.ix_(y, x)
    instances[window] = np.where(parts > 0, parts + np.int32(offset), instances[window])


def _decoded(person: dict, segmentation: list | dict, size: tuple[int, int], what: str) -> np.ndarray:
    height, width = size
    try:
        return decode_segmentation(segmentation, height, width)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(
            f"{_name(person)}: expected run lengths of {what}, {width} x {height} pixels; found "
            f"{' '.join(str(error).split())}. Fetch COCO-DensePose's file again."
        ) from error


def _name(person: dict) -> str:
    return f"annotation {person['id']} (image {person['image_id']})"


def _add_points(annotations: list[dict], instances: np.ndarray, count: int, generator: np.random.Generator) -> None:
    """Add to each class the points that are drawn in each part of each person, and in the background."""
    numbers = np.unique(instances[instances != NOT_ANNOTATED])
    drawn: list[dict] = [{"category_id": int(index) + 1, "iscrowd": 0} for index in semantic_map(numbers)]
    add_points(drawn, [instances == number for number in numbers], count, generator)
    for annotation in annotations:
        same = [item for item in drawn if item["category_id"] == annotation["category_id"]]
        if count:
            annotation["point_coords"] = [point for item in same for point in item["point_coords"]]
