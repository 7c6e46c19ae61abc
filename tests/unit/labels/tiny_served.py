"""The real `transformers serve` with a language model of ten thousand random weights."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}assistant: "
)
START = "from transformers.cli.transformers import main; main()"
SECONDS_TO_START = 60


def make_tiny(folder: Path) -> Path:
    """Save a Llama with random weights and a tokenizer of bytes that has a chat template."""
    alphabet = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    of_bytes = Tokenizer(models.BPE({character: n for n, character in enumerate(alphabet)}, []))
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_bytes.decoder = decoders.ByteLevel()
    special = {"eos_token": "<end>", "pad_token": "<pad>", "chat_template": TEMPLATE}
    PreTrainedTokenizerFast(tokenizer_object=of_bytes, **special).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@contextlib.contextmanager
def served(model: Path, scratch: Path):
    """Serve a model while the context lasts; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (scratch / "cache/hub").mkdir(parents=True)  # /v1/models fails without
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "cache"), "OMP_NUM_THREADS": "1"}
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (scratch / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", START, "serve", str(model), *where],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | offline,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", scratch / "serve.log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _wait(process, address, log):
    for _ in range(SECONDS_TO_START * 10):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError(f"transformers serve did not come up: {log.read_text()[-2000:]}")
