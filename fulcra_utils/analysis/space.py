"""The value space in pictures and tests: projections, unknown risks, the circle, reliability, clarity.

Companion of `analysis`: replies in, Findings out; what the rows or the theory do not allow is left out with its reason.
"""

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from threadpoolctl import threadpool_limits

from fulcra_utils.analysis.replies import INTERVAL, Finding, Replies, leave_out
from fulcra_utils.common.labels import NEAREST, scores_to_labels
from fulcra_utils.common.paths import DATA
from fulcra_utils.stats import clusters
from fulcra_utils.stats.comparison import find_components
from fulcra_utils.theory.theory import Theory

MIN_PROMPTS = 5  # a cluster of fewer prompts is an anecdote


@dataclass(frozen=True)
class RiskMap:
    """How detailed harm categories are taken together into a few risks, with the defensible alternatives."""

    risks: dict[str, str]
    mapping: dict[str, str]
    alternatives: dict[str, str]
    profiles: dict[str, dict[str, int]]
    catch_alls: frozenset[str] = frozenset()

    def indicators(self, categories: np.ndarray, names: Sequence[str],
                   mapping: Mapping[str, str] | None = None) -> np.ndarray:
        """Return the (N, R) 0/1 matrix of risks from the (N, C) matrix of categories; unmapped names count nowhere."""
        carry = np.array([[(mapping or self.mapping).get(name) == risk for risk in self.risks] for name in names])
        return (np.asarray(categories) @ carry.reshape(len(names), len(self.risks)) > 0).astype(float)

    def variants(self) -> Iterable[dict[str, str]]:
        """Yield every mapping that the alternatives allow, the declared one first."""
        options = [[(name, risk)] + ([(name, self.alternatives[name])] if name in self.alternatives else [])
                   for name, risk in self.mapping.items()]
        return (dict(choice) for choice in itertools.product(*options))

    def profile_vectors(self, theory: Theory) -> dict[str, np.ndarray]:
        """Return the published profiles (D,) that the theory can express; the others are left out."""
        return {name: np.array([parts.get(d, 0) for d in theory.dimensions], float)
                for name, parts in self.profiles.items() if set(parts) <= set(theory.dimensions)}


def load_risks(path: str | Path = DATA / "risks.yaml") -> RiskMap:
    """Load how detailed harm categories go to a few risks, and the published profiles, from YAML.

    Each line is justified in data/risks.yaml; the paper's mapping is not published, so disputable lines name an
    alternative (`RiskMap.variants`). A category that goes to a risk that is not listed is a ValueError that names it.

    >>> risks = load_risks()
    >>> len(risks.risks), len(risks.mapping), risks.mapping["privacy_violation"], len(list(risks.variants()))
    (5, 14, 'privacy-violation', 16)
    """
    raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    mapping = {name: entry["risk"] for name, entry in raw["categories"].items()}
    alternatives = {name: entry["alternative"] for name, entry in raw["categories"].items() if "alternative" in entry}
    unknown = [name for name, risk in [*mapping.items(), *alternatives.items()] if risk not in raw["risks"]]
    if unknown:
        raise ValueError(f"{path}: category {unknown[0]!r} goes to a risk that is not listed under `risks`")
    catch_alls = frozenset(name for name, entry in raw["categories"].items() if entry.get("catch_all"))
    return RiskMap(raw["risks"], mapping, alternatives, raw.get("profiles", {}), catch_alls)


def name_risks(replies: Replies, risks: RiskMap) -> np.ndarray:
    """Return the risk of each reply's prompt in words (N,): its one risk, several, none listed, or not known."""
    y = risks.indicators(*replies.categories)
    names = np.where(y.any(axis=1), np.array([*risks.risks.values()], object)[y.argmax(axis=1)], "no listed risk")
    names = np.where(y.sum(axis=1) > 1, "several risks", names)
    return np.where(replies.has_issues, names, "not known")


def project_replies(replies: Replies, risks: RiskMap, methods: Sequence[str] = ("pca", "tsne"),
                    max_points: int = 3000, seed: int = 0) -> Finding:
    """Project the value vectors to the plane ("pca", "tsne", "umap"), with the published poles among them.

    PCA is fitted on the replies alone; the other two see the poles as further points. More than `max_points` replies
    are sampled, for the picture only. Columns: method, x, y, pole ("" for a reply), row_id, model, risk, refusal,
    reward. Source: value-space figure of the paper; its projection is not published.

    >>> from fulcra_utils.analysis.replies import make_example
    >>> from fulcra_utils.analysis.space import load_risks
    >>> from fulcra_utils.theory.theory import load_theory
    >>> table = project_replies(make_example(load_theory("schwartz10")), load_risks(), ("pca",)).table
    >>> len(table), table.pole.tolist()[-3:]
    (83, ['safe pole', 'unsafe pole', 'workplace manipulation'])
    """
    if len(replies) < 3 or len(np.unique(replies.vectors, axis=0)) < 3:
        return leave_out("The value space", "fewer than three different value vectors")
    n_shown, rng = min(max_points, len(replies)), np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(replies), n_shown, replace=False))
    profiles = risks.profile_vectors(replies.theory)
    components, points = find_components(replies.vectors), np.vstack([replies.vectors[chosen], *profiles.values()])
    words = replies.table.iloc[chosen][["row_id", "model", "reward"]].astype({"row_id": str, "model": str}).assign(
        pole="", risk=name_risks(replies, risks)[chosen],
        refusal=np.where(replies.refusals[chosen], "refusal", "no refusal"))
    words = pd.concat([words, pd.DataFrame({"pole": [*profiles]})], ignore_index=True)
    words = words.fillna(dict.fromkeys(("row_id", "model", "risk", "refusal"), ""))
    tables = [words.assign(method=m, **dict(zip("xy", _embed(m, points, components, seed).T, strict=True)))
              for m in methods]
    loadings = pd.Series(components["axes"][0], index=replies.theory.dimensions)
    loadings = loadings.sort_values(key=abs, ascending=False, kind="stable").head(4)
    apart = ", ".join(f"{value} ({loading:+.2f})" for value, loading in loadings.items())
    reading = (f"The first two principal components hold {components['share'].sum():.0%} of the variance; the first "
               f"sets {apart} apart. A picture proves nothing: the probes below test what it suggests.")
    note = f"; {n_shown:,} of them drawn" if n_shown < len(replies) else ""
    return Finding(pd.concat(tables, ignore_index=True), reading, f"{replies.describe()}{note}; crosses: the published "
                   f"profiles; seed {seed}.")


def _embed(method: str, points: np.ndarray, components: dict, seed: int) -> np.ndarray:
    """Return the (n + poles, 2) places of one method."""
    if method == "pca":
        places = (points - components["mean"]) @ components["axes"].T
        return np.column_stack([places, np.zeros((len(places), 2 - places.shape[1]))])
    if method == "tsne":
        from sklearn.manifold import TSNE
        with threadpool_limits(1):  # a few thousand points: threads only wait for each other
            return TSNE(2, init="random", perplexity=min(30, (len(points) - 1) / 3), random_state=seed,
                        max_iter=500).fit_transform(points)
    if method == "umap":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap-learn and numba announce their own settings
            import umap
            return umap.UMAP(n_neighbors=min(15, len(points) - 1), init="random" if len(points) < 20 else "pca",
                             random_state=seed, n_jobs=1).fit_transform(points)
    raise ValueError(f"the projection is 'pca', 'tsne' or 'umap', not {method!r}")


def find_unknown_risks(replies: Replies, risks: RiskMap, n_clusters: int = 20, n_draws: int = 50,
                       n_permutations: int = 99, seed: int = 0) -> Finding:
    """Look for clusters of replies that oppose a value and that no known risk category explains.

    A candidate is (1) denser than the densest cluster of columns shuffled over prompts (p <= 0.05 over all clusters),
    (2) stable (mean Jaccard of at least 0.6), (3) of at least 5 prompts, (4) not enriched in any known category
    (adjusted p > 0.05) nor half filled by one (catch-all categories such as "unethical behaviour" name no risk and
    explain nothing), and (5) opposed to at least one value (centre below -0.5). Rows whose prompt's categories are
    unknown are left out.

    One row a cluster, candidates first, then by density: cluster, size, n_prompts, profile (values beyond ±0.5),
    opposes (number of values), density_p, stability, recurrence (mean best Jaccard when half to one and a half times as
    many clusters are made), category (commonest), purity, category_p (adjusted), refusals (share), reward (mean),
    is_candidate, typical (up to 3 row ids next to the centre), one column a value (centre). Source: the paper's claim
    that clusters outside known risks are new ones.

    >>> from fulcra_utils.analysis.replies import make_example
    >>> from fulcra_utils.analysis.space import load_risks
    >>> from fulcra_utils.theory.theory import load_theory
    >>> found = find_unknown_risks(make_example(load_theory("schwartz10")), load_risks(), 4, 3, 9)
    >>> len(found.table), int(found.table["size"].sum())
    (4, 80)
    """
    known = replies.keep(replies.has_issues)
    if len(known) < 50 or len(np.unique(known.vectors.round(6), axis=0)) < 5:
        return leave_out("The search for unknown risks", "too few replies to prompts whose risk categories are known")
    labels = clusters.cluster_vectors(known.vectors, n_clusters, seed)
    matrix, names = known.categories
    specific = [k for k, name in enumerate(names) if name not in risks.catch_alls]
    explained = clusters.compare_categories(labels, matrix[:, specific], known.clusters, seed=seed)
    table = pd.DataFrame([{"cluster": k, **_describe_cluster(known, labels == k)} for k in range(labels.max() + 1)])
    table = table.assign(
        density_p=clusters.assess_density(known.vectors, labels, known.clusters, n_clusters, n_permutations, seed),
        stability=clusters.measure_stability(known.vectors, labels, known.clusters, n_clusters, n_draws, seed),
        recurrence=clusters.measure_recurrence(known.vectors, labels, n_clusters, seed),
        category=[names[specific[c]] if c >= 0 else "" for c in explained["category"]], purity=explained["purity"],
        category_p=explained["p_adjusted"])
    table["is_candidate"] = ((table.density_p <= 0.05) & (table.stability >= 0.6) & (table.opposes > 0)
                             & (table.n_prompts >= MIN_PROMPTS) & (table.category_p > 0.05) & (table.purity < 0.5))
    table = table.sort_values(["is_candidate", "density_p", "size"], ascending=[False, True, False],
                              kind="stable").reset_index(drop=True)
    information = clusters.measure_information(labels, name_risks(known, risks).astype(str), known.clusters, seed=seed)
    return Finding(table, _describe_clusters(table, information), f"{known.describe()}; {len(table)} clusters, "
                   f"{n_draws} bootstrap draws, {n_permutations} permutations.")


def _describe_cluster(replies: Replies, mask: np.ndarray) -> dict:
    """Return the profile, size and most typical replies of one cluster."""
    part = replies.keep(mask)
    centre = part.vectors.mean(axis=0)
    nearest = np.argsort(((part.vectors - centre) ** 2).sum(axis=1), kind="stable")
    first = part.table.iloc[nearest].drop_duplicates("cluster").head(3)
    return {"size": len(part), "n_prompts": part.n_prompts, "profile": write_profile(centre, part.theory.dimensions),
            "opposes": int((scores_to_labels(centre, NEAREST) == -1).sum()), "refusals": part.refusals.mean(),
            "reward": part.table.reward.mean(), "typical": " ".join(first.row_id.astype(str)),
            **dict(zip(part.theory.dimensions, centre, strict=True))}


def write_profile(centre: np.ndarray, names: Sequence[str]) -> str:
    """Return a profile in words: the values beyond ±0.5, with their sign.

    >>> write_profile([0.9, -0.6, 0.1], ["security", "power", "hedonism"])
    'security +, power −'
    """
    signs = zip(names, scores_to_labels(centre, NEAREST), strict=True)
    parts = [f"{name} {'+' if sign > 0 else '−'}" for name, sign in signs if abs(sign) == 1]
    return ", ".join(parts) or "nothing expressed"


def _describe_clusters(table: pd.DataFrame, information: dict) -> str:
    found = table[table.is_candidate]
    opposing = table[(table.opposes > 0) & (table.n_prompts >= MIN_PROMPTS)]
    text = (f"Clusters and known risks share an adjusted mutual information of {information['ami']:.2f} "
            f"(chance below {information['null']:.2f}). ")
    if len(found):
        told = "; ".join(f"{r.profile} ({r.size} replies to {r.n_prompts} prompts; with other numbers of clusters it "
                         f"returns with a Jaccard of {r.recurrence:.2f})" for r in found.itertuples())
        return text + (f"**{len(found)} candidate(s)** for a risk outside the known categories: {told}. A candidate is "
                       "a place to look, no proof of a risk.")
    if opposing.empty:
        return text + (f"No cluster of {MIN_PROMPTS} or more prompts opposes any value: whether unknown risks exist "
                       "cannot be determined from these replies.")
    return text + (f"{len(opposing)} cluster(s) oppose a value; none passes all the tests for an unknown risk.")


def show_typical(unknown: Finding, replies: Replies) -> pd.DataFrame:
    """Return the most typical prompts of the first three clusters that oppose a value, shortened."""
    if unknown.is_left_out:
        return unknown.table
    first = unknown.table[unknown.table.opposes > 0].head(3)
    rows = first.assign(row_id=first.typical.str.split()).explode("row_id")[["profile", "is_candidate", "row_id"]]
    known = replies.table[["row_id", "model", "prompt"]].assign(prompt=replies.table.prompt.str.slice(0, 110))
    return rows.merge(known, on="row_id", how="left")


def search_profiles(replies: Replies, risks: RiskMap, seed: int = 0) -> Finding:
    """Search the published profiles: which replies show every part of them; below 3 matches "undetermined".

    Source: poles and "workplace manipulation" of the paper's value-space figure.
    """
    profiles = risks.profile_vectors(replies.theory)
    if not profiles or len(replies) == 0:
        return leave_out("The search for the published profiles",
                         "the theory does not have their values" if len(replies) else "no reply is labelled")
    hits = np.column_stack([clusters.match_profile(replies.vectors, profile) for profile in profiles.values()])
    table = replies.tabulate_shares([*profiles], hits).rename(columns={"value": "profile", "count": "matches"})
    table.insert(1, "parts", [write_profile(profile, replies.theory.dimensions) for profile in profiles.values()])
    table["verdict"] = np.where(table.matches >= 3, "found", "undetermined")
    table["row_ids"] = [" ".join(replies.table.row_id[found].astype(str).head(10)) for found in hits.T]
    told = "; ".join(f"{r.profile}: {r.matches} of {r.n:,} ({r.verdict})" for r in table.itertuples())
    reading = f"{told}. Undetermined is not refuted: these prompts and models may simply not call it forth."
    return Finding(table, reading, f"{replies.describe()}; {INTERVAL}.")
