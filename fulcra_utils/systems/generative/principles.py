"""Principles from YAML: everyday rules, each with a story that puts it to the test and an example of either ending.

A principle names values of any theories; `pick_principles` finds which of them a theory knows. The file also holds the
sentences that a rewrite may put into a story (`edits`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from fulcra_utils.common.paths import DATA
from fulcra_utils.common.yaml_files import find_line, name_fault, read_yaml
from fulcra_utils.evaluator.encoder import Encoder, embed
from fulcra_utils.evaluator.model import describe_value
from fulcra_utils.theory.theory import Name, Theory, normalise

PRINCIPLES = DATA / "principles.yaml"
TASK = "Write a short story about everyday life."


class PrincipleError(ValueError):
    """A file of principles cannot be used, or none fits; the message lists every fault with its place."""


class Principle(BaseModel, extra="forbid", str_strip_whitespace=True, frozen=True):
    """A rule, the values it belongs to, the start of a story, and completions that keep and that break it."""

    principle: Name
    values: tuple[Name, ...] = Field(min_length=1)
    setting: Name
    opening: Name
    kept: Name
    violated: Name


class _PrincipleFile(BaseModel, extra="forbid", str_strip_whitespace=True):
    principles: list[Principle] = Field(min_length=1)
    edits: list[Name] = Field(min_length=2)


@dataclass(frozen=True)
class Story:
    """The start of a story about a principle: what comes before the unfinished sentence, and that one.

    Without an unfinished sentence (`opening`) the setting is a question. `instruction` stands before what is asked.
    """

    principle: Principle
    setting: str
    opening: str
    instruction: str = ""

    @property
    def talk(self) -> tuple[str, str]:
        """Return what a model is asked, and how its reply begins."""
        return (self.instruction + TASK, f"{self.setting} {self.opening}") if self.opening else (self.setting, "")


def begin_stories(principles: Sequence[Principle]) -> list[Story]:
    """Return the start of each principle's story as its file has it."""
    return [Story(one, one.setting, one.opening) for one in principles]


def read_principles(path: str | Path = PRINCIPLES) -> tuple[list[Principle], list[str]]:
    """Read principles and edits from a YAML file; PrincipleError names the file, and the line of every fault.

    >>> principles, edits = read_principles()
    >>> len(principles), principles[0].values
    (45, ('care', 'benevolence'))
    """
    try:
        raw, node, faults = read_yaml(Path(path))
        file = _PrincipleFile.model_validate(raw)
    except ValidationError as error:
        faults += [f"line {find_line(node, place)}, {'.'.join(map(str, place)) or 'file'}: {text}"
                   for place, text in map(name_fault, error.errors())]
    except (ValueError, OSError) as error:
        faults = [str(error)]
    if faults:
        raise PrincipleError(f"{path}: {len(faults)} fault(s): {'; '.join(faults)}")
    return file.principles, file.edits


def match_values(principles: Sequence[Principle], theory: Theory, encoder: Encoder, least: float = 0.3) -> pd.DataFrame:
    """Return the value of a theory that each principle belongs to: principle, value ("" = none fits), cosine.

    The first value that the principle names counts, by name, alias or, of a finer theory, as the parent whose child is
    nearest (cosine nan); else that whose definition an encoder finds nearest, if the cosine reaches `least` (ours).

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> from fulcra_utils.theory.theory import load_theory
    >>> match_values(read_principles()[0][:1], load_theory("schwartz10"), load_encoder("tiny")).value.tolist()
    ['benevolence']
    """
    names = {name: [d for d, one in enumerate(theory.parents) if one == name] for name in theory.parents}
    names |= {name: [d] for name, d in theory.dimension_names.items()}
    meanings = embed([describe_value(*one) for one in zip(theory.dimensions, theory.definitions, strict=True)], encoder)
    nearest, rows = embed([one.principle for one in principles], encoder) @ meanings.T, []      # (N, D)
    for one, cosines in zip(principles, nearest, strict=True):
        named = next((names[name] for name in map(normalise, one.values) if name in names), [])
        d, cosine = max(named, key=cosines.__getitem__, default=None), np.nan
        if d is None:
            d, cosine = (int(cosines.argmax()) if cosines.max() >= least else None), float(cosines.max())
        rows.append((one.principle, "" if d is None else theory.dimensions[d], cosine))
    return pd.DataFrame(rows, columns=["principle", "value", "cosine"])


def pick_principles(matched: pd.DataFrame, n: int) -> list[int]:
    """Return the indices of `n` principles with a value, in turns over the values (0: all); PrincipleError without.

    >>> matched = pd.DataFrame({"value": ["care", "care", "", "loyalty"]})
    >>> pick_principles(matched, 2)
    [0, 3]
    """
    known = matched[matched.value != ""]
    if known.empty:
        raise PrincipleError("none of the principles belongs to a value of the theory: name its values in a file of "
                             "principles of your own")
    turns = known.assign(turn=known.groupby("value").cumcount()).sort_values("turn", kind="stable")
    return sorted(turns.index[:n or None].tolist())
