"""Fitting an evaluator: what trains, stops and calibrates it; on a run's rows, or on a file of labelled rows (`train`).

The file goes the way of the pipeline: near-duplicate prompts share a cluster, clusters are split 60/10/10/20, so that
one file under one theory with the same settings and seed gives the weights that notebook 03 gives.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fulcra_utils.common.files import check_output, lock_output, write_folder
from fulcra_utils.common.labels import scores_to_labels
from fulcra_utils.dataset.benchmarks import read_more_labels
from fulcra_utils.dataset.construction import find_clashes, find_doubles
from fulcra_utils.dataset.contrasts import is_akin, read_contrasts
from fulcra_utils.dataset.labelled import ValueDataset, read_dataset
from fulcra_utils.dataset.splits import assign_splits, group_prompts
from fulcra_utils.evaluator.baselines import fit_majority, fit_tfidf, take_rows
from fulcra_utils.evaluator.comparison import Rows, collect_rows, compare_methods, measure_calibration
from fulcra_utils.evaluator.encoder import Encoder, load_encoder
from fulcra_utils.evaluator.explanation import audit_replies, write_card
from fulcra_utils.evaluator.model import EvaluatorError, ValueEvaluator, make_evaluator, read_config
from fulcra_utils.evaluator.scoring import FOREIGN, is_foreign
from fulcra_utils.evaluator.training import Examples, TrainingSettings, join_examples, train_evaluator
from fulcra_utils.stats.classification import fit_conformal, fit_cuts, fit_temperatures, rescale, tabulate_support
from fulcra_utils.theory.theory import Theory, load_theory

DEFAULTS = {  # those of the laptop profile
    "encoder": "mpnet", "encoder_revision": "", "max_length": 192, "head_epochs": 12, "head_rate": 1e-3, "epochs": 0,
    "frozen_layers": 0, "batch_size": 16, "encoder_rate": 7e-5, "class_power": 0.5,
    "word_buckets": 65536, "average": 0.99, "scored_weight": 0.0, "unseen_models": [], "patience": 3,
    "evaluations_per_epoch": 1, "contrasts": 900, "more_labels": [], "level": 0.9}
# of a text beside a row's 1; a contrast pair counts once more as a pair
WEIGHTS = {"contrasts": 0.2, "valueeval23": 0.1, "valuebench": 0.3}
ABSENT = 0.005  # of "0" for the values that a pair is not about
KNOBS = [f.name for f in fields(TrainingSettings) if f.name != "seed"]    # of a profile's section, those of a training
USES = {"train": "train", "validation": "stop and calibrate the training", "calibration": "set its label sets",
        "test": "test it"}


class FittingError(ValueError):
    """Rows or a folder that no evaluator can be trained from or into; the message is one sentence."""


def pick_device() -> str:
    """Return where models run: "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_run_encoder(settings: dict, seed: int = 0, name: str = "") -> Encoder:
    """Load the encoder that a profile's section names, or another one."""
    own = not name or name == settings["encoder"]
    return load_encoder(name or settings["encoder"], settings["encoder_revision"] or None if own else None, seed)


def pick_training_rows(rows: Rows, split: str, settings: dict) -> Examples:
    """Return the rows of a split that training may see: annotated ones weigh 1, scored `scored_weight`."""
    weights = {"annotated": 1.0, "scored": settings["scored_weight"]}
    allowed = rows.where(without=settings["unseen_models"])
    return join_examples(*(rows.examples(rows.labelled(kind, split) & allowed, weight)
                           for kind, weight in weights.items() if weight))


def gather_labels(settings: dict, without: Collection[str] = ()) -> pd.DataFrame:
    """Return the labels of single values that teach beside a run's rows: contrast pairs and the sets in `more_labels`.

    Columns as `read_contrasts`, with weight; values akin to those in `without` are left out, whatever theory has them.
    """
    tables = [read_contrasts(n_pairs=settings["contrasts"]).assign(source="contrasts"),
              read_more_labels(settings["more_labels"])]
    table = pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)
    akin = {value for value in set(table.value) if is_akin(value, without)}
    return table[~table.value.isin(akin)].assign(weight=table.source.map(WEIGHTS))


def list_values(theory: Theory, labels: pd.DataFrame) -> list[tuple[str, str]]:
    """Return name and definition of the theory's values, then those that labels are about and the theory has not."""
    own = zip(theory.dimensions, theory.definitions, strict=True)
    return list(dict.fromkeys([*own, *zip(labels.value, labels.definition, strict=True)]))


def pick_own(theory: Theory, labels: pd.DataFrame) -> pd.DataFrame:
    """Return the labels of the theory's own values; one of another definition is another value."""
    own = set(zip(theory.dimensions, theory.definitions, strict=True))
    keys = zip(labels.value, labels.definition, strict=True)
    return labels[np.array([key in own for key in keys], dtype=bool)].reset_index(drop=True)


def pick_labels(labels: pd.DataFrame, values: list[tuple[str, str]], split: str, absent: float = 0) -> Examples:
    """Return the texts of a split of `gather_labels` as examples with a column for each of the values (`list_values`).

    What tramples in a pair is the partner of what serves. With `absent` the texts of a pair are 0 for all values that
    pairs are about and that are not akin to its own. Nobody labelled these and some are touched, so they weigh
    `absent`, and as much as a label only in an unrelated reply.
    """
    table = labels[labels.split == split]
    row = table.groupby(["pair", "prompt", "response"], sort=False).ngroup().to_numpy()
    place = {value: d for d, value in enumerate(values)}
    texts = table[~pd.Series(row).duplicated().to_numpy()].reset_index(drop=True)
    vectors = np.full((len(texts), len(values)), np.nan)
    vectors[row, [place[key] for key in zip(table.value, table.definition, strict=True)]] = table.stance
    weights = np.repeat(texts.weight.to_numpy(float)[:, None], len(values), axis=1)
    pairs = texts[(texts.source == "contrasts") & (absent > 0)]
    asked = dict(zip(pairs.value, zip(pairs.value, pairs.definition, strict=True), strict=True))
    for value, group in pairs.groupby("value"):
        others = [place[key] for other, key in asked.items() if not is_akin(other, {value})]
        vectors[np.ix_(group.index, others)] = 0
        weights[np.ix_(group.index, others)] = np.where(group.stance == 0, group.weight, absent)[:, None]
    trampling = texts.index[texts.stance == -1]
    partner = texts.pair.map(dict(zip(texts.pair[trampling], trampling, strict=True))).where(texts.stance == 1)
    return Examples(texts.prompt.tolist(), texts.response.tolist(), vectors, weights,
                    partner.fillna(-1).to_numpy(int))


def _join_labels(examples: Examples, labels: Examples) -> Examples:
    more = (0, 0), (0, labels.vectors.shape[1] - examples.vectors.shape[1])
    return join_examples(replace(examples, vectors=np.pad(examples.vectors, more, constant_values=np.nan),
                                 weights=np.pad(examples.weigh_cells(), more)), labels)


def fit_evaluator(rows: Rows, settings: dict, seed: int, progress: bool = True,
                  without: Collection[str] = ()) -> tuple[ValueEvaluator, pd.DataFrame]:
    """Train an evaluator on the rows of the split train; those of validation stop it and set its temperatures and cuts.

    The labels of `gather_labels` join them. Returned with what the training reported.
    """
    labels = gather_labels(settings, without)
    values = list_values(rows.theory, labels)
    train, validation = (
        _join_labels(pick_training_rows(rows, split, settings), pick_labels(labels, values, split, absent))
        for split, absent in (("train", ABSENT), ("validation", 0)))
    taught, own = np.flatnonzero(np.isfinite(train.vectors).any(0)), train.vectors[:, :rows.theory.n_dims]
    weights = train.weights[:, :rows.theory.n_dims]
    own = np.where(weights > ABSENT, own, np.nan)       # words take what nobody labelled too far
    train, validation = (replace(part, vectors=part.vectors[:, taught], weights=part.weights[:, taught])
                         for part in (train, validation))
    names = [f"{values[k][0]} ({k})" if k >= rows.theory.n_dims else values[k][0] for k in taught]
    wide = replace(rows.theory, dimensions=tuple(names), definitions=tuple(values[k][1] for k in taught))
    evaluator = make_evaluator(load_run_encoder(settings, seed), wide, settings["max_length"], seed,
                               settings["word_buckets"], keep=True).to(pick_device())
    evaluator.config.taught = [list(values[k]) for k in taught]
    knobs = TrainingSettings(**{name: settings[name] for name in KNOBS if name in settings}, seed=seed)
    history = train_evaluator(evaluator, train, validation, knobs, progress)
    evaluator = evaluator.for_theory(rows.theory)
    evaluator.fit_words(train.prompts, train.responses, scores_to_labels(own), weights)
    held_out = rows.take(rows.where("annotated", "validation", without=settings["unseen_models"]))
    plain, labels = held_out.predict(evaluator), scores_to_labels(held_out.vectors)
    temperatures = fit_temperatures(np.log(np.maximum(plain, 1e-12)), labels)
    evaluator.temperature[:] = torch.from_numpy(temperatures).to(evaluator.temperature)
    warm = rescale(plain, temperatures)
    evaluator.config.cuts = fit_cuts(warm[..., 2] - warm[..., 0], labels).tolist()
    return evaluator, history


def fit_label_sets(evaluator: ValueEvaluator, calibration: Examples, level: float) -> np.ndarray:
    """Fit conformal limits (D, 3) at a coverage `level` and keep them in the evaluator's config; nan = too few cases.

    The rows must neither have trained, stopped nor calibrated it.
    """
    probabilities = evaluator.predict_proba(calibration.prompts, calibration.responses)
    limits = fit_conformal(probabilities, scores_to_labels(calibration.vectors), level)
    evaluator.config.conformal = [[float(x) if np.isfinite(x) else None for x in row] for row in limits]
    evaluator.config.conformal_level = level
    return limits


@dataclass(frozen=True)
class TrainingReport:
    """What `train_file` did: where the evaluator is, rows, of them not used in full, the first 20 reasons, what else is
    to be known of rows and values, quality.
    """

    folder: Path
    n_rows: int
    n_unusable: int
    problems: list[str]
    notes: list[str]
    quality: dict[str, float]

    def describe(self) -> str:
        """Say where the evaluator is, how good it is on prompts that it never saw, and how to use it."""
        q = self.quality
        return (f"The evaluator is in {self.folder}: macro-F1 {q['macro_f1']:.3f} [{q['low']:.3f}, {q['high']:.3f}] on "
                f"{q['n_replies']:,} replies to {q['n_prompts']:,} prompts that it never saw (95 % interval over "
                f"prompts; TF-IDF {q['tfidf']:.3f}, commonest label {q['majority']:.3f}).\n"
                f"{self.n_unusable:,} of {self.n_rows:,} rows could not be used in full.\n"
                f"Use it: fulcra score --evaluator {self.folder} --input rows.jsonl --output scored.jsonl")


def train_file(source: str | Path, theory: Theory | str, folder: str | Path, encoder: str = "mpnet",
               epochs: float = 0, seed: int = 2023, overwrite: bool = False, progress: bool = False,
               say: Callable[[str], object] = lambda text: None, **settings) -> TrainingReport:
    """Train an evaluator of a theory on a file of labelled rows, and save it with its card; the folder appears whole.

    The rows are read by `read_dataset`; `settings` stand in for `DEFAULTS`, `encoder` is as for `load_encoder`. Before
    training `say` gets the numbers of rows and an estimate of the minutes. Raises a ValueError of one line, and writes
    nothing, when the rows carry no labels of this theory, one label only, or too few prompts for training, validation
    and test prompts of their own, and when the folder holds something else, or an evaluator without `overwrite`.

    >>> import tempfile
    >>> from fulcra_utils.dataset.construction import locate_sample
    >>> source, _ = locate_sample(load_theory("moral_foundations"))
    >>> with tempfile.TemporaryDirectory() as base:
    ...     report = train_file(source, "moral_foundations", base + "/mine", "tiny", epochs=1, contrasts=2)
    ...     ValueEvaluator.from_pretrained(report.folder).score(["May I lie?"], ["Better not."]).shape
    (1, 5)
    """
    source, folder, theory = Path(source), Path(folder), load_theory(theory)
    if unknown := settings.keys() - DEFAULTS.keys():
        raise FittingError(f"No setting is called {min(unknown)!r}; there are {', '.join(DEFAULTS)}")
    settings = DEFAULTS | settings | {"encoder": encoder, "epochs": epochs}
    _check_folder(folder, source, overwrite)
    rows, data = read_labelled_rows(source, theory, seed)
    known = _check_rows(rows, data, source)
    parts = {split: known.examples(known.where(split=split)) for split in USES}
    say(f"{len(data.table):,} rows read: {', '.join(f'{len(parts[split]):,} {use}' for split, use in USES.items())}. "
        f"About {max(estimate_minutes(known, settings, seed), 0.1):.1f} minutes on {pick_device()}"
        + (f", for at most {epochs:g} passes." if epochs else "."))
    with lock_output(folder):
        evaluator, _ = fit_evaluator(rows, settings, seed, progress=progress)
        fit_label_sets(evaluator, parts["calibration"], settings["level"])
        clusters = known.table.cluster[known.where(split="test")]
        comparison, errors = _judge_fit(evaluator, parts["train"], parts["test"], clusters, seed)
        support = tabulate_support(scores_to_labels(known.vectors), theory.dimensions, *(
            scores_to_labels(parts[split].vectors) for split in ("test", "calibration")))
        audit = audit_replies(evaluator, parts["test"].prompts[:5], theory)
        with write_folder(folder) as new:
            evaluator.save_pretrained(new)
            write_card(new, theory=theory, settings=settings, n_train=len(parts["train"]),
                       n_more=count_texts(gather_labels(settings)).get("train", 0), comparison=comparison,
                       errors=errors, support=support, audit=audit,
                       terms=f"It was trained on {source.name}: whoever uses the weights keeps its terms.")
    f1 = comparison.set_index("method").macro_f1
    quality = {**comparison.iloc[0][["macro_f1", "low", "high"]], "n_replies": len(parts["test"]),
               "n_prompts": len(set(parts["test"].prompts)), "tfidf": f1["TF-IDF + logistic"],
               "majority": f1["majority"]}
    faults = data.problems[data.problems.reason.str.contains("set aside|dropped|no label")]
    told = [f"line {r.line}, {r.field}: {r.reason}" + f" ({r.text})" * bool(r.text) for r in faults[:20].itertuples()]
    foreign = [row.line for row in data.table.itertuples() if is_foreign(row.prompt, row.response)]
    notes = [f"{len(foreign):,} rows (first: line {line}) are marked when scored: {FOREIGN}" for line in foreign[:1]]
    n_again = int(data.table.duplicated(["prompt", "response"]).sum())
    left = {"rows that repeat a reply, which counts once": n_again,
            "rows whose prompt is too near to another split's to stand in one":
                len(data.table) - n_again - len(rows.table)}
    notes += [f"left out, {why}: {n:,}" for why, n in left.items() if n]
    return TrainingReport(folder, data.n_read, faults.line.nunique(), told, [*notes, *evaluator.borrowed], quality)


def read_labelled_rows(source: str | Path, theory: Theory, seed: int = 2023) -> tuple[Rows, ValueDataset]:
    """Read a labelled file as the rows of a run, each reply once, split by clusters of near-duplicate prompts."""
    data = read_dataset(source, theory)
    if data.table.empty:
        why = ", ".join(f"line {p.line}: {p.reason}" for p in data.problems.head(1).itertuples()) or "it holds none"
        raise FittingError(f"{source}: no row can be used ({why})")
    table = data.table.astype({"prompt": object, "response": object})
    table = table.join(pd.DataFrame(data.vectors, columns=theory.dimensions))
    if (clash := find_clashes(table, theory.dimensions)).any():
        lines = ", ".join(map(str, table.line[clash].head(3)))
        raise FittingError(f"{source}: {clash.sum()} rows (first: lines {lines}) label a reply otherwise than another "
                           "row does: give each reply one row with all its labels")
    table = table[~find_doubles(table, theory.dimensions)]
    codes, unique = pd.factorize(table.prompt)
    splits = assign_splits(table.prompt, group_prompts(unique)[codes], seed)
    # a prompt between two clusters stands in no split
    return collect_rows({"annotated": table.merge(splits, on="prompt", how="left")}, theory), data


def _check_folder(folder: Path, source: Path, overwrite: bool) -> None:
    check_output(folder / "config.json")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            read_config(folder)
        except EvaluatorError:
            raise FittingError(f"{folder} holds other files: give the evaluator a folder of its own") from None
        if not overwrite:
            raise FittingError(f"{folder} holds an evaluator: choose another folder, or replace it with --overwrite")
    if folder.resolve() in source.resolve().parents:
        raise FittingError(f"{folder} holds the rows: give the evaluator a folder of its own")


def _check_rows(rows: Rows, data: ValueDataset, source: Path) -> Rows:
    """Return the rows that have a label; FittingError when no evaluator can be trained on them."""
    theory, known = rows.theory, rows.take(rows.labelled())
    foreign = data.problems[data.problems.reason.str.contains(r"is no (?:item|dimension) of")]
    if len(foreign) and not (np.abs(known.vectors) > 0).any():
        row = foreign.iloc[0]
        raise FittingError(f"{source}, line {row.line}, {row.field}: {row.text!r} is no value of {theory.name}, nor is "
                           f"any other label (--theory); its values are {', '.join(theory.dimensions)}")
    if known.table.empty:
        raise FittingError(f"{source}: no row has a label; give value_types or value_items, as in data/sample")
    for split in ("train", "validation", "test"):
        if not known.where(split=split).any():
            n_prompts, n_groups = rows.table[["prompt", "cluster"]].nunique()
            raise FittingError(f"{source}: {n_prompts} prompts ({n_groups} groups of near-duplicates) are too few: "
                               f"none with a label is left for {split}; 30 or more different ones are needed")
    found = np.unique(known.vectors[known.where(split="train")])
    if np.isfinite(found).sum() < 2:
        raise FittingError(f"{source}: every label of the training rows is {found[0]:+.0f}: an evaluator learns from "
                           "two or more")
    return known


def count_texts(labels: pd.DataFrame) -> pd.Series:
    """Return how many texts of `gather_labels` stand in each split."""
    return labels.drop_duplicates(["pair", "response"]).split.value_counts()


def estimate_minutes(rows: Rows, settings: dict, seed: int) -> float:
    """Return about how many minutes a training takes, from the time that a token of 16 of its rows needs."""
    evaluator = make_evaluator(load_run_encoder(settings, seed), rows.theory, settings["max_length"], seed=seed)
    evaluator.to(pick_device())
    some, _ = take_rows(rows.examples(rows.where()), rows.table.cluster, 16, seed)
    more = gather_labels(settings).drop_duplicates(["pair", "response"])
    more = more[more.split.isin(["train", "validation"])]

    def count_tokens(prompts: list[str], responses: list[str]) -> np.ndarray:
        return np.array([len(pair["input_ids"]) for pair in evaluator.render(prompts, responses)], int)

    evaluator.predict_proba(some.prompts[:2], some.responses[:2])    # what is paid once
    start = time.perf_counter()
    evaluator.predict_proba(some.prompts, some.responses, batch_size=4)     # so that all cores have a batch
    each = (time.perf_counter() - start) / count_tokens(some.prompts, some.responses).sum()
    n = pd.Series(count_tokens(*(rows.table[name].tolist() for name in ("prompt", "response"))), rows.table.split)
    n = pd.concat([n, pd.Series(count_tokens(more.prompt.tolist(), more.response.tolist()), more.split)])
    n = n.groupby(level=0).sum()
    return each * (n.sum() + settings["epochs"] * (3 * n["train"] + n["validation"])) / 60      # backward: twice


def _judge_fit(evaluator: ValueEvaluator, train: Examples, test: Examples, clusters: np.ndarray, seed: int) -> tuple:
    """Return ours beside simple methods on the test rows, and ours alone value by value."""
    methods = {"ours": evaluator, "majority": fit_majority(train), "TF-IDF + logistic": fit_tfidf(train)}
    said = {name: model.predict_proba(test.prompts, test.responses) for name, model in methods.items()}
    labels = scores_to_labels(test.vectors)
    comparison = compare_methods(labels, said, clusters, cuts=evaluator.cuts, seed=seed)
    return comparison, measure_calibration(said["ours"], labels, evaluator.dimensions)
