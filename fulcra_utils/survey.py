"""Targets from a survey of people: portrait values answered by respondents, as country means with intervals.

No survey data stands in this project; the reader brings a file (the European Social Survey's, say) and the key in
data/surveys says which question belongs to which value.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict

from fulcra_utils.targets import Target
from fulcra_utils.theory import ROOT, Theory, load_theory

SURVEYS = ROOT / "data" / "surveys"


class SurveyError(ValueError):
    """A survey file or its key cannot be used; the message is one sentence."""


class Questionnaire(BaseModel):
    """A questionnaire's key: columns of its questions and the value that each belongs to."""

    model_config = ConfigDict(extra="forbid")
    name: str
    title: str
    theory: str
    source: str
    scale: tuple[int, int]
    reverse: bool
    max_missing: int
    country: str
    weight: str
    columns: list[str]
    key: dict[str, list[int]]


def load_questionnaire(name: str | Path = "pvq21") -> Questionnaire:
    """Load the key of a questionnaire by name (in data/surveys) or path.

    Raises
    ------
    SurveyError
        No such key, or one that does not use every question once.

    Source: the questionnaire's published key, named in its file.

    Examples
    --------
    >>> key = load_questionnaire()
    >>> len(key.columns), key.key["universalism"]
    (21, [3, 8, 19])
    """
    path = SURVEYS / f"{name}.yaml"
    path = path if path.is_file() else Path(name)
    if not path.is_file():
        raise SurveyError(f"no questionnaire {str(name)!r}; known are "
                          f"{', '.join(sorted(p.stem for p in SURVEYS.glob('*.yaml')))}.")
    try:
        key = Questionnaire.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise SurveyError(f"{path}: not a questionnaire's key: {str(error).splitlines()[0]}.") from None
    if sorted(i for items in key.key.values() for i in items) != list(range(1, len(key.columns) + 1)):
        raise SurveyError(f"{path}: every one of the {len(key.columns)} questions must belong to exactly one value.")
    return key


def score_respondents(
    rows: pd.DataFrame, theory: Theory | str, questionnaire: Questionnaire | None = None, centred: bool = False
) -> pd.DataFrame:
    """Score each respondent on each value.

    Parameters
    ----------
    rows : DataFrame
        One row for each respondent, with the questionnaire's columns; a code outside the scale is a missing answer.
    theory : Theory or str
        The questionnaire's theory.
    questionnaire : Questionnaire, optional
        None takes the 21 portrait values.
    centred : bool
        Subtract the respondent's mean over all answers: for comparing means and for correlations. Uncentred scores are
        for reliabilities and as targets.

    Returns
    -------
    DataFrame
        One column for each dimension and the index of `rows`: the mean answer, turned so that more is more important,
        minus the middle of the scale, divided by half its width, so within [-1, 1] when not centred. nan for a value
        without an answer and for a respondent with too many missing answers.

    Raises
    ------
    SurveyError
        Missing columns, or another theory.

    Source: facts of the released country targets, t = (reverse-coded mean - 3.5) / 2.5; centring after Schwartz.

    Examples
    --------
    >>> key = load_questionnaire()
    >>> rows = pd.DataFrame([dict.fromkeys(key.columns, 2)])
    >>> score_respondents(rows, "schwartz10").iloc[0].unique().tolist()
    [0.6]
    """
    questionnaire, theory = questionnaire or load_questionnaire(), load_theory(theory)
    _check_survey(rows, theory, questionnaire)
    low, high = questionnaire.scale
    answers = rows[questionnaire.columns].apply(pd.to_numeric, errors="coerce")
    answers = answers.where((answers >= low) & (answers <= high))
    answers = (low + high - answers) if questionnaire.reverse else answers
    answers[answers.isna().sum(axis=1) > questionnaire.max_missing] = np.nan
    middle = answers.mean(axis=1) if centred else (low + high) / 2
    columns = {d: answers[[questionnaire.columns[i - 1] for i in questionnaire.key[d]]].mean(axis=1)
               for d in theory.dimensions}
    return pd.DataFrame(columns).sub(middle, axis=0) / ((high - low) / 2)


def average_countries(
    rows: pd.DataFrame, theory: Theory | str, questionnaire: Questionnaire | None = None, centred: bool = False,
    weighted: bool = True,
) -> pd.DataFrame:
    """Average respondents by country, with survey weights and intervals.

    Parameters
    ----------
    rows : DataFrame
        As in `score_respondents`, with the country column and, when weighted, the weight column.
    theory, questionnaire, centred
        As in `score_respondents`.
    weighted : bool
        Use the survey weights.

    Returns
    -------
    DataFrame
        country, dimension, value, low, high (95 %, linearised, for weights treated as fixed), n, n_effective.

    Raises
    ------
    SurveyError
        As `score_respondents`; a weight that is negative or missing.

    Source: ours; weighted mean and its linearised variance (Horvitz and Thompson; Kish for n_effective).

    Examples
    --------
    >>> key = load_questionnaire()
    >>> rows = pd.DataFrame([dict.fromkeys(key.columns, answer) | {"cntry": "GB", "pspwght": weight}
    ...                      for answer, weight in [(1, 3), (6, 1)]])
    >>> average_countries(rows, "schwartz10").value.round(3).unique().tolist()
    [0.5]
    """
    questionnaire = questionnaire or load_questionnaire()
    scores = score_respondents(rows, theory, questionnaire, centred)
    for column in [questionnaire.country, *([questionnaire.weight] if weighted else [])]:
        if column not in rows:
            raise SurveyError(f"the survey rows have no column {column!r}.")
    weights = rows[questionnaire.weight].astype(float) if weighted else pd.Series(1.0, index=rows.index)
    if not (weights >= 0).all():
        raise SurveyError(f"a weight in column {questionnaire.weight!r} is negative or missing.")
    parts = [_average(scores.loc[index, d], weights.loc[index], country, d)
             for country, index in rows.groupby(questionnaire.country, sort=True).groups.items() for d in scores]
    return pd.DataFrame(parts)


def build_target(averages: pd.DataFrame, country: str, theory: Theory | str) -> Target:
    """Make a target of a country's means: a population's target, not one reply's.

    Parameters
    ----------
    averages : DataFrame
        From `average_countries`, not centred.
    country : str
    theory : Theory or str

    Returns
    -------
    Target
        Weights are the absolute means, as for the released country targets; `save_target` writes it.

    Raises
    ------
    SurveyError
        Unknown country, or a value without an answer.

    Source: released country targets.

    Examples
    --------
    >>> averages = pd.DataFrame({"country": "GB", "dimension": load_theory("schwartz10").dimensions, "value": 0.25})
    >>> build_target(averages, "GB", "schwartz10").weights[0].item()
    0.25
    """
    theory = load_theory(theory)
    part = averages[averages["country"] == country].set_index("dimension").reindex(theory.dimensions)
    values = part["value"].to_numpy(dtype=float)
    if not np.isfinite(values).all():
        raise SurveyError(f"country {country!r} has no mean for every value; known countries are "
                          f"{', '.join(map(str, averages['country'].unique()))}.")
    return Target(country.casefold(), f"{country}, a population mean", "survey rows of the reader", theory.dimensions,
                  values, values, np.abs(values))


def _check_survey(rows: pd.DataFrame, theory: Theory, questionnaire: Questionnaire) -> None:
    if theory.name != questionnaire.theory or set(theory.dimensions) != set(questionnaire.key):
        raise SurveyError(f"questionnaire {questionnaire.name} is made for theory {questionnaire.theory!r}, not for "
                          f"{theory.name!r}.")
    if missing := [c for c in questionnaire.columns if c not in rows]:
        raise SurveyError(f"the survey rows have no column {missing[0]!r} ({len(missing)} of "
                          f"{len(questionnaire.columns)} questions are missing).")


def _average(scores: pd.Series, weights: pd.Series, country: str, dimension: str) -> dict[str, object]:
    known = scores.notna() & (weights > 0)
    values, weights = scores[known].to_numpy(), weights[known].to_numpy()
    if not len(values):
        return {"country": country, "dimension": dimension, "value": np.nan, "low": np.nan, "high": np.nan, "n": 0,
                "n_effective": 0.0}
    total, mean = weights.sum(), float(np.average(values, weights=weights))
    n = len(values)
    variance = np.sum((weights * (values - mean)) ** 2) / total**2 * n / max(1, n - 1)
    half = 1.96 * np.sqrt(variance) if n > 1 else np.nan
    return {"country": country, "dimension": dimension, "value": mean, "low": mean - half, "high": mean + half, "n": n,
            "n_effective": total**2 / np.sum(weights**2)}
