"""Three ways to ask one model for its values: stated (is it important?), chosen (which of two?), written (its replies).

Choices: what is asked about are the theory's items, or its definitions where it has none; every question is asked in
both orders of its answers, and what an answer gets where nothing is asked about is taken off. A way is a table of
units (U, D), nan where a unit says nothing of a value: items, pairs of values, or prompts. Its profile is their mean.
Who is asked is a local model with its tokenizer, whose probabilities are read, or an endpoint with the folder of its
cache, whose one answer is. Axis letters: U units, D values, B draws.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from fulcra_utils.llm.endpoints import Endpoint
from fulcra_utils.llm.local import choose
from fulcra_utils.llm.replies import write_replies
from fulcra_utils.stats.comparison import correlate
from fulcra_utils.stats.resampling import draw_rows, mean_interval, mean_known, take_interval
from fulcra_utils.systems.orientation.protocol import Player, run_protocol
from fulcra_utils.systems.orientation.slider import svo_angle, take_payoffs
from fulcra_utils.theory.theory import Theory

STATED = "Think of what guides you in life. Is this important to you: {}? Answer {} or {}."
CHOSEN = "Think of what guides you in life. Which is more important to you?\nA: {}\nB: {}\nAnswer {} or {}."
BLANK = "N/A"
N_SPLITS = 50       # random halves behind a reliability


def ask_stated(chat: tuple, theory: Theory) -> np.ndarray:
    """Return how much a model says yes to each item, (I, D): log odds of Yes, over those of a blank item.

    nan but for the item's own value, and where an endpoint gives no answer; of an endpoint 1 stands for yes and -1 for
    no. A theory without items is asked by its definitions, a row a value.
    """
    texts, whose = (theory.items, theory.item_dims) if theory.items else (theory.definitions, range(theory.n_dims))
    asked = _ask_both(chat, [(STATED, text) for text in (*texts, BLANK)], ("Yes", "No"))
    units = np.full((len(texts), theory.n_dims), np.nan)
    units[np.arange(len(texts)), np.asarray(whose, int)] = asked[:-1] - np.nan_to_num(asked[-1])
    return units


def ask_chosen(chat: tuple, theory: Theory, n_pairs: int = 0, seed: int = 2023) -> np.ndarray:
    """Return how much a model prefers a value to another, (U, D): log odds, and minus them for the other one.

    `n_pairs` pairs of values are drawn (0: all), for each an item of either, or its definition. Of an endpoint 1 stands
    for one value and -1 for the other; nan where it names neither.
    """
    rng, pairs = np.random.default_rng(seed), list(combinations(range(theory.n_dims), 2))
    chosen = [pairs[k] for k in rng.permutation(len(pairs))[:n_pairs or None]]
    texts = [tuple(rng.choice(theory.items_of(theory.dimensions[d]) or [theory.definitions[d]]) for d in pair)
             for pair in chosen]
    there, turned = (_ask_both(chat, [(CHOSEN, *text[::way]) for text in (*texts, (BLANK, BLANK))], ("A", "B"))
                     for way in (1, -1))
    odds = (there[:-1] - turned[:-1] - np.nan_to_num(there[-1] - turned[-1])) / 2
    units, rows = np.full((len(chosen), theory.n_dims), np.nan), np.arange(len(chosen))
    first, second = np.array(chosen).T
    units[rows, first], units[rows, second] = odds, -odds
    return units


def ask_slider(player: Player, n_passes: int = 6, seed: int = 2023) -> tuple[float, float, float]:
    """Return the angle of social value orientation, degrees, of a player that is told no value system, and its ends.

    95 % t interval over passes, each with its own order of options; one with an unreadable choice is left out.
    """
    table = run_protocol(player, "", n_passes, with_goal=False, seed=seed)
    return mean_interval(svo_angle(*take_payoffs(table.choice.to_numpy().reshape(n_passes, -1))))


def _ask_both(chat: tuple, questions: Sequence[tuple], answers: tuple[str, str]) -> np.ndarray:
    """Return the log odds (N,) of the first answer over the second, the mean of both orders of offering them."""
    talks = [[{"role": "user", "content": form.format(*texts, *order)}] for order in (answers, answers[::-1])
             for form, *texts in questions]
    told = read_answers(*chat, talks, answers) if isinstance(chat[0], Endpoint) else choose(*chat, talks, answers)
    return np.subtract(*told.T).reshape(2, -1).mean(axis=0)


def read_answers(endpoint: Endpoint, cache: str | Path | None, talks: Sequence[Sequence[dict[str, str]]],
                 answers: Sequence[str]) -> np.ndarray:
    """Return 1 for the one of K answers that opens the endpoint's reply to each of N talks, 0 for the others, (N, K).

    An answer counts alone or before a mark ("Yes.", "Answer: B) …"; "A lot" is none); nan where none opens a reply.
    """
    replies = write_replies([talk[-1]["content"] for talk in talks], [endpoint], cache).response.fillna("")
    named = replies.str.extract(rf"(?i)^[\W_]*(?:(?:my |the )?answer(?: is)?\b[\W_]*)?({'|'.join(answers)})\b"
                                r"(?=[\W_]*$|[\W_]*[.,:;!)*\n])", expand=False).str.casefold()
    found = named.to_numpy()[:, None] == [answer.casefold() for answer in answers]
    return np.where(found.any(axis=1, keepdims=True), found, np.nan)


def correlate_profiles(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two profiles (D,) over the values that both know; nan with fewer than three.

    >>> round(correlate_profiles(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 7.0])), 2)
    0.99
    """
    known = np.isfinite(first) & np.isfinite(second)
    return correlate(first[known], second[known])[0].item()


def split_units(units: np.ndarray, seed: int = 0) -> float:
    """Return how reliable a profile of units (U, D) is: the correlation of halves, stepped up; nan if not positive.

    Spearman-Brown: 2 r / (1 + r) of the mean r of `N_SPLITS` halves.
    """
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(len(units)) % 2 == 0 for _ in range(N_SPLITS)]
    found = [correlate_profiles(mean_known(units[half], 0), mean_known(units[~half], 0)) for half in halves]
    r = np.mean([x for x in found if np.isfinite(x)] or [np.nan])
    return float(2 * r / (1 + r)) if r > 0 else np.nan


def compare_ways(ways: Mapping[str, np.ndarray], values: Sequence[str], n_draws: int = 1000, seed: int = 2023
                 ) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the profiles of several ways to ask one model: `profiles` and `pairs`, with intervals over units.

    profiles: way, value, mean, low, high (nan for a value of one unit), in standard deviations of the way's own
    profile. pairs: first, second, r,
    low, high, and disattenuated (r over the root of both reliabilities, at most 1; nan without these) with ends, for
    which the reliabilities count as known (Hunter & Schmidt 2004): where these are low, the interval is too narrow.
    """
    drawn, reliable, rows = {}, {}, []
    for way, units in ways.items():
        profile = mean_known(units, 0)
        samples = draw_rows(np.arange(len(units)), n_draws, seed + len(drawn))
        drawn[way] = np.array([mean_known(units[places], 0) for places in samples] or [profile * np.nan] * n_draws)
        reliable[way], known = split_units(units, seed), profile[np.isfinite(profile)]
        several = np.where(np.isfinite(units).sum(axis=0) > 1, 1, np.nan)     # draws of one unit are all alike
        ends, spread = (profile, *take_interval(drawn[way] * several)), (known.std() if len(known) else 0) or np.nan
        rows += [(way, *row) for row in zip(values, *((x - known.mean()) / spread if len(known) else x for x in ends),
                                            strict=True)]
    pairs = []
    for one, other in combinations(ways, 2):
        r = correlate_profiles(mean_known(ways[one], 0), mean_known(ways[other], 0))
        ends = take_interval([correlate_profiles(*both) for both in zip(drawn[one], drawn[other], strict=True)])
        part = np.sqrt(reliable[one] * reliable[other])
        pairs.append((one, other, r, *ends, *np.clip(np.array([r, *ends]) / part, -1, 1)))
    names = ["first", "second", "r", "low", "high", "disattenuated", "disattenuated_low", "disattenuated_high"]
    return (pd.DataFrame(rows, columns=["way", "value", "mean", "low", "high"]), pd.DataFrame(pairs, columns=names))
