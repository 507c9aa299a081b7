"""One optimiser step is the same however its batch is cut; runs can be stopped, resumed, averaged, evaluated."""

import json
import math

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import JSONWriter
from torch import nn

from engine.toy import ToyModel, ToyTrainer, sample, toy_config, train, train_in_process
from weakseg.engine import Checkpointer, launch

SGD = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.9)


def weights(trainer: ToyTrainer) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trainer.module.parameters()).detach()


def file_weights(path) -> torch.Tensor:
    model = ToyModel()
    Checkpointer(model).load(str(path))
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def last_metric(folder, name: str) -> float:
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row[name] for row in rows if name in row][-1]


def by_hand(batches: int, size: int) -> torch.Tensor:
    """Plain SGD of the toy: momentum 0.9, weight decay 1e-4 on the backbone only, half its rate."""
    torch.manual_seed(3)
    model = ToyModel().train()
    speed = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for batch in range(batches):
        model.zero_grad()
        sum(model([sample(batch * size + i) for i in range(size)]).values()).backward()
        with torch.no_grad():
            for i, (name, parameter) in enumerate(model.named_parameters()):
                backbone = name.startswith("backbone")
                gradient = parameter.grad + (1e-4 * parameter if backbone else 0)
                speed[i] = 0.9 * speed[i] + gradient
                parameter -= (0.025 if backbone else 0.05) * speed[i]
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_run_equals_a_plain_loop(tmp_path):
    torch.testing.assert_close(weights(train(tmp_path, *SGD)), by_hand(6, 4), rtol=1e-6, atol=1e-7)


def test_accumulation_of_parts_equals_one_batch(tmp_path):
    whole = train(tmp_path / "a", *SGD)
    parts = train(tmp_path / "b", *SGD, "SOLVER.ACCUMULATE", 2)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
    assert parts.module.head.iteration == whole.module.head.iteration == 6
    assert last_metric(tmp_path / "a", "total_loss") == pytest.approx(
        last_metric(tmp_path / "b", "total_loss"), rel=1e-5
    )


def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    one = train(tmp_path / "one", *SGD)
    opts = [*SGD, "SOLVER.ACCUMULATE", 2]
    launch(train_in_process, 2, args=(str(tmp_path / "two"), opts))
    two = file_weights(tmp_path / "two" / "model_final.pth")
    torch.testing.assert_close(two, weights(one), rtol=1e-5, atol=1e-6)
    for key in ("loss_sum", "loss_size", "total_loss"):
        assert last_metric(tmp_path / "two", key) == pytest.approx(last_metric(tmp_path / "one", key), rel=1e-5)


def test_full_model_clipping_bounds_the_step(tmp_path):
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"]
    one = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.MAX_ITER", 1]
    trainer = train(tmp_path, *one, *clip, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01)
    gradient = torch.cat([parameter.grad.flatten() for parameter in trainer.module.parameters()])
    assert gradient.norm().item() == pytest.approx(0.01, rel=1e-4)


def test_bfloat16_on_the_cpu_learns_like_float32(tmp_path):
    exact = train(tmp_path / "a", *SGD)
    # float16, the default, becomes bfloat16 on the CPU.
    trainer = train(tmp_path / "b", *SGD, "SOLVER.AMP.ENABLED", True)
    assert trainer._dtype is torch.bfloat16
    assert not trainer._scaler.is_enabled()
    assert all(parameter.dtype is torch.float32 for parameter in trainer.module.parameters())
    assert not torch.equal(weights(trainer), weights(exact))
    torch.testing.assert_close(weights(trainer), weights(exact), rtol=0.1, atol=0.05)


def test_unknown_type_of_mixed_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="SOLVER.AMP.DTYPE: expected float16 or bfloat16; found 'half'. Choose one"):
        ToyTrainer(toy_config(tmp_path, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "half"))


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_resumed_run_equals_the_undisturbed_one(tmp_path, optimizer):
    opts = ["SOLVER.OPTIMIZER", optimizer, "SOLVER.STEPS", (4,), "SOLVER.EMA.ENABLED", True]
    straight = train(tmp_path / "a", *opts)
    train(tmp_path / "b", *opts, "SOLVER.MAX_ITER", 3, "SOLVER.STEPS", ())
    resumed = train(tmp_path / "b", *opts, resume=True)
    assert resumed.start_iter == 3
    assert torch.equal(weights(resumed), weights(straight))
    assert resumed.module.head.iteration == 6
    assert resumed.ema.updates == 6
    assert all(torch.equal(resumed.ema.average[name], value) for name, value in straight.ema.average.items())
    assert last_metric(tmp_path / "b", "lr") == last_metric(tmp_path / "a", "lr") == pytest.approx(0.0025)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    finished = train(tmp_path, *SGD)
    again = train(tmp_path, *SGD, resume=True)
    assert again.start_iter == 6
    assert torch.equal(weights(again), weights(finished))


def test_checkpoints_come_by_period_and_at_the_end(tmp_path):
    train(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 2)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "model_0000001.pth",
        "model_0000003.pth",
        "model_final.pth",
    ]
    assert torch.load(tmp_path / "model_0000003.pth")["iteration"] == 3


def test_fine_tuning_starts_at_iteration_0_with_the_average_at_the_loaded_weights(tmp_path):
    train(tmp_path / "a", *SGD)
    path = str(tmp_path / "a" / "model_final.pth")
    trainer = ToyTrainer(toy_config(tmp_path / "b", "MODEL.WEIGHTS", path, "SOLVER.EMA.ENABLED", True, "SEED", 8))
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0
    assert torch.equal(weights(trainer), file_weights(path))
    assert trainer.module.head.iteration == 0
    assert trainer.ema.average["head.iteration"] == 0
    assert torch.equal(trainer.ema.average["backbone.weight"], trainer.module.backbone.weight)


def test_evaluation_is_periodic_final_and_beside_the_average(tmp_path):
    trainer = ToyTrainer(toy_config(tmp_path, *SGD, "TEST.EVAL_PERIOD", 2, "SOLVER.EMA.ENABLED", True))
    iterations = []
    evaluate = trainer._evaluate
    trainer._hooks[3]._func = lambda: iterations.append(trainer.iter) or evaluate()
    results = trainer.train()
    assert iterations == [1, 3, 6]
    assert results["toy"]["sum"] == pytest.approx(weights(trainer).sum().item())
    averaged = sum(trainer.ema.average[name].sum().item() for name, _ in trainer.module.named_parameters())
    assert results["ema"]["toy"]["sum"] == pytest.approx(averaged)
    assert results["ema"] != results["toy"]
    assert last_metric(tmp_path, "ema/toy/sum") == pytest.approx(averaged)


def kept_rate(path) -> float:
    return yaml.safe_load(path.read_text())["SOLVER"]["BASE_LR"]


def test_config_of_a_run_stays_until_the_next_one_trains(tmp_path):
    path = tmp_path / "config.yaml"
    train(tmp_path, "SOLVER.BASE_LR", 0.5)
    assert kept_rate(path) == 0.5
    torch.save({"model": ToyModel(classes=5).state_dict()}, tmp_path / "model_final.pth")
    with pytest.raises(ValueError, match="expected exactly"):
        train(tmp_path, "SOLVER.BASE_LR", 0.25, resume=True)
    for weights_file in ("", str(tmp_path / "model_final.pth")):
        with pytest.raises(ValueError, match="expected"):
            ToyTrainer.evaluate(toy_config(tmp_path, "SOLVER.BASE_LR", 0.25, "MODEL.WEIGHTS", weights_file))
    assert kept_rate(path) == 0.5
    assert not (tmp_path / "inference").exists()
    torch.save({"model": ToyModel().state_dict()}, tmp_path / "model_final.pth")
    ToyTrainer.evaluate(toy_config(tmp_path, "SOLVER.BASE_LR", 0.25), resume=True)
    assert (kept_rate(path), kept_rate(tmp_path / "inference" / "config.yaml")) == (0.5, 0.25)


def test_losses_are_written_under_their_iterations(tmp_path):
    trainer = train(tmp_path, *SGD)
    history = trainer.storage.history("total_loss").values()
    assert [iteration for _, iteration in history] == list(range(6))
    torch.manual_seed(3)
    first = sum(ToyModel().train()([sample(i) for i in range(4)]).values()).item()
    assert history[0][0] == pytest.approx(first)
    assert list(tmp_path.glob("events.out.tfevents.*"))


class Poisoned(ToyTrainer):
    """The loss of iteration 2 is no number."""

    @classmethod
    def build_train_loader(cls, cfg, *, prepare=None, start=0):
        for number, batch in enumerate(super().build_train_loader(cfg, start=start)):
            if number == 2:
                batch[1] = {**batch[1], "target": torch.tensor(math.nan), "file_name": "broken.jpg"}
            yield batch


def test_loss_that_is_not_finite_stops_before_the_update_and_names_the_images(tmp_path):
    trainer = Poisoned(toy_config(tmp_path, *SGD, "SOLVER.ACCUMULATE", 2, "SOLVER.CHECKPOINT_PERIOD", 1))
    with pytest.raises(
        FloatingPointError, match="iteration 2: .* found loss_sum = nan on the images 8.jpg, broken.jpg. Look"
    ):
        trainer.train()
    assert torch.equal(weights(trainer), file_weights(tmp_path / "model_0000001.pth"))


def open_files(trainer: ToyTrainer) -> list[bool]:
    (writers,) = [hook._writers for hook in trainer._hooks if isinstance(hook, PeriodicWriter)]
    return [not writer._file_handle.closed for writer in writers if isinstance(writer, JSONWriter)]


@pytest.mark.parametrize("steps", [3, 6])
def test_after_an_error_nothing_is_evaluated_and_the_writers_are_closed(tmp_path, monkeypatch, steps):
    trainer = Poisoned(toy_config(tmp_path, *SGD, "SOLVER.MAX_ITER", steps))
    monkeypatch.setattr(trainer, "test", lambda *rest: pytest.fail("evaluated"))
    assert open_files(trainer) == [True]
    with pytest.raises(FloatingPointError, match="iteration 2"):
        trainer.train()
    assert open_files(trainer) == [False]


def test_writers_are_closed_when_the_evaluation_fails(tmp_path, monkeypatch):
    def fails(*rest):
        raise OSError("no space left on device")

    trainer = ToyTrainer(toy_config(tmp_path, *SGD))
    monkeypatch.setattr(trainer, "test_with_average", fails)
    with pytest.raises(OSError, match="no space left"):
        trainer.train()
    assert open_files(trainer) == [False]
    assert (tmp_path / "model_final.pth").is_file()


def test_seed_is_drawn_where_none_is_set(tmp_path):
    trainer = ToyTrainer(toy_config(tmp_path, "SEED", -1))
    assert trainer.cfg.SEED >= 0
    torch.manual_seed(trainer.cfg.SEED)
    assert torch.equal(trainer.module.backbone.weight, ToyModel().backbone.weight)


def test_evaluation_of_a_file_alone(tmp_path):
    trained = train(tmp_path, *SGD, "SOLVER.EMA.ENABLED", True)
    path = str(tmp_path / "model_final.pth")
    results = ToyTrainer.evaluate(toy_config(tmp_path, "MODEL.WEIGHTS", path))
    assert results == {"toy": {"sum": pytest.approx(weights(trained).sum().item())}}
    resumed = ToyTrainer.evaluate(toy_config(tmp_path, "SOLVER.EMA.ENABLED", True), resume=True)
    assert resumed["toy"] == results["toy"]
    averaged = sum(trained.ema.average[name].sum().item() for name, _ in trained.module.named_parameters())
    assert resumed["ema"]["toy"]["sum"] == pytest.approx(averaged)


def test_evaluation_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--eval-only: expected a checkpoint in MODEL.WEIGHTS; found none"):
        ToyTrainer.evaluate(toy_config(tmp_path))
    with pytest.raises(ValueError, match="last_checkpoint; found none"):
        ToyTrainer.evaluate(toy_config(tmp_path), resume=True)


def test_test_set_of_other_classes_is_refused_before_training(tmp_path):
    metadata = MetadataCatalog.get("toy_engine_other")
    if not metadata.get("thing_classes"):
        metadata.set(thing_classes=["cat"], stuff_classes=["cat", "grass"], thing_colors=[(1, 2, 3)])
        metadata.set(thing_dataset_id_to_contiguous_id={1: 0}, stuff_dataset_id_to_contiguous_id={2: 1})
    with pytest.raises(
        ValueError,
        match="expected toy_engine_other to have the 2 thing and 1 stuff classes of toy_engine; found 1 and 1",
    ):
        ToyTrainer(toy_config(tmp_path, "DATASETS.TEST", ("toy_engine", "toy_engine_other")))


def test_test_set_with_another_background_is_refused_before_training(tmp_path):
    own, other = MetadataCatalog.get("toy_engine"), MetadataCatalog.get("toy_engine_background")
    if not other.get("thing_classes"):
        ids = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
        other.set(thing_classes=["cat", "dog"], stuff_classes=["cat", "dog", "background"])
        other.set(thing_colors=own.thing_colors, stuff_colors=own.stuff_colors, **{key: own.get(key) for key in ids})
    opts = ["DATASETS.TEST", ("toy_engine", "toy_engine_background")]
    with pytest.raises(ValueError, match="toy_engine_background: expected class 2 to be 'grass', .*'background'"):
        ToyTrainer(toy_config(tmp_path, *opts))
