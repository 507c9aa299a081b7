"""Pictures of what the points of a data set are grown to by a trained network.

    python tools/show_pseudo_labels.py --config-file configs/point2mask/voc_r50.yaml --count 10 \\
        MODEL.WEIGHTS output/voc_r50/model_final.pth
    python tools/show_pseudo_labels.py --config-file my.yaml --dataset labels.json --output pictures \\
        MODEL.WEIGHTS my.pth DATASETS.IMAGE_ROOT photos

One sheet an image: image, points, learned boundary map, evidence (edge maps), pseudo masks, and the truth where the
data set has it. Where there is truth, prints the mean IoU of the pseudo masks beside that of a nearest-point split of
the same points; void pixels and images without points do not count.
"""

import argparse
from itertools import islice
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from weakseg.data import dataset_metadata
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.cli import run_command
from weakseg.engine.defaults import setup_with_labels
from weakseg.engine.trainer import Trainer
from weakseg.evaluation.growth import show_growth


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config that the network was trained with")
    parser.add_argument("--dataset", help="data set or label file with points (default: DATASETS.TRAIN)")
    parser.add_argument("--count", type=int, default=10, help="images to draw, from the first on")
    parser.add_argument("--output", type=Path, default=Path("output/pseudo_labels"), help="folder to write")
    parser.add_argument("opts", nargs="*", help="config keys and values by turns, after all options")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.count < 1:
        raise ValueError(f"--count: expected 1 or more; found {args.count}. Give the number of images to draw.")
    cfg = setup_with_labels(args, purpose="to draw")
    (name,) = cfg.DATASETS.TRAIN
    cfg.TEST.INPUTS = ("points", "proposals")
    model = Trainer.build_model(cfg)
    if "panoptic_seg" not in model.head.gives:
        raise ValueError(
            f"MODEL.WEAK_HEAD.NAME: expected a head that grows points to panoptic segments; found "
            f"{cfg.MODEL.WEAK_HEAD.NAME}. Use tools/show_embedding.py for SPML."
        )
    Checkpointer(model, cfg.OUTPUT_DIR, description=describe_run(cfg)).load(cfg.MODEL.WEIGHTS)
    loader = Trainer.build_test_loader(cfg, name, prepare=model.head.prepare)
    batches = tqdm(islice(loader, args.count), total=min(args.count, len(loader)), unit="image")
    quality = show_growth(model, batches, dataset_metadata(name), args.output)
    if quality:
        print(tabulate(quality.items(), headers=["grown from points", "mean IoU of targets"], floatfmt=".1f"))
    print(f"Pictures: {args.output}")


if __name__ == "__main__":
    run_command(main)
