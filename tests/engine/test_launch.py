"""The processes that the launcher starts, or that torchrun has started, find each other."""

import importlib
import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed
from detectron2.utils import comm

from weakseg.engine import launch

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def not_under_torchrun(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_this_one():
    assert launch(lambda a, b: a + b, 1, args=(2, 3)) == 5


def test_several_processes_are_started_by_detectron2(monkeypatch):
    calls = []
    # The package exports the function under the name of its module.
    module = importlib.import_module("weakseg.engine.launch")
    monkeypatch.setattr(module, "detectron2_launch", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    launch(print, 2, num_machines=3, machine_rank=1, dist_url="tcp://first:1", args=(4,), timeout=5)
    launch(print, 1, num_machines=2, dist_url="tcp://first:1")
    assert calls[0][1:] == (2, 3, 1, "tcp://first:1", (print, (4,)), 5)
    assert calls[1][1:6] == (1, 2, 0, "tcp://first:1", (print, ()))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--num-gpus: expected at most 2, the GPUs of this machine; found 3"):
        launch(print, 3)
    monkeypatch.setattr(importlib.import_module("weakseg.engine.launch"), "detectron2_launch", lambda *_: "as many")
    assert launch(print, 2) == "as many"


def test_no_process_is_refused():
    with pytest.raises(ValueError, match="--num-gpus: expected the number of processes, at least 1; found 0"):
        launch(print, 0)


def _torchrun_process(rank: int, port: int, results) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **dict(zip(TORCHRUN, f"{rank}4{rank % 2}2"))}

    def main(name: str) -> None:
        ranks = comm.all_gather((comm.get_rank(), comm.get_local_rank(), comm.get_local_size()))
        results.put((name, torch.distributed.get_backend(), tuple(ranks)))

    launch(main, 17, args=("under torchrun",))
    assert not torch.distributed.is_initialized()


def test_processes_of_torchrun_know_their_places():
    """Two machines with two processes each, all of them here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_torchrun_process, args=(rank, port, results)) for rank in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert set(found) == {("under torchrun", "gloo", ((0, 0, 2), (1, 1, 2), (2, 0, 2), (3, 1, 2)))}
