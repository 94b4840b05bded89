"""What figures were taken on."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The machine's processor and how many cores it has."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()
