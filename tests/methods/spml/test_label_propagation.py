"""Labels pass to the segments of the same image that resemble a labelled one."""

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.spml import label_propagation
from weakseg.methods.spml.label_propagation import label_sets, propagate_labels


def literal(vectors, image, prototypes, labels, images, num_classes, threshold):
    found = []
    for vector, b in zip(vectors, image):
        best = [
            (float(vector @ prototypes[k]), -k)
            for k in range(len(labels))
            if images[k] == b and labels[k] < num_classes
        ]
        similarity, k = max(best, default=(-torch.inf, 0))
        found.append(int(labels[-k]) if similarity >= threshold else -1)
    return found


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.95])
@pytest.mark.parametrize("tile", [7, 1024])
def test_the_most_similar_labelled_prototype_of_the_image(monkeypatch, threshold, tile):
    monkeypatch.setattr(label_propagation, "_TILE_ROWS", tile)
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(40, 4, generator=generator), dim=1)
    # Image 3 has no labelled prototype.
    image = torch.randint(0, 4, (40,), generator=generator)
    labels = torch.randint(0, 6, (40,), generator=generator)
    labels[image == 3] = 5
    arguments = {"prototypes": vectors, "prototype_label": labels, "prototype_image": image, "num_classes": 5}
    found = propagate_labels(vectors, image, threshold=threshold, **arguments)
    assert found.tolist() == literal(vectors, image, vectors, labels, image, 5, threshold)
    assert (found[image == 3] == -1).all()
    assert found[labels < 5].equal(labels[labels < 5])


def test_an_image_whose_similarities_are_all_negative_still_finds_its_own():
    vectors, prototypes = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    found = propagate_labels(
        vectors,
        torch.tensor([0]),
        prototypes=prototypes,
        prototype_label=torch.tensor([2, 1, 3]),
        prototype_image=torch.tensor([0, 1, 0]),
        num_classes=4,
        threshold=-1.0,
    )
    assert found.tolist() == [2]


def test_nothing_labelled_and_nothing_asked():
    none = torch.zeros(0, dtype=torch.long)
    arguments = {"prototypes": torch.ones(2, 3), "prototype_label": torch.tensor([4, 255]), "num_classes": 4}
    arguments |= {"prototype_image": torch.zeros(2), "threshold": 0.95}
    assert propagate_labels(torch.ones(2, 3), torch.zeros(2), **arguments).tolist() == [-1, -1]
    arguments["prototype_label"] = torch.tensor([0, 1])
    assert propagate_labels(torch.zeros(0, 3), none, **arguments).shape == (0,)


def test_a_set_is_one_label_or_all():
    assert label_sets(torch.tensor([1, -1, 0]), 3).tolist() == [
        [False, True, False],
        [True, True, True],
        [True, False, False],
    ]
