"""Start the processes of a run: Detectron2's launcher, or the processes that torchrun has started."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from detectron2.engine import launch as detectron2_launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm


def launch(
    main: Callable[..., Any],
    num_processes: int,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> Any:
    """Call `main(*args)` in `num_processes` processes on each machine, one a GPU (NCCL), or on the CPU (gloo). `main`
    must be importable. Under torchrun, whose processes are there already, the numbers given here are not used.

    dist_url: where the processes meet; "auto" is a free port of this machine. Returns the result of `main` where no
    process was started.
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys():
        return _under_torchrun(main, args, timeout)
    if torch.cuda.is_available() and num_processes > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus: expected at most {torch.cuda.device_count()}, the GPUs of this machine; found "
            f"{num_processes}. Lower it."
        )
    if num_processes < 1:
        raise ValueError(f"--num-gpus: expected the number of processes, at least 1; found {num_processes}.")
    if num_processes * num_machines == 1:
        return main(*args)
    return detectron2_launch(
        _main_then_leave, num_processes, num_machines, machine_rank, dist_url, (main, args), timeout
    )


def _under_torchrun(main: Callable[..., Any], args: tuple, timeout: timedelta) -> Any:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
    return _main_then_leave(main, args)


def leave_process_group() -> None:
    """Leave the process group, and end gloo's threads with it: one that still holds a tensor when the interpreter ends
    aborts the process (pytorch issue 190489). They end with the last reference to their group."""
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    torch.distributed.destroy_process_group()
    gc.collect()


def _main_then_leave(main: Callable[..., Any], args: tuple) -> Any:
    result = main(*args)
    leave_process_group()
    return result
