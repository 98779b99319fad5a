"""Training the value evaluator: its heads, then, where wanted, the encoder's upper layers with transformers' Trainer.

Choices:
- the heads learn on what the encoder reads as it comes, which takes one pass over the rows and some seconds; only then
  may layers of the encoder learn, which costs minutes;
- the loss is a cross-entropy over labelled cells; a cell without label weighs nothing;
- a score s in [-1, 1] of another evaluator is a soft label: P(+1) = max(s, 0), P(-1) = max(-s, 0), the rest on 0, so
  that P(+1) - P(-1) = s;
- rare classes of each value weigh more: (mean frequency / frequency) ** power, within limits;
- what is validated and kept of the encoder is a running average of the weights, which a small noisy set of rows needs;
  early stopping on a validation split that shares no prompt cluster;
- several GPUs or machines by `accelerate launch` without new code; bf16 where the processor has it.
"""

import tempfile
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from tqdm import tqdm
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from fulcra_utils.common.labels import CLASSES, TOUCHED, labels_of, scores_to_labels
from fulcra_utils.evaluator.encoder import has_bf16
from fulcra_utils.evaluator.model import EvaluatorError, ValueEvaluator, join_odds, measure_loss
from fulcra_utils.evaluator.rendering import pad_pairs
from fulcra_utils.evaluator.words import ENOUGH
from fulcra_utils.stats.classification import macro_f1

HEAD_BATCH, HEAD_DECAY = 128, 0.1     # rows of a step, and weight decay, while the heads learn


@dataclass(frozen=True)
class Examples:
    """N pairs with a value vector each, (N, D): labels -1, 0, +1 or scores in [-1, 1], nan = no label, `TOUCHED` = the
    value is touched, and nobody asked which way.

    `weights`, (N,) or (N, D), say how much a row or a cell counts in training; None = 1 each. `partner` (N,) is the
    place of the row that tramples what this one serves, -1 = none; None = no row has one.
    """

    prompts: list[str]
    responses: list[str]
    vectors: np.ndarray
    weights: np.ndarray | None = None
    partner: np.ndarray | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.prompts)

    def weigh_cells(self) -> np.ndarray:
        """Return how much each cell counts, (N, D)."""
        weights = np.ones(len(self)) if self.weights is None else self.weights
        return np.broadcast_to(weights if weights.ndim == 2 else weights[:, None], self.vectors.shape)


@dataclass(frozen=True)
class TrainingSettings:
    """The knobs of a training.

    The heads learn for `head_epochs` passes at `head_rate`. `epochs` are passes in which the encoder learns too, 0 =
    none. Its lowest `frozen_layers` stay as they are, with the embeddings; -1 = none. Rates are the highest ones: they
    rise in `warmup` steps (below 1 a share of all) and fall by a cosine. Rare classes weigh (mean frequency /
    frequency) ** class_power, within 1/5 and 5. `average` is the decay of the running average of the weights that is
    kept, 0 = none. Training stops after `patience` evaluations without a better score, or `max_minutes` (0 = no limit).
    """

    head_epochs: int = 12
    head_rate: float = 1e-3
    epochs: float = 0
    frozen_layers: int = 0
    batch_size: int = 16
    encoder_rate: float = 1e-4
    warmup: float = 0.1
    class_power: float = 0.5
    average: float = 0.99
    patience: int = 3
    evaluations_per_epoch: int = 1
    max_minutes: float = 0
    bf16: bool = True
    seed: int = 2023


def join_examples(*parts: Examples) -> Examples:
    """Return the rows of several sets one after the other, with their weights.

    >>> a = Examples(["p"], ["r"], np.array([[1.0]]))
    >>> join_examples(a, Examples(["q"], ["s"], np.array([[0.2]]), np.array([0.5]))).weights.tolist()
    [[1.0], [0.5]]
    """
    starts = np.cumsum([0, *map(len, parts)])
    partners = [np.full(len(part), -1) if part.partner is None else np.where(part.partner < 0, -1, part.partner + start)
                for part, start in zip(parts, starts, strict=False)]
    return Examples(
        [p for part in parts for p in part.prompts], [r for part in parts for r in part.responses],
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.weigh_cells() for part in parts]),
        np.concatenate(partners))


def soften(vectors: np.ndarray) -> np.ndarray:
    """Return class probabilities (N, D, 3) with P(+1) - P(-1) = the given score; all zero where it is nan, and half and
    half where it is `TOUCHED`.

    >>> soften(np.array([[-1.0, 0.25, np.nan, TOUCHED]])).tolist()
    [[[1.0, 0.0, 0.0], [0.0, 0.75, 0.25], [0.0, 0.0, 0.0], [0.5, 0.0, 0.5]]]
    """
    known, touched = ~np.isnan(vectors), vectors == TOUCHED
    scores = np.where(known, vectors, 0.0).clip(-1, 1)
    parts = np.stack([np.maximum(-scores, 0), 1 - np.abs(scores), np.maximum(scores, 0)], axis=-1)
    return np.where(touched[..., None], [0.5, 0, 0.5], parts * known[..., None])


def weigh_classes(soft: np.ndarray, power: float = 0.5, limit: float = 5.0) -> np.ndarray:
    """Return a weight (D, 3) for each class of each value that lifts the rare ones: about three quarters of all cells
    are 0.

    Power 0 = no weights, 1 = every class weighs the same in sum; a value without labels has 1.

    >>> soft = np.repeat(np.eye(3)[[0, 1, 1, 1, 1, 2, 2, 2]][:, None], 1, axis=1)
    >>> weigh_classes(soft, power=1).round(3).tolist()
    [[2.667, 0.667, 0.889]]
    """
    counts = soft.sum(0)                                         # (D, 3)
    total = counts.sum(-1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, 1 / len(CLASSES)), where=total > 0)
    return ((1 / len(CLASSES) / np.maximum(share, 1e-9)) ** power).clip(1 / limit, limit)


def train_evaluator(evaluator: ValueEvaluator, train: Examples, validation: Examples, settings: TrainingSettings,
                    progress: bool = True) -> pd.DataFrame:
    """Train an evaluator of values that all have heads in place; keep its best state by validation macro-F1 (without
    validation rows the last one).

    `train` and `validation` must not share a prompt cluster. Without a single label nothing is trained. Returns one row
    per report: minutes, epoch, step, loss, validation_loss, validation_f1, nan where that report has none; epoch 0 is
    the encoder as it came, without the word part.
    differs from upstream: there, one pass per value with MSE on a tanh.
    """
    soft = soften(train.vectors)
    clock = TrainingClock(settings.max_minutes, "evaluator" if progress else "")
    if not soft.any():
        return clock.table()
    weighed = soft * train.weigh_cells()[..., None]
    labels = (weighed * weigh_classes(weighed, settings.class_power)).astype(np.float32)
    labels[..., ::2] = np.where((train.vectors == TOUCHED)[..., None], labels[..., ::2].mean(-1, keepdims=True),
                                labels[..., ::2])      # weights of classes give no direction where none was asked
    pairs = evaluator.render(train.prompts, train.responses)
    rows = _join(pairs, labels, train.partner)
    fit_heads(evaluator, evaluator.read_all(pairs, progress=progress), labels, train.partner, settings)
    held_out = _join(evaluator.render(validation.prompts, validation.responses), soften(validation.vectors), None)
    clock.reports.append(clock.since(0, 0) | _validate(evaluator, held_out))
    if settings.epochs:
        evaluator.kept = None
        start = {name: value.clone() for name, value in evaluator.state_dict().items()}
        freeze_encoder(evaluator.encoder, settings.frozen_layers)
        learning = [p for p in evaluator.parameters() if p.requires_grad]
        run_trainer(evaluator, rows, settings, torch.optim.AdamW(learning, settings.encoder_rate, weight_decay=0.01),
                    clock, held_out or None)
        found = clock.table().validation_f1
        if len(held_out) and found.max() == found.iloc[0]:      # no pass made it better
            evaluator.load_state_dict(start)
        evaluator.requires_grad_(True)
    against, absent, for_it = np.moveaxis(soft, -1, 0)
    there, sided = against + for_it, against != for_it
    ends = [absent > 0.5, there > 0.5], [(against > 0.5) & sided, (for_it > 0.5) & sided]
    evaluator.config.knows = np.stack([np.min([end.sum(0) for end in pair], axis=0) >= ENOUGH for pair in ends],
                                      axis=1).tolist()
    evaluator.learn_definitions()
    return clock.table()


def fit_heads(evaluator: ValueEvaluator, features: torch.Tensor, labels: np.ndarray, partner: np.ndarray | None,
              settings: TrainingSettings) -> None:
    """Train the heads, and what lies between them and the encoder, on what was read of N rows, (N, F).

    `labels` (N, D, 3) weigh each class. Both replies of a pair stand in one batch.
    """
    weigh, rng = torch.from_numpy(labels).to(features.device), np.random.default_rng(settings.seed)
    evaluator.centre[0], evaluator.scale[0] = features.mean(0), features.std(0, correction=0) + 1e-6
    partner = np.full(len(features), -1) if partner is None else partner
    units = np.setdiff1d(np.arange(len(features)), partner)
    parts = max(round(len(units) / HEAD_BATCH), 1)
    learning = [*evaluator.reduce.parameters(), evaluator.common, evaluator.heads]
    optimizer = torch.optim.AdamW(learning, weight_decay=HEAD_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.head_rate,
                                                   total_steps=parts * settings.head_epochs + 1)
    evaluator.train()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(settings.seed)
        for part in [p for _ in range(settings.head_epochs) for p in np.array_split(rng.permutation(units), parts)]:
            serving = np.flatnonzero(partner[part] >= 0)
            rows = np.concatenate([part, partner[part[serving]]])
            pairs = torch.from_numpy(np.stack([serving, len(part) + np.arange(len(serving))], axis=1))
            loss = measure_loss(evaluator.answer(features[rows]), weigh[rows], pairs.to(features.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    evaluator.eval()


def freeze_encoder(encoder: torch.nn.Module, n_layers: int) -> None:
    """Freeze all of an encoder but the layers above the lowest `n_layers`, without dropout there; -1 = nothing.

    EvaluatorError when no layer is left to learn.
    """
    if n_layers < 0:
        return
    layers = encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layer
    if n_layers >= len(layers):
        raise EvaluatorError(f"frozen_layers is {n_layers}, but the encoder has {len(layers)} layers: none is left to "
                             "learn (epochs: 0 trains the heads alone)")
    encoder.requires_grad_(False)
    layers[n_layers:].requires_grad_(True)
    learning = set(layers[n_layers:].modules())
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout) and part not in learning:
            part.p = 0.0


class TrainingClock(TrainerCallback):
    """Keeps what the Trainer reports, with minutes, shows it, and stops training after `max_minutes` (0 = no limit).

    The bar is plain text, so that it is seen in a notebook and at a terminal alike; label "" shows none.
    """

    def __init__(self, max_minutes: float, label: str = ""):
        self.max_minutes, self.label, self.start = max_minutes, label, time.monotonic()
        self.reports, self.last, self.bar = [], {}, None

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar."""
        shown = self.label and state.is_world_process_zero
        self.bar = tqdm(total=state.max_steps, desc=self.label, unit="step", disable=not shown)

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.bar.close()

    def since(self, epoch: float, step: int) -> dict[str, float]:
        """Return where the training is, and the minutes since it began."""
        return {"minutes": (time.monotonic() - self.start) / 60, "epoch": epoch, "step": step}

    def on_log(self, args, state, control, logs, **kwargs):
        """Keep a report of the Trainer."""
        names = {"loss": "loss", "eval_loss": "validation_loss", "eval_f1": "validation_f1"}
        if found := {ours: logs[theirs] for theirs, ours in names.items() if theirs in logs}:
            self.bar.set_postfix({k: f"{v:.3f}" for k, v in found.items()})
            self.reports.append(self.since(state.epoch, state.global_step) | found)

    def on_step_end(self, args, state, control, **kwargs):
        """Note the step; stop when the time is up."""
        self.bar.update()
        self.last = self.since(state.epoch, state.global_step)
        if self.max_minutes and self.last["minutes"] > self.max_minutes:
            control.should_training_stop = True
            control.should_evaluate = control.should_save = args.eval_strategy != "no"

    def table(self) -> pd.DataFrame:
        """Return the reports, one row each."""
        columns = ["minutes", "epoch", "step", "loss", "validation_loss", "validation_f1"]
        return pd.DataFrame(self.reports, columns=columns)


class WeightAverage(TrainerCallback):
    """Keeps a running average of the weights and lends it to the model while it is validated and saved.

    Polyak and Juditsky (1992), as an exponential moving average; the first steps count alike until their number reaches
    1 / (1 - decay).
    """

    def __init__(self, decay: float):
        self.decay, self.steps = decay, 0
        self.averages: list[torch.Tensor] = []
        self.own: list[torch.Tensor] = []   # the model's own weights, while the averages stand in it

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Give the model its own weights back."""
        if self.own:
            torch._foreach_copy_(_trained(model), self.own)
        self.own = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Follow the weights; put the average in their place when they are about to be validated."""
        weights = _trained(model)
        self.steps += 1
        self.averages = self.averages or [w.clone() for w in weights]
        torch._foreach_lerp_(self.averages, weights, 1 - min(self.decay, 1 - 1 / self.steps))
        if control.should_evaluate or control.should_training_stop:
            self.own = [w.clone() for w in weights]
            torch._foreach_copy_(weights, self.averages)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Leave the average in a model that was never validated; elsewhere the best one has been loaded."""
        if self.averages and not args.load_best_model_at_end:
            torch._foreach_copy_(_trained(model), self.averages)


def _trained(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters() if p.requires_grad]


def run_trainer(model: torch.nn.Module, rows: list[dict], settings: TrainingSettings, optimizer: torch.optim.Optimizer,
                clock: TrainingClock, held_out: list[dict] | None = None) -> None:
    """Train a model of rendered pairs with labels in place; by `held_out` ones it stops, and its best state is kept."""
    arguments = _arguments(settings, len(rows), held_out is not None)
    callbacks = [clock, *([WeightAverage(settings.average)] if settings.average else []),
                 *([] if held_out is None else [EarlyStoppingCallback(settings.patience)])]
    with tempfile.TemporaryDirectory(prefix="fulcra-training-", ignore_cleanup_errors=True) as folder:
        arguments.output_dir, = broadcast_object_list([folder])    # all processes use that of the first one
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=held_out,
                          processing_class=model.tokenizer, data_collator=lambda batch: _collate(batch, model),
                          compute_metrics=_validation_f1, optimizers=(optimizer, None), callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        # without this, forward stays wrapped in bf16 and a saved evaluator would not score like the one in memory
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    model.eval()


def _join(pairs: list[dict], labels: np.ndarray, partner: np.ndarray | None) -> list[dict]:
    """Return rows of the Trainer; one that tramples comes with the one that serves."""
    rows = [{**pair, "labels": label} for pair, label in zip(pairs, labels.astype(np.float32), strict=True)]
    if partner is None:
        return rows
    second = set(partner.tolist())
    return [row | ({} if k < 0 else {"partner": rows[k]}) for n, (row, k) in
            enumerate(zip(rows, partner.tolist(), strict=True)) if n not in second]


@torch.no_grad()
def _validate(evaluator: ValueEvaluator, rows: list[dict]) -> dict[str, float]:
    if not rows:
        return {}
    labels = np.array([row["labels"] for row in rows])
    told = evaluator.answer(evaluator.read_all(rows))
    loss, logits = measure_loss(told, torch.from_numpy(labels).to(told.device)), join_odds(told).cpu().numpy()
    return {"validation_loss": float(loss), "validation_f1": _validation_f1(EvalPrediction(logits, labels))["f1"]}


def _collate(rows: list[dict], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    firsts = [n for n, row in enumerate(rows) if "partner" in row]
    rows = [*rows, *(rows[n]["partner"] for n in firsts)]
    labels = torch.from_numpy(np.array([row["labels"] for row in rows], dtype=np.float32))
    seconds = range(len(rows) - len(firsts), len(rows))
    pairs = {"pairs": torch.tensor([*zip(firsts, seconds, strict=True)])} if firsts else {}
    return pad_pairs(rows, model.tokenizer) | {"labels": labels} | pairs


def _validation_f1(prediction) -> dict[str, float]:
    soft = prediction.label_ids
    scores = np.where(soft.sum(-1) > 0, soft[..., 2] - soft[..., 0], np.nan)
    return {"f1": macro_f1(scores_to_labels(scores), labels_of(prediction.predictions))}


def _arguments(settings: TrainingSettings, n_rows: int, validate: bool) -> TrainingArguments:
    when = "steps" if validate else "no"
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(), num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size, per_device_eval_batch_size=2 * settings.batch_size,
        lr_scheduler_type="cosine", warmup_steps=settings.warmup, train_sampling_strategy="group_by_length",
        seed=settings.seed, bf16=settings.bf16 and has_bf16(), use_cpu=not torch.cuda.is_available(),
        label_names=["labels"], load_best_model_at_end=validate, metric_for_best_model="f1", greater_is_better=True,
        remove_unused_columns=False,    # a row's partner is one
        save_total_limit=1, save_only_model=True, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        ddp_find_unused_parameters=False, log_level="error", eval_strategy=when, save_strategy=when)
    together = arguments.train_batch_size * arguments.world_size    # replies of one step, of all devices
    steps = max(1, -(-n_rows // together) // settings.evaluations_per_epoch)
    arguments.eval_steps = arguments.save_steps = steps
    arguments.logging_steps = max(1, steps // 2)
    return arguments
