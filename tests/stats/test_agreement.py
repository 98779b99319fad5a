"""Agreement statistics against published worked examples, statsmodels and limit cases."""

import numpy as np
import pandas as pd
import pytest
from small_notebooks import run_cell
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss

from fulcra_utils.stats.agreement import (
    STATISTICS,
    _alternate,
    cohen_kappa,
    fit_dawid_skene,
    gwet_ac1,
    krippendorff_alpha,
    measure_agreement,
)

_ = np.nan
# Krippendorff (2011), Computing Krippendorff's alpha-reliability, section C: four observers, twelve units.
FOUR_OBSERVERS = np.array([[1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
                           [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _]])
# Fleiss (1971) as worked through on Wikipedia, "Fleiss' kappa": ten subjects, fourteen raters, five categories.
FOURTEEN_RATERS = np.array([[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
                            [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]])

# Dawid and Skene (1979), table 1: 45 patients, four classes; the first of five anaesthetists saw each three times.
PATIENTS = """
1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212 1211111
1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111 1111111 1121121
1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111 2322222 1211111 2222222
"""
ANAESTHETISTS = np.array([[*patient] for patient in PATIENTS.split()], dtype=float).T


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, published):
    assert krippendorff_alpha(FOUR_OBSERVERS, level) == pytest.approx(published, abs=5e-4)


def test_alpha_of_two_observers_binary():
    # Krippendorff (2011), section A: two observers, ten units, binary: 0.095.
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha(np.array([first, second])) == pytest.approx(0.095, abs=5e-4)


def test_ac1_of_the_published_four_raters():
    # Gwet's cac.raw4raters (Handbook of Inter-Rater Reliability; irrCAC documentation): AC1 0.77544.
    assert gwet_ac1(FOUR_OBSERVERS) == pytest.approx(0.77544, abs=5e-6)


def test_kappa_paradox():
    # Gwet (2008): 118 + 5 + 2 + 0 units; observed agreement 0.944, kappa -0.0234, AC1 0.9408.
    ratings = np.repeat([[0, 0, 1, 1], [0, 1, 0, 1]], [118, 5, 2, 0], axis=1)
    assert cohen_kappa(*ratings) == pytest.approx(-0.0234, abs=5e-5)
    assert gwet_ac1(ratings) == pytest.approx(0.9408, abs=5e-5)


def test_fleiss_of_the_published_example():
    ratings = np.array([np.repeat(np.arange(1, 6), row) for row in FOURTEEN_RATERS]).T[:, :, None]
    table = measure_agreement(ratings, ["x"], draws=0, labels=range(1, 6))
    assert value_of(table, "fleiss").value == pytest.approx(0.210, abs=5e-4)


def random_ratings(seed=0, n_annotators=3, n_units=200, missing=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.choice([-1.0, 0, 1], p=[0.1, 0.6, 0.3], size=n_units)
    other = rng.choice([-1.0, 0, 1], (n_annotators, n_units))
    noisy = np.where(rng.random((n_annotators, n_units)) < 0.3, other, truth)
    return np.where(rng.random(noisy.shape) < missing, np.nan, noisy)


def count_labels(ratings):
    return np.stack([(ratings == label).sum(axis=0) for label in (-1, 0, 1)], axis=-1)


def value_of(table, statistic, name="overall"):
    return table[(table.name == name) & (table.statistic == statistic)].iloc[0]


def test_sums_give_what_statsmodels_gives():
    two = random_ratings(n_annotators=2)
    both = two[:, np.isfinite(two).all(axis=0)]
    cross = np.array([[np.sum((both[0] == a) & (both[1] == b)) for b in (-1, 0, 1)] for a in (-1, 0, 1)])
    found = measure_agreement(two[:, :, None], ["x"], draws=0)
    assert value_of(found, "cohen").value == pytest.approx(cohens_kappa(cross, return_results=False), abs=1e-12)
    three = random_ratings(n_annotators=3)
    complete = three[:, np.isfinite(three).all(axis=0)]
    expected = statsmodels_fleiss(count_labels(complete))
    found = measure_agreement(three[:, :, None], ["x"], draws=0)
    assert value_of(found, "fleiss").value == pytest.approx(expected, abs=1e-12)
    assert np.isnan(value_of(found, "cohen").value)


def test_table_equals_single_functions_with_missing_ratings():
    ratings = np.stack([random_ratings(seed) for seed in range(4)], axis=-1)
    table = measure_agreement(ratings, list("abcd"), draws=0)
    for k, name in enumerate("abcd"):
        single = ratings[:, :, k]
        assert value_of(table, "alpha_nominal", name).value == pytest.approx(krippendorff_alpha(single))
        assert value_of(table, "alpha_ordinal", name).value == pytest.approx(krippendorff_alpha(single, "ordinal"))
        assert value_of(table, "ac1", name).value == pytest.approx(gwet_ac1(single))
        complete = single[:, np.isfinite(single).all(axis=0)]
        expected = statsmodels_fleiss(count_labels(complete))
        assert value_of(table, "fleiss", name).value == pytest.approx(expected)
    pooled = ratings.transpose(0, 2, 1).reshape(3, -1)
    assert value_of(table, "alpha_nominal").value == pytest.approx(krippendorff_alpha(pooled))


def test_perfect_and_chance_agreement():
    rng = np.random.default_rng(1)
    same = np.repeat(rng.choice([-1.0, 0, 1], size=(1, 300)), 3, axis=0)
    perfect = measure_agreement(same[:, :, None], ["x"], draws=20)
    assert (perfect.value.dropna() == 1).all()
    chance = rng.choice([-1.0, 0, 1], size=(2, 20_000))
    assert abs(krippendorff_alpha(chance)) < 0.02
    assert abs(cohen_kappa(*chance)) < 0.02
    assert krippendorff_alpha(np.array([[0, 1] * 50, [1, 0] * 50])) < -0.9


def test_undefined_is_nan_not_one():
    constant = np.zeros((2, 10))
    assert np.isnan(krippendorff_alpha(constant))
    assert np.isnan(cohen_kappa(*constant))
    assert np.isnan(value_of(measure_agreement(constant[:, :, None], ["x"], draws=0), "fleiss").value)
    nobody = np.full((2, 10, 1), np.nan)
    assert measure_agreement(nobody, ["x"], draws=10).value.isna().all()
    single = np.vstack([np.zeros(5), np.full(5, np.nan)])
    assert np.isnan(krippendorff_alpha(single, labels=(-1, 0, 1)))


def test_order_of_annotators_and_units_does_not_matter():
    ratings = random_ratings()
    shuffled = ratings[::-1, np.random.default_rng(0).permutation(ratings.shape[1])]
    assert krippendorff_alpha(shuffled, "ordinal") == pytest.approx(krippendorff_alpha(ratings, "ordinal"))
    assert gwet_ac1(shuffled) == pytest.approx(gwet_ac1(ratings))


def test_ordinal_depends_on_label_order_only():
    ratings = random_ratings()
    assert krippendorff_alpha(ratings * 7 + 3, "ordinal") == pytest.approx(krippendorff_alpha(ratings, "ordinal"))


def test_interval_covers_and_widens_with_clusters():
    ratings = np.repeat(random_ratings(n_units=60, missing=0), 10, axis=1)[:, :, None]  # ten equal replies a prompt
    clusters = np.repeat(np.arange(60), 10)
    apart = value_of(measure_agreement(ratings, ["x"], draws=400), "alpha_nominal")
    together = value_of(measure_agreement(ratings, ["x"], clusters, draws=400), "alpha_nominal")
    assert together.low < together.value < together.high
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_bootstrap_agrees_with_drawing_by_hand():
    ratings = random_ratings(n_units=80)
    rng = np.random.default_rng(5)
    by_hand = [gwet_ac1(ratings[:, rng.integers(80, size=80)], (-1, 0, 1)) for _ in range(600)]
    row = value_of(measure_agreement(ratings[:, :, None], ["x"], draws=600, seed=6), "ac1")
    assert (row.low, row.high) == pytest.approx(np.percentile(by_hand, (2.5, 97.5)), abs=0.03)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"annotator 1, unit 2: rating 5 is none of the labels"):
        measure_agreement(np.array([[[0.0]] * 3, [[0.0], [0], [5]]]), ["x"])
    with pytest.raises(ValueError, match="level is one of nominal, ordinal, interval"):
        krippendorff_alpha(np.zeros((2, 2)), "ratio")
    with pytest.raises(ValueError, match="3 clusters for 2 units"):
        measure_agreement(np.zeros((2, 2, 1)), ["x"], np.arange(3))
    with pytest.raises(ValueError, match="which is not"):
        measure_agreement(np.zeros((2, 2)), ["x"])


def test_a_million_ratings_in_one_table():
    ratings = random_ratings(n_annotators=4, n_units=250_000)
    table = measure_agreement(ratings[:, :, None], ["x"], draws=100)
    assert int(value_of(table, "ac1").n_ratings) == np.isfinite(ratings).sum()
    assert set(table.statistic) == set(STATISTICS)


def test_dawid_and_skene_of_their_own_data():
    counts = np.add.reduceat((ANAESTHETISTS[:, :, None] == [1, 2, 3, 4]).astype(float), [0, 3, 4, 5, 6])
    probable, _ = _alternate(counts, 1000, 1e-9)
    assert probable.mean(axis=0) == pytest.approx([0.40, 0.42, 0.11, 0.07], abs=0.005)  # as published
    assert probable[1].argmax() == 3  # patient 2: 3, 3 and 3 by the first, 4, 3, 3 and 4 by the others; the vote says 3


def as_crowd_kit(ratings):
    a, n = np.nonzero(np.isfinite(ratings))
    return pd.DataFrame({"task": n, "worker": a, "label": ratings[a, n]})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pandas, in the oracle
@pytest.mark.parametrize("ratings", [ANAESTHETISTS, random_ratings(n_annotators=5, n_units=200)])
def test_dawid_and_skene_as_crowd_kit_has_it(ratings):
    from crowdkit.aggregation import DawidSkene
    oracle = DawidSkene(n_iter=30, tol=-1).fit(as_crowd_kit(ratings))
    labels = sorted(oracle.probas_.columns)
    probable, _ = fit_dawid_skene(ratings, labels, n_steps=30, tolerance=-1)
    rated = np.isfinite(probable).all(axis=1)
    assert np.array_equal(np.isfinite(ratings).any(axis=0), rated)
    assert probable[rated] == pytest.approx(oracle.probas_.sort_index()[labels].to_numpy(), abs=1e-6)


def test_dawid_and_skene_at_the_limits():
    same = np.array([[1.0, -1, 1, -1, np.nan]] * 3)  # all agree; nobody gave 0; one unit without a rating
    probable, confusion = fit_dawid_skene(same)
    assert probable[:4] == pytest.approx(np.array([[0, 0, 1], [1, 0, 0]] * 2)) and np.isnan(probable[4]).all()
    assert np.isfinite(confusion).all()
    one = np.array([[1.0, 0, -1, 0]])
    assert fit_dawid_skene(one)[0].argmax(axis=1).tolist() == [2, 1, 0, 1]
    assert np.isnan(fit_dawid_skene(np.full((2, 3), np.nan))[0]).all()
    assert fit_dawid_skene(np.empty((2, 0)))[0].shape == (0, 3)
    with pytest.raises(ValueError, match="annotator 0, unit 1: rating 3"):
        fit_dawid_skene(np.array([[1.0, 3]]))


def test_dawid_and_skene_find_a_known_confusion():
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 3000, p=[0.2, 0.6, 0.2])
    sees, sleeps = [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]], [[0.4, 0.6, 0], [0, 1, 0], [0, 0.6, 0.4]]
    known = np.array([sees, sees, sleeps, sleeps, sleeps])  # three of five mostly say 0
    ratings = (rng.random((5, 3000, 1)) > known.cumsum(axis=2)[:, truth]).sum(axis=2).clip(0, 2) - 1.0
    probable, confusion = fit_dawid_skene(ratings)
    assert confusion == pytest.approx(known, abs=0.05)
    votes = np.stack([(ratings == label).sum(axis=0) for label in (-1, 0, 1)], axis=1)
    assert np.mean(probable.argmax(axis=1) == truth) > np.mean(votes.argmax(axis=1) == truth) + 0.05


@pytest.mark.parametrize(("pooled", "is_higher"), [(0.41, True), (0.40, False), (0.2, False)])
def test_notebook_01_calls_the_pooled_alpha_higher_only_where_it_is(pooled, is_higher):
    rows = [(name, "alpha_nominal", value) for name, value in (("care", 0.1), ("duty", 0.4), ("overall", pooled))]
    rows += [("overall", "ac1", 0.5), ("overall", "observed", 0.6)]
    table = pd.DataFrame(rows, columns=["name", "statistic", "value"]).assign(low=0.0, high=1.0, n_units=9)
    said = []
    run_cell("01_dataset_construction", "Within single values", agreement_table=table, Markdown=said.append)
    assert "from 0.10 to 0.40" in said[0] and ("pooled one is higher" in said[0]) == is_higher and said[0][-1] == "."
