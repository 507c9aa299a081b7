"""Turn the labels of a training set into those of the next stage, by a trained network: one file or more an image.

    python tools/make_pseudo_labels.py --config-file configs/spml/voc_point.yaml --output pseudo_labels \\
        MODEL.WEIGHTS output/voc_point/model_final.pth
    python tools/make_pseudo_labels.py --config-file my.yaml --dataset labels.json --output my_labels --num-gpus 4 \\
        MODEL.WEIGHTS my.pth DATASETS.IMAGE_ROOT photos
    without a GPU: OMP_NUM_THREADS=1 python tools/make_pseudo_labels.py ... --num-gpus 2
    by torchrun:   torchrun --nproc-per-node 8 tools/make_pseudo_labels.py ...

Written are, of what the head of the config makes, for the image NAME.jpg:
  OUTPUT/semantic/NAME.png     label map: 0 the background, from 1 on the other classes, 254 unlabelled, 255 ignored; a
                               training sees it with INPUT.EVIDENCE "('semantic',)" INPUT.SEMANTIC_ROOT OUTPUT/semantic
  OUTPUT/prototypes/NAME.npz   segments to retrieve labels from, see MODEL.SPML.TEST.MEMORY
  OUTPUT/cams/NAME.npz         class activation maps, for INPUT.EVIDENCE "('cams',)" INPUT.CAM_ROOT OUTPUT/cams
and in each of these folders provenance.json, which says what made them. The network sees the labels that the config
trains with (INPUT.SUPERVISION) and its evidence. Stopped at any moment and started again, with any number of processes,
the command leaves out what is there.
"""

import argparse
import hashlib
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from weakseg.data import metadata_of
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.cli import run_command
from weakseg.engine.defaults import setup
from weakseg.engine.launch import launch
from weakseg.engine.trainer import Trainer
from weakseg.heads import WeakHead
from weakseg.labels import ClassOrder
from weakseg.pseudo_labels import make_pseudo_labels


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="config that the network was trained with")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--dataset", help="data set or label file (default: DATASETS.TRAIN)")
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes, one a GPU, or on the CPU; default: %(default)s"
    )
    parser.add_argument("opts", nargs="*", help="config keys and values by turns, after all options")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f"--output: expected a folder at {args.output}; found a file. Choose another path.")
    launch(run, args.num_gpus, args=(args,))


def run(args: argparse.Namespace) -> None:
    """One process of a run."""
    cfg = config_of(args)
    (name,) = cfg.DATASETS.TRAIN
    model = Trainer.build_model(cfg)
    if type(model.head).pseudo_labels is WeakHead.pseudo_labels:
        raise ValueError(
            f"MODEL.WEAK_HEAD.NAME: expected a head that makes pseudo labels; found {cfg.MODEL.WEAK_HEAD.NAME}, which "
            "makes none. Choose the config of the stage before."
        )
    Checkpointer(model, cfg.OUTPUT_DIR, description=describe_run(cfg)).load(cfg.MODEL.WEIGHTS)
    loader = Trainer.build_test_loader(cfg, name, prepare=model.head.prepare)
    order = ClassOrder.of(metadata_of(cfg).stuff_classes)
    written, before = make_pseudo_labels(model, loader, args.output, order=order, provenance=provenance(cfg))
    if comm.is_main_process():
        print(f"{args.output}: {written} images written, {before} there before")


def config_of(args: argparse.Namespace) -> CfgNode:
    """The config of a run, whose one training set is that of the pseudo labels."""
    dataset = ["DATASETS.TRAIN", f"({args.dataset!r},)"] if args.dataset else []
    args.opts += [*dataset, "MODEL.BACKBONE.WEIGHTS", "", "OUTPUT_DIR", str(args.output)]
    args.eval_only = True
    cfg = setup(args).clone()
    cfg.defrost()
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS: expected a checkpoint; found none. Add it after all options.")
    if len(cfg.DATASETS.TRAIN) != 1:
        found = ", ".join(cfg.DATASETS.TRAIN) or "none"
        raise ValueError(f"DATASETS.TRAIN: expected one data set to label; found {found}. Name one with --dataset.")
    cfg.TEST.INPUTS = (*cfg.INPUT.SUPERVISION, "proposals")
    return cfg


def provenance(cfg: CfgNode) -> str:
    """What makes the files, in words, and a hash of the checkpoint and of all options that change them."""
    options = CfgNode({"MODEL": cfg.MODEL, "INPUT": cfg.INPUT, "TEST": cfg.TEST}).clone()
    options.MODEL.DEVICE = options.MODEL.WEIGHTS = ""
    digest = hashlib.sha256(options.dump().encode())
    with Path(cfg.MODEL.WEIGHTS).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    weights = "/".join(Path(cfg.MODEL.WEIGHTS).parts[-2:])
    seen = ", ".join((*cfg.INPUT.SUPERVISION, *cfg.INPUT.EVIDENCE)) or "the images alone"
    return (
        f"{cfg.MODEL.WEAK_HEAD.NAME} with {weights} from {seen} of {Path(cfg.DATASETS.TRAIN[0]).name} "
        f"({digest.hexdigest()[:16]} of checkpoint and config)"
    )


if __name__ == "__main__":
    run_command(main)
