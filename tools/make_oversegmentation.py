"""Cut images into regions: one 8-bit PNG per image, region ids 0..255, of the image's size.

    python tools/make_oversegmentation.py photos/ --output regions
    python tools/make_oversegmentation.py photos/ --output regions --edges edges
    python tools/make_oversegmentation.py --labels labels.json --image-root photos --output regions --workers 4

Written are OUTPUT/NAME.png for the image NAME.jpg, and OUTPUT/provenance.json, which says what made them. Stopped and
started again, the command leaves out what is there. An image that cannot be read, or that has no edge map, is named,
the others are written; the exit status is then 1. A training sees the maps with INPUT.EVIDENCE "('regions',)" and
INPUT.REGION_ROOT OUTPUT.

The edges are those of the folder --edges, as tools/make_edges.py writes them, or else colour differences of
neighbouring pixels. The basins between them are merged over the weakest boundaries first.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

from weakseg.engine.cli import run_command
from weakseg.proposals.edge_maps import EdgeMaps, gradient_edges
from weakseg.proposals.map_folder import check_output, declare_provenance, find_images, read_provenance, write_maps
from weakseg.proposals.oversegmentation import MAX_REGIONS, oversegment
from weakseg.safe_io import read_image, write_png

WHAT = "region maps"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="*", help="images, or folders of images (without sub-folders)")
    parser.add_argument("--labels", type=Path, help="a label file: its images, instead of IMAGES")
    parser.add_argument("--image-root", type=Path, help="folder of the images of --labels; default: its own")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--edges", type=Path, help="folder of edge maps; default: gradients of the images")
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="weakest boundary that stays, 0 to 1; default: %(default)s"
    )
    parser.add_argument(
        "--max-regions", type=int, default=MAX_REGIONS, help="most regions of an image; default: %(default)s"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes beside this one; default: none")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    images = find_images(args.images, args.labels, args.image_root)
    check_output(args.output, images, what=WHAT)
    check_numbers(args)
    read = partial(edges_of, edge_maps(args.edges))
    declare_provenance(args.output, provenance(args), what=WHAT)

    write = partial(write_regions, args.threshold, args.max_regions)
    before, left_out = write_maps(images, args.output, read, write, workers=args.workers)
    written = len(images) - before - len(left_out)
    print(f"{args.output}: {written} written, {before} there before, {len(left_out)} left out")
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    if left_out:
        sys.exit(1)


def check_numbers(args: argparse.Namespace) -> None:
    if args.workers < 0:
        raise ValueError(f"--workers: expected 0 or more; found {args.workers}. Use 0 to work in this process.")
    if not 1 <= args.max_regions <= MAX_REGIONS:
        raise ValueError(f"--max-regions: expected 1 to {MAX_REGIONS}; found {args.max_regions}. Correct it.")


def edge_maps(folder: Path | None) -> EdgeMaps | None:
    if folder and not folder.is_dir():
        raise FileNotFoundError(
            f"--edges: expected a folder of edge maps; found none at {folder}. Run tools/make_edges.py."
        )
    return EdgeMaps(folder) if folder else None


def edges_of(maps: EdgeMaps | None, path: Path) -> np.ndarray:
    """Edges (H, W) in [0, 1] of an image: its map, or its gradients."""
    image = read_image(path)
    if maps is None:
        return gradient_edges(image)
    edges = maps({"file_name": str(path)})
    if edges.shape != image.shape[:2]:
        expected, found = (f"{width} x {height}" for height, width in (image.shape[:2], edges.shape))
        raise ValueError(f"{path}: expected an edge map of {expected} pixels; found {found}. Make it again.")
    return edges


def write_regions(threshold: float, max_regions: int, path: Path, edges: np.ndarray) -> None:
    write_png(path, oversegment(edges, threshold=threshold, max_regions=max_regions))


def provenance(args: argparse.Namespace) -> str:
    edges = "gradients, without masks of these images"
    if args.edges:
        edges = f"edges made by {read_provenance(args.edges) or 'a program that nothing beside them names'}"
    return f"tools/make_oversegmentation.py --threshold {args.threshold} --max-regions {args.max_regions} from {edges}"


if __name__ == "__main__":
    run_command(main)
