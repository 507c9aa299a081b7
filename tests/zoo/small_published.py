"""Small stand-ins for published Point2Mask checkpoints, and the config that they belong to."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from tiny import CONFIGS, SHRINK, classes_only
from weakseg.engine.defaults import load_config
from weakseg.methods.point2mask.checkpoint import to_published


def small_config(folder: Path, leaf: str = "voc_r50", **changes) -> Path:
    """A config file: the published config `leaf`, shrunk. Keys of `changes` have __ for the dots."""
    cfg = load_config(CONFIGS / f"point2mask/{leaf}.yaml")
    values = SHRINK | {"MODEL.POINT2MASK.TEST.QUALITY_THRESH_STUFF": 0.0}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    cfg.merge_from_list([word for pair in values.items() for word in pair])
    path = folder / f"{leaf}.yaml"
    path.write_text(cfg.dump())
    return path


def small_model(folder: Path, config_file: Path, num_things: int = 20, num_stuff: int = 1) -> torch.nn.Module:
    """The model of a config file with random weights, also in norms and the counter."""
    cfg: CfgNode = load_config(config_file)
    cfg.DATASETS.TRAIN = (str(classes_only(folder / "classes.json", num_things, num_stuff)),)
    generator = torch.Generator().manual_seed(0)
    model = build_model(cfg).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    model.head.iteration.fill_(31752)
    return model


def published_content(model: torch.nn.Module, **meta) -> dict:
    """What the authors' training would save of `model`: prefixed names, counters of batches, an optimiser."""
    state = to_published(model.state_dict())
    for index, name in enumerate(name for name in state if name.endswith("num_batches_tracked")):
        state[name] = torch.tensor(1000 + index)
    return {
        "meta": {"epoch": 24, "iter": 31752, "mmcv_version": "1.3.9", **meta},
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    }
