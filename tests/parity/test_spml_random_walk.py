"""Affinity and random walk against the recorded outputs of SPML."""

import re

import torch
import torch.nn.functional as F

from parity.reference import Reference, reference_files
from weakseg.refine.random_walk import affinity, random_walk, transition_matrix

TOLERANCE = 1e-5


def cam_array(cams):
    """Rows of the full array, background first: (1 - largest CAM)^6, then the CAMs (card 3.11, "CAM walk")."""
    foreground = torch.stack(cams)
    return torch.cat([(1 - foreground.amax(0, keepdim=True)) ** 6, foreground])


@reference_files("spml", "unit_random_walk")
def test_walk_spreads_the_cams(path):
    with Reference(path) as ref:
        embedding = ref.tensor("embedding")
        size = tuple(n // 8 for n in embedding.shape[1:])
        ref.compare("affinity", affinity([embedding], size), atol=TOLERANCE)

        classes = sorted(int(name[4:]) for name in ref.keys() if re.fullmatch(r"cam_\d+", name))
        scores = cam_array([ref.tensor(f"cam_{c}") for c in classes])
        ref.compare("cam_array", scores, atol=TOLERANCE)
        eighth = F.interpolate(scores[None], scale_factor=1 / 8, mode="bilinear", recompute_scale_factor=False)[0]
        ref.compare("cam_eighth", eighth, atol=TOLERANCE)

        transition = transition_matrix([embedding], size)
        ref.compare("walk1", random_walk(eighth, transition, steps=1), atol=TOLERANCE)
        walked = random_walk(eighth, transition, steps=64)
        ref.compare("walk64", walked, atol=TOLERANCE)
        full_size = F.interpolate(walked[None], size=embedding.shape[1:], mode="bilinear")[0]
        ref.compare("walk64_full_size", full_size[:, ::3, ::3], atol=TOLERANCE)
