"""Results of all processes come together once an image and in order, and a lost or doubled one is named on each.

Real processes: test_many_processes.py."""

import pytest
from detectron2.utils import comm

from weakseg.evaluation.gather import check_images, gather_by_image

ADVICE = " Check the test loader's sampler and its number of processes."


@pytest.fixture
def others(monkeypatch):
    """others(share, ...): as if further processes brought these shares, each a list as this process brings one."""

    def bring(*shares, images_of=lambda share: [image_id for image_id, _ in share]):
        monkeypatch.setattr(comm, "all_gather", lambda found: [found, *map(images_of, shares)])
        monkeypatch.setattr(comm, "gather", lambda results: [results, *shares])

    return bring


def test_results_are_in_the_order_of_the_data_set():
    results = [("b", 2), ("a", 1), (7, 3)]
    assert gather_by_image(results, ["a", 7, "b"]) == [1, 3, 2]
    assert gather_by_image([], []) == []


def test_results_of_several_processes_are_joined(others):
    others([(1, "one"), (5, "five")], [])
    assert gather_by_image([(3, "three")], [5, 3, 1]) == ["five", "three", "one"]


def test_other_processes_than_the_main_one_get_none(others, monkeypatch):
    others([(1, "one")])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert gather_by_image([(3, "three")], [1, 3]) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "problem"),
    [
        ([1], [3], "image 2 has no result."),
        ([], [], "image 1 (and 2 others) has no result."),
        ([1, 2], [2, 3], "image 2 has two results or more."),
        ([1, 1, 2], [2, 3], "image 1 (and 1 others) has two results or more."),
        ([1, 2], [3, 9], "image 9 has a result, but it is not in the data set."),
    ],
)
def test_a_fault_of_any_process_is_named(others, mine, theirs, problem):
    others([(image_id, None) for image_id in theirs])
    sentence = f"evaluation: expected one result for each of 3 images; {problem[: problem.index(' has')]}"
    for call in (check_images, lambda found, expected: gather_by_image([(i, None) for i in found], expected)):
        with pytest.raises(ValueError) as error:
            call(mine, [1, 2, 3])
        assert str(error.value).startswith(sentence)
        assert str(error.value).endswith(problem + ADVICE)


def test_all_images_once_are_no_fault(others):
    others([(2, None)], [(3, None)])
    check_images(iter([1]), iter([3, 2, 1]))
