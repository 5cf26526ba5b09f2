"""The linear router's fit, beside scikit-learn's on the same features."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression

from mdel_assets.data.text_features import leading_directions, unit_rows
from mdel_assets.evaluation.softmax_regression import fit_softmax


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_a_fit_ends_where_that_of_scikit_learn_does(num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    # The first class has twenty times the texts of the last.
    sizes = np.linspace(100, 5, num_classes).astype(int)
    labels = np.repeat(np.arange(num_classes), sizes)
    told = generator.random((len(labels), 200)) * (generator.random((len(labels), 200)) < 0.1)
    told[:, 0] = labels / num_classes
    features = scipy.sparse.csr_array(told)

    weights, bias = fit_softmax(features, labels, num_classes=num_classes, inverse_strength=10.0)

    assert weights.shape == (num_classes, 200)
    assert bias.shape == (num_classes,)
    other = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000).fit(features, labels)
    if num_classes == 2:
        weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
    np.testing.assert_allclose(weights, other.coef_, atol=1e-6)
    np.testing.assert_allclose(bias, other.intercept_, atol=1e-6)
    assert np.abs(weights).max() > 1


def test_directions_are_the_bits_that_scikit_learn_finds_row_by_row() -> None:
    features = scipy.sparse.random(
        150, 300, density=0.1, format="csr", random_state=np.random.default_rng(0)
    )
    directions, reduced = leading_directions(features, seed=1)
    other = TruncatedSVD(100, random_state=1)
    along = other.fit_transform(features)
    np.testing.assert_array_equal(directions, other.components_)
    np.testing.assert_array_equal(reduced, unit_rows(along))
