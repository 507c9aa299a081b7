"""Watch a panoptic segmenter being trained from one point per object, on scenes that are rendered here.

    python tools/demo.py                       # one run from points; about six minutes on two cores
    python tools/demo.py --baseline            # the same network trained on true masks as well, for comparison
    python tools/demo.py --seed 1 --output output/demo1 SOLVER.MAX_ITER 400

Renders 300 training and 48 held-out scenes, measures the untrained network, trains Point2Mask from one point per
target, measures again on the held-out scenes, and draws one picture for each of them: image, points, learned boundary,
masks that the points were grown to, prediction, truth. Ends with a table.
"""

import argparse
import time
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from weakseg.data import dataset_metadata
from weakseg.data.rendered import render_data_set
from weakseg.engine.cli import run_command
from weakseg.engine.defaults import setup
from weakseg.engine.trainer import Trainer
from weakseg.evaluation.growth import show_growth
from weakseg.safe_io import write_json

CONFIG = Path(__file__).parents[1] / "configs" / "point2mask" / "demo.yaml"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the order of images and the augmentation")
    parser.add_argument("--baseline", action="store_true", help="also train the same network on true masks")
    parser.add_argument("--train-images", type=int, default=300)
    parser.add_argument("--test-images", type=int, default=48)
    parser.add_argument("opts", nargs="*", help="config keys and values by turns, after all options")
    return parser.parse_args()


def train(
    args: argparse.Namespace, supervision: str, label_files: tuple[Path, Path]
) -> tuple[dict, dict, Trainer, float]:
    """Results before and after training from `supervision`, the trainer, and the seconds of training and its test."""
    folder = args.output / supervision
    train_file, test_file = (str(path) for path in label_files)
    opts = ["DATASETS.TRAIN", f"({train_file!r},)", "DATASETS.TEST", f"({test_file!r},)"]
    opts += ["DATASETS.IMAGE_ROOT", str(args.output / "scenes"), "INPUT.SUPERVISION", f"({supervision!r},)"]
    opts += ["OUTPUT_DIR", str(folder), "SEED", str(args.seed), *args.opts]
    folder.mkdir(parents=True, exist_ok=True)
    cfg = setup(argparse.Namespace(config_file=str(CONFIG), opts=opts, eval_only=False))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    before = trainer.test(cfg, trainer.module)
    started = time.perf_counter()
    after = trainer.train()
    return before, after, trainer, time.perf_counter() - started


def show(trainer: Trainer, test_file: str, folder: Path) -> dict[str, float]:
    """One picture per held-out image; mean IoU of the pseudo masks and of a nearest-point split over all targets."""
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.TEST.INPUTS = ("points",)
    batches = tqdm(trainer.build_test_loader(cfg, test_file), desc="drawing", unit="image")
    return show_growth(trainer.module, batches, dataset_metadata(test_file), folder, with_prediction=True)


def main() -> None:
    args = parse_arguments()
    scenes = args.output / "scenes"
    label_files = (
        render_data_set(scenes, "train", count=args.train_images, seed=0),
        render_data_set(scenes, "test", count=args.test_images, seed=1),
    )
    rows, report = [], {}
    for supervision in ("points", "masks") if args.baseline else ("points",):
        before, after, trainer, seconds = train(args, supervision, label_files)
        if not rows:
            rows.append(result_row("before training", before))
        rows.append(result_row(f"trained from {supervision}", after))
        report[supervision] = {"before": before, "after": after, "training_seconds": seconds}
        if supervision == "points":
            quality = show(trainer, str(label_files[1]), args.output / "pictures")
            report["mean_iou_of_targets"] = quality
    write_json(args.output / "report.json", report)
    print(f"\nOn {args.test_images} held-out scenes, seed {args.seed}:")
    print(tabulate(rows, headers=["", "PQ", "PQ things", "PQ stuff", "mIoU"], floatfmt=".1f"))
    print(tabulate(quality.items(), headers=["from the held-out points", "mean IoU of targets"], floatfmt=".1f"))
    print(f"Pictures (image | points | boundary | pseudo masks | prediction | truth): {args.output / 'pictures'}")


def result_row(name: str, results: dict) -> list:
    panoptic = results["panoptic_seg"]
    return [name, panoptic["PQ"], panoptic["PQ_th"], panoptic["PQ_st"], results["sem_seg"]["mIoU"]]


if __name__ == "__main__":
    run_command(main)
