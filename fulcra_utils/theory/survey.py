"""Targets from a survey of people: portrait values answered by respondents, as country means with intervals.

No survey data stands in this project; the reader brings a file (the European Social Survey's, say) and the key of the
21 portrait values in data/surveys says which question belongs to which value.
"""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd

from fulcra_utils.common.paths import DATA
from fulcra_utils.common.yaml_files import read_yaml
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory, load_theory

KEY = SimpleNamespace(**read_yaml(DATA / "surveys" / "pvq21.yaml")[0])  # of the questionnaire


class SurveyError(ValueError):
    """Survey rows cannot be used; the message is one sentence."""


def average_countries(rows: pd.DataFrame, theory: Theory | str) -> pd.DataFrame:
    """Average survey respondents by country, with survey weights and 95 % intervals.

    Rows hold one respondent each, in the columns of the 21 portrait values, `cntry` and `pspwght`, a weight, where 0
    leaves a respondent out. Who gave more than 16 answers alike (Schwartz, instructions of the European Social Survey)
    is left out, unless nobody else of the country answered. A respondent
    has on each value (mean answer - middle) / half the scale, more = more important, within [-1, 1]: the released
    country targets' t = (reverse-coded mean - 3.5) / 2.5.

    The table has country, dimension, value, low, high, n, n_effective (Kish), and how many of the country are left out:
    n_alike, n_missing (too few answers). Intervals are linearised (Horvitz and Thompson) for weights treated as fixed;
    nan below 10 effective respondents. `.attrs["answers"]` counts every answer off the scale: country, question,
    answer, n, is_code; those that are no code are named in a warning. SurveyError for missing columns, another theory,
    a weight that is no number from 0 up, a row without country.

    Examples
    --------
    >>> rows = pd.DataFrame([dict.fromkeys(KEY.columns, answer) | {"cntry": "GB", "pspwght": weight}
    ...                      for answer, weight in [(1, 3), (6, 1)]])
    >>> average_countries(rows, "schwartz10").value.round(3).unique().tolist()
    [0.5]
    """
    theory, rows = load_theory(theory), rows.reset_index(drop=True)
    _check_survey(rows, theory)
    (low, high), countries = KEY.scale, rows[KEY.country].astype(object)
    answers = rows[KEY.columns].astype(object).apply(pd.to_numeric, errors="coerce").astype(float)
    answers = answers.where(answers.isin(range(low, high + 1)))  # nan for all that is no code of the scale
    weights = _read_weights(rows[KEY.weight])
    silent = answers.isna().sum(axis=1) > KEY.max_missing
    most = np.max([(answers == code).sum(axis=1) for code in range(low, high + 1)], axis=0)
    alike = ~silent & (most > KEY.max_alike)
    alike &= ~(alike | silent).groupby(countries).transform("all")
    left_out = pd.DataFrame({"n_alike": alike, "n_missing": silent}).groupby(countries).sum()
    scores = _score(answers, theory)
    scores[alike | silent] = np.nan
    parts = [_average(part, weights[part.index], country) for country, part in scores.groupby(countries)]
    table = pd.concat(parts, ignore_index=True).join(left_out, on="country")
    table.attrs["answers"] = _count_strays(rows, answers)
    return table


def build_target(averages: pd.DataFrame, country: str, theory: Theory | str) -> Target:
    """Make a target of a country's means (`average_countries`, not centred): a population's, not one reply's.

    Weights are the absolute means, as for the released country targets; `save_target` writes it. SurveyError for an
    unknown country, or a value without an answer.

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
    return Target(str(country).casefold(), f"{country}, a population mean", "survey rows of the reader",
                  theory.dimensions, values, values, np.abs(values))


def _check_survey(rows: pd.DataFrame, theory: Theory) -> None:
    if theory.name != KEY.theory or set(theory.dimensions) != set(KEY.key):
        raise SurveyError(f"questionnaire {KEY.name} is made for theory {KEY.theory!r}, not for {theory.name!r}.")
    for column in (*KEY.columns, KEY.country, KEY.weight):
        if (n := list(rows.columns).count(column)) != 1:
            raise SurveyError(f"the survey rows have {'two columns' if n else 'no column'} {column!r}.")
    if (n := rows[KEY.country].isna().sum()) or rows.empty:
        raise SurveyError(f"{n} of {len(rows)} rows have no country in column {KEY.country!r}.")


def _score(answers: pd.DataFrame, theory: Theory) -> pd.DataFrame:
    low, high = KEY.scale
    answers = (low + high - answers) if KEY.reverse else answers
    columns = {d: answers[[KEY.columns[i - 1] for i in KEY.key[d]]].mean(axis=1) for d in theory.dimensions}
    return (pd.DataFrame(columns) - (low + high) / 2) / ((high - low) / 2)


def _count_strays(rows: pd.DataFrame, answers: pd.DataFrame) -> list[dict]:
    """Return how often each country gave each answer off the scale to each question; warn of those without a code."""
    given = rows[KEY.columns].astype(object).fillna("").where(answers.isna())
    table = given.assign(country=rows[KEY.country].astype(object)).melt(
        "country", var_name="question", value_name="answer").dropna()
    table["is_code"] = pd.to_numeric(table.answer, errors="coerce").isin(KEY.missing) | (table.answer == "")
    strays = table.value_counts(sort=False).rename("n").reset_index().to_dict("records")
    if odd := [stray for stray in strays if not stray["is_code"]]:
        named = ", ".join(f"{s['country']} {s['question']} {s['answer']!r} ({s['n']})" for s in odd[:5])
        warnings.warn(f"{sum(s['n'] for s in odd)} answers are no code of {KEY.name} and count as missing: "
                      f"{named}{', …' if len(odd) > 5 else ''}", stacklevel=3)
    return strays


def _read_weights(column: pd.Series) -> pd.Series:
    weights = pd.to_numeric(column, errors="coerce").astype(float)
    if len(bad := column[~((weights >= 0) & (weights < np.inf))]):
        raise SurveyError(f"{len(bad)} weights in column {column.name!r} are negative or missing or no number (with a "
                          f"decimal point); the first is '{bad.iloc[0]}' in row {bad.index[0] + 1}.")
    return weights


def _average(scores: pd.DataFrame, weights: pd.Series, country: str) -> pd.DataFrame:
    """Return the mean of each dimension in one country, with its interval and how many stand behind it."""
    scores = scores[weights > 0]
    weights = scores.notna().mul(weights[weights > 0], axis=0)
    total, n = weights.sum(), scores.notna().sum()
    mean = (scores * weights).sum() / total
    variance = ((weights * (scores - mean)) ** 2).sum() / total**2 * n / (n - 1).clip(lower=1)
    n_effective = (total**2 / (weights**2).sum()).fillna(0.0)
    half = (1.96 * np.sqrt(variance)).where(n_effective >= 10)  # 1.96 standard errors are too few below
    return pd.DataFrame({"country": country, "dimension": scores.columns, "value": mean, "low": mean - half,
                         "high": mean + half, "n": n, "n_effective": n_effective})
