"""Losses reach the storage as means, under their iterations, and never when they are not finite."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage

from weakseg.engine.loss_log import LossLog


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def test_means_over_micro_batches_and_the_sum_are_written_under_their_iteration():
    log = LossLog()
    with EventStorage() as storage:
        log.add_data_time(0.5, 3)
        log.add(losses(a=1.0, b=10.0), ["x"], 3)
        log.add(losses(a=2.0, b=20.0), ["y"], 3)
        log.add_data_time(0.25, 4)
        log.add(losses(a=7.0, b=0.0), ["z"], 4)
        log.write(storage)
        found = {name: storage.history(name).values() for name in ("a", "b", "total_loss", "data_time")}
        log.write(storage)
        assert len(storage.history("a").values()) == 2
    assert found == {
        "a": [(1.5, 3), (7.0, 4)],
        "b": [(15.0, 3), (0.0, 4)],
        "total_loss": [(16.5, 3), (7.0, 4)],
        "data_time": [(0.5, 3), (0.25, 4)],
    }


def test_loss_that_a_micro_batch_lacks_counts_as_zero():
    log = LossLog()
    with EventStorage() as storage:
        log.add_data_time(0.0, 0)
        log.add(losses(a=1.0), ["x"], 0)
        log.add(losses(a=1.0, b=8.0), ["y"], 0)
        log.write(storage)
        assert storage.history("b").values() == [(4.0, 0)]


def test_longest_wait_and_mean_loss_of_the_ranks_are_written(monkeypatch):
    others = iter([{0: {"a": 3.0}}, {0: 9.0}])
    monkeypatch.setattr("weakseg.engine.loss_log.comm.gather", lambda mine: [mine, next(others)])
    log = LossLog()
    with EventStorage() as storage:
        log.add_data_time(2.0, 0)
        log.add(losses(a=1.0), ["x"], 0)
        log.write(storage)
        assert storage.history("a").values() == [(2.0, 0)]
        assert storage.history("data_time").values() == [(9.0, 0)]


def test_only_the_main_process_writes(monkeypatch):
    monkeypatch.setattr("weakseg.engine.loss_log.comm.is_main_process", lambda: False)
    log = LossLog()
    with EventStorage() as storage:
        log.add_data_time(2.0, 0)
        log.add(losses(a=1.0), ["x"], 0)
        log.write(storage)
        assert not storage.histories()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_refused_with_its_images(value):
    log = LossLog()
    log.add(losses(a=1.0, b=2.0), ["good.jpg"], 6)
    with pytest.raises(FloatingPointError) as error:
        log.add(losses(a=1.0, b=value), ["p.jpg", "q.jpg"], 7)
    assert str(error.value) == (
        f"iteration 7: expected finite losses; found b = {value} on the images p.jpg, q.jpg. "
        "Look at their labels, or lower SOLVER.BASE_LR."
    )


def test_graph_is_not_kept():
    log = LossLog()
    log.add(losses(a=1.0), ["x"], 0)
    assert not any(entry.values.requires_grad for entry in log._entries)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_loss_is_looked_at_one_batch_later():
    log = LossLog()
    log.add({"a": torch.tensor(math.nan, device="cuda")}, ["x.jpg"], 0)
    with pytest.raises(FloatingPointError, match=r"iteration 0: .* a = nan on the images x.jpg"):
        log.add({"a": torch.tensor(1.0, device="cuda")}, ["y.jpg"], 1)
