"""Checkpoints are complete files, load exactly, and lend themselves to fine-tuning on other classes."""

import logging

import pytest
import torch
import yaml
from torch import nn

from engine.remembering import RememberingModel, RememberingTrainer
from engine.toy import ToyModel, loggers_as_before, toy_config
from weakseg import __version__
from weakseg.engine import Checkpointer, ModelEMA, describe_run, load_config

CLASSES = {"metadata": {"stuff_classes": ["cat", "dog", "grass"]}}


def random_model(seed: int, classes: int = 3) -> ToyModel:
    torch.manual_seed(seed)
    model = ToyModel(classes)
    model.head.iteration.fill_(seed)
    return model


def equal(a: ToyModel, b: ToyModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def saved(folder, model: ToyModel, **description) -> str:
    Checkpointer(model, str(folder), description=description).save("model")
    return str(folder / "model.pth")


def test_round_trip_of_model_and_checkpointables(tmp_path):
    model, other = random_model(1), random_model(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model([{"image": torch.ones(6), "target": torch.tensor(1.0)}])["loss_sum"].backward()
    optimizer.step()
    ema, other_ema = ModelEMA(model, 0.9), ModelEMA(other, 0.9)
    ema.update(model)
    Checkpointer(model, str(tmp_path), optimizer=optimizer, ema=ema).save("model_0000004", iteration=4)

    other_optimizer = torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.9)
    checkpointer = Checkpointer(other, str(tmp_path), optimizer=other_optimizer, ema=other_ema)
    extra = checkpointer.resume_or_load("", resume=True)
    assert extra == {"iteration": 4}
    assert equal(model, other)
    assert other_optimizer.param_groups[0]["lr"] == 0.1
    for mine, theirs in zip(optimizer.state.values(), other_optimizer.state.values()):
        assert torch.equal(mine["momentum_buffer"], theirs["momentum_buffer"])
    assert other_ema.updates == 1
    assert all(torch.equal(ema.average[name], value) for name, value in other_ema.average.items())


def test_file_alone_says_version_config_and_classes(tmp_path):
    cfg = toy_config(tmp_path, "SOLVER.BASE_LR", 0.125)
    path = saved(tmp_path, random_model(1), **describe_run(cfg))
    content = torch.load(path)
    assert content["weakseg_version"] == __version__
    assert content["metadata"] == {
        "thing_classes": ["cat", "dog"],
        "stuff_classes": ["cat", "dog", "grass"],
        "thing_colors": [[255, 0, 0], [0, 255, 0]],
        "stuff_colors": [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
    }
    (tmp_path / "again.yaml").write_text(content["config"])
    again = load_config(tmp_path / "again.yaml").dump()
    assert yaml.safe_load(again) == yaml.safe_load(cfg.dump())


@pytest.mark.parametrize("written", [0, 100])
def test_interrupted_save_leaves_file_and_pointer_as_they_were(tmp_path, monkeypatch, written):
    path = saved(tmp_path, random_model(1))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def broken(content, target, *args, **kwargs):
        with open(target, "wb") as stream:
            stream.write(b"x" * written)
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", broken)
    checkpointer = Checkpointer(random_model(2), str(tmp_path))
    for name in ("model", "model_0000009"):
        with pytest.raises(OSError, match="no space left"):
            checkpointer.save(name)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert checkpointer.get_checkpoint_file() == path


def test_resume_takes_the_last_saved_file(tmp_path):
    for seed in (1, 2):
        Checkpointer(random_model(seed), str(tmp_path)).save(f"model_{seed}")
    model = random_model(3)
    Checkpointer(model, str(tmp_path)).resume_or_load("ignored.pth", resume=True)
    assert equal(model, random_model(2))


def test_without_a_checkpoint_resume_fine_tunes(tmp_path, caplog):
    path = saved(tmp_path / "a", random_model(1))
    model = random_model(2)
    assert Checkpointer(model, str(tmp_path / "b")).resume_or_load(path, resume=True) == {}
    assert torch.equal(model.backbone.weight, random_model(1).backbone.weight)
    assert "has no checkpoint to resume; training starts anew" in caplog.text


def test_missing_checkpointable_is_said_and_starts_anew(tmp_path, caplog):
    path = saved(tmp_path, random_model(1))
    model = random_model(2)
    Checkpointer(model, ema=ModelEMA(model, 0.9)).load(path)
    assert f"{path} holds no ema; it starts anew." in caplog.text


def test_exact_loading_keeps_the_iteration_counter(tmp_path):
    model = random_model(2)
    Checkpointer(model).load(saved(tmp_path, random_model(5)))
    assert model.head.iteration == 5


def test_exact_loading_refuses_another_number_of_classes(tmp_path):
    path = saved(tmp_path, random_model(1, classes=5), metadata={"stuff_classes": list("vwxyz")})
    model = random_model(2)
    with pytest.raises(ValueError) as error:
        Checkpointer(model, description=CLASSES).load(path)
    assert str(error.value) == (
        f"{path}: expected exactly the 5 tensors of this model; found 5 classes (v, w, x and 2 others) where the data "
        "set has 3 (cat, dog, grass), 2 tensors of another shape (head.classify.weight: (5, 6) instead of (3, 6)). Use "
        "the config and the data set that the file was trained with, or fine-tune: train with it as MODEL.WEIGHTS, "
        "without --resume."
    )
    assert equal(model, random_model(2))


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda state: state.pop("head.classify.bias"), "found 1 tensors missing \\(head.classify.bias\\)"),
        (lambda state: state.update(more=torch.ones(1)), "found 1 tensors too many \\(more\\)"),
    ],
)
def test_exact_loading_refuses_missing_and_unexpected_tensors(tmp_path, change, found):
    state = random_model(1).state_dict()
    change(state)
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=found):
        Checkpointer(random_model(2)).load(str(tmp_path / "model.pth"))


def test_other_class_names_are_said(tmp_path, caplog):
    path = saved(tmp_path, random_model(1), metadata={"stuff_classes": ["cow", "dog", "grass"]})
    Checkpointer(random_model(2), description=CLASSES).load(path)
    assert f"{path} was trained on other class names (cow, dog, grass) than this data set's." in caplog.text
    caplog.clear()
    Checkpointer(random_model(2), description=CLASSES).load(saved(tmp_path, random_model(1), **CLASSES))
    assert "other class names" not in caplog.text


def test_fine_tuning_replaces_class_shaped_tensors_and_says_so(tmp_path, caplog):
    path = saved(tmp_path, random_model(4, classes=81))
    model = random_model(2)
    with caplog.at_level(logging.INFO):
        Checkpointer(model).fine_tune(path)
    assert caplog.messages[-1] == (
        f"{path}: 81 -> 3 classes: head.classify.weight, head.classify.bias start new; 3 of 5 tensors loaded"
    )
    assert torch.equal(model.backbone.weight, random_model(4, classes=81).backbone.weight)
    assert torch.equal(model.head.classify.weight, random_model(2).head.classify.weight)


def test_fine_tuning_says_what_is_not_in_the_file_or_not_used(tmp_path, caplog):
    state = {name: value for name, value in random_model(1).state_dict().items() if name.startswith("backbone")}
    torch.save({**state, "extra": torch.ones(2)}, tmp_path / "backbone.pth")
    with caplog.at_level(logging.INFO):
        Checkpointer(random_model(2)).fine_tune(str(tmp_path / "backbone.pth"))
    assert caplog.messages[-1].endswith(
        "2 of 5 tensors loaded; not in the file: head.classify.bias, head.classify.weight, head.iteration; "
        "not in the model: extra"
    )


@pytest.mark.parametrize(
    ("dropped", "added", "found"),
    [
        ("backbone.bias", None, r"found 1 missing \(backbone.bias\)"),
        (None, "backbone.layer.weight", r"found 1 too many \(backbone.layer.weight\)"),
    ],
)
def test_fine_tuning_refuses_another_backbone(tmp_path, dropped, added, found):
    state = random_model(1).state_dict()
    state.pop(dropped, None)
    state |= {added: torch.ones(2)} if added else {}
    torch.save({"model": state | {"backbone.norm.num_batches_tracked": torch.tensor(0)}}, tmp_path / "model.pth")
    model = random_model(2)
    with pytest.raises(ValueError, match=found):
        Checkpointer(model).fine_tune(str(tmp_path / "model.pth"))
    assert equal(model, random_model(2))


def test_fine_tuning_refuses_a_shape_that_is_not_a_number_of_classes(tmp_path):
    state = random_model(1).state_dict() | {"backbone.weight": torch.zeros(6, 5)}
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"expected backbone.weight of shape \(6, 6\); found \(6, 5\)"):
        Checkpointer(random_model(2)).fine_tune(str(tmp_path / "model.pth"))


def test_fine_tuning_refuses_a_file_of_another_network(tmp_path):
    torch.save({"model": {f"conv{i}": torch.ones(1) for i in range(20)}}, tmp_path / "model.pth")
    with pytest.raises(
        ValueError, match="expected tensors like 'backbone.weight'; found 'conv0' and others, of which 0 of 20"
    ):
        Checkpointer(random_model(2)).fine_tune(str(tmp_path / "model.pth"))


def test_names_with_module_in_front_are_understood(tmp_path):
    state = {f"module.{name}": value for name, value in random_model(1).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    model = random_model(2)
    Checkpointer(model).load(str(tmp_path / "model.pth"))
    assert equal(model, random_model(1))


def test_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="expected tensors by name.*found the keys epoch, weights"):
        Checkpointer(random_model(2)).fine_tune(str(tmp_path / "model.pth"))


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth: expected a checkpoint; found nothing there"):
        Checkpointer(random_model(2)).load(str(tmp_path / "none.pth"))


@pytest.mark.parametrize("shared, accepted", [(2, False), (3, True)])
def test_fine_tuning_wants_a_tenth_of_the_names(tmp_path, shared, accepted):
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(15)))
    names = [*list(model.state_dict())[:shared], *(f"other.{i}" for i in range(30 - shared))]
    torch.save(
        {"model": {name: torch.full((1, 1) if "weight" in name else (1,), 5.0) for name in names}}, tmp_path / "m.pth"
    )
    if accepted:
        Checkpointer(model).fine_tune(str(tmp_path / "m.pth"))
        assert model[0].weight.item() == 5.0
    else:
        with pytest.raises(ValueError, match="of which 2 of 30 belong to this model"):
            Checkpointer(model).fine_tune(str(tmp_path / "m.pth"))


def test_a_checkpoint_holds_extra_state_of_any_size(tmp_path, caplog):
    Checkpointer(RememberingModel(1.0, 2.0), str(tmp_path)).save("model", iteration=1)
    for model in (RememberingModel(), RememberingModel(4.0, 5.0, 6.0)):
        with caplog.at_level(logging.INFO):
            Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)
        assert model.seen == [1.0, 2.0]
        assert caplog.messages[-1].endswith("model.pth: all 5 tensors loaded")


def test_a_resumed_run_remembers_what_the_first_did(tmp_path):
    def trained(folder, steps, *, resume=False):
        trainer = RememberingTrainer(toy_config(folder, "SOLVER.MAX_ITER", steps, "SOLVER.EMA.ENABLED", True))
        trainer.resume_or_load(resume=resume)
        trainer.train()
        return trainer

    with loggers_as_before():
        whole = trained(tmp_path / "whole", 6)
        assert len(trained(tmp_path / "parts", 2).module.seen) == 2
        parts = trained(tmp_path / "parts", 6, resume=True)
    assert len(whole.module.seen) == 6 and parts.module.seen == whole.module.seen
    assert equal(parts.module, whole.module)
    assert all(torch.equal(value, whole.ema.average[name]) for name, value in parts.ema.average.items())


def test_fine_tuning_leaves_extra_state_out(tmp_path, caplog):
    path = saved(tmp_path, RememberingModel(1.0, 2.0))
    for model in (RememberingModel(), ToyModel()):
        with caplog.at_level(logging.INFO):
            Checkpointer(model).fine_tune(path)
        assert caplog.messages[-1] == f"{path}: 5 of 5 tensors loaded"
        assert torch.equal(model.backbone.weight, torch.load(path)["model"]["backbone.weight"])
        assert getattr(model, "seen", []) == []
    other = RememberingModel()
    Checkpointer(other).fine_tune(saved(tmp_path, random_model(1)))
    assert other.seen == [] and torch.equal(other.backbone.weight, random_model(1).backbone.weight)
