"""Answers to their destination, by C-STORE or STOW-RS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from leanmed.dicom_node.config import Config, Peer
from leanmed.dicom_node.dicomweb import NotReached, stow
from leanmed.dicom_node.listen import client_context

SECONDS = 30.0  # to be answered by the other side
SUCCESS, THERE_ALREADY = 0x0000, 0x0111  # the latter: a duplicate SOP instance
FINAL = (0x0117, 0x0122)  # no valid instance, no SOP class that is supported (PS3.7 C)
REFUSED = (range(0xA900, 0xAA00), range(0xC000, 0xD000))  # does not match its class, cannot be understood (PS3.4 B.2.3)
WARNINGS = range(0xB000, 0xC000)  # stored, if not as it was


class Rejected(NotReached):
    """The other side will not take some objects as they are; somebody must mend that."""


def send(config: Config, files: Sequence[Path], taken: Callable[[Path], None]) -> None:
    """Send all objects; sending some of them again does no harm, since their UIDs stay what they are.

    Args:
        config: says where to.
        files: the objects.
        taken: is given each file that has reached the destination.

    Raises:
        NotReached: not all were taken.
        Rejected: those that were not will not be, as they are.
        OSError: one cannot be read.
    """
    if isinstance(config.destination, Peer):
        _store(config.ae_title, config.destination, files, taken)
        return
    stow(config.destination, [path.read_bytes() for path in files])
    for path in files:
        taken(path)


def _store(own: str, peer: Peer, files: Sequence[Path], taken: Callable[[Path], None]) -> None:
    datasets = {path: dcmread(path) for path in files}
    association = _associated(own, peer, list(datasets.values()))
    failures: list[NotReached] = []
    try:
        for path, dataset in datasets.items():
            try:
                _stored(association.send_c_store(dataset).get("Status"), peer)
                taken(path)
            except ValueError:  # no presentation context was accepted for the object
                failures.append(Rejected(f"{peer.ae_title} does not take objects of this class"))
            except Rejected as error:  # others may be taken all the same
                failures.append(error)
    finally:
        if association.is_established:
            association.release()
    if failures:
        raise failures[0]


def _associated(own: str, peer: Peer, datasets: Sequence[Dataset]) -> Association:
    """An association that is open.

    Raises:
        NotReached, Rejected: there is none.
    """
    entity = AE(own)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = SECONDS
    for sop_class, syntax in sorted({(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}):
        entity.add_requested_context(sop_class, [syntax, ImplicitVRLittleEndian])
    tls = (client_context(peer.tls), peer.host) if peer.tls else None
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls)
    if association.is_established:
        return association
    if association.is_rejected:
        raise NotReached(f"{peer.ae_title} rejects the association")
    if association.rejected_contexts:
        raise Rejected(f"{peer.ae_title} does not take objects of this class")
    raise NotReached(f"{peer.ae_title} does not answer")


def _stored(status: int | None, peer: Peer) -> None:
    if status is None:
        raise NotReached(f"{peer.ae_title} does not answer any more")
    if status in (SUCCESS, THERE_ALREADY) or status in WARNINGS:
        return
    is_final = status in FINAL or any(status in refused for refused in REFUSED)
    raise (Rejected if is_final else NotReached)(f"{peer.ae_title} answered 0x{status:04X}")
