"""What a classifier's figures are called, and what they mean."""

from __future__ import annotations

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
        "Precision averaged over the gains in recall as the threshold falls. Guessing gives the prevalence.",
        EVERY_LABEL,
    ),
    "accuracy": Term("Accuracy", "The share of images answered rightly. It follows the commonest label."),
    "recall": Term("Recall (sensitivity)", "Of the positive images, the share answered positive.", "positive images"),
    "specificity": Term("Specificity", "Of the negative images, the share answered negative.", "negative images"),
    "precision": Term(
        "Precision",
        "Of the images answered positive, the share that is. It falls where positives are rarer than here.",
        "positive images and answers",
    ),
    "f1": Term("F1", "The harmonic mean of precision and recall.", "positive images"),
    "brier": Term(
        "Brier score",
        "The mean squared distance between probability and truth. With more than two labels it goes up to 2.",
        lower_is_better=True,
    ),
    "ece": Term(
        "ECE",
        "Expected calibration error: how far probabilities lie from observed shares, over ten bins. "
        "Chance alone keeps it above 0.",
        lower_is_better=True,
    ),
    "loss": Term(
        "Log loss",
        "The mean of −ln of the probability given to the true label. Evenly guessing two labels gives 0.693.",
        lower_is_better=True,
    ),
    "agreement": Term("Agreement", "The share of images to which two models give the same answer."),
}
WORDS = Words(
    things="images",
    positives="Positive",
    dash="fewer than ten images, or images of one label only",
    mistakes="Wrong answers, the most confident first, one of each group.",
    threshold="Logits are divided by the temperature so that probabilities mean what they say; the positive label is "
    "answered from the threshold upwards.",
)
