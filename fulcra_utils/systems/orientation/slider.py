"""The slider measure of social value orientation: items, angles, classes, ideal players."""

import itertools
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fulcra_utils.common.paths import DATA

UTILITIES = {  # what an ideal player wants most of, by the payoffs to oneself and to the other
    "altruist": lambda own, other: other, "minimal inequality": lambda own, other: -abs(own - other),
    "joint maximum": lambda own, other: own + other, "individualist": lambda own, other: own,
    "competitor": lambda own, other: own - other}


class OrientationError(ValueError):
    """A player, an option or an orientation cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Slider:
    """The slider measure: S items with K options each.

    `self_pay` and `other_pay` (S, K) are the payoffs to oneself and to the other; angles are measured from `centre`;
    `classes` are (name, lower edge, excluded, upper edge, included) in degrees; `orientations` describes each
    orientation in a sentence, and `rules` names the ideal players that have it.
    """

    self_pay: np.ndarray = field(repr=False)
    other_pay: np.ndarray = field(repr=False)
    centre: float
    classes: list[tuple[str, float, float]]
    orientations: dict[str, str]
    rules: dict[str, list[str]]


@cache
def load_slider() -> Slider:
    """Load the six published slider items from data/surveys/svo_slider.yaml (arXiv 2305.17147; Murphy et al., 2011).

    >>> load_slider().self_pay.shape, load_slider().other_pay[0, :3].tolist()
    ((6, 9), [85.0, 76.0, 68.0])
    """
    raw = yaml.safe_load((DATA / "surveys" / "svo_slider.yaml").read_text(encoding="utf-8"))
    return Slider(*(np.array([item[side] for item in raw["items"]], dtype=float) for side in ("self", "other")),
                  *(raw[name] for name in ("centre", "classes", "orientations", "rules")))


def svo_angle(self_pay: Any, other_pay: Any) -> float | np.ndarray:
    """Return the angle of social value orientation: atan2(mean(other) - 50, mean(self) - 50), degrees in (-180, 180].

    The payoffs of S choices to oneself and to the other person, (..., S), are averaged over the last axis; a plain
    number is taken as the mean already. nan where a choice is missing (nan), and where both means are 50, which has no
    direction; two shapes are an OrientationError. Source: arXiv 2305.17147; Murphy et al. (2011), equation 1, with
    atan2 so that a mean of 50 for oneself is 90.

    >>> round(svo_angle([85, 100, 50, 50, 50, 85], [85, 50, 100, 100, 100, 85]), 2)
    61.39
    >>> svo_angle(50, 80)
    90.0
    """
    own, other = np.asarray(self_pay, dtype=float), np.asarray(other_pay, dtype=float)
    if own.shape != other.shape:
        raise OrientationError(f"self_pay has shape {own.shape} but other_pay has shape {other.shape}.")
    x, y = ((pay.mean(axis=-1) if pay.ndim else pay) - load_slider().centre for pay in (own, other))
    angle = np.where((x == 0) & (y == 0), np.nan, np.degrees(np.arctan2(y, x)))
    return float(angle) if angle.ndim == 0 else angle


def classify_angle(angle: Any) -> str | None | np.ndarray:
    """Return the orientation class of an angle in degrees; None for nan and for an angle that no class holds.

    Edges belong to the class below them (arXiv 2305.17147); an array gives an array of names.

    >>> [classify_angle(a) for a in (61.39, 57.15, 0, -12.04, float("nan"))]
    ['altruistic', 'prosocial', 'individualistic', 'competitive', None]
    """
    values = np.asarray(angle, dtype=float)
    names = np.full(values.shape, None, dtype=object)
    for name, low, high in load_slider().classes:
        names[(values > low) & (values <= high)] = name
    return names.item() if names.ndim == 0 else names


def ideal_choices(rule: str) -> list[np.ndarray]:
    """Return, for each item, every option that an ideal player of `UTILITIES` may take (more than one on a tie).

    >>> [c.tolist() for c in ideal_choices("joint maximum")]
    [[0], [8], [8], [0], [2, 6], [8]]
    """
    slider = load_slider()
    return [np.flatnonzero(row == row.max()) for row in UTILITIES[rule](slider.self_pay, slider.other_pay)]


def ideal_angle(rule: str) -> tuple[float, float]:
    """Return the lowest and the highest angle that an ideal player can have; equal when no item is a tie."""
    angles = svo_angle(*take_payoffs(list(itertools.product(*ideal_choices(rule)))))
    return float(angles.min()), float(angles.max())


def tabulate_ideals() -> pd.DataFrame:
    """Return the angles of the ideal players, recomputed from the payoffs: rule, low, high, class (of both ends)."""
    rows = [(rule, low, high, classify_angle((low + high) / 2)) for rules in load_slider().rules.values()
            for rule in rules for low, high in [ideal_angle(rule)]]
    return pd.DataFrame(rows, columns=["rule", "low", "high", "class"])


def target_range(orientation: str) -> tuple[float, float]:
    """Return the angles between which a player of this orientation is ideal.

    The span of the orientation's ideal players is ours: the published form of θ* is not known.

    >>> [round(a, 2) for a in target_range("prosocial")]
    [37.48, 48.96]
    """
    rules = load_slider().rules
    if orientation not in rules:
        raise OrientationError(f"no orientation {orientation!r}; known are {', '.join(rules)}.")
    ends = [ideal_angle(rule) for rule in rules[orientation]]
    return min(low for low, _ in ends), max(high for _, high in ends)


def value_rationality(angle: Any, orientation: str) -> float | np.ndarray:
    """Return minus the distance in degrees between behaviour and the orientation asked for; 0 inside its ideal range.

    arXiv 2305.17147 publishes the idea, not the form: -|θ - θ*| to the nearest ideal angle is ours. nan stays nan.

    >>> value_rationality([0.0, 90.0], "altruistic").round(2)
    array([-61.39, -28.61])
    """
    low, high = target_range(orientation)
    values = np.asarray(angle, dtype=float)
    return 0.0 - np.abs(values - np.clip(values, low, high))


def inequality_aversion(choices: Any) -> float | np.ndarray:
    """Return where a prosocial player stands between the largest joint gain (0) and equal shares (1).

    Of choices (..., S): the mean, over the items where the two aims differ, of d_joint / (d_joint + d_equal), distances
    in payoff space to the nearest ideal option; nan unless the choices are complete and their angle is prosocial. After
    the secondary index of Murphy et al. (2011), whose own nine items are not part of these six.

    >>> inequality_aversion([[c[0] for c in ideal_choices("minimal inequality")]])
    array([1.])
    """
    slider = load_slider()
    own, other = take_payoffs(choices)
    shares = []
    for s, aims in enumerate(zip(ideal_choices("joint maximum"), ideal_choices("minimal inequality"), strict=True)):
        if not set(aims[0]) & set(aims[1]):
            gaps = np.hypot(own[..., s, None] - slider.self_pay[s], other[..., s, None] - slider.other_pay[s])  # (…, K)
            joint, equal = (gaps[..., best].min(axis=-1) for best in aims)
            shares.append(joint / (joint + equal))
    return np.where(np.equal(classify_angle(svo_angle(own, other)), "prosocial"), np.mean(shares, axis=0), np.nan)[()]


def take_payoffs(choices: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the payoffs to oneself and to the other of choices, (..., S), numbers of options from 0; nan where one is
    missing (nan or negative).

    >>> round(svo_angle(*take_payoffs([4, 4, 4, 4, 4, 4])), 2), svo_angle(*take_payoffs([0, 0, -1, 0, 0, 0]))
    (22.93, nan)
    """
    slider = load_slider()
    picks = np.nan_to_num(np.asarray(choices, dtype=float), nan=-1).astype(int)
    n_items, n_options = slider.self_pay.shape
    if picks.ndim == 0 or picks.shape[-1] != n_items or (picks >= n_options).any():
        raise OrientationError(f"choices need {n_items} numbers below {n_options} on the last axis.")
    return tuple(np.where(picks < 0, np.nan, pay[np.arange(n_items), picks])
                 for pay in (slider.self_pay, slider.other_pay))
