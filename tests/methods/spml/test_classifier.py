"""The pixel classifier and its cross entropy."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.spml.classifier import PixelClassifier, pixel_cross_entropy


def embedding(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_logits_by_formula():
    classifier = PixelClassifier(3, 4).eval()
    classifier.norm.running_mean.fill_(0.1)
    classifier.norm.running_var.fill_(0.25)
    x = embedding(2, 3, 5, 6)
    unit = x / x.square().sum(1, keepdim=True).sqrt()
    hidden = (F.conv2d(unit, classifier.conv.weight, padding=1) - 0.1) / (0.25 + 1e-5) ** 0.5
    expected = torch.einsum("kc,bchw->bkhw", classifier.predict.weight[:, :, 0, 0], hidden.clamp(min=0))
    found = classifier(x)
    torch.testing.assert_close(found, expected + classifier.predict.bias[:, None, None], rtol=1e-4, atol=1e-5)
    assert classifier.conv.weight.shape == (6, 3, 3, 3) and classifier.conv.bias is None
    torch.testing.assert_close(classifier(7 * x), found, msg="only the direction counts")


def test_no_gradient_reaches_the_embedding():
    classifier = PixelClassifier(3, 4)
    x = embedding(2, 3, 5, 6).requires_grad_()
    for logits in (
        classifier(x),
        classifier.full_logits(x, (9, 9)),
        classifier.full_logits(x, (9, 9), at_stride_4=True),
    ):
        logits.square().sum().backward()
    assert x.grad is None
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in classifier.parameters())


def test_dropout_and_momentum():
    torch.manual_seed(0)
    classifier = PixelClassifier(32, 2, dropout=0.65)
    assert classifier.norm.momentum == 0.1
    assert PixelClassifier(3, 2).dropout.p == 0.75
    kept = []
    classifier.predict.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    dropped = embedding(2, 32, 20, 20)
    classifier(dropped)
    classifier.eval()(dropped)
    ratio = (kept[0] > 0).float().mean() / (kept[1] > 0).float().mean()
    assert ratio.item() == pytest.approx(0.35, abs=0.03)


@torch.no_grad()
def test_a_zero_embedding_is_defined():
    assert torch.isfinite(PixelClassifier(3, 4).eval()(torch.zeros(1, 3, 2, 2))).all()


@torch.no_grad()
def test_full_size_either_way():
    classifier = PixelClassifier(3, 4).eval()
    x = embedding(1, 3, 6, 5)
    size = (24, 17)

    def resized(maps):
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)

    torch.testing.assert_close(classifier.full_logits(x, size), classifier(resized(x)))
    torch.testing.assert_close(classifier.full_logits(x, size, at_stride_4=True), resized(classifier(x)))


def test_cross_entropy_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.5]]).T.reshape(1, 2, 1, 3).requires_grad_()
    # The third is unlabelled, as 2 classes are known.
    labels = torch.tensor([[[0, 0, 2]]])
    total, count = pixel_cross_entropy(logits, labels)
    expected = torch.log(1 + torch.tensor(2.0).neg().exp()) + torch.log(1 + torch.tensor(1.0).exp())
    torch.testing.assert_close(total, expected)
    assert count == 2
    total.backward()
    assert logits.grad[..., :2].any() and not logits.grad[..., 2].any()


def test_cross_entropy_is_at_the_size_of_the_labels():
    logits = embedding(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 9, 13), generator=torch.Generator().manual_seed(1))
    labels[0, 3] = 255
    labels[1, 2] = 3
    total, count = pixel_cross_entropy(logits, labels)
    full = F.interpolate(logits, (9, 13), mode="bilinear", align_corners=False).log_softmax(1)
    expected = [
        -full[b, labels[b, i, j], i, j] for b in range(2) for i in range(9) for j in range(13) if labels[b, i, j] < 3
    ]
    assert count == len(expected) == 2 * 9 * 13 - 2 * 13
    torch.testing.assert_close(total, torch.stack(expected).sum())


def test_without_a_labelled_pixel_the_loss_is_zero_in_the_graph():
    classifier = PixelClassifier(3, 4)
    for labels in (torch.full((1, 8, 8), 255), torch.full((1, 8, 8), 4, dtype=torch.uint8)):
        total, count = pixel_cross_entropy(classifier(embedding(1, 3, 2, 2)), labels)
        assert total.item() == 0 and count.item() == 0
        total.backward()
    assert not any(parameter.grad.any() for parameter in classifier.parameters())


def test_half_precision():
    classifier = PixelClassifier(8, 4).eval()
    x, labels = embedding(1, 8, 6, 6), torch.arange(36).reshape(1, 6, 6) % 4
    expected, _ = pixel_cross_entropy(classifier(x), labels)
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(x.bfloat16())
        total, _ = pixel_cross_entropy(logits, labels)
    assert logits.dtype == torch.bfloat16 and total.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=2e-3, atol=0)
