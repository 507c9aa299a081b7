"""Mask attention against a slow loop, and what padding, order and `last_only` may not change."""

import math

import pytest
import torch
from torch.nn import functional as F

from weakseg.methods.point2mask.mask_decoder import ClassMaskDecoder, MaskAttention, MaskDecoder, MaskDecoderLayer

SIZES = [(4, 6), (2, 3), (1, 2)]
TOKENS = 24 + 6 + 2
DIM, HEADS = 8, 2
SMALL = {"dim": DIM, "ffn_dim": 16, "num_heads": HEADS}


def inputs(batch=2, queries=3, padded=(5, 11, 23, 29)):
    generator = torch.Generator().manual_seed(0)
    padding = torch.zeros(batch, TOKENS, dtype=torch.bool)
    padding[0, list(padded)] = True
    query = torch.randn(batch, queries, DIM, generator=generator)
    return query, torch.randn(batch, TOKENS, DIM, generator=generator), {"padding": padding, "sizes": SIZES}


def randomised(module):
    """Every parameter drawn at random, the last mask convolution such that a part of each mask is alive."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
        if "all_levels_conv.weight" in name:
            parameter.data.abs_()
        if "all_levels_conv.bias" in name:
            parameter.data.fill_(-1.5)
    return module.eval()


def slow_mask_attention(module, query, memory, padding):
    """One query (D,), memory (S3, D), padding (S3,): attended (D,) and mask (h0, w0), as the card says it."""
    (wq, wk, wv), (bq, bk, bv) = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    q, k, v = wq @ query + bq, memory @ wk.T + bk, memory @ wv.T + bv
    size = DIM // HEADS
    attended, logits = [], []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = torch.stack([q[part] @ token / math.sqrt(size) for token in k[:, part]])
        weights = torch.where(padding, torch.zeros(()), scores.exp())
        attended.append((weights / weights.sum().clamp(min=1e-30)) @ v[:, part])
        logits.append(torch.where(padding, torch.zeros(()), scores))
    logits, channels, start = torch.stack(logits), [], 0
    for (h, w), conv in zip(SIZES, module.level_convs):
        level = conv(logits[None, :, start : start + h * w].view(1, HEADS, h, w)).relu()
        channels.append(F.interpolate(level, SIZES[0], mode="bilinear", align_corners=False))
        start += h * w
    mask = module.all_levels_conv(torch.cat(channels, dim=1)).relu()[0, 0]
    return module.out_proj(torch.cat(attended)), mask * ~padding[:24].view(4, 6)


@pytest.mark.parametrize("gradient", [False, True])
def test_mask_attention_and_its_gradients_equal_the_slow_loop(gradient):
    query, memory, places = inputs()
    module = randomised(MaskAttention(DIM, num_heads=HEADS))
    leaves = [query.requires_grad_(), memory.requires_grad_(), *module.parameters()]
    with torch.set_grad_enabled(gradient):
        attended, masks = module(query, memory, **places)
        assert attended.shape == (2, 3, DIM) and masks.shape == (2, 3, 4, 6)
        assert (masks > 0).any() and (masks[1] == 0).any()
        slow = [
            [slow_mask_attention(module, query[b, n], memory[b], places["padding"][b]) for n in range(3)]
            for b in range(2)
        ]
        expected = [torch.stack([torch.stack([pair[k] for pair in row]) for row in slow]) for k in range(2)]
    torch.testing.assert_close(attended, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masks, expected[1], atol=1e-5, rtol=1e-4)
    if gradient:
        cotangents = [torch.randn_like(x) for x in expected]
        found, wanted = (torch.autograd.grad(outputs, leaves, cotangents) for outputs in ((attended, masks), expected))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_keys_and_values_are_the_largest_that_is_kept_for_the_backward_pass():
    """Neither a number per query and token nor several of them, one per head."""
    query, memory, places = inputs(queries=50)
    module, kept = MaskAttention(DIM, num_heads=HEADS), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.untyped_storage().nbytes()) or x, lambda x: x
    ):
        attended, masks = module(query.requires_grad_(), memory.requires_grad_(), **places)
    assert masks.requires_grad and attended.requires_grad
    assert max(kept) == 4 * 2 * TOKENS * 2 * DIM < 4 * 2 * 50 * TOKENS


def test_an_image_of_padding_alone_has_no_mask_and_finite_gradients():
    query, memory, places = inputs()
    places["padding"][1] = True
    module = randomised(MaskAttention(DIM, num_heads=HEADS))
    memory.requires_grad_()
    attended, masks = module(query, memory, **places)
    torch.testing.assert_close(attended[1], module.out_proj.bias.expand(3, -1))
    assert not masks[1].any()
    (attended.sum() + masks.sum()).backward()
    assert memory.grad.isfinite().all() and not memory.grad[1].any() and memory.grad[0].any()


def test_what_lies_in_the_padding_changes_nothing():
    query, memory, places = inputs()
    decoder = randomised(MaskDecoder(num_layers=2, **SMALL))
    changed = memory + 10 * places["padding"][..., None]
    for actual, expected in zip(decoder(query, changed, **places), decoder(query, memory, **places)):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("self_attention", [False, True])
def test_a_layer_is_its_parts_in_their_order(self_attention):
    query, memory, places = inputs()
    layer = randomised(MaskDecoderLayer(DIM, ffn_dim=16, num_heads=HEADS, self_attention=self_attention))
    q = query
    if self_attention:
        q = layer.self_norm(q + layer.self_attention(q, q, q)[0])
    attended, expected_mask = layer.mask_attention(q, memory, **places)
    q = layer.mask_norm(q + attended)
    hidden = layer.mlp[0](q)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = layer.mlp_norm(q + layer.mlp[2](hidden))
    actual, mask = layer(query, memory, **places)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(mask, expected_mask)
    assert layer(query, memory, **places, with_mask=False)[1] is None


def test_the_position_is_added_again_in_every_layer():
    query, memory, places = inputs()
    position = torch.randn(2, 3, DIM)
    decoder = randomised(MaskDecoder(num_layers=2, self_attention=True, **SMALL))
    queries, masks = decoder(query, memory, **places, query_position=position)
    for layer, state, mask in zip(decoder.layers, queries, masks):
        query, expected = layer(query + position, memory, **places)
        torch.testing.assert_close(state, query)
        torch.testing.assert_close(mask, expected)


def test_last_only_is_the_last_layer():
    query, memory, places = inputs()
    decoder = randomised(MaskDecoder(num_layers=3, **SMALL))
    for every, last in zip(decoder(query, memory, **places), decoder(query, memory, **places, last_only=True)):
        assert len(every) == 3 and len(last) == 1
        torch.testing.assert_close(last[0], every[-1])


def test_thing_queries_do_not_see_each_other():
    query, memory, places = inputs(queries=4)
    decoder = randomised(MaskDecoder(num_layers=2, **SMALL))
    masks = decoder(query, memory, **places)[1]
    torch.testing.assert_close(decoder(query[:, [2, 0]], memory, **places)[1], masks[:, :, [2, 0]])


def test_no_query_gives_no_mask_and_is_part_of_the_graph():
    query, memory, places = inputs(queries=0)
    queries, masks = MaskDecoder(num_layers=2, **SMALL)(query.requires_grad_(), memory, **places)
    assert queries.shape == (2, 2, 0, DIM) and masks.shape == (2, 2, 0, 4, 6)
    (queries.sum() + masks.sum()).backward()


def test_class_queries_are_content_then_position():
    _, memory, places = inputs()
    decoder = randomised(ClassMaskDecoder(5, num_layers=2, **SMALL))
    content, position = decoder.queries.weight[:, :DIM], decoder.queries.weight[:, DIM:]
    states, expected = decoder.decoder(
        content.expand(2, -1, -1), memory, **places, query_position=position.expand(2, -1, -1)
    )
    masks, existence = decoder(memory, **places)
    torch.testing.assert_close(masks, expected)
    assert existence.shape == (2, 2, 5)
    for layer, branch in enumerate(decoder.existence_branches):
        torch.testing.assert_close(existence[layer], states[layer] @ branch.weight[0] + branch.bias)
    last_masks, last_existence = decoder(memory, **places, last_only=True)
    torch.testing.assert_close(last_masks, masks[-1:])
    torch.testing.assert_close(last_existence, existence[-1:])


def test_start_of_the_weights():
    torch.manual_seed(0)
    decoder = ClassMaskDecoder(4, num_layers=3, dim=64, ffn_dim=32, num_heads=8)
    first = decoder.decoder.layers[0].mask_attention
    for weight, fans in [(first.in_proj_weight, 64 + 192), (first.level_convs[1].weight, 16)]:
        bound = math.sqrt(6 / fans)
        assert 0.8 * bound < weight.abs().max() <= bound
    assert first.all_levels_conv.weight.shape == (1, 24, 1, 1)
    biases = [first.in_proj_bias, first.out_proj.bias, first.level_convs[2].bias, first.all_levels_conv.bias]
    assert not any(bias.any() for bias in biases)
    for layer in decoder.decoder.layers:
        for name, parameter in layer.named_parameters():
            assert torch.equal(parameter, decoder.decoder.layers[0].get_parameter(name)), name
    for branch in decoder.existence_branches:
        assert torch.equal(branch.weight, decoder.existence_branches[0].weight)
        assert torch.equal(branch.bias, decoder.existence_branches[0].bias) and branch.bias > -0.2
    decoder.start_from_prior()
    for branch in decoder.existence_branches:
        torch.testing.assert_close(branch.bias.sigmoid(), torch.tensor([0.01]))
