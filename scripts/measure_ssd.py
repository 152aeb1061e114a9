"""Time one training step of each backbone of the nodule paper, side by side, to give all the same budget.

python scripts/measure_ssd.py --out docs/results/ssd_steps.json --set detector.zoom=1 --set 'detector.levels=[4]'

The step is one on made crops by the recipe nodules, on one thread, in bfloat16 where it says so; the backbones take
turns, and the times are the thread's own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.tasks.building import TASKS
from leanmed.tasks.detection.settings import BACKBONES as DETECTION_BACKBONES
from leanmed.tasks.recipes import load_recipe
from leanmed.training.loop import OPTIMIZERS

ROUNDS, WARM = 5, 1


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    given = parser.parse_args()
    torch.set_num_threads(1)
    steps = {name: Step(name, given.settings) for name in DETECTION_BACKBONES}
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM + ROUNDS):
        for name, step in steps.items():
            started = time.thread_time()
            step.take()
            if number >= WARM:
                spent[name].append(time.thread_time() - started)
    seconds = {name: statistics.median(values) for name, values in spent.items()}
    first = next(iter(seconds.values()))
    found = {
        "command": "python scripts/measure_ssd.py " + " ".join(sys.argv[1:]),
        "seconds_a_step": {name: round(value, 3) for name, value in seconds.items()},
        "times_the_first": {name: round(value / first, 2) for name, value in seconds.items()},
        "machine": machine(),
    }
    write_json(given.out, found)
    print(found)


class Step:
    """A detector, its optimiser, and a batch of made crops with one object each."""

    def __init__(self, backbone: str, settings: list[str]) -> None:
        chosen = [f"model.backbone={backbone}", "model.weights=none", *settings]
        self.recipe = load_recipe("nodules", chosen)
        self.task = TASKS["detection"](self.recipe, ("nodule",), pretrained=False).train()
        training, detector = self.recipe.training, self.recipe.detector
        self.optimizer = OPTIMIZERS[training.optimizer](
            self.task.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        count, side = training.batch_size * detector.crops, detector.crop
        box = torch.tensor([side / 2, side / 2, side / 2 + 8, side / 2 + 8])
        self.batch = torch.rand(count, detector.slices, side, side), box.expand(count, 1, 4)

    def take(self) -> None:
        """Forward, backward, update."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.training.precision.startswith("bf16")):
            loss = self.task.loss(self.batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


if __name__ == "__main__":
    main()
