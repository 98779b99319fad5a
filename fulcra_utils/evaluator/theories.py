"""The same replies scored under several theories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fulcra_utils.theory.theory import Theory

if TYPE_CHECKING:
    from fulcra_utils.evaluator.model import ValueEvaluator


def list_replies(dialogues: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """Return the run's replies for scoring: the released scored ones where there are any, else the dialogues.

    Parameters
    ----------
    dialogues, scored : DataFrame
        The run's tables, with response_source, prompt, response, cluster.

    Returns
    -------
    DataFrame
        model, prompt, response, cluster, then the score columns of the table it came from.

    Source: ours; the scored files answer the same prompts, the dialogues do not.

    Examples
    --------
    >>> rows = pd.DataFrame({"response_source": ["a"], "prompt": ["x"], "response": ["r"], "cluster": [0]})
    >>> list_replies(rows, rows.iloc[:0]).model.tolist()
    ['a']
    """
    table = scored if len(scored) else dialogues
    return table.rename(columns={"response_source": "model"}).astype({"model": object}).reset_index(drop=True)


def sample_prompts(replies: pd.DataFrame, n_prompts: int, seed: int = 2023) -> pd.DataFrame:
    """Keep the replies to a random choice of prompts, those that most models answered first.

    Parameters
    ----------
    replies : DataFrame
        model, prompt, …
    n_prompts : int

    Returns
    -------
    DataFrame
        Every model's replies to the chosen prompts.

    Source: ours.

    Examples
    --------
    >>> rows = pd.DataFrame({"model": ["a", "b", "a"], "prompt": ["x", "x", "y"]})
    >>> sample_prompts(rows, 1).prompt.tolist()
    ['x', 'x']
    """
    answered = replies.groupby("prompt", sort=False)["model"].nunique()
    order = np.random.default_rng(seed).permutation(len(answered))
    chosen = answered.iloc[order].sort_values(ascending=False, kind="stable").index[:n_prompts]
    return replies[replies["prompt"].isin(chosen)].reset_index(drop=True)


def score_theories(replies: pd.DataFrame, theories: Sequence[Theory], evaluator: ValueEvaluator,
                   progress: bool = False) -> list[pd.DataFrame]:
    """Score replies under several theories in one pass, by definitions alone where a theory is not the evaluator's.

    Parameters
    ----------
    replies : DataFrame
        model, prompt, response, optionally cluster.
    theories : sequence of Theory
    evaluator : ValueEvaluator
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of DataFrame
        Per theory model, prompt, response, cluster and one column per dimension: what `evaluator.for_theory(theory)`
        scores, whatever the theory's name. The text is encoded once for all theories.

    Examples
    --------
    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> from fulcra_utils.evaluator.model import make_evaluator
    >>> theories = [load_theory("gpla5"), load_theory("valuelex")]
    >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
    >>> rows = pd.DataFrame({"model": ["a"], "prompt": ["May I lie?"], "response": ["No."]})
    >>> [table.shape for table in score_theories(rows, theories, evaluator)]
    [(1, 8), (1, 6)]
    """
    # two theories may both have "tradition": the evaluator reads names and definitions and needs no unique ones
    joined = replace(theories[0], name="joined", dimensions=tuple(d for t in theories for d in t.dimensions),
                     definitions=tuple(d for t in theories for d in t.definitions))
    scores = evaluator.for_theory(joined).score(replies["prompt"].tolist(), replies["response"].tolist(),
                                                progress=progress)
    kept = replies[[c for c in ("model", "prompt", "response", "cluster") if c in replies]].reset_index(drop=True)
    ends = np.cumsum([theory.n_dims for theory in theories])
    return [pd.concat([kept, pd.DataFrame(part, columns=theory.dimensions)], axis=1)
            for theory, part in zip(theories, np.split(scores, ends[:-1], axis=1), strict=True)]


def label_from_sample(theory: Theory, replies: pd.DataFrame) -> pd.DataFrame | None:
    """Return the sample's labels under another theory for the run's replies, or None when it has none for all of them.

    Parameters
    ----------
    theory : Theory
    replies : DataFrame
        model, prompt, response, cluster.

    Returns
    -------
    DataFrame or None
        model, prompt, response, cluster and one column per dimension.

    Source: ours; a label written by a person comes before a score by definition.

    Examples
    --------
    >>> label_from_sample(load_theory("gpla5"), pd.DataFrame({"prompt": ["x"], "response": ["y"]})) is None
    True
    """
    from fulcra_utils.dataset.construction import locate_sample
    from fulcra_utils.dataset.labelled import read_dataset
    path, has_labels = locate_sample(theory)
    if not has_labels:
        return None
    data = read_dataset(path, theory)
    labels = pd.DataFrame(data.vectors, columns=theory.dimensions)
    labels[["prompt", "response"]] = data.table[["prompt", "response"]].astype(object).to_numpy()
    kept = [c for c in ("model", "prompt", "response", "cluster") if c in replies]
    joined = replies[kept].merge(labels.drop_duplicates(["prompt", "response"]), how="left", on=["prompt", "response"],
                                 indicator=True)
    return joined.drop(columns="_merge") if (joined["_merge"] == "both").all() else None
