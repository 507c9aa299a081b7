"""Small stand-ins for published SPML checkpoints, and the config that they belong to."""

from pathlib import Path

import torch
from detectron2.modeling import build_model

from tiny import SHRINK, classes_only
from weakseg.engine.defaults import load_config
from weakseg.methods.spml.checkpoint import split_parts, to_published
from weakseg.weights import without_extra_state

VOC, DENSEPOSE = "weakseg_voc_2012_train_aug_sem_seg", "weakseg_densepose_2014_train_sem_seg"
STAGES = ("SPMLHead", "SPMLClassifierHead")


def small_config(folder: Path, stage: str = "SPMLClassifierHead", data: str = VOC, **changes) -> Path:
    """A config file of a small network. stage: head; data: VOC and DensePose have their own networks. Keys of `changes`
    have __ for the dots."""
    network = {"HEAD": "pspnet", "LOCAL_FEATURES": "position_color"} if data == DENSEPOSE else {"HEAD": "deeplab"}
    values = SHRINK | {
        "MODEL.META_ARCHITECTURE": "WeaklySupervisedSegmenter",
        "MODEL.WEAK_HEAD.NAME": stage,
        "MODEL.BACKBONE.NAME": "build_deep_stem_resnet_backbone",
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.NORM": "SyncBN",
        "MODEL.RESNETS.OUT_FEATURES": ("res5",),
        "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
        "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
        **{f"MODEL.SPML.{key}": value for key, value in network.items()},
        "MODEL.SPML.EMBEDDING_DIM": 4,
        "MODEL.SPML.TEST.IMAGE_SIZE": 64,
        "MODEL.SPML.TEST.CROP_SIZE": 64,
        "MODEL.SPML.TEST.STRIDE": 64,
        "INPUT.FORMAT": "RGB",
        "INPUT.SUPERVISION": ("points",),
        "INPUT.EVIDENCE": ("regions",),
        "INPUT.REGION_ROOT": "regions",
        "DATASETS.TRAIN": (data,),
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    cfg = load_config("", [word for pair in values.items() for word in pair])
    path = folder / f"{stage}_{data}.yaml"
    path.write_text(cfg.dump())
    return path


def small_model(folder: Path, config_file: Path, num_classes: int = 21) -> torch.nn.Module:
    """The model of a config file with random weights, also in norms, and something in its memory bank."""
    cfg = load_config(config_file)
    cfg.DATASETS.TRAIN = (str(classes_only(folder / f"{num_classes}.json", 0, num_classes)),)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    state = model.state_dict()
    for number, (name, value) in enumerate(without_extra_state(state).items()):
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            # Large in the classifier, so that pixels differ in class.
            value.add_((1.0 if "classifier" in name else 0.1) * torch.randn(value.shape, generator=generator))
        else:
            value.fill_(number)
    for name in state.keys() - without_extra_state(state).keys():
        state[name] = torch.rand(3, state[name].shape[1], generator=generator).round()
    model.load_state_dict(state)
    return model


def published_content(model: torch.nn.Module) -> dict:
    """What the authors' training would save of `model`."""
    return split_parts(to_published(without_extra_state(model.state_dict())))
