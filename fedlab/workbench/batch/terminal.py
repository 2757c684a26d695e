"""What is said to whoever reads along: never a reason for a run to end."""

from __future__ import annotations

import os
from typing import TextIO


def say(text: str, stream: TextIO) -> None:
    """Write to a stream that may know few letters, or that nobody reads any more.

    Examples
    --------
    >>> import io
    >>> plain = io.TextIOWrapper(io.BytesIO(), "ascii")
    >>> say("α = 0.3", plain)
    >>> plain.buffer.getvalue()
    b'\\\\u03b1 = 0.3'
    """
    letters = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(letters, "backslashreplace").decode(letters))
        stream.flush()
    except OSError:  # behind `| head`, or on a full disk; what waits to be written must go, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
