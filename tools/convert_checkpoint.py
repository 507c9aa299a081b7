"""Convert a checkpoint that the authors of a method publish into one of WeakSeg's, or back.

    python tools/convert_checkpoint.py --method point2mask downloads/model.pth models/point2mask_voc_r50.pth
    python tools/convert_checkpoint.py --method point2mask --config-file configs/point2mask/voc_r50.yaml \\
        downloads/model.pth models/point2mask_voc_r50.pth
    python tools/convert_checkpoint.py --method spml --config-file configs/spml/voc_tag_classifier.yaml \\
        downloads/model.pth models/spml_voc_tag.pth
    python tools/convert_checkpoint.py --method point2mask --reverse output/model_final.pth published.pth

The converted file predicts alone (tools/predict.py --weights), and is what MODEL.WEIGHTS takes for evaluation
(tools/train_net.py --eval-only) and fine-tuning. Without --config-file it carries the config of a published row with
these classes and this backbone: of Point2Mask the one with one point a target, of SPML's rows of VOC, which predict
alike, voc_point_classifier.yaml. A file with other tensors than the config's model is refused, and nothing is written.
The optimiser's state is left out. models/README.md lists the published files.
"""

import argparse
from pathlib import Path

import torch

from weakseg.engine import load_config, run_command
from weakseg.safe_io import atomic_write
from weakseg.zoo.convert import METHODS, default_config, from_published, read_published, to_published

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", required=True, choices=sorted(METHODS), help="whose checkpoint it is")
    parser.add_argument("--config-file", type=Path, help="config that the converted file shall carry")
    parser.add_argument("--reverse", action="store_true", help="from WeakSeg's form to the published one")
    parser.add_argument("input", type=Path, help="checkpoint to read (.pth)")
    parser.add_argument("output", type=Path, help="checkpoint to write (.pth)")
    args = parser.parse_args()
    if args.reverse and args.config_file:
        parser.error("--config-file: a checkpoint of WeakSeg's carries its config; leave it out with --reverse")
    return args


def main() -> None:
    args = parse_arguments()
    if args.output.suffix != ".pth":
        raise ValueError(f"OUTPUT: expected the name of a .pth file; found {args.output}. Add the suffix.")
    if args.output.resolve() == args.input.resolve():
        raise ValueError(f"OUTPUT: expected another file than the input; found {args.output}. Choose another name.")
    if args.reverse:
        content = to_published(args.input, args.method)
        count = sum(len(tensors) for entry, tensors in content.items() if entry != "meta")
    else:
        published = read_published(args.input, args.method)
        config_file = args.config_file or CONFIGS / default_config(published, args.method)
        content = from_published(published, args.method, load_config(config_file))
        count = len(published.state)
        chosen = "" if args.config_file else " (of a published row with these tensors; another: --config-file)"
        print(f"config: {config_file}{chosen}")
    with atomic_write(args.output) as temporary:
        torch.save(content, temporary)
    print(f"{args.output}: {count} tensors of {args.input}")


if __name__ == "__main__":
    run_command(main)
