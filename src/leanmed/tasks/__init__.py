"""The kinds of question leanmed asks of an image: a folder for each, and one line here.

In a kind's folder stands one module for each weight of import, which `leanmed.tasks.kind` describes: `answer` (numpy
alone), `settings`, `judge` (the extra `report`) and `training` (torch).
"""

from leanmed.tasks.kind import Kind

TASKS: dict[str, Kind] = {
    "classification": Kind("leanmed.tasks.classification"),
    "detection": Kind("leanmed.tasks.detection"),
    "segmentation": Kind("leanmed.tasks.segmentation"),
    "prompted": Kind("leanmed.tasks.prompted"),
}
"""Every kind by its name; the first is the one of a recipe that names none."""
