"""Two processes normalise by the published statistics of their common batch."""

import torch

from engine.processes import run_processes
from parity.reference import Reference, reference_files
from parity.spml_model import PUBLISHED
from weakseg.layers.sync_batch_norm import SyncBatchNorm


@torch.no_grad()
def normalise(images):
    """This process's share, of another size than the other's, and the state of the norm."""
    norm = SyncBatchNorm(images.shape[1], eps=PUBLISHED.norm_eps, momentum=PUBLISHED.norm_momentum, official=True)
    share = images[:1] if torch.distributed.get_rank() == 0 else images[1:]
    return {"output": norm(share), **norm.state_dict()}


@reference_files("spml", "unit_sync_bn")
def test_statistics_of_the_common_batch(path, tmp_path):
    with Reference(path) as ref:
        images = ref.tensor("x")
        mean, inverse_deviation = (ref.tensor(name)[:, None, None] for name in ("mean", "inv_std"))
        results = run_processes(normalise, 2, tmp_path, images)
        normalised = torch.cat([result["output"] for result in results])
        torch.testing.assert_close(normalised, (images - mean) * inverse_deviation, rtol=1e-6, atol=1e-6)
        for result in results:
            for name in ("running_mean", "running_var"):
                ref.compare(name, result[name], rtol=1e-6, atol=1e-9)
