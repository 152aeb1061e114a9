"""Measure what each term of distillation keeps for the backward pass, and how long it takes.

OMP_NUM_THREADS=1 python scripts/measure_distillation_terms.py --out docs/results/distillation_terms.json

Of 16 images of 384 x 384 pixels with two labels: the student's features are (16, 128, 48, 48), the teacher's
(16, 512, 24, 24). All numbers are random; the teacher's logits are smooth, so that its regions are some tens of pixels
wide. Bytes are those of the distinct storages that the backward pass keeps; what a term shares with its inputs is
counted too. Seconds are of one thread, the CPU's own, so that other work on the machine counts little: the median of
three rounds, forward and backward, after one that is not counted.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from leanmed.benchmark.benchmark import machine
from leanmed.compress import distil_terms as terms
from leanmed.files import write_json

BATCH, LABELS, SIDE, SEED = 16, 2, 384, 0
ROUNDS = 3
MIB = 2**20


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    shapes, calls = made_terms()
    found = {}
    for name, term in calls.items():
        kept = kept_by(term)
        rounds = [timed(term) for _ in range(ROUNDS + 1)][1:]
        found[name] = {"kept_mib": round(kept / MIB, 1), "cpu_s": round(statistics.median(rounds), 2)}
        print(f"{name}: {found[name]}", flush=True)
    content = {
        "command": shlex.join(["python", "scripts/measure_distillation_terms.py", *sys.argv[1:]]),
        "note": given.note,
        "seed": SEED,
        "threads": 1,
        "rounds": ROUNDS,
        "shapes": shapes,
        "terms": found,
        "machine": machine(),
    }
    write_json(given.out, content)


def made_terms() -> tuple[dict[str, tuple[int, ...]], dict[str, Callable[[], Tensor]]]:
    """The shapes of what goes in, and each term of it by the name of its setting."""
    student = torch.randn(BATCH, LABELS, SIDE, SIDE, requires_grad=True)
    teacher = 4 * F.interpolate(torch.randn(BATCH, LABELS, 12, 12), (SIDE, SIDE), mode="bilinear")
    own = torch.randn(BATCH, 128, 48, 48, requires_grad=True)
    taught = torch.randn(BATCH, 512, 24, 24)
    projection = torch.nn.Conv2d(128, 512, 1)
    named = {
        "student's logits": student,
        "teacher's logits": teacher,
        "student's features": own,
        "teacher's features": taught,
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    return shapes, {
        "affinity": lambda: terms.affinity(student, teacher),
        "affinity, between features": lambda: terms.feature_affinity(own, taught),
        "kernel": lambda: terms.kernel(own, taught),
        "kernel, gram channel": lambda: terms.kernel(projection(own), taught, gram="channel"),
        "logits": lambda: terms.logits(student, teacher),
        "logits, direction student||teacher": lambda: terms.logits(student, teacher, direction="student||teacher"),
        "soft_targets": lambda: terms.soft_targets(student, teacher),
        "attention": lambda: terms.attention(own, taught),
        "emkd": lambda: terms.emkd((student, [own]), (teacher, [taught])),
        "mskd": lambda: terms.mskd((student, [own]), (teacher, [taught])),
    }


def kept_by(term: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that the backward pass keeps."""
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = tensor, storage.nbytes()  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        term()
    return sum(size for _, size in kept.values())


def timed(term: Callable[[], Tensor]) -> float:
    """The process's CPU seconds, forward and backward."""
    started = time.process_time()
    term().backward()
    return time.process_time() - started


if __name__ == "__main__":
    main()
