"""The contract of a head: which configs are refused, and what a head has that defines nothing itself."""

import pytest
from detectron2.config import get_cfg
from torch import nn

from weakseg.config import add_weakseg_config
from weakseg.heads import WEAK_HEAD_REGISTRY, WeakHead, build_weak_head
from weakseg.labels import LabelKind


@pytest.fixture
def registered():
    """A head that keeps its arguments, as "KeepingHead"."""

    class KeepingHead(WeakHead):
        accepts = frozenset({LabelKind.POINTS, LabelKind.TAGS})

        def __init__(self, cfg, input_shape):
            super().__init__()
            self.cfg, self.input_shape = cfg, input_shape

    WEAK_HEAD_REGISTRY.register(KeepingHead)
    yield KeepingHead
    del WEAK_HEAD_REGISTRY._obj_map["KeepingHead"]


def config(name, *supervision):
    cfg = get_cfg()
    add_weakseg_config(cfg)
    cfg.MODEL.WEAK_HEAD.NAME, cfg.INPUT.SUPERVISION = name, supervision
    return cfg


@pytest.mark.parametrize("supervision", [(), ("points",), ("tags", "points")])
def test_a_head_is_built_by_name(registered, supervision):
    cfg, shape = config("KeepingHead", *supervision), {"res2": object()}
    head = build_weak_head(cfg, shape)
    assert type(head) is registered and head.cfg is cfg and head.input_shape is shape


@pytest.mark.parametrize("name", ["", "keepinghead", "WeakHead"])
def test_an_unknown_name_is_refused_with_the_known_ones(registered, name):
    with pytest.raises(ValueError) as error:
        build_weak_head(config(name, "points"), {})
    known = ", ".join(sorted(head for head, _ in WEAK_HEAD_REGISTRY))
    assert "KeepingHead, Point2MaskHead" in known
    assert str(error.value) == f"MODEL.WEAK_HEAD.NAME: expected one of {known}; found {name!r}. Choose one of them."


def test_supervision_that_the_head_cannot_use_is_refused(registered):
    with pytest.raises(ValueError) as error:
        build_weak_head(config("KeepingHead", "points", "scribbles", "masks"), {})
    assert str(error.value) == (
        "INPUT.SUPERVISION: KeepingHead learns from points, tags; found masks, scribbles. "
        "Remove the others, or choose a method that uses them."
    )


def test_a_head_without_groups_of_its_own_trains_everything_alike():
    model = nn.Module()
    model.backbone, model.head = nn.Linear(2, 3), WeakHead()
    model.head.again = model.backbone  # shared parameters count once
    model.head.other = nn.Linear(3, 1, bias=False)
    model.backbone.bias.requires_grad_(False)
    (group,) = model.head.parameter_groups(model)
    assert [id(p) for p in group["params"]] == [id(model.backbone.weight), id(model.head.other.weight)]
    assert (group["lr_mult"], group["decay_mult"]) == (1.0, 1.0)


def test_what_every_method_must_define_is_said_and_the_rest_does_nothing():
    head = WeakHead()
    for name, arguments in (
        ("losses", ({}, None, [])),
        ("forward", ({}, None, [])),
        ("finish", ([], [])),
        ("pseudo_labels", ({}, None, [])),
    ):
        with pytest.raises(NotImplementedError):
            getattr(head, name)(*arguments)
    assert head.prepare is None
    model = nn.Sequential(nn.Dropout(), head)
    head.set_train_mode(model.train())
    head.after_step()
    assert all(module.training for module in model.modules()) and not [*head.state_dict()]
