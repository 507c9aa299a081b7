"""The classifier stage: a new classifier on the embedding of a checkpoint, which stays as it is to the last bit."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from methods.spml.small_runs import model_of, registered, sample_of, small_config, small_data

from weakseg.data import WeakMapper, build_train_loader
from weakseg.engine.trainer import Trainer
from weakseg.inference import WeakPredictor
from weakseg.labels import ClassOrder, read_label_file, weak_labels
from weakseg.safe_io import read_image, write_png

CLASSIFIER = "head.network.classifier."


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A label file with a background; label maps of the truth, as pseudo labels would be, lie in `semantic`."""
    folder = tmp_path_factory.mktemp("data")
    path = small_data(folder, background=True)
    labels = read_label_file(path)
    order = ClassOrder.of([category["name"] for category in labels.categories])
    (folder / "semantic").mkdir()
    for image in labels.images:
        annotations = [
            {"category_id": labels.class_index[a["category_id"]], "segmentation": a["segmentation"]}
            for a in labels.annotations[image["id"]]
        ]
        weak = weak_labels({"height": image["height"], "width": image["width"], "annotations": annotations})
        truth = np.full(weak.image_size, 255, np.uint8)
        for mask, k in zip(weak.masks.numpy(), weak.classes.tolist()):
            truth[mask] = k
        write_png(folder / "semantic" / image["file_name"].split("/")[-1], order.to_png(truth))
    return path


@pytest.fixture(scope="module")
def embedding(data, tmp_path_factory):
    """The checkpoint of an embedding stage of two steps."""
    folder = tmp_path_factory.mktemp("embedding")
    trainer = Trainer(small_config(data, folder, SOLVER__MAX_ITER=2))
    trainer.resume_or_load(False)
    trainer.train()
    return folder / "model_final.pth"


def stage_config(data, output, **changes):
    values = {
        "MODEL__BACKBONE__FREEZE_AT": 5,
        "INPUT__SEMANTIC_ROOT": str(data.parent / "semantic"),
        "SOLVER__MAX_ITER": 4,
        "SOLVER__CHECKPOINT_PERIOD": 2,
    }
    return small_config(data, output, "voc_point_classifier", **(values | changes))


def stored(path):
    return torch.load(path, weights_only=True)["model"]


@pytest.fixture(scope="module")
def run(data, embedding, tmp_path_factory):
    """A run of four steps: what the model was at its start, trainer, scores, folder."""
    folder = tmp_path_factory.mktemp("classifier")
    with registered(data) as name:
        trainer = Trainer(stage_config(data, folder, MODEL__WEIGHTS=str(embedding), DATASETS__TEST=(name,)))
        trainer.resume_or_load(False)
        before = {name: values.clone() for name, values in trainer.module.state_dict().items()}
        yield before, trainer, trainer.train(), folder


def test_only_the_classifier_is_new_and_only_it_is_trained(run, embedding):
    before, trainer, scores, _ = run
    first, after = stored(embedding), trainer.module.state_dict()
    names = {name for name in after if name.startswith(CLASSIFIER)}
    assert len(names) == 8 and after.keys() == {name for name in first if not name.endswith("_extra_state")}
    for name in after.keys() - names:
        assert torch.equal(before[name], first[name]) and torch.equal(after[name], first[name]), name
    # As fresh as it is made, statistics included.
    for name in ("conv.weight", "predict.weight", "predict.bias"):
        assert not torch.equal(before[CLASSIFIER + name], first[CLASSIFIER + name])
    fresh = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    for name, value in fresh.items():
        assert (before[f"{CLASSIFIER}norm.{name}"] == value).all()
    for name in names:
        assert not torch.equal(after[name], before[name]), name
    assert after[CLASSIFIER + "norm.num_batches_tracked"] == 4
    assert 0 <= scores["sem_seg"]["mIoU"] <= 100


def test_a_resumed_run_is_the_uninterrupted_one(run, data, embedding, tmp_path):
    _, trainer, _, folder = run
    (middle,) = [path for path in folder.glob("model_*.pth") if path.stem.endswith("1")]
    shutil.copy(middle, tmp_path / middle.name)
    (tmp_path / "last_checkpoint").write_text(middle.name)
    resumed = Trainer(stage_config(data, tmp_path, MODEL__WEIGHTS=str(embedding)))
    resumed.resume_or_load(True)
    resumed.train()
    expected = trainer.module.state_dict()
    assert all(torch.equal(values, expected[name]) for name, values in resumed.module.state_dict().items())


def test_a_checkpoint_predicts_alone(run, data, tmp_path):
    _, trainer, _, folder = run
    predictor = WeakPredictor.from_checkpoint(shutil.copy(folder / "model_final.pth", tmp_path), device="cpu")
    image = read_image(data.parent / "train/00002.png", format="BGR")
    found = predictor(image)["sem_seg"]
    sample = sample_of(image.shape[:2])
    sample["image"] = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)))
    (expected,) = trainer.module.eval()([sample])
    assert torch.equal(found, expected["sem_seg"])


def small_stage(data, tmp_path, **changes):
    return model_of(data, tmp_path, "voc_point_classifier", **({"MODEL__BACKBONE__FREEZE_AT": 5} | changes))


def test_the_loss_is_the_mean_over_labelled_pixels(data, tmp_path):
    model = small_stage(data, tmp_path).train()
    batch = [sample_of((64, 48), 0), sample_of((40, 64), 1)]
    losses = model(batch)
    # The same from the parts: classes 0..5, everything else takes no part.
    classifier = model.head.network.classifier
    target = torch.full((2, 64, 64), -100)
    for values, sample in zip(target, batch):
        height, width = sample["weak"].image_size
        labels = torch.from_numpy(sample["evidence"]["label_map"]).long()
        values[:height, :width] = torch.where(labels < 6, labels, -100)
    images = model.preprocess(batch).tensor
    logits = classifier(model.head.network(model.backbone(images)["res5"]))
    full = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    assert losses.keys() == {"loss_pixel"}
    torch.testing.assert_close(losses["loss_pixel"], F.cross_entropy(full, target))
    losses["loss_pixel"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith(CLASSIFIER) for name in trained) and len(trained) == 5


@pytest.mark.parametrize("value", [254, 255])
def test_a_batch_without_labels_costs_nothing(data, tmp_path, value):
    model = small_stage(data, tmp_path).train()
    batch = [sample_of((64, 64))]
    batch[0]["evidence"]["label_map"][:] = value
    (loss,) = model(batch).values()
    loss.backward()
    assert loss == 0 and all((p.grad == 0).all() for p in model.parameters() if p.requires_grad)


def test_all_but_the_classifier_is_in_evaluation_mode(data, tmp_path):
    model = small_stage(data, tmp_path, MODEL__SPML__CLASSIFIER_DROPOUT=0.65).train()
    training = {name for name, module in model.named_modules() if module.training and not list(module.children())}
    classifier = {f"{CLASSIFIER}{name}" for name in ("conv", "norm", "dropout", "predict")}
    assert training == classifier
    before = {name: values.clone() for name, values in model.state_dict().items() if "running" in name}
    losses = [model([sample_of((64, 64))])["loss_pixel"].item() for _ in range(2)]
    assert losses[0] != losses[1]
    moved = {name for name, values in before.items() if not torch.equal(values, model.state_dict()[name])}
    assert moved == {f"{CLASSIFIER}norm.running_mean", f"{CLASSIFIER}norm.running_var"}
    assert not any(module.training for module in model.eval().modules())


def test_labels_come_from_label_maps_not_from_what_a_person_gave(data, tmp_path):
    """Fault c: published scribble and point runs learn from their raw labels."""
    maps = tmp_path / "semantic"
    maps.mkdir()
    for path in (data.parent / "semantic").glob("*.png"):
        write_png(maps / path.name, np.full((48, 48), 3, np.uint8))
    cfg = stage_config(data, tmp_path, INPUT__SEMANTIC_ROOT=str(maps))
    for sample in next(iter(build_train_loader(cfg, WeakMapper(cfg, True)))):
        assert set(np.unique(sample["evidence"]["label_map"])) <= {3, 255}


def test_a_training_from_nothing_is_refused(data, tmp_path):
    """Its embedding would stay as it was drawn."""
    trainer = Trainer(stage_config(data, tmp_path))
    with pytest.raises(ValueError, match=r"^MODEL.WEIGHTS: expected the checkpoint of an embedding stage.*found none"):
        trainer.resume_or_load(False)


@pytest.mark.parametrize("supervision", [(), ("boxes",), ("tags",)])
def test_a_training_without_labelled_pixels_is_refused(data, tmp_path, supervision):
    words = " and ".join(supervision) or "no labels"
    with pytest.raises(ValueError, match=f"INPUT.EVIDENCE: expected 'semantic' to learn from {words}"):
        small_stage(data, tmp_path, INPUT__SUPERVISION=supervision, INPUT__EVIDENCE=())
    small_stage(data, tmp_path, INPUT__SUPERVISION=supervision)
    small_stage(data, tmp_path, INPUT__EVIDENCE=())


def test_a_backbone_with_gradient_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"MODEL.BACKBONE.FREEZE_AT: expected a backbone without gradient .*found \d+"):
        Trainer(stage_config(data, tmp_path, MODEL__BACKBONE__FREEZE_AT=2))


def test_pseudo_labels_of_the_second_round(data, tmp_path):
    """Card 3.12, step 6: this stage's classifier labels the images anew."""
    model = small_stage(data, tmp_path, MODEL__SPML__PSEUDO__METHOD="classifier_only").eval()
    sample = sample_of((40, 36))
    (result,) = model.pseudo_labels([sample])
    image, head = (sample["image"] - model.pixel_mean) / model.pixel_std, model.head
    with torch.no_grad():
        found = head.labeller.classifier_only(
            image,
            lambda images: head.network(model.backbone(images)["res5"]),
            head.network.classifier,
            torch.from_numpy(sample["evidence"]["label_map"]).long(),
        )
    assert torch.equal(result["sem_seg"], torch.tensor([4, 0, 1, 2, 3, 5])[found])
