"""Factors against printed examples (R's factanal, Harman, lavaan), and at their limits."""

import numpy as np
import pytest

from fulcra_utils.stats import factors

# Harman (1976), R's Harman23.cor: eight physical measurements of 305 girls.
HARMAN = np.array([
    [1, .846, .805, .859, .473, .398, .301, .382], [.846, 1, .881, .826, .376, .326, .277, .415],
    [.805, .881, 1, .801, .380, .319, .237, .345], [.859, .826, .801, 1, .436, .329, .327, .365],
    [.473, .376, .380, .436, 1, .762, .730, .629], [.398, .326, .319, .329, .762, 1, .583, .577],
    [.301, .277, .237, .327, .730, .583, 1, .539], [.382, .415, .345, .365, .629, .577, .539, 1]])
# Holzinger & Swineford (1939): covariances (divisor N) of nine tests of 301 children, as lavaan prints them.
SWINEFORD = [[1.358], [.407, 1.382], [.580, .451, 1.275], [.505, .209, .208, 1.351], [.441, .211, .112, 1.098, 1.660],
             [.455, .248, .244, .896, 1.015, 1.196], [.085, -.097, .088, .220, .143, .144, 1.183],
             [.264, .110, .212, .126, .181, .165, .535, 1.022], [.458, .244, .374, .243, .295, .236, .373, .457, 1.015]]


def make_rows(covariance, n, seed=0):
    """Rows whose sample covariance (divisor N) is exactly the one given."""
    noise = np.random.default_rng(seed).normal(size=(n, len(covariance)))
    white = np.linalg.qr(np.column_stack([np.ones(n), noise]))[0][:, 1:] * np.sqrt(n)
    return white @ np.linalg.cholesky(covariance).T


@pytest.fixture(scope="module")
def swineford():
    covariance = np.zeros((9, 9))
    for row, values in enumerate(SWINEFORD):
        covariance[row, :row + 1] = covariance[:row + 1, row] = values
    return make_rows(covariance, 301)


def test_confirmatory_fit_equals_lavaan(swineford):
    """lavaan's printed example: three factors of three tests; the covariances are rounded, so the fits are, too."""
    found = factors.fit_groups(swineford, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert (found["df"], found["n_free"], found["heywood"], found["why"]) == (24, 21, [], "")
    assert found["chi2"] == pytest.approx(85.306, abs=0.05)
    for name, printed in {"cfi": 0.931, "tli": 0.896, "rmsea": 0.092, "srmr": 0.065}.items():
        assert found[name] == pytest.approx(printed, abs=0.001), name
    assert found["aic"] == pytest.approx(7517.49, abs=0.5) and found["bic"] == pytest.approx(7595.34, abs=0.5)


def test_one_factor_fits_worse_as_in_lavaan(swineford):
    """lavaan, one factor on the same tests: chi2 312.264, df 27, CFI 0.677, RMSEA 0.187, SRMR 0.143."""
    found = factors.fit_groups(swineford, [0] * 9)
    assert found["df"] == 27 and found["chi2"] == pytest.approx(312.264, abs=0.3)
    assert (found["cfi"], found["rmsea"], found["srmr"]) == pytest.approx((0.677, 0.187, 0.143), abs=0.001)


def test_a_value_turned_round_changes_no_fit(swineford):
    turned = factors.fit_groups(swineford * [1, -1, 1, 1, 1, 1, 1, 1, -1], [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert turned["chi2"] == pytest.approx(85.306, abs=0.05)


def test_loadings_equal_factanal():
    """R: factanal(factors = 2, covmat = Harman23.cor), varimax; principal axes lie near maximum likelihood."""
    printed = np.array([[.865, .287], [.927, .181], [.895, .179], [.859, .252],
                        [.233, .925], [.194, .774], [.134, .752], [.278, .621]])
    found = factors.fit_factors(make_rows(HARMAN, 305), 2, "varimax")
    assert found.loadings == pytest.approx(printed, abs=0.035)
    assert found.own == pytest.approx([.170, .107, .166, .199, .089, .364, .416, .537], abs=0.03)
    assert found.correlations == pytest.approx(np.eye(2), abs=1e-6) and found.heywood == []


def test_oblique_factors_reproduce_the_same_correlations():
    """Rotation moves no communality; oblique factors of Harman's girls correlate (psych: about .46)."""
    rows = make_rows(HARMAN, 305)
    plain, oblique = (factors.fit_factors(rows, 2, rotation) for rotation in ("varimax", "oblimin"))
    implied = [found.loadings @ found.correlations @ found.loadings.T for found in (plain, oblique)]
    assert implied[0] == pytest.approx(implied[1], abs=1e-6)
    assert oblique.correlations[0, 1] == pytest.approx(0.46, abs=0.03)
    assert np.abs(oblique.loadings[:4, 1]).max() < 0.15 and np.abs(oblique.loadings[4:, 0]).max() < 0.15


def test_two_factors_of_harmans_girls():
    """O'Connor (2000) prints two components for these data by MAP, least average squared partial .0664."""
    table, n = factors.count_factors(make_rows(HARMAN, 305), 50)
    assert (n["parallel"], n["map"], n["scree"]) == (2, 2, 1)      # the bend: 4.67, 1.77, .48, .42
    assert table.partials.min() == pytest.approx(0.0664, abs=5e-4)


def test_noise_holds_no_factor_and_its_first_eigenvalue_is_the_known_one():
    """Marchenko & Pastur (1967): the largest eigenvalue of noise nears (1 + sqrt(D / N))²."""
    rows = np.random.default_rng(1).normal(size=(500, 50))
    table, n = factors.count_factors(rows, 40)
    assert n["parallel"] <= 1 and table.null[0] == pytest.approx((1 + np.sqrt(0.1)) ** 2, abs=0.06)
    assert table.eigenvalue.sum() == pytest.approx(50)


def test_clusters_whose_rows_are_alike_hold_no_factor():
    """Columns without any connection, but 30 clusters of 20 like rows each: as many subjects as clusters."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(30, 12)), 20, axis=0) + 0.1 * rng.normal(size=(600, 12))
    single, whole = (factors.count_factors(rows, 40, clusters=clusters)[1]["parallel"]
                     for clusters in (None, np.repeat(np.arange(30), 20)))
    assert single >= 3 and whole == 0


def test_congruence_by_hand():
    """Σ xy / sqrt(Σ x² Σ y²) of (.8, .6) and (.6, .8) is .96."""
    assert factors.measure_congruence(np.array([[.8], [.6]]), np.array([[.6], [.8]]))[0, 0] == pytest.approx(0.96)
    turned, alike = factors.match_factors(np.array([[0, -1.0], [0, -1], [1, 0]]), np.eye(3)[:, [0, 2]] + [0.1, 0])
    assert turned[2].tolist() == [0, 1] and alike[1] == pytest.approx(1)


def test_bootstrap_holds_the_loadings_and_needs_two_clusters():
    rows = make_rows(HARMAN, 305)
    found = factors.fit_factors(rows, 2)
    low, high = factors.bootstrap_loadings(rows, np.arange(305), found, n_draws=30)
    assert ((low <= found.loadings) & (found.loadings <= high)).mean() > 0.9 and (high - low).max() < 0.5
    assert np.isnan(factors.bootstrap_loadings(rows, np.zeros(305), found)[0]).all()


def test_every_row_twice_changes_no_loading():
    rows = make_rows(HARMAN, 305)
    once, twice = (factors.fit_factors(r, 2).loadings for r in (rows, np.vstack([rows, rows])))
    assert once == pytest.approx(twice, abs=1e-6)


def test_fewer_subjects_than_values():
    rows = make_rows(HARMAN, 305)[:6]
    table, n = factors.count_factors(rows, 20)
    assert table.eigenvalue.iloc[5:].to_numpy() == pytest.approx(0, abs=1e-9) and n["parallel"] < 6
    assert np.isfinite(factors.fit_factors(rows, 2).loadings).all()
    assert factors.fit_groups(rows, [0] * 4 + [1] * 4)["why"].startswith("not estimable: 6 rows for 17 free")


def test_heywood_case_is_named():
    """r12 r13 / r23 = 1.44: the first value would have a communality above 1 (Heywood 1931)."""
    rows = make_rows(np.array([[1, .72, .72], [.72, 1, .36], [.72, .36, 1]]), 200)
    assert factors.fit_factors(rows, 1).heywood == [0]
    four = make_rows(np.array([[1, .72, .72, .1], [.72, 1, .36, .1], [.72, .36, 1, .1], [.1, .1, .1, 1]]), 200)
    found = factors.fit_groups(four, [0] * 4)
    assert found["heywood"] == [0] and np.isfinite(found["cfi"])


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda rows: rows[:, :1], r"2 values and 3 rows at least, not an array of shape \(305, 1\)"),
    (lambda rows: rows * [1, 0, 1, 1, 1, 1, 1, 1], r"values \[1\] do not vary"),
    (lambda rows: np.where(np.arange(8) == 3, np.nan, rows), r"values \[3\] miss cells")])
def test_what_cannot_be_correlated_is_named(spoil, message):
    with pytest.raises(ValueError, match=message):
        factors.count_factors(spoil(make_rows(HARMAN, 305)))


def test_not_estimable(swineford):
    assert "one value alone" in factors.fit_groups(swineford, [0, 0, 0, 0, 0, 0, 0, 0, 1])["why"]
    again = np.column_stack([swineford, swineford[:, 0]])
    assert "repeat one another" in factors.fit_groups(again, [0] * 10)["why"]
    with pytest.raises(ValueError, match="9 factors cannot be had of 9 values"):
        factors.fit_factors(swineford, 9)


def test_bootstrap_of_a_fit_holds_it(swineford):
    found = factors.bootstrap_fit(swineford, [0, 0, 0, 1, 1, 1, 2, 2, 2], np.arange(301), n_draws=10)
    assert all(found[f"{name}_low"] < found[name] < found[f"{name}_high"] for name in factors.FITS)
    rng = np.random.default_rng(0)
    right = rng.normal(size=(200, 2))[:, [0, 0, 0, 1, 1, 1]] + rng.normal(size=(200, 6))
    found = factors.bootstrap_fit(right, [0, 0, 0, 1, 1, 1], np.arange(200), n_draws=40)
    assert found["cfi_high"] <= 1 and found["rmsea_low"] >= 0 and found["srmr_low"] >= 0
    assert np.isnan(factors.bootstrap_fit(swineford[:50], [0] * 9, np.arange(50))["cfi_low"])
