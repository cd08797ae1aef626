"""Tunix's GRPO learner with two parts replaced: prompts → training data, and the update.

build_learner                         a learner around a policy
LeanGRPOLearner.prepare               rows → rollout → scores → advantages → batch
LeanGRPOLearner.update                one optimizer update
LeanGRPOLearner.informative_rollout   dynamic sampling, with idle_groups and join_groups
"""

import functools
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import rl_cluster as rl
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from lib import (
  answer_packing,
  checking,
  checkpoints,
  hosts,
  optimization,
  parameters,
  policy_gradient,
  rollouts,
  sampling,
  tokenization,
  training_log,
)
from lib.errors import InputError
from lib.grpo_settings import Settings
from lib.loading import Policy
from lib.policy_gradient import Batch
from lib.rollouts import Rollout, Scores

# Of the running pass rate of a domain, what a new batch replaces.
PASS_RATE_STEP = 0.1


class Group(NamedTuple):
  """The answers to one prompt, as a place in the batch that they were drawn with."""

  rollout: Rollout
  scores: Scores
  index: int


class Prepared(NamedTuple):
  """All that comes before an update."""

  rollout: Rollout
  scores: Scores
  advantages: np.ndarray  # (N,)
  batch: Batch  # (M, R, T) micro-batches
  facts: dict  # seconds and shares to log


class LeanGRPOLearner(grpo_learner.GRPOLearner):
  """rows → training data → update, around Tunix's cluster of actor, reference and rollout."""

  def __init__(self, rl_cluster, algo_config, reward_fns, tokenizer, mesh, settings: Settings):
    super().__init__(rl_cluster=rl_cluster, algo_config=algo_config, reward_fns=reward_fns)
    self.algo_config.options = settings  # the loss reads them through Tunix's config
    self.reward_fns = reward_fns
    self.tokenizer = tokenizer
    self.mesh = mesh
    self.settings = settings
    # Tunix's own update would copy the frozen weights each time (see lib/optimization.py).
    self.updates = optimization.Updates(rl_cluster.actor_trainer, mesh)
    self.samples_here = isinstance(rl_cluster.rollout, rollouts.LeanRollout)
    # Tunix keeps a second copy of the weights that nothing here reads.
    rl_cluster._anchor_policy_state = None

  @property
  def trainer(self):
    return self.rl_cluster.actor_trainer

  @property
  def policy(self) -> Policy:
    """What the sampler reads: model, tokenizer and mesh; the other fields say nothing here."""
    return Policy(self.trainer.model, self.tokenizer, self.mesh, "", "", 0, 0.0)

  def rollout(
    self, rows: list[dict], draw_index: int, reward_fns=None, meanwhile=None
  ) -> tuple[Rollout, Scores, dict]:
    """rows → answers → scores, with the seconds each took.

    reward_fns: others than those that train. meanwhile: called with the answers before scoring.
    """
    start = time.monotonic()
    rollout = rollouts.sample_rollout(
      self.rl_cluster, self.tokenizer, rows, draw_index, self.settings
    )
    # Before the rewards: what this starts on the device runs while the CPU scores.
    if meanwhile:
      meanwhile(rollout)
    middle = time.monotonic()
    scores = rollouts.score_rollout(reward_fns or self.reward_fns, rollout, self.settings)
    end = time.monotonic()
    seconds = {"rollout_seconds": middle - start, "reward_seconds": end - middle}
    return rollout, scores, seconds

  def informative_rollout(
    self, stream, progress: dict, meanwhile=None
  ) -> tuple[Rollout, Scores, dict]:
    """A batch of B groups; with dynamic sampling, idle groups are replaced from further draws.

    DAPO (2503.14476) §3.2; see `idle_groups`. Bounded: after `dynamic_sampling` further batches the
    idle groups that are left stay. The result always has B groups, so nothing is compiled again.
    Pass rates and the share of zero-std groups are those of all that was drawn.
    """
    size = self.settings.batch_size
    groups, idle, drawn = [], [], []
    # The batch itself, and up to so many more to replace idle groups from.
    for _ in range(1 + self.settings.dynamic_sampling):
      rollout, scores, seconds = self.rollout(
        stream(progress), progress["draws"], meanwhile=meanwhile
      )
      metrics = training_log.rollout_metrics(rollout, scores, self.settings)
      follow_pass_rates(progress, metrics)
      drawn.append(metrics | seconds)
      groups += [Group(rollout, scores, i) for i in range(size)]
      # One bool a group, in the order of `groups`.
      idle += list(idle_groups(rollout, scores, self.settings))
      # Enough groups that teach something: nothing more to draw.
      if len(idle) - sum(idle) >= size:
        break
    # Groups that teach something first, each kind in the order drawn.
    # Of idle [T, F, T, F] and size 3: argsort gives 1, 3, 0, 2, the batch is groups 0, 1, 3.
    chosen = sorted(np.argsort(idle, kind="stable")[:size])
    rollout, scores = join_groups([groups[i] for i in chosen])
    # Times add up over the draws; shares are means of them.
    facts = {name: sum(row[name] for row in drawn) for name in seconds}
    for name in ("flat", "flat_right", "flat_wrong", "rollout_fill"):
      facts[name] = sum(row[name] for row in drawn) / len(drawn)
    facts["resampled"] = sum(int(i >= size) for i in chosen)
    return rollout, scores, facts

  def start_reference(self, rows: answer_packing.Rows):
    """log p under the reference (M, R, T); None without one.

    Returns at once, while the device still works on them.
    """
    # No KL, no reference: β = 0 saves its memory and its forward pass.
    if "reference" not in self.rl_cluster.inference_worker._models:
      return None
    reference = self.rl_cluster.inference_worker.get_model("reference")
    with self.mesh:
      return policy_gradient.reference_logps(
        reference,
        self.updates.place(rows),
        answer_packing.turns_of(rows),
        temperature=self.settings.temperature,
      )

  def compile_programs(self):
    """Compiles all of a run before its first step, by running each program once on empty rows.

    For a fresh optimizer only: gradients of zero leave its moments at zero, and its counters are
    put back.
    """
    settings = self.settings
    sampling.rehearse(
      self.policy,
      settings.prompt_widths,
      settings.rollout_batch_size,
      settings.num_generations,
      settings.max_new_tokens,
      settings.temperature,
    )
    empty = answer_packing.empty_rows(settings.row_shape)
    optimizer = self.trainer.optimizer
    state = parameters.flat_params(optimizer, nnx.optimizer.OptState)
    # Copies, since the update below donates the originals.
    counters = {name: jnp.copy(x) for name, x in state.items() if x.ndim == 0}
    batch = policy_gradient.blank_batch(empty)
    if (ref_logps := self.start_reference(empty)) is not None:
      batch = batch._replace(ref_logps=ref_logps)
    # Rate 0 and weights 0: nothing moves, but the program is the run's own.
    self.update(batch, [0.0, 0.0])
    state = parameters.flat_params(optimizer, nnx.optimizer.OptState)
    checkpoints.update_flat(optimizer, state | counters, nnx.optimizer.OptState)

  def prepare(self, stream, progress: dict) -> Prepared:
    """rows → answers → scores → advantages → micro-batches."""
    # A list, because `begin` is called from inside the rollout and leaves its result here.
    begun = []

    def begin(rollout: Rollout):
      packed = policy_gradient.pack_rollout(rollout, self.settings)
      begun.append((packed, self.start_reference(packed.rows)))

    # The device finds the reference's log-probs while rewards are computed; with dynamic sampling
    # the batch is known only after them.
    replaced = self.settings.dynamic_sampling > 0
    meanwhile = None if replaced else begin
    rollout, scores, facts = self.informative_rollout(stream, progress, meanwhile)
    start = time.monotonic()
    if replaced:
      begin(rollout)
    packed, ref_logps = begun[0]
    advantages = scaled_advantages(rollout, scores, self.settings)
    batch = policy_gradient.make_batch(rollout, packed, advantages, self.settings)
    if ref_logps is not None:
      # Not read here: it goes from one program on the device into the next.
      batch = batch._replace(ref_logps=ref_logps)
    facts["reference_seconds"] = time.monotonic() - start
    facts["row_fill"] = round(answer_packing.fill(packed.rows), 4)
    return Prepared(rollout, scores, advantages, batch, facts)

  def update(self, batch: Batch, rates: list[float]) -> tuple[Batch, list[dict]]:
    """An optimizer update for each learning rate; the batch for those to come, and what to log of
    each.

    From the first update on, that batch holds the sampling policy's log-probs as its old ones. All
    are under way before anything is read: the device does not wait for Python in between.
    """
    on_policy = bool(np.all(hosts.fetch(batch.on_policy)))
    turns = answer_packing.turns_of(batch.rows)
    batch = self.updates.place(batch)
    found = []
    with self.updates.open() as update:
      for rate in rates:
        done = update(batch, turns, rate)
        logps = done.aux.pop("logps")
        found.append(done)
        # The first update was on policy: its log-probs, ratio 1, are the old ones of all later
        # ones.
        if on_policy and len(found) == 1:
          batch = self.updates.place(policy_gradient.later_batch(batch, logps))
    rows = [update_row(done) for done in hosts.fetch(found)]
    for number, row in enumerate(rows):
      # Later, π has moved away from the sampler on purpose; other engines' log-probs are not known.
      if number or not on_policy or not self.samples_here:
        del row["sampler_gap"]
    # Engines with a copy of the weights; this project's own sampler reads the trainer's.
    if self.should_sync_weights:
      self.rl_cluster.sync_weights()
    return batch, rows


def update_row(done: optimization.Done) -> dict:
  """What metrics.jsonl says of an update."""
  aux = done.aux
  # Sums over micro-batches ÷ their tokens: a mean of means would weigh short ones more.
  tokens = max(1.0, float(aux["tokens"].sum()))
  row = {"loss": float(done.loss), "grad_norm": float(done.norm)}
  for name in ("kl", "entropy", "clip_low", "clip_high", "sampler_gap"):
    row[name] = float(aux[name].sum()) / tokens
  row["ratio_max"] = float(aux["ratio_max"].max())
  return row


def idle_groups(rollout: Rollout, scores: Scores, settings: Settings) -> np.ndarray:
  """(B,) bool: groups that dynamic sampling replaces.

  By reward: zero-std groups, whose advantages are all 0. By accuracy, as DAPO (2503.14476) eq. 11
  has it: the answers are all right or all wrong, whatever else they earned. Its rewards are right
  or wrong and nothing else, so there the two are the same; a format or length reward parts them.
  """
  zero_std = policy_gradient.zero_std_groups(scores.rewards, settings.num_generations)
  if settings.replace_by == "reward":
    return zero_std
  # (B, G): a prompt's answers lie side by side.
  right = scores.correct.reshape(-1, settings.num_generations)
  all_alike = right.all(-1) | ~right.any(-1)
  domains = [row["domain"] for row in rollout.rows]
  # A poem is never "right": by accuracy, each group of poems would count as all wrong.
  checked = np.isin(domains, checking.checked_domains(settings.code_rewards))
  return np.where(checked, all_alike, zero_std)


def scaled_advantages(rollout: Rollout, scores: Scores, settings: Settings) -> np.ndarray:
  """Advantages (N,) with the domain's factor."""
  domains = [row["domain"] for row in rollout.rows]
  # Not on rewards: the division by the group's deviation would cancel it.
  scale = policy_gradient.advantage_scale(settings.rewards, domains)  # (B,)
  advantages = policy_gradient.group_advantages(
    scores.rewards, settings.num_generations, settings.algorithm
  )
  return advantages * np.repeat(scale, settings.num_generations)


def join_groups(groups: list[Group]) -> tuple[Rollout, Scores]:
  """One rollout and its scores from single groups of several, padded to the widest prompt."""
  first = groups[0]
  size = len(first.rollout.texts) // len(first.rollout.rows)
  # Batches of several draws may be padded to different widths.
  width = max(group.rollout.prompts.shape[1] for group in groups)
  rows, prompts, texts = [], [], []
  completions, lengths, stopped, log_p = [], [], [], []
  rewards, formatted, correct = [], [], []
  components = {name: [] for name in first.scores.components}
  for rollout, scores, i in groups:
    answers = slice(i * size, (i + 1) * size)
    rows.append(rollout.rows[i])
    prompt = rollout.prompts[i]
    # Zeros are PAD_ID; in front, as everywhere with prompts.
    prompts.append(np.pad(prompt, (width - len(prompt), 0)))
    texts += rollout.texts[answers]
    completions.append(rollout.completions[answers])
    lengths.append(rollout.lengths[answers])
    stopped.append(rollout.stopped[answers])
    if rollout.log_p is not None:
      log_p.append(rollout.log_p[answers])
    rewards.append(scores.rewards[answers])
    formatted.append(scores.formatted[answers])
    correct.append(scores.correct[answers])
    for name, values in components.items():
      values.append(scores.components[name][answers])
  joined = Rollout(
    rows=rows,
    prompts=np.stack(prompts),
    completions=np.concatenate(completions),
    lengths=np.concatenate(lengths),
    stopped=np.concatenate(stopped),
    texts=texts,
    log_p=np.concatenate(log_p) if log_p else None,
  )
  return joined, Scores(
    rewards=np.concatenate(rewards),
    components={name: np.concatenate(values) for name, values in components.items()},
    formatted=np.concatenate(formatted),
    correct=np.concatenate(correct),
    failed=max(group.scores.failed for group in groups),
  )


def follow_pass_rates(progress: dict, metrics: dict):
  """Running pass rate of each domain, for --anneal_domains."""
  for name, rate in metrics.items():
    if name.endswith("/accuracy"):
      domain = name.split("/")[1]
      # The first batch of a domain sets its rate; later ones move it a tenth of the way.
      before = progress["pass_rate"].get(domain, rate)
      progress["pass_rate"][domain] = (1 - PASS_RATE_STEP) * before + PASS_RATE_STEP * rate


def build_cluster(policy: Policy, reference, optimizer, settings: Settings, engine: str):
  """Tunix's cluster of actor, rollout and reference (None: none), every role on one mesh."""
  roles = [rl.Role.ACTOR, rl.Role.ROLLOUT]
  # Without a KL there is no reference, and no role for one.
  if reference is not None:
    roles.append(rl.Role.REFERENCE)
  widest = max(settings.prompt_widths)
  rollout_config = base_rollout.RolloutConfig(
    max_tokens_to_generate=settings.max_new_tokens,
    max_prompt_length=widest,
    temperature=settings.temperature,
    # Off: an engine left to itself takes the model's own defaults.
    top_p=1.0,
    top_k=-1,
    # Room for the longest prompt and the longest answer: an engine takes no more.
    kv_cache_size=widest + settings.max_new_tokens,
    eos_tokens=list(tokenization.STOP_IDS),
    rollout_vllm_model_version=policy.name,
    rollout_sglang_jax_model_version=policy.name,
  )
  if engine == "vanilla":
    # Tunix takes a class in the place of an engine's name, and calls it with its own arguments.
    engine = functools.partial(rollouts.LeanRollout, policy=policy)
  return rl.RLCluster(
    actor=policy.model,
    reference=reference,
    tokenizer=policy.tokenizer,
    cluster_config=rl.ClusterConfig(
      role_to_mesh=dict.fromkeys(roles, policy.mesh),
      rollout_config=rollout_config,
      offload_to_cpu=False,
      rollout_engine=engine,
      training_config=rl.RLTrainingConfig(actor_optimizer=optimizer, eval_every_n_steps=1),
    ),
  )


def build_learner(
  policy: Policy, reference, optimizer, reward_fns, settings: Settings, engine: str
) -> LeanGRPOLearner:
  """Tunix's cluster and this learner around the policy. engine: --rollout_engine."""
  try:
    cluster = build_cluster(policy, reference, optimizer, settings, engine)
  except ImportError as error:
    raise InputError(
      f"--rollout_engine={engine} needs a package that is not installed ({error}); install it, "
      "or use --rollout_engine=vanilla"
    ) from error
  # Tunix tells by this message alone that it cannot map a model's weights to an engine.
  except RuntimeError as error:
    if "mappings not available" not in str(error):
      raise
    raise InputError(
      f"--rollout_engine={engine}: Tunix cannot give it these weights ({error}); use "
      "--rollout_engine=vanilla, or a google-tunix above 0.1.7 that maps Gemma 3"
    ) from error
  config = grpo_learner.GRPOConfig(
    # `policy_gradient.policy_loss`, under the name that it is registered with.
    policy_loss_fn="lean",
    num_generations=settings.num_generations,
    beta=settings.beta,
    num_iterations=settings.num_iterations,
    epsilon=settings.epsilon,
  )
  return LeanGRPOLearner(cluster, config, reward_fns, policy.tokenizer, policy.mesh, settings)
