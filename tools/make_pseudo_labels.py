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
the command leaves out what is there; it refuses to go on with another checkpoint, label file or evidence, or with
options that change the result (MODEL, INPUT, TEST.CRF). Evidence is another one where its folder's provenance.json says
so, or without such a file where a name, size or time of a file differs.
"""

import argparse
import hashlib
import json
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from weakseg.data import metadata_of
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.cli import run_command
from weakseg.engine.defaults import setup_with_labels
from weakseg.engine.launch import launch
from weakseg.engine.trainer import Trainer
from weakseg.heads import WeakHead
from weakseg.labels import ClassOrder
from weakseg.proposals.map_folder import read_provenance
from weakseg.proposals.registry import build_evidence
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
    cfg = setup_with_labels(args, purpose="to label")
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


def provenance(cfg: CfgNode) -> str:
    """What makes the files, in words, and a hash of all that they depend on but the images: checkpoint, label file,
    evidence, prototypes, and the options that change what is made of them. Where these lie is no part of it."""
    options = CfgNode({"MODEL": cfg.MODEL, "INPUT": cfg.INPUT, "CRF": cfg.TEST.CRF}).clone()
    options.MODEL.DEVICE = options.MODEL.WEIGHTS = options.MODEL.SPML.TEST.MEMORY = ""
    options.INPUT.update({key: "" for key in options.INPUT if key.endswith("_ROOT")})
    read = [options.dump(), file_hash(cfg.MODEL.WEIGHTS)]
    if label_file := metadata_of(cfg).get("label_file"):
        read.append(file_hash(label_file))
    for loader in build_evidence(cfg).values():
        read.append(made_by(Path(loader.root)) if hasattr(loader, "root") else loader.provenance)
    if memory := cfg.MODEL.SPML.TEST.MEMORY:
        read.append(made_by(Path(memory)))
    digest = hashlib.sha256(json.dumps(read).encode()).hexdigest()
    weights = "/".join(Path(cfg.MODEL.WEIGHTS).absolute().parts[-2:])
    seen = ", ".join((*cfg.INPUT.SUPERVISION, *cfg.INPUT.EVIDENCE)) or "the images alone"
    return (
        f"{cfg.MODEL.WEAK_HEAD.NAME} with {weights} from {seen} of {Path(cfg.DATASETS.TRAIN[0]).name} "
        f"({digest[:16]} of checkpoint, config, labels and evidence)"
    )


def made_by(folder: Path) -> str:
    """What made the files of a folder; where nothing there says it, their names, sizes and times."""
    said = read_provenance(folder)
    if said is not None:
        return said
    files = {path.name: path.stat() for path in sorted(folder.glob("*"))}
    return json.dumps([(name, found.st_size, found.st_mtime_ns) for name, found in files.items()])


def file_hash(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    run_command(main)
