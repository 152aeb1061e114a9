"""Measure what one training step of a prompted network takes, at several sides and with several savings of memory.

    OMP_NUM_THREADS=1 python scripts/measure_sam.py --out docs/results/sam_steps.json

Each step runs in a process of its own: ViT-B with hierarchical adapters, one image, forward, backward and a step of the
optimizer. Weights and images are random, since the figures do not depend on them. Memory is the largest resident size
of the process, from the system's own count. Seconds are of the one step, and say little on a busy machine.
"""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.utils.data import default_collate

from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.tasks.base import Batch
from leanmed.tasks.building import build_task
from leanmed.tasks.recipes import load_recipe

app = typer.Typer(add_completion=False, help=__doc__)
GIB = 2**30


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="The JSON file to write.")] = None,
    backbone: Annotated[str, typer.Option(help="The network.")] = "sam-vit-b",
    sides: Annotated[str, typer.Option(help="Sides of the image in pixels, with commas.")] = "224,448,1024",
    precisions: Annotated[str, typer.Option(help="With commas: 32-true, bf16-mixed.")] = "32-true,bf16-mixed",
    note: Annotated[str, typer.Option(help="What else must be known, such as what else ran.")] = "",
    step: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure each case in a process of its own, and write the table."""
    if step:
        typer.echo(json.dumps(one_step(**json.loads(step))))
        return
    rows = []
    for side in map(int, sides.split(",")):
        for precision in precisions.split(","):
            for checkpointing in ("none", "global", "all"):
                case = {"backbone": backbone, "side": side, "checkpointing": checkpointing, "precision": precision}
                ran = subprocess.run(
                    [sys.executable, __file__, "--step", json.dumps(case)], capture_output=True, text=True, check=False
                )
                found = json.loads(ran.stdout) if ran.returncode == 0 else {"failed": ran.stderr[-200:]}
                rows.append({**case, **found})
                typer.echo(rows[-1])
    if out:
        command = shlex.join(["python", "scripts/measure_sam.py", *sys.argv[1:]])
        write_json(out, {"command": command, "machine": machine(), "note": note, "steps": rows})


def one_step(backbone: str, side: int, checkpointing: str, precision: str) -> dict[str, float]:
    """One training step of one image; peak memory in GiB and seconds."""
    settings = [
        f"model.backbone={backbone}",
        "model.weights=none",
        f"model.side={side}",
        f"prompter.checkpointing={checkpointing}",
    ]
    task = build_task(load_recipe("nerves", settings), ("nerve",)).train()
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=1e-4)
    mask = torch.zeros(1, side, side, dtype=torch.uint8)
    mask[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    pixels = torch.randint(256, (side, side, 3), dtype=torch.uint8).numpy()
    inputs = default_collate([task.prepare(pixels)])
    batch = task.augment(Batch(inputs, {"mask": mask, "case": torch.zeros(1, dtype=torch.int64)}), 0)
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss = task.loss(batch)
    loss.backward()
    optimizer.step()
    seconds = time.perf_counter() - started
    return {
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 2),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    app()
