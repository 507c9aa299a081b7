"""Loading exactly: every parameter and buffer must fit; extra state is taken where there is some, of any size."""

import pytest
import torch

from engine.remembering import EXTRA, RememberingModel
from engine.toy import ToyModel
from weakseg.weights import check_background, load_exactly, without_extra_state

REMEDY = "Do something else."


def load(model, state):
    load_exactly(model, {"model": state}, "file.pth", remedy=REMEDY)


def equal(a, b) -> bool:
    a, b = without_extra_state(a.state_dict()), without_extra_state(b.state_dict())
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("own", [(), (7.0,), (7.0, 8.0, 9.0)])
@pytest.mark.parametrize("saved", [(), (1.0, 2.0)])
def test_extra_state_of_another_size_is_loaded(own, saved):
    source, model = RememberingModel(*saved), RememberingModel(*own)
    load(model, source.state_dict())
    assert model.seen == list(saved) and equal(model, source)


def test_a_file_without_extra_state_leaves_the_models():
    source, model = ToyModel(), RememberingModel()
    load(model, source.state_dict())
    assert model.seen == [] and equal(model, source)


def test_extra_state_that_the_model_has_no_place_for_is_left_out():
    source, model = RememberingModel(1.0), ToyModel()
    load(model, source.state_dict())
    assert equal(model, source)


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda state: state.pop("backbone.bias"), r"found 1 tensors missing \(backbone.bias\)"),
        (lambda state: state.update(more=torch.ones(1)), r"found 1 tensors too many \(more\)"),
        (lambda state: state.update({"backbone.bias": torch.ones(7)}), r"1 tensors of another shape \(backbone.bias: "),
    ],
)
def test_all_else_must_fit_or_nothing_is_loaded(change, found):
    state = RememberingModel(1.0, 2.0).state_dict()
    change(state)
    model = RememberingModel(5.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"file.pth: expected exactly the 5 tensors of this model; .*{found}.*else"):
        load(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_extra_state_is_taken_out_of_a_state_dict():
    state = RememberingModel(1.0).state_dict()
    assert EXTRA in state
    assert list(without_extra_state(state)) == [name for name in state if name != EXTRA]
    assert without_extra_state({"_extra_state": torch.ones(1)}) == {}


@pytest.mark.parametrize(
    "names, expected, index",
    [
        (["cat", "background", "dog"], ["cat", "dog", "background"], 1),
        (["cat", "dog", "background"], ["cat", "dog", "grass"], 2),
        (["cat", "dog", "Background"], ["puma", "dog", "background"], 2),
    ],
)
def test_another_background_is_refused_with_the_first_difference(names, expected, index):
    with pytest.raises(ValueError, match=f"^here: expected class {index} to be '{expected[index]}', .*{names[index]}'"):
        check_background(names, expected, "here")
    model = ToyModel()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    content = {"model": {name: value + 1 for name, value in before.items()}, "metadata": {"stuff_classes": names}}
    with pytest.raises(ValueError, match=f"^file.pth: expected class {index} to be '{expected[index]}'"):
        load_exactly(model, content, "file.pth", class_names=expected, remedy=REMEDY)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "names, expected",
    [
        (["cat", "background"], ["dog", "background"]),
        (["cat", "dog"], ["dog", "cat"]),
        (["background"], ["cat", "background"]),
        ([], ["background"]),
    ],
)
def test_the_same_background_or_none_passes_whatever_the_others(names, expected):
    check_background(names, expected, "here")
