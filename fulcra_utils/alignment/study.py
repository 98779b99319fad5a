"""A study: the proof of alignment as one plan: who is trained by which reward, who measures, a kept result a run.

A run's name says what it is: `rloo-ideal` (method and target; `rloo-aim` in a plan stands for the notebook's target),
with `-mask` (the released reward), `-1x` (an evaluator trained on a fifth of the scored rows), `-s7` (another seed),
`-p200` (so many prompts), `-w0` (another price of sameness); `rlhf-1x` and `rlhf-5x` are the baselines with a scalar
reward model. Each run leaves its policy and its replies in a folder, so that a later start goes on with the next one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.alignment import judges as fit
from fulcra_utils.alignment import measures
from fulcra_utils.alignment.finetuning import AlignSettings, align
from fulcra_utils.alignment.measures import JUDGES, draw_replies
from fulcra_utils.alignment.reward import scalar_reward, value_reward
from fulcra_utils.common.workers import run_jobs
from fulcra_utils.llm.local import keep_short_prompts, load_tokenizer
from fulcra_utils.stats.resampling import mean_interval
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import Target, list_targets, load_target
from fulcra_utils.theory.theory import Theory

NAME = re.compile(r"(?:(rlhf)-([15]x)|(rloo|grpo|dpo)-(.+?)(-mask)?(-1x)?)(?:-p(\d+))?(?:-w(\d+))?(?:-s(\d+))?")
MIN_ROWS = 8


@dataclass(frozen=True)
class Trial:
    """What the runs of a plan showed: tables of `summarise_policies` and `score_policy`, replies on the same prompts.

    `stopped` says which runs ended early and why, `skipped` which had too few rows for their reward.
    """

    summary: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    scores: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    replies: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    histories: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    stopped: dict[str, str] = field(default_factory=dict)
    skipped: Sequence[str] = ()


def read_plan(name: str, aim: str, seed: int, common_weight: float) -> SimpleNamespace:
    """Read an alignment run from its name; the notebook's target, seed and price stand in where it names none.

    >>> read_plan("rlhf-5x-s7", "ideal", 1, 5.0)
    namespace(name='rlhf-5x-s7', ..., reward='rlhf-5x', n_prompts=0, seed=7, common_weight=5.0)
    """
    name = name.replace("-aim", f"-{aim}", 1)
    found = NAME.fullmatch(name)
    if not found:
        raise ValueError(f"run {name!r} is none of <method>-<target>[-mask][-1x], rlhf-1x, rlhf-5x, with -p<n>, "
                         "-w<n>, -s<n>.")
    scalar, size, method, target, mask, small, n_prompts, weight, own_seed = found.groups()
    weight = 0.0 if mask else float(weight or common_weight)  # the released reward has no price of sameness
    return SimpleNamespace(
        name=name, method=method or "rloo", target=target or aim, absence="mask" if mask else "penalise",
        reward=f"rlhf-{size}" if scalar else "values-1x" if small else "reward", n_prompts=int(n_prompts or 0),
        seed=int(own_seed or seed), common_weight=weight)


def has_labels(rows: pd.DataFrame, theory: Theory) -> bool:
    """Return whether both halves of the training prompts hold a labelled row, without which nothing can be trained."""
    return {"A", "B"} <= set(rows.half[rows[list(theory.dimensions)].notna().any(axis=1) & (rows.split == "train")])


def prepare_panel(dialogues: pd.DataFrame, scored: pd.DataFrame, preferences: pd.DataFrame, theory: Theory,
                  encoder: Any, seed: int = 0, train: bool = True,
                  mismatch: float = 0.25) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train everything that rewards or measures, on rows that are kept apart; an empty panel unless `train`.

    The panel holds the scorers "reward" (the reward evaluator), "judge" and "values-1x" of values, "rlhf-1x" and
    "rlhf-5x" of rewards, and the proxies "harmless" and "helpful", but for those without enough rows. The table says
    how well each agrees with test rows.

    Half A of the training prompts trains the reward evaluator, half B the judge and the harmless proxy, both of another
    kind. The scalar baselines take a fifth of the scored training rows (1x, within half A) and all of them (5x), sizes
    after the paper. Without scored rows the annotated rows and their rating stand in.
    """
    if not train:
        return {}, pd.DataFrame()
    dims, options = list(theory.dimensions), {"theory": theory, "seed": seed, "mismatch": mismatch}
    rows = pd.concat([t for t in (dialogues, scored) if len(t)], ignore_index=True)
    labelled = rows[rows[dims].notna().any(axis=1)]
    rated = (scored if len(scored) else dialogues).dropna(subset="reward")
    half = {h: labelled[(labelled["split"] == "train") & (labelled["half"] == h)] for h in "AB"}
    taught, pairs = (table[table["split"] == "train"] for table in (rated, preferences))
    small = taught[taught["half"] == "A"]
    small = small.sample(n=min(len(small), round(0.2 * len(taught))), random_state=seed)
    memory = fit.TextMemory(encoder)
    values, scalar = partial(fit.fit_value_scorer, memory, **options), partial(fit.fit_reward_model, memory, seed=seed)
    todo = {"reward": (values, half["A"]), "judge": (partial(fit.fit_judge, **options), half["B"]),
            "values-1x": (values, small), "rlhf-1x": (scalar, small), "rlhf-5x": (scalar, taught),
            "harmless": (fit.fit_harmless, taught[taught["half"] == "B"]),
            "helpful": (partial(fit.fit_preference, memory), pairs)}
    todo = {name: job for name, job in todo.items() if name in JUDGES or len(job[1]) >= MIN_ROWS}
    panel = {name: train_one(part) for name, (train_one, part) in todo.items()}
    tests = [table[table["split"] == "test"] for table in (labelled, rated, preferences)]
    quality = [(name, len(todo[name][1]), *_measure_scorer(name, panel[name], dims, *tests)) for name in panel]
    return panel, pd.DataFrame(quality, columns=["scorer", "n_train", "n_test", "measure", "value"])


def run_trial(start: str, panel: dict[str, Any], names: Sequence[str], prompts: pd.DataFrame, folder: str | Path,
              theory: Theory, aim: Target, settings: dict[str, Any], seed: int) -> Trial:
    """Train every run of a plan, draw replies to held-out prompts, and measure them."""
    if not settings["train"]:
        return Trial(skipped=names)
    folder, tokenizer = Path(folder), load_tokenizer(start, settings["chat_template"])
    asked = {split: keep_short_prompts(tokenizer, measures.take_test_prompts(prompts, split, settings[n], seed),
                                       settings["max_prompt_tokens"])
             for split, n in (("train", "train_prompts"), ("test", "test_prompts"))}
    plans = [read_plan(name, aim.name, seed, settings["common_weight"]) for name in names]
    known = {name: load_target(name, theory) for name in list_targets(theory)} | {aim.name: aim}
    skipped = [p.name for p in plans if p.reward not in panel or p.target not in known]
    plans = [p for p in plans if p.name not in skipped]
    replies = {"start": _draw(start, start, asked, folder / "start-replies", "", settings, seed)}
    jobs = [(start, panel[p.reward], p, known[p.target], asked, folder, settings, seed) for p in plans]
    runs = dict(zip([p.name for p in plans], run_jobs(_run_job, jobs, settings["workers"], "policies"), strict=True))
    replies |= {name: drawn for name, (_, _, drawn) in runs.items()}
    histories = pd.concat([pd.DataFrame(), *(history.assign(policy=name) for name, (history, _, _) in runs.items())])
    scores, summary = measure_trial(replies, panel, aim, asked["train"], seed)
    return Trial(summary, scores, replies, histories.reset_index(drop=True),
                 {name: stopped for name, (_, stopped, _) in runs.items() if stopped}, skipped)


def measure_trial(replies: dict[str, pd.DataFrame], panel: dict[str, Any], aim: Target,
                  train_prompts: Sequence[str], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure several policies' replies to the same prompts; the start model is called "start"."""
    candidates = [t for table in replies.values() for t in table["response"].value_counts().index[:15]]
    constants = {name: measures.find_constant(panel[name], train_prompts[:25], candidates, aim) for name in JUDGES}
    scores = pd.concat([measures.score_policy(table, panel, aim, constants, seed).assign(policy=name)
                        for name, table in replies.items()], ignore_index=True)
    return scores, measures.summarise_policies(scores, replies, aim)


def measure_references(scored: pd.DataFrame, panel: dict[str, Any], target: Target) -> pd.DataFrame:
    """Measure real models' replies to test prompts with the same judges, cut to the same length."""
    rows = []
    for source, part in scored[scored["split"] == "test"].groupby("response_source", sort=True):
        for by in [name for name in JUDGES if name in panel]:
            vectors = panel[by].score(*fit.read_texts(part))
            rows.append((source, by, len(part), *mean_interval(value_distance(vectors, target))))
    return pd.DataFrame(rows, columns=["response_source", "by", "n", "distance", "low", "high"])


def compare_targets(means: pd.DataFrame, trained: Sequence[Target]) -> pd.DataFrame:
    """Say for each target that was trained for which policy's mean vector is nearest; empty below two targets."""
    if len(trained) < 2:
        return pd.DataFrame()
    means = means.loc[[f"rloo-{t.name}" for t in trained]].set_axis([t.name for t in trained])
    return measures.confuse_targets(means, trained, measures.group_targets(trained))


def list_seeds(summary: pd.DataFrame) -> pd.DataFrame:
    """List the runs that were repeated with other seeds, each as a point: three seeds make no interval."""
    table = summary.join(summary["policy"].str.extract(r"^(?P<run>.*?)(?:-s(?P<seed>\d+))?$").fillna("own"))
    return table[table["run"].duplicated(keep=False)].sort_values("run", kind="stable", ignore_index=True).filter([
        "run", "seed", "drop_reward", "drop_judge", "kl_token", "distinct_2", "top_share", "harmless"])


def measure_efficiency(done: Trial, aim: str, n_prompts: int) -> pd.DataFrame:
    """Measure distance and harmless proxy, by the judge, against the number of training prompts (95 % over prompts).

    Empty unless a method ran with at least two numbers of prompts. After the paper's claim of data efficiency.
    """
    families = {f"rloo-{aim}-1x": "BaseAlign, 1x", "rlhf-1x": "RLHF, 1x", "rlhf-5x": "RLHF, 5x"}
    rows = []
    for name in done.replies:
        base, _, number = name.partition("-p")
        if base in families and (not number or number.isdigit()):
            own = done.scores.query("policy == @name and variant == 'reply' and by == 'judge'")
            rows += [(families[base], int(number or n_prompts), m, *mean_interval(own[m]))
                     for m in ("distance", "harmless") if m in own]
    table = pd.DataFrame(rows, columns=["method", "n_prompts", "measure", "value", "low", "high"])
    is_curve = (table.groupby("method")["n_prompts"].nunique() > 1).any()
    return table.sort_values(["measure", "method", "n_prompts"]) if is_curve else table.head(0)


def show(table: pd.DataFrame, note: str) -> Any:
    """Return a table for display, its texts whole and escaped, or a note where there is nothing to show."""
    from IPython.display import HTML, Markdown

    if not len(table):
        return Markdown(note)
    with pd.option_context("display.max_colwidth", None):
        return HTML(table.to_html(border=0, float_format=lambda x: f"{x:.3f}"))


def claim_bars(summary: pd.DataFrame, aim: str) -> pd.DataFrame:
    """Return our numbers for the paper's four bars, by a small model and other proxies; nan where missing."""
    policies = {"start": "start", "rlhf-5x": "rlhf-5x", "rlhf-1x": "rlhf-1x", "basealign": f"rloo-{aim}"}
    table = summary.set_index("policy") if len(summary) else pd.DataFrame(dtype=float)
    table = table.reindex(index=[*policies.values()], columns=["helpful", "harmless"]).set_axis([*policies])
    why = "a small model trained here and proxies of another scale than the paper's rewards"
    rows = [(f"alignment/{proxy}/{policy}", value) for proxy in table for policy, value in table[proxy].items()]
    rows += [(f"alignment/order/{proxy}/basealign-over-{other}", table[proxy]["basealign"] - table[proxy][other])
             for proxy, other in (("harmless", "rlhf-5x"), ("helpful", "rlhf-1x"))]
    return pd.DataFrame(rows, columns=["claim_id", "ours"]).assign(low=np.nan, high=np.nan, why=why)


def _run_job(start, scorer, plan, target, asked, folder, settings, seed) -> tuple[pd.DataFrame, str, pd.DataFrame]:
    """Train one policy and draw its replies; what is finished is read again."""
    scalar = plan.reward.startswith("rlhf")
    reward = scalar_reward(scorer.predict) if scalar else value_reward(scorer, target, absence=plan.absence,
                                                                       common_weight=plan.common_weight)
    chosen = {f.name: settings[f.name] for f in fields(AlignSettings) if f.name in settings}
    aligned = align(start, reward, asked["train"][:plan.n_prompts or None], folder / plan.name,
                    AlignSettings(method=plan.method, seed=plan.seed, **chosen), replace=True,
                    allow_faults=settings["allow_faults"] or plan.absence == "mask" or scalar,
                    chat_template=settings["chat_template"])
    drawn = _draw(folder / plan.name, start, asked, folder / plan.name, "replies-", settings, seed)
    return aligned.history, aligned.stopped, drawn


def _draw(model, start, asked, folder, prefix, settings, seed) -> pd.DataFrame:
    return draw_replies(model, start, asked["test"], settings["max_new_tokens"], seed,
                        keep=folder / f"{prefix}{len(asked['test'])}-{seed}.parquet",
                        chat_template=settings["chat_template"])


def _measure_scorer(name, scorer, dims, labelled, rated, pairs) -> tuple[int, str, float]:
    """Return on how many test rows, in what and how well a scorer agrees with them."""
    if name == "helpful":
        better, worse = (scorer.predict(*fit.read_texts(pairs, column)) for column in ("chosen", "rejected"))
        return len(pairs), "pairs ranked as people did", float(np.mean(better > worse)) if len(pairs) else np.nan
    if name in (*JUDGES, "values-1x"):
        return len(labelled), "correlation with labels", fit.correlate_labels(scorer, labelled, dims)
    return len(rated), "correlation with released reward", fit.correlate_labels(scorer, rated, ["reward"])
