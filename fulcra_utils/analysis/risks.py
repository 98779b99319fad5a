"""Risk categories of prompts, read from YAML."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from fulcra_utils.common.paths import DATA
from fulcra_utils.theory.theory import Theory

RISKS = DATA / "risks.yaml"


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
        mapping = self.mapping if mapping is None else mapping
        carry = np.array([[mapping.get(name) == risk for risk in self.risks] for name in names], float)
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


def load_risks(path: str | Path = RISKS) -> RiskMap:
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
