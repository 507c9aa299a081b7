"""The structured forest that the recorded edges were made with."""

from pathlib import Path

import torch
from torch import Tensor

from parity.reference import Reference, all_files, kind_of
from weakseg.proposals.structured_edges import Forest, read_forest, structured_edges


def recorded_forest(path: Path, kind: str, folder: Path) -> Forest:
    """The forest beside the recorded file `path` of a kind: the one of the same suffix, else the first. It is read
    from a copy in `folder`, as reading leaves a cache beside the file."""
    forests = [file for file in all_files("point2mask") if kind_of("point2mask", file) == "tiny_edges"]
    assert forests, f"{path}: no forest tiny_edges*.yml.gz beside it"
    name = f"tiny_edges{path.stem.removeprefix(kind)}.yml.gz"
    source = next((file for file in forests if file.name == name), forests[0])
    (folder / source.name).write_bytes(source.read_bytes())
    return read_forest(folder / source.name)


def low_level_edges(ref: Reference, folder: Path) -> Tensor:
    """Edges (B, H, W) of the normalised images, as published: channels reversed (fault m), by the forest beside."""
    forest = recorded_forest(ref.path, "unit_pseudo_edges", folder)
    # Truncated to integers, the last bit counts: in float32 and with the constants of card section 3.2.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (ref.tensor("image").permute(0, 2, 3, 1) * std + mean).clamp(0, 1) * 255
    reversed_images = images.to(torch.uint8).flip(3).numpy()
    return torch.stack([torch.from_numpy(structured_edges(image, forest)) for image in reversed_images])
