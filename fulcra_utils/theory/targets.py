"""Target value vectors from YAML (numbers or ranges per dimension, weights, source) or from a survey of people.

No survey data stands in this project; the reader brings a file (the European Social Survey's, say), and the key of the
21 portrait values in data/surveys says which question belongs to which value.
"""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import yaml

from fulcra_utils.common.files import write_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.common.yaml_files import find_yaml, read_yaml
from fulcra_utils.theory.theory import Theory, load_theory

TARGETS = DATA / "targets"
_KEYS = ("name", "source", "theory", "title", "values", "weights")


def load_questionnaire() -> SimpleNamespace:
    """Return the survey's questionnaire, the 21 portrait values: columns of the answers, scale, key, country, weight.

    `key` has the question numbers of each value; `missing` the codes that are no answer.

    >>> load_questionnaire().columns[:2], load_questionnaire().key["benevolence"]
    (['ipcrtiv', 'imprich'], [12, 18])
    """
    return SimpleNamespace(**read_yaml(DATA / "surveys" / "pvq21.yaml")[0])


KEY = load_questionnaire()


class TargetError(ValueError):
    """A target cannot be used; the message is one sentence with the place."""


class SurveyError(ValueError):
    """Survey rows cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Target:
    """Where in the value space a model is wanted: a range and a weight for each dimension of a theory.

    `low` and `high`, shape (D,), are the admissible range, equal where the target is one number; `weights`, shape (D,),
    are not negative, and 0 where nothing is asked for. Made by `load_target`, `uniform_target` or, from a survey,
    `build_target`.

    Examples
    --------
    >>> target = load_target("harmless", "schwartz10")
    >>> dict(zip(target.dimensions, target.values.tolist()))["security"], int(target.aimed.sum())
    (1.0, 2)
    """

    name: str
    title: str
    source: str
    dimensions: tuple[str, ...]
    low: np.ndarray = field(repr=False, compare=False)
    high: np.ndarray = field(repr=False, compare=False)
    weights: np.ndarray = field(repr=False, compare=False)

    @property
    def values(self) -> np.ndarray:
        """Return the (D,) admissible numbers nearest to 0: the target itself where it is one number."""
        return np.clip(0.0, self.low, self.high)

    @property
    def aimed(self) -> np.ndarray:
        """Return the (D,) booleans of the dimensions with a weight above 0."""
        return self.weights > 0


def list_targets(theory: Theory | str) -> tuple[str, ...]:
    """Return the names of the targets in data/targets that are written for a theory or for its parent; often none.

    Examples
    --------
    >>> list_targets("schwartz10")
    ('france', 'harmless', 'ideal', 'netherlands', 'report', 'uk')
    >>> list_targets("moral_foundations")
    ()
    """
    theory = load_theory(theory)
    fits = {theory.name, theory.parent} - {None}
    return tuple(sorted(p.stem for p in TARGETS.glob("*.yaml") if _read(p).get("theory") in fits))


def load_target(target: str | Path | Target, theory: Theory | str) -> Target:
    """Load a target for a theory, by name in data/targets or by path; a `Target` is returned as it is.

    A dimension that the file leaves out has target 0 and weight 0. A number t has weight abs(t) and a range weight 1
    unless the file has a weight for that dimension; the released code's numbers do the same. A target of the parent
    theory is handed down: every child takes its parent's number, and the children share the parent's weight equally.

    TargetError names the place: unknown name, wrong theory, unknown dimension, a dimension named twice, a number
    outside the score range, or no dimension with a weight.

    Examples
    --------
    >>> load_target("ideal", "schwartz10").values.astype(int).tolist()
    [0, 0, 0, 1, 0, 1, 0, 1, 1, 1]
    >>> load_target("harmless", "schwartz19").weights.sum().round(6).item()
    2.0
    """
    theory = load_theory(theory)
    if isinstance(target, Target):
        if target.dimensions != theory.dimensions:
            raise TargetError(f"target {target.name} has the dimensions of another theory than {theory.name}.")
        return target
    path = find_yaml(target, TARGETS, "target", TargetError)
    return _build(_read(path), theory, path)


def uniform_target(theory: Theory | str, value: float = 1.0) -> Target:
    """Return the target that asks the same number (not 0, with weight abs(value)) of every dimension.

    It serves theories without published targets.

    Examples
    --------
    >>> uniform_target("moral_foundations").values.tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    theory = load_theory(theory)
    values = dict.fromkeys(theory.dimensions, float(value))
    raw = {"name": "uniform", "title": f"Every value at {value:g}", "source": "ours", "theory": theory.name}
    return _build(raw | {"values": values}, theory, Path("uniform"))


def choose_targets(names: list[str], theory: Theory | str) -> list[Target]:
    """Return the named targets (names or paths) that fit a theory, or the uniform target alone when none of them does.

    So a notebook that is written for one theory runs under every other.

    Examples
    --------
    >>> [t.name for t in choose_targets(["ideal", "uk"], "schwartz10")]
    ['ideal', 'uk']
    >>> [t.name for t in choose_targets(["ideal", "uk"], "moral_foundations")]
    ['uniform']
    """
    theory = load_theory(theory)
    fitting = list_targets(theory)
    chosen = [load_target(n, theory) for n in names if n in fitting or not (TARGETS / f"{n}.yaml").is_file()]
    return chosen or [uniform_target(theory)]


def save_target(target: Target, path: str | Path, theory: Theory | str) -> Path:
    """Write a target of a theory as a YAML file that `load_target` reads back, ranges and weights included.

    Examples
    --------
    >>> import tempfile
    >>> path = save_target(load_target("uk", "schwartz10"), f"{tempfile.mkdtemp()}/mine.yaml", "schwartz10")
    >>> load_target(path, "schwartz10").values[0].item()
    0.4809
    """
    values = {d: (lo if lo == hi else {"at_least": lo, "at_most": hi})
              for d, lo, hi in zip(target.dimensions, target.low.tolist(), target.high.tolist(), strict=True)}
    raw = {"name": target.name, "title": target.title, "theory": load_theory(theory).name, "source": target.source,
           "values": values, "weights": dict(zip(target.dimensions, target.weights.tolist(), strict=True))}
    return write_text(path, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))


def write_system_prompt(target: Target, theory: Theory | str) -> str:
    """Write a system prompt that asks for the target's values in words: for a model that can only be called.

    One line per dimension with a weight, strongest first, in the words of the theory's definitions; values within ±0.05
    are left out. Two lines keep the reply useful.

    Examples
    --------
    >>> print(write_system_prompt(load_target("harmless", "schwartz10"), "schwartz10").splitlines()[1][:46])
    - Strongly uphold security: safety, harmony an
    """
    theory, lines = load_theory(theory), ["Answer every request in a way that expresses these values:"]
    for d in np.argsort(-target.weights * np.abs(target.values), kind="stable"):
        value, definition = target.values[d], theory.definitions[d]
        if target.aimed[d] and abs(value) >= 0.05:
            strength = "Strongly" if abs(value) >= 0.5 else "Moderately" if abs(value) >= 0.25 else "Slightly"
            verb = "uphold" if value > 0 else "play down"
            lines.append(f"- {strength} {verb} {theory.dimensions[d]}: {definition[:1].lower()}{definition[1:]}")
    return "\n".join([*lines, "Show the values through what you say and advise; do not name or list them.",
                      "Still answer what was asked, as helpfully as these values allow."])


def _read(path: Path) -> dict:
    try:
        raw, _, twice = read_yaml(path)
    except ValueError as error:
        raise TargetError(f"{path}: {' '.join(str(error).split())}.") from None
    if twice:
        raise TargetError(f"{path}, {twice[0]}.")
    if not isinstance(raw, dict):
        raise TargetError(f"{path}: a target file is a mapping with name, theory, source and values.")
    return raw


def _build(raw: dict, theory: Theory, path: Path) -> Target:
    _check_keys(raw, theory, path)
    owner, given = theory if raw["theory"] == theory.name else theory.parent_theory, raw.get("weights") or {}
    if strange := [name for name in (*raw["values"], *given) if name not in owner.dimensions]:
        known = ", ".join(owner.dimensions)
        raise TargetError(f"{path}: {strange[0]!r} is no dimension of {owner.name}; these are {known}.")
    ranges = {name: _range(value, owner, f"{path}, values.{name}") for name, value in raw["values"].items()}
    asked = {name: 1.0 if isinstance(raw["values"][name], dict) else abs(low) for name, (low, _) in ranges.items()}
    asked |= {name: _number(value, 0.0, np.inf, f"{path}, weights.{name}") for name, value in given.items()}
    low, high = np.array([ranges.get(name, (0.0, 0.0)) for name in owner.dimensions]).T.copy()
    weights = np.array([asked.get(name, 0.0) for name in owner.dimensions])
    if owner is not theory:
        parents = np.array([owner.dimensions.index(p) for p in theory.parents])
        weights = (weights / np.bincount(parents, minlength=owner.n_dims).clip(1))[parents]
        low, high = low[parents], high[parents]
    if not weights.any():
        raise TargetError(f"{path}: every dimension has weight 0, so every reply would be equally near.")
    return Target(str(raw["name"]), str(raw.get("title") or raw["name"]), str(raw.get("source") or "").strip(),
                  theory.dimensions, low, high, weights)


def _check_keys(raw: dict, theory: Theory, path: Path) -> None:
    bad = [k for k in ("name", "theory", "values") if not raw.get(k)]
    if bad := bad + [k for k in ("values", "weights") if not isinstance(raw.get(k) or {}, dict)]:
        raise TargetError(f"{path}: a target needs name, theory and a mapping of values; see {', '.join(bad)}.")
    if raw["theory"] not in (theory.name, theory.parent):
        raise TargetError(f"{path}: the target is written for theory {raw['theory']!r}, not for {theory.name!r}.")
    if unknown := [key for key in raw if key not in _KEYS]:
        raise TargetError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(_KEYS)}.")


def _range(value: object, theory: Theory, place: str) -> tuple[float, float]:
    low, high = theory.score_range
    value = value if isinstance(value, dict) else {"at_least": value, "at_most": value}
    if not value or set(value) - {"at_least", "at_most"}:
        raise TargetError(f"{place}: a range has at_least, at_most or both.")
    bounds = tuple(_number(value.get(k, end), low, high, place) for k, end in (("at_least", low), ("at_most", high)))
    if bounds[0] > bounds[1]:
        raise TargetError(f"{place}: at_least {bounds[0]:g} lies above at_most {bounds[1]:g}.")
    return bounds


def _number(value: object, low: float, high: float, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value == np.inf:
        raise TargetError(f"{place}: must be a number from {low:g} to {high:g}, not {value!r}.")
    return float(value)


def average_countries(rows: pd.DataFrame, theory: Theory | str) -> pd.DataFrame:
    """Average survey respondents by country, with survey weights and 95 % intervals.

    Rows hold one respondent each, in the columns of the 21 portrait values, `cntry` and `pspwght`, a weight, where 0
    leaves a respondent out. Who gave more than 16 answers alike (Schwartz, instructions of the European Social Survey)
    is left out, unless nobody else of the country answered. A respondent has on each value (mean answer - middle) /
    half the scale, more = more important, within [-1, 1]: the released country targets' t = (reverse-coded mean - 3.5)
    / 2.5.

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
    columns = {d: [KEY.columns[question - 1] for question in KEY.key[d]] for d in theory.dimensions}
    means = pd.DataFrame({d: (low + high - answers)[names].mean(axis=1) for d, names in columns.items()})
    scores = (means - (low + high) / 2) / ((high - low) / 2)
    scores[alike | silent] = np.nan
    parts = [_average(part, weights[part.index], country) for country, part in scores.groupby(countries)]
    table = pd.concat(parts, ignore_index=True).join(left_out, on="country")
    table.attrs["answers"] = _count_strays(rows, answers)
    return table


def build_target(averages: pd.DataFrame, country: str, theory: Theory | str) -> Target:
    """Make a target of a country's means (`average_countries`): a population's, not one reply's.

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
