"""C-ECHO and C-STORE: the node as a service class provider."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt

from leanmed.dicom_node.config import Config, Tls
from leanmed.dicom_node.inbox import Store
from leanmed.dicom_node.journal import tell
from leanmed.errors import DataError, InputError, InputTooLarge
from leanmed.reading.dicom import readable_syntaxes

SUCCESS, OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
ASSOCIATIONS = 10  # at a time; more are rejected for now, and come again
VERIFICATION = UID("1.2.840.10008.1.1")  # C-ECHO
IDLE_SECONDS = 60.0  # without a message, after which an association is aborted


class Open:
    """Which series the associations that are open have brought images of, so that none is answered before its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[Any, set[str]] = {}

    def brought(self, association: Any, series: str) -> None:
        """An association has brought an image of a series."""
        with self._lock:
            self._series.setdefault(association, set()).add(series)

    def closed(self, association: Any) -> None:
        """An association has ended, however it did."""
        with self._lock:
            self._series.pop(association, None)

    def holds(self, series: str) -> bool:
        """Whether more images of a series may come by an association that is open."""
        with self._lock:
            return any(series in brought for brought in self._series.values())


class Listener:
    """Takes images in and writes them to the store before it acknowledges them.

    Args:
        config: see there.
        store: where to.
        log: takes the event and what goes with it.
    """

    def __init__(self, config: Config, store: Store, log: Callable[..., None] = tell) -> None:
        self.config, self.store, self.log = config, store, log
        self.open = Open()
        self._server: Any = None

    def start(self) -> None:
        """Listen, in threads of its own.

        Raises:
            DataError: the address is taken, or is not this computer's; or TLS with certificates that do not fit.
        """
        silence_pynetdicom()
        entity = AE(self.config.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.config.calling)
        entity.maximum_associations = ASSOCIATIONS
        entity.network_timeout = IDLE_SECONDS
        entity.add_supported_context(VERIFICATION)
        syntaxes = sorted(readable_syntaxes())
        for storage in AllStoragePresentationContexts:
            entity.add_supported_context(str(storage.abstract_syntax), syntaxes)
        context = server_context(self.config.tls) if self.config.tls else None
        address = (self.config.host, self.config.port)
        try:
            self._server = entity.start_server(address, block=False, ssl_context=context, evt_handlers=self._handlers())
        except OSError as error:
            raise DataError(
                f"expected to listen on {self.config.host}, port {self.config.port}, got: {error.strerror or error}; "
                "choose another `port`, or an address of this computer as `host`"
            ) from error

    def stop(self) -> None:
        """Listen no more; associations that are open are aborted, and their senders come again."""
        if self._server is not None:
            self._server.shutdown()

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REJECTED, lambda event: self.log("association rejected")),
            (evt.EVT_ABORTED, lambda event: self.log("association aborted")),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]

    def _closed(self, event: Any) -> None:
        self.open.closed(event.assoc)

    def _store(self, event: Any) -> int:
        """The status of one C-STORE: see PS3.4 B.2.3."""
        status, about = stored(self.store, event.encoded_dataset(), str(event.request.AffectedSOPInstanceUID))
        self.log("image", status=f"0x{status:04X}", **about)
        if "series" in about:
            self.open.brought(event.assoc, str(about["series"]))
        return status


def stored(store: Store, content: bytes, sop_instance: str | None = None) -> tuple[int, dict[str, object]]:
    """Keep an object: the status of C-STORE, and what a log may say of it."""
    try:
        received = store.put(content, sop_instance)
    except InputTooLarge:
        return OUT_OF_RESOURCES, {"reason": "the object is larger than max_megabytes"}
    except InputError:
        return NOT_UNDERSTOOD, {"reason": "no DICOM object with UIDs that fit"}
    except OSError as error:
        return OUT_OF_RESOURCES, {"reason": f"the disk: {error.strerror}"}
    return SUCCESS, {"series": received.series, "is_new": received.is_new, "bytes": len(content)}


def silence_pynetdicom() -> None:
    """Keep pynetdicom and highdicom from logging, since their lines hold UIDs and names."""
    for name in ("pynetdicom", "pydicom", "highdicom"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.NullHandler()], False


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS by which callers must show a certificate too.

    Raises:
        DataError: files that are no certificates and key.
    """
    return _context(tls, ssl.Purpose.CLIENT_AUTH)


def client_context(tls: Tls) -> ssl.SSLContext:
    """TLS towards an entity that is called; its certificate must be signed, whatever name it has.

    Raises:
        DataError: as `server_context`.
    """
    context = _context(tls, ssl.Purpose.SERVER_AUTH)
    context.check_hostname = False  # PS3.15 B: nodes know each other by certificates, which seldom name a host
    return context


def _context(tls: Tls, purpose: ssl.Purpose) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(purpose, cafile=str(tls.authorities))
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise DataError(
            f"expected `tls` to name a certificate, its key and authorities in PEM, got: {error}; correct the paths"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context
