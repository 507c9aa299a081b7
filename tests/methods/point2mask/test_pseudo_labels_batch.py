"""Pseudo labels of a batch are those of its images alone, and a larger batch does not ask the device more often."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from weakseg.methods.point2mask import pseudo_labels
from weakseg.methods.point2mask.pseudo_labels import make_pseudo_labels
from weakseg.methods.point2mask.semantic_losses import dilate_points

THINGS, CLASSES = 4, 6
SIZE = (72, 104)


class Scene:
    """Random maps and points of images with `instances` each (the last of an image without a point where it has more
    than two), in images of `image_sizes`."""

    def __init__(self, instances, image_sizes, seed=0):
        generator = torch.Generator().manual_seed(seed)
        batch = len(instances)
        smooth = F.interpolate(torch.randn(batch, CLASSES, 4, 5, generator=generator), size=(9, 13), mode="bilinear")
        self.maps = [
            smooth * 3,
            torch.randn(batch, 9, 13, generator=generator),
            F.normalize(torch.randn(batch, 5, 9, 13, generator=generator), dim=1),
        ]
        self.edges = torch.rand(batch, *SIZE, generator=generator)
        self.image_sizes, self.classes, self.points = image_sizes, [], []
        self.point_map = torch.full((batch, *SIZE), 255)
        for b, (n, (height, width)) in enumerate(zip(instances, image_sizes)):
            self.classes.append(torch.randint(0, THINGS, (n,), generator=generator))
            with_point = n - (n > 2)
            instance = torch.arange(with_point).repeat(2)
            y = torch.randint(0, height, (len(instance),), generator=generator)
            x = torch.randint(0, width, (len(instance),), generator=generator)
            self.points.append(torch.stack([instance, y, x], dim=1))
            self.point_map[b, y, x] = self.classes[b][instance]
            self.point_map[b, height // 2, width // 3] = THINGS + b % 2

    def run(self, images, **options):
        images = list(images)
        options = {"num_things": THINGS, "stride": 8, "edges": self.edges[images]} | options
        return make_pseudo_labels(
            self.maps[0][images],
            dilate_points(self.point_map[images], CLASSES, 5),
            self.maps[1][images],
            self.maps[2][images],
            [self.classes[i] for i in images],
            [self.points[i] for i in images],
            [self.image_sizes[i] for i in images],
            **options,
        )


@pytest.fixture(scope="module")
def scene():
    return Scene([3, 0, 6, 1], [(72, 100), (64, 104), (50, 77), (72, 104)])


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("values", [None, 1, 2 * 6 * SIZE[0] * SIZE[1]], ids=["together", "one by one", "in pairs"])
def test_images_of_a_batch_do_not_mix(scene, phase, official, values, monkeypatch):
    alone = [scene.run([i], phase=phase, official=official) for i in range(4)]
    if values:
        monkeypatch.setattr(pseudo_labels, "_VALUES_TOGETHER_ON_CPU", values)
    batch = scene.run(range(4), phase=phase, official=official)
    for i, one in enumerate(alone):
        assert torch.equal(batch.instance_map[i], one.instance_map[0])
        assert torch.equal(batch.boxes[i], one.boxes[0]) and batch.boxes[i].shape == (len(scene.classes[i]), 4)
        assert torch.equal(batch.semantic[i], one.semantic[0])
    assert len(set(batch.instance_map[2].unique().tolist())) > 3  # there is something to mix up


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("official", [False, True])
def test_edges_change_who_gets_a_pixel(scene, phase, official):
    options = {"phase": phase, "official": official, "lambda_boundary": 1.0}
    with_edges, without = scene.run([2], **options), scene.run([2], edges=None, **options)
    assert not torch.equal(with_edges.instance_map[0], without.instance_map[0])
    assert torch.equal(with_edges.semantic, without.semantic)
    flat = scene.run([2], edges=torch.zeros(1, *SIZE), **options)
    assert torch.equal(flat.instance_map[0], without.instance_map[0])


class Questions(TorchDispatchMode):
    """Counts the operations whose result the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        is_masked = any(index is not None and index.dtype == torch.bool for index in indices)
        if is_masked or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim"):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("official", [False, True])
def test_a_larger_batch_asks_the_device_no_more_often(scene, phase, official, monkeypatch):
    to_list = torch.Tensor.tolist

    def count(images):
        with Questions() as questions, monkeypatch.context() as patch:

            def counted(tensor):
                questions.counts["tolist"] += 1
                return to_list(tensor)

            patch.setattr(torch.Tensor, "tolist", counted)
            scene.run(images, phase=phase, official=official)
        return questions.counts

    # One image four times: the number of sweeps and blocks depends on what is in an image.
    one, four = count([2]), count([2] * 4)
    assert one == four and one["_local_scalar_dense"] > 1 and one["nonzero"] > 0 and one["tolist"] > 0
    assert sum(one.values()) < 60


@pytest.mark.parametrize("phase", [1, 2])
def test_no_image(scene, phase):
    nothing = scene.run([], phase=phase)
    assert nothing.instance_map == [] and nothing.boxes == [] and nothing.semantic.shape == (0, *SIZE)
