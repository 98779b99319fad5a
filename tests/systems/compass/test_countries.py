"""Countries beside models: rankings are matched as SciPy does, and profiles keep their distances on a map."""

import numpy as np
import pytest
from hand_boards import TWO, board
from scipy import stats as sps

from fulcra_utils.systems.compass.countries import (
    compare_regions,
    load_countries,
    map_board,
    map_profiles,
    match_rankings,
)
from fulcra_utils.systems.compass.scores import CompassError


def test_a_country_matches_itself():
    countries = load_countries()
    ranked = np.isfinite(countries.ranks).all(axis=1)
    rho = match_rankings(-countries.ranks[ranked], countries.ranks[ranked])
    assert np.allclose(np.diag(rho), 1) and (rho <= 1).all()
    france = countries.titles == "France"
    vector = match_rankings(countries.vectors[france], countries.ranks[france])
    assert vector.item() == 1, "the population vector of France has the published ranking of France"


def test_spearman_agrees_with_scipy_also_with_ties():
    values = np.random.default_rng(0).integers(0, 4, (30, 10)).astype(float)
    ranks = np.arange(1.0, 11)[None]
    expected = [sps.spearmanr(row, -ranks[0]).statistic for row in values]
    assert np.allclose(match_rankings(values, ranks)[:, 0], expected)
    assert np.isnan(match_rankings(np.ones((1, 10)), ranks)).all(), "a flat profile has no ranking"


def test_country_file_with_a_faulty_ranking_is_named(tmp_path):
    path = tmp_path / "countries.yaml"
    path.write_text("theory: moral_foundations\ncountries: [{name: x, title: X, region: R, ranking: [care, care]}]")
    with pytest.raises(CompassError, match="the ranking of x does not name every value"):
        load_countries(path)


def test_maps_keep_plane_distances_and_survive_few_models():
    plane = np.random.default_rng(0).normal(size=(12, 2))
    mapped = map_profiles(plane)
    near = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (plane, mapped)]
    assert np.allclose(*near, atol=1e-6)
    for k in range(7):
        assert np.isfinite(map_profiles(plane[:k], "t-SNE")).all()
    assert np.isfinite(map_profiles(np.zeros((6, 3)), "t-SNE")).all()


def test_a_model_that_ranks_as_one_region_is_nearer_to_it():
    countries = load_countries()
    made = board({"m": np.repeat(-countries.ranks[:1], 5, axis=0)}, "schwartz10")
    assert [round(number, 2) for number in compare_regions(made, countries)] == [0.44] * 3
    assert compare_regions(board(TWO), countries) is None


def test_models_and_countries_share_a_map():
    countries = load_countries()
    assert map_board(board({"m": countries.vectors[:1]}, "schwartz10"), countries)[1] == [
        "m", "France", "United Kingdom", "Netherlands"]
    maps, labels = map_board(board(TWO), countries)
    assert list(maps) == ["MDS", "t-SNE"] and labels == ["a", "b"] and maps["MDS"].shape == (2, 2)
