"""Projections against brute force in float64, and what the lemma promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from fedlab.data import Projection, ProjectionLoss, hashed
from fedlab.index.vectorindex import VectorIndex

WORDS = [f"{a}{b}" for a in ("cat", "dog", "tree", "river", "moon") for b in "abcdefghij"]


def texts(n: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    topics = draw.integers(5, size=n)
    return [" ".join(np.array(WORDS)[topic * 10 + draw.integers(10, size=12)]) for topic in topics]


def rows(n: int, features: int, seed: int = 0) -> sparse.csr_array:
    draw = np.random.default_rng(seed)
    table = draw.standard_normal((n, features)) * (draw.random((n, features)) < 0.1)
    table[:, 0] = 1  # no row is empty
    return sparse.csr_array(table)


def test_hashing_forgets_nothing_and_learns_nothing() -> None:
    together = hashed(["cata catb", "dogc"])
    apart = [hashed(["cata catb"]), hashed(["dogc"])]
    assert (together != sparse.vstack(apart)).nnz == 0
    assert together.dtype == np.float32


def test_hashing_counts_a_word_by_the_logarithm_of_its_number() -> None:
    row = hashed(["moon moon moon river"]).toarray()
    ratio = row.max() / row[row > 0].min()
    assert ratio == pytest.approx(1 + np.log(3), rel=1e-6)
    assert np.linalg.norm(row) == pytest.approx(1, rel=1e-6)


def test_an_svd_is_the_best_there_is() -> None:
    """No map of as many dimensions keeps more (Eckart, Young): NumPy's own SVD is the oracle."""
    table = rows(80, 60)
    project = Projection.fitted(table, 10)
    kept = np.linalg.norm(project(table)) ** 2
    values = np.linalg.svd(table.toarray().astype(np.float64), compute_uv=False)
    assert kept == pytest.approx((values[:10] ** 2).sum(), rel=1e-3)
    assert project.matrix.T @ project.matrix == pytest.approx(np.eye(10), abs=1e-5)


def test_all_dimensions_lose_nothing() -> None:
    table = rows(300, 40)
    loss = Projection.fitted(table, 39).loss(table, k=5)
    assert 0.97 < loss.variance_kept <= 1
    assert loss.recall > 0.9
    same = Projection(np.eye(40, dtype=np.float32), None, "nothing", 0, texts=False)
    assert same.loss(table, k=5) == ProjectionLoss(pytest.approx(1), 1.0)


def test_the_loss_is_that_of_brute_force() -> None:
    from scipy.spatial.distance import cdist

    table = rows(60, 50)
    project = Projection.fitted(rows(80, 50, seed=1), 8)
    loss = project.loss(table, k=4)
    before, after = table.toarray(), project(table).astype(np.float64)
    assert loss.variance_kept == pytest.approx(after.var(0).sum() / before.var(0).sum(), rel=1e-4)
    near = [np.argsort(cdist(x, x, "cosine") + 9 * np.eye(60))[:, :4] for x in (before, after)]
    shared = [len(set(a) & set(b)) / 4 for a, b in zip(*near, strict=True)]
    assert loss.recall == pytest.approx(np.mean(shared))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), density=st.sampled_from([0.0, 1 / 3, 1.0]))
def test_a_random_projection_keeps_distances_as_the_lemma_says(seed: int, density: float) -> None:
    from scipy.spatial.distance import pdist
    from sklearn.random_projection import johnson_lindenstrauss_min_dim

    n, ε = 40, 0.5
    table = rows(n, 400)
    dimensions = int(johnson_lindenstrauss_min_dim(n, eps=ε))
    project = Projection.random(dimensions, seed=seed, features=400, density=density)
    ratios = pdist(project(table).astype(np.float64)) ** 2 / pdist(table.toarray()) ** 2
    # The lemma holds with high probability for dense signs; very sparse ones have wider tails.
    assert 1 - ε < ratios.min()
    assert ratios.max() < 1 + ε + 0.25


def test_a_random_projection_is_its_seed() -> None:
    first, again, other = (Projection.random(16, seed=s, features=200) for s in (4, 4, 5))
    assert (first.matrix != again.matrix).nnz == 0
    assert (first.matrix != other.matrix).nnz > 0
    assert first.sent == 16
    entries = np.unique(np.abs(Projection.random(9, features=300).matrix.data))
    np.testing.assert_allclose(entries, np.sqrt(3 / 9), rtol=1e-6)  # Achlioptas, theorem 1.1


def test_a_fit_is_repeatable_and_takes_no_more_than_its_rows() -> None:
    public = texts(60)
    first, again = (Projection.fitted(public, 5, seed=2) for _ in range(2))
    np.testing.assert_array_equal(first(texts(9, 1)), again(texts(9, 1)))
    used = len(np.unique(hashed(public).indices))
    assert first.sent == used * (5 + 1 + 1) * 4  # the basis, a weight and a place for each
    with pytest.raises(ValueError, match=r"dimensions is 10, but 10 rows .* at most 9 directions"):
        Projection.fitted(texts(10), 10)


def test_rare_words_count_more_after_a_fit() -> None:
    public = ["moona rivera", "moona riverb", "moona riverc", "moona riverd"]
    project = Projection.fitted(public, 2)
    columns = [hashed([word]).indices[0] for word in ("moona", "rivera")]
    assert project.weights is not None
    np.testing.assert_allclose(project.weights[columns], [1, np.log(5 / 2) + 1], rtol=1e-6)


def test_neighbours_are_found_through_a_projection() -> None:
    project = Projection.fitted(texts(200), 20)
    loss = project.loss(texts(300, 1), k=10, sample=200)
    assert loss.recall > 0.4
    chance = 10 / 199
    assert Projection.random(2, seed=1).loss(texts(300, 1)).recall < loss.recall
    assert loss.recall > 5 * chance


def test_an_empty_text_is_a_row_of_zeros_that_an_index_refuses() -> None:
    vectors = Projection.random(8, density=1.0)(["the of and", "moona"])
    assert vectors.any(axis=1).tolist() == [False, True]
    with pytest.raises(ValueError, match="cosine needs a direction"):
        VectorIndex(8).add(vectors)


def test_no_rows_become_no_vectors() -> None:
    for project in (Projection.random(8), Projection.fitted(texts(20), 8)):
        vectors = project([])
        assert (vectors.shape, vectors.dtype) == ((0, 8), np.float32)


def test_an_index_names_the_way_for_sparse_rows_and_texts() -> None:
    index = VectorIndex(50)
    with pytest.raises(TypeError, match=r"fedlab\.data\.Projection\.fitted or \.random"):
        index.add(rows(3, 50))
    with pytest.raises(TypeError, match=r"fedlab\.data\.embed"):
        index.add(["a text", "another"])
    project = Projection.random(50, features=90)
    assert len(index.add(project(rows(3, 90)))) == 3


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("one text", TypeError, "one text was given.*put it in a list"),
        (["a", 3], TypeError, "row 1 is int, not a text"),
        ([{"a": 1}], TypeError, "row 0 is dict"),
        (np.eye(3), TypeError, "dense array of float64.*needs no projection"),
        (sparse.csr_array(np.eye(3)), ValueError, "rows of 3 columns.*takes 65536"),
        (sparse.csr_array([[np.nan, 1.0]]), ValueError, "NaN or infinity"),
        (sparse.csr_array([[1e300, 1.0]]), ValueError, "beyond float32.*scale what is too large"),
        (sparse.csr_array([[1j, 0]]), TypeError, "complex128"),
    ],
)
def test_what_can_not_be_projected_is_told_which_way_to_go(
    given: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Projection.random(4)(given)  # type: ignore[arg-type]


def test_texts_and_sparse_rows_are_not_mixed_up() -> None:
    with pytest.raises(TypeError, match="fitted on texts; give texts"):
        Projection.fitted(texts(20), 3)(rows(2, 65_536))
    with pytest.raises(TypeError, match="fitted on sparse rows; give sparse rows"):
        Projection.fitted(rows(20, 9), 3)(["fever", "cough"])
    with pytest.raises(ValueError, match="more than k = 10"):
        Projection.random(4).loss(["moona", "the", "rivera"])
    with pytest.raises(ValueError, match="all rows are alike"):
        Projection.random(4).loss(["moona"] * 12)
