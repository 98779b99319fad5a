"""Tables that the Value Compass site released: scores of models on ten values, and how well these match countries.

Choices: the older tables and those of 2025 stand on different scales and never on one board; each is brought to
[-1, 1], which keeps every order. They have no licence: ranks and statistics alone may leave a run.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sps

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.sources import SourceError, get_files
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.stats.resampling import bootstrap_means, mean_known, take_interval
from fulcra_utils.systems.compass.boards import LEADING, TRAILING, WAYS
from fulcra_utils.systems.compass.countries import Countries, centre_profiles, load_countries, match_countries
from fulcra_utils.systems.compass.scores import Board, CompassError, average_draws, make_board, rank_descending
from fulcra_utils.theory.theory import Theory, lift_to, normalise

SITES = {"valuecompass_older": ((-1, 1), "countries.yaml"), "valuecompass_2025": ((0, 100), "countries_2025.yaml")}
CODES = {"FR": "France", "UK": "United Kingdom", "US": "United States", "CN": "China", "SG": "Singapore",
         "ID": "Indonesia", "RU": "Russia"}


@dataclass(frozen=True)
class Site:
    """One release: its board, the released ρ of models (rows) with countries (columns), and the countries' rankings."""

    board: Board
    matches: pd.DataFrame
    countries: Countries


def open_sites(names: Sequence[str]) -> tuple[dict[str, Site], list[str]]:
    """Read releases by the names of their sets in data/sources.yaml, and say in one line each which is left out."""
    if unknown := sorted(set(names) - set(SITES)):
        raise CompassError(f"site_tables: {unknown[0]!r} is none of {', '.join(SITES)}")
    sites, left_out = {}, []
    for name in names:
        try:
            sites[name] = read_site(*get_files(f"{name}_schwartz_scores", f"{name}_value_sim_heatmap"), name)
        except (SourceError, DatasetError) as error:
            left_out.append(str(error))
    return sites, left_out


def read_site(scores: str | Path, matches: str | Path, name: str) -> Site:
    """Read a release from its files Schwartz_scores.json and value_sim_heatmap.json; `name` is one of `SITES`.

    DatasetError with the file, and the model where one cannot be used.
    """
    (low, high), file = SITES[name]
    countries, how = load_countries(DATA / file), name.replace("valuecompass_", "Value Compass site, ")
    names = list(countries.theory.dimensions)
    table = _read(scores, lambda raw: pd.DataFrame(raw["data"]).rename(columns=normalise).set_index("model")[names]
                  .astype(float))
    is_odd = ~((table >= low) & (table <= high)).all(axis=1) | table.index.duplicated()
    if is_odd.any():
        raise DatasetError(f"{scores}: model {table.index[is_odd][0]!r} stands twice, or lacks a value between {low} "
                           f"and {high}")
    rows = (2 * (table - low) / (high - low) - 1).reset_index().assign(prompt="", response="(not released)")
    board = make_board(f"{countries.theory.name}, {how}", countries.theory, rows, WAYS[how])
    # which prompts a model answered is not released: nothing to draw again
    board = replace(board, scores=replace(board.scores, same_prompts=False))
    found = _read(matches, lambda raw: pd.DataFrame(raw["cosine_sim_matrix"], raw["models"], raw["countries"], float))
    return Site(board, found.rename(columns=CODES), countries)


def _read(path: str | Path, parse: Callable[[Any], pd.DataFrame]) -> pd.DataFrame:
    try:
        return parse(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: no table of the Value Compass site: {error}") from None


def compare_matches(site: Site) -> pd.DataFrame:
    """Compare our ρ of models and countries with the released ones, a row a country.

    country, mean_rho, mean_released, n_models, n_equal (to three decimals), largest_difference. The released file
    calls it cosine; it is Spearman's ρ.
    """
    ours = match_countries(site.board, site.countries).pivot(index="model", columns="country", values="rho")
    released = site.matches.reindex(index=ours.index, columns=ours.columns)
    gap = (ours - released).abs()
    return pd.DataFrame({"mean_rho": ours.mean(), "mean_released": released.mean(), "n_models": gap.notna().sum(),
                         "n_equal": (gap < 5e-4).sum(), "largest_difference": gap.max()})\
        .reindex([title for title in site.countries.titles if title in ours]).reset_index()


def compare_orders(boards: Sequence[Board], theory: Theory, n_draws: int = 1000,
                   seed: int = 2023) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare boards by the order of their values: place of each value (1 = strongest) on each board, and pairs.

    A board's order is that of the mean over its models. Pairs hold first, second, r (Spearman's ρ), low and high; for
    these its `n_draws` draws of prompts are taken, or models are drawn on a board without; nan where some models alone
    were drawn. Boards under a theory that is neither `theory` nor refined from it are left out.
    """
    places, ranks = {}, {}
    for board in boards:
        if (models := lift_to(board.scores.means, board.theory, theory)) is not None:
            drawn = lift_to(board.draws, board.theory, theory)
            mean, draws = mean_known(models, 0), average_draws(drawn, np.isfinite(models))
            if np.isnan(drawn).all():
                draws = bootstrap_means(models, np.arange(len(models)), n_draws, seed)
            places[board.name] = rank_descending(mean)
            ranks[board.name] = centre_profiles(sps.rankdata(np.vstack([mean, draws]), axis=1))   # (1 + B, D)
    rows = []
    for first, second in product(ranks, ranks):
        r = (ranks[first] * ranks[second]).sum(axis=1)
        rows.append((first, second, r[0], *take_interval(r[1:])))
    return (pd.DataFrame(places, list(theory.dimensions)),
            pd.DataFrame(rows, columns=["first", "second", "r", "low", "high"]))


def claim_sites(sites: Mapping[str, Site], reported: pd.DataFrame) -> pd.DataFrame:
    """Return our numbers for the claims on the site's tables; nan where a release could not be had."""
    ours = {}
    for name, site in sites.items():
        age, order = name.removeprefix("valuecompass_"), np.argsort(-mean_known(site.board.scores.means, 0))
        order = [site.board.theory.dimensions[k] for k in order]
        for kind, found in (("lead", order[:LEADING]), ("trail", order[-TRAILING:])):
            ours[f"site/{age}/{kind}"] = reported.claim_id.isin([f"compass/{kind}/{d}" for d in found]).sum()
        ours |= {f"site/{age}/match/{row.country}": row.largest_difference
                 for row in compare_matches(site).itertuples()}
    ids = reported.claim_id[reported.claim_id.str.startswith("site/")]
    why = np.where(ids.str.startswith("site/2025/match") & ids.isin(list(ours)),
                   "same rows; the rankings are approximate, fitted to this file", "")
    return pd.DataFrame({"claim_id": ids, "ours": ids.map(ours), "low": np.nan, "high": np.nan, "why": why})
