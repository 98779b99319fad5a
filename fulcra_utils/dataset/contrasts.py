"""Contrast pairs: one prompt, one reply that serves a value and one that tramples it, mostly in the same words.

Negations stand on both sides equally often. What else gives the stance away is little, and a test bounds it: negation,
length and refusal tell it in fewer than 58 % of the replies, words in fewer than 65 % (chance is 50 %). In *hard* pairs
tone misleads: the reply that tramples sounds mild or wise, the one that serves is stern or costly, or deeds alone tell.
So tone turned round is a cue in them: words that know nothing of the value tell 70 % of hard replies taken alone.
The pairs were written for this project; those of the test split were read again, twice (`read_readings`). `more` and
`more_hard` were written later and only teach; of these, those that words told most surely were left out, and a
language model that had not written them named, blind, the reply that was meant in all but one of 5,902.
"""

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, Field, ValidationError

from fulcra_utils.common.loading import hash_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.common.yaml_files import read_yaml
from fulcra_utils.dataset.splits import assign_splits, group_prompts
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.theory.theory import Name

CONTRASTS = DATA / "contrasts"
FAMILIES = [{"benevolence", "care"}, {"universalism", "fairness", "care"}, {"tradition", "sanctity", "humility"},
            {"conformity", "authority"}, {"achievement", "face"}]   # values that mean much the same: left out together


class _Pair(BaseModel, extra="forbid"):
    prompt: Name
    served: Name
    trampled: Name
    unrelated: Name | None = None


class _ValueFile(BaseModel, extra="forbid"):
    value: Name
    definition: Name
    pairs: list[_Pair] = Field(min_length=1)
    hard: list[_Pair] = []
    more: list[_Pair] = []          # written later: these teach and are never asked
    more_hard: list[_Pair] = []


def read_contrasts(folder: str | Path = CONTRASTS, seed: int = 2023, n_pairs: int | None = None) -> pd.DataFrame:
    """Return one row per reply: pair, value, definition, prompt, response, stance, is_hard, cluster and split.

    `stance` is +1 where the reply serves the value, -1 where it tramples it, 0 where it has nothing to do with it.
    The first `n_pairs` of each value (None = all), hard ones behind plain ones, then `more` and `more_hard` mixed.
    Prompts are split as everywhere (60/10/10/20), near-duplicates together; those of the last two lists are in train,
    or left out where they are much like one that is not. DatasetError names the file, the place and the fault.

    >>> table = read_contrasts()
    >>> (table[table.split == "test"].pair.nunique(), table.value.nunique())
    (771, 15)
    """
    rows = []
    for path in sorted(Path(folder).glob("*.yaml")):
        try:
            file = _ValueFile.model_validate(_read_fast(path))
        except ValidationError as error:
            place, why = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
            raise DatasetError(f"{path}, {place}: {why}") from None
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from None
        lists = [(pair, is_hard, False) for is_hard, pairs in enumerate((file.pairs, file.hard)) for pair in pairs]
        late = [(k / len(pairs), is_hard, pair) for is_hard, pairs in enumerate((file.more, file.more_hard))
                for k, pair in enumerate(pairs)]
        lists += [(pair, is_hard, True) for _, is_hard, pair in sorted(late, key=lambda pair: pair[:2])]
        rows += [(f"{file.value}-{k}", file.value, file.definition, pair.prompt, reply, stance, bool(is_hard), is_more)
                 for k, (pair, is_hard, is_more) in enumerate(lists)
                 for reply, stance in ((pair.served, 1), (pair.trampled, -1), (pair.unrelated, 0)) if reply]
    rows.sort(key=lambda row: row[-1])      # behind all others, so that they move none into another split
    columns = ["pair", "value", "definition", "prompt", "response", "stance", "is_hard", "is_late"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.merge(_split(tuple(table.prompt), seed), on="prompt", how="left")
    late = table.pop("is_late") == 1
    asked = set(table.cluster[~late & (table.split != "train")])
    table = table[~late | (table.cluster >= 0) & ~table.cluster.isin(asked)]
    table.loc[late[table.index], "split"] = "train"
    first = table.pair.str.rpartition("-")[2].astype(int) < (np.inf if n_pairs is None else n_pairs)
    return table[first].reset_index(drop=True)


def read_readings(pairs: pd.DataFrame, path: str | Path = CONTRASTS / "readings.csv") -> pd.DataFrame:
    """Return how pairs (of `read_contrasts`) were read again: pair, first, second, of those whose texts still stand.

    Two readers, language models that had not written them, saw the value, the prompt and both replies in random order,
    and named the one that serves: 1 where it is the one that is meant, -1 the other one, 0 neither.

    >>> len(read_readings(read_contrasts().query("split == 'test'")))
    771
    """
    texts = pairs[pairs.stance != 0].sort_values("stance").groupby("pair").agg(
        prompt=("prompt", "first"), replies=("response", " | ".join))
    texts = (texts.prompt + " | " + texts.replies).map(hash_text).str[:12].rename("text").reset_index()
    return pd.read_csv(path).merge(texts, on=["pair", "text"]).drop(columns="text")


@lru_cache(maxsize=64)
def find_example(value: str, definition: str) -> _Pair | None:
    """Return the first pair of a value, under this very definition, that also has an unrelated reply; None without one.

    >>> find_example("care", "Kindness towards those who suffer or are weak; dislike of harm and cruelty.").prompt
    'A stray cat limps through our yard.'
    """
    path = CONTRASTS / f"{value}.yaml"
    file = _ValueFile.model_validate(_read_fast(path)) if path.is_file() else None
    pairs = file.pairs if file and file.definition == definition else []
    return next((pair for pair in pairs if pair.unrelated), None)


def is_akin(value: str, others: Collection[str]) -> bool:
    """Return whether a value is, refines, or means much the same as one of the others.

    >>> is_akin("power-dominance", ["power"]), is_akin("care", ["benevolence-caring"]), is_akin("care", ["power"])
    (True, True, False)
    """
    def find_family(name: str) -> set[str]:
        stems = {stem for family in FAMILIES for stem in family if stem in name.casefold()} or {name.casefold()}
        return {other for stem in stems for family in [{stem}, *(f for f in FAMILIES if stem in f)] for other in family}
    return any(stem in value.casefold() or value.casefold() in stem for name in others for stem in find_family(name))


def _read_fast(path: Path) -> object:
    """Read YAML in C, sixty times as fast; what that cannot read, `read_yaml` names."""
    try:
        return yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):
        return read_yaml(path)[0]


@lru_cache(maxsize=2)
def _split(prompts: tuple[str, ...], seed: int) -> pd.DataFrame:
    return assign_splits(prompts, group_prompts(prompts), seed)[["prompt", "cluster", "split"]]
