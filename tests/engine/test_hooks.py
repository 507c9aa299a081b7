"""Checkpoints are saved by period and at the end, after a look at the losses."""

from types import SimpleNamespace

import pytest

from weakseg.engine.hooks import PeriodicCheckpointer


def saves(period: int, max_iter: int, first: int = 0, check=lambda: None) -> list[tuple[str, int]]:
    found = []
    checkpointer = SimpleNamespace(save=lambda name, iteration: found.append((name, iteration)))
    hook = PeriodicCheckpointer(checkpointer, period)
    for iteration in range(first, max_iter):
        hook.trainer = SimpleNamespace(iter=iteration, max_iter=max_iter, loss_log=SimpleNamespace(check=check))
        hook.after_step()
    return found


def test_every_period_and_the_end():
    assert saves(3, 8) == [("model_0000002", 2), ("model_0000005", 5), ("model_final", 7)]


def test_end_on_a_period_is_saved_once():
    assert saves(3, 6) == [("model_0000002", 2), ("model_final", 5)]


def test_period_0_saves_the_end_only():
    assert saves(0, 4) == [("model_final", 3)]


def test_period_counts_from_the_start_of_training_not_from_the_resumed_iteration():
    assert saves(4, 9, first=2) == [("model_0000003", 3), ("model_0000007", 7), ("model_final", 8)]


def test_losses_are_looked_at_before_saving():
    def check():
        raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError):
        saves(2, 4, check=check)
