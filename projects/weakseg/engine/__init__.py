"""Training and evaluation runs: config and launcher, optimiser, loop, average of the weights, checkpoints."""

from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.cli import run_command
from weakseg.engine.defaults import load_config, setup, with_seed
from weakseg.engine.ema import ModelEMA
from weakseg.engine.launch import launch, leave_process_group
from weakseg.engine.optimizer import OPTIMIZER_REGISTRY, build_gradient_clipper, build_optimizer
from weakseg.engine.trainer import Trainer

__all__ = [
    "OPTIMIZER_REGISTRY",
    "Checkpointer",
    "ModelEMA",
    "Trainer",
    "build_gradient_clipper",
    "build_optimizer",
    "describe_run",
    "launch",
    "leave_process_group",
    "load_config",
    "run_command",
    "setup",
    "with_seed",
]
