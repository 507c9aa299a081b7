"""Two gloo processes train both stages of SPML as one process with the same global batch does."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from methods.spml.small_runs import SIZE, small_config, small_data

from weakseg.engine.launch import launch
from weakseg.engine.trainer import Trainer
from weakseg.safe_io import write_png

STEPS, MICRO_BATCHES = 2, 2
STAGES = {
    "voc": ("voc_point", {"MODEL__BACKBONE__FREEZE_AT": 2, "INPUT__EVIDENCE": ("semantic", "regions")}),
    # Pyramid pooling, whose norms see few cells; colours; propagated labels.
    "densepose": ("densepose_point_affinity", {"MODEL__BACKBONE__FREEZE_AT": 2, "MODEL__SPML__MEMORY_BANK": 1}),
    "classifier": ("voc_point_classifier", {"MODEL__BACKBONE__FREEZE_AT": 5}),
}
"""Config and changes; the classifier stage starts from the first."""
FROZEN = {
    "voc": ("backbone.stem.", "backbone.res2."),
    "densepose": ("backbone.stem.", "backbone.res2."),
    "classifier": ("backbone.", "head.network.embedding_head."),
}
COLORS = "head.network.colors.smooth_kernel.weight"


@contextmanager
def double_precision() -> Iterator[None]:
    """In float32 rounding soon moves a pixel to another cluster, or across a ReLU, and the runs part."""
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def train(label_file: Path, folder: Path) -> None:
    """Run each stage; what each process then has lies in `folder`/RANK.pth."""
    with double_precision():
        found = {stage: train_stage(stage, label_file, folder) for stage in STAGES}
    torch.save(found, folder / f"{rank()}.pth")


def train_stage(stage: str, label_file: Path, folder: Path) -> dict:
    """Losses of every micro-batch, the mean over the processes; state before and after."""
    name, changes = STAGES[stage]
    changes = changes | {"INPUT__SEMANTIC_ROOT": str(label_file.parent / "semantic")}
    if stage == "classifier":
        changes = changes | {"MODEL__WEIGHTS": str(folder / "voc/model_final.pth")}
    run = {"SOLVER__MAX_ITER": STEPS, "SOLVER__IMS_PER_BATCH": 4, "SOLVER__ACCUMULATE": MICRO_BATCHES}
    trainer = Trainer(small_config(label_file, folder / stage, name, **run, **changes))
    trainer.resume_or_load(False)
    start = {key: value.clone() for key, value in trainer.module.state_dict().items()}
    losses = noted_losses(trainer)
    trainer.train()
    return {"losses": losses, "start": start, "end": trainer.module.state_dict()}


def rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def noted_losses(trainer: Trainer) -> list[dict]:
    """Filled in training: a dict each micro-batch."""
    noted: list[dict] = []
    original = trainer.loss_log.add

    def add(losses, *others):
        values = torch.stack([losses[name].detach() for name in sorted(losses)])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(values)
            values /= torch.distributed.get_world_size()
        noted.append(dict(zip(sorted(losses), values.tolist())))
        return original(losses, *others)

    trainer.loss_log.add = add
    return noted


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("runs")
    label_file = small_data(folder, background=True, count=6)
    (folder / "semantic").mkdir()
    for number, path in enumerate(sorted((folder / "train").glob("*.png"))):
        # Images with and without a tag in common, and as many labelled pixels as the number says; the first has none.
        labels = np.full((SIZE, SIZE), 254, np.uint8)
        labels[: 4 * number, :20], labels[: 4 * number, 20:40] = 0, 1 + number % 3
        write_png(folder / "semantic" / path.name, labels)
    for name, processes in (("one", 1), ("two", 2)):
        (folder / name).mkdir()
        launch(train, processes, dist_url=f"file://{folder}/rendezvous", args=(label_file, folder / name))
    files = [folder / "one/0.pth", folder / "two/0.pth", folder / "two/1.pth"]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_equal_one(runs, stage):
    one, *two = (run[stage] for run in runs)
    assert len(one["losses"]) == STEPS * MICRO_BATCHES
    for losses in one["losses"]:
        assert all(math.isfinite(value) for value in losses.values())
    for name in one["losses"][0]:
        assert any(losses[name] > 0 for losses in one["losses"]), name
    for part in two:
        for found, expected in zip(part["losses"], one["losses"], strict=True):
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert part["end"].keys() == one["end"].keys()
        for name, start in one["start"].items():
            torch.testing.assert_close(part["start"][name], start, rtol=1e-9, atol=1e-12)
            # Of weights and statistics the change is compared, as the first is small.
            expected, found = one["end"][name], part["end"][name]
            scale = float((expected - start).abs().max()) if expected.shape == start.shape and start.numel() else 1.0
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-7 * scale + 1e-12, msg=name)


def test_the_right_tensors_were_trained(runs):
    """Without which equal runs would show little."""
    for stage in STAGES:
        start, end = runs[0][stage]["start"], runs[0][stage]["end"]
        same = {
            name for name, value in start.items() if value.shape == end[name].shape and torch.equal(value, end[name])
        }
        weights = {name for name in start if name.split(".")[-1] in ("weight", "bias")}
        frozen = {name for name in weights if name.startswith(FROZEN[stage])} | (same & {COLORS})
        assert same & weights == frozen, stage
        statistics = {name for name in start if name.endswith("running_mean")}
        still = {name for name in statistics if stage == "classifier" and name.startswith(FROZEN[stage])}
        assert same & statistics == still, stage


def test_the_memory_holds_the_prototypes_of_both(runs):
    for stage, iterations in (("voc", [0, 1]), ("densepose", [0])):
        rows = runs[0][stage]["end"]["head.criterion.memory._extra_state"]
        assert rows[:, 0].unique().tolist() == iterations
