"""GRPO: samples groups of answers, scores them, and moves the model toward the better half of each group.

Reads   data_dir/{train,val}.jsonl (rows marked metadata.use = "sft" are left to SFT), and init_from, an SFT folder.
Writes  out_dir/params (the policy), best/ (highest held-out accuracy), checkpoints/ (to resume), metrics.jsonl,
        samples.jsonl (whole groups with rewards and advantages), curves.png, tokenizer.model, run.json; config.json last.

  python train_grpo.py --data_dir=artifacts/run/data --model=tiny --init_from=artifacts/run/sft --lora_rank=0 --max_steps=100

rows → tokens → rollouts → rewards → advantages → update: the sections below, in this order. A step is one optimizer update; a
batch of prompts serves --num_iterations of them. Where we depart from google-tunix 0.1.7, whose classes this builds on:
completions keep their stop token; noise is a pure function of (seed, batch, prompt, generation); sampling is untruncated (top-p
or top-k would make the sampler another distribution than the loss's); old, reference and current log-probs are one function at
one temperature; KL is the k3 estimator; prompts are padded to one of two widths and completions to their bucket, not to their
limit; the vocabulary head runs on completion positions only.
Kill it anywhere and start the same command again: it goes on to the parameters it would have had.
"""
import collections
import functools
import json
import math
import os
import re
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm
from tunix.rl import function_registry
from tunix.rl import rl_cluster as rl
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

import model as gemma
import rewards
from rewards import InputError

FLAGS = flags.FlagValues()
# Inputs.
flags.DEFINE_string("data_dir", "artifacts/run/data", "Folder that prepare_data.py wrote.", flag_values=FLAGS)
flags.DEFINE_string("model", "tiny", "tiny, gemma-3-270m-it, gemma-3-1b-it, or a Hugging Face folder of a Gemma 3 text model.",
                    flag_values=FLAGS)
flags.DEFINE_string("init_from", "", "SFT folder to start from, also the reference; empty: the model.", flag_values=FLAGS)
flags.DEFINE_string("resume_from", "", "Folder of a run to continue in --out_dir (it is copied, not changed); empty: none.",
                    flag_values=FLAGS)
# Outputs.
flags.DEFINE_string("out_dir", "artifacts/run/grpo", "Folder to write.", flag_values=FLAGS)
# Size.
flags.DEFINE_integer("lora_rank", 16, "Rank of the LoRA adapters; 0 trains all parameters.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_float("lora_alpha", 32.0, "LoRA scale: the update is alpha / rank times A·B.", flag_values=FLAGS)
flags.DEFINE_string("max_steps", "200", "Optimizer updates, or auto: what fits --max_hours.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 2, "Prompts per batch, each with its answers.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("micro_batch_size", 0, "Prompts whose activations are in memory at once in an update; 0: batch_size.",
                     lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("rollout_batch_size", 0, "Prompts sampled at once; 0: batch_size.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("max_prompt_tokens", 1024, "Longest prompt, in tokens; a longer row is refused.", lower_bound=1,
                     flag_values=FLAGS)
# Algorithm.
flags.DEFINE_enum("rewards", "multi_domain", ["multi_domain", "curriculum", "dual_stream", "four_component"],
                  "Reward system (see rewards.py).", flag_values=FLAGS)
flags.DEFINE_enum("algorithm", "grpo", ["grpo", "dr_grpo", "dapo", "gspo"], "Objective (see policy_loss).", flag_values=FLAGS)
flags.DEFINE_integer("num_generations", 4, "Answers per prompt, G.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_integer("num_iterations", 1, "Updates per batch, μ.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float("beta", -1.0, "Weight of the KL to the reference; 0 loads no reference; -1: 0.04, but 0 for dr_grpo and dapo, "
                   "as published.", lower_bound=-1, flag_values=FLAGS)
flags.DEFINE_list("domain_beta", [], "beta of single domains, e.g. math=0.02,coding=0.1.", flag_values=FLAGS)
flags.DEFINE_float("epsilon", 0.0, "Clip range of the ratio; 0: 0.2, for gspo 3e-4, as published.", flag_values=FLAGS)
flags.DEFINE_float("epsilon_high", 0.0, "Upper clip range; 0: 0.28 for dapo, 4e-4 for gspo, else epsilon.", flag_values=FLAGS)
flags.DEFINE_integer("dynamic_sampling", -1, "Further batches drawn to replace groups of equal rewards; -1: 3 for dapo, else 0.",
                     flag_values=FLAGS)
flags.DEFINE_bool("mask_truncated", False, "Leave answers cut by the token limit out of the loss.", flag_values=FLAGS)
flags.DEFINE_integer("overlong_buffer", 0, "Last tokens, over which a penalty grows to -1; 0: none.", flag_values=FLAGS)
flags.DEFINE_list("phase_metrics", [], "Curriculum phases 1 and 2 begin when held-out format and accuracy reach these, "
                  "e.g. 0.9,0.5; empty: at 25% and 75% of the steps.", flag_values=FLAGS)
flags.DEFINE_bool("anneal_domains", False, "Draw domains by their share × (1 - running pass rate).", flag_values=FLAGS)
flags.DEFINE_enum("code_rewards", "on", ["on", "off"], "Run answers' code in the sandbox; off: unpaid.", flag_values=FLAGS)
flags.DEFINE_string("judge_url", "", "OpenAI-compatible judge of creative answers; empty: heuristics.", flag_values=FLAGS)
flags.DEFINE_string("judge_model", "deepseek-reasoner", "Model name at --judge_url.", flag_values=FLAGS)
flags.DEFINE_list("weights", [], "four_component weights, e.g. format=0.25,coherence=0.2,correctness=0.55,efficiency=0; "
                  "empty: those.", flag_values=FLAGS)
flags.DEFINE_float("learning_rate", 3e-6, "Peak learning rate.", flag_values=FLAGS)
flags.DEFINE_float("weight_decay", 0.1, "AdamW weight decay.", flag_values=FLAGS)
flags.DEFINE_float("max_grad_norm", 0.1, "Gradients are clipped to this global norm.", flag_values=FLAGS)
flags.DEFINE_bool("remat", False, "Recompute activations in the backward pass: less memory, 33% to 42% more work.",
                  flag_values=FLAGS)
# Sampling.
flags.DEFINE_float("temperature", 0.7, "Sampling temperature; 0 is greedy.", flag_values=FLAGS)
flags.DEFINE_integer("max_new_tokens", 512, "Longest completion, in tokens.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_enum("rollout_engine", "vanilla", ["vanilla", "vllm", "sglang_jax"], "vanilla: this project's sampler; or Tunix's, "
                  "once a Tunix maps Gemma 3's weights to it (0.1.7 does not).", flag_values=FLAGS)
# Running.
flags.DEFINE_integer("eval_every", 50, "Updates between held-out evaluations; 0: only at the end.", lower_bound=0,
                     flag_values=FLAGS)
flags.DEFINE_integer("eval_rows", 64, "Held-out rows per evaluation; 0: none.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("save_every", 50, "Updates between checkpoints; 0: only at the end.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("sample_every", 10, "Batches between groups written to samples.jsonl.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float("max_hours", 0.0, "Save and stop after this many hours; 0: no limit.", flag_values=FLAGS)
flags.DEFINE_bool("preflight_only", False, "Print the preflight and stop.", flag_values=FLAGS)
flags.DEFINE_bool("force", False, "Go on although the preflight found a reason not to.", flag_values=FLAGS)
flags.DEFINE_bool("wandb", False, "Also log to Weights & Biases.", flag_values=FLAGS)
# Misc.
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)
flags.DEFINE_string("mesh", "auto", "Devices as FSDPxTP, e.g. 4x2; auto: all devices on fsdp.", flag_values=FLAGS)
flags.DEFINE_string("dtype", "auto", "Base weights: auto (bfloat16 on TPU and GPU, float32 on CPU), float32 or bfloat16.",
                    flag_values=FLAGS)
flags.DEFINE_bool("allow_prompt_mismatch", False, "Go on although the data was rendered with another prompt text.",
                  flag_values=FLAGS)

MAY_CHANGE = ("data_dir", "init_from", "resume_from", "out_dir", "eval_every", "save_every", "sample_every", "max_hours", "mesh",
              "preflight_only", "force", "wandb", "allow_prompt_mismatch", "rollout_batch_size", "judge_url")
PANELS = [("reward", ("reward", "eval_reward")), ("accuracy", ("accuracy", "eval_accuracy")), ("format", ("format", "eval_format")),
          ("KL to the reference", ("kl",)), ("entropy", ("entropy",)), ("completion tokens", ("completion_tokens",)),
          ("share", ("truncated", "flat_right", "flat_wrong")), ("gradient norm", ("grad_norm",)),
          ("learning rate", ("learning_rate",))]
PUBLISHED = {  # algorithm: beta, epsilon, epsilon_high, dynamic_sampling where the flags say nothing
  "grpo": (0.04, 0.2, 0.2, 0),    # beta: 2402.03300 §4.2
  "dr_grpo": (0.0, 0.2, 0.2, 0),  # no KL: 2503.20783
  "dapo": (0.0, 0.2, 0.28, 3),    # no KL: 2503.14476 §2.3, clip-higher: §3.1; it draws on without a bound
  "gspo": (0.04, 3e-4, 4e-4, 0),  # clip: 2507.18071 §5.1
}
SECONDS = ("rollout_seconds", "reward_seconds", "reference_seconds", "update_seconds")  # of a step, in this order


class Settings(NamedTuple):
  """What the learner needs of the flags, under their names, sentinels resolved."""
  algorithm: str
  batch_size: int
  micro_batch_size: int
  rollout_batch_size: int
  num_generations: int
  num_iterations: int
  beta: float
  domain_beta: dict[str, float]
  epsilon: float
  epsilon_high: float
  dynamic_sampling: int
  mask_truncated: bool
  overlong_buffer: int
  anneal_domains: bool
  temperature: float
  max_new_tokens: int
  prompt_widths: tuple[int, ...]  # padded prompt lengths, ascending
  seed: int
  remat: bool
  style: str  # of the data
  rewards: str
  code_rewards: str = "on"
  reference: bool = True  # one is loaded, for the KL
  packed: bool = True  # the answers of a prompt share sequences (see model.completion_hidden); False: a sequence each


# ------------------------------------------------------------------------------------------------------------ rows → tokens
def make_stream(rows: list[dict], settings: Settings) -> Callable[[dict], list[dict]]:
  """progress → the next batch of rows, advancing progress["draws"]: a resumed run draws what it would have drawn.

  Rows come in file order, which prepare_data.py mixed so that every window holds the domains in proportion. With
  anneal_domains a domain is drawn with probability ∝ its share of the rows × max(0.1, 1 − its running pass rate), and its rows
  in file order; a domain that cannot be checked counts as one of the mean pass rate.
  """
  size = settings.batch_size
  in_order = grain.MapDataset.range(2**31 - 1).map(lambda i: [rows[(i * size + j) % len(rows)] for j in range(size)])
  by_domain = {d: [row for row in rows if row["domain"] == d] for d in sorted({row["domain"] for row in rows})}

  def annealed(progress):
    rng = np.random.default_rng((settings.seed, progress["draws"]))
    rates = progress["pass_rate"]
    unrated = sum(rates.values()) / max(1, len(rates))
    weights = np.array([len(by_domain[d]) * max(0.1, 1 - rates.get(d, unrated)) for d in by_domain])
    batch = []
    for d in rng.choice(list(by_domain), size, p=weights / weights.sum()):
      at = progress["cursors"].get(str(d), 0)
      batch.append(by_domain[d][at % len(by_domain[d])])
      progress["cursors"][str(d)] = at + 1
    return batch

  def draw(progress):
    batch = annealed(progress) if settings.anneal_domains else in_order[progress["draws"]]
    progress["draws"] += 1
    return batch
  return draw


def check_prompts(rows: list[dict], tokenizer, limit: int) -> list[int]:
  """Prompt lengths in tokens; a row over the limit is refused by id, before anything is compiled."""
  lengths = [len(gemma.encode(tokenizer, row["prompt"])) for row in rows]
  longest = int(np.argmax(lengths))
  if lengths[longest] > limit:
    raise InputError(f"row {rows[longest]['id']} has a prompt of {lengths[longest]} tokens, --max_prompt_tokens is {limit}; "
                     f"prepare the data with prepare_data.py --max_prompt_tokens={limit}, or raise it here")
  return lengths


# -------------------------------------------------------------------------------------------------------- tokens → rollouts
class Rollout(NamedTuple):
  """A batch of B prompts with G answers each; N = B · G rows, the answers of a prompt side by side."""
  rows: list[dict]  # B
  prompts: np.ndarray  # (B, P) left-padded ids
  completions: np.ndarray  # (N, L), stop token kept, then padding
  lengths: np.ndarray  # (N,) tokens with the stop token
  stopped: np.ndarray  # (N,) ended with a stop token; False: cut by the limit
  texts: list[str]  # N


class LeanRollout(base_rollout.BaseRollout):
  """Tunix's rollout interface over `model.sample`: one prefill per prompt, exact noise, no copy of the weights."""

  def __init__(self, rollout_actor, tokenizer, mesh, rollout_config, policy: gemma.Policy):
    self.policy = policy._replace(model=rollout_actor)

  def generate(self, prompts, rollout_config, **kwargs):
    """prompts: texts; kwargs: width, generations and keys of `model.sample`."""
    ids = [gemma.encode(self.policy.tokenizer, text) for text in prompts]
    out = gemma.sample(self.policy, ids, max_new_tokens=rollout_config.max_tokens_to_generate,
                       temperature=rollout_config.temperature, **kwargs)
    texts = [gemma.decode(self.policy.tokenizer, row) for row in out]
    return base_rollout.RolloutOutput(text=texts, logits=None, tokens=list(out), logprobs=None,
                                      left_padded_prompt_tokens=gemma.pad_left(ids, kwargs["width"]))

  def get_per_token_logps(self, prompt_tokens, completion_tokens):
    return gemma.token_logps(self.policy.model, prompt_tokens, completion_tokens)[0]

  def update_params(self, params, filter_types=None):
    """Nothing to do: this rollout reads the trainer's own model."""

  def pad_id(self):
    return gemma.PAD_ID

  def eos_id(self):
    return gemma.EOS_ID

  def model(self):
    return self.policy.model


def read_answers(tokenizer, rows: list[dict], prompts: np.ndarray, completions: np.ndarray) -> Rollout:
  """Completions (N, L) with their lengths, ends and texts."""
  lengths, stopped = gemma.completion_lengths(completions)
  texts = [gemma.decode(tokenizer, c[:n]) for c, n in zip(completions, lengths)]
  return Rollout(rows, prompts, completions, lengths, stopped, texts)


def sample_rollout(cluster: rl.RLCluster, tokenizer, rows: list[dict], draw_index: int, settings: Settings) -> Rollout:
  """G answers to each row's prompt. The noise of (draw, prompt, generation) follows from --seed alone."""
  groups, ids = settings.num_generations, [gemma.encode(tokenizer, row["prompt"]) for row in rows]
  width, size = gemma.fit(max(map(len, ids)), settings.prompt_widths), settings.rollout_batch_size
  config = cluster.get_rollout_config(rl.Mode.TRAIN)
  if isinstance(cluster.rollout, LeanRollout):
    key = jax.random.fold_in(jax.random.key(settings.seed), draw_index)
    keys = np.asarray(jax.random.key_data(jax.random.split(key, (len(rows), groups))))  # (B, G, 2)
    parts = [cluster.rollout.generate([row["prompt"] for row in rows[i:i + size]], config, width=width, generations=groups,
                                      keys=keys[i:i + size]).tokens for i in range(0, len(rows), size)]
    completions = np.concatenate([np.stack(part) for part in parts])
  else:  # an engine that cuts the stop token off gets it back; after one that keeps it, nobody reads a second
    tokens = cluster.generate([row["prompt"] for row in rows for _ in range(groups)]).tokens
    ended = [[*map(int, t), gemma.END_OF_TURN_ID][:settings.max_new_tokens] for t in tokens]
    completions = gemma.pad_right(ended, settings.max_new_tokens)
  return read_answers(tokenizer, rows, gemma.pad_left(ids, width), completions)


# ------------------------------------------------------------------------------------------------------- rollouts → rewards
class Scores(NamedTuple):
  rewards: np.ndarray  # (N,) the sum of the components
  components: dict[str, np.ndarray]  # reward function name → (N,)
  formatted: np.ndarray  # (N,) bool, strict format
  correct: np.ndarray  # (N,) bool; False where the domain has no right answer
  failed: int  # reward functions that raised on this batch


def score_rollout(reward_fns, rollout: Rollout, settings: Settings) -> Scores:
  """Rewards of N answers. A function that raises pays 0 to the whole batch and is counted, it does not end the run."""
  rows = [row for row in rollout.rows for _ in range(settings.num_generations)]
  columns = {name: [row[name] for row in rows] for name in ("domain", "question", "answer")}
  columns["metadata"] = [json.dumps(row["metadata"]) for row in rows]
  components, failed = {}, 0
  for function in reward_fns:
    try:
      values = np.array(function([row["prompt"] for row in rows], rollout.texts, **columns), np.float64)
      if values.shape != (len(rows),) or not np.isfinite(values).all():
        raise ValueError(f"returned {values.shape} values, finite: {np.isfinite(values).all()}")
    except Exception as error:  # whatever a user's reward function raises
      gemma.say(f"reward {function.__name__} failed on this batch ({type(error).__name__}: {error}); it pays 0 here")
      values, failed = np.zeros(len(rows)), failed + 1
    components[function.__name__] = values
  if settings.overlong_buffer:  # DAPO (2503.14476) eq. 13, by tokens; Tunix's counts characters
    begin = settings.max_new_tokens - settings.overlong_buffer
    components["overlong"] = -np.clip((rollout.lengths - begin) / settings.overlong_buffer, 0, 1)
  answers = [parsed.answer if (parsed := rewards.parse_response(text, settings.style)) else None for text in rollout.texts]
  checked = rewards.checked_domains(settings.code_rewards)
  checkable = [i for i, row in enumerate(rows) if answers[i] is not None and row["domain"] in checked]
  pick = lambda values: [values[i] for i in checkable]
  correct = np.zeros(len(rows), bool)
  correct[checkable] = rewards.is_correct_batch(pick(columns["domain"]), pick(answers), pick(columns["answer"]),
                                                [rows[i]["metadata"] for i in checkable])
  return Scores(sum(components.values()), components, np.array([a is not None for a in answers]), correct, failed)


# ----------------------------------------------------------------------------------------------------- rewards → advantages
def group_advantages(reward: np.ndarray, num_generations: int, algorithm: str) -> np.ndarray:
  """Advantages (N,) of rewards (N,): reward − mean of its group, over the group's standard deviation.

  GRPO (2402.03300) §4.1.2 with the sample deviation (n − 1), as in Tunix and TRL; Dr. GRPO (2503.20783) §3.2 does not divide.
  """
  groups = reward.reshape(-1, num_generations)
  centred = groups - groups.mean(-1, keepdims=True)
  if algorithm != "dr_grpo":
    centred = centred / (groups.std(-1, ddof=1, keepdims=True) + 1e-4)
  return centred.reshape(-1)


def flat_groups(reward: np.ndarray, num_generations: int) -> np.ndarray:
  """(B,) bool of rewards (N,): all answers of the group are paid alike, so it teaches nothing."""
  return np.ptp(reward.reshape(-1, num_generations), -1) <= 1e-6


def token_weights(lengths: np.ndarray, counted: np.ndarray, size: int, algorithm: str, max_new_tokens: int) -> np.ndarray:
  """How much each token counts in the loss, (N, size); the one place where the algorithms' averages differ.

  grpo, gspo: mean over answers of the mean over their tokens (2402.03300 eq. 3, 2507.18071 eq. 5). dapo: mean over all tokens
  (2503.14476 eq. 8, over the whole batch as its authors' code does). dr_grpo: sum over tokens ÷ the constant max_new_tokens,
  mean over answers (2503.20783 §3.2, Listing 1).
  counted (N,) bool: answers that take part (see --mask_truncated).
  """
  mask = (np.arange(size) < lengths[:, None]) & counted[:, None]
  if algorithm == "dapo":
    return mask / max(1, mask.sum())
  per_answer = max_new_tokens if algorithm == "dr_grpo" else np.maximum(lengths, 1)[:, None]
  return mask / per_answer / max(1, counted.sum())


class Batch(NamedTuple):
  """One micro-batch of b prompts and n = b · G answers; stacked (M, …) for an update."""
  prompts: jax.Array  # (b, P)
  completions: jax.Array  # (n, L)
  weights: jax.Array  # (n, L), see token_weights
  advantages: jax.Array  # (n,)
  beta: jax.Array  # (n,)
  ref_logps: jax.Array  # (n, L); zeros where no reference is loaded
  old_logps: jax.Array  # (n, L); unused while on_policy
  on_policy: jax.Array  # (n,) bool: the policy that sampled is the one being updated, so old = current


def make_batch(rollout: Rollout, advantages: np.ndarray, settings: Settings) -> Batch:
  """Trims completions to their bucket and stacks micro-batches, (M, …)."""
  sizes = sorted({gemma.bucket(settings.max_new_tokens // d, settings.max_new_tokens) for d in (1, 2)})
  size = gemma.fit(rollout.lengths.max(), sizes)
  counted = rollout.stopped | (not settings.mask_truncated)
  weights = token_weights(rollout.lengths, counted, size, settings.algorithm, settings.max_new_tokens)
  beta = np.repeat([settings.domain_beta.get(row["domain"], settings.beta) for row in rollout.rows], settings.num_generations)
  zeros = np.zeros(weights.shape, np.float32)
  prompts = rollout.prompts if settings.packed else np.repeat(rollout.prompts, settings.num_generations, 0)
  batch = Batch(prompts, rollout.completions[:, :size], weights.astype(np.float32), advantages.astype(np.float32),
                beta.astype(np.float32), zeros, zeros, np.ones(len(advantages), bool))
  count = len(rollout.rows) // settings.micro_batch_size
  return Batch(*(x.reshape(count, -1, *x.shape[1:]) for x in batch))


# ------------------------------------------------------------------------------------------------------- advantages → update
@function_registry.register_policy_loss_fn("lean")
def policy_loss(model, train_example: Batch, algo_config, pad_id=gemma.PAD_ID, eos_id=gemma.EOS_ID):
  """−Σ weights · (min(ratio · A, clip(ratio) · A) − β · k3), and what to log of it.

  ratio: π/π_old per token (2402.03300 eq. 3); for gspo the geometric mean over the answer's tokens (2507.18071 eq. 7).
  clip: [1 − epsilon, 1 + epsilon_high] (clip-higher: 2503.14476 eq. 10). k3 = r − log r − 1 with r = π_ref/π: Tunix's default
  log-ratio has no gradient on average. The weights already average, so micro-batches add up exactly.
  """
  batch, options = train_example, algo_config.options
  logps, entropy = gemma.token_logps(model, batch.prompts, batch.completions, temperature=options.temperature,
                                     generations=len(batch.completions) // len(batch.prompts), remat=options.remat,
                                     live=batch.weights > 0)
  mask = (batch.weights > 0).astype(jnp.float32)
  old = jnp.where(batch.on_policy[:, None], jax.lax.stop_gradient(logps), batch.old_logps)
  log_ratio = logps - old
  if options.algorithm == "gspo":
    log_ratio = (log_ratio * mask).sum(-1, keepdims=True) / jnp.maximum(mask.sum(-1, keepdims=True), 1)
  ratio = jnp.exp(jnp.clip(log_ratio, -20, 20)) * jnp.ones_like(logps)
  gain = batch.advantages[:, None]
  clipped = jnp.clip(ratio, 1 - options.epsilon, 1 + options.epsilon_high)
  surrogate = jnp.minimum(ratio * gain, clipped * gain)
  gap = jnp.clip(batch.ref_logps - logps, -20, 20)
  k3 = jnp.exp(gap) - gap - 1 if options.reference else jnp.zeros_like(gap)
  loss = -(batch.weights * (surrogate - batch.beta[:, None] * k3)).sum()
  total = lambda x: (x * mask).sum()
  return loss, {"tokens": mask.sum(), "kl": total(k3), "entropy": total(entropy),
                "ratio_max": jnp.max(jnp.where(mask > 0, ratio, 0)),
                "clip_low": total((ratio < 1 - options.epsilon) & (gain < 0)),
                "clip_high": total((ratio > 1 + options.epsilon_high) & (gain > 0)), "logps": jax.lax.stop_gradient(logps)}


@gemma.jit_reading(static_argnames=("temperature", "generations"))
def reference_logps(model, prompts, completions, live, *, temperature: float, generations: int):
  return gemma.token_logps(model, prompts, completions, temperature=temperature, generations=generations, live=live)[0]


class LeanGRPOLearner(grpo_learner.GRPOLearner):
  """Tunix's learner with its two wasteful or wrong parts replaced: prompts → training data, and the update of a batch."""

  def __init__(self, rl_cluster, algo_config, reward_fns, tokenizer, mesh, settings: Settings):
    super().__init__(rl_cluster=rl_cluster, algo_config=algo_config, reward_fns=reward_fns)
    self.algo_config.options = settings  # the loss reads them through Tunix's config
    self.reward_fns, self.tokenizer, self.mesh, self.settings = reward_fns, tokenizer, mesh, settings
    self.step = gemma.make_update(rl_cluster.actor_trainer, mesh)
    rl_cluster._anchor_policy_state = None  # Tunix keeps a second copy of the weights that nothing here reads

  @property
  def trainer(self):
    return self.rl_cluster.actor_trainer

  def rollout(self, rows: list[dict], draw_index: int) -> tuple[Rollout, Scores, dict]:
    """rows → answers → scores, with the seconds each took."""
    start = time.monotonic()
    rollout = sample_rollout(self.rl_cluster, self.tokenizer, rows, draw_index, self.settings)
    middle = time.monotonic()
    scores = score_rollout(self.reward_fns, rollout, self.settings)
    return rollout, scores, {"rollout_seconds": middle - start, "reward_seconds": time.monotonic() - middle}

  def informative_rollout(self, stream, progress: dict) -> tuple[Rollout, Scores, dict]:
    """A batch of B groups; with dynamic sampling, groups whose rewards are all equal are replaced from further draws.

    DAPO (2503.14476) §3.2. Bounded: after `dynamic_sampling` further batches the flat groups that are left stay. The result
    always has B groups, so nothing is compiled again. Pass rates and the share of flat groups are those of all that was drawn.
    """
    size, groups, flat, drawn = self.settings.batch_size, [], [], []
    for _ in range(1 + self.settings.dynamic_sampling):
      rollout, scores, took = self.rollout(stream(progress), progress["draws"])
      drawn.append(took | rollout_metrics(rollout, scores, self.settings))
      follow_pass_rates(progress, drawn[-1])
      groups += [(rollout, scores, i) for i in range(size)]
      flat += list(flat_groups(scores.rewards, self.settings.num_generations))
      if len(flat) - sum(flat) >= size:
        break
    chosen = sorted(np.argsort(flat, kind="stable")[:size])  # groups that differ first, each kind in the order drawn
    facts = {name: sum(row[name] for row in drawn) for name in took}
    facts |= {name: sum(row[name] for row in drawn) / len(drawn) for name in ("flat", "flat_right", "flat_wrong")}
    return *join_groups([groups[i] for i in chosen]), facts | {"resampled": sum(int(i >= size) for i in chosen)}

  def prepare(self, stream, progress: dict) -> tuple[Rollout, Scores, np.ndarray, "Batch", dict]:
    """All that comes before an update: (rollout, scores, advantages (N,), micro-batches, seconds and shares to log)."""
    rollout, scores, facts = self.informative_rollout(stream, progress)
    start, settings = time.monotonic(), self.settings
    scale = np.repeat(rewards.advantage_scale(settings.rewards, [row["domain"] for row in rollout.rows]), settings.num_generations)
    advantages = group_advantages(scores.rewards, settings.num_generations, settings.algorithm) * scale
    batch = make_batch(rollout, advantages, settings)
    if "reference" in self.rl_cluster.inference_worker._models:
      reference = self.rl_cluster.inference_worker.get_model("reference")
      with self.mesh:
        logps = [reference_logps(reference, p, c, w > 0, temperature=settings.temperature, generations=len(c) // len(p))
                 for p, c, w in zip(batch.prompts, batch.completions, batch.weights)]
      batch = batch._replace(ref_logps=np.stack(jax.tree.map(np.asarray, logps)))
    return rollout, scores, advantages, batch, facts | {"reference_seconds": time.monotonic() - start}

  def update(self, batch: Batch, learning_rate: float) -> tuple[Batch, dict]:
    """One optimizer update; returns the batch with the sampling policy's log-probs in place, and what to log."""
    loss, aux, norm = self.step(batch, learning_rate)
    tokens = max(1.0, float(aux["tokens"].sum()))
    mean = {name: float(aux[name].sum()) / tokens for name in ("kl", "entropy", "clip_low", "clip_high")}
    if batch.on_policy.all():
      batch = batch._replace(old_logps=aux["logps"], on_policy=np.zeros_like(batch.on_policy))
    if self.should_sync_weights:
      self.rl_cluster.sync_weights()
    return batch, {"loss": loss, "grad_norm": norm, **mean, "ratio_max": float(aux["ratio_max"].max())}


def join_groups(groups: list[tuple[Rollout, Scores, int]]) -> tuple[Rollout, Scores]:
  """One rollout and its scores from the i-th groups of several, padded to the widest prompt."""
  rollouts, scores, places = zip(*groups)
  size, width = len(rollouts[0].texts) // len(rollouts[0].rows), max(r.prompts.shape[1] for r in rollouts)
  group = lambda column, i: column[i * size:(i + 1) * size]
  join = lambda columns: np.concatenate([group(column, i) for column, i in zip(columns, places)])
  prompts = np.stack([np.pad(r.prompts[i], (width - r.prompts.shape[1], 0)) for r, i in zip(rollouts, places)])
  rollout = Rollout([r.rows[i] for r, i in zip(rollouts, places)], prompts, join(r.completions for r in rollouts),
                    join(r.lengths for r in rollouts), join(r.stopped for r in rollouts),
                    [text for r, i in zip(rollouts, places) for text in group(r.texts, i)])
  components = {name: join(s.components[name] for s in scores) for name in scores[0].components}
  return rollout, Scores(join(s.rewards for s in scores), components, join(s.formatted for s in scores),
                         join(s.correct for s in scores), max(s.failed for s in scores))


# -------------------------------------------------------------------------------------------------------- what a person sees
def rollout_metrics(rollout: Rollout, scores: Scores, settings: Settings) -> dict:
  """One row's numbers of a batch: overall, per reward function and per domain."""
  size = settings.num_generations
  domains = np.repeat([row["domain"] for row in rollout.rows], size)
  verifiable = np.isin(domains, rewards.checked_domains(settings.code_rewards))
  groups = scores.rewards.reshape(-1, size)
  flat = flat_groups(scores.rewards, size)
  right = scores.correct.reshape(-1, size).all(-1)
  row = {"reward": scores.rewards.mean(), "reward_std": groups.std(-1).mean(), "format": scores.formatted.mean(),
         "accuracy": scores.correct[verifiable].mean() if verifiable.any() else None,
         "completion_tokens": rollout.lengths.mean(), "completion_tokens_max": rollout.lengths.max(),
         "truncated": 1 - rollout.stopped.mean(), "flat": flat.mean(), "flat_right": (flat & right).mean(),
         "flat_wrong": (flat & ~right).mean(), "prompt_width": rollout.prompts.shape[1], "reward_failed": scores.failed}
  for name, values in scores.components.items():
    row |= {f"rewards/{name}": values.mean(), f"rewards/{name}_std": values.std()}
  for domain in sorted(set(domains)):
    mine = domains == domain
    row |= {f"domains/{domain}/reward": scores.rewards[mine].mean(), f"domains/{domain}/reward_std": scores.rewards[mine].std(),
            f"domains/{domain}/format": scores.formatted[mine].mean()}
    if verifiable[mine].any():
      row[f"domains/{domain}/accuracy"] = scores.correct[mine].mean()
  return {name: value if value is None else round(float(value), 6) for name, value in row.items()}


def sample_rows(step: int, rollout: Rollout, scores: Scores, advantages, settings: Settings, prompts: int = 2) -> list[dict]:
  """Rows of samples.jsonl: whole groups, each answer with its component rewards and advantage."""
  size, found = settings.num_generations, []
  for i, row in enumerate(rollout.rows[:prompts]):
    answers = [{"text": rollout.texts[n], "reward": float(scores.rewards[n]), "advantage": float(advantages[n]),
                "rewards": {name: float(values[n]) for name, values in scores.components.items()},
                "tokens": int(rollout.lengths[n]), "truncated": not rollout.stopped[n]} for n in range(i * size, (i + 1) * size)]
    found.append({"step": step, **{name: row[name] for name in ("id", "domain", "question", "answer")}, "generations": answers})
  return found


def check_failures() -> dict[str, int]:
  """{"failed/NAME": count} of what could not be checked or judged since the last call, held-out answers included."""
  return {f"failed/{name.removeprefix('failed_')}": count for name, count in rewards.failed_rows(reset=True).items()}


def step_line(row: dict, max_steps: int, eta_hours: float, hours_left: float) -> str:
  """The line of a step: greppable, one unit per number, in the order one reads a run."""
  hours = "".join(f" | {name} {h:.2f} h" for name, h in (("eta", eta_hours), ("left", hours_left)) if np.isfinite(h))
  share = lambda value, digits: "—" if value is None else f"{value:.{digits}f}"  # None: nothing that can be checked
  held_out = f" | held-out acc {share(row['eval_accuracy'], 3)} reward {row['eval_reward']:.3f}" if "eval_reward" in row else ""
  failed = "".join(f" | {name.removeprefix('failed/')} {row[name]}" for name in row if name.startswith("failed/"))
  return (f"grpo {row['step']}/{max_steps}{hours} | reward {row['reward']:.3f} ± {row['reward_std']:.3f} | "
          f"format {row['format']:.2f} | acc {share(row['accuracy'], 2)} | kl {row['kl']:.4f} | entropy {row['entropy']:.2f} | "
          f"len {row['completion_tokens']:.0f} max {row['completion_tokens_max']:.0f} cut {row['truncated']:.0%} | "
          f"flat {row['flat_right']:.0%} right {row['flat_wrong']:.0%} wrong | clip {row['clip_low']:.1%}/{row['clip_high']:.1%} | "
          f"grad {row['grad_norm']:.3f} | lr {row['learning_rate']:.2e} | "
          f"{row['rollout_seconds']:.1f}+{row['reward_seconds']:.1f}+"
          f"{row['reference_seconds'] + row['update_seconds']:.1f} s | {row['tokens_per_second']:.0f} tok/s{failed}{held_out}")


# ------------------------------------------------------------------------------------------------- held-out rows, preflight
def held_out_metrics(learner: LeanGRPOLearner, rows: list[dict]) -> dict:
  """Greedy answers to held-out rows, scored by the same functions that train."""
  if not rows:
    return {}
  settings = learner.settings._replace(num_generations=1, overlong_buffer=0)
  rows = sorted(rows, key=lambda row: len(row["prompt"]))  # like lengths share a batch; means do not mind the order
  ids = [gemma.encode(learner.tokenizer, row["prompt"]) for row in rows]
  size = settings.rollout_batch_size * learner.settings.num_generations
  ids += ids[-1:] * (-len(ids) % size)  # one compiled shape a width
  policy = gemma.Policy(learner.trainer.model, learner.tokenizer, learner.mesh, "", "", 0, 0.0)
  answer = lambda part: gemma.sample(policy, part, width=gemma.fit(max(map(len, part)), settings.prompt_widths),
                                     max_new_tokens=settings.max_new_tokens, temperature=0.0)
  completions = np.concatenate([answer(ids[i:i + size]) for i in range(0, len(ids), size)])[:len(rows)]
  rollout = read_answers(learner.tokenizer, rows, gemma.pad_left(ids[:len(rows)], max(settings.prompt_widths)), completions)
  scores = score_rollout(learner.reward_fns, rollout, settings)
  checked = np.isin([row["domain"] for row in rows], rewards.checked_domains(settings.code_rewards))
  return {"eval_reward": float(scores.rewards.mean()), "eval_format": float(scores.formatted.mean()),
          "eval_accuracy": float(scores.correct[checked].mean()) if checked.any() else None,
          "eval_truncated": float(1 - rollout.stopped.mean())}


def new_progress() -> dict:
  """What a resume needs beside the weights; plain JSON."""
  return {"draws": 0, "cursors": {}, "pass_rate": {}, "phase": 0, "best": None, "skipped": 0, "all_skipped": 0,
          "reward_failed": 0}


def measure_batch(learner: LeanGRPOLearner, stream) -> float:
  """Seconds of a batch (rollout, reward, reference, μ updates), compilation left out."""
  with gemma.rehearsal(learner.trainer.optimizer):
    for _ in range(2):  # the same two batches twice: the second time nothing compiles
      start, progress = time.monotonic(), new_progress()
      for _ in range(2):
        *_, batch, _ = learner.prepare(stream, progress)
        for _ in range(learner.settings.num_iterations):
          batch, _ = learner.update(batch, 0.0)
  return (time.monotonic() - start) / 2


def preflight(learner: LeanGRPOLearner, rows: list[dict], batch_seconds: float | None, max_steps: int | None,
              max_hours: float) -> list[str]:
  """Answers two prompts of each domain with the starting model; prints what it saw, returns the reasons not to train."""
  settings, start = learner.settings, time.monotonic()
  size, count = settings.num_generations, settings.batch_size
  chosen = [row for d in rewards.DOMAINS for row in [r for r in rows if r["domain"] == d][:2]]
  filled = (chosen * count)[:-(-len(chosen) // count) * count]  # whole batches: no shape that training would not compile
  parts = [learner.rollout(filled[first:first + count], 2**30 + first) for first in range(0, len(filled), count)]
  groups = [(rollout, scores, i) for rollout, scores, _ in parts for i in range(count)]
  rollout, scores = join_groups(groups[:len(chosen)])
  seconds, spread = time.monotonic() - start, ~flat_groups(scores.rewards, size)
  formatted, cut = scores.formatted.mean(), 1 - rollout.stopped.mean()
  device = jax.devices()[0].memory_stats() or {}  # a CPU has none: there it is the process's
  peak = device.get("peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
  for domain in dict.fromkeys(row["domain"] for row in chosen):
    mine = np.array([row["domain"] == domain for row in chosen])
    answers = np.repeat(mine, size)
    gemma.say(f"preflight {domain:18} format {scores.formatted[answers].mean():.2f} reward {scores.rewards[answers].mean():.3f} "
              f"groups that differ {spread[mine].mean():.0%}")
  gemma.say(f"preflight format {formatted:.2f} | truncated {cut:.0%} | flat groups {1 - spread.mean():.0%} | "
            f"rewards {sum(took['reward_seconds'] for *_, took in parts):.1f} s | {rollout.lengths.sum() / seconds:.0f} tok/s with "
            f"compilation | peak {peak / 2**30:.1f} GiB")
  if settings.rewards == "curriculum" and formatted >= 0.9:
    gemma.say("preflight: the form is there already, and the first phase pays for little else; --phase_metrics=0.9,0.5 leaves a "
              "phase as soon as held-out rows have passed it")
  reasons = []
  if not spread.any():
    reasons.append(f"all {len(spread)} groups have equal rewards (format rate {formatted:.2f}), so nothing can be learned: "
                   "start from an SFT folder with --init_from, or raise --num_generations or --temperature")
  if cut > 0.5:
    reasons.append(f"{cut:.0%} of the answers are cut by --max_new_tokens={settings.max_new_tokens}: raise it")
  if batch_seconds is not None:
    per_hour = 3600 / batch_seconds * settings.num_iterations
    hours = max_steps / per_hour if max_steps else max_hours
    gemma.say(f"preflight {batch_seconds:.2f} s a batch, {per_hour:.0f} updates an hour"
              + (f"; {max_steps} updates need {hours:.2f} h" if max_steps else ""))
    if max_hours and hours > max_hours:
      reasons.append(f"{max_steps} updates need {hours:.2f} h, --max_hours is {max_hours}: use --max_steps=auto or "
                     f"--max_steps={int(per_hour * max_hours)}, or --force to go on over several sessions")
  return reasons


# ---------------------------------------------------------------------------------------------------------------- the stage
def next_phase(progress: dict, row: dict, thresholds: list[float]):
  """--phase_metrics: phase 1 once held-out format reaches the first threshold, phase 2 once accuracy reaches the second."""
  if progress["phase"] == 0 and row["eval_format"] >= thresholds[0]:
    progress["phase"] = 1
  elif progress["phase"] == 1 and (row["eval_accuracy"] or 0.0) >= thresholds[1]:
    progress["phase"] = 2


def check_health(loss: float, failed: int | None, state: dict, save_samples: Callable[[], None]):
  """Three skipped updates, or three batches with a failed reward function, in a row stop the run; the samples are saved.

  failed: reward functions that raised on this batch; None for its later iterations, which are no new batch.
  """
  progress = state["progress"]
  if failed is not None:
    progress["reward_failed"] = progress["reward_failed"] + 1 if failed else 0
  if max(progress["skipped"], progress["reward_failed"]) < 3:
    return
  save_samples()
  reason = "a reward function failed on three batches in a row; mend it and run the same command"
  if progress["skipped"] >= 3:
    reason = (f"three updates in a row had a loss or gradient that is not finite (last loss {loss}); start again in another "
              "--out_dir with a lower --learning_rate or --dtype=float32")
  raise InputError(f"step {state['step']}: {reason}; the answers are in samples.jsonl")


def train(learner: LeanGRPOLearner, stream, schedule, held_out, state: dict, *, out_dir: str, eval_every: int, save_every: int,
          sample_every: int, thresholds: list[float], stop, log):
  """Batches until max_steps or `stop`. state: {"step", "max_steps", "progress"}, which the reward functions read too."""
  progress, iterations, first = state["progress"], learner.settings.num_iterations, state["step"]
  samples, metrics = (os.path.join(out_dir, name) for name in ("samples.jsonl", "metrics.jsonl"))
  bar = tqdm(total=state["max_steps"], initial=first, desc="grpo", disable=None)
  show = open_report(bar, state, metrics, stop, log, 3 * iterations)
  save = lambda: gemma.save_checkpoint(manager, state["step"], learner.trainer.model, learner.trainer.optimizer, progress)
  drawn = -math.inf
  with bar, gemma.open_checkpoints(out_dir) as manager:
    while state["step"] < state["max_steps"] and not stop:
      before = state["step"]
      if before == first:
        gemma.say("grpo: compiling rollout and update (the first batch waits for it) …")
      rollout, scores, advantages, batch, facts = learner.prepare(stream, progress)
      seen = rollout_metrics(rollout, scores, learner.settings) | {"draws": progress["draws"]} | check_failures()
      write_samples = functools.partial(gemma.append_rows, samples,
                                        sample_rows(before + 1, rollout, scores, advantages, learner.settings))
      if before // iterations % sample_every == 0:
        write_samples()
      for iteration in range(min(iterations, state["max_steps"] - before)):
        batch, row = update_once(learner, batch, schedule, state)
        if held_out and (state["step"] == state["max_steps"] or eval_every and state["step"] % eval_every == 0):
          row |= evaluate(learner, held_out, progress, thresholds, out_dir)
        row |= {"phase": progress["phase"]} if thresholds else {}
        show({"step": state["step"], "iteration": iteration, **seen, **row, **facts},
             int(rollout.lengths.sum()) if iteration == 0 else 0)
        check_health(row["loss"], scores.failed if iteration == 0 else None, state, write_samples)
        if row["skipped"]:
          break  # the batch would fail again
        facts |= {name: 0.0 for name in facts if name in SECONDS}  # the later updates of a batch cost no rollout
      if save_every and state["step"] // save_every > before // save_every:
        save()
        if time.monotonic() - drawn > 300:  # it takes seconds once there are thousands of steps
          gemma.plot_curves(rewards.read_rows(metrics), PANELS, os.path.join(out_dir, "curves.png"))
          drawn = time.monotonic()
    save()


def follow_pass_rates(progress: dict, seen: dict):
  """Running pass rate of each domain, for --anneal_domains: 0.9 of what it was, 0.1 of this batch."""
  for name, rate in seen.items():
    if name.endswith("/accuracy"):
      domain = name.split("/")[1]
      progress["pass_rate"][domain] = 0.9 * progress["pass_rate"].get(domain, rate) + 0.1 * rate


def update_once(learner: LeanGRPOLearner, batch: Batch, schedule, state: dict) -> tuple[Batch, dict]:
  """One update: the batch for the next iteration, and the update's numbers with its learning rate; counts skipped updates."""
  start, progress = time.monotonic(), state["progress"]
  rate = float(schedule(state["step"] - progress["all_skipped"]))  # the schedule counts the updates that were made
  batch, row = learner.update(batch, rate)
  row |= {"update_seconds": time.monotonic() - start, "learning_rate": rate}
  skipped = not np.isfinite(row["loss"] + row["grad_norm"])
  state["step"] += 1
  progress["skipped"] = progress["skipped"] + 1 if skipped else 0
  progress["all_skipped"] += int(skipped)
  return batch, row | {"skipped": progress["skipped"]}


def evaluate(learner: LeanGRPOLearner, held_out: list[dict], progress: dict, thresholds: list[float], out_dir: str) -> dict:
  """Held-out numbers; best/ holds the parameters of the highest accuracy (then reward) so far, beside the last ones."""
  row = held_out_metrics(learner, held_out)
  score = [row["eval_accuracy"] or 0.0, row["eval_reward"]]
  if progress["best"] is None or score > progress["best"]:
    progress["best"] = score
    gemma.save_params(os.path.join(out_dir, "best"), learner.trainer.model)
  if thresholds:
    next_phase(progress, row, thresholds)
  return row


def open_report(bar, state: dict, metrics_path: str, stop, log, steady: int) -> Callable[[dict, int], None]:
  """show(row, tokens): a step's row in metrics.jsonl, in TensorBoard, and as a line or, on a terminal, in the bar.

  steady: updates after which the speed says how many more steps fit the time left.
  """
  first, marks = state["step"], collections.deque(maxlen=21)

  def show(row: dict, tokens: int):
    row["tokens_per_second"] = round(tokens / max(1e-9, sum(row[name] for name in SECONDS)), 1)
    row |= {name: round(row[name], 3) for name in SECONDS}
    if row["iteration"] == 0:  # so that an interval is a whole batch
      marks.append((row["step"], time.monotonic()))
    per_step, to_do = gemma.pace(marks), state["max_steps"] - row["step"]
    left = stop.max_seconds - stop.seconds
    bar.update()
    bar.set_postfix_str(f"reward {row['reward']:.3f} format {row['format']:.2f} kl {row['kl']:.4f}")
    if bar.disable:
      gemma.say(step_line(row, state["max_steps"], per_step * to_do / 3600, left / 3600))
    if np.isfinite(left) and row["step"] - first == steady:
      gemma.say(f"grpo: at {per_step:.2f} s a step, {int(left / per_step)} more steps fit the time left; {to_do} are to do")
    gemma.append_rows(metrics_path, [row])
    log(row)
  return show


def starting_policy(start: gemma.Policy, lora_rank: int, lora_alpha: float, seed: int, with_reference: bool):
  """(policy to train, frozen reference or None). A LoRA start continues as that LoRA; its reference is the start itself."""
  copy = lambda model: gemma.with_params(  # the frozen weights are shared; an update donates what it trains, so that is copied
      model, {name: jnp.copy(x) for name, x in gemma.flat_params(model, gemma.trainable(model)).items()})
  if lora_rank and start.lora_rank:
    if (lora_rank, lora_alpha) != (start.lora_rank, start.lora_alpha):
      raise InputError(f"--init_from has LoRA rank {start.lora_rank} alpha {start.lora_alpha:g}, the flags say {lora_rank} and "
                       f"{lora_alpha:g}; pass --lora_rank={start.lora_rank} --lora_alpha={start.lora_alpha:g}")
    return start, copy(start.model) if with_reference else None
  if lora_rank:
    tuned = gemma.apply_lora(start.model, start.mesh, lora_rank, lora_alpha, seed)
    return start._replace(model=tuned, lora_rank=lora_rank, lora_alpha=lora_alpha), start.model if with_reference else None
  merged = gemma.merge_lora(start.model, start.model, start.lora_alpha) if start.lora_rank else start.model
  frozen = {name: x.astype(merged.config.param_dtype) for name, x in gemma.flat_params(merged).items()}  # SFT's are float32
  return (start._replace(model=gemma.float32_masters(merged), lora_rank=0, lora_alpha=0.0),
          gemma.with_params(merged, frozen) if with_reference else None)


def build_learner(policy: gemma.Policy, reference, optimizer, reward_fns, settings: Settings, engine: str) -> LeanGRPOLearner:
  """Tunix's cluster and learner around the policy; every role on one mesh."""
  roles = (rl.Role.ACTOR, rl.Role.ROLLOUT) + ((rl.Role.REFERENCE,) if reference is not None else ())
  rollout_config = base_rollout.RolloutConfig(  # top_p and top_k off: an engine left to itself takes the model's own defaults
      max_tokens_to_generate=settings.max_new_tokens, max_prompt_length=max(settings.prompt_widths),
      temperature=settings.temperature, top_p=1.0, top_k=-1,
      kv_cache_size=max(settings.prompt_widths) + settings.max_new_tokens, eos_tokens=list(gemma.STOP_IDS),
      rollout_vllm_model_version=policy.name, rollout_sglang_jax_model_version=policy.name)
  cluster_config = rl.ClusterConfig(
      role_to_mesh=dict.fromkeys(roles, policy.mesh), rollout_config=rollout_config, offload_to_cpu=False,
      rollout_engine=functools.partial(LeanRollout, policy=policy) if engine == "vanilla" else engine,
      training_config=rl.RLTrainingConfig(actor_optimizer=optimizer, eval_every_n_steps=1))
  try:
    cluster = rl.RLCluster(actor=policy.model, reference=reference, tokenizer=policy.tokenizer, cluster_config=cluster_config)
  except ImportError as error:
    raise InputError(f"--rollout_engine={engine} needs a package that is not installed ({error}); install it, or use "
                     "--rollout_engine=vanilla") from error
  except RuntimeError as error:
    if "mappings not available" not in str(error):
      raise
    raise InputError(f"--rollout_engine={engine}: Tunix cannot give it these weights ({error}); use --rollout_engine=vanilla, or a "
                     "google-tunix above 0.1.7 that maps Gemma 3") from error
  config = grpo_learner.GRPOConfig(policy_loss_fn="lean", num_generations=settings.num_generations, beta=settings.beta,
                                   num_iterations=settings.num_iterations, epsilon=settings.epsilon)
  return LeanGRPOLearner(cluster, config, reward_fns, policy.tokenizer, policy.mesh, settings)


def build(policy, reference, reward_fns, settings: Settings, flag) -> LeanGRPOLearner:
  """A learner with fresh optimizer state."""
  optimizer = gemma.make_optimizer(b1=0.9, b2=0.99, weight_decay=flag.weight_decay, max_grad_norm=flag.max_grad_norm)
  return build_learner(policy, reference, optimizer, reward_fns, settings, flag.rollout_engine)


def open_log(out_dir: str, use_wandb: bool) -> Callable[[dict], None]:
  """TensorBoard events under out_dir/tensorboard, and Weights & Biases only when asked (Tunix would start it unasked).

  The events are written by this thread: TensorBoard's own writer thread dies on a full disk, and the run then waits for ever.
  """
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto.event_pb2 import Event
  from tensorboardX.summary import scalar
  folder = os.path.join(out_dir, "tensorboard")
  os.makedirs(folder, exist_ok=True)
  writer, wandb_run = EventsWriter(os.path.join(folder, "events")), None
  if use_wandb:
    try:
      import wandb
    except ImportError as error:
      raise InputError("--wandb needs the wandb package: pip install wandb, or leave the flag out") from error
    wandb_run = wandb.init(project="gemma-reasoning", name=os.path.basename(os.path.abspath(out_dir)))

  def log(row: dict):
    numbers = {name: value for name, value in row.items() if isinstance(value, float | int) and name != "step"}
    for name, value in numbers.items():
      writer.write_event(Event(wall_time=time.time(), step=row["step"], summary=scalar(f"grpo/{name}", value)))
    writer.flush()
    if wandb_run:
      wandb_run.log(numbers, step=row["step"])
  return log


def read_domain_beta(items: list[str]) -> dict[str, float]:
  """["math=0.02", …] → {"math": 0.02}."""
  for item in items:
    if not re.fullmatch(rf"({'|'.join(rewards.DOMAINS)})=\d*\.?\d+(e-?\d+)?", item):
      raise InputError(f"--domain_beta has {item!r}; expected name=number, names valid: {', '.join(rewards.DOMAINS)}")
  return {name: float(value) for name, value in (item.split("=") for item in items)}


def read_settings(flag, prompt_widths, style: str, fsdp: int) -> Settings:
  """The flags as plain values, with sentinels resolved and sizes checked before anything is compiled."""
  micro, at_once = flag.micro_batch_size or flag.batch_size, flag.rollout_batch_size or flag.batch_size
  for name, size in (("micro_batch_size", micro), ("rollout_batch_size", at_once)):
    if flag.batch_size % size:
      raise InputError(f"--batch_size={flag.batch_size} is not a multiple of --{name}={size}; choose a divisor")
  if micro * flag.num_generations % fsdp:
    raise InputError(f"--micro_batch_size={micro} prompts × {flag.num_generations} answers do not divide over {fsdp} fsdp devices; "
                     f"make their product a multiple of {fsdp}, or use --mesh with fewer")
  if not 0 <= flag.overlong_buffer <= flag.max_new_tokens:
    raise InputError(f"--overlong_buffer={flag.overlong_buffer} is not within 0 and --max_new_tokens={flag.max_new_tokens}")
  if flag.temperature <= 0:
    raise InputError(f"--temperature={flag.temperature}: GRPO needs answers that differ; use a value above 0, such as 0.7")
  values, domain_beta = {name: flag[name].value for name in Settings._fields if name in flag}, read_domain_beta(flag.domain_beta)
  beta, epsilon, epsilon_high, draws = PUBLISHED[flag.algorithm]
  if flag.epsilon and flag.algorithm != "dapo":  # one bound means both; clip-higher keeps its own upper one
    epsilon_high = flag.epsilon
  beta = flag.beta if flag.beta >= 0 else beta
  return Settings(**values | dict(
      micro_batch_size=micro, rollout_batch_size=at_once, beta=beta, domain_beta=domain_beta, epsilon=flag.epsilon or epsilon,
      epsilon_high=flag.epsilon_high or epsilon_high, prompt_widths=prompt_widths, style=style,
      dynamic_sampling=flag.dynamic_sampling if flag.dynamic_sampling >= 0 else draws,
      reference=beta > 0 or any(domain_beta.values()), packed=micro % fsdp == 0))


def read_thresholds(flag, held_out: list[dict]) -> list[float]:
  """--phase_metrics as two numbers; [] where phases follow the step."""
  try:
    found = [float(value) for value in flag.phase_metrics]
  except ValueError:
    found = [0.0]
  if len(found) not in (0, 2) or found and not (
      flag.rewards == "curriculum" and held_out and flag.eval_every and all(0 <= rate <= 1 for rate in found)):
    raise InputError(f"--phase_metrics={','.join(flag.phase_metrics)}: expected two rates in 0 to 1, format and accuracy, such as "
                     "0.9,0.5, together with --rewards=curriculum, held-out rows (--eval_rows) and --eval_every above 0")
  return found


def reward_functions(flag, style: str, state: dict) -> list:
  """The system's functions, with the curriculum's clock and the judge tied in."""
  options = rewards.read_weights(flag.weights) if flag.rewards == "four_component" else {}
  if flag.rewards == "curriculum":
    options = {"phase": lambda: state["progress"]["phase"]} if flag.phase_metrics else {
        "progress": lambda: state["step"] / state["max_steps"]}
  if flag.judge_url:
    options["judge"] = functools.partial(rewards.judge, url=flag.judge_url, model=flag.judge_model)
  return rewards.make_rewards(flag.rewards, style=style, code_rewards=flag.code_rewards, **options)


def load_rows(data_dir: str, system: str, allow_mismatch: bool, eval_rows: int) -> tuple[dict, list[dict], list[dict]]:
  """(config of the data, rows to train on, held-out rows). system: the reward system, which must read the style of the data."""
  config = rewards.read_config(data_dir, "prepare_data.py")
  rewards.check_prompt_hash(config, data_dir, allow_mismatch)
  wanted = "dual_stream" if system == "dual_stream" else "tags"
  if config["style"] != wanted:
    raise InputError(f"{data_dir} was rendered in style {config['style']}, --rewards={system} pays for style {wanted}; choose "
                     f"other rewards, or prepare the data with --style={wanted}")
  read = lambda name: rewards.read_rows(os.path.join(data_dir, name))
  rows = [row for row in read("train.jsonl") if row["metadata"].get("use") != "sft"]
  if not rows:
    raise InputError(f"{data_dir}/train.jsonl has no row for GRPO (all are marked metadata.use = sft); prepare more rows")
  return config, rows, read("val.jsonl")[:eval_rows]


def load_start(flag, style: str) -> gemma.Policy:
  """The policy that --model and --init_from name; it must have learned the style of the data."""
  if flag.init_from:
    config, _ = gemma.read_checkpoint(flag.init_from)
    rewards.check_prompt_hash(config, flag.init_from, flag.allow_prompt_mismatch)
    if config["style"] != style:
      raise InputError(f"--init_from={flag.init_from} was trained in style {config['style']}, {flag.data_dir} is in style {style}; "
                       f"prepare the data with --style={config['style']}, or start from another folder")
    if flag.lora_rank and not config["lora_rank"]:
      raise InputError(f"{flag.init_from} trained all parameters; go on with --lora_rank=0, or export it and pass the merged "
                       "folder as --model to put LoRA on it")
    gemma.say(f"grpo: starts from {flag.init_from}, which is also the reference")
  return gemma.load_policy(flag.model, flag.init_from, flag.data_dir, flag.mesh, flag.dtype)


def announce(rows, settings: Settings, policy: gemma.Policy):
  """The derived numbers, before the long part."""
  answers, sampled, updated = (size * settings.num_generations for size in (
      settings.batch_size, settings.rollout_batch_size, settings.micro_batch_size))
  count = gemma.count_parameters(policy.model, gemma.trainable(policy.model)) / 1e6
  gemma.say(f"grpo: {len(rows)} prompts, {settings.batch_size} a batch × {settings.num_generations} answers = {answers}, sampled "
            f"{sampled} and updated {updated} at once, {settings.num_iterations} update(s) a batch; prompts padded to "
            f"{' or '.join(map(str, settings.prompt_widths))}, up to {settings.max_new_tokens} new tokens; {settings.algorithm}, "
            f"{settings.rewards}; {count:.2f}M trainable parameters; {gemma.device_line(policy.mesh)}")


def measure_held_out(learner: LeanGRPOLearner, held_out: list[dict]) -> float:
  """Seconds of a held-out evaluation, compilation left out."""
  for _ in range(2):
    start = time.monotonic()
    held_out_metrics(learner, held_out)
  return time.monotonic() - start


def before_training(learner: LeanGRPOLearner, stream, rows, held_out, state: dict, max_steps: int | None, stop, flag):
  """The preflight, and max_steps None (auto) resolved in `state` to what fits 90% of the time that is left."""
  seconds = measure_batch(learner, stream) if flag.max_hours or flag.preflight_only else None
  start = dict(state)
  state |= {"step": state["max_steps"], "progress": start["progress"] | {"phase": 2}}  # a curriculum's last phase pays for all
  reasons = preflight(learner, rows, seconds, max_steps, flag.max_hours)
  state |= start
  for reason in reasons:
    gemma.say(f"preflight: {reason}")
  if reasons and not flag.force:
    raise InputError(f"preflight refuses to train: {reasons[0]}; --force trains all the same")
  if flag.preflight_only:
    gemma.say("preflight: nothing speaks against training")
  if max_steps is None:
    seconds += measure_held_out(learner, held_out) * flag.num_iterations / flag.eval_every if flag.eval_every else 0
    left = stop.max_seconds - stop.seconds
    state["max_steps"] = max(1, int(0.9 * left / seconds)) * flag.num_iterations
    gemma.say(f"grpo: --max_steps=auto is {state['max_steps']} updates in {left / 3600:.2f} h; the schedule and phases follow it")


def resume(out_dir: str, learner: LeanGRPOLearner, state: dict):
  """Brings model, optimizer, state and row files to the last whole checkpoint, where there is one."""
  step, progress = gemma.restore_checkpoint(out_dir, learner.trainer.model, learner.trainer.optimizer)
  state |= {"step": step, "progress": state["progress"] | progress}
  for name in ("metrics.jsonl", "samples.jsonl"):
    gemma.trim_rows(os.path.join(out_dir, name), step)
  if step:
    gemma.say(f"grpo: resumed at step {step} of {state['max_steps']}")


def main():
  flag, out_dir = FLAGS, FLAGS.out_dir
  max_steps = gemma.read_max_steps(flag.max_steps, flag.max_hours)
  data, rows, held_out = load_rows(flag.data_dir, flag.rewards, flag.allow_prompt_mismatch, flag.eval_rows)
  style = data["style"]
  thresholds = read_thresholds(flag, held_out)
  _lock = gemma.lock_folder(out_dir)  # held until the process ends
  started = gemma.begin_run(out_dir, flag.resume_from, {name: flag[name].value for name in sorted(flag)}, MAY_CHANGE)
  if os.path.isfile(os.path.join(out_dir, "config.json")):
    return gemma.say(f"grpo: {out_dir} is complete, nothing to train; choose another --out_dir to train again")
  stop = gemma.StopSignal(flag.max_hours)
  gemma.enable_compilation_cache()
  start = load_start(flag, style)
  gemma.check_inputs(  # by content: a resume on other rows or from another start would be neither run
      out_dir, started, data_dir=gemma.digest(os.path.join(flag.data_dir, "train.jsonl")),
      init_from=gemma.digest(gemma.read_checkpoint(flag.init_from)[1]) if flag.init_from else "", model=start.fingerprint)
  lengths = check_prompts(rows + held_out, start.tokenizer, flag.max_prompt_tokens)
  settings = read_settings(flag, gemma.choose_widths(lengths, flag.max_prompt_tokens), style, start.mesh.shape["fsdp"])
  state = {"step": 0, "max_steps": started.get("max_steps") or max_steps or 1000, "progress": new_progress()}
  reward_fns = reward_functions(flag, style, state)
  policy, reference = starting_policy(start, flag.lora_rank, flag.lora_alpha, flag.seed, settings.reference)
  del start  # weights that neither is made of leave the device
  if not started:
    gemma.check_run_fits(out_dir, gemma.count_parameters(policy.model, gemma.trainable(policy.model)))
  announce(rows, settings, policy)
  learner, stream = build(policy, reference, reward_fns, settings, flag), make_stream(rows, settings)
  if "max_steps" not in started or flag.preflight_only:
    before_training(learner, stream, rows, held_out, state, max_steps, stop, flag)
    if flag.preflight_only:
      return
    gemma.record_run(out_dir, max_steps=state["max_steps"])
  resume(out_dir, learner, state)
  facts = gemma.describe_run(policy, out_dir, "grpo", data)
  schedule = gemma.make_schedule(flag.learning_rate, state["max_steps"], final_ratio=0.0)
  train(learner, stream, schedule, held_out, state, out_dir=out_dir, eval_every=flag.eval_every, save_every=flag.save_every,
        sample_every=flag.sample_every, thresholds=thresholds, stop=stop, log=open_log(out_dir, flag.wandb))
  gemma.save_run(learner.trainer.model, out_dir, PANELS)
  gemma.check_finished(stop, state["step"], state["max_steps"], out_dir)
  rewards.write_config(out_dir, "grpo", FLAGS, style, **facts, steps=state["step"], best=state["progress"]["best"])
  gemma.say(f"grpo: {state['step']} steps, parameters in {out_dir}/params")


if __name__ == "__main__":
  rewards.launch(main, FLAGS, __doc__)
