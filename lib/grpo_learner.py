"""TODO-DOC grpo_learner."""

import time

import jax
import numpy as np
from tunix.rl.grpo import grpo_learner

from lib import optimization, policy_gradient, rollouts, training_log
from lib.grpo_settings import Settings
from lib.policy_gradient import Batch
from lib.rollouts import Rollout, Scores


class LeanGRPOLearner(grpo_learner.GRPOLearner):
  """Tunix's learner with its two wasteful or wrong parts replaced: prompts → training data, and the update of a batch."""

  def __init__(self, rl_cluster, algo_config, reward_fns, tokenizer, mesh, settings: Settings):
    super().__init__(rl_cluster=rl_cluster, algo_config=algo_config, reward_fns=reward_fns)
    self.algo_config.options = settings  # the loss reads them through Tunix's config
    self.reward_fns, self.tokenizer, self.mesh, self.settings = (
      reward_fns,
      tokenizer,
      mesh,
      settings,
    )
    self.step = optimization.make_update(rl_cluster.actor_trainer, mesh)
    rl_cluster._anchor_policy_state = (
      None  # Tunix keeps a second copy of the weights that nothing here reads
    )

  @property
  def trainer(self):
    return self.rl_cluster.actor_trainer

  def rollout(self, rows: list[dict], draw_index: int) -> tuple[Rollout, Scores, dict]:
    """rows → answers → scores, with the seconds each took."""
    start = time.monotonic()
    rollout = rollouts.sample_rollout(
      self.rl_cluster, self.tokenizer, rows, draw_index, self.settings
    )
    middle = time.monotonic()
    scores = rollouts.score_rollout(self.reward_fns, rollout, self.settings)
    return (
      rollout,
      scores,
      {"rollout_seconds": middle - start, "reward_seconds": time.monotonic() - middle},
    )

  def informative_rollout(self, stream, progress: dict) -> tuple[Rollout, Scores, dict]:
    """A batch of B groups; with dynamic sampling, groups whose rewards are all equal are replaced from further draws.

    DAPO (2503.14476) §3.2. Bounded: after `dynamic_sampling` further batches the flat groups that are left stay. The result
    always has B groups, so nothing is compiled again. Pass rates and the share of flat groups are those of all that was drawn.
    """
    size, groups, flat, drawn = self.settings.batch_size, [], [], []
    for _ in range(1 + self.settings.dynamic_sampling):
      rollout, scores, took = self.rollout(stream(progress), progress["draws"])
      drawn.append(took | training_log.rollout_metrics(rollout, scores, self.settings))
      follow_pass_rates(progress, drawn[-1])
      groups += [(rollout, scores, i) for i in range(size)]
      flat += list(policy_gradient.flat_groups(scores.rewards, self.settings.num_generations))
      if len(flat) - sum(flat) >= size:
        break
    chosen = sorted(
      np.argsort(flat, kind="stable")[:size]
    )  # groups that differ first, each kind in the order drawn
    facts = {name: sum(row[name] for row in drawn) for name in took}
    facts |= {
      name: sum(row[name] for row in drawn) / len(drawn)
      for name in ("flat", "flat_right", "flat_wrong")
    }
    return *join_groups([groups[i] for i in chosen]), facts | {
      "resampled": sum(int(i >= size) for i in chosen)
    }

  def prepare(self, stream, progress: dict) -> tuple[Rollout, Scores, np.ndarray, "Batch", dict]:
    """All that comes before an update: (rollout, scores, advantages (N,), micro-batches, seconds and shares to log)."""
    rollout, scores, facts = self.informative_rollout(stream, progress)
    start, settings = time.monotonic(), self.settings
    scale = np.repeat(
      policy_gradient.advantage_scale(settings.rewards, [row["domain"] for row in rollout.rows]),
      settings.num_generations,
    )
    advantages = (
      policy_gradient.group_advantages(scores.rewards, settings.num_generations, settings.algorithm)
      * scale
    )
    batch = policy_gradient.make_batch(rollout, advantages, settings)
    if "reference" in self.rl_cluster.inference_worker._models:
      reference = self.rl_cluster.inference_worker.get_model("reference")
      with self.mesh:
        logps = [
          policy_gradient.reference_logps(
            reference, p, c, w > 0, temperature=settings.temperature, generations=len(c) // len(p)
          )
          for p, c, w in zip(batch.prompts, batch.completions, batch.weights)
        ]
      batch = batch._replace(ref_logps=np.stack(jax.tree.map(np.asarray, logps)))
    return (
      rollout,
      scores,
      advantages,
      batch,
      facts | {"reference_seconds": time.monotonic() - start},
    )

  def update(self, batch: Batch, learning_rate: float) -> tuple[Batch, dict]:
    """One optimizer update; returns the batch with the sampling policy's log-probs in place, and what to log."""
    loss, aux, norm = self.step(batch, learning_rate)
    tokens = max(1.0, float(aux["tokens"].sum()))
    mean = {
      name: float(aux[name].sum()) / tokens for name in ("kl", "entropy", "clip_low", "clip_high")
    }
    if batch.on_policy.all():
      batch = batch._replace(old_logps=aux["logps"], on_policy=np.zeros_like(batch.on_policy))
    if self.should_sync_weights:
      self.rl_cluster.sync_weights()
    return batch, {
      "loss": loss,
      "grad_norm": norm,
      **mean,
      "ratio_max": float(aux["ratio_max"].max()),
    }


def join_groups(groups: list[tuple[Rollout, Scores, int]]) -> tuple[Rollout, Scores]:
  """One rollout and its scores from the i-th groups of several, padded to the widest prompt."""
  rollouts, scores, places = zip(*groups)
  size, width = (
    len(rollouts[0].texts) // len(rollouts[0].rows),
    max(r.prompts.shape[1] for r in rollouts),
  )
  group = lambda column, i: column[i * size : (i + 1) * size]
  join = lambda columns: np.concatenate([group(column, i) for column, i in zip(columns, places)])
  prompts = np.stack(
    [np.pad(r.prompts[i], (width - r.prompts.shape[1], 0)) for r, i in zip(rollouts, places)]
  )
  rollout = Rollout(
    [r.rows[i] for r, i in zip(rollouts, places)],
    prompts,
    join(r.completions for r in rollouts),
    join(r.lengths for r in rollouts),
    join(r.stopped for r in rollouts),
    [text for r, i in zip(rollouts, places) for text in group(r.texts, i)],
  )
  components = {name: join(s.components[name] for s in scores) for name in scores[0].components}
  return rollout, Scores(
    join(s.rewards for s in scores),
    components,
    join(s.formatted for s in scores),
    join(s.correct for s in scores),
    max(s.failed for s in scores),
  )


def follow_pass_rates(progress: dict, seen: dict):
  """Running pass rate of each domain, for --anneal_domains: 0.9 of what it was, 0.1 of this batch."""
  for name, rate in seen.items():
    if name.endswith("/accuracy"):
      domain = name.split("/")[1]
      progress["pass_rate"][domain] = 0.9 * progress["pass_rate"].get(domain, rate) + 0.1 * rate
