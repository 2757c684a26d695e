"""Factor models: by hand, against finite differences, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.models import AdditiveFactorisation, MatrixFactorisation, TwoTower, check_model

ITEMS, SIZE = 5, 3
CONTENT = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
MODELS = {
    "likes": MatrixFactorisation(ITEMS, SIZE, l2=0.05),
    "ratings": MatrixFactorisation(ITEMS, SIZE, "squared", centre=0.6, l2=0.1),
    "additive": AdditiveFactorisation(ITEMS, SIZE, l2=0.02, lam=0.3, mu=0.2),
    "towers": TwoTower(ITEMS, SIZE, l2=0.02, content=CONTENT),
    "towers with ids": TwoTower(ITEMS, SIZE, l2=0.02, content=CONTENT, own=SIZE + 1),
    "towers of content": TwoTower(ITEMS, SIZE, content=CONTENT, own=0),
}
X = np.array([[0.0], [3], [3], [1]], np.float32)
Y = np.array([1, 0, 1, 0])

each = pytest.mark.parametrize("name", MODELS)


def somewhere(model: MatrixFactorisation) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.6, model.layout.size)


@each
def test_the_gradient_is_that_of_the_loss(name: str) -> None:
    model = MODELS[name]
    start = somewhere(model)
    loss, gradient = model.loss_and_gradient(start, X, Y)
    steps = 1e-6 * np.eye(len(start))
    ends = [[model.loss_and_gradient(start + way * s, X, Y)[0] for way in (1, -1)] for s in steps]
    np.testing.assert_allclose(np.array(ends) @ [1, -1] / 2e-6, gradient, atol=1e-8)
    assert loss > 0


@each
def test_a_model_keeps_its_promises(name: str) -> None:
    model = MODELS[name]
    check_model(model, X, Y)
    start = somewhere(model).astype(np.float32)
    assert model.initial(1).tobytes() == model.initial(1).tobytes() != model.initial(2).tobytes()
    told = model.evaluate(start, X, Y)
    assert told["loss"] == pytest.approx(model.losses(start, X, Y).mean(), rel=1e-6)


@each
def test_the_product_of_the_two_vectors_is_the_score_but_for_what_all_share(name: str) -> None:
    model = MODELS[name]
    start = somewhere(model)
    scores = model.vectors(start) @ model.wish(start)
    shift = start[-1] + model.centre
    every = np.arange(ITEMS, dtype=np.float32)[:, None]
    np.testing.assert_allclose(scores + shift, model.predict(start, every), rtol=1e-6)


def test_a_score_by_hand() -> None:
    """q = (1, 2 | 0.5), p = (3, -1 | 0.25): 3 - 2 + 0.5 + 0.25 + centre."""
    model = MatrixFactorisation(1, 2, "squared", centre=3.0)
    parameters = np.array([1.0, 2.0, 0.5, 3.0, -1.0, 0.25])
    assert model.predict(parameters, np.zeros((1, 1))).tolist() == [4.75]
    loss, gradient = model.loss_and_gradient(parameters, np.zeros((1, 1)), np.array([4.0]))
    assert loss == 0.75**2 / 2
    np.testing.assert_allclose(gradient, 0.75 * np.array([3, -1, 1, 1, 2, 1]))


def test_the_additive_terms_by_hand() -> None:
    """c = (2 | 1), d = (5 | 1), p = 0: apart by (3 | 0), |c|_1 = 3."""
    model = AdditiveFactorisation(1, 1, "squared", lam=0.1, mu=0.4)
    parameters = np.array([2.0, 1.0, 5.0, 1.0, 0.0, 0.0])
    loss, gradient = model.loss_and_gradient(parameters, np.zeros((1, 1)), np.array([2.0]))
    assert loss == pytest.approx((0.4 * 3 - 0.1 * 9) / 2)  # the score is 2: the bias of both
    np.testing.assert_allclose(gradient[:4], [0.3 + 0.2, 0.2, -0.3, 0.0])


def test_items_without_a_rating_have_vectors_by_what_is_known_of_them() -> None:
    model = TwoTower(3, 2, content=np.array([[1, 0], [0, 1], [1, 1]], np.float32), own=0)
    vectors = model.vectors(np.arange(9.0))
    np.testing.assert_allclose(vectors[2], vectors[0] + vectors[1])


def test_what_is_an_items_own_is_added_to_the_last_of_its_vector() -> None:
    """Content 2 by the tower (3, 5 | 7), and 10 of its own."""
    one = TwoTower(1, 2, content=np.array([[2.0]], np.float32))
    assert one.vectors(np.array([3.0, 5, 7, 10, 0, 0, 0])).tolist() == [[6, 10, 24]]
    two = TwoTower(1, 2, content=np.array([[2.0]], np.float32), own=2)
    assert two.vectors(np.array([3.0, 5, 7, 10, 20, 0, 0, 0])).tolist() == [[6, 20, 34]]


def test_without_content_it_is_matrix_factorisation() -> None:
    model = MODELS["likes"]
    like = TwoTower(ITEMS, SIZE, l2=model.l2, content=CONTENT * 0, own=SIZE + 1)
    start = somewhere(model)
    longer = np.concatenate([np.ones(4 * (SIZE + 1)), start])
    loss, gradient = like.loss_and_gradient(longer, X, Y)
    expected = model.loss_and_gradient(start, X, Y)
    assert loss == pytest.approx(expected[0])
    np.testing.assert_allclose(gradient[4 * (SIZE + 1) :], expected[1])
    assert not gradient[: 4 * (SIZE + 1)].any()


@pytest.mark.parametrize("row", [-1.0, 5.0, 0.5])
def test_rows_that_are_no_items_are_refused(row: float) -> None:
    model = MODELS["likes"]
    with pytest.raises(ValueError, match=r"they are numbers of items, 0 \.\.\. 4"):
        model.predict(model.initial(0), np.array([[row]], np.float32))


def test_settings_and_labels_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="lam"):
        AdditiveFactorisation(3, lam=-1.0)
    with pytest.raises(ValueError, match="content of 3 items"):
        TwoTower(3, content=CONTENT)
    with pytest.raises(ValueError, match="own is 5"):
        TwoTower(ITEMS, SIZE, content=CONTENT, own=SIZE + 2)
    with pytest.raises(ValueError, match="loss"):
        MatrixFactorisation(3, loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes 0"):
        MODELS["likes"].check_labels(np.array([0, 2]))
    with pytest.raises(TypeError, match="numbers are needed"):
        MODELS["ratings"].check_labels(np.array(["a"]))
