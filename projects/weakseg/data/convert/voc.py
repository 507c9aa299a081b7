"""PASCAL VOC 2012, with SBD when its files are there, to panoptic, instance and semantic truth.

Layout of VOC: JPEGImages/ID.jpg, SegmentationClass/ID.png and SegmentationObject/ID.png (palette indices; 0
background, 255 void), ImageSets/Segmentation/{train,val}.txt. Layout of SBD: cls/ID.mat, inst/ID.mat, train.txt,
val.txt.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from weakseg.data.catalog import label_file_name
from weakseg.data.convert.point_png import VOID, encode_ids
from weakseg.data.convert.segments import add_points, annotations_of, image_generator, mapped, numbered, tags_of
from weakseg.labels import LabelFile, write_label_file
from weakseg.safe_io import read_image_size, read_label_png, read_mat, resolve_inside, write_json, write_png

THINGS = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()
BACKGROUND_ID = len(THINGS) + 1


def voc_palette() -> np.ndarray:
    """The standard VOC colours (256, 3) uint8: bit k of the index in bits 7 - k // 3 of channel k % 3."""
    indices = np.arange(256)
    bits = (indices[:, None] >> np.arange(8)) & 1
    channels = [sum(bits[:, k] << (7 - k // 3) for k in range(channel, 8, 3)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def voc_categories() -> list[dict]:
    """Ids 1..20 for the things in alphabetical order, 21 for the background, which is stuff."""
    colors = voc_palette().tolist()
    things = [{"id": k, "name": name, "isthing": 1, "color": colors[k]} for k, name in enumerate(THINGS, 1)]
    return [*things, {"id": BACKGROUND_ID, "name": "background", "isthing": 0, "color": colors[0]}]


def prepare_voc(
    root: Path,
    output: Path,
    *,
    splits: list[str],
    sbd: Path | None = None,
    points: int = 0,
    seed: int = 0,
    workers: int = 1,
) -> dict[str, int]:
    """Write, for each of `splits` ("train", "val", "train_aug"), the files that datasets/README.md lists; `points`
    sampled points a segment, none for 0; with several, the names of the label files say so. Returns the number of
    images of each split."""
    counts = {}
    for split in splits:
        photos = _photos(root, split, sbd)
        convert = partial(_convert_photo, root=root, output=output, split=split, points=points, seed=seed)
        results = mapped(convert, photos, workers=workers, description=f"VOC {split}")
        _write_split(output, split, results, points)
        counts[split] = len(photos)
    return counts


def voc_segments(class_map: np.ndarray, object_map: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    """Disjoint segments of one photo from VOC's two maps (H, W): ids (H, W) int64, 0 for void; dicts of id and
    category_id.

    One segment for each object, in the order of its number, of the class that most of its pixels have (pixels of
    another class become void), then the background: class 0 where no object is.
    """
    ids = np.zeros(class_map.shape, dtype=np.int64)
    segments: list[dict] = []
    for number in np.setdiff1d(object_map, [0, VOID]):
        classes = class_map[object_map == number]
        votes = np.bincount(classes[(classes > 0) & (classes < BACKGROUND_ID)], minlength=BACKGROUND_ID)
        if votes.any():
            segments.append({"id": len(segments) + 1, "category_id": int(votes.argmax())})
            ids[(object_map == number) & (class_map == votes.argmax())] = len(segments)
    background = (class_map == 0) & (object_map == 0)
    if background.any():
        segments.append({"id": len(segments) + 1, "category_id": BACKGROUND_ID})
        ids[background] = len(segments)
    return ids, segments


def semantic_map(class_map: np.ndarray) -> np.ndarray:
    """Class indices (H, W) uint8 of VOC's class map: things 0..19, background 20, void 255."""
    table = np.full(256, VOID, dtype=np.uint8)
    table[: len(THINGS) + 1] = [len(THINGS), *range(len(THINGS))]
    return table[class_map]


def _photos(root: Path, split: str, sbd: Path | None) -> list[tuple[str, Path | None]]:
    """Names of the photos of a split, each with the SBD folder where its masks are SBD's."""
    if split != "train_aug":
        return [(name, None) for name in _names(root / "ImageSets" / "Segmentation" / f"{split}.txt")]
    if sbd is None:
        raise ValueError("train_aug: expected the folder of SBD beside VOC; found none. Name it with --sbd.")
    official, held_out = (_names(root / "ImageSets" / "Segmentation" / f"{name}.txt") for name in ("train", "val"))
    lists = [path for path in (sbd / "train.txt", sbd / "val.txt") if path.is_file()]
    added = (
        {name for path in lists for name in _names(path)}
        if lists
        else {path.stem for path in (sbd / "inst").glob("*.mat")}
    )
    if not added:
        raise FileNotFoundError(f"{sbd}: expected SBD's train.txt, val.txt, cls and inst; found no mask. Check --sbd.")
    return [(name, None) for name in official] + [(name, sbd) for name in sorted(added - {*official, *held_out})]


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a list of photos; found nothing there. Check the folder of the data."
        )
    return path.read_text().split()


def _maps(root: Path, name: str, sbd: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Class map and object map (H, W) of a photo."""
    if sbd is None:
        folders = (root / "SegmentationClass", root / "SegmentationObject")
        class_map, object_map = (read_label_png(resolve_inside(folder, f"{name}.png")) for folder in folders)
    else:
        class_map, object_map = (
            read_mat(resolve_inside(sbd / folder, f"{name}.mat"))[key]["Segmentation"]
            for folder, key in (("cls", "GTcls"), ("inst", "GTinst"))
        )
    size = read_image_size(resolve_inside(root / "JPEGImages", f"{name}.jpg"))
    if not class_map.shape == object_map.shape == size:
        found = f"class map {class_map.shape}, object map {object_map.shape}, photo {size}"
        raise ValueError(
            f"{root}, {name}: expected maps and photo of one height and width; found {found}. Fetch it again."
        )
    return class_map, object_map


def _convert_photo(
    photo: tuple[str, Path | None], *, root: Path, output: Path, split: str, points: int, seed: int
) -> tuple:
    """Write the PNGs of one photo. Returns its image entry, panoptic and semantic annotations."""
    name, sbd = photo
    class_map, object_map = _maps(root, name, sbd)
    height, width = class_map.shape
    generator = image_generator(seed, name)
    ids, segments = voc_segments(class_map, object_map)
    panoptic, masks = annotations_of(ids, segments)
    add_points(panoptic, masks, points, generator)
    semantic = semantic_map(class_map)
    classes = [{"id": k, "category_id": k + 1} for k in range(BACKGROUND_ID)]
    semantic_annotations, masks = annotations_of(semantic, classes)
    add_points(semantic_annotations, masks, points, generator)
    write_png(output / f"{split}_sem_seg" / f"{name}.png", semantic)
    write_png(output / f"{split}_panoptic_png" / f"{name}.png", encode_ids(ids))
    return {"file_name": f"{name}.jpg", "height": height, "width": width}, panoptic, semantic_annotations


def _write_split(output: Path, split: str, results: list[tuple], points: int) -> None:
    images = [{"id": number, **image} for number, (image, _, _) in enumerate(results, 1)]
    panoptic = [annotations for _, annotations, _ in results]
    things = [[a for a in annotations if a["category_id"] != BACKGROUND_ID] for annotations in panoptic]
    semantic = [annotations for _, _, annotations in results]
    categories = voc_categories()
    for kind, classes, truth in (
        ("panoptic", categories, panoptic),
        ("instance", categories[:-1], things),
        ("sem_seg", [{**category, "isthing": 0} for category in categories], semantic),
    ):
        tagged = [{**image, "tags": tags_of(items)} for image, items in zip(images, truth)]
        info = {"description": f"PASCAL VOC 2012 {split}, {kind}"}
        labels = LabelFile(classes, tagged, numbered(tagged, truth), info)
        write_label_file(output / label_file_name(split, kind, points), labels)
    write_json(output / f"{split}_coco_panoptic.json", _coco_panoptic(images, categories, panoptic))


def _coco_panoptic(images: list[dict], categories: list[dict], annotations: list[list[dict]]) -> dict:
    """The standard COCO panoptic json that goes with the PNGs of `{split}_panoptic_png`."""
    keys = ("category_id", "iscrowd", "bbox", "area")
    entries = [
        {
            "image_id": image["id"],
            "file_name": f"{Path(image['file_name']).stem}.png",
            "segments_info": [{"id": k, **{key: item[key] for key in keys}} for k, item in enumerate(items, 1)],
        }
        for image, items in zip(images, annotations)
    ]
    return {"images": images, "annotations": entries, "categories": categories}
