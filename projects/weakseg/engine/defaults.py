"""From the command line to a complete config, with loggers, device, seed and output folder."""

from __future__ import annotations

import argparse
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from weakseg import __version__
from weakseg.config import add_weakseg_config
from weakseg.config_merge import merge_content, merge_options
from weakseg.safe_io import atomic_write

logger = logging.getLogger(__name__)


def load_config(config_file: str | Path, opts: Sequence[str] = ()) -> CfgNode:
    """Detectron2's and WeakSeg's defaults, then `config_file` with its `_BASE_` files ("" for none), then `opts`:
    keys and values by turns. Only plain YAML is read. The config is not frozen."""
    cfg = get_cfg()
    add_weakseg_config(cfg)
    if config_file:
        merge_content(cfg, _read_config(Path(config_file)), f"{config_file} (or its _BASE_)")
    merge_options(cfg, opts)
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of `args` (config_file, opts, eval_only) for this machine, ready to run: device and seed are
    decided, OUTPUT_DIR exists, loggers write to it. What an earlier run left there stays as it is."""
    cfg = load_config(args.config_file, args.opts)
    no_gpu = cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available()
    if no_gpu:
        cfg.MODEL.DEVICE = "cpu"
    cfg = with_seed(cfg)
    for name in ("detectron2", "fvcore", "weakseg"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name, abbrev_name=name)
        # Detectron2 cuts its loggers off; handlers of an application (a notebook, pytest) shall hear them too.
        logging.getLogger(name).propagate = True
    if no_gpu:
        logger.info("No GPU found: %s on the CPU", "evaluating" if args.eval_only else "training")
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    logger.info(
        "WeakSeg %s, torch %s, %d process(es), device %s, seed %d, config %s, output %s",
        *(__version__, torch.__version__, comm.get_world_size(), cfg.MODEL.DEVICE, cfg.SEED),
        *(args.config_file or "(defaults)", cfg.OUTPUT_DIR),
    )
    cfg.freeze()
    return cfg


def setup_with_labels(args: argparse.Namespace, *, purpose: str) -> CfgNode:
    """`setup` for a command that shows the labels of one data set to a trained network: that is the training set, and
    the network sees of it what it was trained with. Not frozen.

    args: config_file, opts, dataset ("" or None: the config's own) and output. purpose: "to draw", for errors.
    """
    dataset = ["DATASETS.TRAIN", f"({args.dataset!r},)"] if args.dataset else []
    args.opts += [*dataset, "MODEL.BACKBONE.WEIGHTS", "", "OUTPUT_DIR", str(args.output)]
    args.eval_only = True
    cfg = setup(args).clone()
    cfg.defrost()
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS: expected a checkpoint; found none. Add it after all options.")
    if len(cfg.DATASETS.TRAIN) != 1:
        found = ", ".join(cfg.DATASETS.TRAIN) or "none"
        raise ValueError(f"DATASETS.TRAIN: expected one data set {purpose}; found {found}. Name one with --dataset.")
    cfg.TEST.INPUTS = (*cfg.INPUT.SUPERVISION, "proposals")
    return cfg


def write_config(cfg: CfgNode, folder: str | Path) -> None:
    """Leave `cfg` in `folder`/config.yaml, from the main process."""
    if comm.is_main_process():
        with atomic_write(Path(folder, "config.yaml")) as temporary:
            temporary.write_text(cfg.dump())


def with_seed(cfg: CfgNode) -> CfgNode:
    """`cfg` where SEED >= 0; else a copy with a seed that all processes share. Collective when SEED < 0."""
    if cfg.SEED >= 0:
        return cfg
    frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = comm.all_gather(secrets.randbelow(2**31))[0]
    if frozen:
        cfg.freeze()
    logger.info("SEED %d was drawn", cfg.SEED)
    return cfg


def _read_config(path: Path) -> dict:
    try:
        content = CfgNode.load_yaml_with_base(str(path), allow_unsafe=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Config: expected a file {error.filename}; found none (config {path}). Check --config-file and _BASE_."
        ) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: expected plain YAML; found {reason}. Remove Python tags and correct the syntax."
        ) from None
    except (TypeError, AssertionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys and values as in the files of configs/; found no such thing there.")
    return content
