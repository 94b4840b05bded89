"""Who is held out: decided by a name and a seed alone, the same in every run and file."""

from __future__ import annotations

import hashlib

from selfx.errors import SelfxError

TEST_SHARE = 0.25


def split_of(group: str, seed: int, test_share: float = TEST_SHARE) -> str:
    """`test` for a share of all groups, else `train`."""
    number = int.from_bytes(hashlib.sha256(f"{seed}\n{group}".encode()).digest()[:8])
    return "test" if number < test_share * 2**64 else "train"


def check_share(test_share: float) -> None:
    """Raises SelfxError unless some are held out and some are not."""
    if not 0 < test_share < 1:
        raise SelfxError(f"test_share={test_share}", expected="a number between 0 and 1")


def short_hash(*parts: object) -> str:
    """Sixteen hexadecimal digits that tell `parts` from any others."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
