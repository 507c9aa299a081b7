"""Processes together are one process with the whole batch; one value a channel is defined."""

import pytest
import torch
from torch import nn

from engine.processes import run_processes
from weakseg.layers.sync_batch_norm import SyncBatchNorm, batch_norm

CHANNELS, MOMENTUM = 3, 0.3
SHARES = ((3, 2), (0, 5), (1, 1))
"""Images of either process, in turns."""


def filled(norm):
    for i, tensor in enumerate((norm.weight, norm.bias)):
        tensor.data = torch.linspace(0.5, 2, CHANNELS) - i
    return norm


def batch(images):
    """Mean far from 0, so that a variance as the difference of squares would lose its digits."""
    generator = torch.Generator().manual_seed(images)
    return 100 + torch.randn(images, CHANNELS, 2, 3, generator=generator)


def parts(shares):
    return batch(sum(shares)).split(shares)


def scalar(output, inputs):
    """Differs from pixel to pixel."""
    return (output * (inputs.detach() - 99).square()).sum()


def step(norm, inputs):
    inputs = inputs.clone().requires_grad_()
    output = norm(inputs)
    norm.zero_grad()
    scalar(output, inputs).backward()
    gradients = {"inputs": inputs.grad, "weight": norm.weight.grad.clone(), "bias": norm.bias.grad.clone()}
    return {"output": output.detach(), "state": {k: v.clone() for k, v in norm.state_dict().items()}, **gradients}


def steps_of_this_process():
    norm = filled(SyncBatchNorm(CHANNELS, momentum=MOMENTUM))
    rank = torch.distributed.get_rank()
    found = [step(norm, parts(shares)[rank]) for shares in SHARES]
    norm.eval()
    found.append(step(norm, batch(4)))
    halves = norm.train()(batch(4).bfloat16())
    # Nobody has a pixel.
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    nothing = step(norm, torch.empty(0, CHANNELS, 2, 3))
    return {"steps": found, "halves": halves.detach(), "before": before, "nothing": nothing}


def test_two_processes_equal_one(tmp_path):
    results = run_processes(steps_of_this_process, 2, tmp_path)
    alone = filled(nn.BatchNorm2d(CHANNELS, momentum=MOMENTUM))
    for turn, shares in enumerate(SHARES):
        expected = step(alone, torch.cat(parts(shares)))
        found = [result["steps"][turn] for result in results]
        for name in ("output", "inputs"):
            torch.testing.assert_close(torch.cat([f[name] for f in found]), expected[name], rtol=1e-4, atol=1e-4)
        for name in ("weight", "bias"):
            torch.testing.assert_close(found[0][name] + found[1][name], expected[name], rtol=1e-4, atol=1e-4)
        for result in found:
            assert result["state"].keys() == expected["state"].keys()
            for name, value in expected["state"].items():
                torch.testing.assert_close(result["state"][name], value, rtol=1e-5, atol=1e-6)
    expected = step(alone.eval(), batch(4))
    for result in results:
        torch.testing.assert_close(result["steps"][-1]["output"], expected["output"])
        assert result["halves"].dtype == torch.bfloat16
        assert result["nothing"]["output"].shape == (0, CHANNELS, 2, 3)
        for name in ("running_mean", "running_var"):
            assert torch.equal(result["nothing"]["state"][name], result["before"][name])
        assert not result["nothing"]["weight"].any()


def test_one_process_is_the_usual_norm():
    ours, usual = (
        filled(SyncBatchNorm(CHANNELS, momentum=MOMENTUM)),
        filled(nn.BatchNorm2d(CHANNELS, momentum=MOMENTUM)),
    )
    for found, expected in zip(step(ours, batch(4)).values(), step(usual, batch(4)).values()):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not isinstance(ours, nn.SyncBatchNorm), "DDP refuses it on the CPU"


def test_one_value_a_channel_becomes_the_bias():
    norm = filled(SyncBatchNorm(CHANNELS, momentum=MOMENTUM))
    inputs = torch.tensor([4.0, -2.0, 7.0]).reshape(1, CHANNELS, 1, 1)
    found = step(norm, inputs)
    torch.testing.assert_close(found["output"].flatten(), norm.bias.detach())
    assert not found["inputs"].any() and not found["weight"].any()
    torch.testing.assert_close(norm.running_mean, MOMENTUM * inputs.flatten())
    assert torch.equal(norm.running_var, torch.ones(CHANNELS))
    assert norm.num_batches_tracked == 1


def test_alone_nothing_is_clamped():
    inputs = torch.tensor([1.0, 1.002]).reshape(2, 1, 1, 1)
    norm = SyncBatchNorm(1, official=True)
    # Variance 1e-6, well below eps.
    torch.testing.assert_close(norm(inputs).flatten()[1], torch.tensor(0.001 / 1.1e-5**0.5), rtol=1e-3, atol=0)


def test_norms_by_name():
    norm = batch_norm("SyncBN", momentum=0.02)(5)
    assert (type(norm), norm.num_features, norm.momentum, norm.eps) == (SyncBatchNorm, 5, 0.02, 1e-5)
    norm = batch_norm("BN")(5)
    assert (type(norm), norm.num_features, norm.momentum, norm.eps) == (nn.BatchNorm2d, 5, 0.1, 1e-5)
    with pytest.raises(ValueError, match="expected BN or SyncBN; found 'GN'"):
        batch_norm("GN")
