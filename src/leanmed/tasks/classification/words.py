"""What a classifier's figures are called, and what they mean."""

from __future__ import annotations

import math
from dataclasses import replace

from leanmed.report.glossary import Term, Words

EVERY_LABEL = "images of every label"
TERMS = {
    "auc": Term(
        "ROC-AUC",
        "The chance that a positive image scores above a negative one, ties counting half. 0.5 is guessing.",
        EVERY_LABEL,
    ),
    "average_precision": Term(
        "Average precision",
        "The mean precision over all thresholds, each weighted by the recall gained there. Guessing reaches the "
        "prevalence, the share of positive images.",
        EVERY_LABEL,
    ),
    "accuracy": Term(
        "Accuracy", "The share of right answers. It is high already if one label is common and always answered."
    ),
    "recall": Term("Recall (sensitivity)", "Of the positive images, the share answered positive.", "positive images"),
    "specificity": Term("Specificity", "Of the negative images, the share answered negative.", "negative images"),
    "precision": Term(
        "Precision",
        "Of the images answered positive, the share that is positive. It is lower where positive images are rarer "
        "than here.",
        "positive images and answers, and negative images",
    ),
    "f1": Term("F1", "The harmonic mean of precision and recall.", EVERY_LABEL),
    "ppv": Term(
        "Positive predictive value",
        "Of images answered positive, the share that is positive, at a prevalence: by Bayes' theorem, as if "
        "sensitivity and specificity were the same there.",
        "images of every label, and positive answers",
    ),
    "npv": Term(
        "Negative predictive value",
        "Of images answered negative, the share that is negative, at a prevalence: by Bayes' theorem, as if "
        "sensitivity and specificity were the same there.",
        "images of every label, and negative answers",
    ),
    "brier": Term("Brier score", "The mean squared distance between probability and truth.", lower_is_better=True),
    "ece": Term(
        "ECE",
        "Expected calibration error: how far probabilities lie from observed shares, over ten bins. "
        "Chance alone keeps it above 0.",
        EVERY_LABEL,
        lower_is_better=True,
    ),
    "loss": Term(
        "Log loss",
        "The mean of −ln of the probability given to the true label. Guessing 0.5 for each label gives 0.693.",
        lower_is_better=True,
    ),
    "agreement": Term("Agreement", "The share of images to which two models give the same answer."),
}
WORDS = Words(
    things="images",
    positives="Positive",
    dash="fewer than ten images, or images of one label only",
    mistakes="The wrong answers with the highest probability, at most one from each group.",
    threshold="Logits are divided by the temperature, so that what has a probability of 0.7 comes true in about 70 % "
    "of images. An image is answered positive if its probability is at least the threshold.",
)
SEVERAL = replace(
    WORDS,
    dash="fewer than ten images, or a label without images",
    threshold="Logits are divided by the temperature, so that what has a probability of 0.7 comes true in about 70 % "
    "of images. The likeliest label is answered.",
    fitted="Temperature",
)
"""Of more than two labels."""


def terms_of_several(labels: int) -> dict[str, Term]:
    """`TERMS` for more than two labels, of which none is the positive one; figures need images of each."""
    mean = "The mean over the labels, of"
    meanings = {
        "auc": f"{mean} the chance that an image of the label scores higher for it than an image of another label, "
        "ties counting half. 0.5 is guessing.",
        "average_precision": f"{mean} the mean precision over all thresholds, each weighted by the recall gained "
        "there. Guessing reaches the mean share of a label.",
        "recall": f"{mean} the share of its images for which it was answered.",
        "specificity": f"{mean} the share of the other labels' images for which it was not answered.",
        "precision": f"{mean} the share of right answers among those that name it. It is lower where the label is "
        "rarer than here.",
        "f1": f"{mean} the harmonic mean of its precision and recall.",
        "brier": "The squared distance between probability and truth, summed over the labels, mean over the images: "
        "0 to 2.",
        "ece": "Expected calibration error: how far the probabilities of the labels answered lie from the shares of "
        "right answers, over ten bins. Chance alone keeps it above 0.",
        "loss": "The mean of −ln of the probability given to the true label. Guessing the same for each of "
        f"{labels} labels gives {math.log(labels):.3f}.",
    }
    titles = {"recall": "Recall"}
    return {
        name: replace(
            term,
            title=titles.get(name, term.title),
            meaning=meanings.get(name, term.meaning),
            needs=EVERY_LABEL,
        )
        for name, term in TERMS.items()
    }


def examples(labels: int, most: int) -> str:
    """What is said above the montages of a page."""
    said = (
        "Each montage holds images of one true label that got one answer: those whose answer has the highest "
        f"probability, which stands below, at most one from each group and {most} in all."
    )
    return f"{said} It may be below 0.5 where a decision threshold says so." if labels == 2 else said


def few_errors(labels: int, shown: int, kinds: int) -> str:
    """What is said where there are too many labels to show the whole confusion matrix."""
    said = f" There are {labels} labels, so that only errors are shown"
    return f"{said}, and of {kinds} kinds of error the {shown} most frequent." if shown < kinds else f"{said}."
