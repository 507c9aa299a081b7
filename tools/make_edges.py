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
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from weakseg.engine.cli import run_command
from weakseg.labels import read_label_file
from weakseg.proposals.edge_maps import ENGINES, EdgeDetector, declare_provenance, edge_detector, write_edge_map
from weakseg.safe_io import read_image, resolve_inside

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


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
    images = find_images(args)
    check_output(args.output, images)
    check_device(args.device, args.workers)
    detector = edge_detector(args.engine, args.weights, device=args.device)
    made_by = f"--engine {args.engine}" + (f" --weights {name_and_digest(args.weights)}" if args.weights else "")
    declare_provenance(args.output, f"tools/make_edges.py {made_by}, without masks of these images")

    missing = [path for path in images if not edge_file(args.output, path).exists()]
    unreadable = []
    work = DataLoader(EdgeWork(missing, args.output, detector), batch_size=None, num_workers=args.workers)
    for sentence in tqdm(work, unit="image", initial=len(images) - len(missing), total=len(images)):
        if sentence:
            unreadable.append(sentence)
    written = len(missing) - len(unreadable)
    print(f"{args.output}: {written} written, {len(images) - len(missing)} there before, {len(unreadable)} left out")
    for sentence in unreadable:
        print(f"left out: {sentence}", file=sys.stderr)
    if unreadable:
        sys.exit(1)


class EdgeWork(Dataset):
    """Item i writes the edge map of image i, and is "", or the sentence that says why there is none."""

    def __init__(self, images: list[Path], output: Path, detector: EdgeDetector):
        self.images, self.output, self.detector = images, output, detector

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> str:
        path = self.images[index]
        try:
            image = read_image(path)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        write_edge_map(edge_file(self.output, path), self.detector(image))
        return ""


def name_and_digest(path: Path) -> str:
    """Files of the same name are told apart by what is in them."""
    with path.open("rb") as file:
        return f"{path.name} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"


def edge_file(output: Path, image: Path) -> Path:
    return output / f"{image.stem}.png"


def find_images(args: argparse.Namespace) -> list[Path]:
    """The images to work on, each once."""
    if bool(args.images) == bool(args.labels):
        raise ValueError(
            f"Expected either images or --labels; found {'both' if args.labels else 'neither'}. Give one of them."
        )
    if args.image_root and not args.labels:
        raise ValueError("--image-root: expected together with --labels; found without it. Name the folder as IMAGES.")
    if args.labels:
        root = args.image_root or args.labels.parent
        found = [resolve_inside(root, image["file_name"]) for image in read_label_file(args.labels).images]
    else:
        found = [path for given in args.images for path in images_of(given)]
    if not found:
        where = args.labels or ", ".join(map(str, args.images))
        raise ValueError(f"{where}: expected images ({', '.join(sorted(SUFFIXES))}); found none. Check the path.")
    return list({path.parent.resolve() / path.name: path for path in found}.values())


def images_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if path.is_file():
        return [path]
    raise FileNotFoundError(f"{path}: expected an image or a folder of images; found nothing. Check the path.")


def check_output(output: Path, images: list[Path]) -> None:
    """Every image has a file of its own to write, and none of these is an image."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: expected a folder at {output}; found a file. Choose another path.")
    if output.resolve() in {path.parent.resolve() for path in images}:
        raise ValueError(f"--output: expected another folder than that of the images; found {output}. Choose another.")
    by_stem: dict[str, Path] = {}
    for path in images:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"Expected images of different names, as edge maps are named after them; found {other} and {path}. "
                "Rename one, or use one output folder for each folder of images."
            )


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
