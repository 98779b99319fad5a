import numpy as np
import pandas as pd
import pytest

from fulcra_utils.survey import (
    SurveyError,
    average_countries,
    build_target,
    load_questionnaire,
    score_respondents,
)
from fulcra_utils.targets import load_target, save_target
from fulcra_utils.theory import load_theory

THEORY = load_theory("schwartz10")
KEY = load_questionnaire()


def make_rows(n=200, seed=0):
    """Answers made for this test; no survey data."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(rng.integers(1, 7, (n, 21)), columns=KEY.columns)
    return rows.assign(cntry=rng.choice(["GB", "NL"], n), pspwght=rng.uniform(0.3, 3, n))


def test_key_follows_the_published_order():
    expected = {"conformity": [7, 16], "tradition": [9, 20], "benevolence": [12, 18], "universalism": [3, 8, 19],
                "self-direction": [1, 11], "stimulation": [6, 15], "hedonism": [10, 21], "achievement": [4, 13],
                "power": [2, 17], "security": [5, 14]}
    assert KEY.key == expected and len(set(KEY.columns)) == 21


def test_scores_by_hand():
    row = dict.fromkeys(KEY.columns, 3) | {KEY.columns[4]: 1, KEY.columns[13]: 2}  # the two questions of security
    scores = score_respondents(pd.DataFrame([row]), THEORY).iloc[0]
    assert scores["security"] == pytest.approx(((6 + 5) / 2 - 3.5) / 2.5)
    assert scores["power"] == pytest.approx((4 - 3.5) / 2.5)
    centred = score_respondents(pd.DataFrame([row]), THEORY, centred=True).iloc[0]
    mean = (19 * 4 + 6 + 5) / 21
    assert centred["security"] == pytest.approx((5.5 - mean) / 2.5)
    assert centred["power"] == pytest.approx((4 - mean) / 2.5)


def test_missing_answers_and_silent_respondents():
    row = dict.fromkeys(KEY.columns, 2)
    some = row | {KEY.columns[4]: 77, KEY.columns[13]: 9}
    none = row | dict.fromkeys(KEY.columns[:6], 88)
    scores = score_respondents(pd.DataFrame([some, none]), THEORY)
    assert np.isnan(scores.loc[0, "security"]) and scores.loc[0, "power"] == pytest.approx(0.6)
    assert scores.loc[1].isna().all()


def test_weighted_mean_and_interval_equal_statsmodels():
    from statsmodels.stats.weightstats import DescrStatsW

    rows = make_rows()
    table = average_countries(rows, THEORY).set_index(["country", "dimension"])
    scores = score_respondents(rows, THEORY)
    part = rows.cntry == "GB"
    plain = average_countries(rows, THEORY, weighted=False).set_index(["country", "dimension"])
    for name in ("security", "universalism"):
        known = DescrStatsW(scores[name][part], weights=rows.pspwght[part])
        assert table.loc[("GB", name), "value"] == pytest.approx(known.mean)
        flat = scores[name][part]
        half = 1.96 * flat.std(ddof=1) / np.sqrt(len(flat))
        assert plain.loc[("GB", name), "high"] - plain.loc[("GB", name), "value"] == pytest.approx(half)
    assert (table.n_effective < table.n).all() and (table.low < table.value).all()


def test_interval_covers_the_truth_at_its_rate():
    hits = 0
    for seed in range(200):
        table = average_countries(make_rows(150, seed), THEORY).set_index(["country", "dimension"])
        low, high = table.loc[("GB", "hedonism"), ["low", "high"]]
        hits += low <= 0 <= high  # uniform answers have mean 3.5
    assert 0.90 <= hits / 200 <= 0.99


def test_a_built_target_can_be_used(tmp_path):
    averages = average_countries(make_rows(), THEORY)
    target = build_target(averages, "NL", THEORY)
    again = load_target(save_target(target, tmp_path / "nl.yaml", THEORY), THEORY)
    np.testing.assert_allclose(again.values, averages[averages.country == "NL"].value)


@pytest.mark.parametrize(("change", "words"), [
    (lambda rows: rows.drop(columns="impsafe"), "no column 'impsafe'"),
    (lambda rows: rows.drop(columns="cntry"), "no column 'cntry'"),
    (lambda rows: rows.drop(columns="pspwght"), "no column 'pspwght'"),
    (lambda rows: rows.assign(pspwght=-1.0), "negative or missing"),
])
def test_unusable_rows_are_one_line(change, words):
    with pytest.raises(SurveyError, match=words):
        average_countries(change(make_rows(20)), THEORY)


def test_unknown_country_theory_and_key(tmp_path):
    averages = average_countries(make_rows(20), THEORY)
    with pytest.raises(SurveyError, match="known countries are GB, NL"):
        build_target(averages, "XX", THEORY)
    with pytest.raises(SurveyError, match="made for theory"):
        score_respondents(make_rows(5), "moral_foundations")
    with pytest.raises(SurveyError, match="no questionnaire"):
        load_questionnaire("pvq99")
    (tmp_path / "bad.yaml").write_text("name: x")
    with pytest.raises(SurveyError, match="not a questionnaire's key"):
        load_questionnaire(tmp_path / "bad.yaml")
