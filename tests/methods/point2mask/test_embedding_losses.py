"""The contrastive and the boundary loss against literal loops over points, masks and pixel pairs."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.point2mask.embedding_losses import boundary_loss, contrastive_loss

THINGS, STUFF = 3, 2
NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def literal_contrastive(embedding, instance_map, semantic, points, point_map, count, temperature):
    """One image: all masks at full size, one point after the other."""
    (_, h, w), (height, width) = embedding.shape, semantic.shape
    masks = [instance_map == k for k in range(count)] + [semantic == THINGS + j for j in range(STUFF)]
    means = []
    for mask in masks:
        small = F.interpolate(mask[None, None].float(), (h, w), mode="bilinear", align_corners=False)[0, 0]
        means.append((embedding * small).sum((1, 2)) / max(small.sum().item(), 1))
    labelled = [tuple(row) for row in points.tolist()]
    for j in range(STUFF):
        labelled += [(count + j, y, x) for y, x in (point_map == THINGS + j).nonzero().tolist()]
    terms = []
    for target, y, x in labelled:
        query = embedding[:, y * h // height, x * w // width]
        logits = torch.stack([query @ mean for mean in means]) / temperature
        terms.append(-logits.log_softmax(0)[target])
    return sum(terms) / len(terms) if terms else embedding.sum() * 0


def embedding_problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    embedding = F.normalize(torch.randn(3, 8, 4, 6, generator=generator), dim=1).requires_grad_()
    instance_maps = list(torch.randint(-1, 2, (3, 16, 30), generator=generator))
    semantic = torch.randint(0, THINGS + 1, (3, 16, 30), generator=generator)
    semantic[0, :5] = 255
    point_map = torch.full((3, 16, 30), 255)
    point_map[0, 15, 29], point_map[0, 3, 7], point_map[0, 3, 6], point_map[1, 2, 2], point_map[1, 8, 8] = 3, 4, 4, 1, 3
    points = [torch.tensor([[0, 0, 0], [2, 15, 29], [0, 9, 14]]), torch.tensor([[1, 7, 20]]), torch.zeros(0, 3).long()]
    return (
        embedding,
        instance_maps,
        {
            "semantic": semantic,
            "points": points,
            "point_map": point_map,
            "num_instances": [3, 2, 2],
        },
    )


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_contrastive_loss_equals_the_loop_over_points(temperature):
    """Three images: an instance without a pixel and absent stuff are references too; the last image has no point."""
    embedding, maps, labels = embedding_problem()
    loss = contrastive_loss(embedding, maps, **labels, num_things=THINGS, num_stuff=STUFF, temperature=temperature)
    expected = sum(
        literal_contrastive(
            embedding[b],
            maps[b],
            labels["semantic"][b],
            labels["points"][b],
            labels["point_map"][b],
            count,
            temperature,
        )
        for b, count in enumerate(labels["num_instances"])
    )
    torch.testing.assert_close(loss, expected / 3)
    gradients = [torch.autograd.grad(value, embedding, retain_graph=True)[0] for value in (loss, expected / 3)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert not gradients[0][2].any()


def test_the_usual_temperature_is_the_published_one():
    embedding, maps, labels = embedding_problem()
    arguments = {**labels, "num_things": THINGS, "num_stuff": STUFF}
    assert contrastive_loss(embedding, maps, **arguments) == contrastive_loss(
        embedding, maps, **arguments, temperature=0.07
    )


def test_contrastive_loss_of_one_reference_or_none_is_zero_of_the_graph():
    embedding, maps, labels = embedding_problem()
    labels |= {"points": [torch.zeros(2, 3).long()] * 3, "num_instances": [1, 1, 1]}
    loss = contrastive_loss(embedding, maps, **labels, num_things=THINGS, num_stuff=0)
    assert loss.abs() < 1e-7 and loss.requires_grad
    labels |= {"points": [torch.zeros(0, 3).long()] * 3, "num_instances": [0, 0, 0]}
    loss = contrastive_loss(embedding, maps, **labels, num_things=THINGS, num_stuff=0)
    loss.backward()
    assert loss == 0 and torch.equal(embedding.grad, torch.zeros_like(embedding))


def test_contrastive_loss_under_autocast_is_in_float():
    embedding, maps, labels = embedding_problem()
    arguments = {**labels, "num_things": THINGS, "num_stuff": STUFF}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = contrastive_loss(embedding, maps, **arguments)
    torch.testing.assert_close(half, contrastive_loss(embedding, maps, **arguments))


def literal_boundary(logits, instances, semantic, size, official):
    """One image of the batch: every pixel with its 8 neighbours, sums of (thing, stuff, different) pairs."""
    full = semantic.shape
    s = F.interpolate(logits[None, None], full, mode="bilinear", align_corners=False)[0, 0].sigmoid()
    height, width = full if official else size
    kinds = {"thing": [], "stuff": [], "different": []}
    for y in range(height):
        for x in range(width):
            for dy, dx in NEIGHBOURS:
                v, u = y + dy, x + dx
                within = 0 <= v < height and 0 <= u < width
                if not within and not official:
                    continue
                own, other = instances[y, x].item(), instances[v, u].item() if within else -1
                label, neighbour = semantic[y, x].item(), semantic[v, u].item() if within else 0
                affinity = 1 - (torch.maximum(s[y, x], s[v, u]) if within else s[y, x])
                alike, unlike = -(affinity + 1e-5).log(), -(1 + 1e-5 - affinity).log()
                if own == other >= 0:
                    kinds["thing"].append(alike)
                if label == neighbour and THINGS <= label < 255:
                    kinds["stuff"].append(alike)
                both_things = label < THINGS and neighbour < THINGS
                differ = label != neighbour and max(label, neighbour) < 255 and (official or not both_things)
                if own != other or differ:
                    kinds["different"].append(unlike)
    means = {name: sum(terms) / (len(terms) + 1e-5) for name, terms in kinds.items()}
    return (0.5 * means["thing"] + 0.5 * means["stuff"] + means["different"]) / 2


def boundary_problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 5, generator=generator).requires_grad_()
    # Blocks, so that there are equal neighbours, with single pixels flipped.
    instances = torch.randint(-1, 2, (2, 3, 4), generator=generator).repeat_interleave(3, 1).repeat_interleave(3, 2)
    semantic = torch.randint(0, THINGS + STUFF, (2, 3, 4), generator=generator)
    semantic = semantic.repeat_interleave(3, 1).repeat_interleave(3, 2)
    semantic[torch.rand(semantic.shape, generator=generator) < 0.15] = 255
    semantic[torch.rand(semantic.shape, generator=generator) < 0.1] = 0
    return logits, list(instances), semantic


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_boundary_loss_equals_the_loop_over_pairs(official, seed):
    logits, maps, semantic = boundary_problem(seed)
    sizes = [(9, 12), (7, 8)]
    loss = boundary_loss(logits, maps, semantic, num_things=THINGS, image_sizes=sizes, official=official)
    expected = sum(literal_boundary(logits[b], maps[b], semantic[b], sizes[b], official) for b in range(2)) / 2
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_padding_and_thing_classes_inside_an_instance_do_not_matter():
    logits = torch.randn(1, 6, 7, generator=torch.Generator().manual_seed(5))
    maps, semantic = [torch.zeros(6, 7).long()], torch.zeros(1, 6, 7).long()
    maps[0][4:] = -1
    semantic[:, 4:] = 3
    arguments = {"num_things": THINGS, "image_sizes": [(5, 6)]}
    loss = boundary_loss(logits, maps, semantic, **arguments)
    for changed in (logits, maps[0][None], semantic):
        changed[:, 5:], changed[:, :, 6:] = 1, 2
    semantic[:, 1, 2] = 1
    torch.testing.assert_close(boundary_loss(logits, maps, semantic, **arguments), loss)
    assert boundary_loss(logits, maps, semantic, **arguments, official=True) != loss


@pytest.mark.parametrize("official", [False, True])
def test_boundary_loss_is_the_same_for_the_mirrored_and_the_turned_image(official):
    logits, maps, semantic = boundary_problem()
    arguments = {"num_things": THINGS, "official": official}
    loss = boundary_loss(logits, maps, semantic, image_sizes=[(9, 12)] * 2, **arguments)
    mirrored = boundary_loss(
        logits.flip(2), [m.flip(1) for m in maps], semantic.flip(2), image_sizes=[(9, 12)] * 2, **arguments
    )
    turned = boundary_loss(logits.mT, [m.T for m in maps], semantic.mT, image_sizes=[(12, 9)] * 2, **arguments)
    torch.testing.assert_close(torch.stack([mirrored, turned]), loss.expand(2))


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (1, 5)])
def test_boundary_loss_without_any_pair_is_zero_of_the_graph(size):
    logits = torch.zeros(1, 1, 1, requires_grad=True)
    nobody, nothing = [torch.full(size, -1)], torch.full((1, *size), 255)
    loss = boundary_loss(logits, nobody, nothing, num_things=THINGS, image_sizes=[size])
    loss.backward()
    assert loss == 0 and logits.grad == 0


def test_the_right_boundary_has_almost_no_loss():
    """Two instances side by side, one column of boundary: it costs the pairs within the instance that touch it."""
    instances = torch.tensor([[0, 0, 0, 1, 1, 1]] * 6)
    logits = torch.full((1, 6, 6), -9.0)
    logits[:, :, 3] = 9
    arguments = {"semantic": torch.zeros(1, 6, 6).long(), "num_things": THINGS, "image_sizes": [(6, 6)]}
    right = boundary_loss(logits, [instances], **arguments)
    wrong = boundary_loss(-logits, [instances], **arguments)
    # Unordered pairs: down the column, across to the next column, both diagonals.
    touching = 5 + 6 + 2 * 5
    within = 2 * (3 * 5 + 2 * 6 + 2 * 2 * 5)
    expected = 0.25 * touching / within * -torch.log(1 - torch.sigmoid(torch.tensor(9.0)) + 1e-5)
    torch.testing.assert_close(right, expected, rtol=0, atol=1e-3)
    assert wrong > 2
