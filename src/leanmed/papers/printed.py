"""What the papers printed, and how their protocols and ours are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One protocol of the comparison: a row of the table.

    Args:
        title: what it is.
        settings: `--set` values that make it of the paper's recipe.
        teacher: the arm whose models teach this one's; empty: none.
        alone: the arm of the same network without a teacher; empty: none.
        recipe: what it is trained by; empty: the paper's recipe.
        own: beginnings of keys, such as `adapters.`: a setting for all arms whose key begins so is not for this one.
        unless_set: `--set` values that hold unless the arm is given others by its name.
    """

    title: str
    settings: tuple[str, ...]
    teacher: str = ""
    alone: str = ""
    recipe: str = ""
    own: tuple[str, ...] = ()
    unless_set: tuple[str, ...] = ()


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
SITES = ("S1", "S2", "S3", "S4", "S5", "S6")


def _by_site(*dice: float) -> dict[str, float]:
    return dict(zip(SITES, dice, strict=True))


STUDENTS = {"enet": "ENet", "espnet": "ESPNet", "erfnet": "ERFNet"}
TEACHERS = {"teacher": "UNet++", "teacher-deeplab": "DeepLabV3+"}
TERMS = ("affinity", "kernel", "logits")


def _distilled(student: str, teacher: str = "teacher") -> Arm:
    return Arm(f"{STUDENTS[student]} from {TEACHERS[teacher]}", (f"model.backbone={student}",), teacher, student)


def _enet_by(title: str, **weights: float) -> Arm:
    """ENet from UNet++ by other terms than all three of the paper's."""
    settings = tuple(f"distillation.{name}={weight:g}" for name, weight in weights.items())
    return Arm(f"ENet from UNet++ by {title}", ("model.backbone=enet", *settings), "teacher", "enet")


def _enet_by_some(*terms: str) -> Arm:
    return _enet_by(" and ".join(terms), **{term: 0.0 for term in TERMS if term not in terms})


def _enet_by_another(term: str, title: str) -> Arm:
    return _enet_by(title, **dict.fromkeys(TERMS, 0.0), **{term: 1.0})


PROSTATE = Paper(
    citation="Distillation of affinity, kernel and logits for small students on prostate MRI of six sites",
    recipe="prostate",
    printed={  # Dice at each site
        "DeepLabV3+ (T1)": _by_site(0.895, 0.886, 0.889, 0.874, 0.878, 0.885),
        "UNet++ (T2)": _by_site(0.901, 0.893, 0.883, 0.880, 0.869, 0.871),
        "ENet": _by_site(0.714, 0.604, 0.539, 0.782, 0.701, 0.772),
        "ENet from T1": _by_site(0.810, 0.642, 0.734, 0.881, 0.796, 0.876),
        "ENet from T2": _by_site(0.808, 0.637, 0.684, 0.858, 0.894, 0.869),
        "ESPNet": _by_site(0.703, 0.482, 0.573, 0.738, 0.745, 0.715),
        "ESPNet from T1": _by_site(0.819, 0.563, 0.604, 0.826, 0.819, 0.832),
        "ESPNet from T2": _by_site(0.837, 0.594, 0.643, 0.842, 0.836, 0.808),
        "ERFNet": _by_site(0.788, 0.720, 0.736, 0.760, 0.725, 0.694),
        "ERFNet from T1": _by_site(0.823, 0.751, 0.799, 0.869, 0.801, 0.861),
        "ERFNet from T2": _by_site(0.843, 0.746, 0.752, 0.892, 0.877, 0.852),
        "MSKD (ENet)": _by_site(0.762, 0.643, 0.532, 0.809, 0.790, 0.658),
        "EMKD (ENet)": _by_site(0.635, 0.524, 0.681, 0.696, 0.544, 0.711),
        "SAML (large)": _by_site(0.896, 0.875, 0.843, 0.886, 0.873, 0.883),
        "DRDG (large)": _by_site(0.709, 0.758, 0.665, 0.739, 0.857, 0.826),
    },
    arms={
        **{
            name: Arm(title, (f"model.backbone={backbone}",))
            for name, title, backbone in (
                ("teacher", "UNet++, the teacher", "unetplusplus"),
                ("teacher-deeplab", "DeepLabV3+, the other teacher", "deeplabv3plus"),
            )
        },
        **{name: Arm(f"{title} alone", (f"model.backbone={name}",)) for name, title in STUDENTS.items()},
        **{f"{name}-distilled": _distilled(name) for name in STUDENTS},
        **{f"{name}-from-deeplab": _distilled(name, "teacher-deeplab") for name in STUDENTS},
        **{name: _enet_by_some(name) for name in TERMS},
        "affinity-kernel": _enet_by_some("affinity", "kernel"),
        "affinity-logits": _enet_by_some("affinity", "logits"),
        "kernel-logits": _enet_by_some("kernel", "logits"),
        "soft_targets": _enet_by_another("soft_targets", "plain distillation at a temperature"),
        "attention": _enet_by_another("attention", "attention transfer"),
        "emkd": _enet_by_another("emkd", "EMKD"),
        "mskd": _enet_by_another("mskd", "our reading of MSKD"),
    },
    differences=(
        "The paper trains the student with labels of the site that it tests, from a teacher of that site. Under our "
        "protocol `site`, teacher and student learn from the other sites alone, and the site that is tested is seen by "
        "neither; the epoch is selected on patients of those other sites too. Under `adapt`, a few patients of that "
        "site are learned from.",
        "So the paper's comparison with SAML and DRDG, which see no label of the site that they are tested on, is not "
        "one of like with like, and its Dice does not compare with ours.",
        "The paper states no number of seeds and no intervals. Ours are 95 % intervals over patients; the figures of a "
        "patient are the means over seeds.",
        "Ours are Dice per patient, of all slices together.",
        "The paper's ablation is of ENet from DeepLabV3+ at site 1; ours is of ENet from UNet++ over all sites.",
        "The paper does not say how its terms are normalised. Ours: AAM is the mean over neighbouring pixels with a "
        "margin of 3, KMM that of the likeness of the images of a batch, LM the Kullback-Leibler divergence from the "
        "teacher's probabilities to the student's at a temperature of 1.",
        "MSKD is our reading of it; EMKD, plain distillation and attention transfer have a weight of 1.",
    ),
)
DATA_SETS = ("NBSBP", "Kaggle BP", "BUSI")


def _on_three(millions: float, *scores: float) -> dict[str, float]:
    """Dice, IoU and HD95 on each of `DATA_SETS`, and the trainable parameters, all as printed."""
    names = [f"{data} {score}" for data in DATA_SETS for score in ("Dice", "IoU", "HD95")]
    return {"million": millions, **dict(zip(names, scores, strict=True))}


EQUAL = "equal_budget=true"


def _adapted(title: str, method: str, *more: str) -> Arm:
    own = ("adapters.ratio",) if method in ("full", "decoder") or (method == "lora" and EQUAL not in more) else ()
    return Arm(title, (f"adapters.method={method}", *(f"adapters.{text}" for text in more)), own=own)


def _unprompted(title: str, backbone: str) -> Arm:
    return Arm(
        title,
        (f"model.backbone={backbone}",),
        recipe="nerves-masks",
        own=("adapters.", "prompter.", "model.backbone", "model.weights", "segmenter.normalize"),
    )


NERVES = Paper(
    citation="HA-SAM: hierarchical adapters in the encoder of Segment Anything, for nerves in ultrasound",
    recipe="nerves",
    printed={  # Table 1
        "U-Net": _on_three(23.53, 70.20, 55.16, 16.15, 69.63, 58.92, 23.43, 71.24, 56.36, 12.01),
        "TransUNet": _on_three(105.28, 76.45, 62.72, 14.22, 77.36, 65.54, 17.98, 75.62, 65.73, 4.86),
        "H2Former": _on_three(33.87, 79.05, 66.34, 16.67, 76.89, 65.28, 27.54, 74.79, 64.97, 4.90),
        "SAM, no training": _on_three(0, 52.20, 43.06, 150.46, 46.76, 38.53, 61.18, 40.79, 33.73, 294.95),
        "SAMed": _on_three(18.81, 81.36, 68.13, 26.92, 78.80, 67.32, 41.43, 76.74, 62.76, 14.44),
        "Med-SA": _on_three(13.00, 81.84, 68.59, 16.34, 78.12, 66.39, 15.37, 77.02, 65.37, 7.88),
        "SAMUS": _on_three(130.10, 82.53, 70.02, 18.27, 78.31, 66.47, 12.75, 77.81, 66.18, 11.71),
        "MedSAM": _on_three(93.73, 80.73, 67.72, 17.56, 75.79, 64.18, 14.63, 75.96, 61.80, 19.87),
        "HA-SAM": _on_three(6.82, 83.04, 70.43, 15.08, 79.44, 66.73, 13.06, 78.56, 65.67, 9.62),
    },
    arms={
        "hierarchical": _adapted("HA-SAM: widths grow with depth", "hierarchical"),
        "uniform": _adapted("one width in all blocks", "uniform"),
        "reversed": _adapted("widths shrink with depth", "reversed"),
        "first-removed": _adapted("without the first block's adapter", "first-removed"),
        "last-removed": _adapted("without the last block's adapter", "last-removed"),
        "strategy-1": _adapted("widths 2^((i-6)/6)", "strategy-1"),
        "strategy-2": _adapted("widths e^((i-6)/6)", "strategy-2"),
        "strategy-1-equal": _adapted("widths 2^((i-6)/6), equal budget", "strategy-1", EQUAL),
        "strategy-2-equal": _adapted("widths e^((i-6)/6), equal budget", "strategy-2", EQUAL),
        "lora": _adapted("SAMed: LoRA, and the decoder", "lora", "decoder=true"),
        "lora-equal": _adapted("LoRA, equal budget", "lora", EQUAL),
        "med-sa": _adapted("Med-SA's adapters, and the decoder", "med-sa", "decoder=true"),
        "med-sa-equal": _adapted("Med-SA's adapters, equal budget", "med-sa", EQUAL),
        "decoder": _adapted("the decoder alone", "decoder"),
        "full": _adapted("MedSAM: encoder and decoder", "full"),
        "samus": Arm(
            "SAMUS",
            ("model.backbone=samus-vit-b", "adapters.method=none"),
            own=("adapters.", "model.side"),
            unless_set=("model.side=256",),
        ),
        "samus-small": Arm(
            "SAMUS of sam-small", ("model.backbone=samus-small", "adapters.method=none"), own=("adapters.",)
        ),
        "unet": _unprompted("U-Net, from nothing", "unet"),
        "transunet": _unprompted("TransUNet, from nothing", "transunet"),
        "swinunet": _unprompted("Swin-Unet, from nothing", "swinunet"),
        "h2former": _unprompted("H2Former, from nothing", "h2former"),
        "missformer": _unprompted("MISSFormer, from nothing", "missformer"),
    },
    differences=(
        "The paper splits images at random (70, 15 and 15 %), so that frames of one patient lie on both sides. Ours "
        "keeps together whatever is known or found to belong together.",
        "The paper points with its own localiser and states an accuracy of 99.97 %, which no test part of its sizes "
        "can give. Ours are Dice with the localiser's point, and apart from it with a point from the true mask.",
        "The paper prints 6.82 million parameters. 1,789,056 parameters in single precision are 6.825 MiB, so that its "
        "other counts may be sizes of files, too. Ours are counts of what is trained, the localiser left out.",
        "The paper compares methods of other budgets. Arms named `equal` have as many parameters as `hierarchical`.",
        "Our networks without prompts start from nothing.",
        "Med-SA has adapters in its decoder, too; ours trains the decoder itself.",
        "SAMUS is our reading of its paper (leanmed.models.samus). Its 130.10 million are about as many as "
        "lie in the layers of the whole network, frozen ones too: of 133,322,800 parameters, 39,620,096 are trained.",
    ),
)
PAPERS = {"anemia": ANEMIA, "nodules": NODULES, "prostate": PROSTATE, "nerves": NERVES}
