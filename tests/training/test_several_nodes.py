"""Training by several processes: two "nodes" of one each under torchrun on this machine, and a sharded SAM.

`scripts/measure_scale.py train` trains on two nodes of two, and loses one of them.
"""

from __future__ import annotations

import csv
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed
from torch import multiprocessing

from leanmed.errors import RunError
from leanmed.files import write_text
from leanmed.models.sam import sam_small
from leanmed.recipe.recipe import Recipe, dump_recipe
from leanmed.runs import FOLD, HISTORY
from leanmed.training import train as training
from leanmed.training.machines import Machines
from training_fixtures import made_data, silent, tiny_recipe

NODES, PROCESSES = 2, 1
AT_MOST_SECONDS = 600
TOLERANCE = 1e-4  # of losses: sums over two halves of a batch are rounded otherwise than one over all of it
BATCH = 8


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def still_recipe(batch: int) -> Recipe:
    """A network without batch normalisation, and nothing drawn: processes draw each their own."""
    return tiny_recipe(
        split={"validation": 0.2},  # 16 of 40 images are trained on: of other numbers, some would be repeated
        model={"backbone": "test_vit", "side": 160, "dropout": 0.0},
        training={"batch_size": batch, "epochs": 1, "learning_rate": 1e-3},
        augment={"horizontal_flip": 0.0, "rotation": 0.0, "shift": 0.0, "scale": (1.0, 1.0)},
    )


def recipe_file(folder: Path, batch: int) -> Path:
    write_text(folder / f"batch-{batch}.yaml", dump_recipe(still_recipe(batch)))
    return folder / f"batch-{batch}.yaml"


@contextmanager
def on_nodes(recipe: Path, data: Path, out: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A torchrun for each node, which trains; whatever happens, none of their processes is left."""
    port = str(free_port())
    where = ("--nnodes", str(NODES), "--nproc-per-node", str(PROCESSES), "--master-addr", "127.0.0.1")
    words = ("train", str(recipe), "--data", str(data), "--out", str(out), "--accelerator", "cpu")
    words += ("--nodes", str(NODES), "--devices", str(PROCESSES))
    running: list[subprocess.Popen[bytes]] = []
    try:
        for node in range(NODES):
            launcher = ("-m", "torch.distributed.run", *where, "--master-port", port, "--node-rank", str(node))
            with out.with_suffix(f".{node}.log").open("wb") as log:
                command = [sys.executable, *launcher, "-m", "leanmed", *words]
                running.append(subprocess.Popen(command, stdout=log, stderr=log))
        yield running
    finally:
        for process in running:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that still runs, and those that it has started."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def losses(run: Path) -> list[float]:
    with (run / "fold-0" / HISTORY).open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("train_loss", "val_loss")]


def test_two_nodes_train_as_one_process_with_the_whole_batch(tmp_path: Path):
    data = made_data(tmp_path)
    share = BATCH // (NODES * PROCESSES)
    with on_nodes(recipe_file(tmp_path, share), data, tmp_path / "together") as running:
        training.train(still_recipe(BATCH), data, tmp_path / "alone", tell=silent)
        assert [process.wait(timeout=AT_MOST_SECONDS) for process in running] == [0, 0]
    assert (tmp_path / "together" / "fold-1" / FOLD).is_file()
    assert losses(tmp_path / "together") == pytest.approx(losses(tmp_path / "alone"), abs=TOLERANCE)


def test_sharding_by_lightning_is_refused_without_a_gpu():
    with pytest.raises(RunError, match="--strategy fsdp with a GPU"):
        Machines(accelerator="cpu", strategy="fsdp")


def gradients(rank: int, world: int, store: str, found: str) -> None:
    """The gradients of a tiny SAM's first block for one image, its blocks sharded over so many processes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = sam_small(64, width=32, depth=4, heads=2, window=2, channels=32)
    image = torch.rand(1, 3, 64, 64)
    if world > 1:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        mesh = init_device_mesh("cpu", (world,))
        for block in network.blocks:
            fully_shard(block, mesh=mesh)
    network.embed(image).square().mean().backward()
    whole = {}
    for name, parameter in network.blocks[0].named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        if world > 1:
            assert gradient.to_local().numel() < gradient.numel()  # type: ignore[operator]
            gradient = gradient.full_tensor()  # type: ignore[operator]
        whole[name] = gradient
    if rank == 0:
        torch.save(whole, found)
    if world > 1:
        torch.distributed.destroy_process_group()


def test_a_sam_whose_blocks_are_sharded_has_the_gradients_of_a_whole_one(tmp_path: Path):
    gradients(0, 1, "", str(tmp_path / "1.pt"))
    multiprocessing.spawn(gradients, (2, str(tmp_path / "store"), str(tmp_path / "2.pt")), nprocs=2)
    whole, sharded = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    assert whole.keys() == sharded.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(sharded[name], gradient, msg=name)
