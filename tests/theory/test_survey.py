import warnings

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.theory.targets import KEY, SurveyError, average_countries, build_target, load_target, save_target
from fulcra_utils.theory.theory import load_theory

THEORY = load_theory("schwartz10")


def make_rows(n=200, seed=0):
    """Answers made for this test; no survey data."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(rng.integers(1, 7, (n, 21)), columns=KEY.columns)
    return rows.assign(cntry=rng.choice(["GB", "NL"], n), pspwght=rng.uniform(0.3, 3, n))


def score(rows, **more):
    """The mean of each value over respondents of one country, all of weight 1."""
    return average_countries(pd.DataFrame(rows).assign(**({"cntry": "GB", "pspwght": 1.0} | more)),
                             THEORY).set_index("dimension").value


def test_key_follows_the_published_order():
    expected = {"conformity": [7, 16], "tradition": [9, 20], "benevolence": [12, 18], "universalism": [3, 8, 19],
                "self-direction": [1, 11], "stimulation": [6, 15], "hedonism": [10, 21], "achievement": [4, 13],
                "power": [2, 17], "security": [5, 14]}
    assert KEY.key == expected and len(set(KEY.columns)) == 21 == sum(map(len, expected.values()))


def test_scores_by_hand():
    row = dict.fromkeys(KEY.columns, 3) | {KEY.columns[4]: 1, KEY.columns[13]: 2}  # the two questions of security
    scores = score([row])
    assert scores["security"] == pytest.approx(((6 + 5) / 2 - 3.5) / 2.5)
    assert scores["power"] == pytest.approx((4 - 3.5) / 2.5)


def test_missing_answers_and_silent_respondents():
    row = dict.fromkeys(KEY.columns, 2)
    some = row | {KEY.columns[4]: 77, KEY.columns[13]: 9, "imprich": 1}
    none = row | dict.fromkeys(KEY.columns[:6], 88)
    scores = score([some])
    assert np.isnan(scores["security"]) and scores["power"] == pytest.approx(0.8)
    assert score([none]).isna().all()
    pd.testing.assert_series_equal(score([some, none]), scores)


def test_weighted_mean_and_interval_equal_statsmodels():
    from statsmodels.stats.weightstats import DescrStatsW

    rows = make_rows(60)
    table = average_countries(rows, THEORY).set_index(["country", "dimension"])
    scores = pd.DataFrame([score([row], pspwght=1.0) for _, row in rows.iterrows()], index=rows.index)
    part = rows.cntry == "GB"
    plain = average_countries(rows.assign(pspwght=1.0), THEORY).set_index(["country", "dimension"])
    for name in ("security", "universalism"):
        known = DescrStatsW(scores[name][part], weights=rows.pspwght[part])
        assert table.loc[("GB", name), "value"] == pytest.approx(known.mean)
        flat = scores[name][part]
        half = 1.96 * flat.std(ddof=1) / np.sqrt(len(flat))
        assert plain.loc[("GB", name), "high"] - plain.loc[("GB", name), "value"] == pytest.approx(half)
    assert (table.n_effective < table.n).all() and (table.low < table.value).all()


@pytest.mark.slow
def test_interval_covers_the_truth_at_its_rate():
    hits = 0
    for seed in range(200):
        table = average_countries(make_rows(150, seed), THEORY).set_index(["country", "dimension"])
        low, high = table.loc[("GB", "hedonism"), ["low", "high"]]
        hits += low <= 0 <= high  # uniform answers have mean 3.5
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize("reindex", [
    lambda gb, fr: pd.concat([gb, fr]), lambda gb, fr: pd.concat([gb, fr], ignore_index=True),
    lambda gb, fr: pd.concat([fr, gb]).set_index(["cntry", "pspwght"], drop=False),
    lambda gb, fr: pd.concat([gb, fr]).set_index("cntry", drop=False),
    lambda gb, fr: pd.concat([gb, fr]).set_axis([0.5] * 4), lambda gb, fr: pd.concat({"GB": gb, "FR": fr}),
    lambda gb, fr: pd.concat([gb, fr]).astype({"cntry": "category"}), lambda gb, fr: pd.concat([gb, fr]).astype(str),
    lambda gb, fr: pd.concat([gb, fr]).convert_dtypes()])
def test_no_index_mixes_countries(reindex):
    gb, fr = (pd.DataFrame([dict.fromkeys(KEY.columns, answer) | {"cntry": country, "pspwght": 1.0}] * 2)
              for answer, country in ((2, "GB"), (6, "FR")))
    table = average_countries(reindex(gb, fr), THEORY)
    for country, value in (("FR", -1.0), ("GB", 0.6)):
        part = table[table.country == country]
        assert part.value.round(9).unique().tolist() == [value] and part.n.unique().tolist() == [2]
    assert table.low.isna().all(), "two people have no interval"


@pytest.mark.parametrize("answer", ["often", "", "2,5", 2.5, 0, -1, 7, 8, 9, 77, 99, 1e9, np.nan, None, np.inf])
def test_answers_off_the_scale_are_counted_by_country_and_question(answer):
    rows = make_rows(60).astype(object)
    rows.loc[rows.index[rows.cntry == "GB"][:3], "imprich"] = answer
    rows.loc[rows.index[rows.cntry == "NL"][:2], "impfun"] = answer
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = average_countries(rows, THEORY)
    strays = table.attrs["answers"]
    assert [(s["country"], s["question"], s["n"]) for s in strays] in (
        [("GB", "imprich", 3), ("NL", "impfun", 2)], [("NL", "impfun", 2), ("GB", "imprich", 3)])
    is_known = answer in ("", None, 7, 8, 9, 77, 99) or answer is np.nan
    assert [s["is_code"] for s in strays] == [is_known] * 2 and len(said) == (not is_known)
    assert is_known or "5 answers are no code of pvq21" in str(said[0].message)
    first = rows[KEY.columns].apply(pd.to_numeric, errors="coerce").where(lambda t: t.isin(range(1, 7)))
    power = ((7 - first[["imprich", "iprspot"]]).mean(axis=1) - 3.5) / 2.5
    for country in ("GB", "NL"):
        part = rows.cntry == country
        known = table[(table.country == country) & (table.dimension == "power")].iloc[0]
        assert known.value == pytest.approx(np.average(power[part], weights=rows.pspwght[part].astype(float)))


def test_who_answers_all_alike_is_left_out_and_counted():
    rows = make_rows(60)
    rows.loc[:4, KEY.columns] = 3
    rows.loc[5:7, KEY.columns[:16]] = 3  # 16 alike are allowed
    rows.loc[5:7, KEY.columns[16:]] = 4
    rows.loc[8:9, KEY.columns[:6]] = 8
    table = average_countries(rows, THEORY)
    pd.testing.assert_frame_equal(
        table.drop(columns=["n_alike", "n_missing"]),
        average_countries(rows.drop(index=range(5)), THEORY).drop(columns=["n_alike", "n_missing"]))
    first = table.drop_duplicates("country")
    assert (first.n_alike.sum(), first.n_missing.sum(), first.n.sum()) == (5, 2, 53)


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
    (lambda rows: rows.assign(pspwght="1,5"), "20 weights in column 'pspwght'.* the first is '1,5' in row 1"),
    (lambda rows: rows.assign(pspwght=rows.pspwght.where(rows.index != 3)), "1 weights .* 'nan' in row 4"),
    (lambda rows: rows.assign(pspwght=np.inf), "first is 'inf'"),
    (lambda rows: rows.assign(cntry=rows.cntry.where(rows.index > 1)), "2 of 20 rows have no country"),
    (lambda rows: rows.head(0), "0 of 0 rows"),
    (lambda rows: pd.concat([rows, rows[["imprich"]]], axis=1), "two columns 'imprich'"),
])
def test_unusable_rows_are_one_line(change, words):
    with pytest.raises(SurveyError, match=words):
        average_countries(change(make_rows(20)), THEORY)


def test_unknown_country_and_theory():
    averages = average_countries(make_rows(20), THEORY)
    with pytest.raises(SurveyError, match="known countries are GB, NL"):
        build_target(averages, "XX", THEORY)
    with pytest.raises(SurveyError, match="made for theory"):
        average_countries(make_rows(5), "moral_foundations")
