"""Bring the results of all processes together: every image exactly once, in the order of the data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

from detectron2.utils import comm


def check_images(found: Iterable, expected: Iterable) -> None:
    """Collective: raise the same ValueError on every process unless all processes' `found` image ids together are the
    `expected` ones, each once. The message names an image."""
    expected = set(expected)
    counts = Counter(chain.from_iterable(comm.all_gather(list(found))))
    problems = {
        "no result": [image_id for image_id in expected if image_id not in counts],
        "two results or more": [image_id for image_id, count in counts.items() if count > 1],
        "a result, but it is not in the data set": [image_id for image_id in counts if image_id not in expected],
    }
    for problem, image_ids in problems.items():
        if image_ids:
            first = min(image_ids, key=str)
            others = f" (and {len(image_ids) - 1} others)" if len(image_ids) > 1 else ""
            raise ValueError(
                f"evaluation: expected one result for each of {len(expected)} images; image {first}{others} has "
                f"{problem}. Check the test loader's sampler and its number of processes."
            )


def gather_by_image(results: list[tuple[Any, Any]], image_ids: list) -> list | None:
    """Collective: from every process' (image id, result) pairs, the results in the order of `image_ids` on the main
    process, None on the others. Raises on every process as `check_images` does."""
    check_images((image_id for image_id, _ in results), image_ids)
    gathered = comm.gather(results)
    if not comm.is_main_process():
        return None
    by_image = dict(chain.from_iterable(gathered))
    return [by_image[image_id] for image_id in image_ids]
