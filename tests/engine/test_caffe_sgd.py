"""Caffe's momentum and polynomial decay, by hand."""

import pytest
import torch
from torch import nn

from engine.toy import ToyModel, toy_config
from weakseg.engine import build_optimizer
from weakseg.engine.caffe_sgd import CaffeMomentumSGD, PolynomialSchedule, build_lr_scheduler


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def test_two_steps_by_hand():
    weight = parameter(1.0, -2.0)
    optimizer = CaffeMomentumSGD([weight], lr=0.5, momentum=0.9, weight_decay=0.1)
    weight.grad = torch.tensor([0.2, 0.4])
    optimizer.step()
    # 0.5 * (0.2 + 0.1 * 1) = 0.15; 0.5 * (0.4 - 0.1 * 2) = 0.1
    torch.testing.assert_close(weight.detach(), torch.tensor([0.85, -2.1]))
    optimizer.param_groups[0]["lr"] = 0.01
    weight.grad = torch.tensor([0.0, 1.0])
    optimizer.step()
    # 0.9 * 0.15 + 0.01 * 0.085; 0.9 * 0.1 + 0.01 * (1 - 0.21): what the buffer has keeps the old rate.
    torch.testing.assert_close(weight.detach(), torch.tensor([0.85 - 0.13585, -2.1 - 0.0979]))


def test_a_constant_rate_is_the_usual_sgd():
    generator = torch.Generator().manual_seed(0)
    ours, usual = (parameter(1.0, 2.0, 3.0) for _ in range(2))
    steps = [
        CaffeMomentumSGD([ours], lr=0.1, momentum=0.8, weight_decay=0.05),
        torch.optim.SGD([usual], lr=0.1, momentum=0.8, weight_decay=0.05),
    ]
    for _ in range(5):
        ours.grad = torch.randn(3, generator=generator)
        usual.grad = ours.grad.clone()
        for optimizer in steps:
            optimizer.step()
    torch.testing.assert_close(ours.detach(), usual.detach())


def test_each_group_has_its_rate_decay_and_momentum():
    weights = [parameter(1.0), parameter(1.0)]
    groups = [
        {"params": [weights[0]], "lr": 0.1, "weight_decay": 1.0, "momentum": 0.5},
        {"params": [weights[1]], "lr": 0.2, "weight_decay": 0.0, "momentum": 0.0},
    ]
    optimizer = CaffeMomentumSGD(groups, lr=1.0)
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.ones(1)
        optimizer.step()
    # 1 - 0.1 * 2 = 0.8; then 0.8 - (0.5 * 0.2 + 0.1 * 1.8)
    torch.testing.assert_close(torch.cat(weights).detach(), torch.tensor([0.52, 0.6]))


def test_without_a_gradient_nothing_moves_nor_decays():
    moved, idle = parameter(1.0), parameter(1.0)
    optimizer = CaffeMomentumSGD([moved, idle], lr=0.1, momentum=0.9, weight_decay=0.5)
    CaffeMomentumSGD([idle], lr=0.1).step()
    moved.grad = torch.ones(1)
    optimizer.step()
    torch.testing.assert_close(moved.detach(), torch.tensor([0.85]))
    assert idle.item() == 1.0
    assert idle not in optimizer.state
    # The gradient is left as it is.
    assert moved.grad.item() == 1.0


def test_the_buffer_is_part_of_the_state():
    def after(resume):
        weight = parameter(1.0)
        optimizer = CaffeMomentumSGD([weight], lr=0.1, momentum=0.9)
        for step in range(4):
            if resume and step == 2:
                state, optimizer = optimizer.state_dict(), CaffeMomentumSGD([weight], lr=9.0)
                optimizer.load_state_dict(state)
            weight.grad = weight.detach().clone()
            optimizer.step()
        return weight.item()

    assert after(True) == after(False) != 1.0


def test_a_closure_is_called_with_gradient():
    weight = parameter(3.0)
    optimizer = CaffeMomentumSGD([weight], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert weight.item() == 0.0


def test_it_is_chosen_by_name(tmp_path):
    cfg = toy_config(tmp_path, "SOLVER.OPTIMIZER", "CaffeSGD", "SOLVER.MOMENTUM", 0.7, "SOLVER.WEIGHT_DECAY", 0.02)
    optimizer = build_optimizer(cfg, ToyModel())
    assert type(optimizer) is CaffeMomentumSGD
    backbone, head = optimizer.param_groups
    assert (backbone["lr"], backbone["weight_decay"], backbone["momentum"]) == (0.025, 0.02, 0.7)
    assert (head["lr"], head["weight_decay"], head["momentum"]) == (0.05, 0.0, 0.7)


@pytest.mark.parametrize(
    "where, expected",
    [
        (0.0, 0.1),
        (0.1, 0.1 * 0.75 + 0.25),
        # The ramp would be 0.775; the decay is below it.
        (0.3, 0.7**2),
        (0.4, 0.6**2),
        (0.9, 0.1**2),
        (1.0, 0.0),
        (1.5, 0.0),
    ],
)
def test_the_decay_bounds_the_ramp(where, expected):
    schedule = PolynomialSchedule(2.0, warmup_length=0.4, warmup_factor=0.1)
    assert schedule(where) == pytest.approx(expected, abs=1e-12)


def test_no_warmup():
    assert PolynomialSchedule()(0.0) == 1.0
    assert PolynomialSchedule()(0.5) == 0.5**0.9


def test_the_schedule_is_chosen_by_name(tmp_path):
    cfg = toy_config(tmp_path)
    cfg.SOLVER.merge_from_list(
        ["LR_SCHEDULER_NAME", "PolynomialLR", "MAX_ITER", 10, "WARMUP_ITERS", 2, "WARMUP_FACTOR", 0.2]
    )
    optimizer = torch.optim.SGD([{"params": [parameter(0.0)], "lr": 4.0}, {"params": [parameter(0.0)], "lr": 1.0}])
    schedule = build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(11):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    expected = [0.2, 0.6, *((1 - t / 10) ** 0.9 for t in range(2, 11))]
    torch.testing.assert_close(torch.tensor(found), torch.tensor([[4 * e, e] for e in expected]))


def test_other_schedules_are_those_of_detectron2(tmp_path):
    cfg = toy_config(tmp_path)
    cfg.SOLVER.merge_from_list(
        ["LR_SCHEDULER_NAME", "WarmupMultiStepLR", "MAX_ITER", 4, "WARMUP_ITERS", 0, "STEPS", (2,), "GAMMA", 0.5]
    )
    optimizer = torch.optim.SGD([parameter(0.0)], lr=1.0)
    schedule = build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(4):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == [1.0, 1.0, 0.5, 0.5]
