"""Several processes of a test on the CPU, which talk over gloo."""

import multiprocessing
from pathlib import Path

import torch

from weakseg.engine.launch import leave_process_group


def run_processes(work, processes: int, folder: Path, *arguments) -> list:
    """What `work(*arguments)`, an importable function, returns in each process, by rank; tensors and plain data."""
    # A fresh process imports what is slow once, and the others are forked from it.
    multiprocessing.set_forkserver_preload(["detectron2.evaluation", "weakseg.evaluation"])
    torch.multiprocessing.start_processes(
        _process, (processes, str(folder), work, arguments), nprocs=processes, start_method="forkserver"
    )
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]


def _process(rank, processes, folder, work, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    torch.save(work(*arguments), Path(folder, f"rank{rank}.pt"))
    leave_process_group()
