"""The files that TensorBoard reads, written without it, straight to the disk.

A file is a row of TFRecords: the length, its checksum, the data, its checksum, little-endian. The
data is an `Event` message (tensorboard/compat/proto/event.proto); the few fields used here are
encoded by hand, as protobuf's wire format has them. TensorBoard's own writers would bring torch or
a thread of theirs along, and that thread's end at a full disk is never heard of.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from selfx.files import unwritable

VERSION = b"brain.Event:2"
"""From this version on a session's start drops what an earlier one wrote from that step on."""


class Events:
    """A file of events for one session, made in `folder` when the first values come.

    What earlier sessions wrote of that step and later ones is no longer shown.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: Path | None = None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step.

        Raises:
          SelfxError: the disk is full or the folder cannot be written.
        """
        try:
            events = b""
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # By name, as they are read, files are in the order of their making.
                self._file = self.folder / f"events.out.tfevents.{time.time():.6f}.selfx"
                events = _head() + _start(step)
            _append(self._file, events + _summary(step, values))
        except OSError as error:
            raise unwritable(self._file or self.folder, error) from error


def _append(path: Path, data: bytes) -> None:
    """All of the data, or none: the last free bytes of a disk would hold the half of it."""
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        if file.write(data) < len(data):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _head() -> bytes:
    return _event(0, 3, VERSION)


def _start(first: int) -> bytes:
    """A `SessionLog` of status START."""
    return _event(first, 7, _varint(1 << 3) + _varint(1))


def _summary(step: int, values: Mapping[str, float]) -> bytes:
    """A `Summary`: a `Value` with `tag` and `simple_value` for each."""
    parts = (
        _field(1, name.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", float(value))
        for name, value in values.items()
    )
    return _event(step, 5, b"".join(_field(1, part) for part in parts))


def _event(step: int, kind: int, what: bytes) -> bytes:
    """An `Event` as a record: `wall_time`, `step`, and one of the things that happen."""
    now = _varint(1 << 3 | 1) + struct.pack("<d", time.time())
    return _record(now + _varint(2 << 3) + _varint(step) + _field(kind, what))


def _field(number: int, data: bytes) -> bytes:
    """A field whose length is told: bytes, text, a message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """A whole number from 0, seven bits to the byte, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    """CRC-32C, turned and shifted: records may hold checksums themselves."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _entry(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_TABLE = tuple(_entry(byte) for byte in range(256))
