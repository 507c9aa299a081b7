"""Batches for the criterion, and its losses as the card has them: one pixel after the other."""

import math

import torch
import torch.nn.functional as F

from weakseg.methods.spml.criterion import Criterion, Relation, Relations
from weakseg.methods.spml.local_features import position_features
from weakseg.methods.spml.memory_bank import MemoryBank

CLASSES, CHANNELS, SIZE, CROP = 4, 6, (6, 8), (24, 32)
UNLABELLED, IGNORED = 254, 255
PIXEL_WEIGHT = 0.7
RELATIONS = Relations(
    annotation=Relation(0.3, 6.0),
    cooccurrence=Relation(0.5, 8.0),
    image=Relation(0.1, 16.0),
    affinity=Relation(0.2, 12.0),
    affinity_threshold=0.3,
)
TERMS = ("annotation", "cooccurrence", "image", "affinity")


def make_criterion(memory=0, relations=RELATIONS, num_classes=CLASSES, **changes):
    arguments = {"pixel_loss_weight": PIXEL_WEIGHT, "kmeans_grid": (2, 2), "kmeans_iterations": 3} | changes
    bank = MemoryBank(length=memory, channels=CHANNELS, num_classes=num_classes)
    return Criterion(num_classes=num_classes, relations=relations, memory=bank, **arguments)


def scene(n=3, seed=0, size=SIZE, crop=CROP):
    """Arguments of `losses_of`. Blocks of labels, of which some are unlabelled and some ignored; the last of three
    images has no tag but the background."""
    generator = torch.Generator().manual_seed(seed)

    def blocks(high):
        coarse = torch.randint(0, high, (n, 1, 3, 4), generator=generator)
        return F.interpolate(coarse.float(), crop, mode="nearest")[:, 0].long()

    labels = torch.tensor([*range(CLASSES), CLASSES, UNLABELLED, IGNORED])[blocks(CLASSES + 3)]
    labels[2:] = torch.where(labels[2:] < CLASSES, 0, labels[2:])
    tags = torch.stack([(labels == k).flatten(1).any(1) for k in range(CLASSES)], 1)
    return {
        "embedding": torch.randn(n, CHANNELS, *size, generator=generator).double().requires_grad_(),
        "logits": torch.randn(n, CLASSES, *size, generator=generator).double().requires_grad_(),
        "labels": labels,
        "regions": blocks(3),
        "tags": tags,
    }


def contrast_of(criterion, embedding, labels, regions, tags, **_):
    return criterion.contrast(embedding, position_features(*embedding.shape[-2:]), labels, regions, tags)


def losses_of(criterion, logits, labels, **others):
    return criterion(contrast_of(criterion, labels=labels, **others), logits, labels)


def of_images(arguments, images):
    return {name: values[images].detach().requires_grad_(values.requires_grad) for name, values in arguments.items()}


class Literal:
    """Card 3.4 to 3.7, one pixel after the other, from the segments of a contrast and the memory's prototypes."""

    def __init__(self, contrast, memory=()):
        segments = contrast.segments
        self.segment = segments.segment.tolist()
        self.pixels, self.located = segments.embedding.tolist(), segments.located.tolist()
        self.tags = [{k for k in range(1, len(row)) if row[k]} for row in contrast.tags.tolist()]
        # Of each segment: image, y, r.
        self.labels = [()] * len(set(self.segment))
        keys = zip(segments.image.tolist(), segments.semantic.tolist(), segments.region.tolist())
        for s, key in zip(self.segment, keys):
            assert self.labels[s] in ((), key), "a segment is of one image, class and region"
            self.labels[s] = key
        self.prototypes, self.located_prototypes = self.sums(self.pixels), self.sums(self.located)
        # Of each memory row: vector, y, tags.
        self.memory = list(memory)

    def sums(self, vectors):
        totals = [[0.0] * len(vectors[0]) for _ in self.labels]
        for s, vector in zip(self.segment, vectors):
            totals[s] = [a + b for a, b in zip(totals[s], vector)]
        return [[a / math.hypot(*total) for a in total] for total in totals]

    @staticmethod
    def of_pixel(vector, own, candidates, kappa):
        """candidates: (segment or None, prototype, is positive) of each."""
        s = [math.exp(kappa * sum(a * b for a, b in zip(vector, prototype))) for _, prototype, _ in candidates]
        others = [x for x, (j, _, positive) in zip(s, candidates) if positive and j != own]
        own_value = next(x for x, (j, _, _) in zip(s, candidates) if j == own)
        numerator = sum(others) if others else own_value
        return -math.log(numerator / (numerator + sum(x for x, (_, _, positive) in zip(s, candidates) if not positive)))

    def annotation(self, kappa):
        losses = []
        for vector, own in zip(self.pixels, self.segment):
            y = self.labels[own][1]
            if y < CLASSES:
                here = [
                    (j, p, self.labels[j][1] == y) for j, p in enumerate(self.prototypes) if self.labels[j][1] < CLASSES
                ]
                kept = [(None, p, label == y) for p, label, _ in self.memory if label < CLASSES]
                losses.append(self.of_pixel(vector, own, here + kept, kappa))
        return mean(losses)

    def cooccurrence(self, kappa, official=False):
        losses = []
        for vector, own in zip(self.pixels, self.segment):
            tags = self.tags[self.labels[own][0]]
            if tags or official:
                here = [(j, p, bool(tags & self.tags[self.labels[j][0]])) for j, p in enumerate(self.prototypes)]
                kept = [(None, p, bool(tags & theirs)) for p, _, theirs in self.memory]
                losses.append(self.of_pixel(vector, own, here + kept, kappa))
        return mean(losses)

    def image(self, kappa, of_embedding=False):
        vectors, prototypes = (
            (self.pixels, self.prototypes) if of_embedding else (self.located, self.located_prototypes)
        )
        images: dict[int, list[float]] = {}
        for vector, own in zip(vectors, self.segment):
            b, _, r = self.labels[own]
            here = [(j, p, self.labels[j][2] == r) for j, p in enumerate(prototypes) if self.labels[j][0] == b]
            images.setdefault(b, []).append(self.of_pixel(vector, own, here, kappa))
        return mean([mean(losses) for losses in images.values()])

    def affinity(self, kappa, threshold):
        sets = [self.propagated(j, threshold) for j in range(len(self.labels))]
        losses = []
        for vector, own in zip(self.pixels, self.segment):
            here = [(j, p, bool(sets[own] & sets[j])) for j, p in enumerate(self.prototypes)]
            losses.append(self.of_pixel(vector, own, here, kappa))
        return mean(losses)

    def propagated(self, j, threshold):
        found = [
            (sum(a * b for a, b in zip(self.located_prototypes[j], p)), y)
            for p, (b, y, _) in zip(self.located_prototypes, self.labels)
            if b == self.labels[j][0] and y < CLASSES
        ]
        similarity, label = max(found, default=(-1.0, 0), key=lambda pair: pair[0])
        return {label} if similarity >= threshold else set(range(CLASSES))

    def accuracy(self):
        every = [(p, y) for p, (_, y, _) in zip(self.prototypes, self.labels)] + [(p, y) for p, y, _ in self.memory]
        shares = []
        for vector, label in every:
            order = sorted(every, key=lambda row: -sum(a * b for a, b in zip(vector, row[0])))
            shares.append(mean([float(y == label) for _, y in order[:5]]))
        return mean(shares)


def mean(values):
    return sum(values) / len(values)


def literal_cross_entropy(logits, labels):
    full = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    losses = []
    for image, image_labels in zip(full.tolist(), labels.tolist()):
        for i, row in enumerate(image_labels):
            for j, y in enumerate(row):
                if y < CLASSES:
                    scores = [plane[i][j] for plane in image]
                    losses.append(math.log(sum(map(math.exp, scores))) - scores[y])
    return mean(losses)


def memory_rows(contrast):
    prototypes = contrast.prototypes
    tags = [{k for k in range(1, CLASSES) if row[k]} for row in prototypes.tags.tolist()]
    return list(zip(prototypes.vector.tolist(), prototypes.semantic.tolist(), tags))
