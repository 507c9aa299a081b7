"""The training loop: Detectron2's hooks and method names around a step with accumulation, mixed precision and EMA."""

from __future__ import annotations

import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, create_ddp_model
from detectron2.engine.defaults import default_writers
from detectron2.engine.hooks import EvalHook, IterationTimer, LRScheduler, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, EventWriter
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from weakseg.data import (
    WeakMapper,
    build_test_loader,
    build_train_loader,
    class_counts,
    dataset_metadata,
    dataset_names,
    metadata_of,
)
from weakseg.data.catalog import EVALUATOR_TYPES
from weakseg.engine.caffe_sgd import build_lr_scheduler
from weakseg.engine.checkpoint import Checkpointer, describe_run
from weakseg.engine.defaults import with_seed, write_config
from weakseg.engine.ema import ModelEMA
from weakseg.engine.hooks import PeriodicCheckpointer
from weakseg.engine.loss_log import LossLog
from weakseg.engine.optimizer import build_gradient_clipper, build_optimizer
from weakseg.evaluation import build_evaluator
from weakseg.heads import WEAK_HEAD_REGISTRY, WeakHead
from weakseg.weights import check_background

logger = logging.getLogger(__name__)

LOG_PERIOD = 20
"""Iterations between two lines of the log."""


class Trainer(TrainerBase):
    """Trains the model of a config. The `build_*` methods and `test` may be overridden, as in `DefaultTrainer`.

    A step takes this rank's share of `SOLVER.IMS_PER_BATCH` images in `SOLVER.ACCUMULATE` parts and makes one update; N
    processes make the update of one process with the same global batch.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.cfg = cfg = with_seed(cfg)
        _check_classes(cfg)
        seed_all_rng(cfg.SEED)  # the same fresh weights and buffers on all ranks
        self.module = self.build_model(cfg)
        seed_all_rng(cfg.SEED + comm.get_rank())  # dropout
        self.head = cast(WeakHead, self.module.head)
        self.device = next(self.module.parameters()).device
        self.optimizer = self.build_optimizer(cfg, self.module)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.model = _distributed(self.module, self.device)
        self.ema = ModelEMA(self.module, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.loss_log = LossLog()
        self._clip = build_gradient_clipper(cfg)
        self._dtype = _autocast_dtype(cfg, self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype is torch.float16)
        self.checkpointer = Checkpointer(
            self.module,
            cfg.OUTPUT_DIR,
            description=describe_run(cfg),
            optimizer=self.optimizer,
            trainer=weakref.proxy(self),
            **({} if self.ema is None else {"ema": self.ema}),
        )
        self._results: dict = {}
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint of OUTPUT_DIR when `resume` and it has one; else start from MODEL.WEIGHTS."""
        if "iteration" in self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume):
            self.start_iter = self.iter + 1
        else:
            self.head.start_anew()
        if self.ema is not None and self.ema.updates == 0:
            self.ema.reset(self.module)

    def train(self) -> dict:
        """Run from `start_iter` to `max_iter`, with OUTPUT_DIR/config.yaml; returns the last evaluation's results."""
        self.iter = self.start_iter
        self._batches = iter(self.build_train_loader(self.cfg, prepare=self.head.prepare, start=self.start_iter))
        write_config(self.cfg, self.cfg.OUTPUT_DIR)
        self.model.train()
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
                self._batches = iter(())  # the loader's workers end before the evaluation's start
                self.after_train()
            except BaseException:
                self._stop_after_error()
                raise
        return self._results

    def _stop_after_error(self) -> None:
        """End the loader's workers and close the writers; nothing is evaluated."""
        self._batches = iter(())
        for hook in self._hooks:
            if isinstance(hook, PeriodicWriter):
                hook.after_train()

    def run_step(self) -> None:
        started = time.perf_counter()
        batch = next(self._batches)
        self.loss_log.add_data_time(time.perf_counter() - started, self.iter)
        self.optimizer.zero_grad()
        parts = self.cfg.SOLVER.ACCUMULATE
        size = len(batch) // parts
        for part in range(parts):
            # Gradients travel between processes once a step, with the last part.
            with nullcontext() if part == parts - 1 else self._each_for_itself():
                self._scaler.scale(self._loss(batch[part * size : (part + 1) * size]) / parts).backward()
        self.after_backward()
        self._scaler.unscale_(self.optimizer)
        if self._clip is not None:
            self._clip(parameter for group in self.optimizer.param_groups for parameter in group["params"])
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.head.after_step()
        if self.ema is not None:
            self.ema.update(self.module)
        if (self.iter + 1) % LOG_PERIOD == 0 or self.iter + 1 == self.max_iter:
            self.loss_log.write(self.storage)

    def _each_for_itself(self) -> AbstractContextManager:
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _loss(self, batch: list[dict]) -> Tensor:
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
            losses = self.model(batch)
        self.loss_log.add(losses, [sample["file_name"] for sample in batch], self.iter)
        return sum(losses.values())

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self._scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if state_dict["grad_scaler"]:
            self._scaler.load_state_dict(state_dict["grad_scaler"])

    def build_hooks(self) -> list:
        """Timer, learning rate, checkpoints, evaluation, writers, in this order."""
        cfg = self.cfg
        hooks = [IterationTimer(), LRScheduler()]
        if comm.is_main_process():
            hooks.append(PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
        if cfg.DATASETS.TEST:
            hooks.append(EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate))
        if comm.is_main_process():
            hooks.append(PeriodicWriter(self.build_writers(), period=LOG_PERIOD))
        return hooks

    def build_writers(self) -> list[EventWriter]:
        """Log lines, metrics.json and TensorBoard files in OUTPUT_DIR."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def _evaluate(self) -> dict:
        self._results = self.test_with_average(self.cfg, self.module, self.ema)
        return self._results

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        numbers = sum(parameter.numel() for parameter in model.parameters())
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        logger.info(
            "%s: %.2f million numbers, %.2f trainable", cfg.MODEL.WEAK_HEAD.NAME, numbers / 1e6, trainable / 1e6
        )
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, *, prepare: Callable[[dict], dict] | None = None, start: int = 0):
        """Endless lists of samples. prepare: the head's function of a sample; start: batches to skip."""
        return build_train_loader(cfg, WeakMapper(cfg, True, prepare=prepare), start=start)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str, *, prepare: Callable[[dict], dict] | None = None):
        """Lists of one sample. prepare: the head's function of a sample, where labels are to be grown."""
        return build_test_loader(cfg, dataset_name, WeakMapper(cfg, False, prepare=prepare))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: Path) -> DatasetEvaluator:
        gives = WEAK_HEAD_REGISTRY.get(cfg.MODEL.WEAK_HEAD.NAME).gives
        return build_evaluator(cfg, dataset_name, output_folder, gives=gives)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, *, folder: str = "inference") -> dict:
        """Results of `model` on each of DATASETS.TEST (of the only one, where there is one); empty on all but the main
        process. Files go to OUTPUT_DIR/`folder`/<data set>."""
        results = OrderedDict()
        for name in dataset_names(cfg, "test"):
            evaluator = cls.build_evaluator(cfg, name, Path(cfg.OUTPUT_DIR, folder, Path(name).stem))
            results[name] = inference_on_dataset(model, cls.build_test_loader(cfg, name), evaluator)
            if comm.is_main_process() and results[name]:
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @classmethod
    def test_with_average(cls, cfg: CfgNode, model: nn.Module, ema: ModelEMA | None) -> dict:
        """`test`, and where there is an average the same with it under the key "ema"."""
        results = cls.test(cfg, model)
        if ema is not None:
            with ema.applied_to(model):
                results = {**results, "ema": cls.test(cfg, model, folder="inference_ema")}
        return results

    @classmethod
    def evaluate(cls, cfg: CfgNode, *, resume: bool = False) -> dict:
        """Test a checkpoint without training: the last one of OUTPUT_DIR when `resume`, else MODEL.WEIGHTS. The config
        is left in OUTPUT_DIR/inference/config.yaml."""
        given, cfg = cfg, cfg.clone()
        cfg.defrost()
        cfg.MODEL.BACKBONE.WEIGHTS = ""  # the checkpoint holds the backbone too
        cfg.DATASETS.TRAIN = ()  # the classes are those of the test set; the training set may be absent
        _check_classes(cfg)
        model = cls.build_model(cfg)
        ema = ModelEMA(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, description=describe_run(cfg), **({} if ema is None else {"ema": ema})
        )
        path = checkpointer.get_checkpoint_file() if resume else cfg.MODEL.WEIGHTS
        if not path:
            where = f"{cfg.OUTPUT_DIR}/last_checkpoint" if resume else "MODEL.WEIGHTS"
            raise ValueError(f"--eval-only: expected a checkpoint in {where}; found none. Set MODEL.WEIGHTS to a file.")
        checkpointer.load(path)
        write_config(given, Path(cfg.OUTPUT_DIR, "inference"))
        return cls.test_with_average(cfg, model, ema if ema is not None and ema.updates else None)


def _check_classes(cfg: CfgNode) -> None:
    """Refuse test sets of other classes before any time is spent."""
    expected = metadata_of(cfg)
    for name in dataset_names(cfg, "test"):
        found = dataset_metadata(name)
        # The truth of a semantic test set does not tell things from stuff.
        same = sum if found.get("evaluator_type") == EVALUATOR_TYPES["sem_seg"] else tuple
        if same(class_counts(found)) != same(class_counts(expected)):
            raise ValueError(
                f"DATASETS.TEST: expected {name} to have the {class_counts(expected)[0]} thing and "
                f"{class_counts(expected)[1]} stuff classes of {expected.name}; found {class_counts(found)[0]} and "
                f"{class_counts(found)[1]}. Choose a test set of the same classes."
            )
        check_background(found.get("stuff_classes", ()), expected.get("stuff_classes", ()), f"DATASETS.TEST: {name}")


def _distributed(model: nn.Module, device: torch.device) -> nn.Module:
    """`model`, wrapped where there are several processes; device_ids must be None on the CPU."""
    devices = {} if device.type == "cuda" else {"device_ids": None}
    return create_ddp_model(model, broadcast_buffers=False, **devices)


def _autocast_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision; None where it is off. There is no float16 on the CPU."""
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.SOLVER.AMP.DTYPE not in dtypes:
        raise ValueError(
            f"SOLVER.AMP.DTYPE: expected {' or '.join(dtypes)}; found {cfg.SOLVER.AMP.DTYPE!r}. Choose one of them."
        )
    if device.type == "cpu" and cfg.SOLVER.AMP.DTYPE == "float16":
        logger.info("SOLVER.AMP.DTYPE: bfloat16, as the CPU has no float16 training.")
        return torch.bfloat16
    return dtypes[cfg.SOLVER.AMP.DTYPE]
