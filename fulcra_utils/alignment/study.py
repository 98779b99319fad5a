"""A study: the proof of alignment as one plan: who is aligned by which reward, who measures, a kept result a run.

A run's name says what it is: `dpo-ideal` (way and target; `dpo-aim` in a plan stands for the notebook's target), with
`-mask` (the released reward), `-1x` (an evaluator trained on a fifth of the scored rows), `-s7` (another seed), `-p200`
(so many prompts), `-w0` (another price of sameness). In place of the target `rlhf-1x` and `rlhf-5x` stand for the
baselines with a scalar reward model. `dpo-real` finds its pairs among real models' replies too. Each run leaves its
policy and its replies in a folder, so that a later start goes on with the next one.
"""

import json
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
from fulcra_utils.alignment.finetuning import AlignSettings, align, cut_texts, draw_candidates, draw_replies
from fulcra_utils.alignment.measures import JUDGES
from fulcra_utils.alignment.reward import scalar_reward, value_reward
from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_json, write_table
from fulcra_utils.common.workers import run_jobs
from fulcra_utils.dataset.contrasts import read_contrasts
from fulcra_utils.evaluator.comparison import collect_rows, measure_contrasts
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.fitting import pick_device
from fulcra_utils.evaluator.model import ValueEvaluator
from fulcra_utils.evaluator.study import keep_evaluator
from fulcra_utils.llm.fast import name_engine
from fulcra_utils.llm.local import hash_model, keep_short_prompts, load_policy, load_tokenizer
from fulcra_utils.stats.resampling import mean_interval
from fulcra_utils.theory.distance import score_towards, value_distance
from fulcra_utils.theory.targets import Target, list_targets, load_target, write_system_prompt
from fulcra_utils.theory.theory import Theory

WAYS = {"system-prompt": "system-prompt", "best-of-n": "best-of-n", "steering": "steering", "dpo-real": "dpo",
        "dpo": "dpo", "rloo": "rloo", "grpo": "grpo"}   # of a run's name, and the method of each
TRAINED = ("dpo", "dpo-real", "rloo", "grpo")
NAME = re.compile(rf"({'|'.join(WAYS)})-(rlhf-[15]x|.+?)(-mask)?(-1x)?(?:-p(\d+))?(?:-w(\d+))?(?:-s(\d+))?")
MIN_ROWS = 8


@dataclass(frozen=True)
class Trial:
    """What the runs of a plan showed: tables of `summarise_policies` and `score_policy`, replies on the same prompts.

    `shown` are replies to prompts of this project, to be looked at, of the start model, the system prompt and what is
    trained to the target; `constants` what one reply to everything gets; `targets` the plan's; `stopped` says which
    runs ended early and why, `skipped` which had too few rows for their reward.
    """

    summary: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    scores: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    replies: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    shown: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    constants: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    histories: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    targets: Sequence[Target] = ()
    stopped: dict[str, str] = field(default_factory=dict)
    skipped: Sequence[str] = ()


def read_plan(name: str, aim: str, seed: int, common_weight: float) -> SimpleNamespace:
    """Read an alignment run from its name; the notebook's target, seed and price stand in where it names none.

    ValueError for an unknown form, an option that would do nothing, and a target whose own name reads as more than it.

    >>> read_plan("dpo-rlhf-5x-s7", "ideal", 1, 5.0)
    namespace(name='dpo-rlhf-5x-s7', way='dpo', target='ideal', ..., reward='rlhf-5x', n_prompts=0, seed=7, ...)
    """
    if NAME.fullmatch(f"dpo-{aim}")[2] != aim or aim.startswith("rlhf-"):
        raise ValueError(f"target {aim!r} reads as a part or an option of a run's name; give it another name.")
    name = name.replace("-aim", f"-{aim}", 1)
    found = NAME.fullmatch(name)
    if not found:
        raise ValueError(f"run {name!r} is none of <way>-<target>[-mask][-1x], <way>-rlhf-1x, <way>-rlhf-5x, with "
                         f"-p<n>, -w<n>, -s<n>; the ways are {', '.join(WAYS)}.")
    way, target, mask, small, n_prompts, weight, own_seed = found.groups()
    scalar, told = target.startswith("rlhf-"), way == "system-prompt"
    if ((scalar or told) and (mask or small or weight) or mask and weight or told and scalar
            or n_prompts and way in ("system-prompt", "best-of-n")):
        raise ValueError(f"run {name!r} asks for what does nothing there: -w with -mask; -mask, -1x or -w with rlhf-…; "
                         "-p with best-of-n; anything but a target and -s with system-prompt.")
    return SimpleNamespace(
        name=name, way=way, target=aim if scalar else target, absence="mask" if mask else "penalise",
        reward=target if scalar else "values-1x" if small else "reward", n_prompts=int(n_prompts or 0),
        seed=int(own_seed or seed), common_weight=0.0 if mask else float(weight or common_weight))


def has_labels(rows: pd.DataFrame, theory: Theory) -> bool:
    """Return whether both halves of the training prompts hold a labelled row, without which nothing can be trained."""
    return {"A", "B"} <= set(rows.half[rows[list(theory.dimensions)].notna().any(axis=1) & (rows.split == "train")])


def prepare_panel(dialogues: pd.DataFrame, scored: pd.DataFrame, preferences: pd.DataFrame, theory: Theory,
                  settings: dict[str, Any], evaluator: dict[str, Any], folder: str | Path,
                  seed: int = 0) -> tuple[dict[str, Any], pd.DataFrame]:
    """Train everything that rewards or measures, on rows that are kept apart; an empty panel unless settings "train".

    The panel holds the scorers of values `JUDGES` and "values-1x", "rlhf-1x" and "rlhf-5x" of rewards, the proxies
    "harmless" and "helpful", those without enough rows or a run that needs them left out, and "memory", which embeds
    texts. The table says from how many rows each learned (`n_replies`: without those made up), how well it agrees with
    test rows, and which share of the contrast pairs' test split it orders rightly (with a 95 % interval over prompts).

    Half A of the training prompts trains the reward evaluator as notebook 03 trains its own (its settings are
    `evaluator`, but for `epochs` and `contrasts`), half B the judges: one on another encoder, one that reads as the
    reward does, one that counts words. Contrast pairs and the rows that stop and calibrate are the same for all; the
    models that notebook 03 keeps out of training (`unseen_models`) teach no evaluator here either. The scalar baselines
    take a fifth of the scored training rows (1x, within half A) and all of them (5x), sizes after the paper; the
    harmless proxy has half B. Without scored rows the annotated rows and their rating stand in. Evaluators are kept in
    `folder`.
    """
    if not settings["train"]:
        return {}, pd.DataFrame()
    dims, memory = list(theory.dimensions), fit.TextMemory(load_encoder(settings["encoder"]))
    parts = [t.assign(kind=kind) for kind, t in (("annotated", dialogues), ("scored", scored)) if len(t)]
    labelled = pd.concat([t[t[dims].notna().any(axis=1)] for t in parts], ignore_index=True)
    rated = (scored if len(scored) else dialogues).dropna(subset="reward")
    taught, pairs = (table[table["split"] == "train"] for table in (rated, preferences))
    train, small = labelled[labelled["split"] == "train"], taught[taught["half"] == "A"]
    small = small.sample(n=min(len(small), round(0.2 * len(taught))), random_state=seed)
    half = {h: fit.teach_absence(train[train["half"] == h], theory, seed, settings["mismatch"]) for h in "AB"}
    half["1x"] = fit.teach_absence(small.assign(kind="scored"), theory, seed, settings["mismatch"])

    def teach(name: str, own: dict[str, Any], rows: pd.DataFrame) -> Any:
        rows = pd.concat([rows, labelled[labelled["split"] == "validation"]], ignore_index=True)
        tables = {kind: rows[rows["kind"] == kind] for kind in ("annotated", "scored")}
        own = evaluator | {name: settings[name] for name in ("contrasts", "epochs")} | own
        return keep_evaluator(Path(folder) / name, collect_rows(tables, theory), own, seed)[0]

    scalar, other = partial(fit.fit_reward_model, memory, seed=seed), {"encoder": settings["encoder"]}
    todo = {"reward": (partial(teach, "reward", {}), half["A"]), "judge": (partial(teach, "judge", other), half["B"]),
            "twin": (partial(teach, "twin", {}), half["B"]),
            "words": (partial(fit.fit_word_counts, theory=theory), half["B"]),
            "values-1x": (partial(teach, "values-1x", {}), half["1x"]), "rlhf-1x": (scalar, small),
            "rlhf-5x": (scalar, taught), "harmless": (fit.fit_harmless, taught[taught["half"] == "B"]),
            "helpful": (partial(fit.fit_preference, memory), pairs)}
    asked = {read_plan(name, "aim", seed, 0.0).reward for name in settings["runs"]} | {*JUDGES, *measures.PROXIES}
    todo = {name: job for name, job in todo.items() if name in asked and (name in JUDGES or len(job[1]) >= MIN_ROWS)}
    panel = {name: train_one(part) for name, (train_one, part) in todo.items()}
    tests = [table[table["split"] == "test"] for table in (labelled, rated, preferences)]
    quality = [(name, *_count_rows(todo[name][1], evaluator if name in (*JUDGES[:3], "values-1x") else None), *told)
               for name in panel for told in _measure_scorer(name, panel[name], dims, *tests, seed)]
    return panel | {"memory": memory}, pd.DataFrame(
        quality, columns=["scorer", "n_train", "n_replies", "n_test", "measure", "value", "low", "high"])


def run_trial(start: str, panel: dict[str, Any], names: Sequence[str], prompts: pd.DataFrame, real: pd.DataFrame,
              folder: str | Path, theory: Theory, aim: Target, settings: dict[str, Any], seed: int) -> Trial:
    """Align in every way of a plan, draw replies to held-out prompts, and measure them.

    `real` has real models' replies (prompt, response, response_source): where there are any, prompts that they answered
    are taken, those to the training prompts join the candidates of `dpo-real`, and what those to the test prompts cost
    the model says what it has unlearnt.
    """
    folder, plan = Path(folder), Path(folder) / "plan.json"     # what `list_policies` reads
    if not settings["train"]:
        if folder.is_dir():
            write_json(plan, [])
        return Trial(skipped=names)
    plans = [read_plan(name, aim.name, seed, settings["common_weight"]) for name in names]
    plans = [*{p.name: p for p in plans}.values()]      # dpo-aim may be dpo-uk
    tokenizer = load_tokenizer(start, settings["chat_template"])
    known_prompts = prompts[prompts["prompt"].isin(real["prompt"])]
    asked = {split: keep_short_prompts(tokenizer, measures.take_test_prompts(
        known_prompts if (known_prompts["split"] == split).any() else prompts, split, settings[n], seed),
        settings["max_prompt_tokens"]) for split, n in (("train", "train_prompts"), ("test", "test_prompts"))}
    asked["shown"] = pick_shown(settings["n_shown"])
    known = {name: load_target(name, theory) for name in list_targets(theory)} | {aim.name: aim}
    skipped = [p.name for p in plans if p.reward not in panel or p.target not in known]
    plans = [p for p in plans if p.name not in skipped]
    write_json(plan, [p.name for p in sorted(plans, key=lambda p: p.way not in TRAINED)])     # the trained ones first
    real = real.sort_values("response_source", key=lambda names: names != "gpt-4", kind="stable")
    told = real.drop_duplicates("prompt").set_index("prompt")["response"]
    asked["real"] = [told.get(p, "") for p in asked["test"]]
    found = _gather_candidates(start, plans, asked["train"], real, folder, settings, seed)
    plain = SimpleNamespace(name="start", way="", seed=seed, reward="", target=aim.name)
    in_turn = [*sorted(plans, key=lambda p: (p.way not in ("rloo", "grpo"), p.way not in TRAINED)), plain]
    # long ones first, so that no core waits
    shown = {"start", *(f"{way}-{aim.name}" for way in ("system-prompt", *TRAINED))}
    jobs = [(start, _place_scorer(panel, p.reward), p, known[p.target], theory,
             asked if p.name in shown else asked | {"shown": []}, found.get(p.way), folder, settings) for p in in_turn]
    made = dict(zip([p.name for p in in_turn], run_jobs(_run_job, jobs, settings["workers"], "policies"), strict=True))
    runs = {name: made[name] for name in ("start", *(p.name for p in plans))}
    n = len(asked["test"])
    replies, shown = ({name: rows(drawn).reset_index(drop=True) for name, (_, _, drawn) in runs.items()}
                      for rows in (lambda t: t[:n], lambda t: t[n:]))
    histories = pd.concat([pd.DataFrame(), *(history.assign(policy=name) for name, (history, _, _) in runs.items())])
    scores, summary, constants = measure_trial(replies, panel, aim, asked["train"], seed)
    targets = [known[name] for name in dict.fromkeys((aim.name, *(p.target for p in plans)))]
    return Trial(summary, scores, replies, shown, constants, histories.reset_index(drop=True), targets,
                 {name: stopped for name, (_, stopped, _) in runs.items() if stopped}, skipped)


def pick_shown(n: int) -> list[str]:
    """Return n prompts of this project that no evaluator learned from: replies to them may be looked at."""
    table = read_contrasts()
    prompts = table[table["split"] == "test"].drop_duplicates("cluster")["prompt"].drop_duplicates()
    return prompts.iloc[np.linspace(0, len(prompts) - 1, n).round().astype(int)].tolist() if n else []


def measure_trial(replies: dict[str, pd.DataFrame], panel: dict[str, Any], aim: Target, train_prompts: Sequence[str],
                  seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Measure several policies' replies to the same prompts; the start model is called "start"."""
    scores = pd.concat([measures.score_policy(table, panel, aim, seed).assign(policy=name)
                        for name, table in replies.items()], ignore_index=True)
    constants = measures.measure_constants(scores, replies, panel, aim, train_prompts)
    return scores, measures.summarise_policies(scores, replies, aim), constants


def measure_references(real: pd.DataFrame, replies: dict[str, pd.DataFrame], start: str, panel: dict[str, Any],
                       target: Target, settings: dict[str, Any]) -> pd.DataFrame:
    """Measure real models' replies to the prompts of policies' replies with the same judges, cut to as many tokens."""
    rows, asked = [], replies["start"]["prompt"] if replies else ()
    for source, part in real[real["prompt"].isin(asked)].drop_duplicates(["response_source", "prompt"]).groupby(
            "response_source", sort=True):
        said = cut_texts(load_tokenizer(start, settings["chat_template"]), part["response"], settings["max_new_tokens"])
        for by in [name for name in JUDGES if name in panel]:
            vectors = score_towards(panel[by], part["prompt"].tolist(), said, target)
            rows.append((source, by, len(vectors), *mean_interval(value_distance(vectors, target))))
    return pd.DataFrame(rows, columns=["response_source", "by", "n", "distance", "low", "high"])


def pick_best(summary: pd.DataFrame, aim: str) -> str | None:
    """Return the trained policy to the target that the reward evaluator, not a judge, sees nearest; None without."""
    own = [name for name in (summary["policy"] if len(summary) else ()) if name in {f"{way}-{aim}" for way in TRAINED}]
    return summary.set_index("policy").loc[own, "distance_reward"].idxmin() if own else None


def pick_method(names: Sequence[str], aim: str) -> str:
    """Return the method by which the paper's claims are tested.

    "rloo" where its rival has it too, or where it alone was trained to the target; else "dpo".
    """
    names = set(names)
    return "rloo" if f"rloo-{aim}" in names and ("rloo-rlhf-5x" in names or f"dpo-{aim}" not in names) else "dpo"


def compare_targets(scores: pd.DataFrame, targets: Sequence[Target]) -> pd.DataFrame:
    """Say for each way and target that was trained for which policy of that way is nearest, by the first judge.

    Rows of `confuse_targets` and `measure_leads`, ways with fewer than two targets left out. `scores` as in `Trial`.
    """
    tables, own = {}, scores[(scores.by == "judge") & (scores.variant == "reply")] if len(scores) else None
    for way in TRAINED if own is not None else ():
        trained = [t for t in targets if f"{way}-{t.name}" in set(own.policy)]
        if len(trained) > 1:
            vectors = {t.name: own.loc[own.policy == f"{way}-{t.name}", list(t.dimensions)] for t in trained}
            means = pd.DataFrame({name: rows.mean() for name, rows in vectors.items()}).T
            classes = measures.group_targets(trained)
            tables[way] = pd.concat([measures.confuse_targets(means, trained, classes),
                                     measures.measure_leads(vectors, trained, classes)])
    return pd.concat(tables, names=["way", "policy"]) if tables else pd.DataFrame()


def list_seeds(summary: pd.DataFrame) -> pd.DataFrame:
    """List the runs that were repeated with other seeds, each as a point: three seeds make no interval."""
    table = summary.join(summary["policy"].str.extract(r"^(?P<run>.*?)(?:-s(?P<seed>\d+))?$").fillna("own"))
    return table[table["run"].duplicated(keep=False)].sort_values("run", kind="stable", ignore_index=True).filter([
        "run", "seed", "drop_reward", "drop_judge", "kl_token", "distinct_2", "top_share", "harmless"])


def save_models(replies: dict[str, pd.DataFrame], start: str, folder: str | Path) -> None:
    """Leave the replies of start model and policies to notebook 06, one file a model, in place of an earlier run's.

    Files of one's own in the folder stay.
    """
    folder, start = Path(folder), Path(start).name
    note = folder / ".of_notebook_04.json"
    for name in json.loads(note.read_text(encoding="utf-8")) if note.is_file() else ():
        (folder / name).unlink(missing_ok=True)
    files = {f"{start if name == 'start' else f'{start} {name}'}.parquet": table for name, table in replies.items()}
    write_json(note, [*files])
    for name, table in files.items():
        write_table(folder / name, table[["prompt", "response"]])


def show(table: pd.DataFrame, note: str) -> Any:
    """Return a table for display, its texts whole and escaped, or a note where there is nothing to show."""
    from IPython.display import HTML, Markdown

    if not len(table):
        return Markdown(note)
    with pd.option_context("display.max_colwidth", None):
        return HTML(table.to_html(border=0, float_format=lambda x: f"{x:.3f}"))


def claim_bars(scores: pd.DataFrame, aim: str) -> pd.DataFrame:
    """Return our numbers for the paper's four bars, with 95 % intervals over prompts, by a small model and other
    proxies; nan where missing.
    """
    own = scores[(scores.by == "judge") & (scores.variant == "reply")] if len(scores) else pd.DataFrame({"policy": []})
    method = pick_method(own.policy.unique(), aim)
    policies = {"start": "start", "rlhf-5x": f"{method}-rlhf-5x", "rlhf-1x": f"{method}-rlhf-1x",
                "basealign": f"{method}-{aim}"}
    rows = []
    for proxy, other in (("helpful", "rlhf-1x"), ("harmless", "rlhf-5x")):
        table = own.pivot(index="row", columns="policy", values=proxy) if proxy in own else pd.DataFrame(dtype=float)
        table = table.reindex(columns=[*policies.values()]).set_axis([*policies], axis=1)
        named = {f"alignment/{proxy}/{policy}": table[policy] for policy in policies}
        named[f"alignment/order/{proxy}/basealign-over-{other}"] = table.basealign - table[other]
        rows += [(claim, *mean_interval(values)) for claim, values in named.items()]
    return pd.DataFrame(rows, columns=["claim_id", "ours", "low", "high"]).assign(
        why="a small model and proxies of another scale than the paper's rewards")


def _gather_candidates(start, plans, prompts, real, folder, settings, seed) -> dict[str, pd.DataFrame]:
    """Return the replies among which each way of a plan finds better and worse ones: way → prompt, response.

    Every way shares the samples of the start model; real replies are cut to the same length.
    """
    ways = {p.way for p in plans} & {"dpo", "dpo-real", "steering"}
    if not ways:
        return {}
    model, tokenizer = load_policy(start, settings["chat_template"])
    how = AlignSettings("dpo", seed=seed, replies_per_prompt=settings["candidates"],
                        max_new_tokens=settings["max_new_tokens"], temperature=settings["temperature"])
    mark = digest(hash_model(start), tokenizer.chat_template, prompts, how, name_engine(),
                  digest_code(draw_candidates))[:12]
    own = draw_candidates((model, tokenizer), prompts, how, folder / f"candidates-{mark}.jsonl")[["prompt", "response"]]
    known = real[real["prompt"].isin(prompts)][["prompt", "response"]]
    known = known.assign(response=cut_texts(tokenizer, known["response"], settings["max_new_tokens"]))
    return {way: pd.concat([own, known], ignore_index=True) if way == "dpo-real" else own for way in sorted(ways)}


def _place_scorer(panel: dict[str, Any], name: str) -> Any:
    """Return a scorer of the panel for another process: an evaluator, once it was used, goes by its folder alone."""
    scorer = panel.get(name)
    return Path(scorer.name_or_path) if isinstance(scorer, ValueEvaluator) else scorer


def _run_job(start, scorer, plan, target, theory, asked, candidates, folder,
             settings) -> tuple[pd.DataFrame, str, pd.DataFrame]:
    """Align in one way and draw its replies; what is finished is read again."""
    place, policy, history, stopped = folder / plan.name, start, pd.DataFrame(), ""
    if plan.way:
        if isinstance(scorer, Path):
            scorer = ValueEvaluator.from_pretrained(scorer, theory=theory).to(pick_device())
            scorer.keep_features()
        scalar = plan.reward.startswith("rlhf")
        reward = scalar_reward(scorer.predict) if scalar else value_reward(scorer, target, absence=plan.absence,
                                                                           common_weight=plan.common_weight)
        method = WAYS[plan.way]
        own = {f.name: settings.get(f"{method}_{f.name}", settings.get(f.name)) for f in fields(AlignSettings)}
        chosen = {name: value for name, value in own.items() if value is not None}
        policy = align(start, reward, asked["train"][:plan.n_prompts or None], place,
                       AlignSettings(**chosen | {"method": method, "seed": plan.seed}), replace=True,
                       system=write_system_prompt(target, theory), chat_template=settings["chat_template"],
                       allow_faults=settings["allow_faults"] or plan.absence == "mask" or scalar, candidates=candidates)
        history, stopped = policy.history, policy.stopped
    drawn = draw_replies(policy, start, asked["test"] + asked["shown"], settings["max_new_tokens"], plan.seed,
                         settings["temperature"], folder / f"replies-{plan.name}.parquet", settings["chat_template"],
                         asked["real"] + [""] * len(asked["shown"]))
    return history, stopped, drawn


def _count_rows(rows: pd.DataFrame, evaluator: dict | None) -> tuple[int, int]:
    """Return how many rows teach a scorer, and how many real replies are among them; an evaluator has its settings."""
    if evaluator:
        rows = rows[~rows["response_source"].isin(evaluator["unseen_models"])
                    & ((rows["kind"] == "annotated") | (evaluator["scored_weight"] > 0))]
    return len(rows), int(rows["is_real"].sum()) if "is_real" in rows else len(rows)


def _measure_scorer(name, scorer, dims, labelled, rated, pairs, seed) -> list[tuple]:
    """Return on how many test rows, in what and how well a scorer agrees with them, with an interval where known."""
    if name == "helpful":
        better, worse = (scorer.predict(*fit.read_texts(pairs, column)) for column in ("chosen", "rejected"))
        share = float(np.mean(better > worse)) if len(pairs) else np.nan
        return [(len(pairs), "pairs ranked as people did", share, np.nan, np.nan)]
    if name not in (*JUDGES, "values-1x"):
        told = fit.correlate_labels(scorer, rated, ["reward"])
        return [(len(rated), "correlation with released reward", told, np.nan, np.nan)]
    found = [(len(labelled), "correlation with labels", fit.correlate_labels(scorer, labelled, dims), np.nan, np.nan)]
    contrasts = read_contrasts()
    contrasts = contrasts[(contrasts["split"] == "test") & contrasts["value"].isin(dims)]
    if len(contrasts):
        scores = scorer.score(contrasts["prompt"].tolist(), contrasts["response"].tolist())
        own = scores[np.arange(len(contrasts)), [dims.index(value) for value in contrasts["value"]]]
        order = measure_contrasts(own, contrasts).iloc[0]
        found.append((int(order["n"]), "contrast pairs in order", order["mean"], order["low"], order["high"]))
    return found
