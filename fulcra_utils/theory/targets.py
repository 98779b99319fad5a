"""Target value vectors read from YAML: numbers or ranges per dimension, weights, source; and a system prompt."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from fulcra_utils.common.files import write_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.common.yaml_files import find_yaml, read_yaml
from fulcra_utils.theory.theory import Theory, load_theory

TARGETS = DATA / "targets"
_KEYS = ("name", "source", "theory", "title", "values", "weights")


class TargetError(ValueError):
    """A target cannot be used; the message is one sentence with the place."""


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
    return tuple(sorted(p.stem for p in TARGETS.glob("*.yaml") if _read(p)["theory"] in (theory.name, theory.parent)))


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
    numbers = np.full(theory.n_dims, float(value))
    return Target("uniform", f"Every value at {value:g}", "ours", theory.dimensions, numbers, numbers, np.abs(numbers))


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
