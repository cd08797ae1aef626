"""What the same updates give on several meshes of eight forced devices; test_model.py compares.

Usage: meshes.py DATA_DIR OUT_DIR. Prints {mesh: [losses, sampled ids]} as JSON on its last line:
two GRPO updates, one of SFT and the reference's log-probs, of all parameters and with LoRA.
"""

import dataclasses
import json
import math
import pathlib
import sys

import jax
import numpy as np
from tunix.utils import sharding_utils

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import train_sft
from lib import (
  answer_packing,
  checkpoints,
  devices,
  forward_pass,
  gemma,
  grpo_learner,
  loading,
  optimization,
  parameters,
  policy_gradient,
  sampling,
  tokenization,
)
from lib.answer_packing import RowShape
from lib.errors import InputError
from lib.grpo_settings import Settings

MESHES = ("1x1", "8x1", "4x2", "1x4")
WITH_LORA = ("1x1", "4x2")
SHAPE = RowShape(turns=2, rows=8, width=28)  # an answer a row, some rows two
SETTINGS = Settings(
  algorithm="grpo",
  beta=0.1,
  domain_beta={},
  epsilon=0.2,
  epsilon_high=0.2,
  mask_truncated=False,
  reference=True,
  batch_size=8,
  rollout_batch_size=8,
  num_generations=2,
  num_iterations=1,
  dynamic_sampling=0,
  replace_by="reward",
  anneal_domains=False,
  seed=0,
  prompt_widths=(16,),
  max_new_tokens=12,
  row_shape=SHAPE,
  sliding_window=512,
  remat=False,
  temperature=1.0,
  style="tags",
  rewards="multi_domain",
  overlong_buffer=0,
)


def as_on_a_tpu():
  """Tunix's sharding hints do nothing on CPUs; and half the layers, as each mesh compiles anew."""

  def shard(x, axes, eager=False):
    return forward_pass.lay_out(x, *axes)

  sharding_utils.shard = shard
  whole = gemma.tiny_config

  def half(size):
    return dataclasses.replace(whole(size), num_layers=2)

  gemma.tiny_config = half


def make_batches():
  """(packed answers, GRPO's batch, SFT's batch), of random tokens."""
  rng = np.random.default_rng(0)
  ids = [[2, *rng.integers(110, 500, n)] for n in rng.integers(3, 15, 8)]
  prompts = tokenization.pad_left(ids, 16)
  completions = rng.integers(110, 500, (16, 12)).astype(np.int32)
  advantages = rng.normal(size=16).astype(np.float32)
  packed = answer_packing.pack_answers(
    [np.array(prompt) for prompt in ids],
    completions,
    np.full(16, 12),
    np.ones(16, bool),
    SHAPE,
    512,
  )
  assert answer_packing.turns_of(packed.rows) == 2
  ref = answer_packing.spread(rng.normal(-6, 1, (16, 12)), packed)
  batch = policy_gradient.blank_batch(packed.rows)._replace(
    weights=answer_packing.spread(np.full(16, 1 / 192), packed),
    advantages=answer_packing.spread(advantages, packed),
    beta=answer_packing.spread(np.full(16, 0.1), packed),
    ref_logps=ref,
    old_logps=ref,
  )
  tokens = np.concatenate([prompts, completions[::2]], 1)[None]  # (1, 8, 28)
  weights = (np.arange(28) > 15) / np.float32(96)
  sft = dict(
    tokens=tokens,
    positions=np.broadcast_to(np.arange(28), tokens.shape),
    weights=np.broadcast_to(weights, tokens.shape),
  )
  return packed, batch, sft


def update_losses(policy, lora: bool, batches, folder: str, mesh: str) -> list[float]:
  """Losses and KL of two GRPO updates, SFT's loss after them, the mean log-prob of 1x1's result."""
  packed, batch, sft = batches
  if lora:
    model = parameters.apply_lora(policy.model, policy.mesh, 4, 8.0)
  else:
    model = parameters.float32_masters(policy.model)
  optimizer = optimization.make_optimizer(b1=0.9, b2=0.99, weight_decay=0.1, max_grad_norm=0.1)
  schedule = optimization.make_schedule(1e-3, 10, 0.0)
  learner = grpo_learner.build_learner(
    policy._replace(model=model), None, optimizer, [never_called], SETTINGS, "vanilla"
  )
  losses = []
  for row in learner.update(batch, [schedule(0), schedule(1)])[1]:
    losses += [row["loss"], row["kl"]]
  checkpoints.save_params(f"{folder}/{mesh}_{lora}", learner.trainer.model)
  trainer = train_sft.make_trainer(learner.trainer.model, optimizer, False)
  losses.append(optimization.make_update(trainer, policy.mesh)(sft, 1e-4)[0])
  moved = checkpoints.load_params(f"{folder}/1x1_{lora}", trainer.model)
  with policy.mesh:
    rows = learner.updates.place(packed.rows)
    logps = np.asarray(policy_gradient.reference_logps(moved, rows, 2, temperature=1.0))
  losses.append(float(logps.sum()) / 192)
  return losses


def never_called(prompts, completions):
  raise AssertionError("no reward is asked for")


def kept(x) -> float:
  """The share of an array that each device holds."""
  return math.prod(x.sharding.shard_shape(x.shape)) / x.size


def check_layout(policy, mesh: str):
  """Decoding reads whole layers (under tp its part) and a part of the words: no turn of its loop
  collects them.
  """

  def view(model):
    return forward_pass.whole_layers(forward_pass.compute_view(model))

  def read(model):
    return view(model)[1]["layers"], forward_pass.vocabulary_head(view(model))

  with policy.mesh:
    layers, head = forward_pass.jit_reading()(read)(policy.model)
  assert all(kept(x) in (1, 1 / policy.mesh.shape["tp"]) for x in jax.tree.leaves(layers)), mesh
  part = (len(head) // policy.mesh.size, head.shape[1])
  assert head.sharding.shard_shape(head.shape) == part, mesh


def sampled(policy) -> list[list[int]]:
  keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), (3, 2))))
  completions = sampling.sample(
    policy,
    [[2, 130, 140], [2, 200], [2, 300, 310, 320]],
    width=16,
    generations=2,
    max_new_tokens=8,
    temperature=1.0,
    keys=keys,
    shared=1,
  )
  return completions.tolist()


def refused(mesh: str, data_dir: str, words: str):
  try:
    loading.load_policy("tiny", data_dir=data_dir, mesh=mesh)
  except InputError as error:
    assert words in str(error), error
  else:
    raise SystemExit(f"--mesh={mesh} was taken")


def main(data_dir: str, folder: str):
  assert jax.device_count() == 8
  devices.enable_compilation_cache()
  as_on_a_tpu()
  batches = make_batches()
  found = {}
  for mesh in MESHES:
    policy = loading.load_policy("tiny", data_dir=data_dir, mesh=mesh)
    laid = [x.sharding for x in parameters.flat_params(policy.model).values()]
    assert {len(sharding.device_set) for sharding in laid} == {policy.mesh.size}, mesh
    assert mesh == "1x1" or not all(sharding.is_fully_replicated for sharding in laid), mesh
    losses = update_losses(policy, False, batches, folder, mesh)
    if mesh in WITH_LORA:
      losses += update_losses(policy, True, batches, folder, mesh)
    check_layout(policy, mesh)
    found[mesh] = [losses, sampled(policy)]
  refused("3x1", data_dir, "3 devices on fsdp, which do not divide the model's width, 128")
  refused("1x8", data_dir, "8 devices on tp")
  print(json.dumps(found))


if __name__ == "__main__":
  main(*sys.argv[1:])
