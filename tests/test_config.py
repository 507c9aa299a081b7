"""The common keys: their defaults, and that a key or a value of another kind is refused."""

import pytest
from detectron2.config import CfgNode, get_cfg

from weakseg.config import add_weakseg_config
from weakseg.engine.defaults import load_config

DEFAULTS = {
    "MODEL.META_ARCHITECTURE": "WeaklySupervisedSegmenter",
    "MODEL.WEAK_HEAD.NAME": "",
    "MODEL.BACKBONE.WEIGHTS": "",
    "MODEL.TIMM.NORM": "frozen",
    "MODEL.TIMM.FREEZE_AT": 0,
    "INPUT.SUPERVISION": ("points",),
    "INPUT.EVIDENCE": (),
    "INPUT.AUGMENTATION": "resize_flip",
    "DATASETS.IMAGE_ROOT": "",
    "SOLVER.OPTIMIZER": "AdamW",
    "SOLVER.BACKBONE_MULTIPLIER": 1.0,
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.EMA.ENABLED": False,
    "TEST.INPUTS": (),
    "TEST.SHOW_DIR": "",
    "MODEL.POINT2MASK.OFFICIAL_COMPAT": False,
}


def value_of(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def with_defaults():
    cfg = get_cfg()
    add_weakseg_config(cfg)
    return cfg


def leaves(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("key", DEFAULTS)
def test_defaults_train_from_points_and_change_nothing_else(key):
    assert value_of(with_defaults(), key) == DEFAULTS[key]


def test_detectron2s_own_defaults_stay():
    cfg, plain = with_defaults(), get_cfg()
    changed = [key for key in leaves(plain) if value_of(cfg, key) != value_of(plain, key)]
    assert changed == ["MODEL.META_ARCHITECTURE"]


def test_every_config_is_its_own():
    with_defaults().SOLVER.EMA.ENABLED = True
    assert with_defaults().SOLVER.EMA.ENABLED is False


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("MODEL.WEAK_HEAD.NAMES", "MODEL.WEAK_HEAD.NAME"),
        ("INPUT.SUPERVISIONS", "INPUT.SUPERVISION"),
        ("SOLVER.EMA.DECAYS", "SOLVER.EMA.DECAY"),
        ("MODEL.POINT2MASK.OT.ITER", "MODEL.POINT2MASK.OT.ITERS"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(key, nearest, tmp_path):
    *nodes, name = key.split(".")
    text = f"{name}: 1"
    for node in reversed(nodes):
        text = f"{node}: {{{text}}}"
    (tmp_path / "config.yaml").write_text(text)
    for call in (lambda: load_config(tmp_path / "config.yaml"), lambda: load_config("", [key, "1"])):
        with pytest.raises(ValueError, match=f"found the unknown key {key}. Did you mean {nearest}?"):
            call()


def test_a_backbone_of_timm_takes_any_further_argument():
    cfg = load_config("")
    cfg.MODEL.TIMM.ARGUMENTS.merge_from_other_cfg(CfgNode({"drop_path_rate": 0.25}))
    assert cfg.MODEL.TIMM.ARGUMENTS.drop_path_rate == 0.25
    with pytest.raises(KeyError):
        cfg.MODEL.TIMM.merge_from_other_cfg(CfgNode({"DROP": 0.25}))
