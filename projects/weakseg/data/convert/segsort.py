"""List files of SegSort and SPML: which images a set has (card 6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weakseg.safe_io import resolve_inside


@dataclass(frozen=True)
class ListEntry:
    """One line of a list: the files of an image; semantic and region are None where the list names images alone."""

    image: Path
    semantic: Path | None = None
    region: Path | None = None


def read_list(path: str | Path, root: str | Path) -> list[ListEntry]:
    """The lines of a list file in order: three paths below `root` (image, semantic label, region label), separated by
    one space, or the image alone. Lists of two columns are refused: they name no region label."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a list of images; found nothing there. Check the path.")
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        names = line.split()
        if len(names) not in (0, 1, 3):
            raise ValueError(
                f"{path}, line {number}: expected three paths (image, semantic label, region label) or the image "
                f"alone; found {len(names)}. Use a list with region labels, such as panoptic_val.txt for val.txt."
            )
        if names:
            entries.append(ListEntry(*(resolve_inside(root, name) for name in names)))
    if not entries:
        raise ValueError(f"{path}: expected a list of images; found an empty file. Fetch it again.")
    return entries
