"""Votes of labelled segments."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from weakseg.methods.spml import retrieval
from weakseg.methods.spml.retrieval import (
    majority_labels,
    nearest_labels,
    neighbour_accuracy,
    paint,
    usable_memory,
    vote,
    vote_shares,
)


def units(count, seed):
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_majority_is_the_smallest_of_the_most_frequent():
    label = torch.tensor([255, 255, 7, 7, 3, 0, 9])
    segment = torch.tensor([0, 0, 0, 0, 0, 1, 2])
    assert majority_labels(label, segment, 3).tolist() == [7, 0, 9]
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 256, (500,), generator=generator) // 40 * 40
    segment = torch.randint(0, 20, (500,), generator=generator)
    for s, found in enumerate(majority_labels(label, segment, 20).tolist()):
        counts = Counter(label[segment == s].tolist())
        assert found == min(value for value, count in counts.items() if count == max(counts.values()))


@pytest.mark.parametrize("elements", [1, 400, 2**22])
def test_nearest_are_those_of_a_full_sort_in_its_order(monkeypatch, elements):
    monkeypatch.setattr(retrieval, "_CHUNK_ELEMENTS", elements)
    queries, memory = units(13, 0), units(97, 1)
    labels = torch.arange(97)
    order = (queries @ memory.T).sort(1, descending=True).indices
    assert nearest_labels(queries, memory, labels).equal(order[:, :20])
    assert nearest_labels(queries, memory, labels, neighbours=1)[:, 0].equal(order[:, 0])


def test_a_small_memory_votes_with_all_it_has():
    queries, memory = units(4, 0), units(3, 1)
    labels = nearest_labels(queries, memory, torch.tensor([2, 2, 0]))
    assert labels.sort(1).values.tolist() == [[0, 2, 2]] * 4
    assert vote(labels).tolist() == [2] * 4
    torch.testing.assert_close(vote_shares(labels, 3), torch.tensor([1 / 3, 0, 2 / 3]).expand(4, 3))


def test_an_empty_memory_is_refused_and_no_query_is_answered():
    with pytest.raises(ValueError, match="at least one labelled prototype"):
        nearest_labels(units(2, 0), torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    assert nearest_labels(units(0, 0), units(3, 1), torch.arange(3)).shape == (0, 3)
    assert vote(torch.zeros(0, 3, dtype=torch.long)).shape == (0,)


def test_ties_in_the_vote_go_to_the_smaller_label():
    assert vote(torch.tensor([[5, 3, 5, 3, 1], [250, 250, 4, 4, 4]])).tolist() == [3, 4]


def test_shares_leave_out_what_is_no_class():
    shares = vote_shares(torch.tensor([[0, 0, 21, 1], [254, 254, 254, 2]]), 3)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.25, 0.0], [0.0, 0.0, 0.25]]))


def test_unlabelled_prototypes_do_not_vote():
    vectors, labels = units(4, 0), torch.tensor([0, 21, 20, 255])
    kept, values = usable_memory(vectors, labels, 21)
    assert values.tolist() == [0, 20] and kept.equal(vectors[[0, 2]])
    kept, values = usable_memory(vectors, labels, 21, official=True)
    assert values.tolist() == [0, 21, 20] and kept.equal(vectors[:3])


def test_values_are_painted_on_the_pixels_of_their_segment():
    kept = torch.tensor([[True, False, True], [True, True, False]])
    painted = paint(torch.tensor([[1.0, 10.0], [2.0, 20.0]]), torch.tensor([1, 0, 0, 1]), kept)
    assert painted.tolist() == [[[2, 0, 1], [1, 2, 0]], [[20, 0, 10], [10, 20, 0]]]


def test_accuracy_counts_the_prototype_itself():
    vectors = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, -0.2]]), dim=1)
    labels = torch.tensor([0, 0, 1, 2])
    # Two neighbours: itself and the one beside it.
    torch.testing.assert_close(neighbour_accuracy(vectors, labels, neighbours=2), torch.tensor(6 / 8))
    # Fewer prototypes than neighbours: all of them.
    torch.testing.assert_close(neighbour_accuracy(vectors, labels), torch.tensor(6 / 16))
    assert neighbour_accuracy(vectors[:0], labels[:0]) == 0


def test_half_precision_does_not_change_the_order():
    queries, memory = units(13, 0), units(97, 1)
    with torch.autocast("cpu", torch.bfloat16):
        labels = nearest_labels(queries, memory, torch.arange(97))
    assert labels.equal(nearest_labels(queries, memory, torch.arange(97)))
