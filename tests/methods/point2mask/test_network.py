"""The network as a whole: shapes, laws, gradients, and export."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weakseg.layers.position_encoding import encoder_reference_points, level_paddings, sine_position, valid_ratios
from weakseg.methods.point2mask.network import Point2MaskNetwork

CHANNELS = [4, 6, 8]
PADDED = (64, 96)
IMAGES = [(64, 96), (40, 61)]
SMALL = {
    "hidden_dim": 16,
    "ffn_dim": 24,
    "num_heads": 4,
    "num_points": 2,
    "enc_layers": 2,
    "dec_layers": 2,
    "num_queries": 7,
    "dropout": 0.0,
    "thing_layers": 2,
    "stuff_layers": 2,
    "semantic_layers": 3,
    "embed_dim": 5,
}


def network_of(num_things=3, num_stuff=2, **changes):
    torch.manual_seed(0)
    return Point2MaskNetwork(CHANNELS, num_things=num_things, num_stuff=num_stuff, **(SMALL | changes))


def random_features(batch=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, c, 64 // s, 96 // s, generator=generator) for c, s in zip(CHANNELS, (8, 16, 32))]


@pytest.mark.parametrize("hidden_dim, num_heads", [(16, 4), (96, 8)])
def test_shapes_of_all_outputs(hidden_dim, num_heads):
    network = network_of(hidden_dim=hidden_dim, num_heads=num_heads)
    encoded = network.encode(random_features(), IMAGES, PADDED)
    assert encoded.sizes == [(8, 12), (4, 6), (2, 3), (1, 2)]
    tokens = 96 + 24 + 6 + 2
    assert encoded.memory.shape == encoded.position.shape == (2, tokens, hidden_dim)
    assert encoded.padding.shape == (2, tokens) and encoded.valid_ratios.shape == (2, 4, 2)
    location = network.locate(encoded)
    assert location.states.shape == (2, 2, 7, hidden_dim)
    assert location.class_logits.shape == (2, 2, 7, 3) and location.boxes.shape == (2, 2, 7, 4)
    assert location.initial_reference.shape == (2, 7, 2)
    assert network.thing_masks(location.states[-1][:, :4], encoded).shape == (2, 2, 4, 8, 12)
    assert [tuple(x.shape) for x in network.stuff(encoded)] == [(2, 2, 2, 8, 12), (2, 2, 2)]
    assert [tuple(x.shape) for x in network.semantic(encoded)] == [(3, 2, 5, 8, 12), (3, 2, 5)]
    assert [tuple(x.shape) for x in network.embed(encoded)] == [(2, 5, 8, 12), (2, 8, 12)]


def test_tokens_are_the_levels_row_by_row_with_their_padding_and_position():
    network = network_of(enc_layers=0)
    features = random_features()
    encoded = network.encode(features, IMAGES, PADDED)
    start = 0
    paddings = level_paddings(IMAGES, PADDED, encoded.sizes)
    for level, ((h, w), padding, maps) in enumerate(zip(encoded.sizes, paddings, network.neck(features))):
        place = sine_position(padding, 16) + network.level_embedding[level][:, None, None]
        for i in range(h):
            for j in range(w):
                torch.testing.assert_close(encoded.memory[:, start], maps[:, :, i, j])
                torch.testing.assert_close(encoded.position[:, start], place[:, :, i, j])
                assert torch.equal(encoded.padding[:, start], padding[:, i, j])
                start += 1
    assert start == encoded.memory.shape[1]


def test_the_encoder_looks_at_the_centres_of_tokens_in_the_unpadded_image():
    network = network_of()
    seen = {}
    network.encoder.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    encoded = network.encode(random_features(), IMAGES, PADDED)
    ratios = valid_ratios(level_paddings(IMAGES, PADDED, encoded.sizes))
    torch.testing.assert_close(encoded.valid_ratios, ratios)
    torch.testing.assert_close(seen["reference"], encoder_reference_points(encoded.sizes, ratios))
    assert torch.equal(seen["padding"], encoded.padding)


def test_images_of_a_batch_do_not_see_each_other():
    network = network_of().eval()
    features = random_features()
    both = network.encode(features, IMAGES, PADDED)
    for index in range(2):
        alone = network.encode([f[index : index + 1] for f in features], IMAGES[index : index + 1], PADDED)
        torch.testing.assert_close(alone.memory[0], both.memory[index], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            network.locate(alone).boxes[:, 0], network.locate(both).boxes[:, index], atol=1e-5, rtol=1e-5
        )
        for one, two in zip(network.semantic(alone), network.semantic(both)):
            torch.testing.assert_close(one[:, 0], two[:, index], atol=1e-5, rtol=1e-5)


def test_masks_are_zero_outside_the_image():
    network = network_of().eval()
    for name, parameter in network.named_parameters():
        if "all_levels_conv" in name:
            nn.init.constant_(parameter, 0.1)
    encoded = network.encode(random_features(), IMAGES, PADDED)
    outside = encoded.padding[:, :96].view(2, 8, 12)
    for masks in (network.stuff(encoded)[0], network.thing_masks(torch.randn(2, 2, 16), encoded)):
        assert (masks >= 0).all() and (masks[:, :, 0] > 0)[:, ~outside].any()
        assert not masks.transpose(1, 2)[:, :, outside].any()


def test_semantic_logits_are_scaled_masks_times_existence():
    network = network_of().eval()
    nn.init.normal_(network.semantic_scale.weight)
    nn.init.normal_(network.semantic_scale.bias)
    encoded = network.encode(random_features(), IMAGES, PADDED)
    masks, existence = network.semantic_decoder(**encoded.mask_inputs())
    logits, actual_existence = network.semantic(encoded)
    scale, bias = (p.flatten()[:, None, None] for p in (network.semantic_scale.weight, network.semantic_scale.bias))
    torch.testing.assert_close(logits, (masks * scale + bias) / (1 + (-existence[..., None, None]).exp()))
    torch.testing.assert_close(actual_existence, existence)


def test_last_only_is_the_last_layer():
    network = network_of().eval()
    encoded = network.encode(random_features(), IMAGES, PADDED)
    queries = torch.randn(2, 3, 16)
    every, last = network.thing_masks(queries, encoded), network.thing_masks(queries, encoded, last_only=True)
    torch.testing.assert_close(last, every[-1:])
    for method in (network.stuff, network.semantic):
        for all_layers, one in zip(method(encoded), method(encoded, last_only=True)):
            torch.testing.assert_close(one, all_layers[-1:])


def test_embedding_and_boundary_read_the_sum_of_three_levels():
    network = network_of().eval()
    encoded = network.encode(random_features(), IMAGES, PADDED)
    total, start = 0, 0
    for h, w in encoded.sizes[:3]:
        tokens = (encoded.memory + encoded.position)[:, start : start + h * w]
        maps = tokens.transpose(1, 2).reshape(2, 16, h, w)
        total = total + F.interpolate(maps, (8, 12), mode="bilinear", align_corners=False)
        start += h * w
    embedding, boundary = network.embed(encoded)
    raw = network.embedding_head[2](network.embedding_head[0](total).relu())
    torch.testing.assert_close(embedding, raw / (raw**2).sum(1, keepdim=True).sqrt())
    torch.testing.assert_close(boundary, network.boundary_head(total)[:, 0])


def test_embedding_and_boundary_train_their_heads_alone():
    network = network_of()
    embedding, boundary = network.embed(network.encode(random_features(), IMAGES, PADDED))
    (embedding[:, 0].sum() + boundary.sum()).backward()
    trained = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert trained == {n for n, _ in network.named_parameters() if n.startswith(("embedding_head", "boundary_head"))}


@pytest.mark.parametrize("num_targets", [0, 2])
def test_every_parameter_gets_a_gradient(num_targets):
    network = network_of()
    encoded = network.encode(random_features(), IMAGES, PADDED)
    location = network.locate(encoded)
    outputs = [
        location.class_logits,
        location.boxes,
        network.thing_masks(location.states[-1, :, :num_targets], encoded),
    ]
    outputs += [*network.stuff(encoded), *network.semantic(encoded), *network.embed(encoded)]
    sum(output.sum() for output in outputs).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def training_step(checkpointing, train=True):
    """Outputs, gradients and bytes kept for the backward pass, with dropout; the numbers drawn after it."""
    network = network_of(dropout=0.2, gradient_checkpointing=checkpointing).train(train)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoded = network.encode(random_features(), IMAGES, PADDED)
        location = network.locate(encoded)
        outputs = [location.class_logits, location.boxes, network.thing_masks(location.states[-1], encoded)]
        outputs += [*network.stuff(encoded), *network.semantic(encoded)]
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return outputs, gradients, sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), torch.rand(3)


def test_gradient_checkpointing_changes_memory_alone():
    outputs, gradients, kept, drawn = training_step(False)
    other_outputs, other_gradients, less, other_drawn = training_step(True)
    torch.testing.assert_close(other_outputs, outputs, rtol=0, atol=0)
    torch.testing.assert_close(other_gradients, gradients, rtol=1e-6, atol=1e-6)
    assert len(gradients) > 100 and all(gradient.any() for name, gradient in gradients.items() if "queries" in name)
    assert less < 0.5 * kept
    assert torch.equal(drawn, other_drawn)


@pytest.mark.parametrize("part", ["encoder", "location_decoder", "thing_decoder", "stuff_decoder", "semantic_decoder"])
def test_gradient_checkpointing_runs_every_layer_of_a_part_twice_in_training_alone(part):
    network = network_of(gradient_checkpointing=True)
    layers = [m for m in getattr(network, part).modules() if isinstance(m, nn.ModuleList) and hasattr(m[0], "forward")]
    calls = []
    layers[0][-1].register_forward_pre_hook(lambda *_: calls.append(1))
    for train, expected in ((True, 2), (False, 1)):
        calls.clear()
        network.train(train)
        encoded = network.encode(random_features(), IMAGES, PADDED)
        location = network.locate(encoded)
        outputs = [location.boxes, network.thing_masks(location.states[-1], encoded)]
        outputs += [network.stuff(encoded)[0], network.semantic(encoded)[0]]
        sum(output.sum() for output in outputs).backward()
        assert len(calls) == expected


def test_data_without_stuff_classes():
    network = network_of(num_stuff=0)
    encoded = network.encode(random_features(), IMAGES, PADDED)
    masks, existence = network.stuff(encoded)
    assert masks.shape == (2, 2, 0, 8, 12) and existence.shape == (2, 2, 0)
    (masks.sum() + existence.sum()).backward()


def test_start_of_the_weights():
    network = network_of(num_things=3, num_stuff=2)
    assert torch.equal(network.semantic_scale.weight, torch.ones(5, 1, 1, 1))
    assert not network.semantic_scale.bias.any()
    torch.testing.assert_close(network.stuff_decoder.existence_branches[0].bias.sigmoid(), torch.tensor([0.01]))
    assert network.semantic_decoder.existence_branches[0].bias > -1
    assert 0.6 < network.level_embedding.std() < 1.4


class _Exported(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, res3, res4, res5):
        encoded = self.network.encode([res3, res4, res5], IMAGES, PADDED)
        location = self.network.locate(encoded)
        masks = self.network.thing_masks(location.states[-1], encoded, last_only=True)
        stuff, existence = self.network.stuff(encoded, last_only=True)
        return location.class_logits[-1], location.boxes[-1], masks, stuff, existence


@torch.no_grad()
def test_the_network_can_be_exported():
    model = _Exported(network_of(enc_layers=1, dec_layers=1, thing_layers=1, stuff_layers=1).eval())
    features = tuple(random_features())
    program = torch.export.export(model, features)
    for actual, expected in zip(program.module()(*features), model(*features)):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
