"""Formulas: what is understood becomes MathML, what isn't is an error and never text."""

from __future__ import annotations

import unicodedata
from xml.etree import ElementTree

import pytest

from fedlab.workbench.report.mathml import FormulaError, mathml


@pytest.mark.parametrize(
    "latex",
    [
        r"w_{t+1} = w_t - \eta \sum_{k=1}^{K} \frac{n_k}{n} \nabla F_k(w_t)",
        r"\operatorname{argmin}_w \mathbb{E}[\ell(w)]",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\begin{cases} 1 & x > 0 \\ 0 & \text{otherwise} \end{cases}",
        r"\left\lVert \mathbf{x} - \hat{y} \right\rVert_2^2 \le \varepsilon",
        r"p(y \mid x) \sim \mathcal{N}(0, \sigma^2)",
        r"\{1, \dots, K\}",
        r"10\% < \alpha \approx 0.3",
        "a < b",
    ],
)
def test_a_formula_becomes_well_formed_mathml(latex: str) -> None:
    for display in ("inline", "block"):
        root = ElementTree.fromstring(mathml(latex, display))
        assert root.tag == "{http://www.w3.org/1998/Math/MathML}math"
        assert root.get("display") == display
        said = "".join(root.itertext())
        assert "\\" not in said


@pytest.mark.parametrize(
    "latex", [r"\nosuch{x}", r"\frac{1}{2", "a & b", r"\left( x", "", r"\bar", "}{", r"\mathbf"]
)
def test_what_is_not_understood_is_an_error(latex: str) -> None:
    with pytest.raises(FormulaError):
        mathml(latex)


@pytest.mark.parametrize(
    ("latex", "letter"),
    [
        (r"\boldsymbol{w}", "MATHEMATICAL BOLD ITALIC SMALL W"),
        (r"\tilde{\mathbf w}", "MATHEMATICAL BOLD SMALL W"),
        (r"\mathbf{W}", "MATHEMATICAL BOLD CAPITAL W"),
    ],
)
def test_bold_letters_are_letters(latex: str, letter: str) -> None:
    # Browsers follow MathML Core, which knows no `mathvariant="bold"`.
    assert unicodedata.lookup(letter) in "".join(ElementTree.fromstring(mathml(latex)).itertext())
