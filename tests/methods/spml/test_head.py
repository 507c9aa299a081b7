"""The embedding stage on small runs: training, resuming, testing, prediction from the checkpoint alone; its losses."""

import shutil

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from methods.spml.small_runs import BACKGROUND, SIZE, model_of, registered, sample_of, small_config, small_data

from weakseg.data import WeakMapper, build_train_loader
from weakseg.engine.trainer import Trainer
from weakseg.inference import WeakPredictor
from weakseg.labels import WeakLabels
from weakseg.safe_io import read_image


@pytest.fixture(scope="module", params=[True, False], ids=["background", "no background"])
def data(request, tmp_path_factory):
    """Whether there is a background, and the label file."""
    return request.param, small_data(tmp_path_factory.mktemp("data"), background=request.param)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of four steps with a checkpoint after each two: trainer, scores, folder."""
    folder = tmp_path_factory.mktemp("run")
    with registered(data[1]) as name:
        cfg = small_config(data[1], folder, DATASETS__TEST=(name,), SOLVER__MAX_ITER=4, SOLVER__CHECKPOINT_PERIOD=2)
        trainer = Trainer(cfg)
        trainer.resume_or_load(False)
        yield trainer, trainer.train(), folder


def test_a_run_trains_and_is_tested_by_its_mean_iou(run):
    trainer, scores, _ = run
    assert 0 <= scores["sem_seg"]["mIoU"] <= 100
    state = trainer.module.state_dict()
    # Prototypes of two steps.
    memory = state["head.criterion.memory._extra_state"]
    assert memory[:, 0].unique().tolist() == [0, 1] and torch.isfinite(memory).all()


def test_a_resumed_run_is_the_uninterrupted_one(data, run, tmp_path):
    trainer, _, folder = run
    (first,) = [path for path in folder.glob("model_*.pth") if path.stem.endswith("1")]
    shutil.copy(first, tmp_path / first.name)
    (tmp_path / "last_checkpoint").write_text(first.name)
    resumed = Trainer(small_config(data[1], tmp_path, SOLVER__MAX_ITER=4))
    resumed.resume_or_load(True)
    assert resumed.start_iter == 2
    resumed.train()
    expected, found = trainer.module.state_dict(), resumed.module.state_dict()
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
    # Without the memory it would not be: its first step saw one iteration, the resumed one two.
    forgetful = Trainer(small_config(data[1], tmp_path, SOLVER__MAX_ITER=4))
    (tmp_path / "last_checkpoint").write_text(first.name)
    forgetful.resume_or_load(True)
    bank = forgetful.module.head.criterion.memory
    bank.set_extra_state(bank.get_extra_state()[:0])
    forgetful.train()
    assert not torch.equal(
        forgetful.module.state_dict()["backbone.res5.0.conv1.weight"], expected["backbone.res5.0.conv1.weight"]
    )


def test_a_checkpoint_predicts_alone(run, data, tmp_path):
    trainer, _, folder = run
    path = shutil.copy(folder / "model_final.pth", tmp_path / "alone.pth")
    predictor = WeakPredictor.from_checkpoint(path, device="cpu")
    image = read_image(data[1].parent / "train/00001.png", format="BGR")[:40]
    found = predictor(image)["sem_seg"]
    assert found.shape == (40, SIZE) and found.dtype == torch.int64 and found.max() < 6
    pixels = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)))
    sample = {"image": pixels, "height": 40, "width": SIZE, "weak": WeakLabels((40, SIZE)), "evidence": {}}
    (expected,) = trainer.module.eval()([sample])
    assert torch.equal(found, expected["sem_seg"])


def training_batch(sizes=((64, 64), (64, 64))):
    """Samples as training has them: labels of ordered classes, tags of house indices 0 and 2."""
    generator = np.random.default_rng(5)
    return [
        sample_of(size, seed, regions=generator.integers(0, 3, size, dtype=np.uint8)) for seed, size in enumerate(sizes)
    ]


def test_losses_are_those_of_the_criterion(data, tmp_path):
    """Of images of two sizes, which are padded with what takes no part."""
    has_background, label_file = data
    model = model_of(label_file, tmp_path).train()
    batch = training_batch(((64, 48), (40, 64)))
    seen = {}
    contrast = model.head.criterion.contrast

    def noted(*arguments):
        seen["arguments"] = arguments
        return contrast(*arguments)

    model.head.criterion.contrast = noted
    losses = model(batch)
    assert losses.keys() == {"loss_pixel", "loss_annotation", "loss_cooccurrence", "loss_image"}
    embedding, local, labels, regions, tags = seen["arguments"]
    assert embedding.shape == (2, 8, 16, 16) and local.shape == (16, 16, 2)
    for maps, name in ((labels, "label_map"), (regions, "regions")):
        assert maps.shape == (2, 64, 64)
        for values, sample in zip(maps, batch):
            height, width = sample["weak"].image_size
            assert np.array_equal(values[:height, :width], sample["evidence"][name])
            assert (values[height:] == 255).all() and (values[:, width:] == 255).all()
    # House indices 0 and 2; the first column is the background, also where there is none.
    assert tags.shape == (2, 6 if has_background else 7) and tags.dtype == torch.bool
    assert all(row.nonzero()[:, 0].tolist() == [1, 3] for row in tags)
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_the_background_is_the_first_tag(tmp_path):
    model = model_of(small_data(tmp_path, background=True, count=1), tmp_path)
    sample = sample_of((8, 8))
    sample["weak"] = WeakLabels((8, 8), tags=torch.tensor([BACKGROUND, 5]))
    tags = model.head._tags([sample], torch.device("cpu"))
    assert tags.tolist() == [[True, False, False, False, False, True]]


def test_the_memory_fills_with_steps_not_with_micro_batches(data, tmp_path):
    model = model_of(data[1], tmp_path).train()
    memory = model.head.criterion.memory
    for step in range(3):
        for _ in range(2):
            model(training_batch())
            assert len(memory.get_extra_state()[:, 0].unique()) == min(step, 2)
        model.head.after_step()
    assert len(memory.get_extra_state()[:, 0].unique()) == 2
    # A model that is tested remembers nothing.
    before = memory.get_extra_state()
    model.eval()(training_batch())
    model.head.after_step()
    assert torch.equal(memory.get_extra_state(), before)


def test_accuracy_is_logged_now_and_then(data, tmp_path):
    model = model_of(data[1], tmp_path).train()
    for iteration, is_logged in ((0, True), (1, False), (19, False), (20, True)):
        with EventStorage(iteration) as storage:
            model(training_batch())
            assert ("accuracy" in storage.latest()) == is_logged
            if is_logged:
                assert 0 <= storage.latest()["accuracy"][0] <= 1


def test_a_crop_without_any_label_trains_on(data, tmp_path):
    model = model_of(data[1], tmp_path).train()
    for value in (254, 255):
        batch = training_batch()
        for sample in batch:
            sample["evidence"]["label_map"][:] = value
            sample["weak"].tags = torch.zeros(0, dtype=torch.int64)
        losses = model(batch)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert losses["loss_annotation"] == losses["loss_cooccurrence"] == losses["loss_pixel"] == 0
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("freeze", [False, True])
def test_statistics_of_layers_without_gradient_move_unless_frozen(data, tmp_path, freeze):
    """Fault j: as published they move."""
    model = model_of(data[1], tmp_path, MODEL__BACKBONE__FREEZE_AT=2, MODEL__SPML__FREEZE_STATISTICS=freeze).train()
    before = {name: values.clone() for name, values in model.state_dict().items() if name.endswith("running_mean")}
    model(training_batch())
    moved = {name for name, values in before.items() if not torch.equal(values, model.state_dict()[name])}
    still = {name for name in before if name.startswith(("backbone.stem.", "backbone.res2."))} if freeze else set()
    assert moved == set(before) - still and before.keys() > still
    assert model.training and model.head.network.classifier.training


def test_the_optimiser_has_each_trained_tensor_once(data, tmp_path):
    model = model_of(data[1], tmp_path, MODEL__BACKBONE__FREEZE_AT=2, MODEL__SPML__SOLVER__HEAD_LR_FACTOR=7.0)
    factors = {
        id(parameter): (group["lr_mult"], group["decay_mult"])
        for group in model.parameter_groups()
        for parameter in group["params"]
    }
    trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    assert factors.keys() == trained.keys()
    assert sum(len(group["params"]) for group in model.parameter_groups()) == len(trained)
    for key, name in trained.items():
        is_bias, factor = name.endswith(".bias"), 1.0 if name.startswith("backbone.") else 7.0
        assert factors[key] == ((2 * factor, 0.0) if is_bias else (factor, 1.0)), name


def test_half_precision_training_has_the_losses_of_its_features(data, tmp_path):
    """The contrast of features that came out of bfloat16 is made in float32."""
    model = model_of(data[1], tmp_path).train()
    caught = {}
    model.head.criterion.register_forward_pre_hook(lambda _, arguments: caught.update(arguments=arguments))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(training_batch())
    contrast, logits, labels = caught["arguments"]
    assert logits.dtype == torch.bfloat16
    assert contrast.segments.located.dtype == torch.float32
    expected = model.head.criterion(contrast, logits.float(), labels)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-3, atol=0)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_samples_of_the_loader_train(data, tmp_path):
    cfg = small_config(data[1], tmp_path)
    batch = next(iter(build_train_loader(cfg, WeakMapper(cfg, True))))
    assert [sample["image"].shape for sample in batch] == [(3, 64, 64)] * 2
    losses = model_of(data[1], tmp_path).train()(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_pixel"] > 0 and losses["loss_image"] > 0
