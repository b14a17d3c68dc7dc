"""Where the records of a TFRecord file begin and end.

A record is a frame: its length (8 bytes, little endian), the length's checksum
(4 bytes), the data, the data's checksum (4 bytes). The length's checksum is verified,
which finds a file that is cut off or shifted. The data's is not: it would cost several
times what reading does, and images are decoded strictly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from nfnets.data.tf_example import Buffer, MalformedRecord

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_CRC32C_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), byte by byte: for the few bytes of a header."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecord stores it: rotated, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def walk_frames(data: Buffer) -> Iterator[tuple[int, int]]:
    """``(offset, length)`` of each record's data, in order.

    Raises:
        MalformedRecord: the file is damaged; the message names the frame's offset.
    """
    position, size = 0, len(data)
    while position < size:
        start = position + _HEADER.size
        if start > size:
            raise MalformedRecord(f"cut off in the record at byte {position}")
        length, checksum = _HEADER.unpack_from(data, position)
        if masked_crc32c(data[position : position + 8]) != checksum:
            raise MalformedRecord(f"wrong checksum of the record at byte {position}")
        if start + length + _FOOTER_BYTES > size:
            raise MalformedRecord(f"cut off in the record at byte {position}")
        yield start, length
        position = start + length + _FOOTER_BYTES
