"""Leaderboards: what they hold, which weights they take, and what is said about them in words."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hand_boards import TWO, board
from small_notebooks import run_cell

from fulcra_utils.stats.resampling import wilson_interval
from fulcra_utils.systems.compass.boards import (
    choose_presets,
    collect_boards,
    compare_presets,
    describe_boards,
    describe_places,
    describe_ranking,
    least_without,
    rank_by_presets,
    read_models,
)
from fulcra_utils.systems.compass.countries import load_countries
from fulcra_utils.systems.compass.page import publish_page
from fulcra_utils.theory.theory import load_theory


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
    assert describe_ranking(table) == "First: **a**, rank 1 to 1; models that may also be first: b."
    assert "no ranking" in describe_ranking(table.assign(rank=np.nan))
    assert "cannot be told" in describe_ranking(table.assign(rank_low=np.nan, rank_high=np.nan))
    assert describe_ranking(table.assign(rank_low=[1, np.nan])).endswith("may also be first: b.")


def test_without_a_rank_nobody_is_first():
    table = pd.DataFrame({"weights": ["x", "y"] * 2, "model": list("aabb"), "rank": [1.0, 1, 2, np.nan]})
    assert compare_presets(table) == "First by weights: a (x, y)."
    assert compare_presets(table.assign(rank=np.nan)) == "No model has a rank under any weights."


@pytest.mark.parametrize(("ranks", "first"), [([1.0, 1, 3], ["a", "b"]), ([np.nan] * 3, [])])
def test_notebook_06_records_whoever_is_first(ranks, first):
    told = SimpleNamespace(record=lambda **found: told.__dict__.update(found), finish=lambda: None)
    page = SimpleNamespace(stat=lambda: SimpleNamespace(st_size=1))
    run_cell("06_value_compass", "run.record(", run=told, board_table=pd.DataFrame({"board": ["x"], "models": [3]}),
             ranking=pd.DataFrame({"model": list("abc"), "rank": ranks}), left_out=[], page=page, leans={},
             matches=pd.DataFrame({"country": ["France"], "rho": [0.5]}),
             value_places=pd.DataFrame({"dimension": ["care", "duty"], "place": [np.nan, 1]}))
    assert told.first == first and told.strongest == ["duty"]


@pytest.mark.parametrize(("rho", "said"), [
    ([0.5, np.nan], "France (0.50). If"), ([np.nan] * 2, "No model has an order"), ([], "No country ranking fits")])
def test_notebook_06_names_only_countries_with_a_match(rho, said):
    matches = pd.DataFrame({"country": ["France", "China"][:len(rho)], "rho": rho})
    words = []
    run_cell("06_value_compass", "mean_match = matches", matches=matches, pd=pd, Markdown=words.append)
    assert said in words[0] and "nan" not in words[0]


def test_leading_and_trailing_values_are_named():
    places = pd.DataFrame({"dimension": list("abcdefg"), "place": [1, 2, 3, 4, 5, 6, 7.0]})
    assert describe_places(places) == "Strongest values over the models: a, b, c, d. Weakest: g, f, e."
    assert describe_places(places.head(6)) == "Values over the models, the strongest first: a, b, c, d, e, f."
    assert "none leads" in describe_places(places.assign(place=np.nan))


def test_the_worst_model_counts_for_saturation():
    made = board({"a": [(-1, 0, 0), (1, 0, 0)] * 3, "b": [(1, 0, 0), (1, 0, 0)] * 3}, "valuelex")
    share, low, high = least_without(made, "competence")
    assert share == 0.5 and 0 <= low <= share <= high <= 1
    share, low, high = least_without(board({"a": [(1, 0, 0)] * 6}, "valuelex"), "competence")
    assert share == high == 1 and low == pytest.approx(wilson_interval(6, 6)[0]), "six replies prove little"


def test_a_page_is_written_with_its_presets(tmp_path):
    made = board({"a": [(1, 0, 0)], "b": [(0.5, 0, 0)]}, "valuelex")
    page = publish_page(tmp_path / "page.html", [made], load_countries(), {"wise": {"competence": 1}}, "Compass")
    text = page.read_text(encoding="utf-8")
    assert '"means":[[1.0,0.0,0.0],[0.5,0.0,0.0]]' in text
    assert '"title":"all values alike","weights":[1.0,1.0,1.0]' in text
    assert '"title":"wise","weights":[1.0,0.0,0.0]' in text


class Flat:
    """An evaluator that gives every reply 0 on every value of whatever theory it is asked for."""

    def is_taught(self, theory):
        return True

    def for_theory(self, theory):
        self.n_dims = theory.n_dims
        return self

    def score(self, prompts, responses, progress=False):
        return np.zeros((len(prompts), self.n_dims))


def collect(folder, n_prompts):
    """Return the evaluator's boards, by name, of two models on 200 prompts beside what the folder holds."""
    theory = load_theory("valuelex")
    run = pd.DataFrame([(m, f"p{k}", "r", k) for m in ("large", "larger") for k in range(200)],
                       columns=["response_source", "prompt", "response", "cluster"])
    run[list(theory.dimensions)] = 0.5
    boards, left_out = collect_boards(theory, run.iloc[:0], run, Flat(), [], folder, n_prompts, n_draws=20)
    return {b.name.partition(", ")[2]: b.scores for b in boards if not b.is_released}, left_out


def drop(folder, name, prompts):
    pd.DataFrame({"prompt": prompts, "response": "small"}).to_parquet(folder / f"{name}.parquet")


@pytest.mark.parametrize(("n_prompts", "kept"), [(30, 30), (60, 40), (1000, 40)])
def test_added_models_stand_beside_the_runs_on_shared_prompts_alone(tmp_path, n_prompts, kept):
    drop(tmp_path, "SmolLM2, DPO to ideal", [f"p{k}" for k in range(100, 140)])
    drop(tmp_path, "SmolLM2", [f"p{k}" for k in range(100, 140)] + ["a prompt of its own"])
    boards, left_out = collect(tmp_path, n_prompts)
    assert boards["evaluator"].models == ("large", "larger", "SmolLM2", "SmolLM2, DPO to ideal")
    assert boards["evaluator"].same_prompts and len(boards["evaluator"].prompts) == kept
    assert list(boards) == ["evaluator"] and not left_out


def test_a_model_with_other_prompts_spoils_no_board(tmp_path):
    drop(tmp_path, "stranger", ["x", "y", *(f"p{k}" for k in range(9))])
    boards, _ = collect(tmp_path, 50)
    assert boards["evaluator"].models == ("large", "larger", "stranger") and not boards["evaluator"].same_prompts
    assert boards["evaluator"].n_answered.tolist() == [50, 50, 11]
    drop(tmp_path, "SmolLM2", [f"p{k}" for k in range(60)])
    drop(tmp_path, "large", ["p1"])
    boards, left_out = collect(tmp_path, 50)
    assert boards["evaluator"].models == ("large", "larger", "SmolLM2") and boards["evaluator"].same_prompts
    assert boards["evaluator, other prompts"].models == ("large", "larger", "stranger")
    assert left_out == ["large: a model of this name stands already among the run's; rename the file."]


def test_an_added_model_that_shares_far_fewer_prompts_than_another_is_named(tmp_path):
    drop(tmp_path, "many", [f"p{k}" for k in range(60)])
    drop(tmp_path, "some", [f"p{k}" for k in range(12)])
    boards, left_out = collect(tmp_path, 50)
    assert boards["evaluator"].models == ("large", "larger", "many")
    assert boards["evaluator, other prompts"].models == ("large", "larger", "some")
    assert left_out == ["some beside the run's models: it answered 12 of their prompts, another one 60."]


def test_an_added_model_of_few_prompts_is_named_for_want_of_intervals(tmp_path):
    drop(tmp_path, "tiny", ["p1", "p2"])
    assert collect(tmp_path, 50)[1] == ["intervals of tiny: it answered 2 prompts, fewer than 5."]


def test_draws_of_an_added_models_own_prompt_are_one_cluster(tmp_path):
    drop(tmp_path, "stranger", [f"own {k}" for k in range(6)] * 20)
    boards, _ = collect(tmp_path, 50)
    scores, = boards.values()
    is_own = np.array([prompt.startswith("own ") for prompt in scores.prompts])
    assert is_own.any() and len(np.unique(scores.clusters[is_own])) == 6
    assert set(scores.clusters[is_own]).isdisjoint(scores.clusters[~is_own])


def test_several_models_in_one_file_stand_each_for_itself(tmp_path):
    rows = pd.DataFrame({"prompt": ["p", "p", "q"], "response": list("abc"), "response_source": ["gpt", "llama", None]})
    rows.to_parquet(tmp_path / "both.parquet")
    drop(tmp_path, "one", ["p"])
    table, problems = read_models(tmp_path, "valuelex")
    assert table.model.tolist() == ["both: gpt", "both: llama", "both: without a name", "one"]
    assert problems == ["both.parquet holds replies of 2 models; each stands for itself."]


def test_without_added_models_the_boards_hold_the_runs(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        boards, left_out = collect(folder, 50)
        assert boards["evaluator"].models == ("large", "larger") and len(boards["evaluator"].prompts) == 50
        assert not left_out


def test_notebook_06_leaves_imitation_out_and_says_where_no_interval_is():
    names = ["t, evaluator", "t, released scores", "t, other"]
    pairs = pd.DataFrame([(a, b, 0.5, np.nan if "t, other" in (a, b) else 0.1, 0.9) for a in names for b in names],
                         columns=["first", "second", "r", "low", "high"])
    boards, said = [SimpleNamespace(name=name) for name in names], []
    for table in (pairs, pairs[(pairs[["first", "second"]] != "t, other").all(axis=1)]):
        run_cell("06_value_compass", "taught_by = ", pairs=table, boards=boards, names=names[:1], Markdown=said.append)
    assert "t, evaluator and t, released scores" not in said[0] and said[0].count("no interval") == 2
    assert said[1] == "There are no two boards to compare of which none taught the other."
