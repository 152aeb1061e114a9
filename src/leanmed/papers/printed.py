"""What the papers printed, and how their protocols and ours are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One protocol of the comparison: a row of the table."""

    title: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """What a paper printed, and how its protocol and ours are set."""

    citation: str
    recipe: str
    printed: Mapping[str, Mapping[str, float]]
    arms: Mapping[str, Arm]
    differences: tuple[str, ...]


AUDITED = ("split.protocol=grouped", "split.groups=audit", "split.conflicts=drop")
ANEMIA = Paper(
    citation="MobileNetV2 and post-training quantization on CP-AnemiC, five folds, FP32",
    recipe="anemia",
    printed={
        "MobileNetV2 FP32": {
            "loss": 0.2141,
            "accuracy": 0.9313,
            "precision": 0.9374,
            "recall": 0.9500,
            "f1": 0.9428,
            "auc": 0.9657,
        },
        "ResNet50": {"accuracy": 0.8479, "f1": 0.837},
        "VGG16": {"accuracy": 0.8056, "f1": 0.799},
        "DenseNet121": {"accuracy": 0.7958, "f1": 0.786},
        "ViT": {"accuracy": 0.8408, "f1": 0.833},
        "ConvNeXt-B": {"accuracy": 0.7563, "f1": 0.740},
    },
    arms={
        "paper": Arm(
            "by image, as published (LEAKS)",
            ("split.protocol=paper", "split.groups=reader", "split.conflicts=keep"),
        ),
        "content": Arm(
            "byte copies together, other copies not (still LEAKS)",
            ("split.protocol=grouped", "split.groups=reader", "split.conflicts=keep"),
        ),
        "audited": Arm(
            "all copies together, images whose copies carry another label left out",
            AUDITED,
        ),
        "colours": Arm(
            "all copies together, by colours of the tissue instead of MobileNetV2",
            (
                *AUDITED,
                "model.backbone=tissue-colours",
                "model.backbone_args={}",
                "model.weights=none",
                "model.mean=null",
                "model.std=null",
                "model.side=64",
                "training.learning_rate=0.002",
                "training.schedule=cosine",
                "training.epochs=12",
                "training.select_by=loss",
            ),
        ),
    },
    differences=(
        "The paper gives no strengths for its augmentations and names no validation part; here a share of "
        "each fold's training images selects the epoch, the temperature and the threshold, and the test part "
        "is opened once.",
        "The ground under the tissue mask is filled with the mean tissue colour; the paper's is black.",
        "The paper's accuracies are multiples of 1/160, which no fold of 710 images has; ours are not.",
        "Its equation 4 is not the area under the ROC curve; ours is.",
    ),
)
NODULES = Paper(
    citation="SSD over five backbones on slices of LUNA16",
    recipe="nodules",
    printed={  # Table 3, as printed
        "resnet101": {
            "tp": 387,
            "fp": 319,
            "fn": 36,
            "precision": 0.91,
            "recall": 0.55,
            "f1": 0.69,
            "sensitivity": 0.9148,
        },
        "inceptionv2": {
            "tp": 398,
            "fp": 308,
            "fn": 36,
            "precision": 0.92,
            "recall": 0.56,
            "f1": 0.70,
            "sensitivity": 0.917,
        },
        "mobilenetv1": {
            "tp": 270,
            "fp": 436,
            "fn": 7,
            "precision": 0.97,
            "recall": 0.38,
            "f1": 0.55,
            "sensitivity": 0.9747,
        },
        "mobilenetv2": {
            "tp": 345,
            "fp": 361,
            "fn": 32,
            "precision": 0.92,
            "recall": 0.49,
            "f1": 0.64,
            "sensitivity": 0.9151,
        },
        "resnet50": {
            "tp": 316,
            "fp": 390,
            "fn": 13,
            "precision": 0.96,
            "recall": 0.45,
            "f1": 0.61,
            "sensitivity": 0.9604,
        },
    },
    arms={
        name: Arm(title, (f"model.backbone={name}",))
        for name, title in {
            "mobilenetv1": "SSD, MobileNetV1",
            "mobilenetv2": "SSD, MobileNetV2",
            "inceptionv2": "SSD, InceptionV2",
            "resnet50": "SSD, ResNet50",
            "resnet101": "SSD, ResNet101",
        }.items()
    },
    differences=(
        "The paper splits by slice: most of its test slices have a slice of the same nodule in training. Ours keeps "
        "each patient whole.",
        "The paper trained each backbone with a learning rate and a number of steps of its own (.001, .004, .0001, .04 "
        "and .04 for 112.6, 109.9, 61.4, 16.5 and 12.4 thousand steps: MobileNetV1, MobileNetV2, InceptionV2, "
        "ResNet50, ResNet101); the recipe nodules-paper has the rates and the passes over the data. Ours gives all "
        "five the same recipe, and each the epochs that its settings say.",
        "The paper feeds 430 x 418 pixels to SSD's own default boxes, which match next to none of the nodules. Ours "
        "chooses default boxes from the training boxes.",
        "The paper does not say what other nodules in its test slices count as; ours are all true boxes.",
        "The paper tested slices with a nodule only, one scored box each. So do luna16-slices: a figure per slice "
        "says little about how many false positives a whole scan gets.",
    ),
)
PAPERS = {"anemia": ANEMIA, "nodules": NODULES}
