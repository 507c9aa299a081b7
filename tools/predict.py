"""Segment photos with a trained checkpoint: an overlay, a panoptic PNG and one JSON.

    python tools/predict.py --weights output/model_final.pth --input photos/ --output predictions
    python tools/predict.py --weights output/model_final.pth --input a.jpg b.png --output predictions --device cpu
    python tools/predict.py --weights output/model_final.pth --input photos/ --output predictions \\
        MODEL.POINT2MASK.TEST.QUALITY_THRESH_THING 0.1

The checkpoint carries its config and class names; nothing else is needed. Written are OUTPUT/overlay/NAME.png,
OUTPUT/panoptic/NAME.png (segment id = R + 256 G + 65536 B, 0 void) and OUTPUT/predictions.json (COCO panoptic format).
A file that cannot be read is named and left out; the exit status is then 1.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from weakseg.engine.cli import run_command
from weakseg.inference.predictor import WeakPredictor
from weakseg.safe_io import read_image, write_json, write_png
from weakseg.visualize import paint_panoptic

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint written by tools/train_net.py")
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


def main() -> None:
    args = parse_arguments()
    images = find_images(args.input)
    predictor = WeakPredictor.from_checkpoint(args.weights, device=args.device, opts=args.opts)
    names, colors = predictor.metadata.stuff_classes, predictor.metadata.stuff_colors
    written, annotations, unreadable = [], [], []
    for number, path in enumerate(tqdm(images, unit="image"), start=1):
        try:
            image = read_image(path)
        except ValueError as error:
            unreadable.append(str(error))
            continue
        ids, segments = predictor(image[:, :, ::-1])["panoptic_seg"]
        ids = ids.cpu().numpy()
        # Images of two folders may have one name.
        name = (
            f"{path.stem}.png"
            if path.stem not in {Path(w["file_name"]).stem for w in written}
            else f"{path.stem}_{number}.png"
        )
        write_png(args.output / "overlay" / name, paint_panoptic(image, ids, segments, colors, names))
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)
        write_png(args.output / "panoptic" / name, rgb)
        height, width = image.shape[:2]
        written.append({"id": number, "file_name": str(path), "height": height, "width": width})
        described = [{**s, "category_id": s["category_id"] + 1, "isthing": int(s["isthing"])} for s in segments]
        annotations.append({"image_id": number, "file_name": name, "segments_info": described})
    num_things = len(predictor.metadata.thing_classes)
    categories = [
        {"id": k + 1, "name": name, "isthing": int(k < num_things), "color": list(color)}
        for k, (name, color) in enumerate(zip(names, colors))
    ]
    write_json(
        args.output / "predictions.json", {"categories": categories, "images": written, "annotations": annotations}
    )
    print(f"{len(written)} of {len(images)} images: see {args.output}/overlay and {args.output}/predictions.json")
    for sentence in unreadable:
        print(f"left out: {sentence}", file=sys.stderr)
    if unreadable:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
