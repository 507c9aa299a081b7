"""Memory of the last iterations' prototypes."""

import pytest
import torch

from weakseg.methods.spml.memory_bank import MemoryBank
from weakseg.methods.spml.segments import Prototypes


def iteration(fill, count=2):
    labels = torch.full((count,), fill)
    tags = torch.zeros(count, 3, dtype=torch.bool)
    tags[:, fill % 3] = True
    return Prototypes(torch.full((count, 4), float(fill), requires_grad=True), labels, labels, labels, tags, labels)


def bank_of(*fills, length=2, **sizes):
    bank = MemoryBank(length=length, channels=4, num_classes=3)
    for fill in fills:
        bank.append(iteration(fill, **sizes))
    return bank


def test_the_oldest_goes_first_and_comes_first():
    assert bank_of().prototypes() is None
    assert bank_of(1).prototypes().semantic.tolist() == [1, 1]
    memory = bank_of(1, 2, 3).prototypes()
    assert memory.semantic.tolist() == [2, 2, 3, 3]
    assert memory.vector[:, 0].tolist() == [2, 2, 3, 3] and memory.vector.shape == (4, 4)
    assert memory.tags.tolist() == [[False, False, True]] * 2 + [[True, False, False]] * 2
    # Of no image of a batch, and constant.
    assert (memory.image == -1).all()
    assert not memory.vector.requires_grad


def test_no_length_and_no_prototypes():
    assert bank_of(1, 2, length=0).prototypes() is None
    assert bank_of(1, 2, count=0).prototypes() is None


def test_a_checkpoint_holds_the_whole_bank(tmp_path):
    bank = bank_of(1, 254, 3)
    torch.save(bank.state_dict(), tmp_path / "bank.pth")
    state = torch.load(tmp_path / "bank.pth", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    resumed = bank_of(7, 8)
    resumed.load_state_dict(state)
    for memory in (bank, resumed):
        memory.append(iteration(5))
    assert resumed.prototypes().semantic.tolist() == [3, 3, 5, 5]
    for name in ("vector", "semantic", "tags"):
        assert getattr(resumed.prototypes(), name).equal(getattr(bank.prototypes(), name))
    resumed.load_state_dict(bank_of().state_dict())
    assert resumed.prototypes() is None


def test_a_shorter_bank_keeps_the_newest_of_a_checkpoint():
    bank = bank_of(length=1)
    bank.load_state_dict(bank_of(1, 2).state_dict())
    assert bank.prototypes().semantic.tolist() == [2, 2]


@pytest.mark.parametrize("state", [torch.zeros(2, 10), torch.zeros(0, 8), torch.zeros(9)])
def test_a_bank_of_other_classes_is_refused(state):
    with pytest.raises(ValueError, match=r"expected \(rows, 9\) numbers for 3 image tags .* of length 4; found \("):
        bank_of().load_state_dict({"_extra_state": state})
    bank_of().load_state_dict({"_extra_state": torch.zeros(2, 9)})


def test_the_bank_moves_with_its_module():
    bank = torch.nn.Sequential(bank_of(1)).double()
    assert bank[0].prototypes().vector.dtype == torch.float64
