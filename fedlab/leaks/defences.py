"""What can be done to vectors before somebody else searches them, and who then sees what.

Two parties look. The **holder** keeps the protected rows and searches them: a cloud, one of two
servers. The **asker** sends questions and reads distances. A defence says what each of them
sees; what it is worth is measured (`fedlab.leaks.measure_leaks`), never assumed.

Where the library protects by the same means (`Shares`, `Counts`), its own code is what is measured.
Secrets are drawn from the experiment's seed here, so that results can be repeated. In earnest they
come from the operating system's entropy, which is what that code takes unless told otherwise.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64
from fedlab.core.validation import not_negative, one_of, positive, read_only, whole_number
from fedlab.index.encoding import decode, encode
from fedlab.privacy.fixed_point import from_words, to_words
from fedlab.privacy.mechanisms import Laplace
from fedlab.privacy.secret_shares import share

#: Parts of a defence's address: its secret, then one for each batch that it is applied to.
SECRET, ROWS, QUERIES, CHOSEN = range(4)
_OBFUSCATION = "obfuscation, not encryption"


@dataclass(frozen=True)
class Seen:
    """A protected batch of vectors, as it looks from two sides.

    Attributes
    ----------
    held : (n, d) float64 array
        What the holder has in memory.
    used : (n, d) float64 array
        What the search works with: distances between `used` rows are what the asker learns. It is
        `held` itself except under secret sharing, where no single party has it.
    """

    held: F64
    used: F64


@dataclass(frozen=True)
class Defence:
    """What all defences have; each has its own `protect`.

    Attributes
    ----------
    name, kind : str
        What it is called, and what it is: "obfuscation, not encryption", for example.
    holder_sees, asker_sees : str
        In a sentence.
    secret_scale, secret_axes : bool
        Whether distances come multiplied by a number, or rows turned, as only the key's owner
        knows.
    searchable : bool
        Whether protected rows are searched; of `Counts`, none are.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    holder_sees: ClassVar[str]
    asker_sees: ClassVar[str] = "distances to the rows, true to their last bit"
    secret_scale: ClassVar[bool] = False
    secret_axes: ClassVar[bool] = False
    searchable: ClassVar[bool] = True
    sign: ClassVar[str] = ""

    @property
    def setting(self) -> str:
        """The parameters in a few characters; what is 0 is left out."""
        value = astuple(self)[0] if self.sign else 0
        return f"{self.sign}={value:g}" if value else ""

    def protect(self, vectors: F64, seed: int, part: int = ROWS) -> Seen:
        """Return what is seen of vectors.

        Parameters
        ----------
        vectors : (n, d) float64 array
        seed : int
            Draws the secret and what is random in each batch.
        part : int
            Which batch: the same secret and other noise for another one.
        """
        raise NotImplementedError

    def public(self, vectors: F64) -> F64:
        """Return what anybody can do to vectors without the secret; attacks do it first."""
        return vectors

    def noise_power(self, dimensions: int) -> float:
        """Return the mean squared length of the noise on a row, which the scheme makes known."""
        return 0.0


@dataclass(frozen=True)
class Undefended(Defence):
    """Nothing is done.

    Examples
    --------
    >>> Undefended().protect(np.eye(2), seed=0).held
    array([[1., 0.],
           [0., 1.]])
    """

    name = "none"
    kind = "no protection"
    holder_sees = "the rows"

    def protect(self, vectors: F64, seed: int, part: int = ROWS) -> Seen:
        return Seen(vectors, vectors)


@dataclass(frozen=True)
class Quantised(Defence):
    """Fewer bits a number: what storage does, at times taken for a defence.

    Parameters
    ----------
    code : {"i8", "b1"}
        One byte a number with the row's own scale (as `fedlab.VectorIndex` stores it), or its sign
        alone: one bit.

    Examples
    --------
    >>> Quantised("b1").protect(np.array([[3.0, -4.0, 0.0, 1.0]]), seed=0).held
    array([[ 0.5, -0.5,  0.5,  0.5]])
    """

    code: Literal["i8", "b1"] = "i8"

    name = "quantised"
    kind = "compression"
    holder_sees = "the rows, rounded"
    asker_sees = "distances to the rounded rows"

    def __post_init__(self) -> None:
        one_of(self.code, ("i8", "b1"), "code")

    @property
    def setting(self) -> str:
        return {"i8": "8 bits", "b1": "1 bit"}[self.code]

    def protect(self, vectors: F64, seed: int, part: int = ROWS) -> Seen:
        rounded = self.public(vectors)
        return Seen(rounded, rounded)

    def public(self, vectors: F64) -> F64:
        if self.code == "i8":
            return decode(**encode(vectors.astype(np.float32), "i8")).astype(np.float64)  # type: ignore[arg-type]
        return np.asarray(np.where(vectors >= 0, 1.0, -1.0) / np.sqrt(vectors.shape[1]))


@dataclass(frozen=True)
class Noise(Defence):
    """Gaussian noise on each row and query, the same for all directions.

    Parameters
    ----------
    sigma : float
        Root mean square length of the noise; rows have length 1 in the meter.
    """

    sigma: float = 0.5

    name, sign = "noise", "σ"
    kind = "noise, without a privacy guarantee for it"
    holder_sees = "the rows with noise"
    asker_sees = "distances to the noisy rows, from a noisy query"

    def __post_init__(self) -> None:
        positive(sigma=self.sigma)

    def noise_power(self, dimensions: int) -> float:
        return self.sigma**2

    def protect(self, vectors: F64, seed: int, part: int = ROWS) -> Seen:
        noisy = vectors + _gaussian(vectors.shape, self.sigma, seed, part)
        return Seen(noisy, noisy)


@dataclass(frozen=True)
class ScaleAndPerturb(Defence):
    """Approximate distance-comparison-preserving encryption (DCPE), as vector databases sell it.

    A vector becomes s x + λ with a secret s and λ uniform in the ball of radius s β / 4. Then, of
    two rows whose distances to a third differ by more than β, the nearer one stays the nearer.

    Parameters
    ----------
    beta : float
        By how much distances must differ for their order to be certain.

    Source: Fuchsbauer, Ghosal, Hauke and O'Neill, "Approximate distance-comparison-preserving
    symmetric encryption", SCN 2022 (Scale-And-Perturb, figure 4). It hides distances of less than
    β, at best; angles between rows, and thus which row is which, are not among what it hides.

    Examples
    --------
    >>> rows = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> held = ScaleAndPerturb(0.1).protect(rows, seed=0).held
    >>> bool(held[0, 1] > held[0, 0] and held[1, 0] > held[1, 1])
    True
    """

    beta: float = 1.0

    name, sign = "scale and perturb", "β"
    kind = _OBFUSCATION
    holder_sees = "the rows, all scaled alike and each moved a little"
    asker_sees = "distances, scaled and blurred"
    secret_scale = True

    def __post_init__(self) -> None:
        positive(beta=self.beta)

    def noise_power(self, dimensions: int) -> float:
        return (self.beta / 4) ** 2 * dimensions / (dimensions + 2)

    def protect(self, vectors: F64, seed: int, part: int = ROWS) -> Seen:
        scale = np.exp(generator(seed, Purpose.PROTECTION, part=SECRET).uniform(0, np.log(100)))
        draw = generator(seed, Purpose.PROTECTION, part=part)
        direction = draw.normal(size=vectors.shape)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        # The d-th root makes points uniform in a ball of d dimensions.
        length = draw.random((len(vectors), 1)) ** (1 / vectors.shape[1])
        moved = scale * (vectors + self.beta / 4 * length * direction)
        return Seen(moved, moved)


@dataclass(frozen=True)
class Rotation(Defence):
    """A secret random rotation (or reflection) of space, and noise on top if wished.

    Parameters
    ----------
    sigma : float
        Root mean square length of the noise; 0 for the rotation alone.

    Examples
    --------
    >>> rows = np.array([[3.0, 4.0], [0.0, 0.0]])
    >>> held = Rotation().protect(rows, seed=0).held
    >>> float(np.linalg.norm(held[0] - held[1]).round(9))
    5.0
    """

    sigma: float = 0.0

    name, sign = "rotation", "σ"
    kind = _OBFUSCATION
    holder_sees = "the rows, turned: every length and angle among them, but for the noise"
    asker_sees = "distances, true but for the noise"
    secret_axes = True

    def __post_init__(self) -> None:
        not_negative(sigma=self.sigma)

    def noise_power(self, dimensions: int) -> float:
        return self.sigma**2

    def protect(self, vectors: F64, seed: int, part: int = ROWS) -> Seen:
        turned = vectors @ _secret_turn(vectors.shape[1], seed)
        if self.sigma:
            turned = turned + _gaussian(vectors.shape, self.sigma, seed, part)
        return Seen(turned, turned)


@dataclass(frozen=True)
class Shares(Defence):
    """Additive shares modulo 2**64 on two servers, each of which sees uniform numbers.

    A number is split as `fedlab.search.private.SharedIndex` splits it: in fixed point
    (`fedlab.privacy.fixed_point`), by `fedlab.privacy.secret_shares.share`. The two servers
    together compute exact products of shared numbers; here we look at what one of them holds, and
    at the distances that the asker is told in the end.

    Parameters
    ----------
    server : {0, 1}
        Whose share the holder has.

    Notes
    -----
    It holds as long as the two servers don't put their shares together.

    Examples
    --------
    >>> row = np.array([[0.25, -1.0]])
    >>> seen = Shares().protect(row, seed=0)
    >>> bool((np.abs(seen.held) > 1e9).all()), seen.used
    (True, array([[ 0.25, -1.  ]]))
    """

    server: Literal[0, 1] = 1

    name = "shares"
    kind = "secret sharing, if the two servers don't collude"
    holder_sees = "one server: numbers, uniform modulo 2^64, whatever the rows are"
    # Not that axes were turned; but it gives attacks on a share all their freedom.
    secret_axes = True

    def __post_init__(self) -> None:
        whole_number(self.server, "server", 0, 1)

    def protect(self, vectors: F64, seed: int, part: int = ROWS) -> Seen:
        draw = generator(seed, Purpose.PROTECTION, part=part)
        shares = share(to_words(vectors), draw.bytes)
        return Seen(from_words(shares[self.server]), from_words(shares[0] + shares[1]))

    def public(self, vectors: F64) -> F64:
        return from_words(to_words(vectors))


@dataclass(frozen=True)
class Counts(Defence):
    """No rows are searched: an asker learns how many lie near a query, with noise.

    The noise is that of `fedlab.privacy.release.release_counts`: discrete Laplace, sampled exactly.

    Parameters
    ----------
    epsilon : float
        Privacy loss of one count; inf for the exact count. Adding or removing a row changes a count
        by at most one (see `fedlab.privacy.mechanisms.Laplace`). Losses of several counts add up.

    Examples
    --------
    >>> Counts(np.inf).released(np.array([2, 0]), seed=0)
    array([2., 0.])
    """

    epsilon: float = 1.0

    name = "counts"
    kind = "differential privacy, for one count"
    holder_sees = "nothing: rows stay on the device"
    asker_sees = "how many rows lie near a query, with noise"
    searchable = False

    def __post_init__(self) -> None:
        if not np.isposinf(self.epsilon):
            Laplace(self.epsilon)  # which refuses what is none

    @property
    def setting(self) -> str:
        return "exact" if np.isinf(self.epsilon) else f"ε={self.epsilon:g}"

    def protect(self, vectors: F64, seed: int, part: int = ROWS) -> Seen:
        raise TypeError("released counts have no rows to be searched; see `released`")

    def released(self, counts: NDArray[np.integer], seed: int) -> F64:
        """Return counts as they are told, fresh noise on each."""
        if np.isinf(self.epsilon):
            return counts.astype(np.float64)
        source = generator(seed, Purpose.RELEASE).bytes
        return (counts + Laplace(self.epsilon).noise(1, len(counts), source)).astype(np.float64)


@lru_cache(maxsize=4)
def _secret_turn(dimensions: int, seed: int) -> F64:
    from scipy.stats import ortho_group

    secret = generator(seed, Purpose.PROTECTION, part=SECRET)
    return read_only(ortho_group.rvs(dimensions, random_state=secret))


def _gaussian(shape: tuple[int, ...], sigma: float, seed: int, part: int) -> F64:
    draw = generator(seed, Purpose.PROTECTION, part=part)
    return np.asarray(draw.normal(scale=sigma / np.sqrt(shape[1]), size=shape))
