"""The average follows its formula, buffers included, and survives saving."""

import pytest
import torch
from torch import nn

from engine.remembering import EXTRA, RememberingModel
from weakseg.engine import ModelEMA


class Counted(nn.Module):
    """One number, one float buffer, one integer buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.register_buffer("mean", torch.tensor([10.0]))
        self.register_buffer("count", torch.tensor(0))

    def become(self, weight: float, mean: float, count: int) -> None:
        with torch.no_grad():
            self.weight.fill_(weight)
            self.mean.fill_(mean)
            self.count.fill_(count)


def values(state: dict) -> tuple[float, float, int]:
    return state["weight"].item(), state["mean"].item(), state["count"].item()


def test_average_of_parameters_and_buffers_follows_the_formula():
    model = Counted()
    ema = ModelEMA(model, decay=0.15)
    model.become(2.0, 20.0, 7)
    ema.update(model)  # decay min(0.15, 1 / 10)
    assert values(ema.average) == pytest.approx((0.1 * 1 + 0.9 * 2, 0.1 * 10 + 0.9 * 20, 7))
    model.become(4.0, 30.0, 9)
    ema.update(model)  # decay min(0.15, 2 / 11) is the constant
    assert values(ema.average) == pytest.approx((0.15 * 1.9 + 0.85 * 4, 0.15 * 19 + 0.85 * 30, 9))
    assert ema.updates == 2


def test_warm_up_reaches_the_constant_decay():
    model = Counted()
    ema = ModelEMA(model, decay=0.5)
    expected = 1.0
    for n in range(1, 15):
        model.become(float(n % 3), 0.0, n)
        ema.update(model)
        decay = min(0.5, n / (9 + n))
        expected = decay * expected + (1 - decay) * (n % 3)
    assert ema.average["weight"].item() == pytest.approx(expected)


def test_model_has_the_average_within_the_context_only():
    model = Counted()
    ema = ModelEMA(model, decay=0.9)
    model.become(3.0, 30.0, 5)
    ema.update(model)
    with ema.applied_to(model):
        assert values(model.state_dict()) == pytest.approx((2.8, 28.0, 5))
        assert model.weight.requires_grad
        assert torch.is_grad_enabled()
    assert values(model.state_dict()) == (3.0, 30.0, 5)


def test_model_is_restored_after_an_error():
    model = Counted()
    ema = ModelEMA(model, decay=0.9)
    model.become(3.0, 30.0, 5)
    with pytest.raises(RuntimeError), ema.applied_to(model):
        raise RuntimeError
    assert values(model.state_dict()) == (3.0, 30.0, 5)


def test_average_does_not_share_memory_with_the_model():
    model = Counted()
    ema = ModelEMA(model, decay=0.9)
    model.become(3.0, 30.0, 5)
    assert values(ema.average) == (1.0, 10.0, 0)


def test_saved_average_goes_on_as_if_never_stopped(tmp_path):
    model = Counted()
    ema = ModelEMA(model, decay=0.3)
    for n in range(3):
        model.become(n, 2 * n, n)
        ema.update(model)
    torch.save(ema.state_dict(), tmp_path / "ema.pth")
    resumed = ModelEMA(Counted(), decay=0.3)
    resumed.load_state_dict(torch.load(tmp_path / "ema.pth"))
    for average in (ema, resumed):
        model.become(5.0, 5.0, 5)
        average.update(model)
    assert values(resumed.average) == values(ema.average)
    assert resumed.updates == ema.updates == 4


def test_reset_starts_from_the_present_values():
    model = Counted()
    ema = ModelEMA(model, decay=0.3)
    model.become(3.0, 30.0, 5)
    ema.update(model)
    ema.reset(model)
    assert values(ema.average) == (3.0, 30.0, 5)
    assert ema.updates == 0


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match=f"SOLVER.EMA.DECAY: expected 0 <= decay < 1; found {decay}"):
        ModelEMA(Counted(), decay)


def test_extra_state_has_no_average_and_stays_in_the_model(tmp_path):
    model = RememberingModel(1.0)
    ema = ModelEMA(model, decay=0.9)
    model.head.memory.append(torch.tensor(2.0))
    with torch.no_grad():
        model.backbone.bias.fill_(3.0)
    ema.update(model)  # the memory has grown since the start
    assert EXTRA not in ema.average and "head.classify.weight" in ema.average
    with ema.applied_to(model):
        assert model.seen == [1.0, 2.0]
        assert torch.equal(model.backbone.bias, ema.average["backbone.bias"])
    assert model.seen == [1.0, 2.0] and model.backbone.bias.tolist() == [3.0] * 6
    torch.save(ema.state_dict(), tmp_path / "ema.pth")
    resumed = ModelEMA(RememberingModel(), decay=0.9)
    resumed.load_state_dict(torch.load(tmp_path / "ema.pth"))
    assert resumed.updates == 1
    assert all(torch.equal(value, ema.average[name]) for name, value in resumed.average.items())
