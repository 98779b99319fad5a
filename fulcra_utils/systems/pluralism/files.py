"""The `weigh` command: rows with situations in, the same rows with what was weighed or found out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path

import pandas as pd
import pyarrow as pa

from fulcra_utils.common.files import check_outputs, lock_output
from fulcra_utils.common.paths import ROOT
from fulcra_utils.dataset.rows import SUFFIXES, iter_rows, pick_rows, read_text
from fulcra_utils.dataset.texts import DatasetError, clean_text, looks_english
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import ValueEvaluator
from fulcra_utils.evaluator.scoring import copy_rows
from fulcra_utils.llm.local import SMOLLM2, PolicyError, load_policy
from fulcra_utils.systems.pluralism.candidates import find_values, measure_entropy, sum_stance
from fulcra_utils.systems.pluralism.situations import VALENCES, load_labelled, load_situations
from fulcra_utils.systems.pluralism.weighing import Weigher, weigh

SHARD = 512     # rows that are weighed at a time
FOREIGN = "does not look English, which alone is read: these are no measurement"
LONG = "is long: only parts of it are read"
_VALENCE = pa.struct([(name, pa.float64()) for name in VALENCES])
_FOUND = pa.struct([("value", pa.string()), ("kind", pa.string()), ("relevance", pa.float64()), ("valence", _VALENCE),
                    ("why", pa.string())])
SCHEMA = pa.schema([("relevance", pa.float64()), ("valence", _VALENCE), ("values", pa.list_(_FOUND)),
                    ("stance", _VALENCE), ("ambiguity", pa.float64()), ("problem", pa.string())])


def load_weigher(evaluator: str | Path = "", encoder: str = "bundled", model: str = SMOLLM2,
                 say: Callable[[str], object] = lambda text: None) -> tuple[Weigher, list[str]]:
    """Load and fit a weigher: an evaluator's folder ("" is the laptop run's), and a language model ("" for none).

    Beside it what it was fitted on, and what it goes without. ValueError in one line when there is no evaluator.
    """
    folder = Path(evaluator or ROOT / "runs" / "laptop" / "evaluator")
    if not evaluator and not folder.is_dir():
        raise ValueError(f"there is no evaluator in {folder}: give one with --evaluator, or run `make reproduce`")
    reader, notes, chat = ValueEvaluator.from_pretrained(folder), [], None
    reader.keep_features()
    try:
        chat = load_policy(model) if model else None
    except PolicyError as error:
        notes.append(f"valence goes by the evaluator alone: {error}")
    (listed, source), (labelled, taught) = load_situations(), load_labelled()
    listed = listed[listed.split.notna() & (listed.split != "test")]    # none: it lies between two clusters
    say(f"Fitting relevance to {len(listed):,} listed values, valence to {len(labelled):,} situations: about a minute")
    return (Weigher(reader, load_encoder(encoder), chat).fit(listed, labelled),
            [f"relevance is fitted on {listed.situation.nunique():,} of {source}", f"valence on {taught}", *notes])


def _pick_pair(row: dict) -> tuple[str, str | None]:
    situation = clean_text(read_text(row, "situation"))
    return situation, clean_text(read_text(row, "value")) if row.get("value") is not None else None


def weigh_file(load: Callable[[], Weigher], source: str | Path, target: str | Path, candidates: Sequence[str] = (),
               batch_size: int = 32, ask: Callable[[Sequence[str]], list] | None = None) -> tuple[list[str], list[str]]:
    """Weigh the rows of a file into another one (.jsonl, .jsonl.gz, .parquet), in order.

    `load` takes a minute, so it comes last: files that cannot be used and an endpoint that is away are told at once.
    Returned are the rows that could not be weighed ("line 3: …"), and what is to be said of fields (`copy_rows`).
    A row with `situation` and `value` gets relevance and valence; one without `value` gets `values`, the candidates
    found in it (`find_values`), their `stance` and its entropy as `ambiguity`. With `ask` (`ask_candidates` of
    situations) the candidates are those that it names, each with `why`. A row that cannot be weighed has these fields
    null and `problem`; one that is long or no English is weighed and has a `problem`. Fields of the input with such
    names are kept as `input_…`.
    """
    source, target = Path(source), Path(target)
    check_outputs([(target, SUFFIXES)], [source])
    if next(iter_rows(source), None) is None:
        raise DatasetError(f"The input {source} has no rows.")
    faults: list[str] = []
    with lock_output(target):
        named = ask([pair[0] for *_, pair, fault in pick_rows(source, _pick_pair) if not fault and pair[1] is None]
                    ) if ask else repeat((dict.fromkeys(candidates), ""))     # asked at once: one budget for the file
        notes = copy_rows(source, _weigh_rows(load(), source, iter(named), batch_size, faults), target, SCHEMA,
                          SCHEMA.names, SHARD)
    return faults, notes


def _weigh_rows(weigher: Weigher, source: Path, offered: Iterator, batch_size: int, faults: list) -> Iterator[dict]:
    """Yield what each row gains, and add to the faults those that have nothing; `offered` are open rows' candidates."""
    rows = pick_rows(source, _pick_pair)
    while shard := list(islice(rows, SHARD)):
        pairs = [pair for *_, pair, fault in shard if not fault and pair[1] is not None]
        told = iter(_list_rows(weigh(*zip(*pairs, strict=True), weigher, batch_size)) if pairs else ())
        for line, _, pair, fault in shard:
            named, fault = next(offered) if not fault and pair[1] is None else (None, fault)
            if fault and named is None:
                faults.append(f"line {line}: {fault}")
                yield dict.fromkeys(SCHEMA.names) | {"problem": str(fault)}
                continue
            found = next(told) if named is None else describe_situation(pair[0], named, weigher)
            is_read = all(map(looks_english, filter(None, pair)))
            marks = [str(fault)] * bool(fault) + ([LONG] * weigher.is_cut(*pair) if is_read else [FOREIGN])
            yield found | ({"problem": "; ".join(marks)} if marks else {})


def _list_rows(table: pd.DataFrame) -> list[dict]:
    """Return the rows of a table, rounded, with their `valence` as one field."""
    told = table.astype(dict.fromkeys(("relevance", *VALENCES), float)).round(6)
    return told.drop(columns=list(VALENCES)).assign(valence=told[list(VALENCES)].to_dict("records")).to_dict("records")


def describe_situation(situation: str, candidates: Mapping[str, str | None], weigher: Weigher) -> dict:
    """Return the values found in a situation, their stance and its entropy; both null when none is relevant enough.

    `candidates` maps each name to why it bears on the situation, None = nobody said why.
    """
    table = find_values(situation, list(candidates), weigher).round(6)
    stance = sum_stance(table.relevance, table[list(VALENCES)])
    return {"values": _list_rows(table.assign(why=[candidates[name] for name in table.value])),
            "stance": dict(zip(VALENCES, stance.round(6).tolist(), strict=True)) if len(table) else None,
            "ambiguity": round(measure_entropy(stance), 6) if len(table) else None}
