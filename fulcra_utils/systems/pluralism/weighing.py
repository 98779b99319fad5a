"""Weighing: how likely a value, a right or a duty bears on a situation (relevance), and which way it speaks (valence).

Choices, for Kaleido and its thresholds are gated:
- relevance is a logistic regression on four numbers: how near the value's name lies to the situation (cosine of
  embeddings), how often situations like it list values like it, and how often any situation does, and by how much
  likelier the very name is to be listed there than elsewhere (kernel ridge, `Lists.foresee`); its weights are fitted on
  situations with listed values, each fold told by the lists of the others; how near "like" is was chosen on VITAL's
  known situations, by folds, and the first two on ours as well (`NARROW`, `WIDE`, `BROAD`);
- valence is a multinomial one on the stance that the evaluator reads in two framings of the situation (`FRAMES`), as
  what somebody is doing and as what somebody is asked about, for the values that it was taught, those first whose
  definitions lie near the value's name; and on how much likelier a language model finds the situation as what having
  more of the value means than as what having less means. It is fitted on our everyday situations, where *either* is a
  label of its own, and on items of ValueBench's training questionnaires where they can be had;
- nothing is kept of the rows that it is fitted on; the numbers are fitted anew whenever a weigher is made.
A pair is read by itself, so what stands beside it in a batch changes no score. Source: Sorensen et al. (2023), arXiv
2309.00779. Axis letters: N pairs, S situations, V values, J values the evaluator was taught, R situations with lists.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.model_selection import GroupKFold, cross_val_predict

from fulcra_utils.alignment.judges import TextMemory
from fulcra_utils.dataset.texts import DatasetError, list_texts
from fulcra_utils.evaluator.encoder import Encoder, is_read_in_half
from fulcra_utils.evaluator.model import ValueEvaluator, describe_value
from fulcra_utils.llm.local import compare_prefixes
from fulcra_utils.stats.probes import assign_folds, fit_logistic
from fulcra_utils.systems.pluralism.situations import VALENCES, tell_kind
from fulcra_utils.theory.theory import name_values

NARROW, WIDE = 10.0, 12.0   # how fast likeness falls with the cosine: of situations, and of values
BROAD, RIDGE = 1.0, 1.0     # the same of situations that foresee a name, and how far each is held back
N_FOLDS = 5     # of situations with lists
RARE = 1e-3     # share of situations that is added, so that a value never listed has a logarithm
SAME = 0.9999   # cosine above which a situation is the one that is asked about, and says nothing
SHARP = 20.0    # how fast a taught value counts less as its definition lies farther from a name
FRAMES = ((lambda text: "What are you like?", lambda text: f"I am {_lower(text)}." if DOING.match(text) else text),
          (lambda text: f"What do you think of {_lower(text)}?", lambda text: "I love it and do it all the time."))
MORE, LESS = "Having more {} means:", "Having less {} means:"   # what the language model is to go on from
READ, NAMED = 48, 200       # tokens of a situation, and characters of a value, that it reads
DOING = re.compile(r"(?:Not )?\w+ing\b", re.I)      # a situation that is named as an act


class Lists:
    """Situations with listed values, to be asked what situations like a given one list; a name's case says nothing."""

    def __init__(self, listed: pd.DataFrame, memory: TextMemory):
        listed = listed.sort_values("situation", kind="stable")
        texts, self.starts = np.unique(listed.situation, return_index=True)
        self.situations, self.values = memory.look_up(texts), memory.look_up(listed.value)
        self.is_listed = pd.crosstab(listed.situation, listed.value.str.casefold()).clip(upper=1)    # (R, names)
        kernel = np.exp(BROAD * (self.situations @ self.situations.T - 1)) + RIDGE * np.eye(len(texts))
        self.weights = np.linalg.solve(kernel, self.is_listed - self.is_listed.mean())

    def foresee(self, situations: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of situations like each that would list each name (S, V), and of all that do (V,).

        Kernel ridge regression, so the first may lie below 0; 0 and 0 for a name that no situation lists.
        """
        often, names = self.is_listed.mean(), [name.casefold() for name in names]
        told = pd.DataFrame(self._find_near(situations, BROAD) @ self.weights, columns=often.index) + often
        return told.reindex(columns=names, fill_value=0).to_numpy(), often.reindex(names, fill_value=0).to_numpy()

    def _find_near(self, situations: np.ndarray, steepness: float) -> np.ndarray:
        """Return how near the situations of the lists lie, (S, R) in [0, 1]; 0 for a situation itself."""
        cosines = situations @ self.situations.T
        return np.where(cosines > SAME, 0, np.exp(steepness * (cosines - 1)))

    def measure(self, situations: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how often situations like each list values like each (S, V), and how often any situation does (V,).

        Both from unit vectors, in [0, 1]; a situation that stands in the lists is not asked about itself.
        """
        likeness = np.exp(WIDE * (values @ self.values.T - 1))
        lists = np.maximum.reduceat(likeness, self.starts, axis=1)      # (V, R): the likest listed value
        near = self._find_near(situations, NARROW)
        return (near / near.sum(axis=1, keepdims=True).clip(1e-12)) @ lists.T, lists.mean(axis=1)


class Weigher:
    """Weighs values, rights and duties in situations; `fit` first.

    Without `chat`, a causal language model and its tokenizer (`load_policy`), valence goes by the evaluator alone.
    """

    def __init__(self, evaluator: ValueEvaluator, encoder: Encoder, chat: tuple | None = None):
        self.memory, self.chat = TextMemory(encoder), chat
        self.reader = evaluator.for_theory(name_values(*zip(*evaluator.config.taught, strict=True)))
        self.taught = self.memory.look_up([describe_value(*value) for value in evaluator.config.taught])

    def fit(self, listed: pd.DataFrame, labelled: pd.DataFrame, seed: int = 2023) -> "Weigher":
        """Fit relevance to situations with listed values, and valence to rows with one: situation, value, valence.

        What is not relevant is a value that another situation lists, drawn as often as it is listed, one for each that
        is: a relevance of .5 is even odds between the two. Each fold of the situations (near-copies, of one `cluster`,
        together) is told by the lists of the others, for a pair may hang neither on its own list nor on the one that
        its value was drawn from.
        """
        folds, told, truth = assign_folds(listed.cluster, N_FOLDS, seed), [], []
        for fold in range(N_FOLDS):
            pairs, self.lists = draw_pairs(listed[folds == fold], seed), Lists(listed[folds != fold], self.memory)
            told.append(self.measure(pairs.situation, pairs.value))
            truth.append(pairs.is_listed)
        self.relevance = fit_logistic(np.concatenate(told), np.concatenate(truth).astype(int))
        self.lists = Lists(listed, self.memory)
        self.told = self.read_stance(labelled.situation, labelled.value)    # so that folds need no second reading
        self.valence = fit_logistic(self.told, labelled.valence)
        return self

    def measure(self, situations: Sequence[str], values: Sequence[str]) -> np.ndarray:
        """Return what relevance is told of N pairs, (N, 4): cosine, log share in situations like it, log share in all,
        and the log of how much likelier the name is to be listed there.
        """
        (s, texts), (v, names) = (pd.factorize(np.asarray(one, object)) for one in (situations, values))
        here, there, about = map(self.memory.look_up, (texts, names, [tell_kind(name)[1] for name in names]))
        near, often = self.lists.measure(here, there)
        named, usually = self.lists.foresee(here, names)
        return np.column_stack([(here[s] * about[v]).sum(axis=1), np.log(near[s, v] + RARE), np.log(often[v] + RARE),
                                np.log(named.clip(0)[s, v] + RARE) - np.log(usually[v] + RARE)])

    def read_taught(self, situations: Sequence[str], values: Sequence[str],
                    frame: tuple[Callable, Callable] = FRAMES[0], batch_size: int = 32) -> np.ndarray:
        """Return P(-1), P(0), P(+1) of N pairs, (N, 3): those of the taught values, mixed by likeness to the name.

        A right or a duty needs no definition: its name is held against the definitions of the values that were taught.
        """
        (s, texts), (v, names) = (pd.factorize(np.asarray(one, object)) for one in (situations, values))
        likeness = softmax(SHARP * self.memory.look_up(names) @ self.taught.T, axis=1)      # (V, J)
        told = self.reader.predict_proba(*([form(text) for text in texts] for form in frame), batch_size)
        return np.einsum("njc,nj->nc", told[s], likeness[v])

    def read_stance(self, situations: Sequence[str], values: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Return what valence is told of N pairs, (N, K): the evaluator's log odds of for and against in each framing,
        and what the language model says (`compare_likelihoods`), if there is one.
        """
        told = [np.log(self.read_taught(situations, values, frame, batch_size) + 1e-6) for frame in FRAMES]
        said = [] if self.chat is None else [self.compare_likelihoods(situations, values)]
        return np.column_stack([*(one[:, 2] - one[:, 0] for one in told), *said])

    def compare_likelihoods(self, situations: Sequence[str], values: Sequence[str]) -> np.ndarray:
        """Return by how much likelier the situation is behind `MORE` of the value than behind `LESS`, (N,), as
        `compare_prefixes` does.
        """
        prefixes = ([words.format(_lower(value)[:NAMED]) for value in values] for words in (MORE, LESS))
        texts, is_half = [text[:20 * READ] for text in situations], is_read_in_half(self.chat[0])
        return compare_prefixes(*self.chat, *prefixes, texts, READ, is_half)

    def is_cut(self, situation: str, value: str | None = None) -> bool:
        """Return whether only a part of a pair is read: of the encoder's tokens 128, of the language model's fewer."""
        n_tokens = len(self.memory.encoder.tokenizer(situation, verbose=False)["input_ids"])
        is_long = max(len(situation) / READ / 20, len(value or "") / NAMED) > 1     # for the language model
        return n_tokens > 128 or self.chat is not None and (is_long or len(self.chat[1](
            f" {situation}", add_special_tokens=False, verbose=False)["input_ids"]) > READ)

    def hold_out(self, labelled: pd.DataFrame, n_folds: int = 5) -> pd.DataFrame:
        """Return the valence of the rows given to `fit`, each told by a head fitted on other clusters."""
        return self._name_columns(cross_val_predict(
            self.valence, self.told, labelled.valence, groups=labelled.cluster.astype(str), cv=GroupKFold(n_folds),
            method="predict_proba"))

    def rate(self, situations: Sequence[str], values: Sequence[str]) -> np.ndarray:
        """Return the relevance of N pairs, (N,) in [0, 1]."""
        return self.relevance.predict_proba(self.measure(situations, values))[:, 1] if len(values) else np.zeros(0)

    def tell_valence(self, situations: Sequence[str], values: Sequence[str], batch_size: int = 32) -> pd.DataFrame:
        """Return supports, opposes and either of N pairs, of sum 1."""
        return self._name_columns(self.valence.predict_proba(self.read_stance(situations, values, batch_size))
                                  if len(values) else None)

    def _name_columns(self, told: np.ndarray | None) -> pd.DataFrame:
        """Return probabilities by valence, 0 for one that no row taught; no rows for None."""
        return pd.DataFrame(told, columns=self.valence.classes_, dtype=float).reindex(columns=VALENCES, fill_value=0.0)


def weigh(situations: Sequence[str], values: Sequence[str], weigher: Weigher, batch_size: int = 32) -> pd.DataFrame:
    """Weigh N pairs of a situation and a value, right or duty: relevance, supports, opposes, either (of sum 1).

    `weigher, notes = files.load_weigher("runs/laptop/evaluator")` loads and fits one, in a minute or so.
    """
    pairs = list_texts(situations, "Situation"), list_texts(values, "Value")
    if len(pairs[0]) != len(pairs[1]):
        raise DatasetError(f"There are {len(pairs[0])} situations but {len(pairs[1])} values.")
    return pd.DataFrame({"relevance": weigher.rate(*pairs)}).join(weigher.tell_valence(*pairs, batch_size))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(" .")


def draw_pairs(listed: pd.DataFrame, seed: int = 2023) -> pd.DataFrame:
    """Return every listed pair and, for each, a value that another situation lists: situation, value, is_listed.

    >>> draw_pairs(pd.DataFrame({"situation": ["a", "b"], "value": ["care", "fame"]})).value.tolist()
    ['care', 'fame', 'fame', 'care']
    """
    rng, pool, rows = np.random.default_rng(seed), listed.value.to_numpy(object), listed[["situation", "value"]]
    own = listed.value.str.casefold().groupby(listed.situation).agg(set).to_dict()
    drawn = [next((one for one in pool[rng.integers(len(pool), size=50)] if one.casefold() not in own[text]), None)
             for text in listed.situation]
    return pd.concat([rows.assign(is_listed=True), rows.assign(value=drawn, is_listed=False).dropna()],
                     ignore_index=True)
