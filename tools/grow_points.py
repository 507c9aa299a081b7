"""Grow labelled points to masks without any training, by optimal transport on colour and edges.

    python tools/grow_points.py photo.jpg --point 120,80,dog --point 20,20,background --output grown
    python tools/grow_points.py photo.jpg --point 120,80,131,95,dog --point 300,90,cat --no-border --output grown
    python tools/grow_points.py --labels points.json --image-root photos --output grown --show grown/sheets
    python tools/grow_points.py --labels val_panoptic.json --image-root photos --edges edges --output grown --evaluate

A photo: every --point is an object, x,y in pixels from its top left corner; further points of the same object stand in
the same --point, and all points of a stuff class are one target. Written are OUTPUT/NAME.png, the masks over the photo,
and OUTPUT/NAME.json, a label file (COCO with run lengths).

A label file: written is OUTPUT/labels.json, the same labels with the masks, boxes and areas that the points were grown
to; those of the file itself are not looked at and not copied. Stopped and started again with the same options, the
command goes on where it was. An image that cannot be read is named and left out; the exit status is then 1.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from detectron2.utils.colormap import colormap
from tabulate import tabulate
from tqdm import tqdm

from weakseg.engine.cli import run_command
from weakseg.evaluation.growth import GROWN, classes_of, compare_growth, positive_points, true_masks
from weakseg.labels import LabelFile, read_label_file, write_label_file
from weakseg.methods.point2mask.grow import grow_annotations, without_masks
from weakseg.proposals.map_folder import read_provenance
from weakseg.safe_io import read_image, resolve_inside, write_png
from weakseg.visualize import draw_points, paint_panoptic, sheet

SECONDS_BETWEEN_WRITES = 60


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("photo", type=Path, nargs="?", help="one image, with --point")
    add("--point", action="append", default=[], metavar="X,Y[,X,Y...],CLASS", help="an object of the photo; repeat it")
    add("--stuff", nargs="+", metavar="CLASS", help="classes of --point that are no objects (default: background)")
    add("--labels", type=Path, help="label file with points; beside a photo: only its classes and colours are used")
    add("--image-root", type=Path, help="folder of the images of --labels (default: its own folder)")
    add("--output", type=Path, required=True, help="folder to write")
    add("--edges", type=Path, help="folder of edge maps NAME.png, as tools/make_edges.py writes them")
    add("--no-border", action="store_true", help="do not take the border of the image for stuff")
    add("--show", type=Path, help="with --labels: a folder for one sheet per image: points, masks, truth")
    add("--evaluate", action="store_true", help="with --labels: compare with the masks of the file")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_options(args)
    if args.photo:
        grow_photo(args)
    else:
        grow_label_file(args)


def check_options(args: argparse.Namespace) -> None:
    """Every option that is given has something to do."""
    of_label_files = {"--image-root": args.image_root, "--show": args.show, "--evaluate": args.evaluate}
    unused = [name for name, value in of_label_files.items() if value]
    if args.photo and unused:
        raise ValueError(f"Expected {', '.join(unused)} to go with --labels alone; found a photo. Leave one out.")
    if args.point and not args.photo:
        raise ValueError("--point: expected a photo to go with it; found none. Name the photo first.")
    if not args.photo and not args.labels:
        raise ValueError("Expected a photo with --point, or --labels with a label file; found neither. See --help.")
    if args.stuff and args.labels:
        raise ValueError(f"--stuff: expected no --labels beside it; found {args.labels}, which tells what is stuff.")


def check_written(args: argparse.Namespace, table: Path, pictures: list[Path], images: list[Path]) -> None:
    """Nothing that is read is written over; pictures do not even go to a folder of images or edge maps."""
    if args.labels and table.resolve() == args.labels.resolve():
        raise ValueError(
            f"{table}: expected another file than --labels to write; found the same. Choose --output anew."
        )
    folders = {folder for path in images for folder in (path.parent.resolve(), path.resolve().parent)}
    folders |= {args.edges.resolve()} if args.edges else set()
    for picture in pictures:
        if picture.parent.resolve() in folders:
            raise ValueError(
                f"{picture}: expected a picture to be written to another folder than those of the images and edge "
                "maps; found one of them. Choose another folder for --output or --show."
            )


def grow_photo(args: argparse.Namespace) -> None:
    table, picture = args.output / f"{args.photo.stem}.json", args.output / f"{args.photo.stem}.png"
    check_written(args, table, [picture], [args.photo])
    image = read_image(args.photo)
    labels = labels_of_points(args, image.shape[:2])
    (described,), annotations = labels.images, labels.annotations[1]
    edges = edge_map(args.edges, described)
    owner, grown = grow_annotations(image, annotations, labels, edges=edges, border=not args.no_border)
    names, colors = names_and_colors(labels)
    painted = paint_panoptic(image, owner + 1, segments(annotations, labels), colors, names)
    write_png(picture, draw_targets(painted, annotations, labels))
    write_label_file(table, LabelFile(labels.categories, labels.images, {1: grown}))
    print(f"{len(annotations)} masks: see {picture} and {table}")


def labels_of_points(args: argparse.Namespace, size: tuple[int, int]) -> LabelFile:
    """A label file of the one photo, image 1, with the points of the command line."""
    if not args.point:
        raise ValueError(f"{args.photo}: expected points to grow; found none. Add --point X,Y,CLASS.")
    parsed = [parse_point(text, size) for text in args.point]
    if args.labels:
        categories = read_label_file(args.labels).categories
    else:
        stuff_names = args.stuff or ["background"]
        names = list(dict.fromkeys(name for _, name in parsed))
        categories = [
            {"id": k, "name": name, "isthing": int(name not in stuff_names)} for k, name in enumerate(names, 1)
        ]
    category_of = {category["name"]: category for category in categories}
    annotations: list[dict] = []
    stuff: dict[str, dict] = {}
    for coords, name in parsed:
        if name not in category_of:
            known = ", ".join(category_of)
            raise ValueError(f"--point: expected a class of {args.labels} ({known}); found {name!r}. Correct it.")
        if name in stuff:
            stuff[name]["point_coords"] += coords
            continue
        category_id = category_of[name]["id"]
        annotations.append(
            {"id": len(annotations) + 1, "image_id": 1, "category_id": category_id, "point_coords": coords}
        )
        if not category_of[name]["isthing"]:
            stuff[name] = annotations[-1]
    described = {"id": 1, "file_name": args.photo.name, "height": size[0], "width": size[1]}
    return LabelFile(categories, [described], {1: annotations})


def parse_point(text: str, size: tuple[int, int]) -> tuple[list[list[float]], str]:
    """Points [[x, y], ...] and class name of a --point, for an image of `size` (H, W)."""
    *numbers, name = [part.strip() for part in text.split(",")]
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if not values or len(values) % 2 or not name:
        raise ValueError(f"--point: expected X,Y,CLASS, as 120,80,dog; found {text!r}. Correct it.")
    points = [list(pair) for pair in zip(values[::2], values[1::2])]
    if not all(0 <= x < size[1] and 0 <= y < size[0] for x, y in points):
        raise ValueError(
            f"--point {text}: expected points inside the image of {size[1]} x {size[0]}; found one outside. "
            "Points are (x, y) in pixels, origin top left."
        )
    return points, name


def grow_label_file(args: argparse.Namespace) -> None:
    labels = read_label_file(args.labels)
    root, path = args.image_root or args.labels.parent, args.output / "labels.json"
    if not any("point_coords" in annotation for items in labels.annotations.values() for annotation in items):
        raise ValueError(f"{args.labels}: expected annotations with point_coords; found none. Add points to it.")
    pictures = {
        image["id"]: resolve_inside(args.show, image["file_name"]).with_suffix(".png")
        for image in (labels.images if args.show else [])
    }
    check_written(args, path, [*pictures.values()], [root / image["file_name"] for image in labels.images])
    edges_by = args.edges and (read_provenance(args.edges) or str(args.edges))
    made_by = {"tool": "grow_points", "edges": edges_by, "border": not args.no_border}
    done = annotations_done(path, labels, made_by)
    unreadable: list[str] = []
    written = time.monotonic()
    try:
        for described in tqdm(labels.images, unit="image"):
            annotations = labels.annotations[described["id"]]
            picture = pictures.get(described["id"])
            if described["id"] in done and (picture is None or picture.is_file()):
                continue
            try:
                image = read_sized(resolve_inside(root, described["file_name"]), described)
                edges = edge_map(args.edges, described)
            except (ValueError, FileNotFoundError) as error:
                unreadable.append(str(error))
                continue
            owner, grown = grow_annotations(image, annotations, labels, edges=edges, border=not args.no_border)
            if picture:
                write_png(picture, draw_sheet(image, annotations, owner, labels))
            done[described["id"]] = grown
            if time.monotonic() - written > SECONDS_BETWEEN_WRITES:
                write_grown(path, labels, done, made_by)
                written = time.monotonic()
    finally:
        # Also after Ctrl-C or an error: nothing that was grown is lost.
        write_grown(path, labels, done, made_by)
    print(f"{len(done)} of {len(labels.images)} images: see {path}")
    for sentence in unreadable:
        print(f"left out: {sentence}", file=sys.stderr)
    if args.evaluate:
        print_comparison(labels, done, border=not args.no_border)
    if unreadable:
        sys.exit(1)


def annotations_done(path: Path, labels: LabelFile, made_by: dict) -> dict:
    """Image id -> annotations that a run with the same options has grown from the same points."""
    if not path.exists():
        return {}
    before = read_label_file(path)
    if before.info.get("grown") != made_by or before.categories != labels.categories:
        raise ValueError(
            f"{path}: expected masks grown with the same options and classes, to go on from; found others. "
            "Choose another --output, or remove the file."
        )
    sizes = {image["id"]: image for image in labels.images}
    return {
        image["id"]: before.annotations[image["id"]]
        for image in before.images
        if sizes.get(image["id"]) == image
        and without_masks(before.annotations[image["id"]]) == without_masks(labels.annotations[image["id"]])
    }


def write_grown(path: Path, labels: LabelFile, done: dict, made_by: dict) -> None:
    images = [image for image in labels.images if image["id"] in done]
    write_label_file(path, LabelFile(labels.categories, images, done, {**labels.info, "grown": made_by}))


def print_comparison(labels: LabelFile, done: dict, *, border: bool) -> None:
    compared = compare_growth(labels, done)
    if not compared:
        raise ValueError("--evaluate: expected annotations with points and masks; found none. Leave --evaluate out.")
    without = {} if border else {GROWN: f"{GROWN}, no border"}
    rows = [[without.get(split, split), *means.values()] for split, means in compared.items()]
    print("Mean IoU in percent", tabulate(rows, headers=["", *compared[GROWN]], floatfmt=".1f"), sep="\n")


def edge_map(folder: Path | None, described: dict) -> np.ndarray | None:
    """Edges (H, W) in [0, 1] of an image, None without a folder."""
    if folder is None:
        return None
    return read_sized(folder / f"{Path(described['file_name']).stem}.png", described, "L").astype(np.float32) / 255


def read_sized(path: Path, described: dict, format: str = "RGB") -> np.ndarray:
    image, size = read_image(path, format), (described["height"], described["width"])
    if image.shape[:2] != size:
        raise ValueError(
            f"{path}: expected {size[1]} x {size[0]} pixels, the size of the labelled image; found {image.shape[1]} x "
            f"{image.shape[0]}. Label the image, or make its edge map, as it is stored now."
        )
    return image


def draw_sheet(image: np.ndarray, annotations: list[dict], owner: np.ndarray, labels: LabelFile) -> np.ndarray:
    """Points, grown masks and, where the file has masks, the truth, beside the image."""
    colors, described = names_and_colors(labels)[1], segments(annotations, labels)
    panels = [
        ("image", image),
        ("points", draw_targets(image, annotations, labels)),
        ("grown", paint_panoptic(image, owner + 1, described, colors)),
    ]
    masks = true_masks(annotations, image.shape[:2])
    if masks:
        true_ids = np.zeros(owner.shape, dtype=np.int32)
        for k, mask in masks.items():
            true_ids[mask] = k + 1
        panels.append(("truth", paint_panoptic(image, true_ids, described, colors)))
    return sheet(panels)


def draw_targets(picture: np.ndarray, annotations: list[dict], labels: LabelFile) -> np.ndarray:
    points, target = positive_points(annotations)
    return draw_points(picture, points, classes_of(annotations, labels)[target], names_and_colors(labels)[1])


def segments(annotations: list[dict], labels: LabelFile) -> list[dict]:
    """The annotations as segments 1, 2, ... of a picture."""
    classes = classes_of(annotations, labels).tolist()
    return [{"id": k, "category_id": kind, "isthing": kind < labels.num_things} for k, kind in enumerate(classes, 1)]


def names_and_colors(labels: LabelFile) -> tuple[list[str], list[list[int]]]:
    """Of each class; colours that the file does not give are of Detectron2's colour map."""
    ordered = sorted(labels.categories, key=lambda category: labels.class_index[category["id"]])
    palette = colormap(rgb=True).astype(int).tolist()
    colors = [category.get("color", palette[k % len(palette)]) for k, category in enumerate(ordered)]
    return [category["name"] for category in ordered], colors


if __name__ == "__main__":
    run_command(main)
