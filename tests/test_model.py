"""Log-probs, sampling, LoRA and saving against plain arithmetic and against Tunix's own code."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import REPO, one_line_error, process
from flax import nnx
from small_models import small_config
from tunix.generate import sampler as tunix_sampler
from tunix.sft import utils as sft_utils

from lib import (
  checkpoints,
  devices,
  forward_pass,
  gemma,
  loading,
  logprobs,
  optimization,
  parameters,
  sampling,
  sliding_window,
  tokenization,
)
from lib.errors import InputError
from lib.loading import Policy

PROMPTS = [[2, 130, 140, 150, 160], [2, 200, 210], [2, 300, 310, 320, 330, 340, 350]]
WIDTH = 8


@pytest.fixture(scope="module")
def policy(data_dir) -> Policy:
  """The tiny model with LoRA that does something (B is drawn too)."""
  base = loading.load_policy("tiny", data_dir=data_dir)
  return base._replace(model=random_lora(base.model, base.mesh), lora_rank=4, lora_alpha=8.0)


def random_lora(base, mesh):
  model = parameters.apply_lora(base, mesh, 4, 8.0)
  rng = np.random.default_rng(0)
  drawn = {
    name: jnp.asarray(rng.normal(0, 0.05, x.shape), jnp.float32)
    for name, x in parameters.flat_params(model, nnx.LoRAParam).items()
  }
  return parameters.with_params(model, drawn)


def draw_completions(rows: int, length: int, seed: int = 0) -> np.ndarray:
  """Random ids; some rows hold the padding id (a policy can draw it) and some end early."""
  rng = np.random.default_rng(seed)
  out = rng.integers(110, 500, (rows, length)).astype(np.int32)
  out[0, 2] = tokenization.PAD_ID
  out[1, length // 2] = tokenization.END_OF_TURN_ID
  out[1, length // 2 + 1 :] = tokenization.PAD_ID
  return out


def plain_logps(model, prompts, completions, temperature: float):
  """log_softmax over the whole vocabulary at every position, prompt included: slow, obvious."""
  tokens = jnp.concatenate([prompts, completions], 1)
  real = jnp.concatenate([prompts != 0, jnp.ones(completions.shape, bool)], 1)
  logits, _ = model(
    tokens, sft_utils.build_positions_from_mask(real), None, sft_utils.make_causal_attn_mask(real)
  )
  logits = logits[:, prompts.shape[1] - 1 : -1].astype(jnp.float32) / temperature
  logps = jax.nn.log_softmax(logits, -1)
  entropy = -(jnp.exp(logps) * logps).sum(-1)
  return jnp.take_along_axis(logps, completions[..., None], -1)[..., 0], entropy


# ---- log-probs
@pytest.mark.parametrize(
  "generations,length,chunk,remat",
  [
    (1, 9, 256, False),
    (3, 9, 81, True),
    (3, 9, 7, False),
    (2, 260, 256, True),
    (4, 130, 96, False),
  ],
)
def test_token_logps_equal_plain_log_softmax(
  policy, monkeypatch, generations, length, chunk, remat
):
  """Value and gradient: the answers of a prompt behind one copy of it, one by one (2 × 260 tokens
  do not fit beside the prompt in the window of 512) and three and one (4 × 130); chunk sizes that
  divide the positions, do not, and hold all of them."""
  monkeypatch.setattr(logprobs, "HEAD_CHUNK", chunk)
  model = parameters.with_params(policy.model, {})
  prompts = tokenization.pad_left(PROMPTS, WIDTH)
  completions = draw_completions(len(PROMPTS) * generations, length)
  rng = np.random.default_rng(1)
  weights = jnp.asarray(rng.normal(size=completions.shape), jnp.float32)
  graph, params, rest = nnx.split(model, nnx.LoRAParam, ...)

  def ours(params):
    logps, entropy = logprobs.token_logps(
      nnx.merge(graph, params, rest), prompts, completions, temperature=0.7, remat=remat
    )
    return (weights * seen * logps).sum() / weights.size, (logps, entropy)

  def plain(params):
    logps, entropy = plain_logps(
      nnx.merge(graph, params, rest), np.repeat(prompts, generations, 0), completions, 0.7
    )
    return (weights * seen * logps).sum() / weights.size, (logps, entropy)

  # Behind the stop token nothing counts.
  lengths, _ = sampling.completion_lengths(completions)
  seen = np.arange(length) < lengths[:, None]
  (_, got), got_gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
  (_, want), want_gradient = jax.jit(jax.value_and_grad(plain, has_aux=True))(params)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a[seen], b[seen], atol=2e-5, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(got_gradient), jax.tree.leaves(want_gradient), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want_gradient)) > 1e-3


def test_entropy_and_probabilities_are_of_the_sampled_distribution(policy):
  """exp(log-prob) over all words sums to 1 at the sampler's temperature."""
  vocabulary = policy.model.config.num_embed
  words = np.arange(vocabulary, dtype=np.int32)[:, None]
  logps, entropy = logprobs.token_logps(
    policy.model,
    tokenization.pad_left(PROMPTS[:1], WIDTH),
    words,
    temperature=0.5,
  )
  assert float(jnp.exp(logps).sum()) == pytest.approx(1, abs=1e-5)
  assert float(entropy[0, 0]) == pytest.approx(-float((jnp.exp(logps) * logps).sum()), abs=1e-4)


# ---- sampler
def keys_of(seed: int, prompts: int, generations: int) -> np.ndarray:
  return np.asarray(
    jax.random.key_data(jax.random.split(jax.random.key(seed), (prompts, generations)))
  )


def test_greedy_equals_tunix_sampler(policy):
  texts = ["A cat sat on the mat", "x = 3 + 4", "what is the capital"]
  ids = [tokenization.encode(policy.tokenizer, text) for text in texts]
  ours = sampling.sample(policy, ids, width=32, max_new_tokens=20, temperature=0)
  config = policy.model.config
  cache = tunix_sampler.CacheConfig(
    cache_size=64,
    num_layers=config.num_layers,
    num_kv_heads=config.num_kv_heads,
    head_dim=config.head_dim,
  )
  with policy.mesh:
    theirs = tunix_sampler.Sampler(policy.model, policy.tokenizer, cache)(
      texts,
      max_generation_steps=20,
      max_prompt_length=32,
      eos_tokens=list(tokenization.STOP_IDS),
      pad_output=False,
    )
  lengths, stopped = sampling.completion_lengths(ours)
  for row, n, ended, tokens in zip(ours, lengths, stopped, theirs.tokens, strict=True):
    assert (
      list(row[: n - ended]) == [int(t) for t in tokens][: n - ended] and len(tokens) >= n - ended
    )


def test_greedy_equals_the_forward_pass(policy):
  out = sampling.sample(policy, PROMPTS, width=WIDTH, max_new_tokens=6, temperature=0)
  seen = []
  for prompt, row in zip(PROMPTS, out, strict=True):
    seen += [prompt + row[:t].tolist() for t in range(6)]
  lengths = np.array([len(ids) for ids in seen])
  tokens = jnp.asarray(tokenization.pad_right(seen, lengths.max()))
  real = jnp.asarray(np.arange(tokens.shape[1]) < lengths[:, None])
  logits, _ = policy.model(
    tokens, sft_utils.build_positions_from_mask(real), None, sft_utils.make_causal_attn_mask(real)
  )
  assert np.array_equal(logits[np.arange(len(seen)), lengths - 1].argmax(-1), out.ravel())


def test_noise_belongs_to_the_row(policy):
  """It differs by key, prompt and generation, and is the same alone, in a batch, and beside other
  rows.
  """
  keys = keys_of(0, 3, 4)

  def draw(prompts, keys, width=WIDTH):
    return sampling.sample(
      policy,
      prompts,
      width=width,
      generations=keys.shape[1],
      max_new_tokens=12,
      temperature=1.0,
      keys=keys,
    )

  together = draw(PROMPTS, keys).reshape(3, 4, 12)
  assert np.array_equal(draw(PROMPTS, keys).reshape(3, 4, 12), together)
  assert len({tuple(row) for row in together.reshape(-1, 12)}) == 12
  same = draw([PROMPTS[0]] * 3, keys).reshape(3, 4, 12)
  assert len({tuple(row) for row in same.reshape(-1, 12)}) == 12, (
    "the same prompt twice in a batch draws the same noise"
  )
  for i in range(3):
    assert np.array_equal(draw(PROMPTS[i : i + 1], keys[i : i + 1])[:4], together[i])
  assert np.array_equal(draw(PROMPTS[::-1], keys[::-1]).reshape(3, 4, 12)[::-1], together)
  assert np.array_equal(draw(PROMPTS[:1], keys[:1, 2:3])[0], together[0, 2])
  other = draw(PROMPTS, keys_of(1, 3, 4)).reshape(3, 4, 12)
  pairs = zip(other.reshape(-1, 12), together.reshape(-1, 12), strict=True)
  assert not any(np.array_equal(a, b) for a, b in pairs)


def test_wider_padding_changes_nothing(policy):
  narrow = sampling.sample(policy, PROMPTS, width=WIDTH, max_new_tokens=12, temperature=0)
  assert np.array_equal(
    narrow, sampling.sample(policy, PROMPTS, width=48, max_new_tokens=12, temperature=0)
  )
  with pytest.raises(InputError, match="a prompt has 7 tokens, the limit is 6"):
    sampling.sample(policy, PROMPTS, width=6, max_new_tokens=2, temperature=0)


def biased(policy, token: int, size: float):
  """A model whose head prefers `token` whatever the text: its embedding row is a multiple of the
  mean hidden state.
  """
  view = forward_pass.compute_view(policy.model)
  prompts = tokenization.pad_left(PROMPTS, WIDTH)
  tokens = np.concatenate([prompts, draw_completions(3, 4)], 1)
  real = np.pad(prompts != tokenization.PAD_ID, ((0, 0), (0, 4)), constant_values=True)
  positions = np.maximum(np.cumsum(real, -1) - 1, 0)
  mask = np.tril(np.ones((WIDTH + 4, WIDTH + 4), bool)) & real[:, None]
  h, _ = forward_pass.forward(view, tokens, positions, mask)
  h = h[:, WIDTH - 1 : -1]
  direction = np.asarray(h.reshape(-1, h.shape[-1]).mean(0))
  embedding = np.array(parameters.flat_params(policy.model)["embedder.input_embedding"])
  embedding[token] = size * direction / np.linalg.norm(direction)
  return policy._replace(
    model=parameters.with_params(policy.model, {"embedder.input_embedding": jnp.asarray(embedding)})
  )


@pytest.mark.parametrize("stop", tokenization.STOP_IDS)
def test_stop_token_is_kept_and_padding_follows(policy, stop):
  out = sampling.sample(
    biased(policy, stop, 0.5),
    PROMPTS,
    width=WIDTH,
    generations=8,
    max_new_tokens=16,
    temperature=1.0,
    keys=keys_of(3, 3, 8),
  )
  lengths, stopped = sampling.completion_lengths(out)
  assert stopped.any() and len(set(lengths)) > 2
  for row, n, ended in zip(out, lengths, stopped, strict=True):
    assert (row[n - 1] in tokenization.STOP_IDS) == ended and not np.isin(
      row[: n - 1], tokenization.STOP_IDS
    ).any()
    assert (row[n:] == tokenization.PAD_ID).all()


def test_a_shared_beginning_changes_nothing(policy):
  """The beginning that runs once, at two lengths of it, against prompts that run whole; prompts of
  many lengths.
  """
  prompts, keys = (
    [
      [2, 5, 6, 7, 8, *rest] for rest in ([9], [11, 12], [12, 13, 14], [21, 22, 23, 24, 25, 26, 27])
    ],
    keys_of(5, 4, 2),
  )
  for temperature in (0.0, 1.0):
    whole, *others = [
      sampling.sample(
        policy,
        prompts,
        width=16,
        generations=2,
        max_new_tokens=12,
        temperature=temperature,
        keys=keys,
        shared=shared,
      )
      for shared in (0, 1, 5)
    ]
    assert all(np.array_equal(other, whole) for other in others)


def test_rows_that_are_done_leave_and_the_others_do_not_notice(policy):
  stops, prompts, keys = (
    biased(policy, tokenization.EOS_ID, 0.5),
    [[2, i, i + 1] for i in range(100, 140)],
    keys_of(6, 40, 1),
  )

  def draw(rows: slice) -> np.ndarray:
    return sampling.sample(
      stops, prompts[rows], width=8, max_new_tokens=24, temperature=1.0, keys=keys[rows]
    )

  together = draw(slice(None))
  assert len(set(sampling.completion_lengths(together)[0])) > 5
  assert np.array_equal(
    together, np.concatenate([draw(slice(i, i + 8)) for i in range(0, 40, 8)])
  )  # 8 rows stay together


def test_local_layers_keep_their_window_and_draw_the_same(monkeypatch):
  """Six layers, the last of them global; a window of 16 that ends inside the prompt, inside
  the answer and before either. What is left is the order of a sum."""
  config = small_config(num_layers=6, sliding_window_size=16, global_base_frequency=1_000_000)
  model = gemma.create_tiny(config)
  policy = loading.Policy(model, None, devices.make_mesh("1x1"), "tiny", "", 0, 0.0)
  rng = np.random.default_rng(0)
  prompts = [[2, *rng.integers(110, 500, n).tolist()] for n in (3, 11, 21)]
  draw = functools.partial(
    sampling.sample, policy, prompts, width=24, generations=2, max_new_tokens=20, temperature=1.0
  )
  out, log_p = draw(keys=keys_of(7, 3, 2), with_log_p=True)
  monkeypatch.setattr(sliding_window, "keep_windows", lambda cache, *_: cache)
  jax.clear_caches()
  whole, whole_log_p = draw(keys=keys_of(7, 3, 2), with_log_p=True)
  jax.clear_caches()  # its programs keep no windows
  assert np.array_equal(out, whole)
  np.testing.assert_allclose(log_p, whole_log_p, atol=2e-6)
  # The learner sees windows of packed rows, through Tunix's own mask.
  lengths, _ = sampling.completion_lengths(out)
  logps, _ = logprobs.token_logps(model, tokenization.pad_left(prompts, 24), out)
  seen = np.arange(20) < lengths[:, None]
  np.testing.assert_allclose(np.where(seen, logps, 0), log_p, atol=2e-5)


def test_a_drawn_padding_id_is_a_token_like_any_other(policy):
  """It does not end the answer, counts in its length, and what follows sees it: sampler and loss
  agree on its log-prob.
  """
  keys = keys_of(4, 3, 8)
  for size in (0.3, 0.4, 0.5, 0.6, 0.8, 1.0):  # until the padding id is drawn now and then
    often = biased(policy, tokenization.PAD_ID, size)
    out = sampling.sample(
      often, PROMPTS, width=WIDTH, generations=8, max_new_tokens=12, temperature=1.0, keys=keys
    )
    lengths, stopped = sampling.completion_lengths(out)
    inside = [
      (row[: n - 1] == tokenization.PAD_ID).any() and (row[:n] != tokenization.PAD_ID).any()
      for row, n in zip(out, lengths, strict=True)
    ]
    if any(inside):
      break
  assert any(inside) and (lengths[~stopped] == 12).all()
  logps, _ = logprobs.token_logps(often.model, tokenization.pad_left(PROMPTS, WIDTH), out)
  row = int(np.flatnonzero(inside)[0])
  want = plain_logps(
    often.model,
    tokenization.pad_left(PROMPTS, WIDTH)[row // 8 : row // 8 + 1],
    out[row : row + 1],
    1.0,
  )[0]
  n = lengths[row]
  np.testing.assert_allclose(logps[row, :n], want[0, :n], atol=2e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draw_fits_the_distribution_of_a_real_vocabulary(temperature):
  """262,144 words: chi-square on 64 coarse bins, and a word of probability zero is never drawn."""
  rng = np.random.default_rng(0)
  size, draws, rows = 262_144, 4096, 64
  logits = rng.normal(0, 1.0, size).astype(np.float32)
  impossible = rng.random(size) < 0.5
  logits[impossible] = -np.inf
  p = np.exp((logits - logits.max()) / temperature, dtype=np.float64)
  p /= p.sum()
  keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(5), draws)))
  step = jax.jit(
    lambda keys: sampling.draw(
      jnp.broadcast_to(logits[:, None], (size, rows)), keys, 3, temperature
    )
  )
  got = np.concatenate([np.asarray(step(keys[i : i + rows])[0]) for i in range(0, draws, rows)])
  assert got.min() >= 0 and got.max() < size and not impossible[got].any()
  order = np.cumsum(
    p[np.argsort(-p)]
  )  # bins of equal probability, likely words first: they mix all blocks
  bins = np.empty(size, int)
  bins[np.argsort(-p)] = np.minimum((order * 64).astype(int), 63)
  expected = np.bincount(bins, p, 64) * draws
  chi2 = ((np.bincount(bins[got], minlength=64) - expected) ** 2 / expected).sum()
  assert chi2 < 110.0, chi2  # 63 degrees of freedom: the 0.9998 quantile
  halves = (
    np.bincount(got // (size // 64), minlength=64),
    np.add.reduceat(p, np.arange(0, size, size // 64)) * draws,
  )
  assert ((halves[0] - halves[1]) ** 2 / halves[1]).sum() < 110.0


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24, 1.0])
def test_draw_never_rounds_past_the_end(monkeypatch, u):
  """The largest uniform, a single possible word at either end, and a size that fills no block."""
  monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, u))
  for size in (700, 1024, 262_144):
    for word in (0, size // 2, size - 1):
      logits = jnp.full((size, 1), -jnp.inf).at[word, 0].set(0.0)
      assert int(sampling.draw(logits, jnp.zeros((1, 2), jnp.uint32), 0, 1.0)[0][0]) == word
    many = jnp.full((size, 1), -jnp.inf).at[100:600, 0].set(jnp.linspace(-3, 3, 500))
    assert 100 <= int(sampling.draw(many, jnp.zeros((1, 2), jnp.uint32), 0, 1.0)[0][0]) < 600


# ---- update, saving
def test_schedule_warms_up_and_decays():
  schedule = optimization.make_schedule(1e-3, 100, final_ratio=0.1)
  rates = np.array([float(schedule(i)) for i in range(100)])
  assert rates[0] > 0 and rates.argmax() == 9 and rates.max() == pytest.approx(1e-3)
  assert (
    (np.diff(rates[:10]) > 0).all()
    and (np.diff(rates[9:]) < 0).all()
    and rates[-1] == pytest.approx(1e-4, rel=0.02)
  )


def test_optimizer_is_adamw_at_the_given_rate_and_skips_what_is_not_finite():
  """One parameter, by hand: clip to 0.5, Adam moments, decoupled decay, the rate of that very
  update.
  """
  tx, schedule = (
    optimization.make_optimizer(b1=0.9, b2=0.99, weight_decay=0.1, max_grad_norm=0.5),
    optimization.make_schedule(1e-2, 10, final_ratio=0.0),
  )
  w, m, v = 2.0, 0.0, 0.0
  params = jnp.asarray(w)
  state, count = tx.init(params), 0
  for gradient in (3.0, np.nan, -0.2, np.inf, 0.1):
    updates, state = tx.update(jnp.asarray(gradient), state, params, learning_rate=schedule(count))
    params = optax.apply_updates(params, updates)
    if np.isfinite(gradient):
      g = gradient * min(1, 0.5 / abs(gradient))
      m, v, rate = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g, float(schedule(count))
      count += 1
      w -= rate * (m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.99**count)) + 1e-8) + 0.1 * w)
    assert float(params) == pytest.approx(w, rel=1e-6)


def test_lora_saves_loads_and_merges(policy, tmp_path):
  checkpoints.save_params(str(tmp_path / "params"), policy.model)
  fresh = parameters.apply_lora(
    gemma.load_base("tiny", policy.tokenizer, policy.mesh), policy.mesh, 4, 8.0, seed=7
  )
  loaded = checkpoints.load_params(str(tmp_path / "params"), fresh)
  prompts, completions = tokenization.pad_left(PROMPTS, WIDTH), draw_completions(3, 5)
  want = logprobs.token_logps(policy.model, prompts, completions)[0]
  assert np.array_equal(logprobs.token_logps(loaded, prompts, completions)[0], want)
  base = gemma.load_base("tiny", policy.tokenizer, policy.mesh)
  merged = parameters.merge_lora(policy.model, base, 8.0)
  np.testing.assert_allclose(logprobs.token_logps(merged, prompts, completions)[0], want, atol=2e-4)
  assert float(jnp.abs(logprobs.token_logps(base, prompts, completions)[0] - want).max()) > 0.01


def test_bfloat16_base_trains_float32_masters(policy):
  """At the write-ups' rate of 3e-6 a bfloat16 weight does not move: what is trained is float32,
  arithmetic follows the base.
  """
  base = gemma.load_base("tiny", policy.tokenizer, policy.mesh)
  half = parameters.with_params(
    base, {name: x.astype(jnp.bfloat16) for name, x in parameters.flat_params(base).items()}
  )
  half.config = dataclasses.replace(half.config, param_dtype=jnp.bfloat16)
  masters = parameters.float32_masters(half)
  assert {x.dtype for x in parameters.flat_params(masters).values()} == {jnp.dtype(jnp.float32)}
  assert {x.dtype for x in jax.tree.leaves(forward_pass.compute_view(masters)[1])} == {
    jnp.dtype(jnp.bfloat16)
  }
  assert gemma.fingerprint(half) == gemma.fingerprint(base) == gemma.fingerprint(masters)


def test_text_survives_the_tokenizer(policy):
  for text in (
    "<reasoning>3 + 4 = 7</reasoning>\n<answer>7</answer>",
    "naïve café ✓ 你好",
    "a  b\n\n c\t",
    "x<end_of_turn>",
  ):
    ids = policy.tokenizer.EncodeAsIds(text)
    assert tokenization.decode(policy.tokenizer, ids) == text.replace("<end_of_turn>", "")
  assert policy.tokenizer.EncodeAsIds("<end_of_turn>") == [tokenization.END_OF_TURN_ID]
  assert tokenization.encode_target(policy.tokenizer, "x")[-1] == tokenization.END_OF_TURN_ID
  assert (
    tokenization.decode(policy.tokenizer, [10**6, tokenization.PAD_ID, tokenization.EOS_ID]) == ""
  )


@pytest.mark.parametrize("words", [1024, 3 * 482, 7])
def test_blocks_of_words_lose_none(words):
  """4B's 262,208 words are no multiple of 512: every word can win, the greedy one and the drawn
  one.
  """
  favoured = np.random.default_rng(0).permutation(words)[:200]
  logits = jnp.zeros((words, len(favoured))).at[favoured, jnp.arange(len(favoured))].set(60.0)
  keys = jax.vmap(jax.random.key_data)(jax.random.split(jax.random.key(0), len(favoured)))
  assert np.array_equal(sampling.first_max(logits), favoured)
  assert np.array_equal(sampling.draw(logits, keys, 0, 1.0)[0], favoured)


# ---- meshes


def test_meshes_give_the_single_device_losses(data_dir, tmp_path):
  """Two GRPO updates and one of SFT on four meshes of 8 forced devices, with LoRA on two;
  parameters move between meshes.
  """
  env = os.environ | {
    "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
  }
  ran = subprocess.run(
    [sys.executable, str(REPO / "tests" / "meshes.py"), data_dir, str(tmp_path)],
    capture_output=True,
    text=True,
    env=env,
    timeout=1200,
  )
  assert ran.returncode == 0, ran.stderr[-3000:]
  found = json.loads(ran.stdout.strip().split("\n")[-1])
  one, drawn = found["1x1"]
  assert np.isfinite(one).all() and np.ptp(one) > 1
  for mesh, (losses, samples) in found.items():
    np.testing.assert_allclose(losses, one[: len(losses)], atol=1e-4, rtol=1e-4, err_msg=mesh)
    # A near-tie may fall the other way.
    assert np.mean(np.array(samples) == np.array(drawn)) > 0.9, mesh


# ---- bad input
def test_bad_meshes_and_dtypes():
  for spec, words in (
    ("9", "is not FSDPxTP"),
    ("0x1", "is not FSDPxTP"),
    ("axb", "is not FSDPxTP"),
    ("64x2", "needs 128 devices"),
  ):
    with pytest.raises(InputError, match=words):
      devices.make_mesh(spec)
  with pytest.raises(InputError, match="float16 is unknown; valid"):
    devices.compute_dtype("float16")


def test_what_a_device_makes_of_a_dtype_is_said(capsys, monkeypatch):
  def arithmetic(dtype: str, platform: str = "cuda", capability: str = "7.5") -> tuple:
    chip = {"platform": platform, "device_kind": "Tesla T4", "compute_capability": capability}
    devices.use_arithmetic(dtype, types.SimpleNamespace(**chip))
    return jax.config.jax_default_matmul_precision, "no bfloat16" in capsys.readouterr().out

  try:
    assert arithmetic("float32", "tpu", "") == ("highest", False)
    assert arithmetic("auto") == (None, True)
    assert arithmetic("bfloat16") == (None, True)
    assert arithmetic("float32") == ("highest", False)
    assert arithmetic("auto", capability="9.0") == (None, False)
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "high")
    assert arithmetic("auto", capability="9.0") == ("high", False)
  finally:
    jax.config.update("jax_default_matmul_precision", None)
  devices.use_arithmetic("float32")  # a CPU multiplies float32 in float32 anyway
  assert jax.config.jax_default_matmul_precision is None


def test_memory_is_asked_before_it_is_taken(capsys):
  has = devices.memory_bytes()
  assert has > devices.GIB / 2
  devices.check_memory(has // 10, "the weights in x")
  assert capsys.readouterr().out == ""
  devices.check_memory(has // 2, "the weights in x")
  assert "the weights in x need" in capsys.readouterr().out
  with pytest.raises(InputError, match=r"the weights in x need .* GiB of memory, this machine has"):
    devices.check_memory(2 * has, "the weights in x")


def test_a_missing_folder_is_one_line():
  one_line_error(
    process("train_sft.py", data_dir="/nowhere"),
    "/nowhere does not exist; make it with prepare_data.py",
  )


def test_the_sampler_sees_the_log_probs_that_the_loss_sees(policy):
  """What `sample` says of each drawn token is what `token_logps` finds, at any temperature."""
  for temperature in (0.5, 1.0, 1.5):
    out, log_p = sampling.sample(
      policy,
      PROMPTS,
      width=WIDTH,
      generations=8,
      max_new_tokens=12,
      temperature=temperature,
      keys=keys_of(9, 3, 8),
      with_log_p=True,
    )
    lengths, _ = sampling.completion_lengths(out)
    drawn = np.arange(12) < lengths[:, None]
    want, _ = logprobs.token_logps(
      policy.model,
      tokenization.pad_left(PROMPTS, WIDTH),
      out,
      temperature=temperature,
    )
    np.testing.assert_allclose(log_p[drawn], np.asarray(want)[drawn], atol=5e-5)
    assert (log_p[~drawn] == 0).all()


def test_bfloat16_is_nearer_to_float32_than_tunix_alone(policy, monkeypatch):
  """Norms and attention softmax in float32 under bfloat16 weights."""
  prompts, completions = tokenization.pad_left(PROMPTS, WIDTH), draw_completions(3, 24)
  exact = np.asarray(logprobs.token_logps(policy.model, prompts, completions)[0])
  weights = parameters.flat_params(policy.model)
  half = parameters.with_params(
    policy.model, {name: x.astype(jnp.bfloat16) for name, x in weights.items()}
  )
  half.config = dataclasses.replace(half.config, param_dtype=jnp.bfloat16)

  def distance():
    jax.clear_caches()
    logps = np.asarray(logprobs.token_logps(half, prompts, completions)[0])
    return np.abs(logps - exact).mean()

  ours = distance()
  monkeypatch.setattr(forward_pass, "compute_norms_in_float32", lambda model: None)
  assert ours < 0.9 * distance()
