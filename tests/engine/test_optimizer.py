"""The optimiser has the head's groups, every parameter once; clipping bounds what it says."""

import pytest
import torch
from torch import nn

from engine.toy import ToyModel, toy_config
from weakseg.engine import OPTIMIZER_REGISTRY, build_gradient_clipper, build_optimizer


def with_groups(model: nn.Module, groups: list[dict]) -> nn.Module:
    model.parameter_groups = lambda: groups
    return model


def group(*parameters, lr_mult=1.0, decay_mult=1.0) -> dict:
    return {"params": list(parameters), "lr_mult": lr_mult, "decay_mult": decay_mult}


@pytest.mark.parametrize("name, kind", [("AdamW", torch.optim.AdamW), ("SGD", torch.optim.SGD)])
def test_groups_have_the_multiplied_rate_and_decay(tmp_path, name, kind):
    model = ToyModel()
    cfg = toy_config(tmp_path, "SOLVER.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY", 0.02)
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is kind
    backbone, head = optimizer.param_groups
    assert [id(p) for p in backbone["params"]] == [id(p) for p in model.backbone.parameters()]
    assert [id(p) for p in head["params"]] == [id(p) for p in model.head.parameters()]
    assert (backbone["lr"], backbone["weight_decay"]) == (0.025, 0.02)
    assert (head["lr"], head["weight_decay"]) == (0.05, 0.0)


def test_sgd_takes_momentum_and_nesterov_from_the_config(tmp_path):
    cfg = toy_config(tmp_path, "SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.7, "SOLVER.NESTEROV", True)
    (first, _) = build_optimizer(cfg, ToyModel()).param_groups
    assert (first["momentum"], first["nesterov"]) == (0.7, True)


def test_adamw_has_the_usual_constants(tmp_path):
    (first, _) = build_optimizer(toy_config(tmp_path), ToyModel()).param_groups
    assert (first["betas"], first["eps"], first["amsgrad"]) == ((0.9, 0.999), 1e-8, False)


def test_empty_group_is_left_out(tmp_path):
    model = nn.Linear(2, 1)
    with_groups(model, [group(), group(*model.parameters())])
    assert len(build_optimizer(toy_config(tmp_path), model).param_groups) == 1


def test_parameter_in_no_group_is_refused(tmp_path):
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"found 1 in no group \(bias, ...\)"):
        build_optimizer(toy_config(tmp_path), with_groups(model, [group(model.weight)]))


def test_parameter_in_two_groups_is_refused(tmp_path):
    model = nn.Linear(2, 1)
    groups = [group(model.weight, model.bias), group(model.weight)]
    with pytest.raises(ValueError, match=r"found 1 in several places \(weight, ...\)"):
        build_optimizer(toy_config(tmp_path), with_groups(model, groups))


def test_frozen_or_foreign_parameter_is_refused(tmp_path):
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="found 1 in a group, but frozen or of another model"):
        build_optimizer(toy_config(tmp_path), with_groups(model, [group(*model.parameters())]))


def test_model_without_trainable_parameter_is_refused(tmp_path):
    model = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter at all"):
        build_optimizer(toy_config(tmp_path), with_groups(model, []))


def test_unknown_optimizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER: expected one of AdamW, CaffeSGD, SGD.*; found 'Adam'"):
        build_optimizer(toy_config(tmp_path, "SOLVER.OPTIMIZER", "Adam"), ToyModel())


def test_registered_optimizer_is_found(tmp_path):
    if "ToyOptimizer" not in OPTIMIZER_REGISTRY:

        @OPTIMIZER_REGISTRY.register()
        def ToyOptimizer(groups, solver):
            return torch.optim.Adagrad(groups, lr=solver.BASE_LR)

    cfg = toy_config(tmp_path, "SOLVER.OPTIMIZER", "ToyOptimizer")
    assert isinstance(build_optimizer(cfg, ToyModel()), torch.optim.Adagrad)


def parameters_with_gradients() -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(n)) for n in (2, 1, 3)]
    parameters[0].grad = torch.tensor([3.0, 4.0])
    parameters[1].grad = torch.tensor([12.0])
    return parameters


def clipped(tmp_path, clip_type: str, limit: float):
    clip = ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip_type, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", limit)
    parameters = parameters_with_gradients()
    build_gradient_clipper(toy_config(tmp_path, "SOLVER.CLIP_GRADIENTS.ENABLED", True, *clip))(iter(parameters))
    assert parameters[2].grad is None
    return [parameter.grad for parameter in parameters[:2]]


@pytest.mark.parametrize(
    "clip_type, limit, expected",
    [
        # The norm over all is 13.
        ("full_model", 1.3, ([0.3, 0.4], [1.2])),
        ("full_model", 14.0, ([3.0, 4.0], [12.0])),
        ("norm", 1.0, ([0.6, 0.8], [1.0])),
        ("value", 3.5, ([3.0, 3.5], [3.5])),
    ],
)
def test_clipping_bounds_the_norm_of_all_of_each_or_each_value(tmp_path, clip_type, limit, expected):
    for gradient, values in zip(clipped(tmp_path, clip_type, limit), expected):
        torch.testing.assert_close(gradient, torch.tensor(values), rtol=1e-5, atol=0)


def test_no_clipper_where_clipping_is_off(tmp_path):
    assert build_gradient_clipper(toy_config(tmp_path)) is None


def test_unknown_kind_of_clipping_is_refused(tmp_path):
    cfg = toy_config(tmp_path, "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "global")
    with pytest.raises(ValueError, match="CLIP_TYPE: expected one of full_model, norm, value; found 'global'"):
        build_gradient_clipper(cfg)
