"""Training by several processes: two "nodes" of two under torchrun on this machine, and a sharded SAM."""

from __future__ import annotations

import csv
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import multiprocessing

from leanmed.errors import RunError
from leanmed.files import write_text
from leanmed.models.sam import sam_small
from leanmed.recipe.recipe import dump_recipe
from leanmed.runs import FOLD, HISTORY
from leanmed.training.machines import Machines
from training_fixtures import made_data, tiny_recipe

NODES, PROCESSES = 2, 2
TOLERANCE = 1e-4  # of losses: sums over four quarters of a batch are rounded otherwise than one over all of it
BATCH = 8


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def recipe_file(folder: Path, batch: int) -> Path:
    """A network without batch normalisation, and nothing drawn: processes draw each their own."""
    still = {"horizontal_flip": 0.0, "rotation": 0.0, "shift": 0.0, "scale": (1.0, 1.0)}
    recipe = tiny_recipe(
        split={"validation": 0.2},  # 16 of 40 images are trained on: of other numbers, some would be repeated
        model={"backbone": "test_vit", "side": 160, "dropout": 0.0},
        training={"batch_size": batch, "epochs": 2, "learning_rate": 1e-3},
        augment=still,
    )
    write_text(folder / f"batch-{batch}.yaml", dump_recipe(recipe))
    return folder / f"batch-{batch}.yaml"


def train(recipe: Path, data: Path, out: Path, *launcher: str, more: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    arguments = ["train", str(recipe), "--data", str(data), "--out", str(out), "--accelerator", "cpu", *more]
    with out.with_suffix(f".{len(list(out.parent.glob('*.log')))}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, *launcher, "-m", "leanmed", *arguments], stdout=log, stderr=log)


def train_on_nodes(recipe: Path, data: Path, out: Path) -> list[subprocess.Popen[bytes]]:
    port = str(free_port())
    where = ("--nnodes", str(NODES), "--nproc-per-node", str(PROCESSES), "--master-addr", "127.0.0.1")
    launchers = [
        ("-m", "torch.distributed.run", *where, "--master-port", port, "--node-rank", str(node))
        for node in range(NODES)
    ]
    more = ("--nodes", str(NODES), "--devices", str(PROCESSES))
    return [train(recipe, data, out, *launcher, more=more) for launcher in launchers]


def losses(run: Path) -> list[float]:
    with (run / "fold-0" / HISTORY).open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("train_loss", "val_loss")]


def test_two_nodes_of_two_processes_train_as_one_process_with_the_whole_batch(tmp_path: Path):
    data = made_data(tmp_path)
    alone = train(recipe_file(tmp_path, BATCH), data, tmp_path / "alone")
    assert alone.wait() == 0
    quarter = recipe_file(tmp_path, BATCH // (NODES * PROCESSES))
    together = train_on_nodes(quarter, data, tmp_path / "together")
    assert [process.wait() for process in together] == [0, 0]
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
    for world in (1, 2):
        given = (world, str(tmp_path / f"store-{world}"), str(tmp_path / f"{world}.pt"))
        multiprocessing.spawn(gradients, given, nprocs=world)
    whole, sharded = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    assert whole.keys() == sharded.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(sharded[name], gradient, msg=name)
