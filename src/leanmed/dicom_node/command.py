"""What `leanmed dicom-node` does: check, open the artifacts, listen, work until told to stop."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn

from leanmed.dicom_node.config import Config, read_config
from leanmed.dicom_node.inbox import Store
from leanmed.dicom_node.journal import tell as log
from leanmed.dicom_node.listen import Listener
from leanmed.dicom_node.node import Node
from leanmed.dicom_node.web import Web
from leanmed.errors import DataError
from leanmed.reading.source import silence_decoders
from leanmed.runtime.artifact import read_artifact
from leanmed.runtime.predictor import Predictor
from leanmed.serving.command import listen_at, named_artifacts, read_token, web_config
from leanmed.serving.guard import LOOPBACK, Rules

MEGABYTE = 10**6
WEB_SECONDS, WEB_AT_ONCE = 120.0, 4


def open_artifacts(artifacts: Sequence[Path], config: Config, store: Store) -> dict[str, Predictor]:
    """The artifacts by name.

    Raises:
        ArtifactError: one is none, or damaged.
        DataError: two have one name, or a rule names one that is not given.
    """
    named = named_artifacts(artifacts)
    missing = sorted({rule.artifact for rule in config.rules} - set(named))
    if missing:
        raise DataError(
            f"expected every artifact that a rule names on the command line, got none called {', '.join(missing)}; "
            f"name it, such as {missing[0]}=FOLDER"
        )
    return {name: Predictor(read_artifact(path), limits=store.limits) for name, path in named.items()}


def serve(
    artifacts: Sequence[Path], config_file: Path, *, retry_refused: bool = False, tell: Callable[[str], None] = print
) -> None:
    """Run the node until the process is told to stop.

    Args:
        artifacts: folders, or NAME=FOLDER.
        config_file: see `Config`.
        retry_refused: answer series that were refused once more.
        tell: takes one line at a time.

    Raises:
        ArtifactError, DataError, RecipeError: artifacts, configuration, addresses or certificates that do not fit.
    """
    silence_decoders()
    warnings.simplefilter("ignore")  # those of decoders and writers show what images hold
    config = read_config(config_file)
    store = store_of(config)
    predictors = open_artifacts(artifacts, config, store)
    store.clean()
    for series in store.all() if retry_refused else ():
        if series.state == "refused":
            series.forget_outcome()
    listener = Listener(config, store)
    node = Node(config, store, predictors, listener.open)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *about: stop.set())
    with _web(config, Web(store, config.source is not None, node.status)):
        listener.start()
        threads = node.run(stop)
        tell(f"{config.ae_title} answers by {', '.join(predictors)} at {config.host}, port {config.port}")
        tell("Research use only: not a medical device.   Ctrl-C ends it.")
        log("started", **node.status())
        stop.wait()
        listener.stop()
        for thread in threads:
            thread.join()
    log("ended")


def store_of(config: Config) -> Store:
    """The store that a configuration names.

    Raises:
        DataError: it cannot be made.
    """
    try:
        return Store(config.store, config.max_megabytes * MEGABYTE)
    except OSError as error:
        raise DataError(
            f"expected `store` {config.store} to be a folder that can be written to, got: {error.strerror}; choose "
            "another"
        ) from error


@contextmanager
def _web(config: Config, web: Web) -> Iterator[None]:
    """Listen to DICOMweb meanwhile, if the configuration says so."""
    if config.web is None:
        yield
        return
    about = config.web
    if about.host not in LOOPBACK and about.token_file is None:
        raise DataError(
            f"expected web.token_file beside web.host {about.host}, where others can reach the node, got none; write a "
            "token into a file and name it"
        )
    rules = Rules(
        hosts=LOOPBACK | {name.lower() for name in (about.host, *about.names)},
        token=read_token(about.token_file) if about.token_file else "",
        max_bytes=about.max_megabytes * MEGABYTE,
        seconds=WEB_SECONDS,
        at_once=WEB_AT_ONCE,
    )
    listening = listen_at(about.host, about.port)
    server = uvicorn.Server(web_config(web.app(rules, _logged), WEB_SECONDS))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _logged(line: dict[str, Any]) -> None:
    log("request", **line)


def status_lines(config_file: Path) -> Iterator[str]:
    """What the store holds, a line for each series, for people.

    Raises:
        DataError, RecipeError: as `read_config`.
    """
    store = store_of(read_config(config_file))
    for series in store.all():
        changed = datetime.fromtimestamp(series.changed, UTC).strftime("%Y-%m-%d %H:%M:%S")
        outcome = series.outcome
        yield f"{series.id}  {series.state:8}  {len(series.names):5} images, the last at {changed} UTC"
        for artifact, reason in (outcome.refused if outcome else {}).items():
            yield f"    {artifact or 'refused'}: {reason}"
    for path, _ in store.wanted():
        yield f"{path.stem}  to be fetched"
