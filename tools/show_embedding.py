"""Pictures of what a network of SPML sees: its embedding, its segments, and what comes of them.

    python tools/show_embedding.py --config-file configs/spml/voc_point.yaml --count 10 --output pictures \\
        MODEL.WEIGHTS output/voc_point/embedding/model_final.pth
    python tools/show_embedding.py --config-file my.yaml --dataset labels.json --output pictures \\
        MODEL.WEIGHTS my.pth DATASETS.IMAGE_ROOT photos INPUT.REGION_ROOT regions

One sheet an image: image; labels as given; over-segmentation, where the run has one; embedding; the segments that
k-means finds in it; pseudo labels by MODEL.SPML.PSEUDO.METHOD; prediction; and the truth where the data set has it.
Colours of the embedding are its three principal components over all images of the run: equal colours are similar
pixels, also in two images, but not in two runs. Segments are outlined over their mean colour.
"""

import argparse
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import Metadata
from tqdm import tqdm

from weakseg.data import dataset_metadata
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.cli import run_command
from weakseg.engine.defaults import setup_with_labels
from weakseg.engine.trainer import Trainer
from weakseg.evaluation.truth import Truth
from weakseg.methods.spml.pictures import embedding_and_segments, given_labels
from weakseg.methods.spml.segmentation import SegmentationHead
from weakseg.safe_io import read_image, write_png
from weakseg.segmenter import WeaklySupervisedSegmenter
from weakseg.visualize import (
    VOID_COLOR,
    legend,
    paint_classes,
    paint_embeddings,
    paint_labels,
    paint_segments,
    sheet,
    stack,
)

COLUMNS = 4


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config that the network was trained with")
    parser.add_argument("--dataset", help="data set or label file (default: DATASETS.TRAIN)")
    parser.add_argument("--count", type=int, default=10, help="images to draw, from the first on; default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path("output/embedding"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("opts", nargs="*", help="config keys and values by turns, after all options")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.count < 1:
        raise ValueError(f"--count: expected 1 or more; found {args.count}. Give the number of images to draw.")
    cfg = setup_with_labels(args, purpose="to draw")
    (name,) = cfg.DATASETS.TRAIN
    model = Trainer.build_model(cfg)
    if not isinstance(model.head, SegmentationHead):
        raise ValueError(
            "MODEL.WEAK_HEAD.NAME: expected SPMLHead or SPMLClassifierHead, whose embedding is drawn; found "
            f"{cfg.MODEL.WEAK_HEAD.NAME}. Choose the config of one of them."
        )
    Checkpointer(model, cfg.OUTPUT_DIR, description=describe_run(cfg)).load(cfg.MODEL.WEIGHTS)
    model.eval()
    loader = Trainer.build_test_loader(cfg, name, prepare=model.head.prepare)
    draw(model, list(islice(loader, args.count)), dataset_metadata(name), args.output)
    print(f"Pictures: {args.output}")


def draw(model: WeaklySupervisedSegmenter, batches: list[list[dict]], metadata: Metadata, folder: Path) -> None:
    """Write the sheet of each image, a batch of its own, once the embeddings of all have their colours."""
    truth = Truth(metadata) if metadata.has_truth else None
    names, colors = metadata.stuff_classes, metadata.stuff_colors
    maps = [embedding_and_segments(model, sample) for (sample,) in tqdm(batches, "embeddings", unit="image")]
    painted = paint_embeddings([embedding for embedding, _ in maps])
    for (sample,), embedding, (_, segments) in zip(tqdm(batches, "sheets", unit="image"), painted, maps):
        image = read_image(sample["file_name"])
        labels = given_labels(sample["evidence"]["label_map"], model.head.classes)
        class_maps = class_maps_of(model, sample, truth)
        panels = [("image", image), ("labels", paint_labels(image, labels, colors))]
        if "regions" in sample["evidence"]:
            panels.append(("over-segmentation", paint_segments(image, sample["evidence"]["regions"])))
        size = image.shape[1::-1]
        panels.append(("embedding", cv2.resize(embedding, size, interpolation=cv2.INTER_LINEAR)))
        panels.append(("segments of the embedding", paint_segments(image, segments)))
        panels += [(title, paint_classes(image, found, colors, names)) for title, found in class_maps.items()]
        height = int(np.clip(image.shape[0], 256, 512))
        rows = [sheet(panels[i : i + COLUMNS], height) for i in range(0, len(panels), COLUMNS)]
        strip = legend(*classes_in([labels, *class_maps.values()], metadata), rows[0].shape[1])
        write_png(folder / f"{Path(sample['file_name']).stem}.png", stack([*rows, strip]))


def class_maps_of(model: WeaklySupervisedSegmenter, sample: dict, truth: Truth | None) -> dict[str, np.ndarray]:
    """Title -> class map (H, W), 255 for no class. Without pseudo labels where the run's method makes no map."""
    found = {f"pseudo labels: {model.head.pseudo_method}": model.pseudo_labels([sample])[0].get("sem_seg")}
    found["prediction"] = model([sample])[0]["sem_seg"]
    class_maps = {title: classes.cpu().numpy() for title, classes in found.items() if classes is not None}
    if truth is not None:
        class_maps["truth"] = truth.class_map(sample["image_id"])
    return class_maps


def classes_in(class_maps: list[np.ndarray], metadata: Metadata) -> tuple[list[str], list[tuple[int, ...]]]:
    """Names and colours of the classes that occur, and of none where a pixel has none."""
    occurring = np.unique(np.concatenate([found.ravel() for found in class_maps])).tolist()
    shown = {metadata.stuff_classes[k]: metadata.stuff_colors[k] for k in occurring if k < len(metadata.stuff_classes)}
    if metadata.ignore_label in occurring:
        shown["none"] = VOID_COLOR
    return list(shown), list(shown.values())


if __name__ == "__main__":
    run_command(main)
