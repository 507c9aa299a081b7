"""Shares and ramps of every loss term, by hand from the table of the card."""

import pytest
import torch

from weakseg.methods.point2mask.loss_weights import SCALING, loss_ramp, scale_losses

# name: (ramped, share of things 0.75 / of stuff 0.25 / none 1 in the corrected and in the published form)
EXPECTED = {
    "d0.loss_sem_cls": (False, 1, 0.75),
    "d5.loss_sem_mask": (False, 1, 0.75),
    "d1.loss_sem_color": (False, 1, 0.75),
    "d2.loss_tree_color": (True, 1, 0.75),
    "d3.loss_cls": (False, 0.75, 0.75),
    "loss_cls": (False, 0.75, 0.75),
    "d0.loss_bbox": (True, 0.75, 0.75),
    "d0.loss_iou": (True, 0.75, 0.75),
    "loss_bbox": (True, 0.75, 0.75),
    "loss_iou": (True, 0.75, 0.75),
    "d3.loss_mask": (True, 0.75, 0.75),
    "d10.loss_st_mask": (True, 0.25, 0.25),
    "d5.loss_st_cls": (True, 0.25, 0.25),
    "loss_cl": (False, 1, 1),
    "loss_bnd": (True, 1, 1),
}


@pytest.mark.parametrize("official", [False, True])
def test_every_term_has_its_share_and_ramp(official):
    assert {name.split(".")[-1] for name in EXPECTED} == set(SCALING)
    losses = {name: torch.tensor(8.0) for name in EXPECTED}
    scaled = scale_losses(losses, thing_count=3, stuff_count=torch.tensor(1.0), ramp=0.5, official=official)
    for name, (ramped, corrected, published) in EXPECTED.items():
        assert scaled[name] == 8 * (0.5 if ramped else 1) * (published if official else corrected), name
    assert list(scaled) == list(losses)


def test_only_the_published_form_swaps_the_names_of_the_last_boxes():
    losses = {
        f"{prefix}loss_{kind}": torch.tensor(v) for prefix in ("", "d4.") for kind, v in (("bbox", 2.0), ("iou", 3.0))
    }
    plain = scale_losses(losses, thing_count=1, stuff_count=0, ramp=1.0)
    official = scale_losses(losses, thing_count=1, stuff_count=0, ramp=1.0, official=True)
    assert (plain["loss_bbox"], plain["loss_iou"]) == (2, 3) and (official["loss_bbox"], official["loss_iou"]) == (3, 2)
    assert (official["d4.loss_bbox"], official["d4.loss_iou"]) == (2, 3)


def test_ramp_is_linear_between_0_and_1():
    assert [loss_ramp(k, 8) for k in (0, 2, 8, 20)] == [0, 0.25, 1, 1]
    ramp = loss_ramp(torch.tensor(6), 8)
    assert isinstance(ramp, torch.Tensor) and ramp == 0.75 and loss_ramp(torch.tensor(9), 8) == 1
    assert loss_ramp(0, 0) == 1


def test_the_first_step_leaves_no_gradient_from_pseudo_labels():
    loss = torch.tensor(2.0, requires_grad=True)
    scaled = scale_losses({"loss_bnd": loss}, thing_count=1.0, stuff_count=2.0, ramp=loss_ramp(torch.tensor(0), 10))
    scaled["loss_bnd"].backward()
    assert scaled["loss_bnd"] == 0 and loss.grad == 0


def test_a_ramp_of_one_step_still_starts_at_0():
    assert loss_ramp(0, 1) == 0 and loss_ramp(1, 1) == 1
    assert loss_ramp(0, 0) == 1
