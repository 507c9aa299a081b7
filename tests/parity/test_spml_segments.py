"""SPML's clusters, segments and prototypes against recorded ones."""

import re
from dataclasses import replace

import torch

from parity.reference import Reference, reference_files
from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.retrieval import majority_labels
from weakseg.methods.spml.segments import (
    LABEL_DIVISOR,
    combine_labels,
    find_segments,
    initial_clusters,
    join_prototypes,
    local_prototypes,
    segment_prototypes,
)


def numbered(ref, prefix):
    """The numbers of the arrays prefix0, prefix1, ..."""
    return sorted(int(name[len(prefix) :]) for name in ref.keys() if re.fullmatch(rf"{prefix}\d+", name))


@reference_files("spml", "unit_initial_clusters")
def test_initial_clusters(path):
    with Reference(path) as ref:
        for case in numbered(ref, "grid_"):
            labels = ref[f"labels_{case}"]
            ref.compare(f"labels_{case}", initial_clusters(*labels.shape, tuple(ref[f"grid_{case}"].tolist())))


@reference_files("spml", "unit_clusters")
def test_clusters(path):
    with Reference(path) as ref:
        embedding = ref.tensor("embedding")
        labels = {}
        if "combined_label" in ref:
            combined = ref.tensor("combined_label")
            labels["semantic"] = torch.where(ref.tensor("ignored"), 255, combined // LABEL_DIVISOR)
            labels["region"] = combined % LABEL_DIVISOR
        segments = find_segments(
            embedding,
            local=position_features(*embedding.shape[2:]),
            grid=tuple(ref["grid"].tolist()),
            iterations=int(ref["iterations"]) if "iterations" in ref else 0,
            **labels,
        )
        ref.compare("out_e", segments.embedding, rtol=1e-6, atol=1e-6)
        ref.compare("out_q", segments.located, rtol=1e-6, atol=1e-6)
        ref.compare("out_label", combine_labels(segments.semantic, segments.region))
        ref.compare("out_segment", segments.segment)
        ref.compare("out_batch", segments.image)


@reference_files("spml", "unit_gather_prototypes")
def test_prototypes_of_several_devices(path):
    with Reference(path) as ref:
        embeddings, devices, located, images, first = [], [], [], [], 0
        for rank in numbered(ref, "embedding_"):
            embedding = ref.tensor(f"embedding_{rank}").requires_grad_()
            # The recorded segments take the place of clusters: only prototypes are made here.
            segments = find_segments(
                embedding,
                local=position_features(*embedding.shape[2:]),
                grid=(1, 1),
                iterations=0,
                semantic=ref.tensor(f"semantic_{rank}"),
                region=ref.tensor(f"region_{rank}"),
            )
            segment = ref.tensor(f"segment_in_{rank}")
            count = int(segment.max()) + 1
            of_segments = {
                f"segment_{name}": torch.zeros(count, dtype=torch.long).scatter(0, segment, getattr(segments, name))
                for name in ("semantic", "region", "image")
            }
            segments = replace(segments, segment=segment, **of_segments)
            ref.compare(f"batch_{rank}", segments.image + sum(images))
            ref.compare(f"segment_{rank}", segment + first)
            devices.append(local_prototypes(segments, torch.zeros(len(embedding), 1, dtype=torch.bool)))
            located.append(segment_prototypes(segments.located, segment, count))
            embeddings.append(embedding)
            images.append(len(embedding))
            first += count
        prototypes, located = join_prototypes(devices, images), torch.cat(located)
        ref.compare("prototype", prototypes.vector, rtol=1e-6, atol=1e-6)
        ref.compare("prototype_with_location", located, rtol=1e-6, atol=1e-6)
        ref.compare("prototype_semantic", prototypes.semantic)
        ref.compare("prototype_region", prototypes.region)
        ref.compare("prototype_batch", prototypes.image)
        value = (ref.tensor("coef_prototype") * prototypes.vector).sum()
        (value + (ref.tensor("coef_prototype_with_location") * located).sum()).backward()
        for rank, embedding in zip(numbered(ref, "embedding_"), embeddings):
            name = f"grad_embedding_{rank}"
            ref.compare(name, embedding.grad, rtol=1e-6, atol=1e-6 * abs(ref[name]).max())


@reference_files("spml", "unit_majority_label")
def test_majority_labels(path):
    with Reference(path) as ref:
        majority = majority_labels(ref.tensor("label"), ref.tensor("segment"), len(ref["majority"]))
        ref.compare("majority", majority)
