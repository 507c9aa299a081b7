"""Scribbles that people drew on VOC photos (ScribbleSup) to label files, and scribbles drawn from masks with a seed.

ScribbleSup: one ID.xml a photo, polygon/tag with VOC's name of the class and polygon/point/X, Y. Its text form: one
ID_scribble.txt a photo, one line a scribble: class index (0 background), x, y, x, y, ...; both give pixels from 0.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from weakseg.data.convert.segments import image_generator, mapped, numbered, tags_of
from weakseg.data.convert.voc import BACKGROUND_ID, THINGS, voc_categories
from weakseg.labels import LabelFile, decode_segmentation, read_label_file
from weakseg.labels.scribbles import sample_interior_points, sample_scribbles, shortened
from weakseg.safe_io import read_image_size, read_xml

TEXT_SUFFIX = "_scribble.txt"
_CLASS_IDS = {name: number for number, name in enumerate(THINGS, 1)} | {"background": BACKGROUND_ID}

Scribbles = list[tuple[int, np.ndarray]]
"""Category id and vertices (L, 2) float64 as (x, y), continuous pixels, of each scribble in the order of drawing."""


def labels_from_scribblesup(
    folder: Path, image_root: Path, *, list_file: Path | None = None, fraction: float = 1.0, seed: int = 0
) -> LabelFile:
    """The label file of the scribbles in `folder` (XML, or else the text form) on the photos `image_root`/ID.jpg; of
    the IDs in `list_file` only, when given.

    The classes are VOC's with the background, all of them stuff. Every scribble is an annotation of its own, in the
    order of drawing, since nothing says which of them belong to one object. `fraction` of the length of each scribble
    is kept (a place drawn from `seed`), for 0 one point, in `point_coords`. Points outside the photo are moved onto its
    border pixels.
    """
    images, annotations = [], []
    for number, (name, path) in enumerate(_scribble_files(folder, list_file).items(), 1):
        height, width = read_image_size(image_root / f"{name}.jpg")
        scribbles = read_scribble_xml(path) if path.suffix == ".xml" else read_scribble_text(path)
        generator = image_generator(seed, f"{name}.jpg")
        items = [
            {"category_id": class_id, "iscrowd": 0}
            | _scribble_keys([np.clip(line, 0.5, [width - 0.5, height - 0.5])], fraction, generator)
            for class_id, line in scribbles
        ]
        image = {"id": number, "file_name": f"{name}.jpg", "height": height, "width": width}
        images.append({**image, "tags": tags_of(items)})
        annotations.append(items)
    categories = [{**category, "isthing": 0} for category in voc_categories()]
    info = {"description": f"scribbles by people (ScribbleSup), {_kept(fraction)}"}
    return LabelFile(categories, images, numbered(images, annotations), info)


def labels_with_sampled_scribbles(labels: Path, *, fraction: float = 1.0, seed: int = 0, workers: int = 1) -> LabelFile:
    """A label file with a scribble drawn in each connected part of each mask, from `seed`; crowds and annotations
    without a mask get none. Earlier scribbles and points are replaced.

    `fraction` of the length of each scribble is kept; for 0 one point deep inside each part, in `point_coords`.
    """
    truth = read_label_file(labels)
    photos = [(image, truth.annotations[image["id"]]) for image in truth.images]
    drawn = mapped(
        partial(_with_scribbles, fraction=fraction, seed=seed), photos, workers=workers, description="scribbles"
    )
    annotations = {image["id"]: items for image, items in zip(truth.images, drawn, strict=True)}
    description = f"{truth.info.get('description', labels.name)}; scribbles from masks, seed {seed}, {_kept(fraction)}"
    return LabelFile(truth.categories, truth.images, annotations, {**truth.info, "description": description})


def read_scribble_xml(path: Path) -> Scribbles:
    """The scribbles of one ScribbleSup XML, at pixel centres."""
    scribbles = []
    for polygon in read_xml(path).iter("polygon"):
        name = (polygon.findtext("tag") or "").strip()
        if name not in _CLASS_IDS:
            raise ValueError(f"{path}: expected a class of VOC or background as tag; found {name!r}. Correct the tag.")
        numbers = [point.findtext(axis) or "" for point in polygon.iter("point") for axis in ("X", "Y")]
        scribbles.append((_CLASS_IDS[name], _vertices(numbers, str(path))))
    return scribbles


def read_scribble_text(path: Path) -> Scribbles:
    """The scribbles of one file of the text form, at pixel centres."""
    scribbles = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        first, *numbers = line.strip().rstrip(",").split(",")
        if first.strip() not in map(str, range(BACKGROUND_ID)):
            raise ValueError(
                f"{path}, line {number}: expected a class of VOC from 0 to {BACKGROUND_ID - 1} first; found "
                f"{first[:20]!r}. Write class, x, y, x, y, ..."
            )
        scribbles.append((int(first) or BACKGROUND_ID, _vertices(numbers, f"{path}, line {number}")))
    return scribbles


def _scribble_files(folder: Path, list_file: Path | None) -> dict[str, Path]:
    """ID -> file, in the order of the IDs."""
    files = {path.stem: path for path in sorted(folder.glob("*.xml"))}
    files = files or {path.name.removesuffix(TEXT_SUFFIX): path for path in sorted(folder.glob(f"*{TEXT_SUFFIX}"))}
    if not files:
        raise FileNotFoundError(
            f"{folder}: expected ScribbleSup's ID.xml, or ID{TEXT_SUFFIX}; found neither. Check the folder."
        )
    if list_file is None:
        return files
    if not list_file.is_file():
        raise FileNotFoundError(f"{list_file}: expected a list of photos; found nothing there. Check the path.")
    names = sorted(set(list_file.read_text(encoding="utf-8").split()))
    missing = [name for name in names if name not in files]
    if missing:
        raise FileNotFoundError(
            f"{folder}: expected the scribbles of {missing[0]}; found none. Fetch them, or correct {list_file}."
        )
    return {name: files[name] for name in names}


def _vertices(numbers: list[str], where: str) -> np.ndarray:
    try:
        values = np.array([float(number) for number in numbers]).reshape(-1, 2)
    except ValueError:
        values = np.full((1, 2), np.nan)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{where}: expected points x, y of a scribble; found others or none. Correct or remove it.")
    return values + 0.5


def _scribble_keys(lines: list[np.ndarray], fraction: float, generator: np.random.Generator) -> dict:
    kept = [shortened(line, fraction, generator).round(3).tolist() for line in lines]
    return {"point_coords": [line[0] for line in kept]} if fraction == 0 else {"scribbles": kept}


def _with_scribbles(photo: tuple[dict, list[dict]], *, fraction: float, seed: int) -> list[dict]:
    image, annotations = photo
    generator = image_generator(seed, image["file_name"])
    items = []
    for annotation in annotations:
        item = {
            key: value for key, value in annotation.items() if key not in ("scribbles", "point_coords", "point_labels")
        }
        if "segmentation" in item and not item.get("iscrowd", 0):
            mask = decode_segmentation(item["segmentation"], image["height"], image["width"])
            item |= _sampled_keys(mask, fraction, generator)
        items.append(item)
    return items


def _sampled_keys(mask: np.ndarray, fraction: float, generator: np.random.Generator) -> dict:
    if not mask.any():
        return {}
    if fraction == 0:
        return {"point_coords": sample_interior_points([mask], generator)[0].tolist()}
    return _scribble_keys(sample_scribbles([mask], generator)[0], fraction, generator)


def _kept(fraction: float) -> str:
    return "one point each" if fraction == 0 else f"{fraction:.0%} of their length"
