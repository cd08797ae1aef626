"""train_grpo.py: each objective against its paper's formula, advantages and weights by table, whole
runs, what is refused.
"""

import dataclasses
import functools
import json
import os
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from conftest import LORA, argv_of, one_line_error, run, run_well
from flax import nnx
from small_models import small_config
from tunix.rl import algo_core, common
from tunix.rl.grpo import grpo_learner as tunix_learner
from tunix.sft import utils as sft_utils

import rewards
import train_grpo
from lib import (
  answer_packing,
  checkpoints,
  code_checking,
  contract,
  devices,
  failures,
  gemma,
  grpo_learner,
  grpo_settings,
  grpo_start,
  health,
  jsonl,
  loading,
  logprobs,
  optimization,
  parameters,
  policy_gradient,
  preflight,
  programs,
  rollouts,
  sampling,
  streams,
  tokenization,
  training_log,
)
from lib.answer_packing import Packed, RowShape
from lib.errors import InputError
from lib.grpo_learner import LeanGRPOLearner
from lib.grpo_settings import Settings
from lib.loading import Policy
from lib.policy_gradient import Batch
from lib.rollouts import Rollout, Scores

ALGORITHMS = ("grpo", "dr_grpo", "dapo", "gspo")
GRPO = dict(
  batch_size=2,
  num_generations=4,
  max_new_tokens=24,
  temperature=1.0,
  save_every=0,
  eval_every=0,
  eval_rows=0,
  learning_rate=3e-4,
  force=True,
  lora_rank=0,
)
SETTINGS = Settings(
  algorithm="grpo",
  reference=True,
  batch_size=2,
  rollout_batch_size=2,
  num_generations=4,
  num_iterations=1,
  beta=0.04,
  domain_beta={},
  epsilon=0.2,
  epsilon_high=0.28,
  dynamic_sampling=0,
  mask_truncated=False,
  overlong_buffer=0,
  replace_by="reward",
  anneal_domains=False,
  temperature=0.7,
  max_new_tokens=12,
  prompt_widths=(8,),
  row_shape=RowShape(turns=4, rows=2, width=64),
  sliding_window=128,
  seed=0,
  remat=False,
  style="tags",
  rewards="multi_domain",
)


# ---- the objectives, from papers
def textbook(
  xp, logps, old, ref, lengths, counted, advantages, beta, *, algorithm, low, high, limit
):
  """−J as the papers write it, one answer and one token at a time: 2402.03300 eq. 3 and 4,
  2503.20783 §3.2, 2503.14476 eq. 8, 2507.18071 eq. 5 to 7. logps, old, ref: (N, L)."""
  answers, tokens = [], 0
  for i in range(len(lengths)):
    if not counted[i]:
      continue
    terms, whole = [], sum(logps[i, t] - old[i, t] for t in range(lengths[i])) / lengths[i]
    for t in range(lengths[i]):
      log_ratio = whole if algorithm == "gspo" else logps[i, t] - old[i, t]
      ratio = xp.exp(log_ratio)
      gain = xp.minimum(ratio * advantages[i], xp.clip(ratio, 1 - low, 1 + high) * advantages[i])
      r = xp.exp(ref[i, t] - logps[i, t])
      kl = r - (ref[i, t] - logps[i, t]) - 1
      terms.append(gain - beta[i] * kl)
    answers.append(sum(terms))
    tokens += lengths[i]
    if algorithm in ("grpo", "gspo"):
      answers[-1] = answers[-1] / lengths[i]
  if algorithm == "dapo":
    return -sum(answers) / tokens
  if algorithm == "dr_grpo":
    return -sum(answers) / limit / len(answers)
  return -sum(answers) / len(answers)


@pytest.fixture(scope="module")
def small():
  """One-layer Gemma 3 models that compile fast: {lora: model}."""
  base, mesh = gemma.create_tiny(small_config()), devices.make_mesh("1x1")
  lora = parameters.apply_lora(base, mesh, 4, 8.0)
  rng = np.random.default_rng(0)
  flat = {
    name: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32)
    for name, x in parameters.flat_params(lora, nnx.LoRAParam).items()
  }
  return {True: parameters.with_params(lora, flat), False: parameters.float32_masters(base)}


def plain_logps(model, prompts, completions, temperature: float):
  tokens = jnp.concatenate([prompts, completions], 1)
  real = jnp.concatenate([prompts != 0, jnp.ones(completions.shape, bool)], 1)
  logits, _ = model(
    tokens, sft_utils.build_positions_from_mask(real), None, sft_utils.make_causal_attn_mask(real)
  )
  logits = logits[:, prompts.shape[1] - 1 : -1].astype(jnp.float32) / temperature
  return jnp.take_along_axis(jax.nn.log_softmax(logits, -1), completions[..., None], -1)[..., 0]


def make_rollout(rows: int = 2, generations: int = 4, length: int = 12, seed: int = 0) -> Rollout:
  """Random answers of every length from 1 to the limit; the last one is cut by it."""
  rng = np.random.default_rng(seed)
  prompts = tokenization.pad_left(
    [[2, *rng.integers(110, 500, n)] for n in rng.integers(2, 7, rows)], 8
  )
  completions = rng.integers(110, 500, (rows * generations, length)).astype(np.int32)
  for i, n in enumerate(np.linspace(1, length, rows * generations).astype(int)[:-1]):
    completions[i, n - 1], completions[i, n:] = tokenization.STOP_IDS[i % 2], tokenization.PAD_ID
  lengths, stopped = sampling.completion_lengths(completions)
  data = [
    {
      "id": str(i),
      "domain": ("math", "coding")[i % 2],
      "prompt": "p",
      "question": "q",
      "answer": "4",
      "metadata": {},
    }
    for i in range(rows)
  ]
  return Rollout(data, prompts, completions, lengths, stopped, ["text"] * len(lengths))


def make_batch(rollout: Rollout, advantages, settings: Settings) -> tuple[Batch, Packed]:
  packed = policy_gradient.pack_rollout(rollout, settings)
  return policy_gradient.make_batch(rollout, packed, np.asarray(advantages), settings), packed


def summed(model, kind, batch: Batch, settings):
  """(loss, aux, gradient) of policy_loss over all micro-batches that hold anything."""
  graph, params, rest = nnx.split(model, kind, ...)
  config = types.SimpleNamespace(options=settings)

  def loss_of(params, micro_batch):
    return policy_gradient.policy_loss(nnx.merge(graph, params, rest), micro_batch, config)

  value_and_grad = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
  loss, auxes, gradient = 0.0, [], jax.tree.map(jnp.zeros_like, params)
  for turn in range(answer_packing.turns_of(batch.rows)):
    micro_batch = jax.tree.map(lambda x, turn=turn: x[turn], batch)
    (value, aux), part = value_and_grad(params, micro_batch)
    loss += float(value)
    auxes.append(aux)
    gradient = jax.tree.map(jnp.add, gradient, part)
  return loss, auxes, gradient


def answers_of(auxes: list[dict], packed: Packed) -> np.ndarray:
  """(N, L) log-probs that the loss returned, at the answers."""
  values = np.zeros(packed.rows.tokens.shape, np.float32)
  values[: len(auxes)] = [aux["logps"] for aux in auxes]
  return answer_packing.gather(values, packed)


@pytest.mark.parametrize(
  "algorithm,lora", [*((name, True) for name in ALGORITHMS), ("grpo", False)]
)
def test_loss_and_gradient_equal_the_paper(small, algorithm, lora):
  """Value in float64 NumPy, gradient by autodiff of the formula; on-policy and with old log-probs,
  KL with a weight per row, micro-batches of 1 and 2 prompts, with and without truncated answers."""
  model = small[lora]
  kind = parameters.trainable(model)
  graph, params, rest = nnx.split(model, kind, ...)
  rng = np.random.default_rng(3)
  rollout = make_rollout()
  rows = np.repeat(rollout.prompts, 4, 0)
  logps = np.asarray(plain_logps(model, rows, rollout.completions, 0.7), np.float64)
  old, ref = (logps + rng.normal(0, s, logps.shape) for s in (0.3, 0.5))
  advantages = rng.normal(size=8)
  options = dict(algorithm=algorithm, low=0.2, high=0.28, limit=12)
  through_model = jax.jit(
    lambda params, by_logp: jax.vjp(
      lambda p: plain_logps(nnx.merge(graph, p, rest), rows, rollout.completions, 0.7), params
    )[1](by_logp)[0]
  )
  cases = [
    # The answers share their prompt; a row an answer; the window ends the sharing.
    (RowShape(4, 2, 64), 128, True, False),
    (RowShape(8, 1, 24), 128, False, True),
    (RowShape(2, 4, 48), 24, False, False),
  ]
  for shape, window, on_policy, masked in cases:
    settings = SETTINGS._replace(
      algorithm=algorithm,
      row_shape=shape,
      sliding_window=window,
      mask_truncated=masked,
      domain_beta={"math": 0.3, "coding": 0.0 if masked else 0.1},
    )
    batch, packed = make_batch(rollout, advantages, settings)
    batch = batch._replace(
      ref_logps=answer_packing.spread(ref, packed),
      old_logps=answer_packing.spread(old, packed),
      on_policy=np.full_like(batch.on_policy, on_policy),
    )
    got, auxes, gradient = summed(model, kind, batch, settings)

    counted = rollout.stopped | (not masked)
    beta = np.repeat([0.3, settings.domain_beta["coding"]], 4)
    fixed = (rollout.lengths, counted, advantages, beta)
    want = textbook(np, logps, logps if on_policy else old, ref, *fixed, **options)
    assert got == pytest.approx(want, abs=1e-5)

    def formula(now, on_policy=on_policy, fixed=fixed):
      return textbook(
        jnp,
        now,
        jax.lax.stop_gradient(now) if on_policy else jnp.asarray(old),
        ref,
        *fixed,
        **options,
      )

    # Eager: compiling the unrolled formula takes longer.
    by_logp = jax.grad(formula)(jnp.asarray(logps, jnp.float32))
    wanted = jax.tree.leaves(through_model(params, by_logp))
    for a, b in zip(jax.tree.leaves(gradient), wanted, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient)) > 1e-3
    if on_policy:
      assert all(
        float(aux["ratio_max"]) == 1.0 and aux["clip_low"] == aux["clip_high"] == 0 for aux in auxes
      )
    else:
      assert sum(float(aux["clip_low"] + aux["clip_high"]) for aux in auxes) > 0, (
        "nothing was clipped: the case shows too little"
      )
    real = (np.arange(12) < rollout.lengths[:, None]) & counted[:, None]
    np.testing.assert_allclose(answers_of(auxes, packed)[real], logps[real], atol=2e-5)


@pytest.mark.parametrize(
  "algorithm,aggregation", [("grpo", "sequence-mean-token-mean"), ("dapo", "token-mean")]
)
def test_loss_and_gradient_equal_tunix(small, algorithm, aggregation):
  """Tunix's own grpo_loss_fn with the k3 estimator, where it computes the same thing."""
  model, rollout, rng = small[True], make_rollout(), np.random.default_rng(4)
  settings = SETTINGS._replace(algorithm=algorithm, beta=0.1, epsilon_high=0.2)
  advantages = rng.normal(size=8)
  mask = np.arange(12) < rollout.lengths[:, None]
  old, ref = (rng.normal(-6, 0.3, mask.shape).astype(np.float32) for _ in range(2))
  batch, packed = make_batch(rollout, advantages, settings)
  batch = batch._replace(
    ref_logps=answer_packing.spread(ref, packed),
    old_logps=answer_packing.spread(old, packed),
    on_policy=np.zeros_like(batch.on_policy),
  )
  got, _, gradient = summed(model, nnx.LoRAParam, batch, settings)
  config = tunix_learner.GRPOConfig(
    num_generations=4, beta=0.1, epsilon=0.2, kl_loss_mode="low_var_kl", loss_agg_mode=aggregation
  )
  config.temperature, config.epsilon_high, config.kl_clamp_value = 0.7, 0.2, None
  prompts = np.repeat(rollout.prompts, 4, 0)
  example = common.TrainExample(
    prompt_ids=prompts,
    prompt_mask=prompts != 0,
    completion_ids=rollout.completions,
    completion_mask=mask.astype(np.float32),
    advantages=advantages.astype(np.float32),
    ref_per_token_logps=ref,
    old_per_token_logps=old,
  )
  graph, params, rest = nnx.split(model, nnx.LoRAParam, ...)
  want, theirs = jax.value_and_grad(
    lambda p: algo_core.grpo_loss_fn(
      nnx.merge(graph, p, rest), example, config, tokenization.PAD_ID, tokenization.EOS_ID
    )[0]
  )(params)
  assert got == pytest.approx(float(want), abs=1e-5)
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_sampled_log_probs_are_the_loss_log_probs(small):
  """Rollout and loss see one distribution: at T = 0.5 the empirical mean of −log p of sampled
  tokens is the loss's entropy.
  """
  policy = Policy(small[False], None, devices.make_mesh("1x1"), "", "", 0, 0.0)
  keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), (1, 512))))
  prompt = [[2, 130, 140]]
  out = sampling.sample(
    policy, prompt, width=4, generations=512, max_new_tokens=4, temperature=0.5, keys=keys
  )
  logps, entropy = logprobs.token_logps(
    policy.model, tokenization.pad_left(prompt, 4), out, temperature=0.5
  )
  seen = np.arange(4) < sampling.completion_lengths(out)[0][:, None]
  gap = (np.asarray(entropy) + np.asarray(logps))[seen]
  assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))


# ---- advantages, weights, rewards
def test_importance_weights_correct_a_sampler_that_rounds_otherwise(small):
  """Nothing where the two agree; else each token's surrogate, not its KL, times the cut ratio."""
  rollout = make_rollout()
  advantages = np.linspace(-1, 1, 8)
  batch, packed = make_batch(rollout, advantages, SETTINGS)
  rng = np.random.default_rng(0)
  old = rng.normal(-4, 1, rollout.completions.shape).astype(np.float32)
  batch = batch._replace(
    old_logps=answer_packing.spread(old, packed),
    sampler_logps=answer_packing.spread(old, packed),
    on_policy=np.zeros_like(batch.on_policy),
  )
  assert np.all(policy_gradient.importance_weights(old, old, 2.0) == 1.0)
  corrected = SETTINGS._replace(importance_cap=2.0)
  plain, _, _ = summed(small[True], nnx.LoRAParam, batch, SETTINGS)
  same, _, _ = summed(small[True], nnx.LoRAParam, batch, corrected)
  assert same == pytest.approx(plain, rel=1e-6)

  # Half of the tokens were drawn as half as likely, half as four times less likely: 2 at the most.
  gap = np.where(rng.random(old.shape) < 0.5, np.log(0.5), np.log(4.0))
  apart = batch._replace(sampler_logps=answer_packing.spread(old - gap, packed))
  found, _, _ = summed(small[True], nnx.LoRAParam, apart, corrected)
  # Without a KL the loss is linear in the weights, so they may stand there as well.
  by_hand = batch.weights * answer_packing.spread(np.minimum(np.exp(gap), 2.0), packed)
  without = SETTINGS._replace(reference=False)
  wanted, _, _ = summed(small[True], nnx.LoRAParam, batch._replace(weights=by_hand), without)
  kl = plain - summed(small[True], nnx.LoRAParam, batch, without)[0]
  assert found == pytest.approx(wanted + kl, rel=1e-5) and found != pytest.approx(plain, rel=1e-2)


def test_group_advantages():
  reward = np.array([1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 2.0])
  std = np.std([1, 0, 0, 1], ddof=1)
  for algorithm in ("grpo", "dapo", "gspo"):
    got = policy_gradient.group_advantages(reward, 4, algorithm)
    np.testing.assert_allclose(got[:4], np.array([0.5, -0.5, -0.5, 0.5]) / (std + 1e-4))
    assert not got[4:].any()
  np.testing.assert_allclose(
    policy_gradient.group_advantages(reward, 4, "dr_grpo"), [0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0]
  )


def test_token_weights():
  lengths, counted = np.array([1, 3, 4]), np.array([True, True, False])
  table = {
    "grpo": ([1 / 2, 0, 0, 0], [1 / 6] * 3 + [0]),
    "gspo": ([1 / 2, 0, 0, 0], [1 / 6] * 3 + [0]),
    "dapo": ([1 / 4, 0, 0, 0], [1 / 4] * 3 + [0]),
    "dr_grpo": ([1 / 20, 0, 0, 0], [1 / 20] * 3 + [0]),
  }
  for algorithm, (first, second) in table.items():
    np.testing.assert_allclose(
      policy_gradient.token_weights(lengths, counted, 4, algorithm, 10), [first, second, [0] * 4]
    )
    assert not policy_gradient.token_weights(lengths, ~counted & False, 4, algorithm, 10).any()


def test_overlong_penalty_counts_tokens():
  """DAPO eq. 13 at a limit of 12 with a buffer of 4: nothing to 8 tokens, then linear to −1."""
  rollout = make_rollout()._replace(lengths=np.array([1, 8, 9, 10, 11, 12, 12, 3]))
  scores = rollouts.score_rollout([zero], rollout, SETTINGS._replace(overlong_buffer=4))
  np.testing.assert_allclose(scores.components["overlong"], [0, 0, -0.25, -0.5, -0.75, -1, -1, 0])
  np.testing.assert_allclose(scores.rewards, scores.components["overlong"])


def zero(prompts, completions, **columns):
  return [0.0] * len(completions)


def test_reward_function_that_fails_pays_nothing(capsys):
  def raises(prompts, completions, **columns):
    raise KeyError("no such column")

  def short(prompts, completions, **columns):
    return [1.0]

  def infinite(prompts, completions, **columns):
    return [float("inf")] * len(completions)

  def columns_seen(prompts, completions, **columns):
    assert {name: len(column) for name, column in columns.items()} == dict.fromkeys(
      ("domain", "question", "answer", "metadata"), len(completions)
    )
    assert (
      json.loads(columns["metadata"][0]) == {}
      and columns["domain"] == ["math"] * 4 + ["coding"] * 4
    )
    return [0.5] * len(completions)

  scores = rollouts.score_rollout([raises, columns_seen, short, infinite], make_rollout(), SETTINGS)
  assert scores.failed == 3 and list(scores.rewards) == [0.5] * 8
  said = capsys.readouterr().out.strip().split("\n")
  assert (
    len(said) == 3
    and said[0] == "reward raises failed on this batch (KeyError: 'no such column'); it pays 0 here"
  )


def test_right_answers_are_counted_by_format_and_domain():
  rollout = make_rollout()
  right = contract.format_response("2 + 2 = 4", "4")
  rollout = rollout._replace(
    texts=[
      right,
      "4",
      contract.format_response("so", "5"),
      right + "x",
      *["<answer>4</answer>"] * 4,
    ]
  )
  scores = rollouts.score_rollout([zero], rollout, SETTINGS)
  assert (
    list(scores.correct) == [True] + [False] * 7
    and list(scores.formatted) == [True, False, True] + [False] * 5
  )
  metrics = training_log.rollout_metrics(rollout, scores, SETTINGS)
  assert (
    metrics["accuracy"] == 1 / 8
    and metrics["domains/math/accuracy"] == 1 / 4
    and metrics["format"] == 1 / 4
  )
  assert metrics["flat"] == 1 and metrics["flat_wrong"] == 1 and metrics["flat_right"] == 0


def test_no_code_runs_where_code_rewards_is_off(monkeypatch):
  monkeypatch.setattr(code_checking, "code_box", lambda: pytest.fail("the sandbox was started"))
  settings, rollout = SETTINGS._replace(code_rewards="off"), make_rollout()
  rollout.rows[1]["metadata"]["test_cases"] = ["assert f(1) == 1"]
  rollout = rollout._replace(texts=[contract.format_response("2 + 2 = 4", "4")] * 8)
  failures.failed_rows(reset=True)
  failures.failed(ValueError("unreadable"))
  metrics = training_log.rollout_metrics(
    rollout, rollouts.score_rollout([zero], rollout, settings), settings
  )
  assert (
    metrics["accuracy"] == metrics["domains/math/accuracy"] == 1.0
    and "domains/coding/accuracy" not in metrics
  )
  assert training_log.check_failures()["failed/ValueError"] == 1 and not failures.failed_rows()


# ---- streams and sampling
def test_noise_is_a_function_of_draw_prompt_and_generation(data_dir):
  """Each of the three alone changes an answer; how many prompts are sampled at once does not."""
  policy = loading.load_policy("tiny", data_dir=data_dir)
  cluster = types.SimpleNamespace(
    rollout=rollouts.LeanRollout(policy.model, policy.tokenizer, policy.mesh, None, policy),
    get_rollout_config=lambda mode: types.SimpleNamespace(
      max_tokens_to_generate=8, temperature=1.0
    ),
  )
  rows = [{"prompt": contract.format_prompt("2+2=?"), "metadata": {}}] * 2
  settings = SETTINGS._replace(prompt_widths=(64,), max_new_tokens=8, temperature=1.0)

  def draw(index: int, **change) -> np.ndarray:
    changed = settings._replace(**change)
    return rollouts.sample_rollout(cluster, policy.tokenizer, rows, index, changed).completions

  def ids(completions: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in completions}

  first = draw(1)
  assert np.array_equal(draw(1), first) and np.array_equal(draw(1, rollout_batch_size=1), first)
  assert len(ids(first)) == 8, "two equal prompts of four answers"
  for other in (draw(2), draw(1, seed=1)):
    assert len(ids(other)) == 8 and not ids(other) & ids(first)


def test_optimizer_is_the_one_that_is_said(monkeypatch, data_dir, tmp_path):
  """AdamW with b1 0.9, b2 0.99, decay 0.1, clip 0.1, 10% warm-up and a cosine to 0, against optax's
  own parts.
  """
  made, build = [], optimization.make_optimizer
  monkeypatch.setattr(
    optimization, "make_optimizer", lambda **options: made.append(build(**options)) or made[0]
  )
  monkeypatch.setattr(
    optimization,
    "make_schedule",
    lambda *args, inner=optimization.make_schedule, **options: (
      made.append(inner(*args, **options)) or made[1]
    ),
  )
  monkeypatch.setattr(grpo_start, "compile_programs", lambda learner: None)
  monkeypatch.setattr(train_grpo, "train", lambda *args, **options: None)
  run(
    train_grpo,
    data_dir=data_dir,
    out_dir=tmp_path,
    model="tiny",
    lora_rank=0,
    learning_rate=0.1,
    max_steps=20,
    beta=0,
    max_prompt_tokens=128,
    max_new_tokens=16,
    force=True,
  )
  ours, schedule = made
  theirs = optax.chain(
    optax.clip_by_global_norm(0.1), optax.adamw(schedule, b1=0.9, b2=0.99, weight_decay=0.1)
  )
  rng, params = np.random.default_rng(0), jnp.linspace(-1, 1, 5)
  states = ours.init(params), theirs.init(params)
  for step in range(6):
    gradient = jnp.asarray(rng.normal(size=5))
    a, state = ours.update(gradient, states[0], params, learning_rate=schedule(step))
    b, other = theirs.update(gradient, states[1], params)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    states, params = (state, other), params + a
  rates = [float(schedule(n)) for n in range(20)]
  assert (
    max(rates) == pytest.approx(0.1) == rates[1]
    and rates[19] < 0.002
    and rates[0] == pytest.approx(0.05)
  )


@pytest.mark.parametrize(
  "algorithm,flags,expected",
  [
    ("grpo", {}, (0.04, 0.2, 0.2)),
    ("dr_grpo", {}, (0.0, 0.2, 0.2)),
    ("dapo", {}, (0.0, 0.2, 0.28)),
    ("gspo", {}, (0.0, 3e-4, 4e-4)),
    ("dapo", dict(beta=0.1, epsilon=0.1), (0.1, 0.1, 0.28)),
    ("gspo", dict(epsilon=0.01), (0.0, 0.01, 0.01)),
    ("grpo", dict(beta=0.0, epsilon_high=0.3), (0.0, 0.2, 0.3)),
  ],
)
def test_defaults_are_the_published_ones(algorithm, flags, expected):
  for name in train_grpo.FLAGS:
    train_grpo.FLAGS[name].unparse()
  train_grpo.FLAGS(["train_grpo.py", f"--algorithm={algorithm}", *argv_of(flags)])
  settings = grpo_settings.read_settings(
    train_grpo.FLAGS, (8,), "tags", RowShape(1, 1, 512), sliding_window=512
  )
  assert (
    settings.beta,
    settings.epsilon,
    settings.epsilon_high,
  ) == expected and settings.reference is (expected[0] > 0)


def rows_of(**counts) -> list[dict]:
  return [
    {"id": f"{domain}{i}", "domain": domain} for domain, n in counts.items() for i in range(n)
  ]


def test_stream_is_a_function_of_progress():
  rows = rows_of(math=3, logic=2)
  stream, progress = streams.make_stream(rows, SETTINGS), preflight.new_progress()
  drawn = [row["id"] for _ in range(5) for row in stream(progress)]
  assert drawn == [row["id"] for row in rows] * 2 and progress["draws"] == 5
  again = preflight.new_progress() | {"draws": 3}
  assert [row["id"] for row in streams.make_stream(rows, SETTINGS)(again)] == drawn[6:8]


def test_annealed_domains_follow_the_pass_rate():
  """A domain is drawn ∝ share × max(0.1, 1 − pass rate), its rows in order; the stream goes on from
  saved progress. One that has no pass rate counts as the mean, here 0.75."""
  rows, settings = (
    rows_of(math=50, logic=50, coding=100),
    SETTINGS._replace(anneal_domains=True, batch_size=8),
  )
  progress = preflight.new_progress() | {"pass_rate": {"math": 1.0, "logic": 0.5}}
  stream = streams.make_stream(rows, settings)
  batches = [stream(progress) for _ in range(300)]
  counts = {
    d: sum(row["domain"] == d for batch in batches for row in batch) / 2400
    for d in ("math", "logic", "coding")
  }
  assert all(len(batch) == 8 for batch in batches)
  for domain, weight in (("math", 50 * 0.1), ("logic", 50 * 0.5), ("coding", 100 * 0.25)):
    assert counts[domain] == pytest.approx(weight / 55, abs=0.03)
  order = [row["id"] for batch in batches for row in batch if row["domain"] == "logic"]
  assert order[:60] == [f"logic{i % 50}" for i in range(60)]
  saved = json.loads(json.dumps(progress))
  assert stream(progress) == streams.make_stream(rows, settings)(saved)


def fake_learner(spreads: list[list[bool]], dynamic_sampling: int):
  """A learner whose nth rollout has groups with (True) and without spread, on prompts of different
  width.
  """
  calls = []

  def rollout(rows, draw, meanwhile=None):
    useful = spreads[len(calls)]
    calls.append(draw)
    made = make_rollout(seed=draw)
    made = made._replace(
      rows=[row | {"id": f"{draw}.{i}"} for i, row in enumerate(made.rows)],
      prompts=np.pad(made.prompts, ((0, 0), (8 * (draw % 2), 0))),
    )
    values = np.concatenate([[0, 1, 0, 1] if ok else [1] * 4 for ok in useful]).astype(float)
    scores = Scores(values, {"r": values}, values > 2, values > 2, 0)
    return made, scores, {"rollout_seconds": 1.0, "reward_seconds": 0.5}

  return types.SimpleNamespace(
    settings=SETTINGS._replace(dynamic_sampling=dynamic_sampling), rollout=rollout
  ), calls


@pytest.mark.parametrize(
  "limit,spreads,kept,resampled",
  [
    (0, [[False, False]], ["1.0", "1.1"], 0),
    (3, [[True, True]], ["1.0", "1.1"], 0),
    (3, [[False, True], [True, True]], ["1.1", "2.0"], 1),
    (3, [[False, False], [False, True], [False, False], [True, False]], ["2.1", "4.0"], 2),
    (1, [[False, False], [False, True]], ["1.0", "2.1"], 1),
    (2, [[False, False]] * 3, ["1.0", "1.1"], 0),
  ],
)
def test_dynamic_sampling_replaces_zero_std_groups(limit, spreads, kept, resampled):
  """Bounded further draws, always B groups of one shape, in the order drawn; flat ones only where
  no other is left. The share of flat groups and the pass rates that are kept see all that was
  drawn."""
  learner, calls = fake_learner(spreads, limit)
  rows, progress = rows_of(math=9), preflight.new_progress()
  rollout, scores, seconds = LeanGRPOLearner.informative_rollout(
    learner, streams.make_stream(rows, SETTINGS), progress
  )
  assert [row["id"] for row in rollout.rows] == kept and seconds["resampled"] == resampled
  assert calls == list(range(1, len(spreads) + 1)) and progress["draws"] == len(calls)
  assert (
    rollout.completions.shape == (8, 12)
    and len(scores.rewards) == len(rollout.texts) == 8
    and len(rollout.prompts) == 2
  )
  assert seconds["rollout_seconds"] == len(calls)
  assert seconds["flat"] == seconds["flat_wrong"] == pytest.approx(1 - np.mean(spreads)) and set(
    progress["pass_rate"]
  ) == {"math", "coding"}
  for i, row in enumerate(rollout.rows):  # each group is whole: its own prompt and answers
    source = make_rollout(seed=int(row["id"][0]))
    j = int(row["id"][2])
    assert np.array_equal(rollout.prompts[i][-8:], source.prompts[j])
    assert np.array_equal(
      rollout.completions[4 * i : 4 * i + 4], source.completions[4 * j : 4 * j + 4]
    )


# ---- phases and health
def test_curriculum_phases_follow_the_step():
  flag = types.SimpleNamespace(
    rewards="curriculum", weights=[], phase_metrics=[], judge_url="", code_rewards="on"
  )
  state = {"step": 0, "max_steps": 100, "progress": preflight.new_progress()}
  functions = train_grpo.reward_functions(flag, "tags", state)
  row = dict(domain=["math"], question=["2 + 2?"], answer=["4"], metadata=["{}"])
  right = contract.format_response("2 + 2 = 4", "4")

  def pays() -> set[str]:
    return {f.__name__ for f in functions if f(["p"], [right], **row) != [0.0]}

  phases = []
  for step in (0, 24, 25, 74, 75, 99):
    state["step"] = step
    phases.append(pays())
  assert phases[0] == phases[1] < phases[2] == phases[3] and "check_answer" in phases[2] - phases[1]
  flag.phase_metrics = ["0.9", "0.5"]
  functions = train_grpo.reward_functions(flag, "tags", state)
  assert pays() == phases[0], "by metrics, the step does not matter"
  state["progress"]["phase"] = 1
  assert pays() == phases[2]


@pytest.mark.parametrize(
  "phase,found,after",
  [(0, (0.89, 1), 0), (0, (0.9, 1), 1), (1, (1, 0.49), 1), (1, (0, 0.5), 2), (2, (0, 0), 2)],
)
def test_next_phase(phase, found, after):
  progress = {"phase": phase}
  train_grpo.next_phase(progress, {"eval_format": found[0], "eval_accuracy": found[1]}, [0.9, 0.5])
  assert progress["phase"] == after


def restore(folder) -> dict:
  with ocp.StandardCheckpointer() as loader:
    return {name: np.asarray(x) for name, x in loader.restore(os.path.abspath(folder)).items()}


@pytest.fixture(scope="module")
def flag(data_dir, sft_dir) -> dict:
  return GRPO | dict(data_dir=data_dir, init_from=sft_dir)


def not_finite(monkeypatch, *bad: int):
  """The nth batches' advantages are NaN."""
  inner, made = policy_gradient.make_batch, []

  def poisoned(*args):
    made.append(1)
    batch = inner(*args)
    return batch._replace(advantages=batch.advantages * np.nan) if len(made) in bad else batch

  monkeypatch.setattr(policy_gradient, "make_batch", poisoned)


def assert_rates(metrics: list[dict], max_steps: int):
  """A skipped update takes no step of the schedule."""
  rate = optimization.make_schedule(3e-4, max_steps, final_ratio=0.0)
  made = 0
  for row in metrics:
    assert row["learning_rate"] == pytest.approx(float(rate(made)))
    made += row["loss"] is not None


def test_three_updates_that_are_not_finite(flag, tmp_path, monkeypatch):
  """They stop the run with the step's samples saved and the last good checkpoint in place."""
  not_finite(monkeypatch, 3, 4, 5)
  result = run(
    train_grpo, **flag | dict(out_dir=tmp_path, max_steps=6, save_every=2, sample_every=100)
  )
  one_line_error(result, "step 5: three updates in a row", "lower --learning_rate", "samples.jsonl")
  metrics = jsonl.read_rows(tmp_path / "metrics.jsonl")
  assert [row["skipped"] for row in metrics] == [0, 0, 1, 2, 3]
  assert_rates(metrics, 6)
  assert {row["step"] for row in jsonl.read_rows(tmp_path / "samples.jsonl")} == {1, 5}
  assert not (tmp_path / "config.json").exists()
  assert all(np.isfinite(x).all() for x in restore(tmp_path / "checkpoints/2/params").values())


def test_a_skipped_batch_is_left(flag, tmp_path, monkeypatch):
  """With μ = 3 the second batch's first update is not finite: its other two would be no better, the
  next batch is drawn. So with the third; two in a row end nothing.
  """
  not_finite(monkeypatch, 2, 3)
  run_well(train_grpo, **flag | dict(out_dir=tmp_path, max_steps=8, num_iterations=3))
  metrics = jsonl.read_rows(tmp_path / "metrics.jsonl")
  assert [row["iteration"] for row in metrics] == [0, 1, 2, 0, 0, 0, 1, 2]
  assert [row["skipped"] for row in metrics] == [0, 0, 0, 1, 2, 0, 0, 0]
  assert [row["draws"] for row in metrics] == [1, 1, 1, 2, 3, 4, 4, 4]
  assert [row["loss"] is None for row in metrics] == [n in (3, 4) for n in range(8)]
  assert "NaN" not in (tmp_path / "metrics.jsonl").read_text(), "not JSON"
  assert_rates(metrics, 8)
  assert all(np.isfinite(x).all() for x in restore(tmp_path / "params").values())


def test_reward_function_that_raises_in_a_run(flag, tmp_path, monkeypatch):
  """Three batches in a row end the run, of two updates each here; two do not."""
  bad, calls = (1, 2, 4, 5, 6), []

  def fragile(prompts, completions, **columns):
    calls.append(1)
    if len(calls) - preflight in bad:
      raise ZeroDivisionError("mine")
    return [float(len(text) % 3) for text in completions]

  preflight = 7  # batches of two prompts over the seven domains of the data, two rows of each
  monkeypatch.setattr(rewards, "make_rewards", lambda *args, **options: [fragile])
  result = run(train_grpo, **flag | dict(out_dir=tmp_path, max_steps=14, num_iterations=2))
  one_line_error(result, "step 11: a reward function failed on three batches in a row")
  assert result.out.count("reward fragile failed on this batch (ZeroDivisionError: mine)") == 5
  metrics = jsonl.read_rows(tmp_path / "metrics.jsonl")
  assert [row["reward_failed"] for row in metrics] == [1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1]


# ---- whole runs
@pytest.fixture(scope="module")
def four_iterations(flag, tmp_path_factory):
  """(flags, folder, what it printed) of a run with much switched on."""
  folder = tmp_path_factory.mktemp("grpo") / "run"
  flag = flag | dict(
    num_iterations=4,
    temperature=0.5,
    max_steps=6,
    micro_batch_size=1,
    eval_every=3,
    eval_rows=6,
    sample_every=1,
    learning_rate=3e-3,
    domain_beta="math=0.5,logic=0",
  )
  return flag, folder, run_well(train_grpo, **flag, out_dir=folder)


def test_iterations_ratio_and_exact_end(four_iterations):
  """μ = 4 does not divide 6 steps: it ends at 6. At T = 0.5 the first iteration's ratio is 1 and
  its clip fraction 0, exactly; later iterations move. Micro-batches, evaluation, best, samples and
  curves ride along; a finished run trains nothing.
  """
  flag, folder, out = four_iterations
  metrics = jsonl.read_rows(folder / "metrics.jsonl")
  assert [(row["step"], row["iteration"]) for row in metrics] == [
    (1, 0),
    (2, 1),
    (3, 2),
    (4, 3),
    (5, 0),
    (6, 1),
  ]
  for row in metrics:
    if row["iteration"] == 0:
      assert row["ratio_max"] == 1.0 and row["clip_low"] == row["clip_high"] == 0.0
  assert metrics[0]["kl"] == 0.0 and metrics[3]["ratio_max"] != 1.0
  for name in (
    "reward",
    "format",
    "kl",
    "entropy",
    "completion_tokens",
    "truncated",
    "flat_right",
    "flat_wrong",
    "grad_norm",
    "learning_rate",
    "rollout_seconds",
    "reward_seconds",
    "update_seconds",
    "tokens_per_second",
    "rewards/format",
  ):
    assert all(name in row for row in metrics), name
  assert [("eval_accuracy" in row) for row in metrics] == [False, False, True, False, False, True]
  samples = jsonl.read_rows(folder / "samples.jsonl")
  assert {row["step"] for row in samples} == {1, 5}
  for row in samples:
    assert len(row["generations"]) == 4
    for answer in row["generations"]:
      assert answer["reward"] == pytest.approx(sum(answer["rewards"].values()))
  config = json.loads((folder / "config.json").read_text())
  best = max(
    [row["eval_accuracy"], row["eval_reward"]] for row in metrics if "eval_accuracy" in row
  )
  assert config["steps"] == 6 and config["best"] == best
  assert all(
    (folder / name).exists() for name in ("best", "params", "curves.png", "tokenizer.model")
  )
  events = list((folder / "tensorboard").iterdir())
  assert (
    len(events) == 1 and b"grpo/reward" in events[0].read_bytes() and "wandb" not in sys.modules
  )
  assert (
    "grpo 1/6 | reward" in out
    and "grpo 6/6 | eta 0.00 h" in out
    and "2 a batch × 4 answers = 8" in out
  )
  assert "packed rows, 4 × " in out
  before = (folder / "metrics.jsonl").read_bytes()
  assert "complete, nothing to train" in run_well(train_grpo, **flag, out_dir=folder)
  assert (folder / "metrics.jsonl").read_bytes() == before


def test_logged_learning_rate_is_the_one_used(flag, sft_dir, tmp_path):
  """Adam's first update moves each parameter by the rate; the run starts at the SFT parameters."""
  run_well(
    train_grpo,
    **flag
    | dict(
      out_dir=tmp_path,
      max_steps=1,
      weight_decay=0,
      learning_rate=1e-4,
      max_grad_norm=1e9,
      batch_size=8,
    ),
  )  # eight prompts: some group's answers differ
  logged, base, tuned = (
    jsonl.read_rows(tmp_path / "metrics.jsonl")[0],
    restore(f"{sft_dir}/params"),
    restore(tmp_path / "params"),
  )
  moved = np.concatenate([np.abs(tuned[name] - base[name]).ravel() for name in base])
  moved = moved[moved > 1e-6]
  assert len(moved) > 1000 and np.median(moved) == pytest.approx(logged["learning_rate"], rel=2e-3)
  assert logged["learning_rate"] == pytest.approx(1e-4, rel=1e-4)


def test_beta_zero_loads_no_reference(flag, tmp_path, monkeypatch):
  made = []

  def see(policy, reference, *rest):
    made.append(reference)
    raise InputError("seen")

  monkeypatch.setattr(grpo_learner, "build_learner", see)
  for name, more in (("none", {}), ("one", dict(domain_beta="math=0.1"))):
    result = run(train_grpo, **flag | dict(out_dir=tmp_path / name, max_steps=1, beta=0) | more)
    one_line_error(result, "seen")
  assert made[0] is None and made[1] is not None


def test_the_reference_of_all_parameters_is_in_the_models_own_dtype(data_dir):
  """What an accelerator holds: bfloat16 weights of the frozen reference beside float32 masters,
  also where SFT left float32.
  """
  start = loading.load_policy(
    "tiny", data_dir=str(data_dir)
  )  # float32, as full-parameter SFT leaves every model
  start.model.config = dataclasses.replace(start.model.config, param_dtype=jnp.bfloat16)
  policy, reference = grpo_start.starting_policy(start, 0, 0.0, 0, with_reference=True)

  def dtypes(model) -> set[str]:
    return {x.dtype.name for x in parameters.flat_params(model).values()}

  assert (dtypes(policy.model), dtypes(reference)) == ({"float32"}, {"bfloat16"})


def test_lora_goes_on_as_lora_and_the_reference_is_the_start(data_dir, sft_lora_dir, tmp_path):
  flag = GRPO | LORA | dict(rewards="four_component", algorithm="dr_grpo", beta=0.04)
  flag |= dict(data_dir=data_dir, init_from=sft_lora_dir, max_steps=2, out_dir=tmp_path / "grpo")
  assert "starts from" in run_well(train_grpo, **flag)
  start, end = restore(f"{sft_lora_dir}/params"), restore(tmp_path / "grpo" / "params")
  assert start.keys() == end.keys() and all("_lora_" in name for name in start)
  assert jsonl.read_rows(tmp_path / "grpo" / "metrics.jsonl")[0]["kl"] == 0.0
  assert 0 < max(np.abs(end[name] - start[name]).max() for name in start) < 1e-3
  one_line_error(
    run(train_grpo, **flag | dict(lora_rank=4, out_dir=tmp_path / "x")),
    "pass --lora_rank=8 --lora_alpha=16",
  )
  merged = flag | dict(lora_rank=0, out_dir=tmp_path / "full", max_steps=1)
  run_well(train_grpo, **merged)
  assert jsonl.read_rows(tmp_path / "full" / "metrics.jsonl")[0]["kl"] == 0.0
  assert not any("_lora_" in name for name in restore(tmp_path / "full" / "params"))


# ---- preflight
def test_preflight(flag, tmp_path):
  """A model that has never seen the tags: refused with the cause and the flag to change; --force
  goes on; nothing half-done.
  """
  raw = flag | dict(init_from="", force=False, max_steps=1)
  result = run(train_grpo, **raw | dict(out_dir=tmp_path / "a"))
  one_line_error(
    result, "preflight refuses to train: all", "equal rewards", "--init_from", "--force"
  )
  assert "are cut by --max_new_tokens=24: raise it" in result.out and "preflight math" in result.out
  assert "1 steps" in run_well(train_grpo, **raw | dict(out_dir=tmp_path / "a", force=True))
  ready = flag | dict(force=False, max_steps=10**6, max_hours=0.01, out_dir=tmp_path / "b")
  result = run(train_grpo, **ready, preflight_only=True)
  one_line_error(result, "--max_hours is 0.01: use --max_steps=auto or --max_steps=")
  assert "updates an hour" in result.out and "peak" in result.out
  assert not os.path.isdir(tmp_path / "b" / "checkpoints")


def test_validation_rows_without_right_answers_have_no_accuracy(flag, data_dir, tmp_path):
  """A dash and a null, not an accuracy of zero."""
  data = shutil.copytree(data_dir, tmp_path / "data")
  rows = [
    row for row in jsonl.read_rows(data / "val.jsonl") if row["domain"] in contract.CREATIVE_DOMAINS
  ]
  jsonl.write_text(data / "val.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
  out = run_well(
    train_grpo,
    **flag | dict(data_dir=data, out_dir=tmp_path / "out", max_steps=1, eval_every=1, eval_rows=4),
  )
  assert "val acc — reward" in out
  assert jsonl.read_rows(tmp_path / "out" / "metrics.jsonl")[0]["eval_accuracy"] is None
  assert (tmp_path / "out" / "best").is_dir()


def test_preflight_sees_all_that_a_curriculum_will_pay(flag, tmp_path, monkeypatch):
  """After a good SFT its first phase pays every answer alike: no reason to refuse the run."""
  columns = dict(domain=["math"], question=["What is 12 * 7?"], answer=["84"], metadata=["{}"])
  seen = {}

  def pay(reward_fns, answer: int) -> float:
    text = f"<reasoning>I multiply 12 by 7.</reasoning>\n<answer>{answer}</answer>"
    return sum(f([""], [text], **columns)[0] for f in reward_fns)

  def see_preflight(learner, reward_fns, *_):
    seen["preflight"] = (pay(reward_fns, 84), pay(reward_fns, 12))
    return []

  def see_training(learner, *_, **__):
    seen["train"] = (pay(learner.reward_fns, 84), pay(learner.reward_fns, 12))

  monkeypatch.setattr(grpo_start, "compile_programs", lambda learner: None)
  monkeypatch.setattr(preflight, "preflight", see_preflight)
  monkeypatch.setattr(train_grpo, "train", see_training)
  for phases in ("", "0.9,0.5"):
    run(
      train_grpo,
      **flag
      | dict(
        rewards="curriculum",
        phase_metrics=phases,
        eval_every=5,
        eval_rows=4,
        force=False,
        max_steps=9,
        out_dir=tmp_path / (phases or "steps"),
      ),
    )
    (right, wrong), (first_right, first_wrong) = seen["preflight"], seen["train"]
    assert right > wrong and first_right == first_wrong, phases


def test_preflight_of_a_started_run_trains_nothing(four_iterations, tmp_path):
  flag, done, _ = four_iterations
  folder = shutil.copytree(done, tmp_path / "run")
  (folder / "config.json").unlink()
  before = (folder / "metrics.jsonl").read_bytes()
  said = run_well(train_grpo, **flag, out_dir=folder, preflight_only=True)
  assert "preflight: nothing speaks against training" in said
  assert (folder / "metrics.jsonl").read_bytes() == before


# ---- bad input
BAD = [
  (dict(batch_size=6, rollout_batch_size=4), "is not a multiple of --rollout_batch_size=4"),
  (dict(max_steps=0), "expected a positive number"),
  (dict(max_steps="x"), "expected a positive number"),
  (dict(max_steps="auto"), "or auto together with --max_hours"),
  (dict(temperature=0), "GRPO needs answers that differ"),
  (dict(domain_beta="math"), "expected name=number"),
  (dict(domain_beta="maths=1"), "names valid: math"),
  (dict(mesh="16x1"), "needs 16 devices, there are"),
  (dict(max_prompt_tokens=10), "has a prompt of"),
  (dict(data_dir="nowhere"), "nowhere does not exist"),
  (dict(init_from="nowhere"), "nowhere does not exist"),
  (dict(lora_rank=4), "trained all parameters; go on with --lora_rank=0"),
  (dict(phase_metrics="0.9,x"), "--phase_metrics"),
  (
    dict(phase_metrics="90,50", rewards="curriculum", eval_rows=4, eval_every=1),
    "two rates in 0 to 1",
  ),
  (dict(phase_metrics="0.9,0.5", rewards="curriculum", eval_rows=4), "--eval_every above 0"),
  (dict(phase_metrics="0.9", rewards="curriculum"), "--phase_metrics"),
  (dict(overlong_buffer=99), "--overlong_buffer"),
  (
    dict(rewards="dual_stream"),
    "was rendered in style tags, --rewards=dual_stream pays for style dual_stream",
  ),
  (dict(rewards="four_component", weights="format=x"), "name=number"),
  (dict(rewards="four_component", weights="format=9"), "sum"),
  (dict(rollout_engine="vllm"), "is not installed"),
  (dict(importance_cap=0.5), "is below 1"),
  (dict(importance_cap=2, rollout_engine="vllm"), "use --rollout_engine=vanilla"),
]


@pytest.mark.parametrize(
  "change,words", BAD, ids=[f"{next(iter(change))}{i}" for i, (change, _) in enumerate(BAD)]
)
def test_bad_flags(flag, tmp_path, change, words):
  one_line_error(run(train_grpo, **flag | dict(max_steps=1, out_dir=tmp_path) | change), words)


def test_rows_refused_by_id(flag, data_dir, tmp_path):
  data = shutil.copytree(data_dir, tmp_path / "data")
  rows = jsonl.read_rows(data / "train.jsonl")
  row = next(row for row in rows if row["metadata"]["use"] == "grpo")
  row["prompt"] = contract.format_prompt("word " * 3000)

  def save(rows: list[dict]):
    lines = [json.dumps(row) + "\n" for row in rows]
    jsonl.write_text(data / "train.jsonl", "".join(lines))

  save(rows)
  attempt = functools.partial(
    run, train_grpo, **flag | dict(data_dir=data, out_dir=tmp_path / "out", max_steps=1)
  )
  one_line_error(attempt(), f"row {row['id']} has a prompt of", "--max_prompt_tokens is 1024")
  save([row for row in rows if row["metadata"]["use"] == "sft"])
  one_line_error(attempt(), "has no row for GRPO")


def test_refused_then_mended_in_the_same_folder(flag, tmp_path):
  """Advice that a refusal gives can be followed: nothing was done, so nothing holds the run to its
  first flags.
  """
  one_line_error(
    run(train_grpo, **flag | dict(max_steps=1, out_dir=tmp_path, max_prompt_tokens=10)),
    "or raise it here",
  )
  run_well(train_grpo, **flag | dict(max_steps=1, out_dir=tmp_path, max_prompt_tokens=64))
  one_line_error(
    run(train_grpo, **flag | dict(max_steps=1, out_dir=tmp_path, max_prompt_tokens=80)),
    "--max_prompt_tokens was 64, is 80",
  )


def test_sft_folder_of_the_other_style(sft_dir, dual_data_dir, tmp_path):
  result = run(
    train_grpo,
    **GRPO
    | dict(
      data_dir=dual_data_dir,
      init_from=sft_dir,
      out_dir=tmp_path,
      max_steps=1,
      rewards="dual_stream",
    ),
  )
  one_line_error(result, "was trained in style tags", "is in style dual_stream", "--style=tags")


def test_rewards_of_the_other_style(dual_data_dir, tmp_path):
  result = run(train_grpo, **GRPO | dict(data_dir=dual_data_dir, out_dir=tmp_path, max_steps=1))
  one_line_error(
    result,
    "was rendered in style dual_stream, --rewards=multi_domain pays for style tags",
    "--style=tags",
  )


def test_resume_on_other_rows_or_another_start(four_iterations, tmp_path):
  """What the run reads may move, but not change: the same flags would go on to parameters that
  neither run would have had.
  """
  flag, done, _ = four_iterations
  folder = shutil.copytree(done, tmp_path / "out")
  (folder / "config.json").unlink()
  data = shutil.copytree(flag["data_dir"], tmp_path / "data")
  start = shutil.copytree(flag["init_from"], tmp_path / "sft")
  moved = flag | dict(data_dir=data, init_from=start, out_dir=folder)
  rows = (data / "train.jsonl").read_text()
  (data / "train.jsonl").write_text(rows.replace("?", "!", 1))
  one_line_error(run(train_grpo, **moved), "began with other content in --data_dir;")
  (data / "train.jsonl").write_text(rows)
  assert run(train_grpo, **moved).code == 0, "the same content in another place"
  (folder / "config.json").unlink()
  policy = loading.load_policy("tiny", str(start), str(data))
  other = {name: x + 1e-3 for name, x in parameters.flat_params(policy.model).items()}
  checkpoints.save_params(str(start / "params"), parameters.with_params(policy.model, other))
  one_line_error(run(train_grpo, **moved), "began with other content in --init_from;")


def test_sft_folder_of_another_model_or_prompt(flag, sft_dir, tmp_path):
  start = shutil.copytree(sft_dir, tmp_path / "sft")
  config = json.loads((start / "config.json").read_text())
  attempt = functools.partial(
    run, train_grpo, **flag | dict(init_from=start, out_dir=tmp_path / "out", max_steps=1)
  )
  jsonl.write_text(start / "config.json", json.dumps(config | {"model_fingerprint": "0" * 16}))
  one_line_error(attempt(), "pass the --model it was trained on")
  jsonl.write_text(start / "config.json", json.dumps(config | {"prompt_hash": "0" * 16}))
  one_line_error(attempt(), "was made with prompt 0000000000000000", "--allow_prompt_mismatch")
  (start / "config.json").unlink()
  one_line_error(attempt(), "is incomplete")


# ---- health
@pytest.mark.parametrize(
  "row,word",
  [
    ({}, ""),
    (dict(entropy=0.001), "entropy 0.0010"),
    (dict(truncated=0.97), "97% of the answers are cut"),
    (dict(kl=0.9), "kl 0.900 is 10 times its mean, 0.0500"),
    (dict(kl=0.4), ""),
    (dict(sampler_gap=0.05), "sampler and learner differ by 0.050"),
  ],
)
def test_what_looks_wrong_is_said(row, word):
  progress = preflight.new_progress() | {"kl_mean": 0.05, "kl_updates": 50}
  well = dict(entropy=0.5, truncated=0.1, kl=0.05, loss=0.1, grad_norm=0.2)
  found = health.watch(well | row, progress)
  assert word in found.get("warning", "") and bool(found.get("warning")) == bool(word)


def test_two_skipped_updates_and_one_good_over_and_over():
  """Never three in a row, so nothing stops; but it is said, and --stop_on_collapse ends it."""
  progress = preflight.new_progress()
  state = {"step": 9, "progress": progress}
  saved = []
  for step in range(9):
    loss = 0.1 if step % 3 == 2 else float("nan")
    row = dict(entropy=0.5, truncated=0.1, kl=0.05, loss=loss, grad_norm=0.2)
    row |= health.watch(row, progress)
    health.check_health(row, 0, state, lambda: saved.append(1))
  assert "6 of the last 9 updates were not finite" in row["warning"] and not saved
  with pytest.raises(InputError, match="most updates of late"):
    health.check_health(row, 0, state, lambda: saved.append(1), stop_on_collapse=True)
  assert saved == [1]


def test_a_collapse_that_lasts_stops_when_asked():
  progress = preflight.new_progress()
  row = dict(entropy=0.0, truncated=0.1, kl=0.0, loss=0.0, grad_norm=0.0)
  for _ in range(4):
    row |= health.watch(row, progress)
    health.check_health(row, 0, {"step": 1, "progress": progress}, list, stop_on_collapse=True)
  with pytest.raises(InputError, match="all answers to a prompt are the same, for 5 batches"):
    health.check_health(row, 0, {"step": 5, "progress": progress}, list, stop_on_collapse=True)


def test_one_token_cannot_decide_an_update():
  """k3 is exact to a log-ratio of 5, and a line beyond; its slope never changes its sign."""
  gaps = jnp.array([-15.0, -1.0, 0.0, 0.3, 4.9])
  np.testing.assert_allclose(policy_gradient.bounded_k3(gaps), jnp.exp(gaps) - gaps - 1, rtol=1e-6)
  slopes = jax.vmap(jax.grad(policy_gradient.bounded_k3))(jnp.array([-50.0, 6.0, 12.0, 80.0]))
  np.testing.assert_allclose(slopes, [-1.0] + [np.exp(5) - 1] * 3, rtol=1e-5)


@pytest.mark.parametrize(
  "by,idle", [("reward", [False, True, False]), ("accuracy", [True, False, False])]
)
def test_groups_that_teach_nothing(by, idle):
  """All right but paid by length; half right but paid alike; half right and paid so. Where nothing
  can be checked, rewards decide."""
  rewards_paid = np.array([1.0, 0.8, 0.5, 0.5, 1.0, 0.0])
  right = np.array([True, True, True, False, True, False])
  scores = Scores(rewards_paid, {}, right, right, 0)
  settings = SETTINGS._replace(num_generations=2, replace_by=by)
  rollout = types.SimpleNamespace(rows=rows_of(math=3))
  assert list(grpo_learner.idle_groups(rollout, scores, settings)) == idle
  rollout = types.SimpleNamespace(rows=rows_of(ethics=3))
  by_reward = [False, True, False]
  assert list(grpo_learner.idle_groups(rollout, scores, settings)) == by_reward


# ---- packed rows
@pytest.mark.parametrize(
  "window,width,pieces",
  [
    (128, 64, [[0, 1, 2, 3], [4, 5, 6, 7]]),  # all answers behind one copy of their prompt
    (24, 64, [[0, 1], [2, 3], [4, 5], [6, 7]]),  # 4 + 2 × 10 tokens fill the window
    (128, 14, [[0], [1], [2], [3], [4], [5], [6], [7]]),  # a row holds one answer
  ],
)
def test_answers_share_their_prompt_where_it_is_exact(window, width, pieces):
  found = answer_packing.choose_pieces(
    np.array([4, 4]), np.full(8, 10), np.ones(8, bool), min(window, width)
  )
  assert [piece.answers for piece in found] == pieces
  assert [piece.tokens for piece in found] == [4 + 10 * len(answers) for answers in pieces]


def test_rows_hold_every_counted_token_once():
  rollout = make_rollout(rows=4, length=12, seed=2)
  counted = np.arange(16) % 5 != 0
  ids = [row[row != tokenization.PAD_ID] for row in rollout.prompts]
  shape = RowShape(turns=16, rows=1, width=32)
  packed = answer_packing.pack_answers(
    ids, rollout.completions, rollout.lengths, counted, shape, window=24
  )
  rows = answer_packing.Rows(*(x[:, 0] for x in packed.rows))  # (16, 32)
  assert list(packed.place[:, 0] >= 0) == list(counted)
  for i in np.flatnonzero(counted):
    row, begin = packed.place[i]
    end = begin + rollout.lengths[i]
    prompt = ids[i // 4]
    assert np.array_equal(rows.tokens[row, begin:end], rollout.completions[i, : end - begin])
    assert np.array_equal(rows.positions[row, begin:end], len(prompt) + np.arange(end - begin))
    assert set(rows.answer[row, begin:end]) == {begin}
    before = rows.previous[row, begin]  # the prompt's last token
    assert np.array_equal(rows.tokens[row, before + 1 - len(prompt) : before + 1], prompt)
    assert list(rows.previous[row, begin + 1 : end]) == list(range(begin, end - 1))
  assert (rows.answer >= 0).sum() == rollout.lengths[counted].sum()
  values = np.random.default_rng(0).normal(size=(16, 12)).astype(np.float32)
  back = answer_packing.gather(answer_packing.spread(values, packed), packed)
  real = (np.arange(12) < rollout.lengths[:, None]) & counted[:, None]
  assert np.array_equal(back, np.where(real, values, 0))
  used = answer_packing.turns_of(packed.rows)
  assert not packed.rows.positions[used:].any() and 1 / 2 < answer_packing.fill(packed.rows) <= 1


@pytest.mark.parametrize(
  "prompt,new,generations,prompts,at_once,fsdp,shape",
  [
    (656, 512, 4, 8, 8, 1, (32, 1, 1168)),  # as wide as the longest answer needs
    (110, 64, 4, 8, 8, 1, (16, 2, 368)),  # as wide as a whole group
    (100, 64, 8, 8, 8, 1, (32, 2, 512)),
    (100, 64, 8, 8, 8, 8, (4, 16, 512)),
    (100, 64, 4, 8, 2, 8, (4, 8, 368)),  # a small micro-batch
    (649, 512, 4, 8, 8, 1, (32, 1, 1168)),  # whole sixteens
  ],
)
def test_row_shape(prompt, new, generations, prompts, at_once, fsdp, shape):
  found = answer_packing.row_shape(prompt, new, generations, prompts, at_once, fsdp)
  assert found == shape


def test_a_run_compiles_at_most_six_programs_before_its_first_step(flag, tmp_path, monkeypatch):
  """16 answers that leave as they end, two prompt widths, two updates a batch, validation at each
  step; the same after a resume. Empty rows leave parameters and optimizer as they were."""
  counted, inner = [], LeanGRPOLearner.compile_programs

  def two_widths(lengths, limit):
    return int(np.median(lengths)), max(lengths)

  def arrays(learner):
    trainer = learner.trainer
    optimizer = parameters.flat_params(trainer.optimizer, nnx.optimizer.OptState)
    return jax.tree.map(np.array, [parameters.flat_params(trainer.model), optimizer])

  def watched(learner):
    before = arrays(learner)
    inner(learner)
    for a, b in zip(*map(jax.tree.leaves, (before, arrays(learner))), strict=True):
      assert np.array_equal(a, b)
    counted.append(dict(compiled.counts))

  # The test's prompts are so short that all would fit the one width of 32.
  monkeypatch.setattr(tokenization, "choose_widths", two_widths)
  monkeypatch.setattr(LeanGRPOLearner, "compile_programs", watched)
  compiled = programs.Programs()
  flags = flag | dict(out_dir=tmp_path, batch_size=4, max_steps=4, num_iterations=2, save_every=2)
  flags |= dict(eval_every=1, eval_rows=8)
  for session in ("new", "resumed"):
    jax.clear_caches()
    compiled.counts.clear()
    out = run_well(train_grpo, **flags)
    assert compiled.counts == counted[-1], f"{session}: compiled in mid-run"
    assert compiled.counts == {"update": 1, "reference": 1, "prefill": 2, "decode": 2}
    assert "grpo: compiling sampling, reference and update" in out
    assert "6 programs: update 1, reference 1, prefill 2, decode 2" in out
    (tmp_path / "config.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints/4")
  assert [row["step"] for row in jsonl.read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
