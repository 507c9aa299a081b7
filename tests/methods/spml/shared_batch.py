"""A batch of three images that one process, or two with unequal shares, contrast twice: the second time with memory."""

from pathlib import Path

import torch
import torch.distributed

from weakseg.engine.launch import leave_process_group
from weakseg.methods.spml.contrast import (
    affinity_loss,
    annotation_loss,
    cooccurrence_loss,
    image_similarity_loss,
)
from weakseg.methods.spml.label_propagation import propagate_labels
from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.memory_bank import MemoryBank
from weakseg.methods.spml.segments import find_segments, gather_prototypes, local_prototypes, segment_prototypes

IMAGES, CLASSES, SIZE = 3, 4, (9, 12)


def batch() -> dict[str, torch.Tensor]:
    """All pixels of the last image are ignored, and the first has no tag."""
    generator = torch.Generator().manual_seed(0)
    semantic = torch.randint(0, CLASSES + 1, (IMAGES, *SIZE), generator=generator)
    semantic[2] = 255
    return {
        "embedding": torch.randn(2, IMAGES, 6, *SIZE, generator=generator).double(),
        "semantic": semantic,
        "region": torch.randint(0, 3, (IMAGES, *SIZE), generator=generator),
        "tags": torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1]]).bool(),
    }


def contrast_twice(images: slice) -> dict[str, torch.Tensor]:
    """Losses (2, 4) of two iterations, averaged over the processes, with the gradients of the share `images`."""
    data = batch()
    bank = MemoryBank(length=1, channels=6, num_classes=CLASSES)
    losses, gradients = [], []
    for embedding in data["embedding"]:
        embedding = embedding[images].clone().requires_grad_()
        found = losses_of(embedding, **{name: data[name][images] for name in ("semantic", "region", "tags")}, bank=bank)
        found.sum().backward()
        losses.append(all_reduced(found.detach()) / world_size())
        gradients.append(embedding.grad / world_size())
    return {"losses": torch.stack(losses), "gradients": torch.stack(gradients, 1), "bank": bank.get_extra_state()}


def losses_of(embedding, *, semantic, region, tags, bank) -> torch.Tensor:
    """The four losses of a share: its sums divided by the mean of all processes' counts."""
    segments = find_segments(
        embedding, local=position_features(*SIZE), grid=(2, 2), iterations=3, semantic=semantic, region=region
    )
    located = segment_prototypes(segments.located, segments.segment, len(segments.segment_image))
    propagated = propagate_labels(
        located,
        segments.segment_image,
        prototypes=located,
        prototype_label=segments.segment_semantic,
        prototype_image=segments.segment_image,
        num_classes=CLASSES,
        threshold=0.8,
    )
    mine = local_prototypes(segments, tags, propagated=propagated)
    prototypes, first = gather_prototypes(mine, len(embedding))
    memory = bank.prototypes()
    options = {"first": first, "concentration": 6.0}
    sums_and_counts = [
        image_similarity_loss(segments, segments.located, concentration=16.0),
        annotation_loss(segments, prototypes, num_classes=CLASSES, memory=memory, **options),
        cooccurrence_loss(segments, prototypes, tags, memory=memory, **options),
        affinity_loss(segments, prototypes, num_classes=CLASSES, **options),
    ]
    bank.append(prototypes)
    sums, counts = zip(*sums_and_counts)
    counts = all_reduced(torch.tensor(counts, dtype=torch.float64)) / world_size()
    return torch.stack(sums) / counts


def world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def all_reduced(values: torch.Tensor) -> torch.Tensor:
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values


def worker(rank: int, cases: list[list[tuple[int, int]]], folder: str) -> None:
    """One of several processes, which contrasts its share of the images in each case."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(cases[0])
    )
    found = [contrast_twice(slice(*shares[rank])) for shares in cases]
    torch.save(found, Path(folder, f"rank{rank}.pth"))
    leave_process_group()
