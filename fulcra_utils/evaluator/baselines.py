"""What the evaluator is compared with: majority, TF-IDF, a frozen encoder, SetFit, the paper's recipe; its speed.

Each baseline is trained by a `fit_…` function on `Examples` and answers `predict_proba(prompts, responses)` with an
array (N, D, 3) like the evaluator (the paper's recipe: with a score, softened to three classes).
"""

import copy
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from fulcra_utils.common.labels import scores_to_labels
from fulcra_utils.common.loading import quiet_loading
from fulcra_utils.common.workers import map_batches, shape_batches
from fulcra_utils.evaluator.encoder import Encoder, embed, is_read_in_half, iterate_buckets, mean_pool
from fulcra_utils.evaluator.model import ValueEvaluator, make_evaluator
from fulcra_utils.evaluator.rendering import pad_pairs, render, take_types
from fulcra_utils.evaluator.training import Examples, TrainingClock, TrainingSettings, run_trainer, soften
from fulcra_utils.theory.theory import Theory, load_theory

FROZEN_STRENGTH = 1e-3     # inverse of the penalty (C), on standardised features
SETFIT_TOKENS = 64     # of each text of a pair, our choice: whole texts take a laptop longer


@dataclass
class LinearModel:
    """One logistic regression per value on features of prompt and reply, from featurise(prompts, responses).

    A value with fewer than two classes in training has no model (None) and answers its `shares` (D, 3) of the classes.
    """

    shares: np.ndarray
    models: Sequence = ()
    featurise: Callable | None = None

    def predict_proba(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return class probabilities, shape (N, D, 3)."""
        result = np.repeat(self.shares[None], len(prompts), axis=0)
        features = self.featurise(prompts, responses) if self.models and len(prompts) else None
        for d, model in enumerate(self.models if len(prompts) else ()):
            if model is not None:
                result[:, d] = 0.0
                result[:, d, model.classes_.astype(int) + 1] = model.predict_proba(features)
        return result


def fit_majority(train: Examples) -> LinearModel:
    """Learn how often each class of each value occurs: the label it gives is the commonest one, 0 without any.

    >>> model = fit_majority(Examples(["a", "b"], ["c", "d"], np.array([[1.0], [0.0]])))
    >>> model.predict_proba(["e"], ["f"]).tolist()
    [[[0.0, 0.5, 0.5]]]
    """
    counts = soften(train.vectors).sum(0)
    total = counts.sum(-1, keepdims=True)
    return LinearModel(np.where(total > 0, counts / np.maximum(total, 1e-9), [0.0, 1.0, 0.0]))


def fit_tfidf(train: Examples) -> LinearModel:
    """Fit a logistic regression per value on TF-IDF of words and word pairs.

    >>> rows = Examples(["a"] * 4, ["be kind", "be kind", "no way", "no way"], np.array([[1.0], [1], [0], [0]]))
    >>> fit_tfidf(rows).predict_proba(["a"], ["be kind"]).argmax(-1).tolist()
    [[2]]
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2 if len(train) > 50 else 1,
                            token_pattern=r"(?u)\b\w+\b", max_features=30_000)
    words.fit([*_join_texts(train.prompts, train.responses), "no words", "no words"])
    model = LogisticRegression(C=10.0, max_iter=300, class_weight="balanced", solver="liblinear", random_state=0)
    return _fit_linear(lambda prompts, responses: words.transform(_join_texts(prompts, responses)), train,
                       OneVsRestClassifier(model))


def _join_texts(prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
    return [f"{prompt} \n {response}" for prompt, response in zip(prompts, responses, strict=True)]


def fit_frozen(train: Examples, encoder: Encoder, theory: Theory, max_length: int = 256) -> LinearModel:
    """Fit a logistic regression per value on what the evaluator reads of an encoder as it came."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    reader = make_evaluator(encoder, theory, max_length, keep=True)
    return _fit_linear(
        lambda prompts, responses: reader.read_all(reader.render(prompts, responses)).numpy(), train,
        make_pipeline(StandardScaler(), LogisticRegression(C=FROZEN_STRENGTH, max_iter=300, class_weight="balanced")))


def tune_setfit(train: Examples, encoder: Encoder, n_pairs: int, seed: int = 2023) -> Encoder:
    """Return a copy of the encoder after SetFit's contrastive step (Tunstall et al., 2022), by its package.

    Half of `n_pairs` share a kind of label and are drawn together, half share none and are pushed apart. The package
    knows neither three classes nor gaps, so, our choice, a value makes two kinds, for and against, and no value at all
    is one more. Ours too: how many tokens of a text are read meanwhile. All else is the package's default, untuned.
    """
    some, _ = take_rows(train, np.arange(len(train)), 2 * n_pairs, seed)     # more texts no pair could hold
    kinds = list_kinds(some.vectors)
    if (kinds @ kinds.T).all():     # none to push apart, or no rows
        return encoder
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments, logging
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK, PrinterCallback
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="fulcra-setfit-") as folder, quiet_loading():
        encoder.model.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        body = SentenceTransformer(folder)
        body[0].model, body.max_seq_length = copy.deepcopy(encoder.model), SETFIT_TOKENS
        arguments = TrainingArguments(folder, batch_size=16, max_steps=-(-n_pairs // 16), seed=seed, report_to="none",
                                      save_strategy="no", logging_strategy="no")
        trainer = Trainer(SetFitModel(body, multi_target_strategy="one-vs-rest"), arguments)
        for callback in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.st_trainer.args.dataloader_pin_memory = False    # warns without a GPU
        trainer.train_embeddings(_join_texts(some.prompts, some.responses), kinds.astype(int).tolist())
    return Encoder(body[0].model.eval(), encoder.tokenizer)


def list_kinds(vectors: np.ndarray) -> np.ndarray:
    """Return which kinds of label (N, 2D + 1) the rows of vectors (N, D) have: each value's +1, its -1, none at all.

    >>> list_kinds(np.array([[1, -1], [0, np.nan]])).astype(int).tolist()
    [[1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    """
    labels = scores_to_labels(vectors)
    touched = np.concatenate([labels > 0, labels < 0], axis=1)
    return np.column_stack([touched, ~touched.any(1)]).astype(np.float32)


def embed_pairs(prompts: Sequence[str], responses: Sequence[str], encoder: Encoder,
                max_length: int = 256) -> np.ndarray:
    """Return what SetFit's head reads of N prompts and replies, (N, H)."""
    return embed(_join_texts(prompts, responses), encoder, max_length=max_length)


def fit_setfit(train: Examples, tuned: Encoder, max_length: int = 256, read: np.ndarray | None = None) -> LinearModel:
    """Fit SetFit's head, a logistic regression per value, on `read`, or on what `tuned` (`tune_setfit`) reads."""
    from sklearn.linear_model import LogisticRegression
    return _fit_linear(partial(embed_pairs, encoder=tuned, max_length=max_length), train,
                       LogisticRegression(max_iter=300, class_weight="balanced"), read)


def _fit_linear(featurise: Callable, train: Examples, model: Any, features: np.ndarray | None = None) -> LinearModel:
    from sklearn.base import clone
    if features is None and len(train):     # without rows no value has labels
        features = featurise(train.prompts, train.responses)
    models = []
    for labels in scores_to_labels(train.vectors).T:
        known = ~np.isnan(labels)
        is_mixed = len(np.unique(labels[known])) > 1
        models.append(clone(model).fit(features[known], labels[known].astype(int)) if is_mixed else None)
    return replace(fit_majority(train), models=models, featurise=featurise)


class PaperRecipe(nn.Module):
    """The released evaluator's recipe: one pass per value and reply, tanh of one number, cuts at ±0.5.

    Released code, with microsoft/deberta-v3-large there and any encoder here.
    """

    def __init__(self, encoder: Encoder, theory: Theory, max_length: int, seed: int = 2023):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.out = nn.Linear(encoder.width, 1)
        self.encoder = copy.deepcopy(encoder.model)
        self.encoder.pooler = None
        self.tokenizer, self.max_length = encoder.tokenizer, max_length
        self.questions = [f"Judge as a psychologist how the reply stands to the value {name.replace('-', ' ')}: {text} "
                          f"Is it {theory.labels[1]}, {theory.labels[0]} or {theory.labels[-1]}? "
                          for name, text in zip(theory.dimensions, theory.definitions, strict=True)]

    def render(self, prompt: str, response: str, d: int) -> dict[str, list[int]]:
        """Render a prompt and a reply together with the question about value `d`."""
        return render(self.questions[d] + prompt, response, self.tokenizer, self.max_length)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                token_type_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict:
        """Return {loss, logits}; logits (B,) are scores in [-1, 1], labels (B,) the wanted ones."""
        types = take_types(self.encoder, token_type_ids)
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        scores = self.out(mean_pool(states, attention_mask)).squeeze(-1).float().tanh()
        return ({} if labels is None else {"loss": (scores - labels).square().mean()}) | {"logits": scores}

    def score(self, prompts: Sequence[str], responses: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Return scores in [-1, 1], shape (N, D): D passes for each reply."""
        self.eval()
        pairs = [self.render(p, r, d) for p, r in zip(prompts, responses, strict=True)
                 for d in range(len(self.questions))]
        scores, device, is_half = np.zeros(len(pairs)), self.out.weight.device, is_read_in_half(self.encoder)

        @torch.inference_mode()
        def read(batch: tuple[list[int], int]) -> np.ndarray:
            rows, width = batch
            with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
                told = self(**pad_pairs([pairs[r] for r in rows], self.tokenizer, device, width))
                return told["logits"].double().cpu().numpy()

        lengths = [len(pair["input_ids"]) for pair in pairs]
        for (rows, _), found in map_batches(read, shape_batches(lengths) if is_half else
                                            [(rows, 0) for rows in iterate_buckets(lengths, batch_size)]):
            scores[rows] = found
        return scores.reshape(len(prompts), len(self.questions))

    def predict_proba(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return the scores softened to three classes, shape (N, D, 3)."""
        return soften(self.score(prompts, responses))


def fit_paper_recipe(train: Examples, encoder: Encoder, theory: Theory, settings: TrainingSettings,
                     max_length: int = 256, progress: bool = True) -> tuple[PaperRecipe, TrainingClock]:
    """Train the paper's recipe on a copy of the encoder, and return it with the minutes and steps that it took.

    Released code: AdamW (0.9, 0.95), cosine, no weight decay, tanh regression with MSE, about half as many absent
    values as present ones. differs from upstream: the encoder and its learning rate, where the profile says so.
    """
    model = PaperRecipe(encoder, theory, max_length, settings.seed)
    data = [{**model.render(train.prompts[n], train.responses[n], d), "labels": float(train.vectors[n, d])}
            for n, d in _pick_cells(train, settings.seed)]
    clock = TrainingClock(settings.max_minutes, "paper recipe" if progress else "")
    if data:   # none: a theory without labels, nothing to learn
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.encoder_rate, betas=(0.9, 0.95), weight_decay=0.0)
        warmup = min(50, len(data) // settings.batch_size // 4)
        run_trainer(model, data, replace(settings, warmup=warmup, average=0), optimizer, clock)
    return model.eval(), clock


def _pick_cells(train: Examples, seed: int) -> list[tuple[int, int]]:
    """Return (row, value) of every touched cell and of half as many untouched ones, drawn at random."""
    labels = scores_to_labels(train.vectors)
    present, absent = np.argwhere(np.abs(labels) > 0), np.argwhere(labels == 0)
    rng = np.random.default_rng(seed)
    drawn = absent[rng.permutation(len(absent))[:max(len(present) // 2, 1)]]
    return [(int(n), int(d)) for n, d in rng.permutation(np.concatenate([present, drawn]))]


def subsample(examples: Examples, rows: np.ndarray) -> Examples:
    """Return the chosen rows (boolean mask or row numbers); one that leaves its partner behind has none.

    >>> subsample(Examples(["a", "b"], ["c", "d"], np.eye(2)), np.array([False, True])).prompts
    ['b']
    """
    rows, place = np.arange(len(examples))[rows], np.full(len(examples) + 1, -1)
    place[rows] = np.arange(len(rows))
    return replace(examples, prompts=[examples.prompts[r] for r in rows],
                   responses=[examples.responses[r] for r in rows], vectors=examples.vectors[rows],
                   weights=None if examples.weights is None else examples.weights[rows],
                   partner=None if examples.partner is None else place[examples.partner[rows]])


def take_rows(examples: Examples, clusters: np.ndarray, n_rows: int, seed: int = 2023) -> tuple[Examples, np.ndarray]:
    """Return at most `n_rows` examples drawn at random, with their clusters, in their old order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(examples))[:n_rows])
    return subsample(examples, chosen), np.asarray(clusters)[chosen]


def measure_speed(folder: str | Path, prompts: Sequence[str], responses: Sequence[str]) -> pd.DataFrame:
    """Measure replies per second and peak memory, each method in a fresh process on the same replies.

    The paper's recipe runs on the same encoder, weights and length. Returns method, n, passes, seconds (median of three
    rounds), replies_per_second, slowest and fastest of single rounds, peak_megabytes. Loading is not counted; eight
    replies are scored before the clock starts, and few at a time, so that padding counts little for either.
    """
    found = []
    for method in ("ours", "paper recipe"):
        with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),)) as pool:
            found.append(pool.submit(_time_method, method, Path(folder), prompts, responses).result())
    return pd.DataFrame(found)


def _time_method(method: str, folder: Path, prompts: Sequence[str], responses: Sequence[str]) -> dict:
    model, passes, rounds = ValueEvaluator.from_pretrained(folder), len(prompts), []
    if method != "ours":
        passes *= len(model.dimensions)
        model = PaperRecipe(Encoder(model.encoder, model.tokenizer), load_theory(folder / "theory.yaml"),
                            model.config.max_length)
    model.score(prompts[:8], responses[:8], batch_size=8)
    for _ in range(3):
        start = time.perf_counter()
        model.score(prompts, responses, batch_size=8)
        rounds.append(time.perf_counter() - start)
    seconds = float(np.median(rounds))
    return {"method": method, "n": len(prompts), "passes": passes, "seconds": seconds,
            "replies_per_second": len(prompts) / seconds, "slowest": len(prompts) / max(rounds),
            "fastest": len(prompts) / min(rounds), "peak_megabytes": _peak_megabytes()}


def _peak_megabytes() -> float:
    """Return the most memory this process had; from /proc where there is one, as getrusage remembers the parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) / 1024
    import resource  # Windows has none
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 ** 2    # macOS counts bytes
