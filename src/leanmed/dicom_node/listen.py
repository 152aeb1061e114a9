"""C-ECHO and C-STORE: the node as a service class provider."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from leanmed.dicom_node.config import Config, Tls
from leanmed.dicom_node.inbox import Store
from leanmed.dicom_node.journal import tell
from leanmed.errors import DataError, InputError, InputTooLarge
from leanmed.reading.dicom import readable_syntaxes

SUCCESS, OUT_OF_RESOURCES, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
ASSOCIATIONS = 10  # at a time; more are rejected for now, and come again
VERIFICATION = UID("1.2.840.10008.1.1")  # C-ECHO
IDLE_SECONDS = 60.0  # without a message, after which an association is aborted
PDU_SECONDS = 30.0  # for a PDU to come whole, and for an answer to be taken
HANDSHAKE_SECONDS = 10.0  # of TLS
MOST_PDU_BYTES = 2**22  # the node asks for 16 KB; some senders do not listen
RECEIVED_AT_ONCE = 2**16
LAST_FRAGMENT = 0b10  # in the message control header (PS3.8 E.2)


class Held:
    """Which series may still grow, so that none is answered before its end: who brings images, and of which series."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[Any, set[str]] = {}

    def brings(self, sender: Hashable, series: str) -> None:
        """An association, or a request, brings an image of a series, which is not written yet."""
        with self._lock:
            self._series.setdefault(sender, set()).add(series)

    def closed(self, sender: Hashable) -> None:
        """A sender has ended, however it did."""
        with self._lock:
            self._series.pop(sender, None)

    def holds(self, series: str) -> bool:
        """Whether more images of a series may come from one that sends."""
        with self._lock:
            # An image may be named after its connection was closed, in another thread: the dead hold nothing.
            for sender in [one for one in self._series if isinstance(one, threading.Thread) and not one.is_alive()]:
                del self._series[sender]
            return any(series in brought for brought in self._series.values())


class _Message:
    """Counts the bytes of a message that is under way, and ends its association when they are too many."""

    def __init__(self, association: Any, most: int, log: Callable[..., None]) -> None:
        self.association, self.most, self.log, self.bytes = association, most, log, 0

    def add(self, event: Any) -> None:
        """Count a PDU."""
        for item in getattr(event.pdu, "presentation_data_value_items", ()):
            value = item.presentation_data_value
            self.bytes += len(value)
            if self.bytes > self.most:
                self.log("association aborted", reason="an object is larger than max_megabytes")
                self.association.abort(block=False)
                _shut(self.association)
                return
            if value[:1] and value[0] & LAST_FRAGMENT:
                self.bytes = 0


class _Connection(RequestHandler):
    """One connection, in a thread of its own from its first byte on."""

    server: _Server

    def handle(self) -> None:
        """Greet by TLS, if that is asked for, and begin the association."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(HANDSHAKE_SECONDS)
            self.request.do_handshake()
        self.request.settimeout(PDU_SECONDS)
        super().handle()

    def _create_association(self) -> Any:
        association: Any = super()._create_association()
        association.dul.socket.recv = partial(_received, association.dul.socket)
        counted = _Message(association, self.server.most_bytes, self.server.log)
        association.bind(evt.EVT_PDU_RECV, counted.add)
        return association


class _Server(ThreadedAssociationServer):
    """A server that no connection can hold up; each is watched by `_Connection`."""

    daemon_threads = True
    most_bytes: int
    log: Callable[..., None]

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """A connection, whose handshake is left to its own thread."""
        listening: Any = self.socket
        connection, address = listening.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed before its association began; `socketserver` would print a traceback."""
        self.log("connection failed", reason=type(sys.exception()).__name__)


def _received(connection: Any, count: int) -> bytearray:
    """So many bytes of a PDU; fewer where the other side has closed, as pynetdicom's own `recv` gives them.

    Raises:
        OSError: a PDU of more bytes than any sender needs, or one that does not come to its end.
    """
    if count > MOST_PDU_BYTES:
        raise OSError("a PDU that is too long")
    end = time.monotonic() + PDU_SECONDS
    found = bytearray()
    while len(found) < count:
        if time.monotonic() > end:
            raise TimeoutError
        if not (piece := connection.socket.recv(min(RECEIVED_AT_ONCE, count - len(found)))):
            break
        found += piece
    return found


def _shut(association: Any) -> None:
    """Wake the thread that may wait for bytes of an association that was ended."""
    connection = association.dul.socket and association.dul.socket.socket
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RD)


class Listener:
    """Takes images in and writes them to the store before it acknowledges them.

    Args:
        config: see there.
        store: where to.
        log: takes the event and what goes with it.
    """

    def __init__(self, config: Config, store: Store, log: Callable[..., None] = tell) -> None:
        self.config, self.store, self.log = config, store, log
        self.held = Held()
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
            self._server = entity.make_server(
                address,
                ssl_context=context,
                evt_handlers=self._handlers(),
                server_class=_Server,
                request_handler=_Connection,
            )
        except OSError as error:
            raise DataError(
                f"expected to listen on {self.config.host}, port {self.config.port}, got: {error.strerror or error}; "
                "choose another `port`, or an address of this computer as `host`"
            ) from error
        entity._servers.append(self._server)  # `shutdown` takes it out again
        self._server.log, self._server.most_bytes = self.log, self.store.limits.max_bytes
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Listen no more; associations that are open are aborted, and their senders come again."""
        if self._server is None:
            return
        associations = self._server.active_associations
        self._server.shutdown()
        for association in associations:
            association.abort(block=False)
            _shut(association)

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REJECTED, lambda event: self.log("association rejected")),
            (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_RELEASED, self._closed),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]

    def _aborted(self, event: Any) -> None:
        self.log("association aborted")
        self._closed(event)

    def _closed(self, event: Any) -> None:
        self.held.closed(event.assoc)

    def _store(self, event: Any) -> int:
        """The status of one C-STORE: see PS3.4 B.2.3."""
        announced = str(event.request.AffectedSOPInstanceUID)
        status, about = stored(self.store, event.encoded_dataset(), announced, partial(self.held.brings, event.assoc))
        self.log("image", status=f"0x{status:04X}", **about)
        return status


def stored(
    store: Store, content: bytes, sop_instance: str | None = None, brings: Callable[[str], None] | None = None
) -> tuple[int, dict[str, object]]:
    """Keep an object, as `Store.put` does: the status of C-STORE, and what a log may say of it."""
    try:
        received = store.put(content, sop_instance, brings)
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
