"""IDX, the file format of MNIST.

Two zero bytes, the element type (8: unsigned bytes), the number of dimensions, each size as a big-endian
32-bit number, then the elements in C order. Whether a file is gzipped is told by its first two bytes, not by
its name. A file is given as `origin`, the path or URL that errors name (all are ValueError), and its bytes.
"""

from __future__ import annotations

import math

import numpy as np


def unpack(origin: str, data: bytes) -> bytes:
    """`data`, decompressed if it is gzip."""
    if data[:2] != b"\x1f\x8b":
        return data
    import gzip
    import zlib

    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{origin}: truncated or corrupt gzip file: {error}") from None


def parse(origin: str, content: bytes, rank: int) -> np.ndarray:
    """The uint8 array, of `rank` dimensions, of an IDX file's decompressed content."""
    header_bytes = 4 + 4 * rank
    magic = bytes([0, 0, 8, rank])
    if content[:4] != magic:
        raise ValueError(
            f"{origin}: no IDX file of unsigned bytes in {rank} dimension(s): "
            f"it starts with 0x{content[:4].hex()}, not with 0x{magic.hex()}"
        )
    if len(content) < header_bytes:
        raise ValueError(f"{origin}: truncated: {len(content)} bytes, its header alone has {header_bytes}")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header_bytes, 4)]
    size, given = math.prod(shape), len(content) - header_bytes
    if size != given or size == 0:
        sizes = " x ".join(map(str, shape))
        raise ValueError(f"{origin}: empty or damaged: {sizes} = {size} bytes by its header, {given} follow")
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def parse_pair(images: tuple[str, bytes], labels: tuple[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N,H*W] and labels uint8 [N] of two (origin, decompressed content)."""
    x, y = parse(*images, rank=3), parse(*labels, rank=1)
    if len(x) != len(y):
        raise ValueError(f"{images[0]} holds {len(x)} images, but {labels[0]} holds {len(y)} labels")
    return x.reshape(len(x), -1), y
