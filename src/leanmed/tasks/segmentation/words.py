"""What a segmenter's figures are called, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping

from leanmed.report.glossary import Term, Words

BOTH = "cases in which both truth and answer mark a label"
DISTANCE = (
    "It is in mm if the size of a pixel is known, and else in pixels. A case in which only one of truth and answer "
    "marks the label has no distance and is left out."
)
TERMS = {
    "dice": Term(
        "Dice",
        "Twice the number of pixels that truth and answer both mark, divided by the number that the truth marks plus "
        "the number that the answer marks. A perfect mask has 1, one without a pixel in common with the truth has 0, "
        "and a label that neither truth nor answer marks has 1. The figure is the mean over cases; with several "
        "labels, of the mean over labels.",
    ),
    "iou": Term(
        "IoU",
        "Intersection over union: the number of pixels that truth and answer both mark, divided by the number that "
        "either marks. Of a single mask it is Dice / (2 − Dice), so that it says the same on a stricter scale.",
    ),
    "hd95": Term(
        "HD95",
        "Of the distances from each pixel on the edge of one mask to the nearest on the edge of the other, the 95th "
        f"percentile (Hausdorff distance), and of both directions the larger. {DISTANCE}",
        BOTH,
        lower_is_better=True,
    ),
    "asd": Term(
        "Mean surface distance",
        "The mean of the same distances in both directions together (average symmetric surface distance), in the same "
        "unit.",
        BOTH,
        lower_is_better=True,
    ),
    "cl_dice": Term(
        "clDice",
        "How well lines such as vessels are followed, whatever their width: the harmonic mean of the share of the "
        "answer's centre line that lies within the truth and the share of the truth's centre line that lies within the "
        "answer.",
    ),
    "ece": Term(
        "ECE",
        "Expected calibration error: how far the probabilities of pixels lie from the observed shares, over fifteen "
        "bins of equal width. All pixels of all cases count alike. Background that is easy to tell makes it small, so "
        "compare it only between models on the same images.",
        lower_is_better=True,
    ),
    "agreement": Term("Agreement", "The share of cases in which the Dice of two models differs by at most 0.02."),
}
WORDS = Words(
    things="cases",
    positives="Marked",
    dash="fewer than ten cases",
    mistakes="The cases with the lowest Dice, at most one from each group; then the median case and the best, where "
    "these are not among them.",
    threshold="Logits are divided by the temperature; a pixel is marked if its probability is at least the threshold.",
)


def terms_of(labels: tuple[str, ...]) -> Mapping[str, Term]:
    """`TERMS`, and with several labels `dice:LABEL` for each."""
    if len(labels) == 1:
        return TERMS
    return TERMS | {f"dice:{label}": Term(f"Dice of {label}", "") for label in labels}
