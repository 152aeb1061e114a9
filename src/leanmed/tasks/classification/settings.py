"""What a recipe says of a classifier: nothing but what all recipes say."""

from __future__ import annotations

from leanmed.recipe.recipe import Recipe

RECIPE = Recipe
SCORES = ("f1", "auc", "accuracy", "loss")
IGNORED = {
    "data.kind": "its images are taken as photographs",
    "data.origin": "labels have no place in the image",
    "data.values": "it reads no masks",
}
BACKBONES: tuple[str, ...] = ()
STUDENTS = {
    name: (f"model.backbone={name}",) for name in ("mobilenetv3_small_100", "mobilenetv3_small_050", "lcnet_050")
}
BACKBONES_HELP = "any model of timm, and tissue-colours, which sees only the colours of what a mask leaves"
