"""synthetic(α, β): the reference's generator, draw by draw, and each law that it states."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedlab.core.randomness import Purpose, generator
from fedlab.data import (
    Synthetic,
    audit,
    embedding_skew,
    label_divergence,
    label_table,
    synthetic,
    synthetic_iid,
)

ALPHA, BETA, DEVICES = 2.0, 0.5, 250  # a deviation and a variance differ for both


@pytest.fixture(scope="module")
def many() -> Synthetic:
    return synthetic(ALPHA, BETA, seed=0, devices=DEVICES)


def sizes_of(federation: Synthetic) -> np.ndarray:
    return np.array(federation.train_partition.sizes) + federation.test_partition.sizes


def within(federation: Synthetic) -> np.ndarray:
    """Rows about their device's mean."""
    return np.concatenate(
        [data.x - federation.means[data.device] for data in (federation.train, federation.test)]
    )


def reference(alpha: float, beta: float, draw: np.random.Generator) -> tuple[list, list]:
    """One device, as ``generate_synthetic.py`` states it, a row at a time; on our draws, in our
    order (each device has a stream of its own; the reference's is one for all)."""
    mean_w = mean_b = draw.normal(0, alpha)
    mean_x = draw.normal(draw.normal(0, beta), 1, 60)
    weights = draw.normal(mean_w, 1, (60, 10))
    bias = draw.normal(mean_b, 1, 10)
    samples = int(draw.lognormal(4, 2)) + 50
    diagonal = [np.power(j + 1, -1.2) for j in range(60)]
    rows = []
    for _ in range(samples):
        row = [mean_x[j] + np.sqrt(diagonal[j]) * draw.standard_normal() for j in range(60)]
        rows.append(np.array(row))
    rows = [np.float32(rows[i]) for i in draw.permutation(samples)]
    labels = [int(np.argmax(np.dot(row, weights) + bias)) for row in rows]
    return rows, labels


@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.5, 0.5), (1, 1)])
def test_rows_are_the_references_on_the_same_draws(alpha: float, beta: float) -> None:
    federation = synthetic(alpha, beta, seed=7, devices=3)
    for device in range(3):
        rows, labels = reference(alpha, beta, generator(7, Purpose.SYNTHETIC, device=device))
        train_len = int(0.9 * len(labels))
        mine = federation.train_partition.rows[device]
        assert np.allclose(federation.train.x[mine], rows[:train_len], rtol=1e-6, atol=1e-6)
        assert federation.train.y[mine].tolist() == labels[:train_len]
        mine = federation.test_partition.rows[device]
        assert np.allclose(federation.test.x[mine], rows[train_len:], rtol=1e-6, atol=1e-6)
        assert federation.test.y[mine].tolist() == labels[train_len:]


def test_sizes_follow_their_law(many: Synthetic) -> None:
    """P(n - 50 <= m) = Phi((ln(m + 1) - 4) / 2), at the deciles, by a chi-squared of 9 degrees."""
    extra = sizes_of(many) - 50
    assert extra.min() >= 0
    edges = np.floor(stats.lognorm(2, scale=np.exp(4)).ppf(np.arange(1, 10) / 10)) - 0.5
    cdf = stats.norm.cdf((np.log(edges + 0.5) - 4) / 2)
    observed = np.histogram(extra, [-1, *edges, np.inf])[0]
    expected = np.diff([0, *cdf, 1]) * DEVICES
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_nine_tenths_of_each_device_are_for_training(many: Synthetic) -> None:
    sizes = sizes_of(many)
    assert (np.array(many.train_partition.sizes) == (0.9 * sizes).astype(int)).all()
    assert (np.array(many.test_partition.sizes) >= 5).all()
    for split in (many.train_partition, many.test_partition):
        audit(split)
        assert split.names == tuple(range(DEVICES))


def test_features_have_the_stated_covariance(many: Synthetic) -> None:
    rows = within(many)
    n = len(rows)
    covariance = rows.T.astype(float) @ rows / n
    variances = np.arange(1, 61) ** -1.2
    ratios = np.diag(covariance) / variances
    assert np.abs(ratios - 1).max() < 5 * np.sqrt(2 / n)
    correlation = covariance / np.sqrt(np.outer(variances, variances))
    assert np.abs(correlation - np.diag(np.diag(correlation))).max() < 5.5 / np.sqrt(n)
    assert np.abs(rows.mean(axis=0) / np.sqrt(variances)).max() < 5 / np.sqrt(n)


def chi_squared_fits(values: np.ndarray, variance: float) -> bool:
    """Whether the mean square of Gaussians with mean 0 is a draw of chi-squared at 1 in 1000."""
    tail = stats.chi2(values.size).cdf((values**2).sum() / variance)
    return bool(0.0005 < tail < 0.9995)


def test_alpha_and_beta_are_standard_deviations(many: Synthetic) -> None:
    """A device's 610 parameters average to u_k + N(0, 1/610), its 60 means to B_k + N(0, 1/60)."""
    parameters = np.concatenate([many.weights.reshape(DEVICES, -1), many.biases], axis=1)
    assert chi_squared_fits(parameters.mean(axis=1), ALPHA**2 + 1 / 610)
    assert chi_squared_fits(many.means.mean(axis=1), BETA**2 + 1 / 60)
    # About those averages, each is N(0, 1): one degree of freedom a device is gone.
    for each in (parameters, many.means):
        spread = ((each - each.mean(axis=1, keepdims=True)) ** 2).sum()
        degrees = DEVICES * (each.shape[1] - 1)
        assert abs(spread / degrees - 1) < 5 * np.sqrt(2 / degrees)
    assert abs(np.corrcoef(parameters.mean(axis=1), many.means.mean(axis=1))[0, 1]) < 0.2


def test_weights_and_biases_share_their_mean(many: Synthetic) -> None:
    """The mean of 10 biases less that of 600 weights is N(0, 1/10 + 1/600): u_k cancels."""
    gaps = many.biases.mean(axis=1) - many.weights.mean(axis=(1, 2))
    assert chi_squared_fits(gaps, 1 / 10 + 1 / 600)


@pytest.mark.parametrize("federation", [synthetic(1, 1, 3), synthetic_iid(3)])
def test_labels_are_the_largest_logit_of_the_rows_kept(federation: Synthetic) -> None:
    for data in (federation.train, federation.test):
        assert data.device is not None
        for device in range(30):
            mine = data.device == device
            logits = data.x[mine] @ federation.weights[device] + federation.biases[device]
            assert (logits.argmax(axis=1) == data.y[mine]).all()


def test_the_published_structure() -> None:
    for federation in (synthetic(1, 1, 0), synthetic_iid(0)):
        for data in (federation.train, federation.test):
            assert data.x.shape[1] == 60
            assert data.classes == tuple(range(10))
            assert set(np.unique(data.device)) == set(range(30))
        assert federation.train.origin.sha256 != federation.test.origin.sha256
        assert "MLSys 2020" in federation.train.origin.citation


def test_iid_devices_share_one_law() -> None:
    federation = synthetic_iid(0, devices=200)
    assert not federation.means.any()
    assert (federation.weights == federation.weights[0]).all()
    assert (federation.biases == federation.biases[0]).all()
    split, data = federation.train_partition, federation.train
    assert abs(embedding_skew(data.x[rows] for rows in split.rows)) < 0.005
    counts = label_table(split, data.y)
    counts = counts.loc[:, counts.sum() > 1000]
    assert stats.chi2_contingency(counts).pvalue > 1e-3
    weights = federation.weights[0]
    assert stats.kstest(weights.ravel(), "norm").pvalue > 1e-3


def test_sizes_are_of_the_same_law_in_both_sets() -> None:
    both = [
        sizes_of(make) for make in (synthetic(0, 0, 5, devices=120), synthetic_iid(6, devices=120))
    ]
    assert stats.ks_2samp(*both).pvalue > 1e-3


def test_skew_grows_with_alpha_and_beta() -> None:
    skews = []
    for federation in (synthetic_iid(0), synthetic(0, 0, 0), synthetic(1, 1, 0)):
        split, data = federation.train_partition, federation.train
        labels = label_divergence(label_table(split, data.y))
        skews.append((labels, embedding_skew(data.x[rows] for rows in split.rows)))
    iid, plain, skewed = skews
    assert iid[0] < plain[0]  # even at (0, 0) each device has a model of its own
    assert iid[1] < plain[1] < skewed[1]


def test_more_devices_leave_the_first_as_they_were() -> None:
    few, more = synthetic(1, 1, 9, devices=4), synthetic(1, 1, 9, devices=7)
    assert (more.train.x[: len(few.train)] == few.train.x).all()
    assert (more.test.y[: len(few.test)] == few.test.y).all()
    other = synthetic(1, 1, 10, devices=4)
    assert (few.means != other.means).all()


def test_a_federation_is_read_only() -> None:
    federation = synthetic(1, 1, 0, devices=2)
    for array in (federation.means, federation.weights, federation.biases, federation.train.x):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1}, "alpha is -1; it must be zero or positive"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"beta": float("inf")}, "beta is inf"),
        ({"devices": 0}, "devices is 0; it must be a whole number of at least 1"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic(**{"alpha": 1, "beta": 1, "seed": 0, **arguments})  # type: ignore[arg-type]
