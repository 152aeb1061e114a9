"""What a detector's figures are called, and what they mean: of images, and of whole scans."""

from __future__ import annotations

from dataclasses import replace

from leanmed.report.glossary import Term, Words
from leanmed.tasks.detection.froc import RATES

OBJECTS = "objects to find"
FOUND = Term(
    "Sensitivity at 1 FP",
    "The share of the objects found when the threshold allows one false positive (FP) per image on average. A box "
    "finds an object if its centre lies within half the object's shorter side of the object's centre: LUNA16's rule in "
    "two dimensions. Further boxes on the same object are ignored: they are neither hits nor false "
    "positives.",
    OBJECTS,
)
TERMS = {
    "ap50": Term(
        "AP at IoU 0.5",
        "Average precision: the area under precision over recall as the threshold falls, as PASCAL VOC defines it. A "
        "box is right if it overlaps an object with an IoU (intersection over union) of at least 0.5 and no box with a "
        "higher score has found that object.",
        OBJECTS,
    ),
    "froc": Term(
        "FROC score",
        "The mean of the sensitivities at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per image. Over whole scans "
        "that is LUNA16's CPM; over slices it is not comparable with one.",
        OBJECTS,
    ),
    "sensitivity": FOUND,
    **{f"sensitivity@{r:g}": Term(f"Sensitivity at {r:g} FP", "", OBJECTS) for r in RATES if r != 1},
    "recall": Term(
        "Recall",
        "The share of the objects found by the boxes answered, whose scores are at least the threshold.",
        OBJECTS,
    ),
    "precision": Term(
        "Precision",
        "Of the boxes answered, the share that finds an object. It is lower where objects are rarer than here.",
        "objects to find and boxes answered",
    ),
    "f1": Term("F1", "The harmonic mean of precision and recall.", OBJECTS),
    "agreement": Term(
        "Agreement",
        "The share of images in which two models answer the same boxes: as many, each with an IoU of at least 0.5.",
    ),
    "top_precision": Term(
        "Paper's protocol: precision",
        "In each image that holds an object, only the box with the highest score is judged, however low that score is. "
        "The figure is the share of these boxes that is right, with an IoU of at least 0.5. Images without an object "
        "are left out, and with them most false alarms.",
        OBJECTS,
    ),
    "top_recall": Term("Paper's protocol: recall", "The share of all objects that these boxes find.", OBJECTS),
    "top_f1": Term("Paper's protocol: F1", "The harmonic mean of the two.", OBJECTS),
}
WORDS = Words(
    things="images",
    positives="Objects",
    dash="fewer than ten images or objects",
    mistakes="The false alarms with the highest scores and the largest missed objects, at most one of each from a "
    "group. True boxes are blue, predicted ones orange.",
    threshold="Logits are divided by the temperature; a box is answered if its score is at least the threshold.",
)

SCANS = {
    "cpm": Term(
        "CPM",
        "LUNA16's competition performance metric: the mean of the sensitivities at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false "
        "positives (FP) per scan. A candidate finds a nodule if it lies within half its diameter of its centre; a "
        "second hit, and a hit of an excluded finding, are ignored: they are neither hits nor false positives.",
        "nodules",
    ),
    **{f"sensitivity@{r:g}": Term(f"Sensitivity at {r:g} FP", "", "nodules") for r in RATES},
}
OF_SCANS = replace(WORDS, things="scans", positives="Nodules", dash="fewer than ten nodules")
