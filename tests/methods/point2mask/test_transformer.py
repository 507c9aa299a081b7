"""Encoder and location decoder: how boxes are refined, what is detached, what padding may not do, how weights start."""

import math

import pytest
import torch
from torch import nn

from weakseg.layers.position_encoding import encoder_reference_points
from weakseg.methods.point2mask.transformer import DeformableEncoder, LocationDecoder, refine_box

SIZES = [(4, 5), (2, 3), (1, 2), (1, 1)]
TOKENS = sum(h * w for h, w in SIZES)
SMALL = {"dim": 16, "ffn_dim": 32, "num_heads": 4, "num_points": 2}


def location_decoder(dropout=0.0):
    torch.manual_seed(0)
    return LocationDecoder(num_things=3, num_queries=5, num_layers=3, dropout=dropout, **SMALL)


def randomised(module):
    """Weights at which queries and positions matter: sampling offsets and attention weights start at 0."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module.eval()


def no_padding(batch=2):
    return {
        "valid_ratios": torch.ones(batch, 4, 2),
        "padding": torch.zeros(batch, TOKENS, dtype=torch.bool),
        "sizes": SIZES,
    }


def test_a_box_is_the_change_added_to_the_logit_of_the_reference():
    change = torch.tensor([0.4, -0.3, 0.2, -2.0])
    point = refine_box(change, torch.tensor([0.25, 0.5]))
    logits = [0.4 + math.log(0.25 / 0.75), -0.3, 0.2, -2.0]
    torch.testing.assert_close(point, torch.tensor(logits).sigmoid())
    box = refine_box(change, torch.tensor([0.25, 0.5, 0.9, 0.2]))
    logits = [0.4 + math.log(0.25 / 0.75), -0.3, 0.2 + math.log(9), -2.0 + math.log(0.25)]
    torch.testing.assert_close(box, torch.tensor(logits).sigmoid())


def test_references_at_the_border_stay_finite():
    box = refine_box(torch.zeros(4), torch.tensor([0.0, 1.0, -0.5, 1.5]))
    distance = torch.stack([box[0], 1 - box[1], box[2], 1 - box[3]])  # from the border
    torch.testing.assert_close(distance, torch.full((4,), 1e-5), atol=2e-7, rtol=0)


def test_every_layer_refines_the_box_of_the_layer_before():
    decoder = location_decoder().eval()
    for branch in decoder.box_branches:
        nn.init.normal_(branch[-1].weight)
    location = decoder(torch.randn(2, TOKENS, 16), **no_padding())
    position = decoder.queries.weight[:, :16]
    reference = decoder.reference_points(position).sigmoid().expand(2, -1, -1)
    torch.testing.assert_close(location.initial_reference, reference)
    for layer in range(3):
        change = decoder.box_branches[layer](location.states[layer])
        torch.testing.assert_close(location.boxes[layer], refine_box(change, reference))
        reference = location.boxes[layer]
        torch.testing.assert_close(location.class_logits[layer], decoder.class_branches[layer](location.states[layer]))


def test_layers_look_at_their_reference_scaled_by_the_valid_ratios():
    decoder = location_decoder().eval()
    inputs = no_padding() | {"valid_ratios": torch.rand(2, 4, 2) * 0.5 + 0.5}
    seen = []
    for layer in decoder.layers:
        layer.cross_attention.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["reference"]), with_kwargs=True
        )
    location = decoder(torch.randn(2, TOKENS, 16), **inputs)
    before = [location.initial_reference, *location.boxes[:-1]]
    for reference, scaled in zip(before, seen):
        for level in range(4):
            ratio = inputs["valid_ratios"][:, level]
            both = torch.cat([ratio, ratio], dim=-1)[:, None, : reference.shape[-1]]
            torch.testing.assert_close(scaled[:, :, level], reference * both)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_only_the_first_reference_carries_gradient(layer):
    decoder = location_decoder().eval()
    for branch in decoder.box_branches:
        nn.init.normal_(branch[-1].weight)
    location = decoder(torch.randn(2, TOKENS, 16), **no_padding())
    location.boxes[layer].sum().backward()
    for earlier in range(layer):
        assert not decoder.box_branches[earlier][-1].weight.grad.any()
    assert decoder.box_branches[layer][-1].weight.grad.abs().sum() > 0
    assert decoder.reference_points.weight.grad.abs().sum() > 0


def test_self_attention_sees_positions_in_queries_and_keys_only():
    layer = location_decoder().layers[0].eval()
    seen = {}

    def remember(module, args, kwargs):
        seen["args"] = args

    layer.self_attention.register_forward_pre_hook(remember, with_kwargs=True)
    query, position = torch.randn(2, 1, 5, 16)
    inputs = no_padding(1) | {"reference": torch.rand(1, 5, 4, 2)}
    del inputs["valid_ratios"]
    layer(query, torch.randn(1, TOKENS, 16), query_position=position, **inputs)
    q, k, v = seen["args"]
    torch.testing.assert_close(q, query + position)
    torch.testing.assert_close(k, query + position)
    torch.testing.assert_close(v, query)


def test_permuted_queries_give_permuted_boxes():
    decoder = location_decoder().eval()
    memory = torch.randn(2, TOKENS, 16)
    expected = decoder(memory, **no_padding()).boxes[:, :, [3, 1, 4, 0, 2]]
    decoder.queries.weight.data = decoder.queries.weight.data[[3, 1, 4, 0, 2]]
    torch.testing.assert_close(decoder(memory, **no_padding()).boxes, expected)


def test_what_lies_in_the_padding_changes_nothing_inside():
    torch.manual_seed(0)
    encoder = DeformableEncoder(num_layers=2, dropout=0.0, **SMALL).eval()
    tokens, position = torch.randn(2, 1, TOKENS, 16)
    padding = torch.zeros(1, TOKENS, dtype=torch.bool)
    padding[0, [4, 9, 14, 19, 22, 25]] = True
    inputs = {"reference": encoder_reference_points(SIZES, torch.ones(1, 4, 2)), "padding": padding, "sizes": SIZES}
    expected = encoder(tokens, position, **inputs)
    changed = tokens + 100 * padding[..., None] * torch.randn_like(tokens)
    actual = encoder(changed, position, **inputs)
    torch.testing.assert_close(actual[~padding], expected[~padding])
    assert not torch.allclose(actual[padding], expected[padding], atol=0.1)


def test_an_encoder_layer_is_attention_norm_feed_forward_norm():
    torch.manual_seed(0)
    encoder = randomised(DeformableEncoder(num_layers=1, dropout=0.0, **SMALL))
    layer = encoder.layers[0]
    tokens, position = torch.randn(2, 1, TOKENS, 16)
    inputs = {
        "reference": encoder_reference_points(SIZES, torch.ones(1, 4, 2)),
        "padding": torch.zeros(1, TOKENS, dtype=torch.bool),
        "sizes": SIZES,
    }
    x = layer.attention_norm(layer.attention(tokens, tokens, query_position=position, **inputs))
    x = layer.ffn_norm(x + layer.ffn.reduce(torch.clamp(layer.ffn.expand(x), min=0)))
    torch.testing.assert_close(encoder(tokens, position, **inputs), x)


def test_a_decoder_layer_is_self_attention_cross_attention_feed_forward():
    layer = randomised(location_decoder().layers[0])
    query, position = torch.randn(2, 1, 5, 16)
    memory = torch.randn(1, TOKENS, 16)
    places = {
        "reference": torch.rand(1, 5, 4, 2),
        "padding": torch.zeros(1, TOKENS, dtype=torch.bool),
        "sizes": SIZES,
    }
    x = layer.self_norm(query + layer.self_attention(query + position, query + position, query)[0])
    x = layer.cross_norm(layer.cross_attention(x, memory, query_position=position, **places))
    x = layer.ffn_norm(x + layer.ffn.reduce(torch.clamp(layer.ffn.expand(x), min=0)))
    torch.testing.assert_close(layer(query, memory, query_position=position, **places), x)


def test_dropout_acts_in_training_alone():
    decoder = location_decoder(dropout=0.5)
    memory = torch.randn(1, TOKENS, 16)
    runs = [decoder(memory, **no_padding(1)).states for _ in range(2)]
    assert not torch.equal(*runs)
    decoder.eval()
    torch.testing.assert_close(decoder(memory, **no_padding(1)).states, decoder(memory, **no_padding(1)).states)


def test_the_feed_forward_layer_drops_after_its_relu_and_keeps_one_hidden_tensor():
    torch.manual_seed(0)
    layer = DeformableEncoder(num_layers=1, dropout=0.3, **SMALL).layers[0].ffn
    x = torch.randn(2, 9, 16, requires_grad=True)
    kept = []
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(lambda y: kept.append(y) or y, lambda y: y):
        found = layer(x)
    torch.manual_seed(1)
    hidden = nn.functional.dropout(layer.expand(x).relu(), 0.3)
    expected = x + nn.functional.dropout(layer.reduce(hidden), 0.3)
    torch.testing.assert_close(found, expected)
    cotangent, leaves = torch.randn_like(found), [x, *layer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent)
    )
    assert len({y.untyped_storage().data_ptr() for y in kept if y.numel() == 2 * 9 * 32}) == 1


def test_all_dropped_gives_a_gradient_of_zero():
    layer = DeformableEncoder(num_layers=1, dropout=1.0, **SMALL).layers[0].ffn
    layer(torch.randn(1, 3, 16)).sum().backward()
    assert not layer.expand.weight.grad.any()


def test_start_of_the_branches():
    decoder = location_decoder()
    for branch in decoder.class_branches:
        torch.testing.assert_close(branch.bias.sigmoid(), torch.full((3,), 0.01))
        assert torch.equal(branch.weight, decoder.class_branches[0].weight)
    for index, branch in enumerate(decoder.box_branches):
        assert not branch[-1].weight.any()
        assert branch[-1].bias.tolist() == ([0, 0, -2, -2] if index == 0 else [0, 0, 0, 0])
        assert torch.equal(branch[0].weight, decoder.box_branches[0][0].weight)
    assert not decoder.reference_points.bias.any()


def test_start_of_the_layers():
    decoder = location_decoder()
    for layer in decoder.layers:
        bound = math.sqrt(6 / (16 + 32))
        assert 0.9 * bound < layer.ffn.expand.weight.abs().max() <= bound
        assert not layer.cross_attention.sampling_offsets.weight.any()
    assert not torch.equal(decoder.layers[0].ffn.expand.weight, decoder.layers[1].ffn.expand.weight)
