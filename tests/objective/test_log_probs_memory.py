"""The full logits are never there, in neither pass: peak memory of a process of its own."""

import subprocess
import sys

import pytest

from altpo_ds.objective.log_probs import CHUNK_BYTES
from tests.conftest import ROOT

SCRIPT = """
from pathlib import Path
import torch
from altpo_ds.objective.log_probs import token_log_probs

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

def run(tokens, vocabulary):
    hidden = torch.randn(tokens, 4, requires_grad=True)
    weight = torch.randn(vocabulary, 4, requires_grad=True)
    token_log_probs(hidden, weight, None, torch.zeros(tokens, dtype=torch.long), 1.0, 0.0).sum().backward()

run(2, 10)
before = peak()
run(4000, 128_000)
print(peak() - before)
"""


@pytest.mark.slow
def test_4000_tokens_of_a_vocabulary_of_128000_take_chunks_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    full = 4 * 4000 * 128_000
    assert 8 * CHUNK_BYTES > full > 7 * CHUNK_BYTES  # 2 GB
    # a chunk, its exponentials inside logsumexp, and its product with the upstream gradient
    assert int(done.stdout) < 2.5 * CHUNK_BYTES
