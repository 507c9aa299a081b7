"""Where one training step goes: forward, pseudo labels, losses and backward of a whole model with random weights."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks import on_cpu
from benchmarks.model import PartTimer, add_model_arguments, build_model, scene_of, training_batch
from weakseg.methods.point2mask.transformer import Location

HELP = "one training step, and the share of its parts"
LARGEST_SHARE = 0.25
_NETWORK = ("encode", "locate", "semantic", "embed", "thing_masks", "stuff")
_PARTS = ["forward", "pseudo labels", "losses", "backward of losses", "backward of network", "optimiser"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, height=320, width=320, images=2)
    parser.add_argument("--runs", type=int, default=15, help="timed steps of each phase")


def run(args: argparse.Namespace) -> list[dict]:
    """Six parts of a step for each phase of the transport, then the sum of pseudo labels and losses."""
    model = build_model(args).train()
    batch = training_batch(scene_of(args), model)
    step = Step(model, batch, args.device)
    rows = []
    for phase in (1, 2):
        model.head.transport_warmup = model.head.iteration.item() + (1 if phase == 1 else 0)
        step()  # warm-up
        step.timer.runs.clear()
        for _ in range(args.runs):
            step()
        rows += step.timer.shares(f"phase {phase}: ", _PARTS)
        rows.append(_together(f"phase {phase}: pseudo labels and losses", step.timer))
    return rows


def _together(name: str, timer: PartTimer) -> dict:
    wanted = ("pseudo labels", "losses", "backward of losses")
    merged = PartTimer()
    for times in timer.runs:
        own = sum(times[part] for part in wanted)
        merged.runs.append({"own": own, "rest": sum(times.values()) - own})
    row = merged.shares("", ["own", "rest"])[0] | {"name": name}
    return row | {"allowed_share": LARGEST_SHARE} if on_cpu(timer.device) else row


class Step:
    """One step in timed parts. Between network and losses the graph is cut: the losses read leaves, whose gradients
    then start the backward pass of the network."""

    def __init__(self, model: nn.Module, batch: list[dict], device: str):
        self.model, self.batch = model, batch
        self.timer = PartTimer(device)
        self.cuts: list[tuple[Tensor, Tensor]] = []
        self.parameters = [parameter for group in model.parameter_groups() for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6, weight_decay=1e-4)
        self.timer.wrap(model, "preprocess", "forward")
        self.timer.wrap(model.backbone, "forward", "forward")
        network = model.head.network
        self.timer.wrap(network, "encode", "forward")
        self.timer.wrap(network, "locate", "forward", self._cut_location)
        self.timer.wrap(network, "thing_masks", "forward", self._cut)
        for name in ("semantic", "embed", "stuff"):
            self.timer.wrap(network, name, "forward", lambda pair: tuple(map(self._cut, pair)))
        for name in ("_points", "_transport"):
            self.timer.wrap(model.head, name, "pseudo labels")

    def __call__(self) -> None:
        self.gradients()
        with self.timer.measure("optimiser"):
            torch.nn.utils.clip_grad_norm_(self.parameters, 0.1)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def gradients(self) -> None:
        """Forward and backward of one step."""
        timer = self.timer
        timer.start_run()
        self.cuts.clear()
        with timer.measure("all"):
            total = sum(self.model(self.batch).values())
        times = timer.runs[-1]
        times["losses"] = times.pop("all") - times["forward"] - times["pseudo labels"]
        with timer.measure("backward of losses"):
            total.backward()
        with timer.measure("backward of network"):
            outputs, leaves = zip(*((output, leaf) for output, leaf in self.cuts if leaf.grad is not None))
            torch.autograd.backward(outputs, [leaf.grad for leaf in leaves])

    def _cut(self, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        self.cuts.append((output, leaf))
        return leaf

    def _cut_location(self, location: Location) -> Location:
        # The states go on into the thing decoder, not into a loss.
        return replace(location, class_logits=self._cut(location.class_logits), boxes=self._cut(location.boxes))
