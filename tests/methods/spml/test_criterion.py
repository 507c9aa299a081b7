"""All losses of the first stage against the card's sums, pixel by pixel; what is missing costs nothing; the memory."""

import itertools
from dataclasses import replace

import pytest
import torch
from methods.spml.literal_criterion import (
    CHANNELS,
    CLASSES,
    IGNORED,
    PIXEL_WEIGHT,
    RELATIONS,
    TERMS,
    UNLABELLED,
    Literal,
    contrast_of,
    literal_cross_entropy,
    losses_of,
    make_criterion,
    memory_rows,
    of_images,
    scene,
)

from weakseg.methods.spml.criterion import Relation


@pytest.mark.parametrize("of_embedding", [False, True])
@pytest.mark.parametrize("official", [False, True])
def test_losses_and_accuracy_are_the_sums_of_the_card(official, of_embedding):
    criterion = make_criterion(
        memory=1,
        relations=replace(RELATIONS, image_of_embedding=of_embedding),
        official=official,
        squeeze=0.3 if of_embedding else 1.0,
    )
    earlier = contrast_of(criterion, **scene(n=1, seed=7))
    criterion.remember(earlier.prototypes)
    criterion.end_step()
    arguments = scene()
    contrast = contrast_of(criterion, **arguments)
    assert [len(tags) > 0 for tags in Literal(contrast).tags] == [True, True, False]
    literal = Literal(contrast, memory_rows(earlier))
    found = criterion(contrast, arguments["logits"], arguments["labels"])
    # Fault a: the published weight of the annotated class is that of the pixel classifier too.
    pixel_weight = 0.3 if official else PIXEL_WEIGHT
    expected = {
        "loss_pixel": pixel_weight * literal_cross_entropy(arguments["logits"], arguments["labels"]),
        "loss_annotation": 0.3 * literal.annotation(6.0),
        "loss_cooccurrence": 0.5 * literal.cooccurrence(8.0, official),
        "loss_image": 0.1 * literal.image(16.0, of_embedding),
        "loss_affinity": 0.2 * literal.affinity(12.0, 0.3),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-9), name
    assert contrast.accuracy().item() == pytest.approx(literal.accuracy(), abs=1e-6)
    # Some sets are propagated labels, some are of all classes, and not only labelled segments have one.
    sets = [literal.propagated(j, 0.3) for j in range(len(literal.labels))]
    assert any(len(s) > 1 for s in sets)
    assert any(len(s) == 1 and literal.labels[j][1] >= CLASSES for j, s in enumerate(sets))


@pytest.mark.parametrize("on", itertools.product([False, True], repeat=4))
def test_each_relation_is_independent(on):
    """Fault e: published models crash without annotation or cooccurrence."""
    arguments = scene()
    every = losses_of(make_criterion(), **arguments)
    off = {name: replace(getattr(RELATIONS, name), weight=0.0) for name, is_on in zip(TERMS, on) if not is_on}
    found = losses_of(make_criterion(relations=replace(RELATIONS, **off)), **arguments)
    assert set(found) == {"loss_pixel", *(f"loss_{name}" for name, is_on in zip(TERMS, on) if is_on)}
    for name, loss in found.items():
        torch.testing.assert_close(loss, every[name])
    sum(found.values()).backward()
    # The pixel classifier alone does not train the embedding, yet all ranks meet in its backward pass.
    assert arguments["embedding"].grad.any() == any(on)


def test_gradients_are_those_of_the_losses():
    arguments = scene(n=2, size=(3, 4), crop=(6, 8))
    criterion = make_criterion(memory=1)
    contrast = contrast_of(criterion, **scene(n=1, seed=3))
    criterion.remember(contrast.prototypes)
    criterion.end_step()
    labelled = {name: arguments[name] for name in ("labels", "regions", "tags")}

    def total(embedding, logits):
        return sum(losses_of(criterion, embedding=embedding, logits=logits, **labelled).values())

    assert torch.autograd.gradcheck(
        total, (arguments["embedding"], arguments["logits"]), eps=1e-7, atol=1e-5, fast_mode=True
    )


def backward(losses, arguments):
    """The losses as numbers after a backward pass, all of it finite."""
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) and loss.dim() == 0 for loss in losses.values())
    for name in ("embedding", "logits"):
        assert torch.isfinite(arguments[name].grad).all()
    return {name.removeprefix("loss_"): loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("memory", [0, 1])
def test_a_batch_without_any_label(memory):
    """Fault d: published losses are not a number."""
    criterion = make_criterion(memory=memory)
    criterion.remember(contrast_of(criterion, **scene(seed=5)).prototypes)
    criterion.end_step()
    arguments = scene()
    arguments["labels"] = torch.where(arguments["labels"] < CLASSES, UNLABELLED, arguments["labels"])
    arguments["tags"] = torch.zeros_like(arguments["tags"])
    losses = backward(losses_of(criterion, **arguments), arguments)
    assert losses["annotation"] == losses["cooccurrence"] == losses["pixel"] == 0
    assert losses["image"] > 0
    # Without a labelled segment each set holds all classes: there is nothing to be told apart.
    assert losses["affinity"] == pytest.approx(0, abs=1e-12)
    assert (arguments["logits"].grad == 0).all() and arguments["embedding"].grad.any()


@pytest.mark.parametrize("official", [False, True])
def test_an_image_of_ignored_pixels_changes_nothing(official):
    criterion = make_criterion(official=official)
    arguments = scene()
    arguments["labels"][1] = IGNORED
    expected = backward(losses_of(criterion, **(alone := of_images(arguments, [0, 2]))), alone)
    assert all(value > 0 for value in expected.values())
    assert backward(losses_of(criterion, **arguments), arguments) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(arguments["embedding"].grad[[0, 2]], alone["embedding"].grad)
    assert (arguments["embedding"].grad[1] == 0).all() and (arguments["logits"].grad[1] == 0).all()


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("memory", [0, 1])
def test_a_batch_of_ignored_pixels(memory, official):
    criterion = make_criterion(memory=memory, official=official)
    criterion.remember(contrast_of(criterion, **scene(seed=5)).prototypes)
    criterion.end_step()
    arguments = scene()
    arguments["labels"][:] = IGNORED
    contrast = contrast_of(criterion, **arguments)
    losses = backward(criterion(contrast, arguments["logits"], arguments["labels"]), arguments)
    assert set(losses.values()) == {0.0}
    assert (arguments["embedding"].grad == 0).all()
    assert 0 <= contrast.accuracy() <= 1
    criterion.remember(contrast.prototypes)
    criterion.end_step()
    assert (criterion.memory.prototypes() is None) == (memory == 0)


def test_one_class_has_nothing_to_be_told_apart():
    arguments = scene()
    arguments["labels"] = torch.where(arguments["labels"] == IGNORED, IGNORED, 2)
    arguments["tags"] = torch.tensor([[False, False, True, False]] * 3)
    losses = backward(losses_of(make_criterion(), **arguments), arguments)
    for name in ("annotation", "cooccurrence", "affinity"):
        assert losses[name] == pytest.approx(0, abs=1e-12)
    assert losses["image"] > 0 and losses["pixel"] > 0


def test_what_lies_beside_an_image_smaller_than_the_crop_does_not_matter():
    arguments = scene()
    arguments["labels"][:, 16:] = IGNORED
    arguments["regions"][:, 16:] = IGNORED
    other = dict(arguments, embedding=arguments["embedding"].detach().clone())
    other["embedding"][:, :, 4:] = 100.0
    other["embedding"].requires_grad_()
    expected = backward(losses_of(make_criterion(), **arguments), arguments)
    arguments["logits"].grad = None
    assert backward(losses_of(make_criterion(), **other), other) == expected
    assert (other["embedding"].grad[:, :, 4:] == 0).all() and other["embedding"].grad[:, :, :4].any()


@pytest.mark.parametrize("length", [0, 1, 2])
def test_the_memory_holds_the_last_steps_oldest_first(length):
    criterion, bare = make_criterion(memory=length), make_criterion()
    steps = [[contrast_of(bare, **scene(n=n, seed=10 * step + n)).prototypes for n in (1, 2)] for step in range(4)]
    for step, parts in enumerate(steps):
        arguments = scene(seed=99)
        contrast = contrast_of(criterion, **arguments)
        expected = [prototypes for parts in steps[:step][-length:] for prototypes in parts] if length else []
        if expected:
            for name in ("vector", "semantic", "tags"):
                joined = torch.cat([getattr(prototypes, name) for prototypes in expected])
                assert torch.equal(getattr(contrast.memory, name), joined)
            assert not contrast.memory.vector.requires_grad and (contrast.memory.image == -1).all()
        else:
            assert contrast.memory is None
        losses, without = losses_of(criterion, **arguments), losses_of(bare, **arguments)
        for name in ("annotation", "cooccurrence"):
            assert (losses[f"loss_{name}"] != without[f"loss_{name}"]) == bool(expected)
        for name in ("image", "affinity", "pixel"):
            assert losses[f"loss_{name}"] == without[f"loss_{name}"]
        for prototypes in parts:
            criterion.remember(prototypes)
            # What a micro-batch adds is not seen before the step ends.
            assert sum(len(p.semantic) for p in expected) == len(criterion.memory.get_extra_state())
        criterion.end_step()
    # A step without micro-batches, as of another method's loop, leaves the memory as it is.
    before = criterion.memory.get_extra_state()
    criterion.end_step()
    assert torch.equal(criterion.memory.get_extra_state(), before)


def test_half_precision_stays_out_of_the_exponentials():
    """Exponentials of up to e^16, sums and normalisers are made in float32 from features of bfloat16."""
    arguments = scene()
    # All but the same direction: the largest exponentials, which a sum in bfloat16 would not tell apart.
    embedding = arguments["embedding"].detach() * 0.2 + torch.arange(1.0, CHANNELS + 1)[:, None, None]
    half = embedding.bfloat16().requires_grad_()
    logits = arguments["logits"].detach().bfloat16().requires_grad_()
    others = {name: arguments[name] for name in ("labels", "regions", "tags")}
    criterion = make_criterion(relations=replace(RELATIONS, **{name: Relation(1.0, 16.0) for name in TERMS}))
    expected = losses_of(criterion, embedding=half.detach().double(), logits=logits.detach().double(), **others)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses_of(criterion, embedding=half, logits=logits, **others)
    for name, loss in found.items():
        assert loss.dtype == torch.float32 and loss > 0
        torch.testing.assert_close(loss.double(), expected[name], rtol=1e-4, atol=0)
    backward(found, {"embedding": half, "logits": logits})


def test_the_order_of_a_batch_does_not_matter():
    arguments = scene()
    found = [
        backward(losses_of(make_criterion(), **(part := of_images(arguments, order))), part)
        for order in ([0, 1, 2], [2, 0, 1])
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-10)
