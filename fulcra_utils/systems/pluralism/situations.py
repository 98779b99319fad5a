"""Situations with the values, rights and duties that bear on each: VITAL's, where they can be had, and ours.

VITAL is drawn from the gated ValuePrism: it is read where it lies, to measure and to tune, and none of its rows is
kept or shown. Its situations of violence, abuse, suicide and drugs are left out, by words (data/pluralism.yaml), and
counted.
Source: Sorensen et al. (2023), arXiv 2309.00779; Shetty et al., VITAL.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import yaml

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.benchmarks import read_named_values, read_part
from fulcra_utils.dataset.sources import SourceError, get_files
from fulcra_utils.dataset.splits import assign_splits, group_prompts
from fulcra_utils.dataset.texts import DatasetError, has_words
from fulcra_utils.theory.theory import Theory, list_theories, load_theory

WORDS = yaml.safe_load((DATA / "pluralism.yaml").read_text(encoding="utf-8"))
LEFT_OUT = re.compile(rf"\b(?:{'|'.join(WORDS['left_out'])})", re.I)
KINDS = {kind: re.compile(pattern, re.I) for kind, pattern in WORDS["kinds"].items()}
VALENCES = ("supports", "opposes", "either")


def tell_kind(value: str) -> tuple[str, str]:
    """Return whether a name is one of a value, a right or a duty, and what it is about.

    >>> tell_kind("Right to privacy"), tell_kind("Kindness")
    (('right', 'privacy'), ('value', 'Kindness'))
    """
    for kind, pattern in KINDS.items():
        if found := pattern.match(value.strip()):
            return kind, value.strip()[found.end():].strip() or value
    return "value", value.strip()


def _split(rows: list[tuple]) -> pd.DataFrame:
    """Return situation, value and valence with cluster and split; near-duplicate situations stay together."""
    table = pd.DataFrame(rows, columns=["situation", "value", "valence"]).drop_duplicates(["situation", "value"])
    prompts = list(table.situation.unique())
    splits = assign_splits(prompts, group_prompts(prompts))[["prompt", "cluster", "split"]]
    return table.merge(splits.rename(columns={"prompt": "situation"}), on="situation", validate="many_to_one")


def read_own() -> pd.DataFrame:
    """Return our everyday situations: a row a listed value, with situation, value, valence, cluster and split."""
    return _split([(one["situation"], value, valence) for one in WORDS["situations"] for valence in VALENCES
                   for value in one.get(valence, ())])


def read_situations(path: str | Path) -> tuple[pd.DataFrame, int]:
    """Read VITAL's situations as `read_own` gives ours, without valence; and how many situations are left out."""
    try:
        listed = [(one["situation"].strip(), [v.strip() for v in one["vrd"] if has_words(v)])
                  for one in json.loads(Path(path).read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: no file of VITAL's situations: {type(error).__name__} {error}") from None
    kept = [(situation, values) for situation, values in listed if not LEFT_OUT.search(situation)]
    return _split([(s, value, None) for s, values in kept for value in values]), len(listed) - len(kept)


def find_file(name: str, is_public: bool = True) -> Path | None:
    """Return where a public file lies (`get_files`), None where it cannot be had or none is wanted."""
    with suppress(SourceError):
        return get_files(name)[0] if is_public else None
    return None


def load_situations(is_public: bool = True) -> tuple[pd.DataFrame, str]:
    """Return VITAL's situations, else ours, and words that say which, and how many were left out."""
    if path := find_file("kaleido_situations", is_public):
        table, n_left_out = read_situations(path)
        return table, f"VITAL's {table.situation.nunique():,} situations ({n_left_out:,} more left out by their words)"
    return read_own(), f"our {len(WORDS['situations'])} everyday situations"


def load_items(split: str, is_public: bool = True) -> pd.DataFrame:
    """Return ValueBench's items of a split as situations: situation, value, valence (supports, opposes), cluster.

    No rows where they cannot be had.
    """
    items = pd.DataFrame(columns=["response", "value", "stance", "cluster", "split"])
    with suppress(SourceError):
        items = read_part("valuebench") if is_public else items
    return items[items.split == split].rename(columns={"response": "situation"}).assign(
        valence=items.stance.map({1: "supports", -1: "opposes"}))[["situation", "value", "valence", "cluster"]]


def load_labelled(is_public: bool = True, n_items: int = 120, seed: int = 2023) -> tuple[pd.DataFrame, str]:
    """Return rows that teach valence (situation, value, valence, cluster) and words that say which.

    Ours, and where they can be had `n_items` of ValueBench's training questionnaires, as many with either key.
    """
    own, items = read_own(), load_items("train", is_public)
    some = items.groupby("valence").sample(n_items // 2, random_state=seed)
    more = f" and {len(some)} items of ValueBench's training part" if len(some) else ""
    return pd.concat([own, some], ignore_index=True), f"our {len(WORDS['situations'])} everyday situations{more}"


def list_candidates(theories: Sequence[Theory | str] = (), is_public: bool = True) -> list[str]:
    """Return names that may be found in a situation: ours, the theories' dimensions (none: of all here), ValueBench's.

    VITAL's are no candidates outside measuring: none of that file is shown.
    """
    known, path = map(load_theory, theories or list_theories()), find_file("valuebench_data", is_public)
    named = [name.replace("-", " ") for theory in known for name in theory.dimensions]
    named += read_named_values(path).value.tolist() if path else []
    return list({name.casefold(): name for name in [*named, *read_own().value]}.values())
