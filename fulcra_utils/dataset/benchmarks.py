"""Labels beyond FULCRA's: arguments of ValueEval'23 (people's labels) and items of ValueBench (keys of questionnaires);
stories of GPV, and the scores of the Value Compass site.

Choices: an argument's prompt says its stance and conclusion, its reply is the premise; ValueEval keeps its published
splits, and its labels say that a value is touched, not which way; ValueBench is split by questionnaire, those linked by
an equal item together; an item is what somebody says of themselves, +1 where agreeing shows the value and -1 where it
shows the opposite. Only the training parts teach.
"""

import csv
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.common.labels import TOUCHED
from fulcra_utils.dataset.sources import SourceError, get_files
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.theory.theory import Theory, load_theory, normalise

ITEM_PROMPT = "What are you like?"
SHARES = {"test": 0.2, "validation": 0.1}    # of ValueBench's items; the rest trains


def read_arguments(arguments: str | Path, labels: str | Path, theory: Theory | str = "valueeval20") -> pd.DataFrame:
    """Read one part of ValueEval'23: id, conclusion, prompt, response, and a column a value of the theory, 0 or 1.

    Kiesel et al. (2023). DatasetError when a file is no table of the set, or the two do not name the same arguments.
    """
    theory = load_theory(theory)
    told, given = (_read_table(path).rename(columns={"Argument ID": "id"}) for path in (arguments, labels))
    for path, table, names in ((arguments, told, ("id", "Conclusion", "Stance", "Premise")), (labels, given, ("id",))):
        if missing := [name for name in names if name not in table]:
            raise DatasetError(f"{path}: no column {missing[0]!r}, so this is no file of ValueEval")
    if sorted(told.id) != sorted(given.id):
        odd = min(set(told.id) ^ set(given.id), default=told.id.iloc[0])
        raise DatasetError(f"{labels}: argument {odd} stands in one of the two files alone, or twice")
    given = given.rename(columns=lambda name: re.sub(r"\W+", "-", name.casefold()))
    if lost := [name for name in theory.dimensions if name not in given]:
        raise DatasetError(f"{labels}: no column for the value {lost[0]!r} of {theory.name}")
    values = given[["id", *theory.dimensions]].astype(dict.fromkeys(theory.dimensions, float))
    rows = told.assign(prompt=[f"Argue {s} this: {c}" for s, c in zip(told.Stance, told.Conclusion, strict=True)],
                       response=told.Premise, conclusion=told.Conclusion)
    return rows[["id", "conclusion", "prompt", "response"]].merge(values, on="id", validate="one_to_one")


def _read_table(path: str | Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False)


def measure_official_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return ValueEval's score of labels and predictions (N, D) in {0, 1}: F1 of the mean precision and mean recall.

    The means are over the values present; one never predicted has precision 0. As the task's own evaluator.

    >>> round(measure_official_f1(np.array([[1, 0], [1, 1]]), np.array([[1, 1], [0, 1]])), 3)
    0.75
    """
    labels, predicted = np.asarray(labels) > 0, np.asarray(predicted) > 0
    return score_sums((labels & predicted).sum(0), predicted.sum(0), labels.sum(0))


def score_sums(right: np.ndarray, predicted: np.ndarray, labelled: np.ndarray) -> float:
    """Return `measure_official_f1` from the counts (D,) of each value."""
    present = labelled > 0
    precision = (right[present] / np.maximum(predicted[present], 1)).mean()
    recall = (right[present] / labelled[present]).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def read_questionnaires(items: str | Path, definitions: str | Path) -> pd.DataFrame:
    """Read ValueBench's items as `read_contrasts` gives pairs: value, definition, prompt, response, stance, cluster and
    split; questionnaire beside them.

    `items` is value_orientation.csv, `definitions` value_data.xlsx. Items without a definition of their value are left
    out; a value that is written in several ways goes by the first. Ren et al. (2024).
    """
    table = pd.read_csv(items).dropna(subset=["item", "value", "agreement"])
    named = read_named_values(definitions)
    told = dict(zip(named.value.map(normalise), named.definition, strict=True))
    table["definition"] = [told.get(normalise(str(value)), "") for value in table.value]
    table["value"] = table.groupby(table.value.map(normalise)).value.transform("first")     # two stand in two cases
    table["cluster"] = link_questionnaires(table.questionnaire, table.item)
    table["split"] = table.cluster.map(_split_groups(table.cluster))
    table = table.rename(columns={"item": "response"}).assign(prompt=ITEM_PROMPT, stance=np.sign(table.agreement))
    return table[table.definition != ""][["value", "definition", "prompt", "response", "stance", "cluster", "split",
                                          "questionnaire"]].reset_index(drop=True)


def _read_sheet(path: str | Path, columns: Iterable[str], sheet: str | int = 0) -> pd.DataFrame:
    """Read a sheet of a spreadsheet; DatasetError when it is none, or the sheet or a column is not there."""
    try:
        table = pd.read_excel(path, sheet_name=sheet)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: no sheet {sheet!r} can be read: {error}") from None
    if missing := [name for name in columns if name not in table]:
        raise DatasetError(f"{path}: no column {missing[0]!r} in sheet {sheet!r}")
    return table


def read_named_values(definitions: str | Path) -> pd.DataFrame:
    """Read ValueBench's named values that have a definition: value, definition, upper (the wider value, or nan).

    `definitions` is value_data.xlsx; of values of one name the last one with a definition counts.
    """
    said, other = "corresponding definition/description", "DicDef"
    table = _read_sheet(definitions, ["value dimension", said, other, "Upper dimension"], "value2def")
    text = table[said].astype(object).where(table[said].notna(), table[other].astype(object))
    table = pd.DataFrame({"value": table["value dimension"].map(str).str.strip(), "upper": table["Upper dimension"],
                          "definition": text.map(lambda said: said.strip() if isinstance(said, str) else "")})
    table = table[table.definition != ""]
    return table[~table.value.map(normalise).duplicated(keep="last")].reset_index(drop=True)


def read_replies(replies: str | Path) -> pd.DataFrame:
    """Read all replies of six models to ValueBench's items: questionnaire, item, value, prompt, key, model, response,
    and `raw`, a large judge's rating from 0 (no) to 10 (yes) of what the item asks.

    `replies` is QA-dataset-answers-rating.xlsx; the prompt is the item as a question. Ren et al. (2024).
    """
    names = {"questionnaire info": "questionnaire", "scenario description": "item", "corresponding value": "value",
             "question": "prompt", "Agreement": "key"}
    table = _read_sheet(replies, names).rename(columns=names)
    models = [name.removesuffix("_rating") for name in table if name.endswith("_rating")]
    return pd.concat([table[list(names.values())].assign(
        model=model, response=table[f"{model}_answer"], raw=table[f"{model}_rating"]) for model in models])


def tabulate_ratings(replies: pd.DataFrame) -> pd.DataFrame:
    """Return the mean rating by questionnaire, value and model, turned round where the key is -1: ValueBench's tables.

    `replies` as `read_replies` gives them; a table with a column a model.
    """
    keyed = replies.raw.where(replies.key > 0, 10 - replies.raw)
    names = [replies.questionnaire, replies.value.str.casefold(), replies.model]
    return keyed.groupby(names, sort=False).mean().unstack()


def read_stories(stories: str | Path | list[dict]) -> pd.DataFrame:
    """Read GPV's stories: a row a known sign, with story (its number), text, subject, value and sign (-1 or +1)."""
    def pick(stories: list[dict]) -> list[tuple]:
        return [(number, story["story"], person["name"], value, sign) for number, story in enumerate(stories)
                for person in story["characters"] for sign, kind in ((1, "supports"), (-1, "opposes"))
                for value in person[kind]]
    rows = pick(stories) if isinstance(stories, list) else _read_json(stories, "file of GPV's stories", pick)
    return pd.DataFrame(rows, columns=["story", "text", "subject", "value", "sign"])


def read_boards(paths: Mapping[str, str | Path]) -> pd.DataFrame:
    """Read score files of the Value Compass site, by the name of their system: models in rows, (system, value) above.

    Scores run from 0 to 100. Models that one of the files lacks are left out.
    """
    tables = {name: _read_json(path, "table of scores", lambda raw: pd.DataFrame(raw["data"]).set_index("model"))
              for name, path in paths.items()}
    return pd.concat(tables, axis=1, join="inner").astype(float)


def _read_json(path: str | Path, what: str, pick: Callable[[Any], Any]) -> Any:
    try:
        return pick(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: no {what}: {type(error).__name__} {error}") from None


def read_rated_replies(replies: str | Path, items: pd.DataFrame) -> pd.DataFrame:
    """Read six models' replies to ValueBench's items asked as questions, with `rating` and `model` beside the columns
    of `items` (`read_questionnaires`); prompt is the question.

    `replies` is QA-dataset-answers-rating.xlsx. A rating is a large judge's, from 0 (no) to 10 (yes), turned round
    where the key is -1, so that a high one always shows the value. Replies to items that `items` lacks are left out.
    """
    long = read_replies(replies).drop(columns="key").rename(columns={"raw": "rating"})
    long["value"] = long.value.map(str).map(normalise).map({normalise(value): value for value in items.value})
    own = items.drop(columns="prompt").rename(columns={"response": "item"})
    found = long.dropna(subset=["prompt", "response", "rating"]).merge(
        own.drop_duplicates(["questionnaire", "item", "value"]), on=["questionnaire", "item", "value"])
    return found.assign(rating=np.where(found.stance > 0, found.rating, 10 - found.rating)).drop(columns="item")


def read_part(name: str) -> pd.DataFrame:
    """Return ValueBench ("valuebench", `read_questionnaires`; "valuebench-replies", `read_rated_replies`), or a part of
    ValueEval ("valueeval23-test", …).

    The files are fetched as `fetch_sources` does. SourceError names the first one that cannot be had.
    """
    wanted = ("valuebench_orientation", "valuebench_data", *["valuebench_replies"] * name.endswith("-replies"))
    if not name.startswith("valuebench"):
        wanted = tuple(f"valueeval23_{kind}_{name.partition('-')[2]}" for kind in ("arguments", "labels"))
    try:
        first, second, *rated = get_files(*wanted)
    except SourceError as error:
        raise SourceError(f"{name}: {error}") from None
    part = (read_questionnaires if name.startswith("valuebench") else read_arguments)(first, second)
    return read_rated_replies(rated[0], part) if rated else part


def read_optional(read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return public rows, or with a warning none where their files cannot be had."""
    try:
        return read()
    except SourceError as error:
        warnings.warn(f"Left out: {error}.", stacklevel=2)
        return pd.DataFrame()


@lru_cache(maxsize=4)
def _read_more(name: str) -> pd.DataFrame:
    if name == "valuebench":
        table = read_part(name)
        return table.assign(pair=[f"item-{k}" for k in range(len(table))], source=name)
    if name != "valueeval23":
        raise DatasetError(f"more_labels: {name!r} is none of valueeval23, valuebench")
    theory, part = load_theory("valueeval20"), read_part("valueeval23-training")
    long = part.melt(["id", "prompt", "response"], list(theory.dimensions), "value", "stance")
    told = dict(zip(theory.dimensions, theory.definitions, strict=True))
    return long.rename(columns={"id": "pair"}).assign(
        definition=long.value.map(told), stance=long.stance * TOUCHED, split="train", source=name)


def read_more_labels(names: Iterable[str]) -> pd.DataFrame:
    """Return the labels of public sets, valueeval23 or valuebench, as `read_contrasts` gives pairs, with `source`.

    `stance` is `TOUCHED` where a value is there and nobody asked which way. A set that cannot be had is left out, with
    a warning.
    """
    columns = ["pair", "value", "definition", "prompt", "response", "stance", "split", "source"]
    tables = []
    for name in names:
        try:
            tables.append(_read_more(name)[columns])
        except SourceError as error:
            warnings.warn(f"Trained without {error}.", stacklevel=2)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def link_questionnaires(questionnaires: Iterable[str], items: Iterable[str]) -> list[str]:
    """Return the group of each item's questionnaire; those that share an item, but for case and punctuation, are one.

    >>> link_questionnaires(["A", "B", "B", "C"], ["I like art.", "I like art", "I lie.", "I sleep."])
    ['A', 'A', 'A', 'C']
    """
    questionnaires = list(questionnaires)
    group = {name: name for name in questionnaires}
    first: dict[str, str] = {}
    for name, item in zip(questionnaires, items, strict=True):
        other = group[first.setdefault(re.sub(r"\W+", " ", item.casefold()).strip(), name)]
        mine = group[name]
        group = {key: other if kept == mine else kept for key, kept in group.items()} if mine != other else group
    return [group[name] for name in questionnaires]


def _split_groups(groups: pd.Series) -> dict[str, str]:
    """Give each group a split, in the order of a hash of its name; one larger than a split's share trains."""
    sizes, split = groups.value_counts(), {}
    room = {name: share * len(groups) for name, share in SHARES.items()}
    for name in sorted(sizes.index, key=lambda name: sha256(name.encode()).hexdigest()):
        split[name] = next((part for part, left in room.items() if sizes[name] <= left), "train")
        if split[name] in room:
            room[split[name]] -= sizes[name]
    return split
