"""Published claims on hand-made scores, and on the released ones where they are there."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.dataset.benchmarks import read_boards
from fulcra_utils.systems.discovery import claims

NAMES = [name for pair in claims.PAIRS.values() for name in pair]


def test_ranks_and_pairings_of_a_made_structure():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 3))[:, [0, 0, 1, 1, 2, 2]] + 0.3 * rng.normal(size=(40, 6)) + [9, 9, 5, 5, 1, 1]
    scores = pd.DataFrame(rows, columns=NAMES)
    ranked = claims.rank_dimensions(scores, n_draws=200)
    assert ranked["rank"].tolist() == [1, 2, 3] and ranked.rank_high[0] == 1
    table, own = claims.rank_pairings(scores, n_draws=50)
    assert len(table) == 15 and table.published[0] and (own["value"], own["low"], own["best"]) == (1, 1, 1)
    crossed = scores.rename(columns={NAMES[1]: NAMES[2], NAMES[2]: NAMES[1]})
    assert claims.rank_pairings(crossed, n_draws=50)[1]["value"] > 1
    gaps = (scores.index == 3)[:, None] & scores.columns.isin(NAMES[4:])
    holed = claims.rank_dimensions(scores.mask(gaps), n_draws=9)
    assert holed["rank"].tolist()[:2] == [1, 2] and holed.iloc[2, 1:].isna().all(), "a mean with a gap has no rank"
    flat = claims.rank_pairings(scores * 0 + 1, n_draws=5)[1]
    assert np.isnan(flat["value"]) and flat["best"] == 0


def test_a_probe_finds_what_is_there_and_nothing_where_nothing_is():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(14, 2))
    table = claims.probe_safety({"told": x, "noise": rng.normal(size=(14, 2))}, x[:, 0], 200, 40).set_index("features")
    assert table.accuracy["told"] > 0.9 > 0.75 > table.accuracy["noise"] and table.n_pairs["told"] == 91
    assert table.low["noise"] < 0.6 < table.high["told"]
    assert table.accuracy["told"] > table.null_high["told"] > table.null["told"]


def test_ties_are_left_out_and_a_flat_profile_is_undecided():
    right = claims.answer_model_pairs(np.ones((5, 2)), [1, 1, 2, 3, 4])
    assert np.isnan(right).sum() == 1 and (right[np.isfinite(right)] == 0.5).all()
    told = np.arange(6.0)[:, None]
    whole, holed = (claims.answer_model_pairs(x, told[:, 0]) for x in (told, np.where(told == 5, np.nan, told)))
    assert whole.mean() == 1 and np.isnan(holed).sum() == 5 and np.nanmean(holed) == 1


def test_released_scores_as_an_outside_look_had_them(mirror):
    """neighbours: 87.5 < 89.0 < 89.3; within pairs .83, .82, .80; self-competence and professional .93."""
    folder = mirror.parent / "valuecompass" / "site_2025"
    boards = read_boards({name: folder / f"{name}_scores.json" for name in ("Schwartz", "FULVa", "MFT", "Risk")})
    ranked = claims.rank_dimensions(boards["FULVa"], n_draws=200)
    assert ranked["mean"].round(1).tolist() == [87.5, 89.0, 89.3] and ranked["rank"][0] == 3
    r = boards["FULVa"].corr()
    assert [round(r.loc[pair], 2) for pair in claims.PAIRS.values()] == [.83, .82, .80]
    table, own = claims.rank_pairings(boards["FULVa"], n_draws=100)
    assert own["value"] > 1 and "Self-Competence + Professional" in table.pairs[0]
    profiles = claims.collect_profiles(boards, {"Schwartz": "Schwartz", "FULVa": "ValueLex"})
    assert {name: x.shape for name, x in profiles.items()} == {
        "Schwartz": (33, 10), "Schwartz, ipsative": (33, 10), "ValueLex": (33, 6), "ValueLex, ipsative": (33, 6),
        "one general factor": (33, 1)}
    assert profiles["Schwartz, ipsative"].sum(axis=1) == pytest.approx(0, abs=1e-9)
