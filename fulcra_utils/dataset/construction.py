"""Turn the files that can be had into the tables of a run: dialogues, items, scored replies, prompts, pairs, splits.

Rules: one split over all files, by clusters of near-duplicate prompts; a dialogue that stands in two files is taken
once, from the first; an annotated row takes the risk categories of its prompt from the prompt pools; a theory is
given the labels beside its file and the public ones when it is theirs or refines theirs, else its labelled sample, else
dialogues without labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset import labelled
from fulcra_utils.dataset.labelled import Reader, ValueDataset, read_dataset
from fulcra_utils.dataset.rows import Dialogue
from fulcra_utils.dataset.sources import Fetched, load_sources
from fulcra_utils.dataset.splits import assign_splits, group_prompts
from fulcra_utils.dataset.texts import is_refusal
from fulcra_utils.theory.theory import Theory, load_theory

SAMPLES = DATA / "sample"
TEXT = ("prompt", "response")
REPLY = ("row_id", "prompt", "response", "query_source", "response_source", "safety_issues", "reward")
PLACE = ("source", "line", "cluster", "split", "half", "is_refusal")
LEADING = (*REPLY, *PLACE)


@dataclass(frozen=True)
class RunData:
    """The tables that the later steps of a run read.

    - dialogues: annotated replies, the columns of `LEADING`, then one float column a dimension (nan = not annotated);
    - items: row_id, one int8 column a value item, and is_summed (`ValueDataset`);
    - scored: replies with the released scores, as `dialogues`, with e_distance and h_distance after `reward`;
    - prompts: prompt, source, safety_issues (empty: no risk, None: nobody rated it), cluster, split, half;
      preferences: prompt, chosen, rejected, cluster, split;
    - splits: prompt (unique over all files), cluster, split, half;
    - problems: source, line, field, text, reason;
    - labels: source, name, label, raw, after: how often each dimension label stands in a file and in the vectors;
    - sources: "had": name → rows read and kept; "missing": name → reason; "labels_from": words.
    """

    dialogues: pd.DataFrame
    items: pd.DataFrame
    scored: pd.DataFrame
    prompts: pd.DataFrame
    preferences: pd.DataFrame
    splits: pd.DataFrame
    problems: pd.DataFrame
    labels: pd.DataFrame
    sources: dict


def locate_sample(theory: Theory) -> tuple[Path, bool]:
    """Return the file of sample dialogues for a theory and whether it holds labels under this theory.

    Looked for: `<stem>.jsonl` beside the theory's file, the sample of the theory's name, that of the parent theory (its
    item labels serve); else any sample, for its dialogues alone.
    """
    names = [name for name in (theory.name, theory.parent) if name]
    candidates = [theory.labels_path, *(SAMPLES / f"{name}.jsonl" for name in names)]
    found = next((path for path in candidates if path.is_file()), None)
    return (found, True) if found else (sorted(SAMPLES.glob("*.jsonl"))[-1], False)


def locate_labels(theory: Theory, fetched: Fetched) -> Path:
    """Return the first public file with labels under the theory (or its parent), else the sample's."""
    return next(iter(_pick_files(fetched, "annotated", theory.name, theory.parent).values()), locate_sample(theory)[0])


def build_run_data(theory: Theory, fetched: Fetched | None = None, seed: int = 2023) -> RunData:
    """Read everything that can be had (None: the embedded sample alone) into the tables of a run.

    The split keeps near-duplicate prompts together, because released test prompts occur in train.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> data = build_run_data(load_theory("schwartz10"))
    >>> len(data.dialogues) >= 300, len(data.scored), data.sources["labels_from"]
    (True, 0, 'the embedded sample schwartz10.jsonl')
    """
    fetched = fetched or Fetched()
    annotated, labels_from = _read_annotated(theory, fetched)
    scored = _pick_files(fetched, "scored", theory.name)
    scored = {name: labelled.read_scored(path, theory) for name, path in scored.items()}
    pools = {name: labelled.read_prompts(path) for name, path in _pick_files(fetched, "prompts").items()}
    pairs = {name: labelled.read_preferences(path) for name, path in _pick_files(fetched, "preferences").items()}
    pools = pools or {name: _sample_prompts(data) for name, data in annotated.items()}
    pairs = pairs or {name: _rated_pairs(data.table) for name, data in annotated.items()}
    had, problems = _report({**annotated, **scored}, {**pools, **pairs})
    labels = _stack_tables({name: data.count_labels(theory) for name, data in annotated.items()},
                           ["name", "label", "raw", "after"])
    sources = {"had": had, "missing": dict(fetched.missing), "labels_from": labels_from}
    return _assemble(theory, annotated, scored, pools, pairs, seed, problems=problems, labels=labels, sources=sources)


def split_dimensions(table: pd.DataFrame, theory: Theory) -> np.ndarray:
    """Return the value vectors (N, D) of a table with one column per dimension; ValueError names the first without."""
    missing = [name for name in theory.dimensions if name not in table]
    if missing:
        raise ValueError(f"the table has no column {missing[0]!r}: it was made under another theory.")
    return table[list(theory.dimensions)].to_numpy(dtype=float)


def list_risky(tables: Sequence[pd.DataFrame]) -> set[str]:
    """Return the prompts of a run's tables that are tagged with a risk in one of them, or are alike to one that is."""
    rows = pd.concat([table[["prompt", "cluster", "safety_issues"]] for table in tables])
    return set(rows["prompt"][rows["cluster"].isin(rows["cluster"][rows["safety_issues"].str.len() > 0])])


def summarise_sources(data: RunData) -> pd.DataFrame:
    """Return one row per file: what was read, what was kept, or why it is missing."""
    rows = [{"source": name, "remark": "", **counts} for name, counts in data.sources["had"].items()]
    rows += [{"source": name, "remark": f"missing: {why}"} for name, why in data.sources["missing"].items()]
    table = pd.DataFrame(rows, columns=["source", "read", "kept", "annotated", "remark"])
    return table.astype(dict.fromkeys(("read", "kept", "annotated"), "Int64"))


def summarise_problems(problems: pd.DataFrame) -> pd.DataFrame:
    """Return how often each kind of problem stands in each source and field, most frequent first."""
    counts = problems.groupby(["source", "field", "reason"], sort=True).size().rename("n").reset_index()
    return counts.sort_values("n", ascending=False, kind="stable").reset_index(drop=True)


def measure_prevalence(vectors: np.ndarray, theory: Theory) -> pd.DataFrame:
    """Return the per cent of annotated replies in which each dimension is supported and opposed; nan without any.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> vectors = np.array([[1.0, 0, 0, 0, np.nan], [-1, 0, 0, 0, np.nan]])
    >>> measure_prevalence(vectors, load_theory("moral_foundations")).loc[0, ["aligned", "opposed", "n"]].tolist()
    [50.0, 50.0, 2.0]
    """
    n = np.isfinite(vectors).sum(axis=0)
    aligned, opposed = (100 * found.sum(axis=0) / np.where(n, n, np.nan) for found in (vectors > 0, vectors < 0))
    return pd.DataFrame({"dimension": theory.dimensions, "aligned": aligned, "opposed": opposed,
                         "mentioned": aligned + opposed, "n": n})


def load_published_prevalence(theory: Theory) -> pd.DataFrame | None:
    """Return the published prevalence of the theory's dimensions in per cent, or None when none is published.

    Read off the published bars (data/reported/analysis_prevalence.csv, ±0.5 points); aligned and opposed are nan where
    only their sum, mentioned, is published.
    """
    claims = pd.read_csv(DATA / "reported" / "analysis_prevalence.csv", comment="#")
    reported = claims.set_index("claim_id").reported * 100
    aligned, mentioned = (reported.reindex([f"prevalence/{name}/{word}" for name in theory.dimensions]).to_numpy()
                          for word in ("aligned", "expressed"))
    if np.isnan(mentioned).any():
        return None
    return pd.DataFrame({"dimension": theory.dimensions, "aligned": aligned, "opposed": mentioned - aligned,
                         "mentioned": mentioned})


def compare_vector_rules(path: str | Path, theory: Theory) -> pd.DataFrame:
    """Return how often each rule from items to dimensions gives the dimension labels that stand in a file.

    "sign-sum": the sign of a dimension's summed item labels, nothing on a tie; it gives 1,666 of the 1,718 released
    rows. "released": every sign that any item of the dimension carries, so that a dimension may stand with both. No
    rows where the file holds no dimension labels under the theory, or for a theory whose labels come from its parent's
    file.
    """
    reader = Reader(path, theory)
    signs = [np.hstack([reader.count_signs(row, name)[[1, -1]] for name in ("value_items", "value_types")])
             for row, _ in reader.pick(lambda row: None) if "value_types" in row or "value_items" in row]
    n, signs = len(signs), np.array(signs, dtype=int).reshape(-1, 2, theory.n_items + theory.n_dims)
    items, types = signs[..., :theory.n_items], signs[..., theory.n_items:]
    carried = items @ theory.item_matrix.astype(int)  # (N, 2, D)
    summed = carried[:, 0] - carried[:, 1]
    rules = {"sign-sum": np.stack([summed > 0, summed < 0], axis=1), "released": carried > 0}
    equal = {rule: int(np.all(signs == (types > 0), axis=(1, 2)).sum()) for rule, signs in rules.items()}
    return pd.DataFrame([(rule, n, k, k / n) for rule, k in equal.items() if types.any() and theory.parent is None],
                        columns=["rule", "n", "equal", "share"])


def count_claims(data: RunData, rules: pd.DataFrame) -> pd.DataFrame:
    """Return our numbers for data/reported/dataset.csv (rows, label counts, sign-sum rule); nan without the file.

    `rules` is from `compare_vector_rules` on the file of `locate_labels`. A count has no interval.
    """
    had, name = data.sources["had"], "trustworthy_data"
    ours = {"dataset/size": len(data.dialogues), "dataset/trustworthy/rows": had.get(name, {}).get("kept", np.nan)}
    sign_sum = rules[rules.rule == "sign-sum"].equal
    ours["dataset/trustworthy/sign-sum"] = sign_sum.iloc[0] if len(sign_sum) and name in had else np.nan
    raw = data.labels[data.labels.source == name].set_index(["name", "label"]).raw
    ours |= {f"dataset/trustworthy/{dimension}/{word}": raw.get((dimension, sign), np.nan)
             for dimension in load_theory(load_sources()[name].theory).dimensions
             for sign, word in (("+1", "aligned"), ("-1", "opposed"))}
    why = f"{len(data.dialogues)} annotated rows can be had here; labels from {data.sources['labels_from']}"
    return pd.DataFrame([(claim, value, value, value, why if claim == "dataset/size" else "")
                         for claim, value in ours.items()], columns=["claim_id", "ours", "low", "high", "why"])


def _pick_files(fetched: Fetched, role: str, *theories: str | None) -> dict[str, Path]:
    """Return the files of a role that were had, by name; with theories given, those under one of them."""
    sources = load_sources()
    return {name: path for name, path in fetched.paths.items()
            if sources[name].role == role and (not theories or sources[name].theory in theories)}


def _read_annotated(theory: Theory, fetched: Fetched) -> tuple[dict[str, ValueDataset], str]:
    """Return the annotated files by name and, in words, where their labels come from."""
    public = _pick_files(fetched, "annotated", theory.name, theory.parent)
    path, has_labels = locate_sample(theory)
    own = {"sample": path} if has_labels and (not public or path == theory.labels_path) else {}
    if files := own | public:     # a row of one's own comes first
        found = {name: read_dataset(file, theory) for name, file in files.items()}
        if own and (data := found["sample"]).table.empty:
            why = next((f"line {p.line}, {p.field}: {p.reason}" for p in data.problems.itertuples()), "it is empty")
            raise ValueError(f"{path}: no row could be read; {why}")
        where = (f"the file {path.name} beside the theory" if path == theory.labels_path else
                 f"the embedded sample {path.name}")
        return found, " and ".join([where] * bool(own) + [f"public files: {', '.join(public)}"] * bool(public))
    bare, nothing = _pick_files(fetched, "annotated"), (np.full(theory.n_dims, np.nan), np.zeros(theory.n_items))
    return {name: Reader(path, theory).gather(lambda row: nothing)
            for name, path in (bare or {"sample": path}).items()}, "nowhere: dialogues without labels"


def _sample_prompts(data: ValueDataset) -> pd.DataFrame:
    """Return the prompts of a file as a pool, each as its first rated row rates it; None where nobody does."""
    table = data.table[["prompt", "safety_issues", "line"]]
    table = table.sort_values("safety_issues", key=pd.isna, kind="stable").drop_duplicates("prompt").sort_index()
    return table.assign(safety_issues=[None if v is None else list(v) for v in table.safety_issues])


def _rated_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return (prompt, chosen, rejected): the best and the worst rated reply where they are two points apart."""
    rated = table[table.reward.notna()].sort_values(["reward", "line"], ascending=[False, True])
    ends = rated.groupby("prompt", sort=False).agg(
        chosen=("response", "first"), rejected=("response", "last"), best=("reward", "max"), worst=("reward", "min"),
        line=("line", "first"))
    return ends[ends.best - ends.worst >= 2].reset_index()[["prompt", "chosen", "rejected", "line"]]


def _report(annotated: dict[str, ValueDataset], plain: dict[str, pd.DataFrame]) -> tuple[dict, pd.DataFrame]:
    """Return how many rows of each file were read and kept, and the problems of all files."""
    had = {name: {"read": data.n_read, "kept": len(data.table),
                  "annotated": int(np.isfinite(data.vectors).any(axis=1).sum())} for name, data in annotated.items()}
    problems, columns = {name: data.problems for name, data in annotated.items()}, ["line", "field", "text", "reason"]
    for name, table in plain.items():
        had.setdefault(name, {"read": table.attrs.get("n_read"), "kept": len(table)})
        problems.setdefault(name, pd.DataFrame(table.attrs.get("problems", []), columns=columns))
    return had, _stack_tables(problems, columns)


def _assemble(theory: Theory, annotated: dict, scored: dict, pools: dict, pairs: dict, seed: int, **told) -> RunData:
    (dialogues, items), dims = _stack(annotated, theory), list(theory.dimensions)
    scores = _stack(scored, theory)[0] if scored else dialogues.head(0)
    prompts = _stack_tables(pools, ["prompt", "safety_issues", "line"]).drop_duplicates("prompt")
    preferences = _stack_tables(pairs, ["prompt", "chosen", "rejected", "line"])
    reply = [*TEXT, "response_source"]      # two models may say the same
    keep = ~find_doubles(dialogues, dims, reply)
    told["sources"]["duplicates_dropped"] = int((~keep).sum())
    for name, n in dialogues.source[~keep].value_counts().items():
        had = told["sources"]["had"][name]
        had |= {"kept": had["kept"] - int(n), "remark": f"{n:,} rows repeat a reply of the same model"}
    for name, n in prompts.source[prompts.safety_issues.isna()].value_counts().items():
        had, why = told["sources"]["had"][name], f"the risk of {n:,} prompts of the pool is not known"
        had["remark"] = f"{had['remark']}; {why}" if "remark" in had else why
    clash = dialogues[~keep & find_clashes(dialogues, dims, reply)]
    told["problems"] = pd.concat([told["problems"], clash[["source", "line"]].assign(
        field="prompt, response", text="", reason="the reply stands above with other labels: row dropped")],
        ignore_index=True)
    dialogues, items = (table[keep].reset_index(drop=True) for table in (dialogues, items))

    every = pd.concat([t.prompt for t in (dialogues, scores, prompts, preferences)], ignore_index=True)
    splits = assign_splits(every, group_prompts(every.drop_duplicates().tolist())[pd.factorize(every)[0]], seed)
    known = prompts.set_index("prompt").safety_issues
    dialogues, scores = (_finish(table, splits, known) for table in (dialogues, scores))
    prompts, preferences = (table.merge(splits, on="prompt", how="left") for table in (prompts, preferences))
    return RunData(
        dialogues=dialogues[[*LEADING, *dims]], items=items, splits=splits, **told,
        scored=scores[[*REPLY, "e_distance", "h_distance", *PLACE, *dims]],
        prompts=prompts[["prompt", "source", "safety_issues", "cluster", "split", "half"]],
        preferences=preferences[["prompt", "chosen", "rejected", "cluster", "split"]])


def find_doubles(rows: pd.DataFrame, dimensions: Sequence[str], reply: Sequence[str] = TEXT) -> pd.Series:
    """Return which rows repeat a reply, known by these columns; of those the first that has labels is none."""
    labelled_first = rows[list(dimensions)].isna().all(axis=1).sort_values(kind="stable").index
    return rows.loc[labelled_first].duplicated(list(reply))[rows.index]


def find_clashes(rows: pd.DataFrame, dimensions: Sequence[str], reply: Sequence[str] = TEXT) -> pd.Series:
    """Return which rows hold a reply that another row labels otherwise; one without labels does not."""
    told = rows[list(dimensions)]
    told = told.fillna(np.inf).where(told.notna().any(axis=1))
    groups = told.groupby([rows[name] for name in reply])
    return (groups.transform("max") != groups.transform("min")).where(told.notna()).eq(True).any(axis=1)


def _stack(datasets: dict[str, ValueDataset], theory: Theory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of several files as one table with source, row_id and value vectors, and their item labels.

    A row of a pinned file is known by its line, of any other file, which may change, by its text.
    """
    tables, items, sources = [], [], load_sources()
    for name, data in datasets.items():
        model = name in sources and sources[name].model or "a model without name"  # of a reply whose row names none
        texts = zip(data.table.prompt, data.table.response, strict=True)
        ids = data.table.line if name in sources else [
            Dialogue((("user", str(prompt)), ("assistant", str(reply)))).row_id for prompt, reply in texts]
        table = data.table.assign(
            prompt=data.table.prompt.astype(str), source=name, row_id=[f"{name}:{id_}" for id_ in ids],
            response_source=data.table.response_source.fillna(model))
        shared = table.groupby("row_id").response_source.transform("nunique") > 1   # by several models
        table["row_id"] = table.row_id.where(~shared, table.row_id + ":" + table.response_source)
        tables.append(pd.concat([table, pd.DataFrame(data.vectors, columns=theory.dimensions)], axis=1))
        items.append(pd.concat([table[["row_id"]], pd.DataFrame(data.item_labels, columns=theory.items),
                                table[["is_summed"]]], axis=1))
    return pd.concat(tables, ignore_index=True), pd.concat(items, ignore_index=True)


def _stack_tables(tables: dict[str, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    parts = [table.assign(source=name)[["source", *columns]] for name, table in tables.items() if len(table)]
    parts = [part.astype({"prompt": str}) if "prompt" in part else part for part in parts]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["source", *columns], dtype=object)


def _finish(table: pd.DataFrame, splits: pd.DataFrame, known_issues: pd.Series) -> pd.DataFrame:
    """Add cluster, split, half, refusal flag and, where the row has none of its own, the prompt's risk categories."""
    table = table.merge(splits, on="prompt", how="left")
    issues = [own if own is not None else known_issues.get(prompt)
              for own, prompt in zip(table.safety_issues, table.prompt, strict=True)]
    return table.assign(safety_issues=pd.Series(issues, index=table.index, dtype=object),
                        is_refusal=is_refusal(table.response))
