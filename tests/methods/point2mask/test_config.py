"""Every key of Point2Mask reaches exactly the argument that it is for."""

import inspect
from dataclasses import asdict

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from torch import nn

from tiny import classes_only
from weakseg.config import add_weakseg_config
from weakseg.methods.point2mask.config import (
    add_point2mask_config,
    criterion_arguments,
    network_arguments,
    transport_arguments,
)
from weakseg.methods.point2mask.criterion import Criterion
from weakseg.methods.point2mask.head import Point2MaskHead
from weakseg.methods.point2mask.network import Point2MaskNetwork
from weakseg.methods.point2mask.pseudo_labels import make_pseudo_labels

NETWORK = {
    key: key.lower()
    for key in "HIDDEN_DIM FFN_DIM NUM_HEADS NUM_POINTS ENC_LAYERS DEC_LAYERS NUM_QUERIES DROPOUT THING_LAYERS "
    "STUFF_LAYERS SEMANTIC_LAYERS EMBED_DIM GRADIENT_CHECKPOINTING".split()
}
CRITERION = {
    "TEMPERATURE": "temperature",
    "LOSS_RAMP_ITERS": "ramp_iters",
    "LOSS.CLASS_WEIGHT": "weights.classification",
    "LOSS.BOX_WEIGHT": "weights.box",
    "LOSS.GIOU_WEIGHT": "weights.giou",
    "LOSS.MASK_WEIGHT": "weights.mask",
    "LOSS.STUFF_CLASS_FACTOR": "weights.stuff_class_factor",
    "LOSS.COLOR_WEIGHT": "weights.color",
    "LOSS.TREE_WEIGHT": "weights.tree",
    "OFFICIAL_COMPAT": "official",
}
TRANSPORT = {
    "GRAPH.STRIDE": "stride",
    "OT.EPS": "epsilon",
    "OT.ITERS": "iterations",
    "GRAPH.LAMBDA_PROB": "lambda_probability",
    "GRAPH.LAMBDA_BOUNDARY": "lambda_boundary",
    "GRAPH.LAMBDA_FEATURE": "lambda_feature",
}
HEAD = {
    "IN_FEATURES": "in_features",
    "GRAPH.LOW_LEVEL_EDGES": "low_level_edges",
    "POINT_DILATION": "point_dilation",
    "OT.WARMUP_ITERS": "transport_warmup",
    "TEST.TOPK": "topk",
    "TEST.QUALITY_THRESH_THING": "quality_thresholds.0",
    "TEST.QUALITY_THRESH_STUFF": "quality_thresholds.1",
    "TEST.OVERLAP_THRESH_THING": "overlap_thresholds.0",
    "TEST.OVERLAP_THRESH_STUFF": "overlap_thresholds.1",
    "TEST.SEMANTIC": "with_semantic",
    "OFFICIAL_COMPAT": "official",
} | {key: f"transport.{argument}" for key, argument in TRANSPORT.items()}
EDGES = {"GRAPH.EDGE_MODEL"}
"""Read with LOW_LEVEL_EDGES alone."""


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_weakseg_config(cfg)
    return cfg


def keys_of(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def change(cfg, key):
    """Give the key another value of its type, and return that."""
    *nodes, name = key.split(".")
    node = cfg.MODEL.POINT2MASK
    for part in nodes:
        node = node[part]
    old = node[name]
    if isinstance(old, tuple):
        node[name] = ("res2", *old[1:])
    elif isinstance(old, str):
        node[name] = f"{old}other"
    else:
        node[name] = not old if isinstance(old, bool) else 2 * old + 1
    return node[name]


def flat(arguments, prefix=""):
    """Names with dots -> plain values; modules left out."""
    result = {}
    for name, value in arguments.items():
        if hasattr(value, "__dataclass_fields__"):
            value = asdict(value)
        if isinstance(value, tuple) and all(isinstance(part, float) for part in value):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, nn.Module):
            result[f"{prefix}{name}"] = value
    return result


def changed(before, after):
    assert before.keys() == after.keys()
    return {name: after[name] for name in before if before[name] != after[name]}


def test_every_key_has_a_reader():
    cfg = get_cfg()
    add_point2mask_config(cfg)
    assert set(keys_of(cfg.MODEL.POINT2MASK)) == set(NETWORK) | set(CRITERION) | set(TRANSPORT) | set(HEAD) | EDGES


@pytest.mark.parametrize(
    ("arguments", "table"),
    [(network_arguments, NETWORK), (criterion_arguments, CRITERION), (transport_arguments, TRANSPORT)],
)
def test_a_key_changes_its_argument_and_no_other(arguments, table, cfg):
    for key in keys_of(cfg.MODEL.POINT2MASK):
        other = cfg.clone()
        value = change(other, key)
        expected = {table[key]: value} if key in table else {}
        assert changed(flat(arguments(cfg)), flat(arguments(other))) == expected, key


@pytest.mark.parametrize(
    ("arguments", "receiver", "given_elsewhere"),
    [
        (network_arguments, Point2MaskNetwork, {"in_channels", "num_things", "num_stuff"}),
        (criterion_arguments, Criterion, {"num_things", "num_stuff"}),
        (transport_arguments, make_pseudo_labels, {"num_things", "phase", "edges", "official"}),
    ],
)
def test_what_receives_the_arguments_gets_every_one(arguments, receiver, given_elsewhere, cfg):
    parameters = inspect.signature(receiver).parameters.values()
    if receiver is make_pseudo_labels:
        parameters = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    assert set(arguments(cfg)) == {parameter.name for parameter in parameters} - given_elsewhere


def test_the_criterion_undoes_the_normalisation_of_the_images(cfg):
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], "RGB"
    found = criterion_arguments(cfg)
    assert found["pixel_mean"] == [1.0, 2.0, 3.0] and found["pixel_std"] == [4.0, 5.0, 6.0]
    assert found["channel_order"] == "RGB"


def test_the_head_gets_the_rest(cfg, tmp_path):
    cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "labels.json", 3, 2)),)
    shapes = {f"res{k}": ShapeSpec(channels=8) for k in (2, 3, 4, 5)}

    def head(cfg):
        with torch.device("meta"):
            return flat(Point2MaskHead.from_config(cfg, shapes))

    for key in sorted(HEAD) + ["TEMPERATURE"]:
        other = cfg.clone()
        value = change(other, key)
        assert changed(head(cfg), head(other)) == ({HEAD[key]: value} if key in HEAD else {}), key
    cfg.INPUT.SUPERVISION, cfg.SOLVER.BACKBONE_MULTIPLIER = ("masks",), 0.5
    found = head(cfg)
    assert (found["num_things"], found["num_stuff"]) == (3, 2)
    assert found["from_masks"] is True and found["backbone_multiplier"] == 0.5


@pytest.mark.parametrize(("channel_order", "official"), [("RGB", False), ("RGB", True), ("BGR", False)])
def test_edges_are_prepared_where_a_forest_is_named(cfg, tmp_path, channel_order, official):
    cfg.DATASETS.TRAIN = (str(classes_only(tmp_path / "labels.json", 3, 2)),)
    cfg.INPUT.FORMAT, cfg.MODEL.POINT2MASK.OFFICIAL_COMPAT = channel_order, official
    shapes = {f"res{k}": ShapeSpec(channels=8) for k in (3, 4, 5)}
    graph = cfg.MODEL.POINT2MASK.GRAPH

    def prepare():
        with torch.device("meta"):
            return Point2MaskHead.from_config(cfg, shapes)["prepare"]

    assert prepare() is None
    graph.LOW_LEVEL_EDGES = True
    assert prepare() is None
    graph.EDGE_MODEL = "forest.yml.gz"
    made = prepare()
    assert made.forest_path == "forest.yml.gz" and made.is_reversed == ((channel_order == "BGR") != official)
    cfg.INPUT.SUPERVISION = ("masks",)
    assert prepare() is None
    cfg.INPUT.SUPERVISION, cfg.INPUT.EVIDENCE = ("points",), ("edges",)
    with pytest.raises(ValueError, match="EDGE_MODEL: .*; found with the evidence edges"):
        prepare()
    cfg.INPUT.EVIDENCE, graph.LOW_LEVEL_EDGES = (), False
    with pytest.raises(ValueError, match="EDGE_MODEL: .*; found without LOW_LEVEL_EDGES"):
        prepare()
