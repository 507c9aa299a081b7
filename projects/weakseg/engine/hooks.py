"""What happens around the steps of a run, besides Detectron2's own hooks."""

from __future__ import annotations

from detectron2.engine import HookBase

from weakseg.engine.checkpoint import Checkpointer


class PeriodicCheckpointer(HookBase):
    """Saves `model_<iteration>` after every `period` iterations (0: never), and `model_final` after the last one; not
    before the losses of the step were seen to be finite. For the main process."""

    def __init__(self, checkpointer: Checkpointer, period: int):
        self._checkpointer = checkpointer
        self._period = period

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if iteration + 1 >= self.trainer.max_iter:
            name = "model_final"
        elif self._period > 0 and (iteration + 1) % self._period == 0:
            name = f"model_{iteration:07d}"
        else:
            return
        self.trainer.loss_log.check()
        self._checkpointer.save(name, iteration=iteration)
