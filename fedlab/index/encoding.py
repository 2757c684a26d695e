"""Five ways to store a number, and what each keeps of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F32

Columns = dict[str, NDArray[np.generic]]


#: Storage types by name, and the NumPy type of their codes (it has no bfloat16: bits are kept).
DTYPES: dict[str, np.dtype[np.generic]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "i8": np.dtype(np.int8),
    "b1": np.dtype(np.uint8),  # eight numbers a code
}


#: The largest number that each holds, or that keeps squared lengths within float32.
LARGEST = {"f32": 1e18, "f16": 65504.0, "bf16": 1e18, "i8": 1e18, "b1": 1e18}

#: What the largest number of a row must reach, unless all are 0: smaller ones, or the scales of i8
#: and b1, lose digits or vanish.
SMALLEST = {"f32": 0.0, "f16": 2.0**-14, "bf16": 2.0**-110, "i8": 2.0**-110, "b1": 2.0**-110}


#: The numbers that the eight bits of a code stand for, but for the row's scale.
_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * np.float32(2) - 1


def codes_in(dimensions: int, dtype: str) -> int:
    """Return how many codes a row takes.

    Examples
    --------
    >>> codes_in(20, "f16"), codes_in(20, "b1")
    (20, 3)
    """
    return -(-dimensions // 8) if dtype == "b1" else dimensions


def encode(vectors: F32, dtype: str) -> Columns:
    """Encode rows: ``codes``, and for i8 and b1 the ``scales`` that undo it.

    Parameters
    ----------
    vectors : (n, d) float32 array
        Finite rows.
    dtype : {"f32", "f16", "bf16", "i8", "b1"}
        f16 and bf16 round to nearest even. i8 keeps round(127 x / max|x|) and the row's own
        scale max|x| / 127, so that norms survive and every row uses all 255 levels. b1 keeps the
        sign of each number, a bit, and the row's scale mean|x|, for which scale * sign has the
        least squared error (Rastegari et al., "XNOR-Net", ECCV 2016, eq. 6).

    Returns
    -------
    dict
        ``codes`` (n, d), under b1 (n, d / 8 rounded up), the first number in a byte's highest bit;
        and under i8 and b1 ``scales`` (n,) float32. f32 codes are `vectors` itself.

    Raises
    ------
    ValueError
        If a value is too large for the type, or all numbers of a row are too small.

    Examples
    --------
    >>> encode(np.float32([[1.0, -2.0]]), "i8")["codes"]
    array([[  64, -127]], dtype=int8)
    """
    refuse_large(vectors, dtype)
    if SMALLEST[dtype]:
        sizes = np.abs(vectors).max(axis=1, initial=0.0)
        if (small := (sizes > 0) & (sizes < SMALLEST[dtype])).any():
            raise ValueError(
                f"the largest number of row {small.argmax()} is {sizes[small.argmax()]:.3g}; "
                f"{dtype} keeps rows whose largest is {SMALLEST[dtype]:.3g} at least, or all 0: "
                f"scale the vectors, or use {'bf16' if dtype == 'f16' else 'f32'}"
            )
    return rounded(vectors, dtype)


def refuse_large(vectors: F32, dtype: str) -> None:
    """Raise ValueError if a value is too large for the type."""
    largest = max(float(vectors.max(initial=0.0)), -float(vectors.min(initial=0.0)))
    if largest > LARGEST[dtype]:
        instead = ", or use bf16" if dtype == "f16" else ""
        raise ValueError(
            f"a value of size {largest:.6g} was given; {dtype} rows hold at most "
            f"{LARGEST[dtype]:.6g}: scale the vectors{instead}"
        )


def rounded(vectors: F32, dtype: str) -> Columns:
    """Encode rows that may vanish in their type: what is too small becomes 0 (see `encode`)."""
    if dtype == "f32":
        return {"codes": vectors}
    if dtype == "f16":
        return {"codes": vectors.astype(np.float16)}
    if dtype == "bf16":
        bits = np.ascontiguousarray(vectors).view(np.uint32)
        return {"codes": ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)}
    if dtype == "b1":
        means = np.abs(vectors).mean(axis=1, dtype=np.float64)
        return {"codes": np.packbits(vectors >= 0, axis=1), "scales": means.astype(np.float32)}
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float32)
    divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
    return {
        "codes": np.clip(np.rint(vectors / divisors), -127, 127).astype(np.int8),
        "scales": scales,
    }


def decode(
    codes: NDArray[np.generic], scales: F32 | None = None, dimensions: int | None = None
) -> F32:
    """Decode rows to float32; f32 codes are returned as they are, without a copy.

    Parameters
    ----------
    codes : array
        See `encode`.
    scales : (n,) float32 array
        For i8 and b1.
    dimensions : int
        Numbers in a row; for b1, whose codes say it to a multiple of eight only.

    Examples
    --------
    >>> decode(**encode(np.float32([[1.5, -3.0]]), "bf16"))
    array([[ 1.5, -3. ]], dtype=float32)
    >>> decode(**encode(np.float32([[1.5, -3.0]]), "b1"), dimensions=2)
    array([[ 2.25, -2.25]], dtype=float32)
    """
    if codes.dtype == np.float32:
        return codes  # type: ignore[return-value]
    if codes.dtype == np.uint16:
        bits: NDArray[np.uint32] = np.left_shift(codes, 16, dtype=np.uint32)
        return bits.view(np.float32)
    if codes.dtype == np.float16:
        return _widen(codes)
    assert scales is not None, "i8 and b1 codes mean nothing without their scales"
    if codes.dtype == np.uint8:
        assert dimensions is not None, "b1 codes don't say how many numbers they hold"
        codes = _SIGNS[codes].reshape(len(codes), 8 * codes.shape[1])[:, :dimensions]
    values: F32 = np.multiply(codes, scales[:, None], dtype=np.float32)
    return values


def _widen(codes: NDArray[np.generic]) -> F32:
    """Return finite float16 numbers as float32, exactly; NumPy's own cast takes four times longer.

    Sign, exponent and fraction are moved to their places in a float32, whose exponent then is too
    small by the difference of the biases, 127 - 15 (subnormal numbers included).
    """
    bits = codes.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(~0x70001FFF)  # clears what the sign was copied into, and what was shifted in
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values
