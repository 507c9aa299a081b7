"""The supervision gate: what a run may see of the label file, by an allow-list."""

from __future__ import annotations

from collections.abc import Iterable

from weakseg.labels import LabelKind

_RECORD_KEYS = ("file_name", "image_id", "height", "width")
_ANNOTATION_KEYS = ("category_id", "iscrowd")
# Per kind: the key that holds the label, then the keys that explain it.
_LABEL_KEYS = {
    LabelKind.POINTS: ("point_coords", "point_labels"),
    LabelKind.SCRIBBLES: ("scribbles",),
    LabelKind.BOXES: ("bbox", "bbox_mode"),
    LabelKind.MASKS: ("segmentation",),
    LabelKind.EXPRESSIONS: ("expressions",),
}


def gate(records: Iterable[dict], supervision: Iterable[str], *, key: str = "INPUT.SUPERVISION") -> list[dict]:
    """Copies of dataset records with the keys that `supervision` (names of `LabelKind`) allows, and nothing else.
    key: where the names stand in the config, for errors.

    Runs before any filter, so that what is hidden cannot decide which images or targets are kept. An annotation without
    any allowed label stays out: that nobody pointed at an object must not be known. Only with masks, where every target
    of the image is known, all annotations stay.
    """
    kinds = label_kinds(supervision, key)
    return [_gate_record(record, kinds) for record in records]


def label_kinds(supervision: Iterable[str], key: str) -> frozenset[LabelKind]:
    """The kinds named under `key` of the config; ValueError for a name that is none."""
    known = [kind.value for kind in LabelKind]
    unknown = sorted(set(supervision) - set(known))
    if unknown:
        raise ValueError(
            f"{key}: expected some of {', '.join(known)}; found {unknown[0]!r}. Correct or remove the name."
        )
    return frozenset(LabelKind(name) for name in supervision)


def has_label(record: dict) -> bool:
    """Whether a record that passed the gate still carries any label."""
    return bool(record.get("tags")) or any(
        annotation.get(keys[0]) for annotation in record["annotations"] for keys in _LABEL_KEYS.values()
    )


def _gate_record(record: dict, kinds: frozenset[LabelKind]) -> dict:
    gated = {key: record[key] for key in _RECORD_KEYS}
    annotations = [_gate_annotation(annotation, kinds) for annotation in record.get("annotations", ())]
    gated["annotations"] = [annotation for annotation in annotations if annotation is not None]
    if LabelKind.TAGS in kinds and "tags" in record:
        gated["tags"] = record["tags"]
    return gated


def _gate_annotation(annotation: dict, kinds: frozenset[LabelKind]) -> dict | None:
    given = [keys for kind, keys in _LABEL_KEYS.items() if kind in kinds and annotation.get(keys[0])]
    if not given and LabelKind.MASKS not in kinds:
        return None
    allowed = (*_ANNOTATION_KEYS, *(key for keys in given for key in keys))
    return {key: annotation[key] for key in allowed if key in annotation}
