"""SPML's contrastive loss and its label propagation against recorded ones."""

import torch

from parity.reference import Reference, reference_files
from weakseg.methods.spml.contrast import contrast_sum, share_label
from weakseg.methods.spml.label_propagation import label_sets, propagate_labels

CANCELLATION = {"loss": 1e-3, "per_pixel": 5e-2, "grad": 2e-2}
"""What the published float32 difference loses (card fault ff) from this concentration on, relative to the largest."""
CANCELLATION_FROM = 12


def compare_loss(ref, relation):
    """Loss per pixel, mean and gradients of the mean, in float64 and in float32. relation: own, row, positive."""
    concentration = int(ref["kappa"])
    for suffix, dtype in (("_f64", torch.float64), ("", torch.float32)):
        pixel = ref.tensor("pixel").to(dtype).requires_grad_()
        prototype = ref.tensor("prototype").to(dtype).requires_grad_()
        loss = contrast_sum(pixel, prototype, **relation, concentration=concentration) / len(pixel)
        loss.backward()
        own, row = relation["own"], relation["row"]
        per_pixel = [
            contrast_sum(
                pixel[[i]],
                prototype,
                own=own[[i]],
                row=row[[i]],
                positive=relation["positive"],
                concentration=concentration,
            )
            for i in range(len(pixel))
        ]
        found = {
            "loss": loss,
            "per_pixel": torch.stack(per_pixel),
            "grad_pixel": pixel.grad,
            "grad_prototype": prototype.grad,
        }
        for name, actual in found.items():
            tolerance = 1e-9 if suffix else 1e-4
            if not suffix and concentration >= CANCELLATION_FROM:
                tolerance = CANCELLATION[
                    name.removesuffix("_pixel").removesuffix("_prototype") if "grad" in name else name
                ]
            ref.compare(name + suffix, actual, rtol=tolerance, atol=tolerance * abs(ref[name + suffix]).max())


@reference_files("spml", "unit_loss_single")
def test_loss_of_single_labels(path):
    with Reference(path) as ref:
        labels, prototype_labels = ref.tensor("pixel_label"), ref.tensor("prototype_label")
        values = torch.arange(int(max(labels.max(), prototype_labels.max())) + 1)
        compare_loss(ref, {"own": ref.tensor("own"), "row": labels, "positive": values[:, None] == prototype_labels})


@reference_files("spml", "unit_loss_set")
def test_loss_of_label_sets(path):
    with Reference(path) as ref:
        sets = ref.tensor("pixel_tags")
        compare_loss(
            ref,
            {
                "own": ref.tensor("own"),
                "row": torch.arange(len(sets)),
                "positive": share_label(sets, ref.tensor("prototype_tags")),
            },
        )


@reference_files("spml", "unit_label_propagation")
def test_label_propagation(path):
    with Reference(path) as ref:
        prototypes, image = ref.tensor("prototype"), ref.tensor("prototype_image")
        num_classes = int(ref["num_classes"])
        for name, threshold in (("sets_threshold_095", 0.95), ("sets_threshold_minus1", -1.0)):
            labels = propagate_labels(
                prototypes,
                image,
                prototypes=prototypes,
                prototype_label=ref.tensor("prototype_label"),
                prototype_image=image,
                num_classes=num_classes,
                threshold=threshold,
            )
            ref.compare(name, labels[:, None] == torch.arange(num_classes))
            if f"{name}_filled" in ref:
                ref.compare(f"{name}_filled", label_sets(labels, num_classes))
