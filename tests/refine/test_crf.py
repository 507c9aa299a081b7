"""Dense CRF: both engines agree, the lattice engine follows the mean field equations, and the edges are defined."""

import sys

import pytest
import torch
import torch.nn.functional as F

from weakseg.refine import crf
from weakseg.refine.crf import crf_features, dense_crf, mean_field
from weakseg.refine.permutohedral import PermutohedralLattice

ENGINES = ["lattice", "pydensecrf"]


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "pydensecrf":
        pytest.importorskip("pydensecrf", reason="needs the extra [crf]")
    return request.param


def scene(height, width, classes, present=None, seed=0):
    """Smooth scores of `present` of the classes (all by default), 0 for the others, and an image of noisy patches."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(channels):
        coarse = torch.randn(1, channels, height // 6 + 2, width // 6 + 2, generator=generator)
        return F.interpolate(coarse, size=(height, width), mode="bilinear")[0]

    chosen = torch.randperm(classes, generator=generator)[: present or classes]
    scores = torch.zeros(classes, height, width)
    scores[chosen] = (2 * smooth(len(chosen))).softmax(0)
    noise = torch.randint(-8, 9, (3, height, width), generator=generator)
    image = (128 + 60 * smooth(3) + noise).clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    return scores, image


def mean_field_by_matrices(scores, image, iterations, kernels):
    """Card 5.5 with (N, N) kernels in float64, every class a row of its own. kernels: (weight, sigma, color sigma)."""
    height, width = image.shape[:2]
    pixels = [
        [x, y, *(int(value) for value in color)] for y, row in enumerate(image.tolist()) for x, color in enumerate(row)
    ]
    matrices = []
    for weight, sigma, color_sigma in kernels:
        units = torch.tensor([sigma] * 2 + [color_sigma] * 3 if color_sigma else [sigma] * 2)
        features = torch.tensor(pixels, dtype=torch.float32)[:, : len(units)] / units
        k = PermutohedralLattice(features).filter(torch.eye(height * width)).double()
        n = 1 / (k.sum(1) + 1e-20).sqrt()
        matrices.append(weight * n[:, None] * k * n)
    unary = -scores.double().clamp(1e-5, 1).log().flatten(1)
    q = (-unary).softmax(0)
    for _ in range(iterations):
        q = (-unary + sum(q @ matrix.t() for matrix in matrices)).softmax(0)
    return q.view_as(scores).float()


@pytest.mark.parametrize(("classes", "present"), [(4, None), (7, 3), (5, 4), (4, 2)])
def test_both_engines_agree(classes, present):
    pytest.importorskip("pydensecrf", reason="needs the extra [crf]")
    scores, image = scene(33, 47, classes, present)
    ours, library = (dense_crf(scores, image, engine=engine) for engine in ENGINES)
    torch.testing.assert_close(ours, library, rtol=0, atol=2e-4)
    assert torch.equal(ours.argmax(0), library.argmax(0))
    assert (ours - scores.clamp(1e-5)).abs().max() > 0.1  # there was something to do


def test_both_engines_agree_with_other_kernels():
    pytest.importorskip("pydensecrf", reason="needs the extra [crf]")
    scores, image = scene(21, 26, 3)
    settings = {
        "iterations": 4,
        "gaussian_weight": 1.5,
        "gaussian_sigma": 2.5,
        "bilateral_weight": 0.7,
        "bilateral_sigma": 11.5,
        "bilateral_color_sigma": 13.0,
    }
    ours, library = (dense_crf(scores, image, **settings, engine=engine) for engine in ENGINES)
    torch.testing.assert_close(ours, library, rtol=0, atol=2e-4)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_equals_mean_field_with_matrices(iterations, engine):
    scores, image = scene(11, 14, 5, present=3)
    settings = {"gaussian_weight": 2, "gaussian_sigma": 1.5, "bilateral_weight": 5, "bilateral_sigma": 9}
    found = dense_crf(scores, image, iterations=iterations, **settings, bilateral_color_sigma=20, engine=engine)
    expected = mean_field_by_matrices(scores, image, iterations, [(2, 1.5, None), (5, 9, 20)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_defaults_are_the_published_ones():
    scores, image = scene(11, 14, 3)
    expected = mean_field_by_matrices(scores, image, 10, [(3, 1, None), (4, 67, 3)])
    torch.testing.assert_close(dense_crf(scores, image), expected, rtol=0, atol=1e-4)


def test_features_are_x_y_and_colors():
    image = torch.arange(18, dtype=torch.uint8).view(2, 3, 3)
    features = crf_features(image, 4.0, 2.0)
    assert features.shape == (6, 5) and features.dtype == torch.float32
    assert features[5].tolist() == [2 / 4, 1 / 4, 15 / 2, 16 / 2, 17 / 2]  # x = 2, y = 1
    assert crf_features(image, 4.0).tolist() == features[:, :2].tolist()


def test_a_counted_row_stands_for_equal_classes():
    log_scores = torch.tensor([[-0.5, -2.0], [-3.0, -1.0]])
    lattice = PermutohedralLattice(torch.tensor([[0.0], [0.7]])).normalized()
    counted = mean_field(log_scores, [(1.5, lattice)], torch.tensor([1.0, 3.0]), iterations=4)
    spelled = mean_field(log_scores[[0, 1, 1, 1]], [(1.5, lattice)], torch.ones(4), iterations=4)
    torch.testing.assert_close(counted, spelled[:2])


def test_scores_need_not_be_normalised(engine):
    scores, image = scene(9, 12, 3)
    scores = 3 * scores - 0.5  # clipped to [1e-5, 1]
    found, clipped = (dense_crf(s, image, iterations=2, engine=engine) for s in (scores, scores.clamp(1e-5, 1)))
    torch.testing.assert_close(found, clipped, rtol=0, atol=0)
    torch.testing.assert_close(found.sum(0), torch.ones(9, 12))


def test_no_score_at_all_is_uniform(engine):
    _, image = scene(8, 10, 2)
    torch.testing.assert_close(dense_crf(torch.zeros(4, 8, 10), image, engine=engine), torch.full((4, 8, 10), 0.25))


def test_one_class(engine):
    scores, image = scene(8, 10, 1)
    assert torch.equal(dense_crf(scores, image, engine=engine), torch.ones(1, 8, 10))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_thin_images(size, engine):
    scores, image = scene(*size, 3)
    expected = mean_field_by_matrices(scores, image, 10, [(3, 1, None), (4, 67, 3)])
    torch.testing.assert_close(dense_crf(scores, image, engine=engine), expected, rtol=0, atol=1e-4)


def test_one_pixel_by_hand(engine):
    """Both normalised kernels are 1: Q <- softmax(log p + 7 Q)."""
    p = torch.tensor([0.55, 0.45])
    found = dense_crf(p.view(2, 1, 1), torch.zeros(1, 1, 3, dtype=torch.uint8), iterations=1, engine=engine)
    torch.testing.assert_close(found.flatten(), (p.log() + 7 * p).softmax(0), rtol=0, atol=1e-5)


def test_constant_image(engine):
    scores, _ = scene(12, 15, 3)
    image = torch.full((12, 15, 3), 77, dtype=torch.uint8)
    expected = mean_field_by_matrices(scores, image, 10, [(3, 1, None), (4, 67, 3)])
    torch.testing.assert_close(dense_crf(scores, image, engine=engine), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["float64", "bfloat16", "strided", "requires_grad", "autocast"])
def test_kinds_of_input(kind, engine):
    scores, image = scene(10, 13, 3)
    scores = scores.bfloat16().float()
    expected = dense_crf(scores, image.contiguous(), iterations=3, engine=engine)
    given = {
        "float64": scores.double(),
        "bfloat16": scores.bfloat16(),
        "strided": scores.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "requires_grad": scores.clone().requires_grad_(),
        "autocast": scores,
    }[kind]
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        found = dense_crf(given, image, iterations=3, engine=engine)
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32 and not found.requires_grad


def test_a_lattice_is_built_once_and_absent_classes_share_a_row(monkeypatch):
    built, columns = [], []

    class Counting(PermutohedralLattice):
        def __init__(self, features):
            built.append(features.shape[1])
            super().__init__(features)

        def filter(self, values):
            columns.append(values.shape[1])
            return super().filter(values)

    monkeypatch.setattr(crf, "PermutohedralLattice", Counting)
    scores, image = scene(9, 12, 21, present=4)
    dense_crf(scores, image, iterations=3)
    assert built == [2, 5]
    assert columns == [1, 1] + 3 * [5, 5]  # two normalisers, then both kernels of every step
    scores[scores.amax((1, 2)) == 0] = 1e-5  # the bound itself is absent too
    columns.clear()
    dense_crf(scores, image, iterations=1)
    assert columns == [1, 1, 5, 5]


@pytest.mark.parametrize(
    ("scores", "image", "settings", "message"),
    [
        (torch.ones(2, 4, 5), torch.zeros(5, 4, 3), {}, r"uint8 RGB image of shape \(4, 5, 3\).*float32"),
        (torch.ones(2, 4, 5), torch.zeros(5, 4, 3).byte(), {}, r"shape \(4, 5, 3\).*\(5, 4, 3\)"),
        (torch.ones(4, 5), torch.zeros(4, 5, 3).byte(), {}, r"scores \(K, H, W\).*\(4, 5\)"),
        (torch.ones(0, 4, 5), torch.zeros(4, 5, 3).byte(), {}, r"\(0, 4, 5\)"),
        (torch.ones(2, 4, 5).long(), torch.zeros(4, 5, 3).byte(), {}, "floating point.*int64"),
        (torch.ones(2, 4, 5), torch.zeros(4, 5, 3).byte(), {"engine": "gpu"}, "lattice, pydensecrf; found 'gpu'"),
        (torch.ones(2, 4, 5), torch.zeros(4, 5, 3).byte(), {"iterations": -1}, "iterations >= 0.*found -1"),
        (torch.ones(2, 4, 5), torch.zeros(4, 5, 3).byte(), {"gaussian_sigma": 0}, r"sigmas > 0.*\(0, 67, 3\)"),
        (torch.ones(2, 4, 5), torch.zeros(4, 5, 3).byte(), {"bilateral_color_sigma": -2}, r"\(1, 67, -2\)"),
    ],
)
def test_wrong_input(scores, image, settings, message):
    with pytest.raises(ValueError, match=message):
        dense_crf(scores, image, **settings)


def test_library_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    scores, image = scene(4, 5, 2)
    with pytest.raises(ValueError, match=r"pip install .*\[crf\]"):
        dense_crf(scores, image, engine="pydensecrf")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu():
    scores, image = scene(33, 47, 7, present=3)
    on_gpu = dense_crf(scores.cuda(), image.cuda())
    torch.testing.assert_close(on_gpu.cpu(), dense_crf(scores, image), rtol=0, atol=2e-4)
