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
    "two dimensions. Further boxes on the same object count neither way.",
    OBJECTS,
)
TERMS = {
    "ap50": Term(
        "AP at IoU 0.5",
        "Average precision: the area under precision over recall as the threshold falls, as PASCAL VOC defines it. A "
        "box is right if it overlaps an object with an IoU (intersection over union) of at least 0.5, as the first.",
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
        "Recall", "The share of the objects found by the boxes answered, those from the threshold upwards.", OBJECTS
    ),
    "precision": Term(
        "Precision",
        "Of the boxes answered, the share that finds an object. It falls where objects are rarer than here.",
        "objects to find and boxes answered",
    ),
    "f1": Term("F1", "The harmonic mean of precision and recall.", OBJECTS),
    "agreement": Term(
        "Agreement", "The share of images on which two models answer the same boxes, with an IoU of at least 0.5 each."
    ),
    "top_precision": Term(
        "Paper's protocol: precision",
        "Of images that hold an object, the best box alone, whatever its score: the share of these boxes that is "
        "right, with an IoU of at least 0.5. It leaves out images without an object, and so most false alarms.",
        OBJECTS,
    ),
    "top_recall": Term("Paper's protocol: recall", "The share of all objects that these boxes find.", OBJECTS),
    "top_f1": Term("Paper's protocol: F1", "The harmonic mean of the two.", OBJECTS),
}
WORDS = Words(
    things="images",
    positives="Objects",
    dash="fewer than ten images or objects",
    mistakes="The surest false alarms and the largest objects missed, one of each kind and group. True boxes are blue, "
    "predicted ones orange.",
    threshold="Logits are divided by the temperature; boxes are answered from the threshold upwards.",
)

SCANS = {
    "cpm": Term(
        "CPM",
        "LUNA16's competition performance metric: the mean of the sensitivities at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false "
        "positives (FP) per scan. A candidate finds a nodule if it lies within half its diameter of its centre; a "
        "second hit, and a hit of an excluded finding, count neither way.",
        "nodules",
    ),
    **{f"sensitivity@{r:g}": Term(f"Sensitivity at {r:g} FP", "", "nodules") for r in RATES},
}
OF_SCANS = replace(WORDS, things="scans", positives="Nodules", dash="fewer than ten nodules")
