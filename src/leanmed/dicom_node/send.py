"""Answers to their destination, by C-STORE or STOW-RS."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE

from leanmed.dicom_node.config import Config, Peer
from leanmed.dicom_node.dicomweb import NotReached, stow
from leanmed.dicom_node.listen import client_context

SECONDS = 30.0  # to be answered by the other side
WARNINGS = range(0xB000, 0xC000)  # stored, if not as it was


def send(config: Config, files: Sequence[Path]) -> None:
    """Send all objects; sending some of them again does no harm, since their UIDs stay what they are.

    Raises:
        NotReached: not all were taken.
        OSError: one cannot be read.
    """
    objects = [path.read_bytes() for path in files]
    if isinstance(config.destination, Peer):
        _store(config.ae_title, config.destination, objects)
    else:
        stow(config.destination, objects)


def _store(own: str, peer: Peer, objects: Sequence[bytes]) -> None:
    datasets = [dcmread(io.BytesIO(content)) for content in objects]
    entity = AE(own)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = SECONDS
    for sop_class, syntax in sorted({(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}):
        entity.add_requested_context(sop_class, syntax)
    tls = (client_context(peer.tls), peer.host) if peer.tls else None
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls)
    if not association.is_established:
        refused = "rejects the association" if association.is_rejected else "does not answer"
        raise NotReached(f"{peer.ae_title} {refused}")
    try:
        for dataset in datasets:
            _stored(association.send_c_store(dataset).get("Status"), peer)
    except ValueError as error:  # no presentation context was accepted for the object
        raise NotReached(f"{peer.ae_title} does not take objects of this class") from error
    finally:
        if association.is_established:
            association.release()


def _stored(status: int | None, peer: Peer) -> None:
    if status is None:
        raise NotReached(f"{peer.ae_title} does not answer any more")
    if status != 0 and status not in WARNINGS:
        raise NotReached(f"{peer.ae_title} answered 0x{status:04X}")
