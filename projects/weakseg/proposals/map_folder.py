"""A folder with one PNG an image, named as the image, a word on what made them, and the images to make them of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from weakseg.labels import read_label_file
from weakseg.safe_io import read_json, read_label_png, resolve_inside, write_json

PROVENANCE = "provenance.json"
"""File beside the maps that says what made them."""
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def map_file(root: str | Path, image: str | Path) -> Path:
    """Where the map of the image NAME.jpg lies: `root`/NAME.png."""
    return Path(root) / f"{Path(image).stem}.png"


def declare_provenance(root: str | Path, provenance: str, *, what: str) -> None:
    """Write what makes the maps of the folder `root`; ValueError where it says that something else made them.
    what: the maps in words, for errors."""
    found = read_provenance(root)
    if found is None:
        write_json(Path(root) / PROVENANCE, {"provenance": provenance})
    elif found != provenance:
        raise ValueError(f"{root}: expected {what} made by {provenance}; found {found}. Choose another folder.")


def read_provenance(root: str | Path) -> str | None:
    """What made the maps of the folder `root`; None where nothing there says it."""
    path = Path(root) / PROVENANCE
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("provenance"), str):
        raise ValueError(f'{path}: expected {{"provenance": "..."}}; found something else. Remove the file.')
    return content["provenance"]


class EvidenceFolder:
    """A folder of maps that a run reads, one an image, and what made them (`provenance`)."""

    def __init__(self, root: str | Path, *, key: str, what: str, remedy: str):
        """key: of the config, for errors; what: a map in words; remedy: how the maps are made, a sentence in
        which IMAGES stands for the folder of the images and OUTPUT for this one."""
        if not root or not Path(root).is_dir():
            raise FileNotFoundError(
                f"{key}: expected a folder of {what}s; found {str(root)!r}, which is none. {remedy}"
            )
        self.root, self.what, self.remedy = Path(root), what, remedy
        made_by = read_provenance(root) or "something that nothing there names"
        self.provenance = f"{what}s in {root}, made by {made_by}"

    def existing_file(self, record: dict) -> Path:
        """Where the map of a record's image lies; FileNotFoundError where it does not."""
        path = map_file(self.root, record["file_name"])
        if not path.is_file():
            remedy = self.remedy.replace("IMAGES", str(Path(record["file_name"]).parent))
            raise FileNotFoundError(
                f"{path}: expected the {self.what} of {record['file_name']}; found none. "
                f"{remedy.replace('OUTPUT', str(self.root))}"
            )
        return path


class EightBitMaps(EvidenceFolder):
    """Maps (H, W) uint8 of the stored image: grey values or palette indices, never colours."""

    def __call__(self, record: dict) -> np.ndarray:
        path = self.existing_file(record)
        values = read_label_png(path)
        size = (record["height"], record["width"])
        if values.dtype != np.uint8 or values.shape != size:
            raise ValueError(
                f"{path}: expected an 8-bit map, grey or with a palette, of {size[1]} x {size[0]} pixels; found "
                f"{values.dtype} of shape {values.shape}. Make it again from {record['file_name']}."
            )
        return values


def find_images(given: Sequence[Path], labels: Path | None = None, image_root: Path | None = None) -> list[Path]:
    """The images that a command works on, each once: those `given` (files, and folders without their sub-folders), or
    else those of a label file below `image_root` (default: its own folder)."""
    if bool(given) == bool(labels):
        raise ValueError(
            f"Expected either images or --labels; found {'both' if labels else 'neither'}. Give one of them."
        )
    if image_root and not labels:
        raise ValueError("--image-root: expected together with --labels; found without it. Name the folder as IMAGES.")
    if labels:
        root = image_root or labels.parent
        found = [resolve_inside(root, image["file_name"]) for image in read_label_file(labels).images]
    else:
        found = [path for item in given for path in _images_of(item)]
    if not found:
        where = labels or ", ".join(map(str, given))
        raise ValueError(f"{where}: expected images ({', '.join(IMAGE_SUFFIXES)}); found none. Check the path.")
    return list({path.parent.resolve() / path.name: path for path in found}.values())


def check_output(output: Path, images: Sequence[Path], *, what: str) -> None:
    """Every image has a file of its own to write in the folder `output`, and none of these is an image. what: the maps
    in words, for errors."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: expected a folder at {output}; found a file. Choose another path.")
    if output.resolve() in {path.parent.resolve() for path in images}:
        raise ValueError(f"--output: expected another folder than that of the images; found {output}. Choose another.")
    by_stem: dict[str, Path] = {}
    for path in images:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"Expected images of different names, as {what} are named after them; found {other} and {path}. "
                "Rename one, or use one output folder for each folder of images."
            )


def write_maps(
    images: Sequence[Path],
    root: Path,
    read: Callable[[Path], Any],
    write: Callable[[Path, Any], None],
    *,
    workers: int = 0,
) -> tuple[int, list[str]]:
    """Write the maps of `images` that the folder `root` lacks, with a progress bar: `write(map file, read(image))`.

    An image that `read` refuses (ValueError, FileNotFoundError) is left out. Returns how many maps were there before,
    and a sentence for each image left out. workers: processes beside this one.
    """
    missing = [path for path in images if not map_file(root, path).exists()]
    before = len(images) - len(missing)
    work = DataLoader(_MapWork(missing, root, read, write), batch_size=None, num_workers=workers)
    return before, [sentence for sentence in tqdm(work, unit="image", initial=before, total=len(images)) if sentence]


class _MapWork(Dataset):
    """Item i writes the map of image i, and is "", or the sentence that says why there is none."""

    def __init__(self, images: list[Path], root: Path, read: Callable[[Path], Any], write: Callable[[Path, Any], None]):
        self.images, self.root, self.read, self.write = images, root, read, write

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> str:
        path = self.images[index]
        try:
            given = self.read(path)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        self.write(map_file(self.root, path), given)
        return ""


def _images_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if path.is_file():
        return [path]
    raise FileNotFoundError(f"{path}: expected an image or a folder of images; found nothing. Check the path.")
