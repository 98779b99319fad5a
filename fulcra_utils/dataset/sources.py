"""Get the public files: pinned to a commit, verified, from a local mirror or the network, each whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pooch
import requests
import yaml
from pydantic import BaseModel

from fulcra_utils.common.files import write_atomic
from fulcra_utils.common.paths import DATA, ROOT


class SourceError(ValueError):
    """A public file that cannot be had or is not the one expected; the message names it."""


class Source(BaseModel, extra="forbid"):
    """One public file: where it stands, what it must be, what it is for; optional: what goes with it when missing."""

    name: str
    url: str
    mirror_path: str
    role: str
    licence: str
    sha256: str | None = None
    git_blob: str | None = None
    size: int | None = None
    rows: int | None = None
    theory: str | None = None
    model: str | None = None
    notebooks: list[str] = []
    optional: str = ""


@dataclass(frozen=True)
class Fetched:
    """What `fetch_sources` got: name → local path, and name → reason for each file that could not be had."""

    paths: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def load_sources() -> dict[str, Source]:
    """Return the public files listed in data/sources.yaml, by name."""
    sets = yaml.safe_load((DATA / "sources.yaml").read_text(encoding="utf-8"))
    return {name: _read_source(name, **{**common, **entry})
            for common in sets.values() for name, entry in common.pop("files").items()}


def _read_source(name: str, repository: str, commit: str, folder: str, file: str, upstream: str = "", path: str = "",
                 **rest: Any) -> Source:
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/{path or f'{upstream}/{file}'}"
    return Source(name=name, url=url, mirror_path=f"{folder}/{file}", **rest)


def fetch_sources(mirror: str | Path | None = None, sources: dict[str, Source] | None = None,
                  cache: str | Path | None = None, network: bool = True,
                  say: Callable[[str], None] = lambda _: None) -> Fetched:
    """Get every public file that can be had; report the others.

    A file already in the `cache` (None: FULCRA_CACHE, or data/cache) is verified and not fetched again. The `mirror`
    (None: FULCRA_DATA_MIRROR), a folder with the sets' folders (`fulcra/`, `valueeval23/`, …) or the FULCRA files
    themselves, is tried before the network, which `network=False` never touches. `sources` are what a notebook reads of
    data/sources.yaml when None; `say` receives one line for each file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fetched = fetch_sources(mirror=folder, cache=folder, network=False)
    >>> len(fetched.paths), fetched.missing["trustworthy_data"]
    (0, 'not in the mirror')
    """
    if sources is None:
        sources = {name: source for name, source in load_sources().items() if source.notebooks}
    mirror = mirror or os.environ.get("FULCRA_DATA_MIRROR") or None
    cache = Path(cache or os.environ.get("FULCRA_CACHE") or ROOT / "data" / "cache")
    got, missing, reachable = {}, {}, network
    for name, source in sources.items():
        try:
            got[name], how = _fetch_one(source, mirror, cache, reachable)
        except (SourceError, requests.RequestException) as error:
            missing[name], how = str(error), f"missing ({error})"
            if isinstance(error, requests.exceptions.ConnectionError):
                reachable = False  # do not wait for a time-out once per file
        say(f"{name}: {how}")
    return Fetched(got, missing)


def get_files(*names: str) -> list[Path]:
    """Return the local paths of files of data/sources.yaml; a SourceError names those that cannot be had."""
    known = load_sources()
    got = fetch_sources(sources={name: known[name] for name in names})
    if got.missing:
        raise SourceError("; ".join(f"{name} {why}" for name, why in got.missing.items()))
    return list(got.paths.values())


def verify_file(path: str | Path, source: Source) -> None:
    """Raise SourceError when a file is not the one that the source describes (sha256, or git blob id)."""
    if source.sha256:
        kind, expected, found = "sha256", source.sha256, pooch.file_hash(str(path))
    else:
        content = Path(path).read_bytes()
        kind, expected, found = "git blob id", source.git_blob, hashlib.sha1(
            b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise SourceError(f"{source.name}: {path} refused, its {kind} is {found}, not {expected}")


def _fetch_one(source: Source, mirror: str | Path | None, cache: Path, reachable: bool) -> tuple[Path, str]:
    """Return the local path of one file and a word on how it was had."""
    target, refused = cache / source.mirror_path, ""
    # a mirror holds the folders of the sets, or is the folder of the FULCRA files itself
    names = (source.mirror_path, source.mirror_path.removeprefix("fulcra/")) if mirror else ()
    for copy in (target, *(Path(mirror) / name for name in dict.fromkeys(names))):
        try:
            verify_file(copy, source)
            if copy == target:
                return target, "already there"
            _place(target, source, lambda tmp, copy=copy: shutil.copyfile(copy, tmp))
            return target, "from the mirror"
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except SourceError as error:
            refused += f"{error}; "
    if not reachable:
        raise SourceError(refused + ("not in the mirror" if mirror else "network not reachable"))
    try:
        load = pooch.HTTPDownloader(progressbar=True, timeout=(5, 60))  # to connect, between two pieces
        _place(target, source, lambda tmp: load(source.url, str(tmp), None))
    except requests.exceptions.ConnectionError:
        refused = refused or "not in the mirror, " * bool(mirror)
        raise requests.exceptions.ConnectionError(f"{refused}network not reachable") from None
    return target, "downloaded"


def _place(target: Path, source: Source, fill: Callable[[Path], object]) -> None:
    with write_atomic(target) as tmp:
        fill(tmp)
        verify_file(tmp, source)
