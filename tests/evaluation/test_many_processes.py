"""Several processes give the numbers and files of one, and a lost or doubled image is an error on each of them."""

import multiprocessing

import pytest
import torch

from evaluation.scenes import evaluate_all, worker, write_scene
from weakseg.evaluation import Truth
from weakseg.safe_io import read_json

IMAGES = 23


def run_processes(folder, processes):
    metadata = write_scene(folder, IMAGES)
    # A fresh process imports what is slow once, and the others are forked from it.
    multiprocessing.set_forkserver_preload(["detectron2.evaluation", "weakseg.evaluation"])
    arguments = (processes, metadata.as_dict(), str(folder))
    torch.multiprocessing.start_processes(worker, arguments, nprocs=processes, start_method="forkserver")
    outputs = [read_json(folder / f"rank{rank}.json") for rank in range(processes)]
    expected = evaluate_all(metadata, folder / "files_of_one", Truth(metadata).image_ids)
    assert outputs[0]["results"] == expected
    assert all(output["results"] is None for output in outputs[1:])

    names = sorted(path.relative_to(folder / "files_of_one") for path in (folder / "files_of_one").rglob("*.*"))
    assert len(names) == 2 * IMAGES + 2
    assert names == sorted(path.relative_to(folder / "files") for path in (folder / "files").rglob("*.*"))
    for name in names:
        assert (folder / "files" / name).read_bytes() == (folder / "files_of_one" / name).read_bytes(), name

    last_image, first_image = 3 + 7 * (IMAGES - 1), 3
    for output in outputs:
        assert len(output["messages"]) == 6
        for fault, message in output["messages"].items():
            if fault.startswith("lost"):
                assert f"image {last_image} has no result" in message
            else:
                assert f"image {first_image} has two results" in message


def test_two_processes_equal_one(tmp_path):
    run_processes(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [7, 25])
def test_many_processes_equal_one_even_more_than_images(tmp_path, processes):
    run_processes(tmp_path, processes)
