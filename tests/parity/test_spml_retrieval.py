"""SPML's retrieval of labelled segments and the accuracy of its log against recorded ones."""

from parity.reference import Reference, reference_files
from weakseg.methods.spml.retrieval import nearest_labels, vote
from weakseg.methods.spml.segments import segment_prototypes


@reference_files("spml", "unit_retrieval")
def test_retrieval(path):
    with Reference(path) as ref:
        segment = ref.tensor("segment")
        memory, memory_labels = ref.tensor("memory"), ref.tensor("memory_label")
        queries = segment_prototypes(ref.tensor("pixel"), segment, int(segment.max()) + 1)
        labels = nearest_labels(queries, memory, memory_labels, neighbours=ref["neighbours"].shape[1])
        ref.compare("neighbours", labels[segment])
        ref.compare("label", vote(labels)[segment])

        found = nearest_labels(ref.tensor("query"), memory, memory_labels, neighbours=ref["top5_labels"].shape[1])
        ref.compare("top5_labels", found)
        ref.compare("top5_accuracy", (found == ref.tensor("query_label")[:, None]).float().mean(), rtol=1e-6)
