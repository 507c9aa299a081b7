"""What of a config reaches which part: the table of the card for every config, and one sentence for bad ones."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from methods.spml.small_runs import model_of, sample_of, small_config, small_data

from tiny import CONFIGS
from weakseg.engine.defaults import load_config
from weakseg.labels import ClassOrder
from weakseg.methods.spml.build import (
    check_numbers,
    criterion_of,
    labeller_arguments,
    network_of,
    predictor_arguments,
)
from weakseg.methods.spml.criterion import Relation

VOC = ClassOrder.of((*(f"class {k}" for k in range(20)), "background"))
DENSEPOSE = ClassOrder.of(("background", *(f"part {k}" for k in range(14))))
FEATURE = ShapeSpec(channels=2048, stride=8)
# Card 3.12: channels, grid, memory; kappa and weight of the annotated class, tags, regions and affinity.
TABLE = {
    "voc_tag": (64, 6, 2, (6, 0.3), (8, 0.3), (16, 0.1), None),
    "voc_box": (64, 6, 2, (6, 0.3), (8, 0.3), (16, 0.1), None),
    "voc_scribble": (64, 6, 2, (6, 1.0), (12, 0.5), (16, 0.1), None),
    "voc_point": (64, 6, 2, (6, 0.1), (8, 0.1), (16, 0.1), None),
    "densepose_point": (32, 12, 0, (6, 1.0), None, (16, 0.1), None),
    "densepose_point_affinity": (32, 12, 0, (6, 1.0), None, (16, 0.1), (12, 0.5)),
}


def load(name, **changes):
    cfg = load_config(CONFIGS / f"spml/{name}.yaml")
    cfg.merge_from_list([word for key, value in changes.items() for word in (key.replace("__", "."), value)])
    return cfg


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_the_criterion_of_each_config_is_that_of_the_card(name, official):
    channels, grid, memory, *relations = TABLE[name]
    order = DENSEPOSE if name.startswith("densepose") else VOC
    criterion = criterion_of(load(name, MODEL__SPML__OFFICIAL_COMPAT=official), order)
    found = criterion.relations
    for relation, expected in zip(
        (found.annotation, found.cooccurrence, found.image, found.affinity), relations, strict=True
    ):
        if expected is None:
            assert relation.weight == 0
        else:
            assert relation == Relation(weight=expected[1], concentration=expected[0])
    # The published weight of the pixel classifier is that of the annotated class; ours starts as that.
    assert criterion.pixel_loss_weight == relations[0][1]
    assert criterion.num_classes == len(order.class_index) == criterion.memory.num_classes
    assert (criterion.kmeans_grid, criterion.kmeans_iterations) == ((grid, grid), 10)
    assert (criterion.memory.length, criterion.memory.channels) == (memory, channels)
    assert criterion.official == official and found.affinity_threshold == 0.95
    is_densepose = name.startswith("densepose")
    assert (criterion.squeeze, found.image_of_embedding) == ((0.1, True) if is_densepose else (1.0, False))


def test_the_weight_of_the_pixel_classifier_is_its_own():
    """Fault a."""
    changes = {"MODEL__SPML__PIXEL_LOSS_WEIGHT": 0.9}
    assert criterion_of(load("voc_tag", **changes), VOC).pixel_loss_weight == 0.9
    assert criterion_of(load("voc_tag", MODEL__SPML__OFFICIAL_COMPAT=True, **changes), VOC).pixel_loss_weight == 0.3


def test_without_a_background_the_memory_has_a_tag_more():
    criterion = criterion_of(load("voc_point"), ClassOrder.of(("cat", "dog")))
    assert (criterion.num_classes, criterion.memory.num_classes) == (2, 3)


@pytest.mark.parametrize("name", [*TABLE, "voc_point_classifier", "densepose_point_classifier"])
def test_the_network_of_each_config_is_that_of_the_card(name):
    is_densepose = name.startswith("densepose")
    with torch.device("meta"):
        network = network_of(load(name), FEATURE, DENSEPOSE if is_densepose else VOC)
    head, channels, classes = ("PSPHead", 32, 15) if is_densepose else ("DeepLabHead", 64, 21)
    assert type(network.embedding_head).__name__ == head and network.scale == 2
    assert network.classifier.conv.weight.shape[:2] == (2 * channels, channels)
    assert network.classifier.predict.weight.shape[0] == classes
    assert network.classifier.dropout.p == (0.65 if name.endswith("classifier") else 0.75)
    assert (network.colors is not None) == is_densepose
    assert type(network.classifier.norm).__name__ == "SyncBatchNorm"


def test_every_key_of_prediction_reaches_its_part():
    changes = {
        "TEST__IMAGE_SIZE": 300,
        "TEST__CROP_SIZE": 200,
        "TEST__STRIDE": 150,
        "TEST__SCALES": (0.5, 2.0),
        "TEST__FLIP": True,
        "TEST__KMEANS_GRID": (5, 7),
        "TEST__KMEANS_ITERATIONS": 4,
        "TEST__TOP_K": 9,
        "TEST__CLASSIFY_AT_STRIDE_4": True,
        "PSEUDO__ALPHA": 3.0,
        "PSEUDO__WALK_STEPS": 8,
        "PSEUDO__POWER": 11,
        "PSEUDO__MIN_PEAK": 0.25,
        "PSEUDO__CRF": False,
        "OFFICIAL_COMPAT": True,
    }
    crf = {"ENABLED": True, "ITERATIONS": 5, "POS_W": 1.5, "POS_XY": 2.5, "BI_W": 3.5, "BI_XY": 4.5, "BI_RGB": 5.5}
    cfg = load(
        "voc_point",
        **{f"MODEL__SPML__{key}": value for key, value in changes.items()},
        **{f"TEST__CRF__{key}": value for key, value in crf.items()},
    )
    shared = {"num_classes": 21, "kmeans_grid": (5, 7), "kmeans_iterations": 4, "neighbours": 9, "official": True}
    expected_crf = {
        "iterations": 5,
        "gaussian_weight": 1.5,
        "gaussian_sigma": 2.5,
        "bilateral_weight": 3.5,
        "bilateral_sigma": 4.5,
        "bilateral_color_sigma": 5.5,
        "engine": cfg.TEST.CRF.ENGINE,
    }
    predictor, labeller = predictor_arguments(cfg, VOC), labeller_arguments(cfg, VOC)
    for arguments in (predictor, labeller):
        assert arguments.items() >= shared.items() and arguments["at_stride_4"] is True
        assert arguments["mean"] == pytest.approx((0.485, 0.456, 0.406))
        assert arguments["std"] == pytest.approx((0.229, 0.224, 0.225))
    assert (predictor["image_size"], predictor["scales"], predictor["flip"]) == (300, (0.5, 2.0), True)
    tiling = predictor["tiling"]
    assert (tiling.crop_size, tiling.stride) == (labeller["crop_size"], labeller["stride"]) == (200, 150)
    keys = ("alpha", "walk_steps", "power", "min_peak")
    assert tuple(labeller[key] for key in keys) == (3.0, 8, 11, 0.25)
    assert predictor["crf"] == expected_crf and labeller["crf"] is None
    cfg.MODEL.SPML.PSEUDO.CRF, cfg.TEST.CRF.ENABLED = True, False
    assert predictor_arguments(cfg, VOC)["crf"] is None
    assert labeller_arguments(cfg, VOC)["crf"] == expected_crf


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"MODEL__SPML__PSEUDO__METHOD": "magic"}, "MODEL.SPML.PSEUDO.METHOD: expected one of .*found 'magic'"),
        ({"MODEL__SPML__TEST__PREDICTOR": "luck"}, "TEST.PREDICTOR: expected softmax or retrieval; found 'luck'"),
        ({"MODEL__SPML__HEAD": "tail"}, "MODEL.SPML.HEAD: expected deeplab or pspnet; found 'tail'"),
        ({"MODEL__SPML__LOCAL_FEATURES": "smell"}, "LOCAL_FEATURES: expected position or position_color"),
        ({"MODEL__SPML__RELATIONS__IMAGE__SOURCE": "x"}, "RELATIONS.IMAGE.SOURCE: expected located or embedding"),
        ({"MODEL__SPML__NORM": "foo"}, "MODEL.SPML.NORM: expected SyncBN or BN; found 'foo'"),
        ({"MODEL__SPML__IN_FEATURE": "res9"}, "MODEL.SPML.IN_FEATURE: expected a map of the backbone, .*found 'res9'"),
        ({"MODEL__SPML__TEST__PREDICTOR": "retrieval"}, "TEST.MEMORY: expected a folder with files .*found none in ''"),
        (
            {"MODEL__SPML__PSEUDO__CRF": True, "TEST__CRF__ENGINE": "x"},
            "^TEST.CRF.ENGINE: expected lattice or pydensecrf",
        ),
        ({"TEST__CRF__ENABLED": True, "TEST__CRF__ENGINE": "x"}, "^TEST.CRF.ENGINE: expected .*found 'x'"),
        ({"INPUT__EVIDENCE": ()}, "INPUT.EVIDENCE: expected 'regions'"),
        ({"INPUT__SUPERVISION": ("tags",)}, "INPUT.EVIDENCE: expected 'semantic' to learn from tags"),
        ({"INPUT__SUPERVISION": ("boxes", "tags")}, "expected 'semantic' to learn from boxes and tags"),
        ({"INPUT__SUPERVISION": ("expressions",)}, "SPMLHead learns from .*found expressions"),
    ],
)
def test_bad_configs_are_refused_in_one_sentence(tmp_path, changes, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        model_of(small_data(tmp_path, background=True, count=1), tmp_path, **changes)


GOOD_AND_BAD = {
    "EMBEDDING_DIM": ((1,), (0,)),
    "DILATIONS": (((1, 2, 3, 4),), ((0, 6, 12, 18),)),
    "CLASSIFIER_DROPOUT": ((0.0, 1.0), (1.5, -0.1)),
    "KMEANS__GRID": (((1, 2),), ((3,), (0, 0), (1, 0), (1, 2, 3))),
    "KMEANS__ITERATIONS": ((0,), (-1,)),
    "MEMORY_BANK": ((0,), (-1,)),
    "INPUT__CROP_SIZE": ((1,), (0,)),
    "INPUT__SCALE_RANGE": (((1.0, 1.0),), ((0.5,), (1.5, 0.5), (0.0, 1.0))),
    "INPUT__GRAYSCALE": ((0.0, 1.0), (1.1,)),
    "INPUT__BLUR": ((0.0, 1.0), (-0.1,)),
    "INPUT__FLIP_PAIRS": (((), ((0, 253),)), (((2, 300),), ((2, 254),), ((1, 2, 3),), (2, 3))),
    "TEST__IMAGE_SIZE": ((1,), (0,)),
    "TEST__CROP_SIZE": ((512,), (0, 511)),
    "TEST__STRIDE": ((1, 512), (0, 513)),
    "TEST__SCALES": (((), (0.5, 1)), ((0.0,), (1.0, "1"), (1.0, -1.0))),
    "TEST__FLIP": ((), (True,)),
    "TEST__KMEANS_GRID": (((1, 1),), ((1,), (2, 0))),
    "TEST__KMEANS_ITERATIONS": ((0,), (-1,)),
    "TEST__TOP_K": ((1,), (0,)),
    "PSEUDO__SCALES": (((), (0.5,)), ((0.0,),)),
    "PSEUDO__WALK_STEPS": ((0,), (-1,)),
    "CAM__SCALES": (((0.5,),), ((), (0.0,))),
}
"""Values of keys of MODEL.SPML, beside those of voc_point with tiles of 512."""


@pytest.mark.parametrize("key", GOOD_AND_BAD)
def test_numbers_that_make_no_sense_are_refused_with_their_key(key):
    good, bad = GOOD_AND_BAD[key]
    for value in good:
        check_numbers(load("voc_point", **{f"MODEL__SPML__{key}": value}))
    name = "TEST.STRIDE" if key == "TEST__CROP_SIZE" else key.replace("__", ".")
    for value in bad:
        with pytest.raises(ValueError, match=rf"^MODEL.SPML.(TEST.CROP_SIZE|{name}): expected .*; found .*\. Set it"):
            check_numbers(load("voc_point", **{f"MODEL__SPML__{key}": value}))


def test_both_kinds_of_heads_check_their_numbers(tmp_path):
    label_file = small_data(tmp_path, background=True, count=1)
    for head in ("SPMLHead", "SPMLClassifierHead", "CAMHead"):
        changes = {"INPUT__SUPERVISION": ("tags",), "INPUT__EVIDENCE": ("semantic", "regions")}
        with pytest.raises(ValueError, match="MODEL.SPML.TEST.IMAGE_SIZE: expected a number from 1; found 0"):
            model_of(label_file, tmp_path, MODEL__WEAK_HEAD__NAME=head, MODEL__SPML__TEST__IMAGE_SIZE=0, **changes)


def test_every_config_has_good_numbers():
    for path in (CONFIGS / "spml").glob("[!_]*.yaml"):
        check_numbers(load_config(path))


@pytest.mark.parametrize(("stride", "scale"), [(4, 1), (8, 2), (16, 4)])
def test_the_embedding_has_stride_4(stride, scale):
    with torch.device("meta"):
        assert network_of(load("voc_point"), ShapeSpec(channels=8, stride=stride), VOC).scale == scale


@pytest.mark.parametrize("stride", [2, 6])
def test_a_map_without_a_way_to_stride_4_is_refused(stride):
    with pytest.raises(ValueError, match=f"IN_FEATURE: expected .*a multiple of 4; found stride {stride} of 'res5'"):
        network_of(load("voc_point"), ShapeSpec(channels=8, stride=stride), VOC)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_missing_package_is_found_out_before_the_training(monkeypatch, is_there):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: is_there or None)
    cfg = load("voc_point", TEST__CRF__ENGINE="pydensecrf")
    predictor_arguments(cfg, VOC)
    cfg.TEST.CRF.ENABLED = True
    if is_there:
        assert predictor_arguments(cfg, VOC)["crf"]["engine"] == "pydensecrf"
    else:
        with pytest.raises(ValueError, match="TEST.CRF.ENGINE: expected the package pydensecrf2 .*found none"):
            predictor_arguments(cfg, VOC)


@pytest.mark.parametrize(
    "changes",
    [
        {"INPUT__EVIDENCE": (), "MODEL__SPML__RELATIONS__IMAGE__WEIGHT": 0.0},
        {"INPUT__SUPERVISION": ("boxes",), "INPUT__EVIDENCE": ("semantic", "regions")},
        {"INPUT__SUPERVISION": ("masks",)},
        {"INPUT__SUPERVISION": ("tags", "scribbles")},
    ],
)
def test_enough_evidence_is_enough(tmp_path, changes):
    label_file = small_data(tmp_path, background=False, count=1)
    criterion_of(small_config(label_file, tmp_path, **changes), ClassOrder.of(("cat", "background")))


def test_missing_activation_maps_and_prototypes_are_named(tmp_path):
    label_file = small_data(tmp_path, background=True, count=1)
    model = model_of(label_file, tmp_path, MODEL__SPML__PSEUDO__METHOD="cam_walk").eval()
    sample = sample_of((24, 32))
    with pytest.raises(ValueError, match="a/picture.png: expected class activation maps for cam_walk; found none"):
        model.pseudo_labels([sample])
    sample["evidence"]["cams"] = torch.zeros(24, 32, 6).numpy()
    with pytest.raises(ValueError, match="a/picture.png: expected class activation maps of 5 classes; found 6"):
        model.pseudo_labels([sample])
    # Before a training that would end with it.
    retrieval = {"MODEL__SPML__TEST__PREDICTOR": "retrieval", "MODEL__SPML__TEST__MEMORY": str(tmp_path / "none")}
    with pytest.raises(
        FileNotFoundError, match=r"MODEL.SPML.TEST.MEMORY: expected .*NAME.npz .*found none in '.*none'"
    ):
        model_of(label_file, tmp_path, **retrieval)
