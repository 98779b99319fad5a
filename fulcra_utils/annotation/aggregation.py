"""People's decisions from a Label Studio export as a labelled file: one label of several, and how far they agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Template

from fulcra_utils.annotation import labelling, questions, review
from fulcra_utils.annotation.label_studio import read_export
from fulcra_utils.common.files import check_outputs
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.release import write_release
from fulcra_utils.stats.agreement import measure_agreement
from fulcra_utils.theory.theory import Theory, load_theory

WAYS = {"vote": questions.vote_labels, "dawid-skene": questions.weigh_labels}
REPORT = Template((DATA / "prompts" / "import_report.txt").read_text(encoding="utf-8"), trim_blocks=True)


def import_decisions(export: str | Path, output: str | Path, theory: Theory | str, aggregate: str = "vote",
                     card: bool = True) -> tuple[str, int]:
    """Write the replies of a Label Studio export with the label on which its annotators come out; return a report and
    how many tasks or annotations could not be used.

    One row a reply in the released shape, with `annotators` ({who: {name: label}}) beside the one label; a cell on
    which they tie, or about which nobody was asked, stays not annotated. Whoever is known by an e-mail address is
    called "person n" in what is written. `card` also writes the data set folder. ReviewError when nothing can be used,
    ValueError for an unknown way.
    """
    theory, output = load_theory(theory), Path(output)
    if aggregate not in WAYS:
        raise ValueError(f"no way {aggregate!r} to aggregate; there are {' and '.join(WAYS)}.")
    check_outputs([(output, labelling.ROWS)], [Path(export)])
    told, faults, n_cancelled = read_export(export, theory)
    has_text = told[["prompt", "response"]].notna().all(axis=1)
    faults += [f"row_id {row_id!r}: prompt or response is missing" for row_id in told.row_id[~has_text].unique()]
    if (told := told[has_text]).empty:
        raise review.ReviewError(f"{export}: holds no decision that can be used{': '.join(['', *faults[:1]])}")
    known = {who: f"person {n}" if "@" in who else who for n, who in enumerate(sorted(set(told.who)), 1)}
    ids, by = told.row_id.unique(), review.spread_decisions(told.assign(who=told.who.map(known)))
    texts = review.add_texts(pd.DataFrame({"row_id": ids}), told)
    names = sorted({*by.index.unique("name")}, key=[*theory.dimensions, *theory.items].index)
    ratings = by.reindex(pd.MultiIndex.from_product([ids, names])).to_numpy().T.reshape(-1, len(ids), len(names))
    labels = pd.DataFrame(WAYS[aggregate](ratings)[0], ids, names).stack().dropna()
    agreement = measure_agreement(ratings, names, texts.prompt, 500) if len(ratings) > 1 else None
    files = [labelling.write_rows(output, _label_rows(texts, labels, by, theory))]
    if card:
        release = output.with_name(output.name.partition(".jsonl")[0] + ".dataset")
        files.append(write_release(release, output, theory, {"agreement": agreement, "annotators": ", ".join(by)},
                                   annotators=by))
    same = by.eq(labels.reindex(by.index), axis=0).sum() / by.loc[by.index.isin(labels.index)].notna().sum()
    return REPORT.render(told=told, by=by, labels=labels, agreement=agreement, faults=faults, way=aggregate, same=same,
                         known=known, n_cancelled=n_cancelled, n_rows=len(ids), files=files).rstrip("\n"), len(faults)


def _label_rows(texts: pd.DataFrame, labels: pd.Series, by: pd.DataFrame, theory: Theory) -> list[dict[str, Any]]:
    decided = labels.rename_axis(["row_id", "name"]).reset_index(name="label").assign(when="")
    decided["who"] = (by.notna() @ (by.columns + ", ")).str[:-2].reindex(labels.index).to_numpy()
    of_items, by_item = review.apply_decisions(None, theory.items, texts.row_id, decided)
    of_dims, by_dim = review.apply_decisions(None, theory.dimensions, texts.row_id, decided)
    return [labelling.build_output(row, of_items[n], theory, {
        theory.items[i]: "nobody was asked, or the annotators tie" for i in np.flatnonzero(np.isnan(of_items[n]))}, {
            "value_types": labelling.items_to_types(of_items[n], theory, of_dims[n]),
            "decided_by": by_item[n] | by_dim[n], "annotators": {
                who: labels.dropna().astype(int).to_dict() for who, labels in by.loc[row.row_id].items()}})
            for n, row in enumerate(labelling.rows_of(texts))]
