"""Voxels of a scan in one file, stored one slice after the other: mapped where they are plain, unpacked where not."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from leanmed.errors import InputTooLarge, UnreadableInput
from leanmed.reading.ct import Hounsfield
from leanmed.reading.raster import Limits

PIECE = 2**20  # bytes of a packed file that are read at a time


@dataclass(frozen=True)
class Stored:
    """Where the voxels of a scan are.

    Args:
        path: the file.
        offset: bytes before the first voxel.
        kind: of a voxel, with its byte order.
        shape: (z, y, x).
        packed: by zlib or gzip.
        length: bytes that are packed; None: up to the end of the file.
    """

    path: Path
    offset: int
    kind: np.dtype[np.generic]
    shape: tuple[int, int, int]
    packed: bool = False
    length: int | None = None

    @property
    def size(self) -> int:
        """Bytes of all voxels, unpacked."""
        z, y, x = self.shape
        return z * y * x * self.kind.itemsize

    def reader(self, limits: Limits) -> Callable[[int, int], Hounsfield]:
        """The function that reads slices first to end - 1 as floats, (end - first, y, x).

        Raises:
            InputTooLarge: file or voxels are over `max_scan_bytes`.
            UnreadableInput: plain voxels that are fewer or more than declared; packed ones tell when they are read.
        """
        held = self.path.stat().st_size
        check_scan_bytes(max(held, self.size), limits)
        if self.packed:
            return _Unpacked(self).slices
        if held - self.offset != self.size:
            raise UnreadableInput(
                f"expected {self.size:,} bytes of voxels in {self.path.name}, as the header declares, got "
                f"{held - self.offset:,}; copy it again"
            )

        def read(first: int, end: int) -> Hounsfield:
            voxels: NDArray[np.generic] = np.memmap(self.path, self.kind, "r", self.offset, self.shape)[first:end]
            return voxels.astype(np.float32)

        return read


def check_scan_bytes(size: int, limits: Limits) -> None:
    """Refuse a scan whose file or voxels are too many bytes.

    Raises:
        InputTooLarge: over `max_scan_bytes`.
    """
    if size > limits.max_scan_bytes:
        raise InputTooLarge(
            f"expected a scan of at most {limits.max_scan_bytes:,} bytes, packed and unpacked, got {size:,}; raise "
            "max_scan_bytes if it is trusted"
        )


class _Unpacked:
    """Unpacks from slice to slice, keeping no more than those asked for; who goes back starts anew."""

    def __init__(self, stored: Stored) -> None:
        self._stored, self._lock = stored, Lock()
        self._start()

    def slices(self, first: int, end: int) -> Hounsfield:
        """Slices first to end - 1 as floats, (end - first, y, x).

        Raises:
            UnreadableInput: fewer voxels are packed than declared, or more.
            zlib.error: what is packed is damaged.
        """
        stored = self._stored
        plane = stored.size // stored.shape[0]
        with self._lock:
            if first * plane < self._position:
                self._start()
            while self._position < first * plane:
                self._take(min(PIECE, first * plane - self._position))
            taken = self._take((end - first) * plane)
            if end == stored.shape[0] and self._unpack(1):
                raise UnreadableInput("expected as many packed voxels as declared, got more; copy or export it again")
        return np.frombuffer(taken, stored.kind).reshape(-1, *stored.shape[1:]).astype(np.float32)

    def _start(self) -> None:
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of zlib or gzip, as its first bytes say
        self._read, self._position, self._waiting = 0, 0, b""

    def _take(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            part = self._unpack(size - len(taken))
            if not part:
                raise UnreadableInput("expected as many packed voxels as declared, got fewer; copy or export it again")
            taken += part
            self._position += len(part)
        return bytes(taken)

    def _unpack(self, most: int) -> bytes:
        """The next bytes, `most` of them at most; none at the end."""
        part = b""
        while not part and not self._unpacker.eof:
            self._waiting = self._waiting or self._more()
            part = self._unpacker.decompress(self._waiting, most)
            if not part and not self._waiting:
                break
            self._waiting = self._unpacker.unconsumed_tail
        return part

    def _more(self) -> bytes:
        left = PIECE if self._stored.length is None else min(PIECE, self._stored.length - self._read)
        with self._stored.path.open("rb") as file:
            file.seek(self._stored.offset + self._read)
            more = file.read(left)
        self._read += len(more)
        return more
