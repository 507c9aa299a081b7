"""The whole head on tiny batches: what it may see, empty batches, its counter, its optimiser groups, its result."""

import json

import numpy as np
import pytest
import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from tiny import CONFIGS, point_labels, scenes, shrunk_config
from weakseg.data import WeakMapper, build_test_loader, build_train_loader, dataset_metadata, dataset_names
from weakseg.evaluation import build_evaluator
from weakseg.inference.views import plain_view
from weakseg.labels import WeakLabels
from weakseg.safe_io import read_json, write_json

DEMO = CONFIGS / "point2mask/demo.yaml"


def model_of(label_file, tmp_path, **changes):
    torch.manual_seed(0)
    return build_model(shrunk_config(DEMO, label_file, tmp_path, **changes)).train()


def sample(weak, seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (3, *weak.image_size), dtype=np.uint8)
    return {"image": torch.from_numpy(image), "weak": weak, "height": weak.image_size[0], "width": weak.image_size[1]}


def train_losses(label_file, tmp_path, steps=3):
    """Loss terms of the first steps of a points run on a label file."""
    cfg = shrunk_config(DEMO, label_file, tmp_path)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batches = iter(build_train_loader(cfg, WeakMapper(cfg, True)))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    history = []
    with EventStorage():
        for _ in range(steps):
            losses = model(next(batches))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            model.head.after_step()
            history.append({name: loss.item() for name, loss in losses.items()})
    return history


def poisoned(label_file, name, change):
    content = read_json(label_file)
    for annotation in content["annotations"]:
        change(annotation)
    path = label_file.with_name(name)
    write_json(path, content)
    return path


def test_a_points_run_sees_nothing_but_points(tmp_path):
    """R8: masks, boxes and areas true, random or absent: bit-identical losses."""
    label_file = scenes(tmp_path, count=4)
    generator = np.random.default_rng(0)
    random_masks = [a["segmentation"] for a in read_json(label_file)["annotations"]]
    generator.shuffle(random_masks)

    def randomise(annotation):
        annotation["segmentation"] = random_masks[generator.integers(len(random_masks))]
        annotation["bbox"] = [1.0, 2.0, *generator.uniform(1, 30, 2).tolist()]
        annotation["area"] = float(generator.uniform(0, 9))

    def remove(annotation):
        for key in ("segmentation", "bbox", "area"):
            del annotation[key]

    random_file = poisoned(label_file, "random.json", randomise)
    absent_file = poisoned(label_file, "absent.json", remove)
    expected = train_losses(label_file, tmp_path)
    assert train_losses(random_file, tmp_path) == expected
    assert train_losses(absent_file, tmp_path) == expected
    # The poison was in the file, and a run that may see masks does feel it.
    assert json.dumps(read_json(random_file)) != json.dumps(read_json(label_file))
    from_masks = {"INPUT__SUPERVISION": ("masks",)}
    cfgs = [shrunk_config(DEMO, path, tmp_path, **from_masks) for path in (label_file, random_file)]
    samples = [next(iter(build_train_loader(cfg, WeakMapper(cfg, True)))) for cfg in cfgs]
    model = model_of(label_file, tmp_path, **from_masks)
    assert model(samples[0])["d0.loss_sem_mask"] != model(samples[1])["d0.loss_sem_mask"]


@pytest.mark.parametrize("warmup", [10, 0], ids=["phase 1", "phase 2"])
def test_batches_without_labels_give_finite_losses_and_gradients(tmp_path, warmup):
    """Card section 12: no point at all, stuff points only, one instance, an instance in the last strip."""
    model = model_of(scenes(tmp_path, count=1), tmp_path, MODEL__POINT2MASK__OT__WARMUP_ITERS=warmup)
    nothing = point_labels((70, 64), [])
    stuff_only = point_labels((64, 66), [(3.0, 4.0, 4)])
    one = point_labels((65, 67), [(66.5, 64.5, 2), (0.5, 0.5, 5)])
    for batch in ([nothing, nothing], [stuff_only, nothing], [one, stuff_only]):
        losses = model([sample(weak, seed) for seed, weak in enumerate(batch)])
        total = sum(losses.values())
        total.backward()
        assert all(torch.isfinite(loss) and loss.dim() == 0 for loss in losses.values())
        missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        if not any(len(weak) for weak in batch):
            assert losses["d0.loss_sem_mask"] == 0 and losses["loss_bbox"] == 0 and losses["loss_cl"] == 0
        model.zero_grad()


def test_more_instances_than_queries(tmp_path):
    model = model_of(scenes(tmp_path, count=1), tmp_path)
    rows = [(4.0 * k + 2, 5.0 * (k % 12) + 2, k % 4) for k in range(15)]
    losses = model([sample(point_labels((64, 64), rows))])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_counter_moves_with_steps_and_switches_the_phase(tmp_path, monkeypatch):
    model = model_of(scenes(tmp_path, count=1), tmp_path, MODEL__POINT2MASK__OT__WARMUP_ITERS=2)
    phases = []
    module = "weakseg.methods.point2mask.head.make_pseudo_labels"
    original = __import__("weakseg.methods.point2mask.pseudo_labels", fromlist=["x"]).make_pseudo_labels

    def noted(*arguments, **keywords):
        phases.append(keywords["phase"])
        return original(*arguments, **keywords)

    monkeypatch.setattr(module, noted)
    batch = [sample(point_labels((64, 64), [(8.5, 9.5, 0), (40.5, 50.5, 4)]))]
    for _ in range(4):
        model(batch)
        model.head.after_step()
    # `iter <= OT_warmup_iters` is phase 1, and the first step is number 1 (fault ak).
    assert phases == [1, 1, 2, 2]
    assert model.state_dict()["head.iteration"].item() == 4
    # Fine-tuning starts the schedule anew.
    model.head.start_anew()
    assert model.state_dict()["head.iteration"].item() == 0


def test_the_ramp_scales_what_trusts_pseudo_labels(tmp_path):
    label_file = scenes(tmp_path, count=1)
    batch = [sample(point_labels((64, 64), [(8.5, 9.5, 0), (40.5, 50.5, 4)]))]
    model = model_of(label_file, tmp_path, MODEL__POINT2MASK__LOSS_RAMP_ITERS=8)
    model.head.iteration.fill_(8)
    full = model(batch)
    model.head.iteration.fill_(2)
    quarter = model(batch)
    torch.testing.assert_close(quarter["loss_bbox"], full["loss_bbox"] / 4)
    torch.testing.assert_close(quarter["d0.loss_st_mask"], full["d0.loss_st_mask"] / 4)
    torch.testing.assert_close(quarter["d0.loss_sem_color"], full["d0.loss_sem_color"])
    torch.testing.assert_close(quarter["loss_cls"], full["loss_cls"])


def test_true_masks_train_without_the_losses_of_missing_labels(tmp_path):
    label_file = scenes(tmp_path, count=2)
    cfg = shrunk_config(DEMO, label_file, tmp_path, INPUT__SUPERVISION=("masks",))
    model = model_of(label_file, tmp_path, INPUT__SUPERVISION=("masks",))
    # Nothing reads the heads that shape the pixel graph.
    model.head.network.embed = None
    losses = model(next(iter(build_train_loader(cfg, WeakMapper(cfg, True)))))
    names = {name.split(".")[-1] for name in losses}
    assert names == {
        *("loss_sem_cls", "loss_sem_mask", "loss_cls", "loss_bbox", "loss_iou"),
        *("loss_mask", "loss_st_mask", "loss_st_cls"),
    }
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_points_and_masks_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of points or masks"):
        model_of(scenes(tmp_path, count=1), tmp_path, INPUT__SUPERVISION=("points", "masks"))


def things_only(label_file):
    """The label file without its stuff."""
    content = read_json(label_file)
    content["categories"] = [category for category in content["categories"] if category["isthing"]]
    ids = {category["id"] for category in content["categories"]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in ids]
    path = label_file.with_name("things.json")
    write_json(path, content)
    return path


def test_a_data_set_of_things_trains_and_is_evaluated_by_its_instances(tmp_path):
    label_file = things_only(scenes(tmp_path, count=3))
    losses = train_losses(label_file, tmp_path, steps=1)[0]
    assert all(np.isfinite(loss) for loss in losses.values()) and losses["loss_cls"] > 0

    changes = {f"MODEL__POINT2MASK__TEST__{key}": 0.0 for key in ("QUALITY_THRESH_THING", "OVERLAP_THRESH_THING")}
    cfg = shrunk_config(DEMO, label_file, tmp_path, **changes)
    model = model_of(label_file, tmp_path, **changes).eval()
    (name,) = dataset_names(cfg, "test")
    assert dataset_metadata(name).evaluator_type == "weakseg_instance"
    loader = build_test_loader(cfg, name, WeakMapper(cfg, False))
    seen, forward = [], model.forward
    model.forward = lambda batch: seen.extend(results := forward(batch)) or results
    scores = inference_on_dataset(model, loader, build_evaluator(cfg, name, tmp_path))
    assert scores["bbox"].keys() >= {"AP", "AP50"} and len(seen) == 3
    assert any(len(result["instances"]) for result in seen) and "segm" in scores
    for result in seen:
        instances, (ids, segments) = result["instances"], result["panoptic_seg"]
        assert instances.image_size == (64, 64)  # the network saw 80 x 80
        assert len(instances) == len(segments) == len(instances.pred_boxes)
        for k, segment in enumerate(segments):
            assert torch.equal(instances.pred_masks[k], ids == segment["id"])


@torch.no_grad()
def test_instances_have_the_boxes_of_their_queries_in_the_original_image(tmp_path):
    """An image of 64 x 48 of an original twice as high and half as wide."""
    changes = {"QUALITY_THRESH_THING": 0.0, "OVERLAP_THRESH_THING": 1.0}
    changes = {f"MODEL__POINT2MASK__TEST__{key}": value for key, value in changes.items()}
    model = model_of(scenes(tmp_path, count=1), tmp_path, **changes).eval()
    one = sample(WeakLabels((64, 48))) | {"height": 128, "width": 24}
    images = model.preprocess([one])
    raw = model.head(model.backbone(images.tensor), images, [one])
    # One query, of class 2, is sure, and its mask is everywhere: a thing in front of all else.
    raw.class_logits[0] = -20
    raw.class_logits[0, 7, 2] = 9
    raw.boxes[0, 7] = torch.tensor([0.5, 0.25, 0.5, 0.25])
    raw.queries[0] = torch.arange(len(raw.boxes[0]))
    raw.thing_masks[0] = torch.zeros(len(raw.boxes[0]), *raw.thing_masks[0].shape[1:])
    raw.thing_masks[0][7] = 3
    (result,) = model.head.finish([(plain_view(images), raw)], [one])
    instances, first = result["instances"], result["panoptic_seg"][1][0]
    assert instances.pred_classes.tolist() == [2] and instances.pred_masks.shape == (1, 128, 24)
    assert torch.equal(instances.pred_masks[0], result["panoptic_seg"][0] == first["id"])
    assert instances.scores.item() == pytest.approx(first["score"])
    torch.testing.assert_close(instances.pred_boxes.tensor, torch.tensor([[6.0, 16, 18, 48]]))


def test_every_trainable_parameter_is_in_one_group(tmp_path):
    model = model_of(scenes(tmp_path, count=1), tmp_path, SOLVER__BACKBONE_MULTIPLIER=0.1)
    groups = model.parameter_groups()
    slow = {id(p) for group in groups if group["lr_mult"] == 0.1 for p in group["params"]}
    fast = {id(p) for group in groups if group["lr_mult"] == 1.0 for p in group["params"]}
    assert not slow & fast
    for name, parameter in model.named_parameters():
        is_slow = name.startswith("backbone.") or "sampling_offsets" in name or "reference_points" in name
        assert (id(parameter) in slow) == is_slow and (id(parameter) in fast) == (not is_slow)


@torch.no_grad()
def test_results_are_at_the_original_size_whatever_the_batch(tmp_path):
    """A batch of two sizes gives what each image gives alone, up to what padding changes."""
    model = model_of(scenes(tmp_path, count=1), tmp_path, MODEL__POINT2MASK__TEST__QUALITY_THRESH_STUFF=0.0).eval()
    first, second = sample(WeakLabels((64, 64)), 1), sample(WeakLabels((64, 64)), 2)
    second |= {"height": 30, "width": 50}
    together = model([first, second])
    alone = [model([first])[0], model([second])[0]]
    assert together[0]["panoptic_seg"][0].shape == (64, 64) and together[1]["panoptic_seg"][0].shape == (30, 50)
    assert together[1]["sem_seg"].shape == (30, 50)
    for both, one in zip(together, alone):
        assert torch.equal(both["panoptic_seg"][0], one["panoptic_seg"][0])
        assert torch.equal(both["sem_seg"], one["sem_seg"])


@torch.no_grad()
def test_pseudo_labels_are_a_panoptic_map_of_the_labelled_classes(tmp_path):
    model = model_of(scenes(tmp_path, count=1), tmp_path).eval()
    weak = point_labels((64, 72), [(10.5, 12.5, 2), (50.5, 40.5, 4), (60.5, 20.5, 1)])
    ids, segments = model.pseudo_labels([sample(weak)])[0]["panoptic_seg"]
    assert ids.shape == (64, 72)
    by_id = {segment["id"]: segment for segment in segments}
    # The instances are numbered in the order of the labels; each labelled pixel is of its class.
    assert ids[12, 10] == 1 and by_id[1]["category_id"] == 2 and by_id[1]["isthing"]
    assert ids[20, 60] == 2 and by_id[2]["category_id"] == 1
    assert by_id[int(ids[40, 50])]["category_id"] == 4 and not by_id[int(ids[40, 50])]["isthing"]
    assert all(segment["area"] == (ids == segment["id"]).sum() for segment in segments)


def test_test_time_views_are_refused(tmp_path):
    model = model_of(scenes(tmp_path, count=1), tmp_path)
    with pytest.raises(ValueError, match="one view"):
        model.head.finish([], [])
