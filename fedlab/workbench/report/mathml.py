"""Formulas as MathML, which every current browser draws by itself: no script, no font, no request.

latex2mathml lets what it doesn't know through as text; here that is an error, so that a test finds
it before a reader does.
"""

from __future__ import annotations

import re

# Environments that latex2mathml knows under another name only.
_RENAMED = {"aligned": "align*", "split": "align*", "gathered": "gather*"}
# What it doesn't know comes out as it went in: a command, a brace, an alignment mark.
_LEFT_OVER = re.compile(r">[^<]*(?:[\\{}]|&(?!#|amp;|lt;|gt;))[^<]*<")
_VARIANT = re.compile(r'<mi mathvariant="(bold|bold-italic)">([A-Za-z])</mi>')
# Where each alphabet begins in Unicode: browsers draw these letters and ignore `mathvariant`.
_ALPHABETS = {"bold": (0x1D400, 0x1D41A), "bold-italic": (0x1D468, 0x1D482)}


class FormulaError(ValueError):
    """A formula that can't be shown as MathML."""


def mathml(latex: str, display: str = "inline") -> str:
    r"""Translate a formula.

    Parameters
    ----------
    latex : str
        The formula without its dollars.
    display : {"inline", "block"}
        In a line of text, or on its own.

    Raises
    ------
    FormulaError
        When a part of it isn't understood.

    Examples
    --------
    >>> mathml("w_k").endswith("<msub><mi>w</mi><mi>k</mi></msub></mrow></math>")
    True
    >>> mathml(r"\nix")
    Traceback (most recent call last):
        ...
    fedlab.workbench.report.mathml.FormulaError: can't show `\nix` as MathML: \nix is not understood
    """
    from latex2mathml import converter

    if _braces(latex) != 0:
        raise FormulaError(f"can't show `{latex}` as MathML: its braces don't match")
    prepared = re.sub(r"(\\(?:begin|end))\{(\w+)\}", _renamed, latex.strip())
    try:
        converted = str(converter.convert(prepared, display=display))
    except Exception as error:  # its own errors have no base class, and it also raises plain ones
        reason = str(error) or type(error).__name__
        raise FormulaError(f"can't show `{latex}` as MathML: {reason}") from error
    left = _LEFT_OVER.search(converted)
    if left:
        part = left[0].strip("<>").strip()
        raise FormulaError(f"can't show `{latex}` as MathML: {part} is not understood")
    return _VARIANT.sub(_letter, converted)


def _braces(latex: str) -> int:
    plain = re.sub(r"\\[{}\\]", "", latex)
    return plain.count("{") - plain.count("}")


def _renamed(match: re.Match[str]) -> str:
    return f"{match[1]}{{{_RENAMED.get(match[2], match[2])}}}"


def _letter(match: re.Match[str]) -> str:
    capital, small = _ALPHABETS[match[1]]
    letter = match[2]
    code = capital + ord(letter) - ord("A") if letter.isupper() else small + ord(letter) - ord("a")
    return f"<mi>{chr(code)}</mi>"
