"""Token pieces back into text without their tokenizer, as published traces hold only pieces."""

from __future__ import annotations

import functools
from collections.abc import Sequence


def pieces_to_text(pieces: Sequence[str]) -> str:
    """The text of vocabulary entries such as `ĠParis` (byte-level) or `▁Paris` (sentencepiece)."""
    joined = "".join(pieces)
    if "▁" in joined:
        return joined.replace("▁", " ").removeprefix(" ")
    table = _bytes()
    if all(letter in table for letter in joined):
        return bytes(table[letter] for letter in joined).decode("utf-8", errors="replace")
    return joined


@functools.cache
def _bytes() -> dict[str, int]:
    """GPT-2's alphabet: bytes that print stand for themselves, the others for letters from 256."""
    printing = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printing)]
    table = {chr(byte): byte for byte in printing}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}
