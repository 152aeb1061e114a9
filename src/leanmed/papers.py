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
            ("split.protocol=grouped", "split.groups=audit", "split.conflicts=drop"),
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
PAPERS = {"anemia": ANEMIA}
