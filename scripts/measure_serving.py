"""Requests a second, waiting times and memory of `leanmed serve`, asked over HTTP by several clients at once.

    python scripts/measure_serving.py ARTIFACT --clients 1 --clients 8 --clients 64 --requests 10000 --out FILE

Then clients go on asking while processes are killed at random moments: a worker and the whole server in turn, which is
then started again.

The server runs as a user would start it. Every client sends one photograph after the other over its own connection, and
clients and server share the machine. Memory is the resident memory of the server and its workers together.
"""

from __future__ import annotations

import http.client
import io
import json
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Annotated

import numpy as np
import psutil
import typer
from PIL import Image

from leanmed.benchmark.benchmark import machine
from leanmed.files import write_json
from leanmed.phantoms.eyelids import eyelid

EVERY = 1000  # requests between two looks at the memory
MIB = 2**20
CLIENTS = 4  # that ask while processes are killed


def photograph() -> bytes:
    """A made photograph of 640 x 480 as JPEG."""
    scene = Image.fromarray(eyelid(np.random.default_rng(0), 11.0, cutout=False)[..., :3])
    buffer = io.BytesIO()
    scene.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, content: bytes) -> tuple[int, float]:
        """Status and seconds of one request."""
        started = time.perf_counter()
        self.connection.request("POST", "/v1/predict", content)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - started


def is_up(port: int) -> bool:
    """Whether the server answers."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def memory(process: psutil.Process) -> float:
    """MiB of the server and its workers."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / MIB


def load(port: int, clients: int, requests: int, content: bytes) -> dict[str, float]:
    """What so many clients see, who send so many requests together."""
    made = [Client(port) for _ in range(clients)]
    each = max(1, requests // clients)

    def work(client: Client) -> list[tuple[int, float]]:
        return [client.ask(content) for _ in range(each)]

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = [one for part in pool.map(work, made) for one in part]
    spent = time.perf_counter() - started
    times = sorted(1e3 * seconds for status, seconds in found if status == 200)
    return {
        "clients": clients,
        "requests": len(found),
        "answered": len(times),
        "requests_per_second": round(len(times) / spent, 1),
        "p50_ms": round(statistics.median(times), 1),
        "p99_ms": round(times[int(0.99 * (len(times) - 1))], 1),
    }


class Running:
    """The server in a process of its own, as a user would start it.

    Args:
        words: of its command line.
        port: on which it listens.
        log: where its log goes.
    """

    def __init__(self, words: list[str], port: int, log: Path) -> None:
        self.words, self.port, self.log = words, port, log
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "leanmed", *self.words], stdout=log, stderr=log)
        while not is_up(self.port):
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text(encoding="utf-8"))
            time.sleep(0.1)

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that answer: those of them that hold most memory are not the one that watches the others."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def end(self) -> None:
        """Let it finish."""
        self.process.terminate()
        self.process.wait(60)


def killed(server: Running, kills: int, content: bytes) -> dict[str, int]:
    """What clients see while processes are killed at random moments: a worker and the whole server in turn.

    A client acknowledges an answer when it has read all of it; each must be the one that an undisturbed server gives.
    """
    wanted = told(server.port, content)
    seen: Counter[str] = Counter()
    over = Event()

    def ask() -> None:
        while not over.is_set():
            try:
                seen["right" if told(server.port, content) == wanted else "wrong"] += 1
            except Refused:
                seen["told that it failed"] += 1
            except (OSError, http.client.HTTPException):
                seen["connection lost"] += 1
                time.sleep(0.05)

    chance = random.Random(0)
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask) for _ in range(CLIENTS)]
        for number in range(kills):
            time.sleep(chance.uniform(0.2, 1.5))
            if number % 2:
                server.process.kill()
                server.process.wait()
                server.start()
            else:
                chance.choice(server.workers).kill()
        time.sleep(1)
        over.set()
        for one in asking:
            one.result()
    return {"kills": kills, **seen}


class Refused(Exception):
    """The server answered, and said that it has no answer."""


def told(port: int, content: bytes) -> str:
    """The server's answer, but for how long it took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/predict", content)
        answer = connection.getresponse()
        line = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status != 200:
        raise Refused
    return json.dumps({name: value for name, value in line.items() if name != "seconds"})


def main(
    artifact: Annotated[Path, typer.Argument(help="An artifact of photographs.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    clients: Annotated[list[int], typer.Option(help="How many clients at once; repeatable.")],
    requests: Annotated[int, typer.Option(help="Requests while the memory is watched.")] = 10_000,
    each: Annotated[int, typer.Option(help="Requests at each number of clients.")] = 1000,
    kills: Annotated[int, typer.Option(help="Processes to kill at random moments.")] = 20,
    workers: Annotated[int, typer.Option(help="Processes that answer.")] = 2,
    port: Annotated[int, typer.Option(help="A free port.")] = 8765,
) -> None:
    """Measure, and write it all."""
    content = photograph()
    words = ["serve", str(artifact), "--port", str(port), "--workers", str(workers), "--waiting", "64"]
    with TemporaryDirectory() as scratch:
        started = time.perf_counter()
        server = Running(words, port, Path(scratch) / "log")
        ready = time.perf_counter() - started
        try:
            load(port, 2, 20, content)
            found = [load(port, count, each, content) for count in clients]
            seen, whole = [], psutil.Process(server.process.pid)
            for done in range(0, requests + 1, EVERY):
                seen.append({"requests": done, "mib": round(memory(whole), 1)})
                if done < requests:
                    load(port, 2, EVERY, content)
            lost = killed(server, kills, content)
        finally:
            server.end()
    write_json(
        out,
        {
            "command": shlex.join(["python", "scripts/measure_serving.py", *sys.argv[1:]]),
            "machine": machine(),
            "image_bytes": len(content),
            "workers": workers,
            "seconds_to_start": round(ready, 1),
            "load": found,
            "memory": seen,
            "killed": lost,
        },
    )


if __name__ == "__main__":
    typer.run(main)
