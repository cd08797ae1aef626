"""The policy that a GRPO run starts from, and the frozen reference beside it.

load_start       what --model and --init_from name
check_inputs     a resume reads the same content
starting_policy  the policy to train and its reference
announce, compile_programs  what is said and done before the first step
"""

import os
import time

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lib import (
  command_line,
  devices,
  folders,
  hosts,
  loading,
  own_rewards,
  parameters,
  runs,
  tokenization,
)
from lib.errors import InputError
from lib.grpo_learner import LeanGRPOLearner
from lib.grpo_settings import Settings
from lib.loading import Policy


def load_start(flag, style: str) -> Policy:
  """The policy that --model and --init_from name; it must have learned the style of the data."""
  if flag.init_from:
    config, _ = loading.read_checkpoint(flag.init_from)
    if config["style"]:  # another tool's adapter does not tell
      folders.check_prompt_hash(config, flag.init_from, flag.allow_prompt_mismatch)
    # The wrong style would earn no format reward at first: zero-std groups, and no gradient.
    if config["style"] not in (style, None):
      raise InputError(
        f"--init_from={flag.init_from} was trained in style {config['style']}, {flag.data_dir} is "
        f"in style {style}; prepare the data with --style={config['style']}, or start from another "
        "folder"
      )
    if flag.lora_rank and not config["lora_rank"]:
      raise InputError(
        f"{flag.init_from} trained all parameters; go on with --lora_rank=0, or export it and pass "
        "the merged folder as --model to put LoRA on it"
      )
    command_line.say(f"grpo: starts from {flag.init_from}, which is also the reference")
  # Weights, tokenizer and mesh: the data folder may hold the tiny model's tokenizer.
  return loading.load_policy(flag.model, flag.init_from, flag.data_dir, flag.mesh, flag.dtype)


def check_inputs(flag, out_dir: str, started: dict, start: Policy):
  """By content: a resume on other rows or from another start would be neither run."""
  init_from = ""
  if flag.init_from:
    # A digest of the files, not of the path: a folder may move between two sessions.
    _, params = loading.read_checkpoint(flag.init_from)
    init_from = hosts.on_lead(folders.digest, params)
  runs.check_inputs(
    out_dir,
    started,
    data_dir=hosts.on_lead(folders.digest, os.path.join(flag.data_dir, "train.jsonl")),
    init_from=init_from,
    model=start.fingerprint,
    # A reward file that was edited in between pays for something else.
    **own_rewards.digests(flag.rewards),
  )


def check_prompts(rows: list[dict], tokenizer, limit: int) -> list[int]:
  """Prompt lengths in tokens; a row over the limit is refused by id before anything compiles."""
  lengths = [len(tokenization.encode(tokenizer, row["prompt"])) for row in rows]
  # Only the worst row is named: a limit that holds it holds all.
  longest = int(np.argmax(lengths))
  if lengths[longest] > limit:
    raise InputError(
      f"row {rows[longest]['id']} has a prompt of {lengths[longest]} tokens, --max_prompt_tokens "
      f"is {limit}; prepare the data with prepare_data.py --max_prompt_tokens={limit}, or raise "
      "it here"
    )
  return lengths


def frozen_copy(model: nnx.Module) -> nnx.Module:
  """The model as it is now, unchanged by updates to come.

  Frozen weights are shared; an update donates the memory of what it trains, so that is copied.
  """
  # {name: array} of the adapters, or of everything where the model has none.
  trained = parameters.flat_params(model, parameters.trainable(model))
  return parameters.with_params(model, {name: jnp.copy(x) for name, x in trained.items()})


def in_own_dtype(model: nnx.Module) -> nnx.Module:
  """The model with its weights in its config's dtype: SFT of all parameters leaves float32."""
  # On a chip that is bfloat16: half the memory of float32, and half of it to read.
  dtype = model.config.param_dtype
  weights = parameters.flat_params(model)
  return parameters.with_params(model, {name: x.astype(dtype) for name, x in weights.items()})


def starting_policy(
  start: Policy, lora_rank: int, lora_alpha: float, seed: int, with_reference: bool
) -> tuple[Policy, nnx.Module | None]:
  """(policy to train, frozen reference or None) of what `load_start` gave.

  A LoRA start goes on as that LoRA; its reference is the start itself.
  """
  if lora_rank and start.lora_rank:
    # Another rank does not fit the adapters that were loaded, another alpha rescales them.
    if (lora_rank, lora_alpha) != (start.lora_rank, start.lora_alpha):
      raise InputError(
        f"--init_from has LoRA rank {start.lora_rank} alpha {start.lora_alpha:g}, the flags say "
        f"{lora_rank} and {lora_alpha:g}; pass --lora_rank={start.lora_rank} "
        f"--lora_alpha={start.lora_alpha:g}"
      )
    return start, frozen_copy(start.model) if with_reference else None
  if lora_rank:
    # B of A·B starts at 0, so at first the policy equals the reference, and the KL is 0.
    tuned = parameters.apply_lora(start.model, start.mesh, lora_rank, lora_alpha, seed)
    policy = start._replace(model=tuned, lora_rank=lora_rank, lora_alpha=lora_alpha)
    return policy, start.model if with_reference else None
  # All parameters are trained: adapters, if SFT left any, become part of the weights first.
  merged = start.model
  if start.lora_rank:
    merged = parameters.merge_lora(start.model, start.model, start.lora_alpha)
  reference = in_own_dtype(merged) if with_reference else None
  # Float32 masters: in bfloat16 a step of 3e-6 is less than half a unit in the last place of
  # most weights, and would round to nothing.
  policy = start._replace(model=parameters.float32_masters(merged), lora_rank=0, lora_alpha=0.0)
  return policy, reference


def announce(rows, settings: Settings, policy: Policy):
  """The derived numbers, before the long part."""
  # For example 2 prompts × 4 answers = 8.
  answers = settings.batch_size * settings.num_generations
  sampled = settings.rollout_batch_size * settings.num_generations
  trained = parameters.count_parameters(policy.model, parameters.trainable(policy.model))
  widths = " or ".join(str(width) for width in settings.prompt_widths)
  shape = settings.row_shape
  command_line.say(
    f"grpo: {len(rows)} prompts, {settings.batch_size} a batch × {settings.num_generations} "
    f"answers = {answers}, sampled {sampled} at once, {settings.num_iterations} update(s) a "
    f"batch on packed rows, {shape.rows} × {shape.width} tokens at once; prompts padded to "
    f"{widths} for sampling, up to {settings.max_new_tokens} new tokens; {settings.algorithm}, "
    f"{settings.rewards}; "
    f"{trained / 1e6:.2f}M trainable parameters; {devices.device_line(policy.mesh)}"
  )


def compile_programs(learner: LeanGRPOLearner):
  """Sampling, reference and update are compiled before the first step, and never again."""
  command_line.say("grpo: compiling sampling, reference and update …")
  start = time.monotonic()
  learner.compile_programs()
  command_line.say(
    f"grpo: compiled in {time.monotonic() - start:.0f} s; no step compiles anything more"
  )
