"""Groups, updates and learning rates are the published ones."""

import numpy as np
import torch
from detectron2.config import get_cfg

from parity.reference import Reference, reference_files
from parity.spml_model import PUBLISHED, named_model
from weakseg.engine.caffe_sgd import CaffeMomentumSGD, build_lr_scheduler
from weakseg.methods.spml.checkpoint import published_name
from weakseg.methods.spml.network import parameter_groups


@reference_files("spml", "optimizer_groups")
def test_groups(path):
    with Reference(path) as ref:
        published = {name: ref[name] for name in ref.keys()}
    with torch.device("meta"):
        model = named_model(path.stem, embedding_dim=4, num_classes=2)
    names = {id(parameter): published_name(name) for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: [group["lr_mult"], group["decay_mult"] * PUBLISHED.weight_decay]
        for group in parameter_groups(model.backbone, model.network)
        for parameter in group["params"]
    }
    assert found == {name: values for name, values in published.items() if values is not None}
    # What is in no group has no gradient either.
    frozen = {names[id(parameter)] for parameter in model.parameters() if not parameter.requires_grad}
    assert frozen == {name for name, values in published.items() if values is None}


@reference_files("spml", "unit_optimizer")
def test_updates(path):
    with Reference(path) as ref:
        parameters = [torch.nn.Parameter(ref.tensor(name)) for name in ("w1", "w2")]
        rates, first_gradients, second_gradients = ref.tensor("lr"), ref.tensor("grad1"), ref.tensor("grad2")
        groups = [
            {"params": [parameters[0]], "weight_decay": PUBLISHED.weight_decay},
            {"params": [parameters[1]], "weight_decay": 0.0},
        ]
        optimizer = CaffeMomentumSGD(groups, lr=0.0, momentum=PUBLISHED.momentum)
        after = []
        for rate, *gradients in zip(rates.tolist(), first_gradients, second_gradients):
            for group, factor in zip(optimizer.param_groups, (10, 20)):
                group["lr"] = factor * rate
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient
            optimizer.step()
            after.append([parameter.detach().clone() for parameter in parameters])
        for i, name in enumerate(("w1_after", "w2_after")):
            ref.compare(name, torch.stack([step[i] for step in after]), rtol=1e-6, atol=1e-7)


def rates(scheduler, *, base, iterations, warmup, steps=()):
    """Rate of a group of factor 10, divided by it, in every iteration."""
    cfg = get_cfg()
    solver = cfg.SOLVER
    solver.LR_SCHEDULER_NAME, solver.BASE_LR, solver.MAX_ITER, solver.STEPS = scheduler, base, iterations, steps
    solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.GAMMA = warmup, 0.1, 0.1
    optimizer = CaffeMomentumSGD([torch.nn.Parameter(torch.zeros(1))], lr=10 * base)
    schedule = build_lr_scheduler(cfg, optimizer)
    found = []
    optimizer.step()  # without a gradient: nothing moves
    for _ in range(iterations):
        found.append(optimizer.param_groups[0]["lr"] / 10)
        schedule.step()
    return np.array(found)


@reference_files("spml", "unit_schedule")
def test_learning_rates(path):
    with Reference(path) as ref:
        at = ref["iteration"]
        long = {"base": PUBLISHED.base_lr, "iterations": PUBLISHED.iterations, "warmup": PUBLISHED.warmup}
        short = long | {"iterations": PUBLISHED.classifier_iterations}
        clipped = {"base": 1e-2, "iterations": len(ref["poly_clipped_f64"]), "warmup": 50}
        ref.compare("poly_f64", rates("PolynomialLR", **long)[at], rtol=1e-9)
        ref.compare("poly_short_f64", rates("PolynomialLR", **short)[at[: len(ref["poly_short_f64"])]], rtol=1e-9)
        ref.compare("poly_clipped_f64", rates("PolynomialLR", **clipped), rtol=1e-9)
        # Detectron2 has this policy.
        ref.compare("step_f64", rates("WarmupMultiStepLR", **long, steps=(2999, 15000))[at], rtol=1e-9)
