"""Trainings of the evaluator on a run's rows: the one that is kept, its calibration, folds, what is left out in turn.

Every finished piece of a long experiment is a file of its own, so a killed run goes on with the next piece.
"""

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_atomic, write_text
from fulcra_utils.common.labels import labels_of, scores_to_labels
from fulcra_utils.common.workers import SHAPE, run_jobs
from fulcra_utils.evaluator import baselines, comparison
from fulcra_utils.evaluator.baselines import LinearModel, PaperRecipe, fit_tfidf, take_rows
from fulcra_utils.evaluator.comparison import Rows
from fulcra_utils.evaluator.encoder import Encoder, is_read_in_half
from fulcra_utils.evaluator.fitting import (
    KNOBS,
    fit_evaluator,
    gather_labels,
    load_run_encoder,
    pick_device,
    pick_training_rows,
)
from fulcra_utils.evaluator.model import ValueEvaluator, save_evaluator
from fulcra_utils.evaluator.scoring import score_file
from fulcra_utils.evaluator.training import Examples, TrainingSettings
from fulcra_utils.stats.classification import macro_f1
from fulcra_utils.stats.resampling import bootstrap_means, summarise_draws
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory


def fit_recipe(train: Examples, encoder: Encoder, rows: Rows, settings: dict, seed: int,
               minutes: float) -> tuple[PaperRecipe, dict[str, float]]:
    """Train the paper's recipe on the same rows and encoder, for as many minutes as ours took, or as the settings say.

    Returned with minutes, epoch (finished part of the planned ones) and step.
    """
    knobs = TrainingSettings(epochs=settings["recipe_epochs"], batch_size=2 * settings["batch_size"],
                             encoder_rate=settings["recipe_rate"], max_minutes=_limit_recipe(settings, minutes),
                             seed=seed)
    model, clock = baselines.fit_paper_recipe(train, encoder, rows.theory, knobs, settings["max_length"])
    return model, clock.last or {"minutes": 0.0, "epoch": 0.0, "step": 0}


def _limit_recipe(settings: dict, minutes: float) -> float:
    """Return the minutes that the recipe may train; 0 = no limit."""
    return max({0: minutes, -1: 0}.get(settings["recipe_minutes"], settings["recipe_minutes"]), 0)


def keep_piece(folder: str | Path, name: str, key: dict, make, beside: Path | None = None) -> dict:
    """Return a finished piece of an experiment from its file, or make it and keep it.

    `key` is everything that shapes the piece: a file with another key is made again, as is one whose weights (`beside`)
    are gone.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = keep_piece(folder, "one", {"a": 1}, lambda: {"x": 1.0})
    ...     keep_piece(folder, "one", {"a": 1}, lambda: {"x": 2.0})
    {'x': 1.0}
    """
    path, mark = Path(folder) / f"{name}.json", digest(key)
    if path.is_file() and (beside is None or beside.exists()):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == mark:
            return kept["piece"]
    piece = make()
    write_text(path, json.dumps({"key": mark, "piece": piece}))
    return piece


def keep_evaluator(folder: str | Path, rows: Rows, settings: dict, seed: int) -> tuple[ValueEvaluator, pd.DataFrame]:
    """Return the run's evaluator and what its training reported; a finished training is loaded, not done again."""
    place = Path(folder) / "main"

    def make() -> dict:
        evaluator, history = fit_evaluator(rows, settings, seed)
        place.with_suffix(".json").unlink(missing_ok=True)    # a kill between the two leaves no mark of other weights
        save_evaluator(evaluator, place)
        return {"history": history.to_dict("list")}

    parts = [pick_training_rows(rows, split, settings) for split in ("train", "validation")]
    held_out = rows.examples(rows.where("annotated", "validation", without=settings["unseen_models"]))
    key = describe_piece("evaluator", settings, seed, load_run_encoder(settings, seed), rows.theory, *parts, held_out)
    history = keep_piece(folder, "main", key, make, place)["history"]
    evaluator = ValueEvaluator.from_pretrained(place, theory=rows.theory).to(pick_device())
    evaluator.keep_features()
    evaluator.config.theory_name, evaluator._theory_path = rows.theory.name, rows.theory.path    # may be reworded since
    return evaluator, pd.DataFrame(history)


def keep_recipe(folder: str | Path, train: Examples, encoder: Encoder, rows: Rows, settings: dict, seed: int,
                minutes: float, name: str = "recipe") -> tuple[PaperRecipe, dict[str, float]]:
    """Return the paper's recipe as `fit_recipe` trains it; a finished training is loaded, not done again."""
    key = describe_piece("recipe", settings, seed, encoder, rows.theory, train.prompts, train.responses, train.vectors,
                          _limit_recipe(settings, minutes))

    def fit() -> tuple[dict, dict]:
        model, clock = fit_recipe(train, encoder, rows, settings, seed, minutes)
        return model.state_dict(), clock

    state, clock = _keep_weights(folder, name, key, fit)
    model = PaperRecipe(encoder, rows.theory, settings["max_length"], seed)
    model.load_state_dict(state)
    return model.to(pick_device()), clock


def keep_setfit(folder: str | Path, train: Examples, encoder: Encoder, rows: Rows, settings: dict,
                seed: int) -> tuple[LinearModel, dict[str, float]]:
    """Return SetFit on the training rows, and the minutes that it took; what was tuned and read is loaded again."""
    key = describe_piece("setfit", settings, seed, encoder, rows.theory, train.prompts, train.responses, train.vectors)
    state, told = _keep_weights(folder, "setfit", key, lambda: _train_setfit(train, encoder, settings, seed))
    read, tuned = state.pop("read").numpy(), replace(encoder, model=copy.deepcopy(encoder.model).to(pick_device()))
    tuned.model.load_state_dict(state)
    return baselines.fit_setfit(train, tuned, settings["max_length"], read), told


def _train_setfit(train: Examples, encoder: Encoder, settings: dict, seed: int) -> tuple[dict, dict[str, float]]:
    """Return the weights of the tuned encoder with what it reads of the training rows, and the minutes."""
    start = time.monotonic()
    tuned = baselines.tune_setfit(train, encoder, settings["setfit_pairs"], seed)
    read = torch.from_numpy(baselines.embed_pairs(train.prompts, train.responses, tuned, settings["max_length"]))
    return {**tuned.model.state_dict(), "read": read}, {"minutes": (time.monotonic() - start) / 60}


def _keep_weights(folder: str | Path, name: str, key: dict, fit: Callable) -> tuple[dict, dict]:
    """Return the tensors by name that `fit` returns and what it told; both are loaded where they are kept."""
    place = Path(folder) / f"{name}.safetensors"

    def make() -> dict:
        state, told = fit()
        place.with_suffix(".json").unlink(missing_ok=True)
        with write_atomic(place) as tmp:
            save_file({k: v.cpu().contiguous() for k, v in state.items()}, tmp)
        return told

    told = keep_piece(folder, name, key, make, place)
    return load_file(place), told


def divide_folds(clusters: np.ndarray, is_test: np.ndarray, n_folds: int = 5, seed: int = 2023) -> np.ndarray:
    """Number N rows by fold, whole prompt clusters together; fold 0 is the test split, so its row is the same number.

    >>> divide_folds([1, 1, 2, 3], np.array([False, False, True, False]), n_folds=3).tolist()
    [1, 1, 0, 2]
    """
    ids = np.asarray(clusters)
    rest = np.unique(ids[~is_test])
    place = dict(zip(np.random.default_rng(seed).permutation(rest), np.arange(len(rest)), strict=True))
    return np.array([0 if test else 1 + place[c] % max(n_folds - 1, 1) for c, test in zip(ids, is_test, strict=True)])


def spread_tfidf(rows: Rows, n_folds: int = 5, seed: int = 2023) -> pd.DataFrame:
    """Show how far the TF-IDF baseline moves from one grouped test split of the annotated rows to the next.

    fold (a number, then "all"), n_train, n_test (replies), n_minus (test cells with the label -1), macro_f1, f1_minus;
    empty with fewer clusters than folds. An outside measurement on one split of the same rows gave 0.77.
    """
    annotated, clusters = rows.labelled("annotated"), rows.table.cluster.to_numpy()
    columns, found = ["fold", "n_train", "n_test", "n_minus", "macro_f1", "f1_minus"], []
    if len(np.unique(clusters[annotated])) < n_folds:
        return pd.DataFrame(columns=columns)
    labels = scores_to_labels(rows.vectors)
    fold, said = np.zeros(len(labels), dtype=int), np.zeros_like(labels)
    fold[annotated] = divide_folds(clusters[annotated], np.zeros(annotated.sum(), dtype=bool), n_folds + 1, seed)
    for k in range(1, n_folds + 1):
        said[fold == k] = labels_of(rows.take(fold == k).predict(fit_tfidf(rows.examples(annotated & (fold != k)))))
    for k, mine in [*((str(k), fold == k) for k in range(1, n_folds + 1)), ("all", annotated)]:
        found.append((k, (annotated & ~mine).sum() or np.nan, mine.sum(), (labels[mine] == -1).sum(),
                      macro_f1(labels[mine], said[mine]), comparison.name_f1(labels[mine], said[mine])["f1_minus"]))
    return pd.DataFrame(found, columns=columns)


def learn_from_less(rows: Rows, settings: dict, target: Target, seed: int,
                    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)) -> pd.DataFrame:
    """Train the TF-IDF baseline on growing shares of the training prompts: does more of the same data still help?

    rows ("annotated": the test split; "unseen model": new prompts, against the authors' scores), measure ("macro_f1",
    "distance_r"), share (a smaller one is part of a larger one), n_train, n_minus (training cells that say -1), n_test,
    value, low, high (95 %, over prompt clusters). Empty without rows.
    """
    table, unseen, found = rows.table, settings["unseen_models"], []
    tested = {"annotated": rows.labelled("annotated", "test"), "unseen model":
              rows.where("scored", "test", unseen) & ~rows.like(rows.where(split="train", without=unseen))}
    own = table.cluster[table.split == "train"].drop_duplicates().sample(frac=1, random_state=seed).tolist()
    for share in shares:
        kept = table.cluster.isin(own[:max(1, round(share * len(own)))]).to_numpy()
        train = pick_training_rows(rows.take(kept), "train", settings)
        if not np.isfinite(train.vectors).any():
            continue
        model, n_minus = fit_tfidf(train), int((scores_to_labels(train.vectors) == -1).sum())
        for name, chosen in tested.items():
            told = _judge(rows.take(chosen), rows.take(chosen).predict(model), target, settings, seed)
            found += [(name, measure, share, len(train), n_minus, told["n"], *(told[end] for end in ends))
                      for measure, ends in _ENDS.items() if measure in told]
    return pd.DataFrame(found, columns=["rows", "measure", "share", "n_train", "n_minus", "n_test", "value", "low",
                                        "high"])


def cross_validate(rows: Rows, settings: dict, seed: int, folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare all methods over grouped folds of the annotated rows, pooled, one finished fold a file; empty for one
    fold.

    Returns `compare_methods` with minutes (training, all folds), and `measure_calibration` of ours, over all folds
    together. Models of folds other than the first see prompts of the test split: they serve this table only and are
    thrown away. Scored rows stay those of the models that the kept evaluator learns from.
    """
    if settings["folds"] < 2:
        return pd.DataFrame(), pd.DataFrame()
    table, annotated = rows.table, rows.labelled("annotated")
    fold = divide_folds(table.cluster, (table.split == "test").to_numpy(), settings["folds"], seed)
    people = set(table.model[annotated])
    used = settings | {"unseen_models": [m for m in settings["unseen_models"] if m not in people]}
    others = [load_run_encoder(settings, seed, settings[name]) for name in ("recipe_encoder", "setfit_encoder")]
    key = describe_piece("fold", used, seed, load_run_encoder(settings, seed), rows.theory, tell_rows(rows),
                         [(other.model, other.tokenizer) for other in others])
    jobs = [(folder, f"fold-{k}", key | {"fold": k}, partial(_run_fold, rows, annotated, fold, k, used, seed))
            for k in range(settings["folds"])]
    pieces = run_jobs(keep_piece, jobs, settings["workers"], "folds")
    order = np.concatenate([p["rows"] for p in pieces])
    pooled = {name: np.concatenate([p["probabilities"][name] for p in pieces]) for name in pieces[0]["probabilities"]}
    cuts = np.repeat([p["cuts"] for p in pieces], [len(p["rows"]) for p in pieces], axis=0)      # (N, D, 2)
    labels = scores_to_labels(rows.vectors[order])
    found = comparison.compare_methods(labels, pooled, table.cluster.to_numpy()[order], cuts=cuts,
                                       n_draws=settings["n_draws"], seed=seed)
    return (found.assign(minutes=[sum(p["minutes"][name] for p in pieces) for name in found.method]),
            comparison.measure_calibration(pooled["ours"], labels, rows.theory.dimensions))


def describe_piece(kind: str, settings: dict, seed: int, encoder: Encoder, theory: Theory, *data) -> dict:
    """Return all that shapes a kept piece: the settings it reads, the encoder's weights, its rows, the code behind it.

    Threads and workers are left out: they move the last digits of a sum.
    """
    maker, names = _KINDS[kind]
    words = () if kind == "setfit" else (
        theory.dimensions, theory.definitions, theory.labels if "recipe_rate" in names else ())
    pairs = gather_labels(settings).to_dict("list") if "contrasts" in names else ()
    return {"settings": {name: settings.get(name) for name in names}, "seed": seed, "code": digest_code(maker),
            "encoder": digest(encoder.model, encoder.tokenizer, is_read_in_half(encoder.model) and SHAPE),
            "data": digest(words, data, pairs)}


def tell_rows(rows: Rows, *more: str) -> list:
    """Return all of the rows that shapes a training on them, for a key."""
    columns = ["prompt", "response", "model", "kind", "cluster", "split", *more]
    return [rows.vectors, rows.table[columns].to_dict("list")]


def _run_fold(rows: Rows, annotated: np.ndarray, fold: np.ndarray, k: int, settings: dict, seed: int) -> dict:
    """Train every method without fold `k`; a tenth of the other clusters stops ours."""
    inner = divide_folds(rows.table.cluster, fold == k, 11, seed + k + 1)     # 0 = held out, 1 = validation
    split = np.select([inner == 0, inner == 1], ["test", "validation"], "train")
    relabelled, held_out = replace(rows, table=rows.table.assign(split=split)), annotated & (fold == k)
    train, test = pick_training_rows(relabelled, "train", settings), rows.take(held_out)
    models, minutes, length = {}, {}, settings["max_length"]
    encoder, smaller, sentences = (load_run_encoder(settings, seed, settings[name])
                                   for name in ("encoder", "recipe_encoder", "setfit_encoder"))
    makers = {"ours": lambda: fit_evaluator(relabelled, settings, seed)[0],
              "majority": lambda: baselines.fit_majority(train), "TF-IDF + logistic": lambda: fit_tfidf(train),
              "frozen encoder + logistic": lambda: baselines.fit_frozen(train, encoder, rows.theory, length),
              "paper recipe": lambda: fit_recipe(train, smaller, rows, settings, seed, minutes["ours"])[0],
              "SetFit": lambda: baselines.fit_setfit(
                  train, baselines.tune_setfit(train, sentences, settings["setfit_pairs"], seed), length)}
    for name, make in makers.items():
        start = time.monotonic()
        models[name] = make()
        minutes[name] = (time.monotonic() - start) / 60
    return {"rows": np.flatnonzero(held_out).tolist(), "minutes": minutes, "cuts": models["ours"].cuts.tolist(),
            "probabilities": {name: test.predict(model).round(6).tolist() for name, model in models.items()}}


def leave_out(rows: Rows, settings: dict, seed: int, folder: str | Path,
              target: Target) -> tuple[pd.DataFrame, np.ndarray]:
    """Train again without one model, one prompt source, one value, or without the authors' scores, and judge there.

    `left_out` lists these in turn. Only where a scored model is left out do the authors' scores teach: what is judged
    by labels learns from labels alone. Finished predictions are kept, so that judging them again costs seconds. Returns
    left_out, name, rows (which of its rows), n, macro_f1, low, high; distance_r, convergent, discriminant (correlations
    with the authors' scores) with _low and _high, nan where labels judge; and the Spearman correlations (D, D) with the
    authors' scores by the training without them, nan without.
    """
    encoder, left, jobs = load_run_encoder(settings, seed), _list_left_out(rows, settings["left_out"]), []
    for what, name in left:
        is_scored = (rows.table.kind[rows.table.model == name] == "scored").any()
        used = settings | {"unseen_models": [], "scored_weight": settings["scored_weight"] if is_scored else 0}
        key = describe_piece("left out", used, seed, encoder, rows.theory, what, name,
                              tell_rows(rows, *[what] * (what == "query_source")))
        slug = hashlib.sha256(f"{what}/{name}".encode()).hexdigest()[:12]
        jobs.append((folder, f"without-{what}-{slug}", key, partial(_leave_one_out, rows, what, name, used, seed)))
    found, matrix = [], np.full((rows.theory.n_dims,) * 2, np.nan)
    for (what, name), piece in zip(left, run_jobs(keep_piece, jobs, settings["workers"], "left out"), strict=True):
        said, mine = np.full((*rows.vectors.shape, 3), np.nan), piece["rows"]
        said[mine] = piece["probabilities"]
        looked_at = [what != "value" or d == name for d in rows.theory.dimensions]
        judged = replace(rows, vectors=np.where(looked_at, rows.vectors, np.nan))
        found += [{"left_out": what, "name": name, "rows": where,
                   **_judge(judged.take(chosen), said[chosen], target, settings, seed, piece["cuts"])}
                  for where, chosen in _divide(rows, what, name)[1].items() if chosen.any()]
        if what == "scores":
            matrix, _ = comparison.measure_validity(said[mine][..., 2] - said[mine][..., 0], rows.vectors[mine],
                                                    rows.table.cluster[mine], n_draws=1)
    return pd.DataFrame(found).rename(columns={"macro_f1_low": "low", "macro_f1_high": "high"}), matrix


def _list_left_out(rows: Rows, wanted: list[str]) -> list[tuple[str, str]]:
    annotated, scored = rows.labelled("annotated"), rows.where("scored")
    touched = (np.abs(rows.vectors[annotated]) > 0).sum(0)
    names = {"model": sorted(set(rows.table.model[annotated | scored])),
             "query_source": sorted(set(rows.table.query_source[annotated])),
             "value": [d for d, n in zip(rows.theory.dimensions, touched, strict=True) if n >= 50],
             "scores": ["released scores"] if scored.any() else []}
    return [(what, name) for what in wanted for name in names[what] if what == "scores" or len(names[what]) > 1]


def _leave_one_out(rows: Rows, what: str, name: str, settings: dict, seed: int) -> dict[str, list]:
    """Train without it and return what is said of the rows it is judged by."""
    kept, tests = _divide(rows, what, name)
    evaluator, _ = fit_evaluator(kept, settings, seed, without=[name] if what == "value" else ())
    judged = np.any(list(tests.values()), axis=0)
    return {"rows": np.flatnonzero(judged).tolist(), "cuts": evaluator.cuts.tolist(),
            "probabilities": rows.take(judged).predict(evaluator).round(6).tolist()}


def _divide(rows: Rows, what: str, name: str) -> tuple[Rows, dict[str, np.ndarray]]:
    """Return the rows without what is left out, and which rows judge a training on them."""
    table = rows.table
    if what == "value":
        kept = replace(rows, vectors=np.where(np.array(rows.theory.dimensions) == name, np.nan, rows.vectors))
        return kept, {"annotated test split": rows.where("annotated", "test")}
    if what == "scores":
        return rows, {f"scored by the authors, {model}": rows.where("scored", "test", [model])
                      for model in sorted(set(table.model[rows.where("scored")]))}
    mine = (table[what] == name).to_numpy()
    same = rows.like(~mine & table.split.isin(["train", "validation"]).to_numpy())
    return rows.take(~mine), {
        f"{kind}, {which}": mine & part & rows.where(kind)
        for kind in ("annotated", "scored") for which, part in (("same prompts", same), ("new prompts", ~same))}


def _judge(rows: Rows, p: np.ndarray, target: Target, settings: dict, seed: int, cuts: list | None = None) -> dict:
    """Hold probabilities (N, D, 3) against the scores of the rows, or against their labels; empty without rows."""
    truth, clusters, draws = rows.vectors, rows.table.cluster, (settings["n_draws"], seed)
    if not len(p):
        return {}
    if (rows.table.kind == "scored").all():
        scores = p[..., 2] - p[..., 0]
        found = comparison.agree_with_scores(scores, truth, clusters, rows.theory, target, *draws)
        return {"n": len(p), **{end: found[end] for ends in _ENDS.values() for end in ends},
                **comparison.measure_validity(scores, truth, clusters, *draws)[1]}
    table = comparison.compare_methods(scores_to_labels(truth), {"ours": p}, clusters, cuts, *draws)
    return {"n": len(p), **dict(zip(_ENDS["macro_f1"], table.loc[0, ["macro_f1", "low", "high"]], strict=True))}


def judge_unseen(evaluator: ValueEvaluator, others: dict, rows: Rows, settings: dict, target: Target,
                 seed: int) -> pd.DataFrame:
    """Hold scores of the unseen models' replies against the authors' scores, or against labels where there are none.

    Cut ±0.3 and Euclidean distance as released; `others` are judged on new prompts only, at most 400 replies a row are
    drawn. Returns method, rows (new or same prompts), and as `agree_with_scores`; empty when the unseen models have no
    rows.
    """
    unseen, found = settings["unseen_models"], []
    seen = rows.like(rows.where(split="train", without=unseen))
    kind, word = ("scored", "authors' scores") if rows.where("scored", models=unseen).any() else ("annotated", "labels")
    for where, split, part in (("new prompts", "test", ~seen), ("same prompts", "train", seen)):
        chosen = rows.labelled(kind, split) & rows.where(models=unseen) & part
        pairs, clusters = take_rows(rows.examples(chosen), rows.table.cluster.to_numpy()[chosen], 400, seed)
        for name, model in {"ours": evaluator, **(others if split == "test" else {})}.items() if len(pairs) else ():
            n = settings["recipe_rows"] if name.startswith("paper recipe") else 0
            mine, ids = take_rows(pairs, clusters, n or len(pairs), seed)
            p = model.predict_proba(mine.prompts, mine.responses)
            found.append({"method": name, "rows": f"{where}, {word}", **comparison.agree_with_scores(
                p[..., 2] - p[..., 0], mine.vectors, ids, rows.theory, target, settings["n_draws"], seed)})
    return pd.DataFrame(found, columns=None if found else ["method", "rows", "n", "macro_f1", "distance_r"])


def correlate_unseen(evaluator: ValueEvaluator, rows: Rows, settings: dict,
                     seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """Correlate our scores with the authors' on test prompts, over the unseen models' replies where there are any.

    As `measure_validity`, nan without scored rows; and n (replies).
    """
    chosen = rows.where("scored", "test", settings["unseen_models"])
    part = rows.take(chosen if chosen.any() else rows.where("scored", "test"))
    p, draws = part.predict(evaluator), (settings["n_draws"], seed)
    matrix, found = comparison.measure_validity(p[..., 2] - p[..., 0], part.vectors, part.table.cluster, *draws)
    return matrix, {"n": len(p), **found}


def compare_means(evaluator: ValueEvaluator, rows: Rows, settings: dict, target: Target, seed: int) -> pd.DataFrame:
    """Return the unseen model's mean scores and mean Euclidean distance by our evaluator, as claims with intervals.

    The claims are the means of the authors' evaluator over its released scores, whether or not data/reported holds
    those of this model; empty without released scores.
    """
    found = []
    for model in settings["unseen_models"]:
        chosen = rows.where("scored", "test", [model])
        if not chosen.any():
            continue
        pairs = rows.examples(chosen)
        scores = evaluator.score(pairs.prompts, pairs.responses)
        numbers = np.column_stack([scores, value_distance(scores, target, order=2)])
        draws = bootstrap_means(numbers, rows.table.cluster[chosen], settings["n_draws"], seed)
        names = [f"evaluator/mean/{model}/{v}" for v in rows.theory.dimensions] + [f"evaluator/distance/{model}"]
        found += [(name, *summarise_draws(column.mean(), drawn).values())
                  for name, column, drawn in zip(names, numbers.T, draws.T, strict=True)]
    return pd.DataFrame(found, columns=["claim_id", "ours", "low", "high"])


def compare_models(evaluator: ValueEvaluator, rows: Rows, target: Target, folder: str | Path,
                   settings: dict, seed: int) -> tuple[pd.DataFrame, tuple[str, str] | None]:
    """Score the test replies of the two models that share most prompts through files in `folder`, and compare them.

    As `compare_files`, and released: the same difference by the authors' own scores (nan where there are none); then
    the two models. Empty and None when no two models share a prompt.
    """
    shared = rows.table[rows.where(split="test")].groupby("prompt").model.unique()
    pairs = [(a, b) for models in shared for a in models for b in models if a < b]
    if not pairs:
        return pd.DataFrame(columns=["value", "n", "difference", "low", "high", "sd", "released"]), None
    best = max(sorted(set(pairs)), key=pairs.count)
    both = rows.table.prompt.isin(shared.index[shared.map(lambda models: set(best) <= set(models))]).to_numpy()
    means = []
    for place, model in enumerate(best):
        mine, given = rows.where(None, "test", [model]) & both, rows.where("scored", "test", [model]) & both
        texts = rows.table[mine][["prompt", "response"]].to_json(orient="records", lines=True, force_ascii=False)
        source = write_text(Path(folder) / f"model-{place}.jsonl", texts)
        score_file(evaluator, source, source.with_name(f"scored-{place}.jsonl"))
        means.append(rows.vectors[given].mean(axis=0) if given.any() else np.full(rows.theory.n_dims, np.nan))
    found = comparison.compare_files(*(Path(folder) / f"scored-{place}.jsonl" for place in (0, 1)), target)
    released = pd.Series(means[1] - means[0], rows.theory.dimensions)
    return found.assign(released=found["value"].map(released)), best


_ENDS = {name: [f"{name}{end}" for end in comparison.ENDS] for name in ("macro_f1", "distance_r")}
_EVALUATOR = ("max_length", "word_buckets", "contrasts", "more_labels", *KNOBS)
_RECIPE = ("recipe_rate", "recipe_epochs", "batch_size", "max_length")
_KINDS = {"evaluator": (fit_evaluator, _EVALUATOR), "recipe": (fit_recipe, _RECIPE),
          "setfit": (_train_setfit, ("setfit_pairs", "max_length")),
          "fold": (_run_fold, (*_EVALUATOR, *_RECIPE, "recipe_minutes", "recipe_encoder", "setfit_encoder",
                               "setfit_pairs", "unseen_models", "scored_weight", "folds")),
          "left out": (_leave_one_out, (*_EVALUATOR, "scored_weight"))}
