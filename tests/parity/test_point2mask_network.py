"""Point2Mask's network, part by part, against the published one: operators, positions, mask decoder."""

import torch

from parity.reference import Reference, fill_rule, reference_files
from weakseg.layers.deformable_attention import MultiScaleDeformableAttention, multi_scale_deformable_attention
from weakseg.layers.position_encoding import encoder_reference_points, level_paddings, sine_position, valid_ratios
from weakseg.methods.point2mask.checkpoint import published_name
from weakseg.methods.point2mask.mask_decoder import MaskDecoderLayer
from weakseg.methods.point2mask.network import Encoded, Point2MaskNetwork


def sizes_of(ref):
    return [tuple(size) for size in ref["sizes"].tolist()]


def batch_first(ref, name):
    return ref.tensor(name).transpose(0, 1)


@reference_files("point2mask", "unit_msda")
def test_deformable_attention(path):
    with Reference(path) as ref:
        sizes = sizes_of(ref)
        core = multi_scale_deformable_attention(
            ref.tensor("core_value"), sizes, ref.tensor("core_loc"), ref.tensor("core_weight")
        )
        ref.compare("core_out", core, atol=1e-5)

        dim, points = ref["query"].shape[-1], ref["core_loc"].shape[-2]
        module = MultiScaleDeformableAttention(dim, num_levels=len(sizes), num_points=points).eval()
        rule = fill_rule()
        module.load_state_dict(
            {k: torch.from_numpy(rule.fill(f"m.{k}", tuple(v.shape))) for k, v in module.state_dict().items()}
        )
        query = batch_first(ref, "query").requires_grad_()
        value = batch_first(ref, "value").requires_grad_()
        fixed = {
            "query_position": batch_first(ref, "query_pos"),
            "padding": ref.tensor("padding").bool(),
            "sizes": sizes,
        }
        out2 = module(query, value, reference=ref.tensor("ref2"), **fixed)
        out4 = module(query, value, reference=ref.tensor("ref4"), **fixed)
        ref.compare("out2", out2.transpose(0, 1), atol=1e-5)
        ref.compare("out4", out4.transpose(0, 1), atol=1e-5)
        cotangent = batch_first(ref, "grad_out")
        ((out2 * cotangent).sum() + (out4 * cotangent.flip(1)).sum()).backward()
        ref.compare("grad_query", query.grad.transpose(0, 1), atol=1e-4)
        ref.compare("grad_value", value.grad.transpose(0, 1), atol=1e-4)


@reference_files("point2mask", "unit_position")
def test_positions(path):
    with Reference(path) as ref:
        sizes = sizes_of(ref)
        padded_size, *image_sizes = [tuple(size) for size in ref["image_mask_shape"].tolist()]
        paddings = level_paddings(image_sizes, padded_size, sizes)
        for level, padding in enumerate(paddings):
            ref.compare(f"mask{level}", padding)
            if f"pos{level}" in ref:
                position = sine_position(padding, ref[f"pos{level}"].shape[1])
                ref.compare(f"pos{level}", position, atol=1e-6)
        ratios = valid_ratios(paddings)
        ref.compare("valid_ratios", ratios, atol=1e-6)
        ref.compare("reference_points", encoder_reference_points(sizes, ratios), atol=1e-6)


@reference_files("point2mask", "unit_mask_attention")
def test_mask_decoder_layer(path):
    ours = "head.network.stuff_decoder.decoder.layers.0."
    theirs = "bbox_head.stuff_mask_head.model.layers.0."
    rule = fill_rule()
    with Reference(path) as ref:
        query = batch_first(ref, "query").requires_grad_()
        memory = batch_first(ref, "memory").requires_grad_()
        sizes, padding = sizes_of(ref), ref.tensor("padding").bool()
        layer = MaskDecoderLayer(query.shape[-1], ffn_dim=1024, num_heads=8, self_attention=True)
        for name, parameter in layer.state_dict().items():
            key = "layer." + published_name(ours + name).removeprefix(theirs)
            parameter.copy_(torch.from_numpy(rule.fill(key, tuple(parameter.shape))))
        final = layer.mask_attention.all_levels_conv.weight
        final.data = final.data.abs()

        attended, mask = layer.mask_attention(query, memory, padding=padding, sizes=sizes)
        ref.compare("attn_out", attended.transpose(0, 1), atol=1e-5)
        ref.compare("attn_mask", mask, atol=1e-5)
        out, mask = layer(query, memory, padding=padding, sizes=sizes)
        ref.compare("layer_query", out.transpose(0, 1), atol=1e-5)
        ref.compare("layer_mask", mask, atol=1e-5)
        ((mask * ref.tensor("grad_mask")).sum() + (out * batch_first(ref, "grad_query_out")).sum()).backward()
        ref.compare("grad_query", query.grad.transpose(0, 1), atol=1e-4)
        ref.compare("grad_memory", memory.grad.transpose(0, 1), atol=1e-4)

        all_padding = padding.clone()
        all_padding[1] = True
        attended, mask = layer.mask_attention(query, memory, padding=all_padding, sizes=sizes)
        ref.compare("allpad_out", attended.transpose(0, 1), atol=1e-5)
        ref.compare("allpad_mask", mask, atol=1e-5)


@reference_files("point2mask", "unit_memory_proj")
def test_embedding_and_boundary_heads(path):
    with Reference(path) as ref:
        memory, position, sizes = ref.tensor("memory"), ref.tensor("memory_pos"), sizes_of(ref)
        embed_dim = ref["memory_proj"].shape[1]
        network = Point2MaskNetwork(
            [8, 8, 8],
            num_things=1,
            num_stuff=1,
            hidden_dim=memory.shape[-1],
            ffn_dim=8,
            enc_layers=1,
            dec_layers=1,
            num_queries=1,
            thing_layers=1,
            stuff_layers=1,
            semantic_layers=1,
            embed_dim=embed_dim,
        )
        fill_parameters(network.embedding_head, "head.network.embedding_head.")
        fill_parameters(network.boundary_head, "head.network.boundary_head.")
        encoded = Encoded(
            memory=memory,
            position=position,
            padding=torch.zeros(memory.shape[:2], dtype=torch.bool),
            sizes=sizes,
            valid_ratios=torch.ones(len(memory), len(sizes), 2),
        )
        embedding, boundary = network.embed(encoded)
        ref.compare("memory_proj", embedding, atol=1e-5)
        ref.compare("boundary_proj", boundary[:, None], atol=1e-5)


def fill_parameters(module, prefix):
    """Fill a part of the network, named `prefix` in the whole model, under the published names."""
    rule = fill_rule()
    for name, parameter in module.state_dict().items():
        parameter.copy_(torch.from_numpy(rule.fill(published_name(prefix + name), tuple(parameter.shape))))
