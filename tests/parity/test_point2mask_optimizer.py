"""Our configs make the published optimiser: the same parameters in the same groups, rates, schedule and clipping."""

import math
from collections import defaultdict

import torch
from detectron2.modeling import build_model

from parity.point2mask_model import data_set_of
from parity.reference import Reference, reference_files
from tiny import CONFIGS, classes_only
from weakseg.engine import build_optimizer, load_config
from weakseg.methods.point2mask.checkpoint import published_name, to_published

NO_PARAMETERS = (
    ".running_mean",
    ".running_var",
    ".num_batches_tracked",
    ".relative_position_index",
    "bbox_head._iter",
)


def published_groups(cfg, model) -> dict[str, set[str]]:
    """Published names by the kind of group, in the wording of the recorded file."""
    names = {id(parameter): published_name(name) for name, parameter in model.named_parameters()}
    groups = defaultdict(set)
    for group in build_optimizer(cfg, model).param_groups:
        rate = round(group["lr"] / cfg.SOLVER.BASE_LR, 9)
        kind = f"lr_mult={rate} weight_decay={group['weight_decay']} trainable=True"
        groups[kind] |= {names[id(parameter)] for parameter in group["params"]}
    # What is frozen is in the published optimiser, without a gradient; with us frozen norms are buffers.
    trained = set().union(*groups.values())
    frozen = {name for name in to_published(model.state_dict()) if not name.endswith(NO_PARAMETERS)} - trained
    groups[f"lr_mult=1.0 weight_decay={cfg.SOLVER.WEIGHT_DECAY} trainable=False"] = frozen
    return {kind: names for kind, names in groups.items() if names}


def check_schedule(name: str, cfg, entry: dict) -> None:
    images, gpus = data_set_of(name).training
    batch = gpus * entry["samples_per_gpu"]
    steps_per_epoch = math.ceil(images / batch)
    assert cfg.SOLVER.OPTIMIZER == "AdamW"
    assert cfg.SOLVER.BASE_LR == entry["base_lr"]
    assert cfg.SOLVER.IMS_PER_BATCH == batch
    assert cfg.SOLVER.MAX_ITER == steps_per_epoch * entry["runner"]["max_epochs"]
    assert entry["lr_config"]["policy"] == "step"
    assert list(cfg.SOLVER.STEPS) == [steps_per_epoch * epoch for epoch in entry["lr_config"]["step"]]
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.GAMMA, cfg.SOLVER.WARMUP_ITERS) == ("WarmupMultiStepLR", 0.1, 0)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE) == (True, "full_model")
    assert (clip.CLIP_VALUE, clip.NORM_TYPE) == (entry["grad_clip"]["max_norm"], entry["grad_clip"]["norm_type"])
    assert not cfg.SOLVER.EMA.ENABLED
    assert not cfg.SOLVER.AMP.ENABLED


@reference_files("point2mask", "optimizer_groups")
def test_groups_rates_schedule_and_clipping_are_the_published_ones(path, tmp_path):
    with Reference(path) as ref:
        for name in ref.keys():
            entry = ref[name]
            cfg = load_config(CONFIGS / "point2mask" / f"{name}.yaml")
            check_schedule(name, cfg, entry)
            # The groups do not depend on the number of classes.
            cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "labels.json", 2, 1)),)
            cfg.MODEL.DEVICE = "meta"
            cfg.MODEL.BACKBONE.WEIGHTS = ""
            with torch.device("meta"):
                groups = published_groups(cfg, build_model(cfg))
            if "groups" in entry:
                assert groups == {kind: set(names) for kind, names in entry["groups"].items()}
            else:
                assert {kind: len(names) for kind, names in groups.items()} == entry["group_sizes"]
