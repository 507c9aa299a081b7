"""Find the edges of images: one 8-bit grey PNG per image, 0 no edge to 255 edge, of the image's size.

    python tools/make_edges.py photos/ --output edges --engine gradient
    python tools/make_edges.py photos/ --output edges --engine network --weights models/network-bsds500.pth
    python tools/make_edges.py a.jpg photos/b.png --output edges --engine structured --weights models/model.yml.gz
    python tools/make_edges.py --labels labels.json --image-root photos --output edges --engine gradient --workers 4

Written are OUTPUT/NAME.png for the image NAME.jpg, and OUTPUT/provenance.json, which says what made them. Stopped and
started again, the command leaves out what is there. An image that cannot be read is named, the others are written; the
exit status is then 1. A training sees the maps with INPUT.EVIDENCE "('edges',)" and INPUT.EDGE_ROOT OUTPUT.

Engines: structured, a random forest in OpenCV's format (model.yml.gz); network, HED or PiDiNet, whichever the file of
weights is; gradient, colour differences of neighbouring pixels, without weights.
"""

import argparse
import hashlib
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from weakseg.engine.cli import run_command
from weakseg.proposals.edge_maps import ENGINES, EdgeDetector, edge_detector, write_edge_map
from weakseg.proposals.map_folder import check_output, declare_provenance, find_images, write_maps
from weakseg.safe_io import read_image

WHAT = "edge maps"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*", help="images, or folders of images (without sub-folders)")
    parser.add_argument("--labels", type=Path, help="a label file: its images, instead of IMAGES")
    parser.add_argument("--image-root", type=Path, help="folder of the images of --labels; default: its own")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--weights", type=Path, help="of the engines structured and network")
    parser.add_argument("--device", default="cpu", help="of the engine network: cpu, cuda, cuda:1, ...; default: cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes beside this one; default: none")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    images = find_images(args.images, args.labels, args.image_root)
    check_output(args.output, images, what=WHAT)
    check_device(args.device, args.workers)
    detector = edge_detector(args.engine, args.weights, device=args.device)
    made_by = f"--engine {args.engine}" + (f" --weights {name_and_digest(args.weights)}" if args.weights else "")
    declare_provenance(args.output, f"tools/make_edges.py {made_by}, without masks of these images", what=WHAT)

    before, left_out = write_maps(images, args.output, read_image, partial(write_edges, detector), workers=args.workers)
    written = len(images) - before - len(left_out)
    print(f"{args.output}: {written} written, {before} there before, {len(left_out)} left out")
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    if left_out:
        sys.exit(1)


def write_edges(detector: EdgeDetector, path: Path, image: np.ndarray) -> None:
    write_edge_map(path, detector(image))


def name_and_digest(path: Path) -> str:
    """Files of the same name are told apart by what is in them."""
    with path.open("rb") as file:
        return f"{path.name} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"


def check_device(device: str, workers: int) -> None:
    if workers < 0:
        raise ValueError(f"--workers: expected 0 or more; found {workers}. Use 0 to work in this process.")
    try:
        is_cpu = torch.empty(1, device=device).device.type == "cpu"
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        raise ValueError(f"--device: expected a device of this machine; found {device!r}. Use cpu.") from None
    if workers and not is_cpu:
        raise ValueError(f"--workers: expected 0 with --device {device}; found {workers}. Leave one of them out.")


if __name__ == "__main__":
    run_command(main)
