"""Loaders: the same batches for any number of workers and processes, each test image once, and what the log says."""

import hashlib
import logging

import numpy as np
import pytest
import torch

from weakseg.data import WeakMapper, build_test_loader, build_train_loader, dataset_names
from weakseg.data.loader import MappedRecords
from weakseg.proposals import PROPOSAL_LOADER_REGISTRY


def as_rank(monkeypatch, rank, world_size):
    for module in ("weakseg.data.loader.comm", "detectron2.data.samplers.distributed_sampler.comm"):
        monkeypatch.setattr(f"{module}.get_rank", lambda: rank)
        monkeypatch.setattr(f"{module}.get_world_size", lambda: world_size)


def fingerprint(samples):
    """Hash of ids, pixels and points."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(str((sample["image_id"], tuple(sample["image"].shape))).encode())
        digest.update(sample["image"].numpy().tobytes())
        digest.update(sample["weak"].points.numpy().tobytes())
    return digest.hexdigest()


def global_batches(cfg, monkeypatch, world_size=1, count=10, **arguments):
    """The samples of `count` global batches, put together from all ranks."""
    parts = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        batches = iter(build_train_loader(cfg, WeakMapper(cfg, True), **arguments))
        parts.append([next(batches) for _ in range(count)])
        assert all(len(batch) == cfg.SOLVER.IMS_PER_BATCH // world_size for batch in parts[-1])
    return [sample for slices in zip(*parts) for batch in slices for sample in batch]


@pytest.fixture
def train_cfg(cfg, make_set):
    cfg.DATASETS.TRAIN = (str(make_set(7)),)
    cfg.SOLVER.IMS_PER_BATCH = 4
    return cfg


def test_same_batches_whatever_the_workers_and_processes(train_cfg, monkeypatch):
    expected = global_batches(train_cfg, monkeypatch)
    # The hash would hide batches that are all alike.
    assert len({fingerprint([sample]) for sample in expected}) > 25
    for workers in (0, 1, 2):
        for world_size in (1, 2):
            train_cfg.DATALOADER.NUM_WORKERS = workers
            found = global_batches(train_cfg, monkeypatch, world_size)
            assert fingerprint(found) == fingerprint(expected), f"{workers} workers, {world_size} processes"


def test_another_seed_gives_other_batches(train_cfg, monkeypatch):
    first = fingerprint(global_batches(train_cfg, monkeypatch, count=3))
    train_cfg.SEED += 1
    assert fingerprint(global_batches(train_cfg, monkeypatch, count=3)) != first


def test_start_skips_batches_without_loading_them(train_cfg, monkeypatch):
    expected = global_batches(train_cfg, monkeypatch, count=8)[5 * 4 :]
    reads = []
    original = WeakMapper.__call__
    monkeypatch.setattr(WeakMapper, "__call__", lambda self, *rest: reads.append(1) or original(self, *rest))
    assert fingerprint(global_batches(train_cfg, monkeypatch, count=3, start=5)) == fingerprint(expected)
    assert len(reads) == 3 * 4


def test_batches_are_of_one_orientation_by_default(train_cfg, monkeypatch):
    samples = global_batches(train_cfg, monkeypatch, count=20)
    kinds = [{s["width"] > s["height"] for s in samples[i : i + 4]} for i in range(0, len(samples), 4)]
    assert all(len(kind) == 1 for kind in kinds) and {False} in kinds
    train_cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    samples = global_batches(train_cfg, monkeypatch, count=20)
    assert any(len({s["width"] > s["height"] for s in samples[i : i + 4]}) == 2 for i in range(0, len(samples), 4))


def test_a_sample_draws_from_seed_epoch_and_index():
    records = [{"number": number} for number in range(4)]
    data = MappedRecords(records, lambda record, generator: (record["number"], generator.random()), seed=9)
    assert len(data) == 4
    assert data[2, 3] == (3, np.random.default_rng((9, 2, 3)).random())
    assert len({data[epoch, index][1] for epoch in range(3) for index in range(4)}) == 12


def test_the_log_starts_with_what_the_run_sees(train_cfg, caplog):
    class Ramp:
        provenance = "made by a test, without masks"

        def __call__(self, record):
            return np.tile(np.arange(record["width"], dtype=np.float32), (record["height"], 1))

    PROPOSAL_LOADER_REGISTRY._do_register("toy_ramp", lambda cfg: Ramp())
    try:
        train_cfg.INPUT.EVIDENCE = ("toy_ramp",)
        train_cfg.INPUT.SUPERVISION = ("points", "tags")
        with caplog.at_level(logging.INFO, logger="weakseg"):
            loader = build_train_loader(train_cfg, WeakMapper(train_cfg, True))
    finally:
        PROPOSAL_LOADER_REGISTRY._obj_map.pop("toy_ramp")
    assert caplog.messages[0] == "Supervision: points, tags"
    assert caplog.messages[1] == "Evidence toy_ramp: made by a test, without masks"
    for sample in next(iter(loader)):
        assert sample["evidence"]["toy_ramp"].shape == sample["image"].shape[1:]


def drop_points(*image_ids):
    def change(content):
        for annotation in content["annotations"]:
            if annotation["image_id"] in image_ids:
                del annotation["point_coords"], annotation["point_labels"]

    return change


def test_images_without_a_label_are_left_out_and_counted(cfg, make_set, monkeypatch, caplog):
    cfg.DATASETS.TRAIN = (str(make_set(change=drop_points(100, 103))),)
    with caplog.at_level(logging.INFO, logger="weakseg"):
        seen = {sample["image_id"] for sample in global_batches(cfg, monkeypatch, count=15)}
    assert seen == {101, 102, 104, 105}
    assert any("2 of 6 images have no points and are left out" in message for message in caplog.messages)


def test_no_label_at_all_is_an_error(cfg, make_set):
    cfg.DATASETS.TRAIN = (str(make_set(2, change=drop_points(100, 101))),)
    with pytest.raises(ValueError, match=r"labels\.json: 2 of 2 images have no points; nothing to learn from"):
        build_train_loader(cfg, WeakMapper(cfg, True))


def test_without_supervision_there_is_nothing_to_learn_from(train_cfg):
    train_cfg.INPUT.SUPERVISION = ()
    with pytest.raises(ValueError, match=r"7 of 7 images have no labels that .* lets through; nothing to learn from"):
        build_train_loader(train_cfg, WeakMapper(train_cfg, True))


@pytest.mark.parametrize("supervision", [(), ("points",)])
def test_label_maps_label_every_image(cfg, make_set, tmp_path, supervision):
    cfg.DATASETS.TRAIN = (str(make_set(3, change=drop_points(100, 102))),)
    cfg.INPUT.SUPERVISION, cfg.INPUT.EVIDENCE = supervision, ("semantic",)
    cfg.INPUT.SEMANTIC_ROOT = str(tmp_path)
    assert len(build_train_loader(cfg, WeakMapper(cfg, True)).dataset) == 3
    cfg.INPUT.EVIDENCE = ("regions",)
    cfg.INPUT.REGION_ROOT = str(tmp_path)
    if supervision:
        assert len(build_train_loader(cfg, WeakMapper(cfg, True)).dataset) == 1
    else:
        with pytest.raises(ValueError, match="3 of 3 images have no labels"):
            build_train_loader(cfg, WeakMapper(cfg, True))


def test_training_sets_are_joined_when_their_classes_agree(cfg, make_set, monkeypatch):
    first, second = make_set(3), make_set(2, "second.json")
    other = make_set(2, "other.json", lambda content: content["categories"][0].update(name="puma"))
    cfg.DATASETS.TRAIN = (str(first), str(second))
    assert len(build_train_loader(cfg, WeakMapper(cfg, True)).dataset) == 5
    cfg.DATASETS.TRAIN = (str(first), str(other))
    with pytest.raises(
        ValueError, match=r"expected .*other\.json to have the classes of .*labels\.json; .* the same categories"
    ):
        build_train_loader(cfg, WeakMapper(cfg, True))
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN: expected at least one data set; found none. Name one"):
        build_train_loader(cfg, WeakMapper(cfg, True))


@pytest.mark.parametrize("world_size", [1, 2, 4, 9])
def test_each_test_image_exactly_once_over_all_ranks(cfg, make_set, monkeypatch, world_size):
    cfg.DATASETS.TEST = (str(make_set(7)),)
    (name,) = dataset_names(cfg, "test")
    seen = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        loader = build_test_loader(cfg, name, WeakMapper(cfg, False))
        batches = list(loader)
        assert len(batches) == len(loader) and all(len(batch) == 1 for batch in batches)
        seen += [batch[0]["image_id"] for batch in batches]
    assert seen == [100 + i for i in range(7)]


def test_test_samples_carry_what_the_inputs_allow(cfg, make_set):
    cfg.DATASETS.TEST = (str(make_set(2)),)
    (name,) = dataset_names(cfg, "test")

    def first():
        return next(iter(build_test_loader(cfg, name, WeakMapper(cfg, False))))[0]["weak"]

    weak = first()
    assert weak.expressions == ["target 1", "target 2", "target 3"]
    assert len(weak.points) == len(weak.boxes) == len(weak.scribbles) == 0 and weak.masks is None and weak.tags is None
    cfg.TEST.INPUTS = ("points", "tags", "proposals")
    weak = first()
    assert len(weak.points) == 3 and weak.tags.tolist() == [0, 1, 2]
    assert len(weak.boxes) == 0 and weak.masks is None
    cfg.TEST.INPUTS = ("clicks",)
    with pytest.raises(ValueError, match="^TEST.INPUTS: .*found 'clicks'"):
        first()


def test_an_empty_test_set_says_so(cfg, make_set):
    cfg.DATASETS.TEST = (str(make_set(0)),)
    (name,) = dataset_names(cfg, "test")
    with pytest.raises(ValueError, match=r"expected images to test on in .*labels\.json; found none. Check"):
        build_test_loader(cfg, name, WeakMapper(cfg, False))


def test_the_global_generator_is_not_touched(train_cfg):
    (name,) = dataset_names(train_cfg, "train")
    before = torch.get_rng_state()
    next(iter(build_train_loader(train_cfg, WeakMapper(train_cfg, True))))
    next(iter(build_test_loader(train_cfg, name, WeakMapper(train_cfg, False))))
    assert torch.equal(torch.get_rng_state(), before)


def test_micro_batches_of_two_processes_are_those_of_one(train_cfg, monkeypatch):
    whole = global_batches(train_cfg, monkeypatch, count=3)
    train_cfg.SOLVER.ACCUMULATE = 2
    assert fingerprint(global_batches(train_cfg, monkeypatch, count=3)) == fingerprint(whole)
    as_rank(monkeypatch, 1, 2)
    second = next(iter(build_train_loader(train_cfg, WeakMapper(train_cfg, True))))
    assert fingerprint(second) == fingerprint([whole[1], whole[3]])


def test_workers_use_one_thread(train_cfg):
    train_cfg.DATALOADER.NUM_WORKERS = 1
    mapper = WeakMapper(train_cfg, True, prepare=count_threads)
    assert {sample["threads"] for sample in next(iter(build_train_loader(train_cfg, mapper)))} == {1}


def count_threads(sample):
    return {**sample, "threads": torch.get_num_threads()}
