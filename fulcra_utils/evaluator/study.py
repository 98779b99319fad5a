"""Trainings of the evaluator on a run's rows: the one that is kept, its calibration, folds, what is left out in turn.

Every finished piece of a long experiment is a file of its own, so a killed run goes on with the next piece.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_atomic
from fulcra_utils.common.labels import labels_of, scores_to_labels
from fulcra_utils.common.workers import run_jobs
from fulcra_utils.evaluator.baselines import (
    LinearModel,
    PaperRecipe,
    fit_frozen,
    fit_majority,
    fit_paper_recipe,
    fit_tfidf,
    subsample,
    take_rows,
)
from fulcra_utils.evaluator.comparison import (
    Rows,
    agree_with_scores,
    bootstrap_validity,
    compare_methods,
    correlate_values,
    measure_calibration,
)
from fulcra_utils.evaluator.encoder import Encoder
from fulcra_utils.evaluator.fitting import fit_evaluator, load_run_encoder, pick_device, pick_training_rows
from fulcra_utils.evaluator.gate import compare_files
from fulcra_utils.evaluator.model import ValueEvaluator, save_evaluator
from fulcra_utils.evaluator.scoring import score_file
from fulcra_utils.evaluator.training import Examples, TrainingSettings
from fulcra_utils.stats.classification import count_confusions, f1_by_class
from fulcra_utils.stats.resampling import bootstrap_means, summarise_draws
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory


def fit_baselines(train: Examples, encoder: Encoder, max_length: int) -> dict[str, LinearModel]:
    """Fit majority, TF-IDF and frozen encoder on the same examples."""
    return {"majority": fit_majority(train), "TF-IDF + logistic": fit_tfidf(train),
            "frozen encoder + logistic": fit_frozen(train, encoder, max_length=max_length)}


def fit_recipe(train: Examples, encoder: Encoder, rows: Rows, settings: dict, seed: int, minutes: float,
               progress: bool = True) -> tuple[PaperRecipe, dict[str, float]]:
    """Train the paper's recipe on the same rows and encoder, for as many minutes as ours took, or as the settings say.

    Returned with minutes, epochs (finished part of the planned ones) and steps.
    """
    knobs = TrainingSettings(epochs=settings["recipe_epochs"], batch_size=2 * settings["batch_size"],
                             encoder_rate=settings["recipe_rate"], max_minutes=_limit_recipe(settings, minutes),
                             seed=seed)
    model, clock = fit_paper_recipe(train, encoder, rows.theory, knobs, settings["max_length"], progress)
    last = clock.last or {"minutes": 0.0, "epoch": 0.0, "step": 0}
    return model, {"minutes": last["minutes"], "epochs": last["epoch"], "steps": last["step"]}


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
    path = Path(folder) / f"{name}.json"
    mark = digest(key)
    if path.is_file() and (beside is None or beside.exists()):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == mark:
            return kept["piece"]
    piece = make()
    with write_atomic(path) as tmp:
        tmp.write_text(json.dumps({"key": mark, "piece": piece}), encoding="utf-8")
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
    key = _describe_piece("evaluator", settings, _SHAPE_EVALUATOR, seed, load_run_encoder(settings, seed),
                          rows.theory.dimensions, rows.theory.definitions, *parts, held_out)
    history = keep_piece(folder, "main", key, make, place)["history"]
    evaluator = ValueEvaluator.from_pretrained(place, theory=rows.theory).to(pick_device())
    evaluator.config.theory_name, evaluator._theory_path = rows.theory.name, rows.theory.path    # may be reworded since
    return evaluator, pd.DataFrame(history)


def keep_recipe(folder: str | Path, train: Examples, encoder: Encoder, rows: Rows, settings: dict, seed: int,
                minutes: float, name: str = "recipe") -> tuple[PaperRecipe, dict[str, float]]:
    """Return the paper's recipe as `fit_recipe` trains it; a finished training is loaded, not done again."""
    place = Path(folder) / f"{name}.safetensors"

    def make() -> dict:
        model, clock = fit_recipe(train, encoder, rows, settings, seed, minutes)
        place.with_suffix(".json").unlink(missing_ok=True)
        with write_atomic(place) as tmp:
            save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, tmp)
        return clock

    key = _describe_piece("recipe", settings, _SHAPE_RECIPE, seed, encoder, *_asked(rows.theory), train.prompts,
                          train.responses, train.vectors, _limit_recipe(settings, minutes))
    clock = keep_piece(folder, name, key, make, place)
    model = PaperRecipe(encoder, rows.theory, settings["max_length"], seed)
    model.load_state_dict(load_file(place))
    return model.to(pick_device()), clock


def divide_folds(clusters: Sequence, is_test: np.ndarray, n_folds: int = 5, seed: int = 2023) -> np.ndarray:
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
    annotated = np.flatnonzero(rows.where("annotated") & np.isfinite(rows.vectors).any(1))
    clusters = rows.table.cluster.to_numpy()[annotated]
    if len(np.unique(clusters)) < n_folds:
        return pd.DataFrame(columns=["fold", "n_train", "n_test", "n_minus", "macro_f1", "f1_minus"])
    fold = divide_folds(clusters, np.zeros(len(annotated), dtype=bool), n_folds + 1, seed) - 1
    labels, said = scores_to_labels(rows.vectors[annotated]), np.zeros((len(annotated), rows.theory.n_dims), dtype=int)
    everyone = rows.examples(np.isin(np.arange(len(rows.table)), annotated))
    for k in range(n_folds):
        test = subsample(everyone, fold == k)
        model = fit_tfidf(subsample(everyone, fold != k))
        said[fold == k] = labels_of(model.predict_proba(test.prompts, test.responses))
    found = []
    for k, mine in [*((str(k + 1), fold == k) for k in range(n_folds)), ("all", fold >= 0)]:
        f1 = f1_by_class(count_confusions(labels[mine], said[mine]).sum((0, 1)))
        found.append({"fold": k, "n_train": int((~mine).sum()) or np.nan, "n_test": int(mine.sum()),
                      "n_minus": int((labels[mine] == -1).sum()), "macro_f1": float(np.nanmean(f1)), "f1_minus": f1[0]})
    return pd.DataFrame(found)


def learn_from_less(rows: Rows, settings: dict, target: Target, seed: int,
                    shares: Sequence[float] = (0.125, 0.25, 0.5, 1.0)) -> pd.DataFrame:
    """Train the TF-IDF baseline on growing shares of the training prompts: does more of the same data still help?

    rows ("annotated": the test split; "unseen model": new prompts, against the authors' scores), measure ("macro_f1",
    "distance_r"), share (a smaller one is part of a larger one), n_train, n_minus (training cells that say -1), n_test,
    value, low, high (95 %, over prompt clusters). Empty without rows.
    """
    tested = rows.where("annotated", "test") & np.isfinite(rows.vectors).any(1)
    seen = set(rows.table.cluster[rows.where(split="train", without=settings["unseen_models"])])
    other = rows.where("scored", "test", models=settings["unseen_models"]) & ~rows.table.cluster.isin(seen).to_numpy()
    own = rows.table.cluster[rows.table.split == "train"].drop_duplicates().sample(frac=1, random_state=seed).tolist()
    found = []
    for share in shares:
        kept = rows.table.cluster.isin(own[:max(1, round(share * len(own)))]).to_numpy()
        train = pick_training_rows(rows, "train", settings, kept)
        if not len(train) or not np.isfinite(train.vectors).any():
            continue
        model, about = fit_tfidf(train), {"share": share, "n_train": len(train),
                                          "n_minus": int((scores_to_labels(train.vectors) == -1).sum())}
        for name, chosen in (("annotated", tested), ("unseen model", other)):
            pairs, clusters = rows.examples(chosen), rows.table.cluster.to_numpy()[chosen]
            if not len(pairs):
                continue
            p = model.predict_proba(pairs.prompts, pairs.responses)
            if name == "annotated":
                only = compare_methods(scores_to_labels(pairs.vectors), {"ours": p}, clusters,
                                       n_draws=settings["n_draws"], seed=seed).iloc[0]
                ends = {"macro_f1": (only.macro_f1, only.low, only.high)}
            else:
                agreed = agree_with_scores(p[..., 2] - p[..., 0], pairs.vectors, clusters, rows.theory, target,
                                           n_draws=settings["n_draws"], seed=seed)
                ends = {m: (agreed[m], agreed[f"{m}_low"], agreed[f"{m}_high"]) for m in ("macro_f1", "distance_r")}
            found += [{"rows": name, "measure": measure, **about, "n_test": len(pairs), "value": value, "low": low,
                       "high": high} for measure, (value, low, high) in ends.items()]
    return pd.DataFrame(found, columns=["rows", "measure", "share", "n_train", "n_minus", "n_test", "value", "low",
                                        "high"])


def cross_validate(rows: Rows, settings: dict, seed: int, folder: str | Path,
                   progress: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare all methods over grouped folds of the annotated rows, pooled, one finished fold a file; empty for one
    fold.

    Returns `compare_methods` with minutes (training, all folds), and `measure_calibration` of ours, over all folds
    together. Models of folds other than the first see prompts of the test split: they serve this table only and are
    thrown away.
    """
    if settings["folds"] < 2:
        return pd.DataFrame(), pd.DataFrame()
    annotated = rows.where("annotated") & np.isfinite(rows.vectors).any(1)
    table = rows.table
    fold = np.full(len(table), -1)
    fold[:] = divide_folds(table.cluster, (table.split == "test").to_numpy(), settings["folds"], seed)
    used = _settings_of_folds(rows, annotated, settings)
    key = _describe_piece("fold", used, (*_SHAPE_EVALUATOR, *_SHAPE_RECIPE, "recipe_minutes", "unseen_models",
                                         "scored_weight", "folds"), seed, load_run_encoder(settings, seed),
                          *_asked(rows.theory), _hash_rows(rows))
    jobs = [(folder, f"fold-{k}", {**key, "fold": k},
             partial(_run_fold, rows, annotated, fold, k, used, seed, progress)) for k in range(settings["folds"])]
    pieces = run_jobs(keep_piece, jobs, settings["workers"], "folds")
    order = np.concatenate([p["rows"] for p in pieces])
    pooled = {name: np.concatenate([np.array(p["probabilities"][name]) for p in pieces])
              for name in pieces[0]["probabilities"]}
    labels = scores_to_labels(rows.vectors[order])
    errors = measure_calibration(pooled["ours"], labels, rows.theory.dimensions)
    cuts = np.repeat([p["cuts"] for p in pieces], [len(p["rows"]) for p in pieces], axis=0)      # (N, D, 2)
    found = compare_methods(labels, pooled, table.cluster.to_numpy()[order], cuts=cuts, n_draws=settings["n_draws"],
                            seed=seed)
    return found.assign(minutes=[sum(p["minutes"][name] for p in pieces) for name in found.method]), errors


def _settings_of_folds(rows: Rows, annotated: np.ndarray, settings: dict) -> dict:
    """Let every annotated row take part; scored ones stay those of the models that the kept evaluator learns from."""
    people = set(rows.table.model[annotated])
    return {**settings, "unseen_models": [m for m in settings["unseen_models"] if m not in people]}


def _describe_piece(kind: str, settings: dict, names: Sequence[str], seed: int, encoder: Encoder, *data) -> dict:
    """Return all that shapes a kept piece: the settings it reads, the encoder's weights, its rows, the code behind it.

    Threads and workers are left out: they move the last digits of a sum.
    """
    return {"settings": {name: settings.get(name) for name in names}, "seed": seed, "code": digest_code(_MAKERS[kind]),
            "encoder": digest(encoder.model, encoder.tokenizer), "data": digest(*data)}


def _asked(theory: Theory) -> tuple:
    """Return the words of a theory that the paper's recipe asks with."""
    return theory.dimensions, theory.definitions, theory.labels


def _hash_rows(rows: Rows, *more: str) -> str:
    told = rows.table[["prompt", "response", "model", "kind", "cluster", "split", *more]]
    text = pd.util.hash_pandas_object(told, index=False).to_numpy().tobytes()
    return hashlib.sha256(text + np.nan_to_num(rows.vectors, nan=9).tobytes()).hexdigest()


def _run_fold(rows: Rows, annotated: np.ndarray, fold: np.ndarray, k: int, settings: dict, seed: int,
              progress: bool) -> dict:
    """Train every method without fold `k`, by `_settings_of_folds`; a tenth of the other clusters stops ours."""
    import time
    inner = divide_folds(rows.table.cluster, fold == k, 11, seed + k + 1)     # 0 = held out, 1 = validation
    relabelled = Rows(rows.table.assign(split=np.select([inner == 0, inner == 1], ["test", "validation"], "train")),
                      rows.vectors, rows.theory)
    train = pick_training_rows(relabelled, "train", settings)
    held_out = annotated & (inner == 0)
    test = rows.examples(held_out)
    encoder = load_run_encoder(settings, seed)
    start = time.monotonic()
    ours, _ = fit_evaluator(relabelled, settings, seed, progress=progress)
    minutes = {"ours": (time.monotonic() - start) / 60}
    models = {"ours": ours}
    for name, make in (("majority", fit_majority), ("TF-IDF + logistic", fit_tfidf),
                       ("frozen encoder + logistic", lambda x: fit_frozen(x, encoder)),
                       ("paper recipe", lambda x: fit_recipe(x, encoder, rows, settings, seed, minutes["ours"],
                                                             progress)[0])):
        start = time.monotonic()
        models[name] = make(train)
        minutes[name] = (time.monotonic() - start) / 60
    said = {name: model.predict_proba(test.prompts, test.responses) for name, model in models.items()}
    return {"rows": np.flatnonzero(held_out).tolist(), "minutes": minutes,
            "cuts": ours.cuts.tolist(),
            "probabilities": {name: p.round(6).tolist() for name, p in said.items()}}


def leave_out(rows: Rows, settings: dict, seed: int, folder: str | Path, target: Target,
              progress: bool = True) -> tuple[pd.DataFrame, np.ndarray]:
    """Train again without one model, one prompt source, one value, or without the authors' scores, and judge there.

    `left_out` lists these in turn. Only where a scored model is left out do the authors' scores teach. Finished
    predictions are kept, so that judging them again costs seconds. Returns left_out, name, rows (which of its rows), n,
    macro_f1, low, high; distance_r, convergent, discriminant (correlations with the authors' scores) with _low and
    _high, nan where labels judge; and the Spearman correlations (D, D) with the authors' scores by the training without
    them, nan without.
    """
    encoder, jobs = load_run_encoder(settings, seed), []
    for what, name in _list_left_out(rows, settings["left_out"]):
        slug, used = hashlib.sha256(f"{what}/{name}".encode()).hexdigest()[:12], _settings_without(rows, name, settings)
        key = _describe_piece("left out", used, (*_SHAPE_EVALUATOR, "scored_weight"), seed, encoder,
                              rows.theory.dimensions, rows.theory.definitions,
                              _hash_rows(rows, *([what] if what == "query_source" else [])))
        jobs.append((folder, f"without-{what}-{slug}", {**key, "what": what, "name": name},
                     partial(_leave_one_out, rows, what, name, used, seed, progress)))
    pieces = run_jobs(keep_piece, jobs, settings["workers"], "left out")
    found, matrix = [], np.full((rows.theory.n_dims,) * 2, np.nan)
    for job, piece in zip(jobs, pieces, strict=True):
        what, name = job[2]["what"], job[2]["name"]
        said = np.full((*rows.vectors.shape, 3), np.nan)
        said[piece["rows"]] = piece["probabilities"]
        found += [{"left_out": what, "name": name, "rows": where,
                   **_judge(rows, said, piece["cuts"], chosen, what, name, target, settings["n_draws"], seed)}
                  for where, chosen in _test_rows(rows, what, name).items() if chosen.any()]
        if what == "scores":
            mine = piece["rows"]
            matrix = correlate_values(said[mine][..., 2] - said[mine][..., 0], rows.vectors[mine])
    return pd.DataFrame(found), matrix


def _list_left_out(rows: Rows, wanted: Sequence[str]) -> list[tuple[str, str]]:
    annotated = rows.table[rows.where("annotated") & np.isfinite(rows.vectors).any(1)]
    names = {"model": sorted(set(annotated.model) | set(rows.table[rows.where("scored")].model)),
             "query_source": sorted(set(annotated.query_source)),
             "value": [d for d, touched in zip(rows.theory.dimensions, (np.abs(np.nan_to_num(
                 rows.vectors[rows.where("annotated")])) > 0).sum(0), strict=True) if touched >= 50],
             "scores": ["released scores"] if rows.where("scored").any() else []}
    return [(what, name) for what in wanted for name in names[what] if what == "scores" or len(names[what]) > 1]


def _settings_without(rows: Rows, name: str, settings: dict) -> dict:
    """What is judged by labels learns from labels alone."""
    scored = (rows.table.kind[rows.table.model == name] == "scored").any()
    return {**settings, "unseen_models": [], "epochs": settings["left_out_epochs"],
            "scored_weight": settings["scored_weight"] if scored else 0}


def _leave_one_out(rows: Rows, what: str, name: str, settings: dict, seed: int, progress: bool) -> dict[str, list]:
    """Train without it, by `_settings_without`, and return what is said of the rows it is judged by."""
    keep, vectors = np.ones(len(rows.table), dtype=bool), rows.vectors
    if what in ("model", "query_source"):
        keep = (rows.table[what] != name).to_numpy()
    elif what == "value":
        vectors = vectors.copy()
        vectors[:, rows.theory.dimensions.index(name)] = np.nan
    evaluator, _ = fit_evaluator(Rows(rows.table, vectors, rows.theory), settings, seed, keep, progress=progress)
    judged = np.flatnonzero(np.any(list(_test_rows(rows, what, name).values()), axis=0))
    said = evaluator.predict_proba(rows.table.prompt.iloc[judged].tolist(), rows.table.response.iloc[judged].tolist())
    return {"rows": judged.tolist(), "probabilities": said.round(6).tolist(),
            "cuts": evaluator.cuts.tolist()}


def _test_rows(rows: Rows, what: str, name: str) -> dict[str, np.ndarray]:
    if what in ("model", "query_source"):
        mine = (rows.table[what] == name).to_numpy()
        others = set(rows.table.cluster[~mine & rows.table.split.isin(["train", "validation"]).to_numpy()])
        same = rows.table.cluster.isin(others).to_numpy()
        return {f"{kind}, {which}": mine & part & rows.where(kind)
                for kind in ("annotated", "scored") for which, part in (("same prompts", same), ("new prompts", ~same))}
    if what == "scores":
        return {f"scored by the authors, {model}": rows.where("scored", "test", models=[model])
                for model in sorted(set(rows.table.model[rows.where("scored")]))}
    return {"annotated test split": rows.where("annotated", "test")}


def _judge(rows: Rows, said: np.ndarray, cuts: Sequence, chosen: np.ndarray, what: str, name: str, target: Target,
           n_draws: int, seed: int) -> dict:
    """Hold probabilities (N, D, 3) of the chosen rows against their scores, or against their labels."""
    p, truth, clusters = said[chosen], rows.vectors[chosen], rows.table.cluster.to_numpy()[chosen]
    scores = p[..., 2] - p[..., 0]
    if (rows.table.kind[chosen] == "scored").all():
        agreement = agree_with_scores(scores, truth, clusters, rows.theory, target, n_draws=n_draws, seed=seed)
        validity = bootstrap_validity(scores, truth, clusters, n_draws, seed)
        kept = ("distance_r", "distance_r_low", "distance_r_high")
        return {"n": len(p), "macro_f1": agreement["macro_f1"], "low": agreement["macro_f1_low"],
                "high": agreement["macro_f1_high"], **{k: agreement[k] for k in kept}, **validity}
    dims = [rows.theory.dimensions.index(name)] if what == "value" else list(range(rows.theory.n_dims))
    table = compare_methods(scores_to_labels(truth[:, dims]), {"ours": p[:, dims]}, clusters,
                            cuts=np.asarray(cuts)[dims], n_draws=n_draws, seed=seed)
    return {"n": len(p), **table.iloc[0][["macro_f1", "low", "high"]].astype(float).to_dict()}


def judge_unseen(evaluator: ValueEvaluator, others: dict, rows: Rows, settings: dict, target: Target,
                 seed: int, most: int = 400) -> pd.DataFrame:
    """Hold scores of the unseen models' replies against the authors' scores, or against labels where there are none.

    Cut ±0.3 and Euclidean distance as released; `others` are judged on new prompts only, `most` replies a row are
    drawn. Returns method, rows (new or same prompts), and as `agree_with_scores`; empty when the unseen models have no
    rows.
    """
    table, unseen = rows.table, settings["unseen_models"]
    kind = "scored" if (rows.where("scored", models=unseen)).any() else "annotated"
    word = "authors' scores" if kind == "scored" else "labels"
    seen = set(table.cluster[rows.where(split="train", without=unseen)])
    found = []
    for where, split in (("new prompts", "test"), ("same prompts", "train")):
        chosen = rows.where(kind, split, models=unseen) & np.isfinite(rows.vectors).any(1)
        chosen &= table.cluster.isin(seen).to_numpy() == (where == "same prompts")
        if not chosen.any():
            continue
        pairs, clusters = take_rows(rows.examples(chosen), table.cluster.to_numpy()[chosen], most, seed)
        for name, model in {"ours": evaluator, **(others if where == "new prompts" else {})}.items():
            mine, ids = pairs, clusters
            if name.startswith("paper recipe") and settings["recipe_rows"]:
                mine, ids = take_rows(pairs, clusters, settings["recipe_rows"], seed)
            p = model.predict_proba(mine.prompts, mine.responses)
            found.append({"method": name, "rows": f"{where}, {word}",
                          **agree_with_scores(p[..., 2] - p[..., 0], mine.vectors, ids, rows.theory, target,
                                              n_draws=settings["n_draws"], seed=seed)})
    return pd.DataFrame(found, columns=None if found else ["method", "rows", "n", "macro_f1", "distance_r"])


def correlate_unseen(evaluator: ValueEvaluator, rows: Rows, settings: dict,
                     seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """Correlate our scores with the authors' on test prompts, over the unseen models' replies where there are any.

    Spearman (D, D), nan without scored rows; n (replies), and as `bootstrap_validity`.
    """
    chosen = rows.where("scored", "test", models=settings["unseen_models"])
    chosen = chosen if chosen.any() else rows.where("scored", "test")
    pairs, clusters = rows.examples(chosen), rows.table.cluster.to_numpy()[chosen]
    scores = evaluator.score(pairs.prompts, pairs.responses)
    return correlate_values(scores, pairs.vectors), {"n": len(pairs), **bootstrap_validity(
        scores, pairs.vectors, clusters, settings["n_draws"], seed)}


def compare_means(evaluator: ValueEvaluator, rows: Rows, settings: dict, target: Target, seed: int) -> pd.DataFrame:
    """Return the unseen model's mean scores and mean Euclidean distance by our evaluator, as claims with intervals.

    The claims are the means of the authors' evaluator over its released scores; empty without those.
    """
    found = []
    for model in settings["unseen_models"]:
        chosen = rows.where("scored", "test", models=[model])
        if not chosen.any():
            continue
        pairs = rows.examples(chosen)
        scores = evaluator.score(pairs.prompts, pairs.responses)
        numbers = np.column_stack([scores, value_distance(scores, target, order=2)])
        draws = bootstrap_means(numbers, rows.table.cluster[chosen], settings["n_draws"], seed)
        for d, name in enumerate([f"mean/{model}/{v}" for v in rows.theory.dimensions] + [f"distance/{model}"]):
            interval = summarise_draws(numbers[:, d].mean(), draws[:, d])
            found.append({"claim_id": f"evaluator/{name}", "ours": interval["value"], "low": interval["low"],
                          "high": interval["high"]})
    return pd.DataFrame(found, columns=["claim_id", "ours", "low", "high"])


def compare_models(evaluator: ValueEvaluator, rows: Rows, target: Target, folder: str | Path,
                   settings: dict, seed: int) -> tuple[pd.DataFrame, tuple[str, str] | None]:
    """Score the test replies of the two models that share most prompts through files in `folder`, and compare them.

    As `compare_files`, and released: the same difference by the authors' own scores (nan where there are none); then
    the two models. Empty and None when no two models share a prompt.
    """
    table = rows.table[rows.where(split="test")]
    shared = table.groupby("prompt").model.unique()
    pairs = [(a, b) for models in shared for a in models for b in models if a < b]
    if not pairs:
        return pd.DataFrame(columns=["value", "n", "difference", "low", "high", "sd", "released"]), None
    best = max(sorted(set(pairs)), key=pairs.count)
    both = {prompt for prompt, models in shared.items() if set(best) <= set(models)}
    files = []
    for place, model in enumerate(best):
        mine = table[(table.model == model) & table.prompt.isin(both)]
        source = Path(folder) / f"model-{place}.jsonl"
        with write_atomic(source) as tmp:
            mine[["prompt", "response"]].to_json(tmp, orient="records", lines=True, force_ascii=False)
        files.append(source.with_name(f"scored-{place}.jsonl"))
        score_file(evaluator, source, files[-1])
    found = compare_files(*files, target, n_draws=settings["n_draws"], seed=seed)
    released = rows.where("scored", "test") & rows.table.prompt.isin(both).to_numpy()
    means = [pd.Series(rows.vectors[released & (rows.table.model == model).to_numpy()].mean(axis=0) if
                       (released & (rows.table.model == model).to_numpy()).any() else np.nan, rows.theory.dimensions)
             for model in best]
    return found.assign(released=found["value"].map(means[1] - means[0])), best


_MAKERS = {"evaluator": fit_evaluator, "recipe": fit_recipe, "fold": _run_fold, "left out": _leave_one_out}
_SHAPE_EVALUATOR = ("max_length", "delta_penalty", "word_buckets",
                    *(f.name for f in fields(TrainingSettings) if f.name != "seed"))
_SHAPE_RECIPE = ("recipe_rate", "recipe_epochs", "batch_size", "max_length")
