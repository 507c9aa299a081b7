"""Edge networks against the same networks in plain numpy, written from their description; files that are others."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import binary_dilation

from weakseg.proposals.edge_networks import HED, PiDiNet, network_edges, read_edge_network
from weakseg.safe_io import read_image, read_label_png

PIDINET = "weights/pidinet_bsds_vanilla_fp16.safetensors"
TINY = "weights/pidinet_tiny_bsds_vanilla_fp16.safetensors"


def convolve(x, weight, bias=None, dilation=1):
    """(C, H, W) with (O, C or 1, k, k), zeros around: one tap at a time; depthwise where the second side is 1."""
    (_, height, width), k = x.shape, weight.shape[2]
    margin = dilation * (k - 1) // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    out = np.zeros((len(weight), height, width))
    for row in range(k):
        for column in range(k):
            top, left = row * dilation, column * dilation
            tap, part = weight[:, :, row, column], padded[:, top : top + height, left : left + width]
            is_depthwise = tap.shape[1] < len(x)
            out += tap[:, :, None] * part if is_depthwise else np.tensordot(tap, part, 1)
    return out if bias is None else out + bias[:, None, None]


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pool(x):
    height, width = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2).max((2, 4))


def enlarge(line_map, size):
    """(h, w) bilinear at `size`, pixel centres at halves, the border repeated."""
    for axis, new in enumerate(size):
        old = line_map.shape[axis]
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        line_map = np.apply_along_axis(lambda line, p=position, n=old: np.interp(p, np.arange(n), line), axis, line_map)
    return line_map


def pidinet(w, image):
    """The description in words of the plain network, on an image (H, W, 3) uint8 RGB."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = convolve(((image / 255 - mean) / std).transpose(2, 0, 1), w["init_block.weight"])
    maps = []
    for stage, blocks in ((1, 3), (2, 4), (3, 4), (4, 4)):
        for i in range(1, blocks + 1):
            name = f"block{stage}_{i}"
            x = pool(x) if stage > 1 and i == 1 else x
            change = convolve(relu(convolve(x, w[f"{name}.conv1.weight"])), w[f"{name}.conv2.weight"])
            if f"{name}.shortcut.weight" in w:
                x = convolve(x, w[f"{name}.shortcut.weight"], w[f"{name}.shortcut.bias"])
            x = x + change
        name = f"dilations.{stage - 1}"
        y = convolve(relu(x), w[f"{name}.conv1.weight"], w[f"{name}.conv1.bias"])
        y = sum(convolve(y, w[f"{name}.conv2_{n}.weight"], dilation=3 + 2 * n) for n in (1, 2, 3, 4))
        name = f"attentions.{stage - 1}"
        gate = convolve(relu(y), w[f"{name}.conv1.weight"], w[f"{name}.conv1.bias"])
        y = y * sigmoid(convolve(gate, w[f"{name}.conv2.weight"]))
        name = f"conv_reduces.{stage - 1}.conv"
        maps.append(enlarge(convolve(y, w[f"{name}.weight"], w[f"{name}.bias"])[0], image.shape[:2]))
    return sigmoid(convolve(np.array(maps), w["classifier.weight"], w["classifier.bias"])[0])


def hed(w, image):
    """VGG-16 with one score a stage, named as the port names it."""
    x = (image[..., ::-1] - np.array([104.00698793, 116.66876762, 122.67891434])).transpose(2, 0, 1)
    maps = []
    for stage, places in zip(("One", "Two", "Thr", "Fou", "Fiv"), ((0, 2), (1, 3), *[(1, 3, 5)] * 3)):
        x = x if stage == "One" else pool(x)
        for place in places:
            x = relu(convolve(x, w[f"netVgg{stage}.{place}.weight"], w[f"netVgg{stage}.{place}.bias"]))
        score = convolve(x, w[f"netScore{stage}.weight"], w[f"netScore{stage}.bias"])[0]
        maps.append(enlarge(score, image.shape[:2]))
    return sigmoid(convolve(np.array(maps), w["netCombine.0.weight"], w["netCombine.0.bias"])[0])


DAMPED = {"attentions": 0.1, "classifier": 0.005, "netCombine": 0.01}


def random_state(network, seed=0):
    """Weights under which no sigmoid saturates."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in network.state_dict().items():
        scale = (2 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.1
        scale *= next((factor for part, factor in DAMPED.items() if part in name), 1)
        state[name] = torch.randn(value.shape, generator=generator) * scale
    return state


def as_numpy(state):
    return {name: value.double().numpy() for name, value in state.items()}


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("make, reference", [(lambda: PiDiNet(20), pidinet), (HED, hed)], ids=["PiDiNet", "HED"])
@pytest.mark.parametrize("size", [(16, 16), (21, 34)])
def test_a_network_with_random_weights_against_plain_numpy(tmp_path, make, reference, size):
    state = random_state(make())
    save_file(state, tmp_path / "w.safetensors")
    image = picture(*size)
    expected = reference(as_numpy(state), image)
    assert expected.std() > 0.02 and 0.05 < expected.mean() < 0.95, "a case that says something"
    found = network_edges(read_edge_network(tmp_path / "w.safetensors"), image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("name", [PIDINET, TINY])
def test_the_published_pidinet_against_plain_numpy(data_dir, name):
    network = read_edge_network(data_dir / name)
    image = read_image(data_dir / "voc/JPEGImages/2007_000033.jpg")[150:210, 250:320]
    expected = pidinet(as_numpy(network.state_dict()), image)
    assert expected.max() > 0.8 and expected.min() < 0.05
    np.testing.assert_allclose(network_edges(network, image), expected, atol=1e-4)


@pytest.mark.parametrize("name, ratio", [(PIDINET, 3.0), (TINY, 2.5)])
def test_edges_of_real_photos_lie_on_the_borders_of_their_masks(data_dir, name, ratio):
    """Mean edge on the void ring that VOC draws around objects, over the mean far from it."""
    network = read_edge_network(data_dir / name)
    for photo in ("2007_002088", "2007_003110"):
        edges = network_edges(network, read_image(data_dir / f"voc/JPEGImages/{photo}.jpg"))
        ring = read_label_png(data_dir / f"voc/SegmentationObject/{photo}.png") == 255
        far = ~binary_dilation(ring, iterations=6)
        assert edges[ring].mean() > ratio * edges[far].mean(), photo


def zeros(network):
    return {name: torch.zeros_like(value) for name, value in network.state_dict().items()}


def test_hed_by_hand():
    """Without any convolution the scores are their biases: edge = sigmoid(weights . biases + bias)."""
    state = zeros(HED())
    for k, stage in enumerate(("One", "Two", "Thr", "Fou", "Fiv")):
        state[f"netScore{stage}.bias"][:] = k
    state["netCombine.0.weight"][0, :, 0, 0] = torch.tensor([1.0, 0.5, -1.0, 0.25, 0.125])
    state["netCombine.0.bias"][:] = -0.75
    network = HED()
    network.load_state_dict(state)
    # 0 + 0.5 - 2 + 0.75 + 0.5 - 0.75 = -1
    np.testing.assert_allclose(network_edges(network, picture(18, 25)), np.full((18, 25), sigmoid(-1.0)), rtol=1e-6)


def test_hed_sees_blue_first():
    """A first stage that hands its channel 0 through, and a score of that alone."""
    state = zeros(HED())
    state["netVggOne.0.weight"][0, 0, 1, 1] = state["netVggOne.2.weight"][0, 0, 1, 1] = 1
    state["netScoreOne.weight"][0, 0] = state["netCombine.0.weight"][0, 0] = 1
    network = HED()
    network.load_state_dict(state)
    image = picture(16, 16)
    image[..., 2] = 106  # a blue of 106 is 1.99301207 above the mean; red and green may be anything
    np.testing.assert_allclose(network_edges(network, image), np.full((16, 16), sigmoid(1.99301207)), rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (16, 15), (17, 16)])
@pytest.mark.parametrize("make", [HED, lambda: PiDiNet(20)], ids=["HED", "PiDiNet"])
def test_images_smaller_than_the_deepest_stage(make, size):
    network = make()
    network.load_state_dict(random_state(network))
    image = picture(*size)
    found = network_edges(network, image)
    assert found.shape == size and np.isfinite(found).all()
    margins = [(0, max(16 - side, 0)) for side in size]
    larger = network_edges(network, np.pad(image, (*margins, (0, 0)), mode="edge"))
    np.testing.assert_allclose(found, larger[: size[0], : size[1]], atol=1e-6)


def test_the_names_in_the_published_file_of_hed(tmp_path):
    state = random_state(HED())
    torch.save({name.replace("net", "module", 1): value for name, value in state.items()}, tmp_path / "hed.pth")
    network = read_edge_network(tmp_path / "hed.pth")
    assert isinstance(network, HED) and not network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_half_precision_and_wrapped_files(tmp_path):
    state = random_state(PiDiNet(20))
    torch.save({"state_dict": {f"module.{name}": value.half() for name, value in state.items()}}, tmp_path / "w.pth")
    network = read_edge_network(tmp_path / "w.pth")
    assert isinstance(network, PiDiNet)
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32 and not value.requires_grad
        torch.testing.assert_close(value, state[name].half().float(), rtol=0, atol=0)


def test_reading_draws_no_random_number(tmp_path):
    save_file(zeros(PiDiNet(20)), tmp_path / "w.safetensors")
    before = torch.get_rng_state()
    read_edge_network(tmp_path / "w.safetensors")
    assert torch.equal(before, torch.get_rng_state())


def changed(change, network=None):
    state = zeros(network or PiDiNet(20))
    change(state)
    return state


@pytest.mark.parametrize(
    "state, sentence",
    [
        ({"fc.weight": torch.zeros(1)}, "expected the weights of HED .* or PiDiNet .*; found fc.weight. Give"),
        ({"init_block.weight": torch.zeros(24, 3, 3, 3)}, "with 20, 30 or 60 channels"),
        ({"init_block.weight": torch.zeros(())}, "with 20, 30 or 60 channels"),
        (
            {"init_block.weight": torch.zeros(20)},
            r"the 83 tensors of PiDiNet with plain convolutions; found 83 that differ \(att",
        ),
        (
            changed(lambda s: s.pop("classifier.bias")),
            r"found 1 that differ \(classifier.bias: none instead of \(1,\)\)",
        ),
        (changed(lambda s: s.update(extra=torch.zeros(2))), r"\(extra: \(2,\) instead of none\)"),
        # The published file with pixel differences: radial kernels still 3 x 3.
        (
            changed(lambda s: s.update({"block1_2.conv1.weight": torch.zeros(20, 1, 3, 3)})),
            r"block1_2.conv1.weight: \(20, 1, 3, 3\) instead of \(20, 1, 5, 5\)\). .*differences must be converted",
        ),
        ({"netCombine.0.weight": torch.zeros(1, 5, 1, 1)}, "expected the 38 tensors of HED"),
    ],
)
def test_other_files_are_named(tmp_path, state, sentence):
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"other.pth: .*{sentence}"):
        read_edge_network(tmp_path / "other.pth")


def test_a_missing_file_says_where_it_is_published(tmp_path):
    for suffix in ("pth", "pytorch"):
        with pytest.raises(FileNotFoundError, match="expected the weights of an edge network.*content.sniklaus.com"):
            read_edge_network(tmp_path / f"network-bsds500.{suffix}")
    with pytest.raises(FileNotFoundError, match="own.pth.*found no file. Check the path."):
        read_edge_network(tmp_path / "own.pth")


def test_the_published_suffix_must_be_renamed(tmp_path):
    torch.save(zeros(PiDiNet(20)), tmp_path / "network-bsds500.pytorch")
    with pytest.raises(ValueError, match=r"found .pytorch. Rename the file to network-bsds500.pth"):
        read_edge_network(tmp_path / "network-bsds500.pytorch")
