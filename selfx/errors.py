"""The one exception that bad input raises: what was given, what was wanted, the next move."""

from __future__ import annotations


class SelfxError(ValueError):
    """An error of the user's input; the command line prints it and exits with 2, without a trace.

    Attributes:
      got: what was given.
      expected: what was wanted instead.
      hint: what to do next.
    """

    def __init__(self, got: str, *, expected: str = "", hint: str = ""):
        self.got, self.expected, self.hint = got, expected, hint
        lines = [got]
        lines += [f"  expected: {expected}"] if expected else []
        lines += [f"  try: {hint}"] if hint else []
        super().__init__("\n".join(lines))
