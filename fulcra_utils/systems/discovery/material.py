"""What value discovery works on: public replies, stories and boards where they can be had, else stand-ins."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fulcra_utils.dataset.benchmarks import read_boards, read_named_values, read_replies, read_stories
from fulcra_utils.dataset.sources import SourceError, get_files
from fulcra_utils.dataset.texts import has_words
from fulcra_utils.systems.discovery.claims import PAIRS
from fulcra_utils.systems.discovery.lexicon import collect_named_values
from fulcra_utils.systems.discovery.measurement import WORDS
from fulcra_utils.theory.theory import load_theory

SYSTEMS = ("Schwartz", "FULVa", "MFT", "Risk")      # of the Value Compass site
FIRST = "PVQ40"     # the questionnaire whose replies are always among those chosen
FILES = {"ValueBench": ["valuebench_replies", "valuebench_data"], "GPV's stories": ["gpv_stories"],
         "the Value Compass site": [f"valuecompass_2025_{name.lower()}_scores" for name in SYSTEMS]}


@dataclass(frozen=True)
class Material:
    """Replies (model, prompt, response, group), candidates (value, definition), stories, and scores of 33 models.

    `group` is a reply's questionnaire, or its prompt; `rated` are all of ValueBench's ratings, without rows where it
    cannot be had. `made_up` names what stands in for something public and measures nothing, `notes` what is missing.
    """

    replies: pd.DataFrame = field(repr=False)
    named: pd.DataFrame = field(repr=False)
    rated: pd.DataFrame = field(repr=False)
    stories: pd.DataFrame = field(repr=False)
    boards: pd.DataFrame = field(repr=False)
    made_up: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def make_boards(seed: int = 2023) -> pd.DataFrame:
    """Make up scores of 33 models, in the shape of `read_boards`: one general factor and noise, from 0 to 100."""
    rng = np.random.default_rng(seed)
    names = {"Schwartz": load_theory("schwartz10").dimensions, "FULVa": [v for pair in PAIRS.values() for v in pair],
             "MFT": load_theory("moral_foundations").dimensions, "Risk": load_theory("safety_taxonomy").dimensions}
    columns = pd.MultiIndex.from_tuples([(system, name) for system in SYSTEMS for name in names[system]])
    return pd.DataFrame(rng.normal(size=(33, 1)) * 8 + rng.normal(size=(33, len(columns))) * 6 + 60, columns=columns)


def choose_replies(rated: pd.DataFrame, n_replies: int, seed: int = 2023) -> pd.DataFrame:
    """Choose all models' replies to as many items as make `n_replies`: PVQ-40's first, then at random; 0 = all."""
    items = rated.drop_duplicates("prompt")[["prompt", "questionnaire"]].sample(frac=1, random_state=seed)
    items = items.sort_values("questionnaire", key=lambda name: name != FIRST, kind="stable").prompt
    chosen = items[:max(n_replies // rated.model.nunique(), 1)] if n_replies else items
    kept = rated[rated.prompt.isin(chosen)].drop_duplicates(["model", "prompt"])
    return kept.assign(group=kept.questionnaire)


def gather_material(is_public: bool, own: pd.DataFrame, n_replies: int = 0, seed: int = 2023) -> Material:
    """Gather public files (fetched as `get_files` does) or what stands in: the run's `own` replies, made-up numbers.

    Own replies have model, prompt, response. Without ValueBench the candidates are the dimensions of all theories here.
    Empty replies are left out and counted.
    """
    notes, found = [], {}
    for name, files in FILES.items():
        try:
            found |= {name: get_files(*files)} if is_public else {}
        except SourceError as error:
            notes.append(f"left out: {name}: {error}")
    bench = found.get("ValueBench")
    rated = read_replies(bench[0]) if bench else pd.DataFrame()
    replies = choose_replies(rated, n_replies, seed) if bench else own.assign(group=own.prompt)
    is_empty = ~replies.response.map(lambda text: isinstance(text, str) and has_words(text))
    notes += [f"{is_empty.sum()} empty replies left out"] if is_empty.any() else []
    stories, boards = found.get("GPV's stories", [WORDS["stories"]])[0], found.get("the Value Compass site")
    return Material(replies[~is_empty].reset_index(drop=True),
                    read_named_values(bench[1]) if bench else collect_named_values(), rated, read_stories(stories),
                    read_boards(dict(zip(SYSTEMS, boards, strict=True))) if boards else make_boards(seed),
                    frozenset(FILES) - frozenset(found), tuple(notes))
