"""Segment photos with a trained checkpoint: an overlay, a PNG of segments or classes, and one JSON.

    python tools/predict.py --weights output/model_final.pth --input photos/ --output predictions
    python tools/predict.py --weights output/model_final.pth --input a.jpg b.png --output predictions --device cpu
    python tools/predict.py --weights output/model_final.pth --input photos/ --output predictions \\
        MODEL.POINT2MASK.TEST.QUALITY_THRESH_THING 0.1

The checkpoint carries its config and class names; nothing else is needed. Written are, for the image NAME.jpg:
  OUTPUT/overlay/NAME.png    the classes, or segments, painted over the image
  OUTPUT/panoptic/NAME.png   from a network of panoptic segments: segment id = R + 256 G + 65536 B, 0 void
  OUTPUT/semantic/NAME.png   from a network of classes alone: 0 the background, from 1 on the other classes, 254 none
and OUTPUT/predictions.json, in COCO's panoptic format; the "id" of a class is its value in the PNG.
Images of one name in several folders become NAME, NAME_2, ... A file that cannot be read is named and left out; the
exit status is then 1. Where the command is stopped, predictions.json has the images that were done.
"""

import argparse
import itertools
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from detectron2.data import Metadata
from tqdm import tqdm

from weakseg.data.convert.voc import voc_palette
from weakseg.engine.cli import run_command
from weakseg.evaluation.mean_iou import predicted_class_map
from weakseg.evaluation.result_files import ids_to_rgb
from weakseg.inference import WeakPredictor
from weakseg.labels import ClassOrder
from weakseg.safe_io import read_image, write_json, write_png
from weakseg.visualize import paint_classes, paint_panoptic

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint of WeakSeg")
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="images or folders of images")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument("opts", nargs="*", help="config keys and values by turns, after all options")
    return parser.parse_args()


def find_images(inputs: list[Path]) -> list[Path]:
    """The given files, and the images of the given folders in order of their names."""
    found = []
    for path in inputs:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"--input: expected an image or a folder at {path}; found nothing. Check the path.")
    if not found:
        raise ValueError(f"--input: expected images ({', '.join(sorted(SUFFIXES))}); found none in the given folders.")
    return found


def output_names(images: list[Path]) -> list[str]:
    """One PNG name an image: its own, or with _2, _3, ... where an image before it has that name. No two are equal."""
    taken = {path.stem for path in images}
    uses: Counter[str] = Counter()
    names = []
    for path in images:
        name = path.stem
        uses[name] += 1
        if uses[name] > 1:
            numbered = (f"{path.stem}_{number}" for number in itertools.count(uses[name]))
            name = next(candidate for candidate in numbered if candidate not in taken)
            taken.add(name)
        names.append(f"{name}.png")
    return names


def main() -> None:
    args = parse_arguments()
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"--output: expected a folder at {args.output}; found a file. Choose another path.")
    images = find_images(args.input)
    predictor = WeakPredictor.from_checkpoint(args.weights, device=args.device, opts=args.opts)
    written: list[tuple[dict, dict]] = []
    unreadable: list[str] = []
    try:
        for number, (path, name) in enumerate(zip(tqdm(images, unit="image"), output_names(images)), start=1):
            try:
                image = read_image(path)
            except ValueError as error:
                unreadable.append(str(error))
                continue
            segments = write_prediction(predictor, image, args.output, name)
            height, width = image.shape[:2]
            described = {"id": number, "file_name": str(path), "height": height, "width": width}
            written.append((described, {"image_id": number, "file_name": name, "segments_info": segments}))
    finally:
        # Also after Ctrl-C or an error: the PNGs of the images so far are on disk.
        write_index(args.output / "predictions.json", predictor, written)
    print(f"{len(written)} of {len(images)} images: see {args.output}/overlay and {args.output}/predictions.json")
    for sentence in unreadable:
        print(f"left out: {sentence}", file=sys.stderr)
    if unreadable:
        sys.exit(1)


def write_prediction(predictor: WeakPredictor, image: np.ndarray, output: Path, name: str) -> list[dict]:
    """Predict image (H, W, 3) RGB and write both PNGs. Returns COCO's segments_info with category ids from 1."""
    result = predictor(image[:, :, ::-1])
    if "panoptic_seg" in result:
        return write_segments(result, predictor.metadata, image, output, name)
    if "sem_seg" in result:
        return write_classes(result, predictor.metadata, image, output, name)
    raise ValueError(
        f"--weights: expected a network that gives panoptic_seg or sem_seg; found {', '.join(result) or 'nothing'}. "
        "Choose a checkpoint of another head."
    )


def write_segments(result: dict, metadata: Metadata, image: np.ndarray, output: Path, name: str) -> list[dict]:
    ids, segments = result["panoptic_seg"]
    ids = ids.cpu().numpy()
    picture = paint_panoptic(image, ids, segments, metadata.stuff_colors, metadata.stuff_classes)
    write_png(output / "overlay" / name, picture)
    write_png(output / "panoptic" / name, ids_to_rgb(ids))
    return [{**s, "category_id": s["category_id"] + 1, "isthing": int(s["isthing"])} for s in segments]


def write_classes(result: dict, metadata: Metadata, image: np.ndarray, output: Path, name: str) -> list[dict]:
    names = metadata.stuff_classes
    order = ClassOrder.of(names)
    class_map = predicted_class_map(result, len(names))
    write_png(output / "overlay" / name, paint_classes(image, class_map, metadata.stuff_colors, names))
    write_png(output / "semantic" / name, order.to_png(class_map), voc_palette())
    present, areas = np.unique(class_map, return_counts=True)
    return [
        {"id": value, "category_id": k + 1, "isthing": int(k < len(metadata.thing_classes)), "area": area}
        for k, value, area in zip(present.tolist(), order.to_png(present).tolist(), areas.tolist())
        if k < len(names)
    ]


def write_index(path: Path, predictor: WeakPredictor, written: list[tuple[dict, dict]]) -> None:
    """COCO's panoptic JSON of (image, annotation) pairs."""
    metadata = predictor.metadata
    num_things = len(metadata.thing_classes)
    categories = [
        {"id": k + 1, "name": name, "isthing": int(k < num_things), "color": list(color)}
        for k, (name, color) in enumerate(zip(metadata.stuff_classes, metadata.stuff_colors))
    ]
    images, annotations = [image for image, _ in written], [annotation for _, annotation in written]
    write_json(path, {"categories": categories, "images": images, "annotations": annotations})


if __name__ == "__main__":
    run_command(main)
