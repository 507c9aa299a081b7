"""Two gloo processes contrast as one with the same batch does: losses, gradients and memory."""

import multiprocessing

import torch
from methods.spml.shared_batch import IMAGES, contrast_twice, worker


def test_two_processes_equal_one(tmp_path):
    # Shares of two images and of one, both ways round; the last image alone has no pixel that takes part.
    cases = [[(0, first), (first, IMAGES)] for first in (2, 1)]
    multiprocessing.set_forkserver_preload(["methods.spml.shared_batch"])
    torch.multiprocessing.start_processes(worker, (cases, str(tmp_path)), nprocs=2, start_method="forkserver")
    one = contrast_twice(slice(0, IMAGES))
    assert (one["losses"] > 0).all() and (one["losses"][0] != one["losses"][1]).all()
    assert (one["gradients"][:2].flatten(1).abs().sum(1) > 0).all()
    for parts in zip(*(torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in range(2))):
        for part in parts:
            torch.testing.assert_close(part["losses"], one["losses"], rtol=1e-10, atol=0)
            torch.testing.assert_close(part["bank"], one["bank"], rtol=1e-10, atol=1e-12)
        gradients = torch.cat([part["gradients"] for part in parts])
        torch.testing.assert_close(gradients, one["gradients"], rtol=1e-8, atol=1e-12)
