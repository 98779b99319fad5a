"""Leaderboards: what they hold, which weights they take, and what is said about them in words."""

import numpy as np
import pandas as pd
import pytest
from hand_boards import TWO, board

from fulcra_utils.systems.compass.boards import (
    choose_presets,
    compare_presets,
    describe_boards,
    describe_places,
    describe_ranking,
    least_without,
    rank_by_presets,
)
from fulcra_utils.systems.compass.countries import load_countries
from fulcra_utils.systems.compass.page import publish_page


def test_a_board_without_a_score_is_none_and_rows_without_one_are_left_out():
    assert board({"a": [(np.nan,) * 5]}) is None
    made = board({"a": [(np.nan,) * 5, (1, np.nan, 0, 0, 0)]})
    assert made.scores.models == ("a",) and len(made.replies) == 1
    assert describe_boards([made]).prompts.tolist() == [1] and "fairness" in describe_boards([made]).notes[0]


def test_weights_decide_who_is_first():
    countries, made = load_countries(), board(TWO)
    presets = choose_presets(made.theory, {"fair": {"fairness": 1}, "other": {"power": 1}}, {"care": 2}, countries)
    assert list(presets) == ["all values alike", "fair", "my own"]
    table = rank_by_presets(made, presets)
    assert table[table["rank"] == 1].groupby("weights").model.agg(list).to_dict() == {
        "all values alike": ["a", "b"], "fair": ["b"], "my own": ["a"]}
    assert compare_presets(table[table.weights != "all values alike"]) == "First by weights: b (fair); a (my own)."
    with pytest.raises(ValueError, match="securty"):
        choose_presets(made.theory, {}, {"securty": 1}, countries)
    cultures = choose_presets(countries.theory, {}, {}, countries)
    assert all(w.sum() == pytest.approx(1) for w in cultures.values()) and "as ranked in France" in cultures


def test_a_ranking_is_said_with_its_doubt():
    table = pd.DataFrame({"model": ["a", "b"], "rank": [1, 2], "rank_low": [1, 1], "rank_high": [1, 2]})
    assert describe_ranking(table) == "First: **a**, rank 1 to 1. Models that may also be first: b."
    assert "no ranking" in describe_ranking(table.assign(rank=np.nan))
    assert describe_ranking(table.assign(rank_low=np.nan, rank_high=np.nan)).startswith("First: **a**. ")


def test_leading_and_trailing_values_are_named():
    places = pd.DataFrame({"dimension": list("abcde"), "place": [1, 2, 3, 4, 5.0]})
    assert describe_places(places) == "Strongest values over the models: a, b, c, d. Weakest: e, d, c."
    assert "none leads" in describe_places(places.assign(place=np.nan))


def test_the_worst_model_counts_for_saturation():
    made = board({"a": [(-1, 0, 0), (1, 0, 0)], "b": [(1, 0, 0), (1, 0, 0)]}, "valuelex")
    share, low, high = least_without(made, "competence")
    assert share == 0.5 and 0 <= low <= share <= high <= 1


def test_a_page_is_written_with_its_presets(tmp_path):
    made = board({"a": [(1, 0, 0)], "b": [(0.5, 0, 0)]}, "valuelex")
    page = publish_page(tmp_path / "page.html", [made], load_countries(), {"wise": {"competence": 1}}, "Compass")
    text = page.read_text(encoding="utf-8")
    assert '"means":[[1.0,0.0,0.0],[0.5,0.0,0.0]]' in text
    assert '"title":"all values alike","weights":[1.0,1.0,1.0]' in text
    assert '"title":"wise","weights":[1.0,0.0,0.0]' in text
