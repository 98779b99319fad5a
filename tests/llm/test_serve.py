"""The client against a server that nobody here wrote: `transformers serve` with a tiny random model."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from fulcra_utils.annotation.run import annotate_file
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.llm.endpoints import Endpoint


def make_model(folder):
    """A two-layer random Llama with a word-piece tokenizer and a plain chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from fulcra_utils.evaluator.encoder import make_tiny_tokenizer

    # a BERT tokenizer, read from a folder, gives token types, of which a Llama knows nothing
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tiny_tokenizer().backend_tokenizer, pad_token="[PAD]",
                                        unk_token="[UNK]", eos_token="[SEP]",
                                        model_input_names=["input_ids", "attention_mask"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.eos_token_id)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def served(tmp_path):
    """The address of a running server and the name of its model."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason=f"{package} is not installed, so `transformers serve` cannot run")
    make_model(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu", str(tmp_path / "model")]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        wait_until_up(f"http://127.0.0.1:{port}/health", server, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}/v1", str(tmp_path / "model")
    finally:
        server.terminate()
        server.wait(30)


def wait_until_up(url, server, log):
    for _ in range(600):
        assert server.poll() is None, f"the server stopped: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the server did not come up: {log.read_text()[-2000:]}")


@pytest.mark.slow
def test_transformers_serve_is_understood(served, tmp_path):
    url, model = served
    rows = [{"id": k, "prompt": f"What about {k}?", "response": "Ask somebody you trust."} for k in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"temperature": 0, "max_tokens": 12}
    endpoint = Endpoint(model=model, base_url=url, options=options, concurrency=2, timeout=60)
    report = annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "moral_foundations", endpoint)
    assert report.costs.calls.tolist() == [12], "each of four replies was asked about three times, and answered"
    assert report.costs.tokens_in[0] > 12 * 100, "the server counted the tokens"
    assert list(report.failed) == [1, 2, 3, 4]
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {entry["reason"].partition(" (")[0] for row in out for entry in row["not_annotated"]} <= {
        "the answer holds no complete JSON object with labels", "the answer is empty"}
    assert np.isnan(read_dataset(tmp_path / "out.jsonl", "moral_foundations", strict=True).vectors).all()
