"""train_sft.py: the loss against optax, the boundary token by token, batches, what is logged, what
is refused.
"""

import collections
import functools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from conftest import SFT, one_line_error, run, run_well
from flax import nnx
from sentencepiece import sentencepiece_model_pb2
from tunix.sft import utils as sft_utils

import train_sft
from lib import (
  before_after,
  contract,
  folders,
  jsonl,
  loading,
  logprobs,
  optimization,
  parameters,
  sampling,
  tokenization,
)
from lib.loading import Policy


@pytest.fixture(scope="module")
def policy(data_dir) -> Policy:
  return loading.load_policy("tiny", data_dir=data_dir)


@pytest.fixture(scope="module")
def rows(data_dir) -> list[dict]:
  return [row for row in jsonl.read_rows(f"{data_dir}/train.jsonl") if "target" in row]


@pytest.fixture(scope="module")
def pairs(rows, policy):
  return train_sft.tokenize(rows, policy.tokenizer, 2048)[0]


# the loss.
@pytest.mark.parametrize("lora", [True, False])
def test_loss_and_gradient_equal_plain_cross_entropy(policy, pairs, monkeypatch, lora):
  """Packed micro-batches add up to optax's mean cross-entropy over all target tokens of the batch,
  in value and gradient.

  The sliding window is shorter than a row: local attention must cut a packed row where it cuts the
  row alone.
  """
  monkeypatch.setattr(logprobs, "HEAD_CHUNK", 50)
  for layer in policy.model.layers:
    monkeypatch.setattr(layer.attn, "sliding_window_size", 20)
  model = (
    parameters.apply_lora(policy.model, policy.mesh, 4, 8.0)
    if lora
    else parameters.float32_masters(policy.model)
  )
  graph, params, rest = nnx.split(model, parameters.trainable(model), ...)
  if lora:
    params = jax.tree.map(
      lambda x: x + 0.03 * jax.random.normal(jax.random.key(x.size), x.shape), params
    )
  batch = pairs[:8]
  micros, count = train_sft.pack(batch, 2, 130)
  assert 1 < count < len(micros["tokens"]) == 4, "several micro-batches, and one that stays empty"

  def ours(params):
    return sum(
      train_sft.sft_loss(
        nnx.merge(graph, params, rest), **{k: v[m] for k, v in micros.items()}, remat=False
      )[0]
      for m in range(count)
    )

  def plain(params):
    width = max(len(p) + len(t) for p, t in batch)
    tokens = tokenization.pad_right([p + t for p, t in batch], width)
    mask = np.array([[len(p) <= i < len(p) + len(t) for i in range(width)] for p, t in batch])
    real = jnp.asarray(np.arange(width) < [[len(p) + len(t)] for p, t in batch])
    logits, _ = nnx.merge(graph, params, rest)(
      jnp.asarray(tokens),
      sft_utils.build_positions_from_mask(real),
      None,
      sft_utils.make_causal_attn_mask(real),
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits[:, :-1].astype(jnp.float32), tokens[:, 1:]
    )
    return (losses * mask[:, 1:]).sum() / mask.sum()

  (got, got_gradient), (want, want_gradient) = (
    jax.jit(jax.value_and_grad(f))(params) for f in (ours, plain)
  )
  assert float(got) == pytest.approx(float(want), abs=1e-5)
  leaves = (jax.tree.leaves(got_gradient), jax.tree.leaves(want_gradient))
  for a, b in zip(*leaves, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert float(optax.tree.norm(want_gradient)) > 1e-2


def test_boundary_token_by_token(rows, pairs, policy):
  """Every row of a packed batch: the weights start at the first token of its target and end with
  its stop token; nothing else has weight, and each row is there once, in one piece, with
  positions of its own.
  """
  assert len(pairs) == len(rows)
  arrays, count = train_sft.pack(pairs, 2, 256)
  assert not any(x[count:].any() for x in arrays.values())
  tokens, positions, weights = (
    arrays[name].reshape(-1, 256) for name in ("tokens", "positions", "weights")
  )
  found = []
  for line, at in np.argwhere((positions == 0) & (tokens == tokenization.BOS_ID)):
    end = at + 1
    while end < 256 and positions[line, end] == end - at:
      end += 1
    ids, counted = tokens[line, at:end].tolist(), weights[line, at:end] > 0
    start = int(counted.argmax())
    assert counted[start:].all() and not counted[:start].any()
    assert (
      ids[-1] == tokenization.END_OF_TURN_ID and tokenization.END_OF_TURN_ID not in ids[start:-1]
    )
    found.append(
      (policy.tokenizer.DecodeIds(ids[1:start]), policy.tokenizer.DecodeIds(ids[start:-1]))
    )
    tokens[line, at:end] = tokenization.PAD_ID
  assert (
    sorted(found) == sorted((row["prompt"], row["target"]) for row in rows) and not tokens.any()
  )
  total = sum(len(target) for _, target in pairs)
  assert (weights > 0).sum() == total
  np.testing.assert_allclose(weights[weights > 0], 1 / total, rtol=1e-5)
  assert total + sum(len(prompt) for prompt, _ in pairs) > 0.9 * count * 2 * 256, (
    "hardly any padding"
  )


def test_each_target_token_is_learned_from_what_is_before_it(policy, pairs):
  """−∂loss/∂weight of token t is log p(t | prompt, tokens before t): no shift, no leak from the
  token itself, from behind it or from the rows packed beside it.
  """
  arrays = {k: v[0] for k, v in train_sft.pack(pairs[:6], 1, 512)[0].items()}
  per_token = -jax.grad(
    lambda w: train_sft.sft_loss(policy.model, arrays["tokens"], arrays["positions"], w, False)[0]
  )(jnp.asarray(arrays["weights"]))[0]
  wanted = [
    (prompt + target, len(prompt) + t)
    for prompt, target in pairs[:6]
    for t in (0, 1, len(target) // 2, len(target) - 1)
  ]
  lengths = np.array([n for _, n in wanted])
  tokens = jnp.asarray(tokenization.pad_right([ids[:n] for ids, n in wanted], lengths.max()))
  real = jnp.asarray(np.arange(tokens.shape[1]) < lengths[:, None])
  logits, _ = policy.model(
    tokens, sft_utils.build_positions_from_mask(real), None, sft_utils.make_causal_attn_mask(real)
  )
  logps = jax.nn.log_softmax(logits[np.arange(len(wanted)), lengths - 1])
  for row, (ids, n) in zip(logps, wanted, strict=True):
    at = next(i for i in range(512) if arrays["tokens"][0, i : i + len(ids)].tolist() == ids)
    assert float(per_token[at + n]) == pytest.approx(float(row[ids[n]]), abs=2e-5)


def test_validation_loss_is_the_mean_over_tokens(policy, pairs):
  """Micro-batches of unequal token counts and a last one that is not full."""
  got = train_sft.validation_loss(policy.model, pairs[:7], 2, 96, policy.mesh)
  total = tokens = 0
  for pair in pairs[:7]:
    arrays = {k: v[0] for k, v in train_sft.pack([pair], 1, 512)[0].items()}
    total += float(train_sft.sft_loss(policy.model, **arrays, remat=False)[0]) * len(pair[1])
    tokens += len(pair[1])
  assert got == pytest.approx(total / tokens, abs=1e-4)


# batches.
def test_long_rows_are_dropped_whole(rows, policy):
  lengths = [
    len(
      tokenization.encode(policy.tokenizer, r["prompt"])
      + tokenization.encode_target(policy.tokenizer, r["target"])
    )
    for r in rows
  ]
  limit = int(np.median(lengths))
  kept, dropped = train_sft.tokenize(rows, policy.tokenizer, limit)
  assert dropped == sum(n > limit for n in lengths) > 0
  assert [len(p) + len(t) for p, t in kept] == [n for n in lengths if n <= limit]
  assert all(t[-1] == tokenization.END_OF_TURN_ID for _, t in kept)


def test_batches_are_a_function_of_seed_and_step(pairs):
  def key(batch):
    return tuple(map(str, batch))

  batches, again, other = (train_sft.make_batches(pairs, 8, seed) for seed in (0, 0, 1))
  epoch = len(pairs) // 8
  assert [key(again[i]) for i in (17, 3, 30)] == [key(batches[i]) for i in (17, 3, 30)]
  assert key(other[0]) != key(batches[0])
  rows = [row for i in range(2 * epoch) for row in key(batches[i])]
  for first in (
    0,
    len(pairs),
  ):  # every row once an epoch, in another order each time; a batch may reach into the next
    assert collections.Counter(rows[first : first + len(pairs)]) <= collections.Counter(
      map(str, pairs)
    )
  assert rows[: len(pairs)] != rows[len(pairs) : 2 * len(pairs)]
  few = train_sft.make_batches(pairs[:3], 8, 0)[5]
  assert len(few) == 8 and {str(p) for p in few} == {str(p) for p in pairs[:3]}


# whole runs.
def restore(folder) -> dict:
  with ocp.StandardCheckpointer() as loader:
    return {name: np.asarray(x) for name, x in loader.restore(os.path.abspath(folder)).items()}


def test_logged_learning_rate_is_the_one_used(data_dir, policy, tmp_path):
  """Adam's first update moves every parameter by the learning rate: read it off the parameters."""
  run_well(
    train_sft,
    data_dir=data_dir,
    out_dir=tmp_path,
    **SFT | dict(max_steps=1, learning_rate=1e-4, weight_decay=0),
  )
  logged = jsonl.read_rows(tmp_path / "metrics.jsonl")
  base, tuned = parameters.flat_params(policy.model), restore(tmp_path / "params")
  moved = np.concatenate([np.abs(tuned[name] - np.asarray(base[name])).ravel() for name in base])
  moved = moved[moved > 1e-6]
  assert (
    np.median(moved)
    == pytest.approx(logged[0]["learning_rate"], rel=1e-3)
    == pytest.approx(1e-4, rel=1e-3)
  )


def test_run_learns_and_shows_it(data_dir, tmp_path):
  """LoRA, micro-batches, evaluation, best, before and after: one run, all of it on disk; row limits
  counted in the log.
  """
  flag = SFT | dict(
    lora_rank=4,
    learning_rate=1e-2,
    max_steps=12,
    micro_batch_size=4,
    batch_size=8,
    eval_every=4,
    save_every=4,
    check_rows=6,
    check_samples=2,
    max_length=50,
  )
  out = run_well(train_sft, data_dir=data_dir, out_dir=tmp_path, **flag)
  assert (
    "over 50 tokens dropped" in out
    and "(0 over" not in out
    and "packed into 4 × 50 tokens at once" in out
  )
  metrics = jsonl.read_rows(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in metrics] == list(range(1, 13)) and metrics[-1][
    "loss"
  ] < 0.8 * metrics[0]["loss"]
  losses = [row["eval_loss"] for row in metrics if "eval_loss" in row]
  config = json.loads((tmp_path / "config.json").read_text())
  began = json.loads((tmp_path / "run.json").read_text())
  assert began["rows"] + began["dropped"] == sum(
    "target" in row for row in jsonl.read_rows(f"{data_dir}/train.jsonl")
  )
  assert len(losses) == 3 and config["best_loss"] == min(losses) and config["steps"] == 12
  assert set(config["before"]) == set(config["after"]) == {"format", "pass@1", "maj@2"}
  samples = jsonl.read_rows(tmp_path / "samples.jsonl")
  assert (
    [row["id"] for row in samples if row["step"] == 0]
    == [row["id"] for row in samples if row["step"] == 12]
    != []
  )
  for name in ("curves.png", "tokenizer.model", "best", "params"):
    assert (tmp_path / name).exists()
  again = run_well(train_sft, data_dir=data_dir, out_dir=tmp_path, **flag)
  assert (
    "complete, nothing to train" in again and len(jsonl.read_rows(tmp_path / "metrics.jsonl")) == 12
  )
  one_line_error(
    run(train_sft, data_dir=data_dir, out_dir=tmp_path, **flag | dict(lora_rank=5)),
    "--lora_rank was 4, is 5",
  )


def test_early_stop(data_dir, tmp_path):
  """A learning rate that ruins the model: the validation loss never falls again."""
  out = run_well(
    train_sft,
    data_dir=data_dir,
    out_dir=tmp_path,
    **SFT | dict(max_steps=50, learning_rate=3.0, batch_size=8, eval_every=1, patience=2),
  )
  metrics = jsonl.read_rows(tmp_path / "metrics.jsonl")
  losses = [row["eval_loss"] for row in metrics]
  assert len(losses) == int(np.argmin(losses)) + 3 < 50 and f"sft: {len(losses)} steps" in out


def test_lost_accuracy_is_said_loudly(capsys):
  before_after.warn_if_damaged(
    {"format": 1.0, "pass@1": 0.61, "maj@4": 0.7}, {"format": 0.2, "pass@1": 0.43, "maj@4": 0.7}
  )
  said = capsys.readouterr().out
  assert (
    said.startswith("WARNING: SFT lowered pass@1 on validation rows from 0.610 to 0.430")
    and said.count("WARNING") == 1
  )
  before_after.warn_if_damaged({"pass@1": 0.4}, {"pass@1": 0.5})
  before_after.warn_if_damaged({}, {"pass@1": 0.5})
  assert capsys.readouterr().out == ""


def test_remat_saves_memory(policy):
  """What the compiler sets aside for an update, and the update itself is the same."""
  tokens = np.random.default_rng(0).integers(110, 500, (1, 8, 256)).astype(np.int32)
  micro = dict(
    tokens=tokens,
    positions=np.broadcast_to(np.arange(256), tokens.shape),
    weights=np.full(tokens.shape, 1 / 2048),
  )
  micro["weights"][..., 0] = 0
  sizes, norms = {}, {}
  for remat in (False, True):
    model = parameters.float32_masters(policy.model)
    trainer = train_sft.make_trainer(
      model,
      optimization.make_optimizer(b1=0.9, b2=0.999, weight_decay=0.0, max_grad_norm=1.0),
      remat,
    )
    _, params, frozen = nnx.split(model, parameters.trainable(model), ...)
    flat = [jax.tree.leaves(part) for part in (params, nnx.state(trainer.optimizer), frozen)]
    step = optimization.make_step(trainer).lower(*flat, micro, 1, 1e-3).compile()
    sizes[remat], norms[remat] = (
      step.memory_analysis().temp_size_in_bytes,
      optimization.make_update(trainer, policy.mesh)(micro, 1e-3)[2],
    )
  assert sizes[True] < 0.6 * sizes[False] and norms[True] == pytest.approx(norms[False], rel=1e-5)


@pytest.mark.parametrize(
  "text,again,format_rate,right",
  [
    ("The answer is 4.", "4.0", 0.0, 1.0),
    ("<reasoning>2 + 2</reasoning>\n<answer>4</answer>", "4", 1.0, 1.0),
    ("<answer>4", "5", 0.0, 1.0),
    ("It is 5.", "5", 0.0, 0.0),
  ],
)
def test_a_model_without_tags_can_be_right(policy, monkeypatch, text, again, format_rate, right):
  """Else an untrained model looks ignorant, and accuracy that SFT costs goes unseen. Equal numbers
  vote as one.
  """

  def say(policy, prompts, *, generations, temperature, **_):
    texts = [text] if temperature == 0 else [text, "7", again, "9"]
    return tokenization.pad_right(
      [tokenization.encode_target(policy.tokenizer, t) for t in texts] * len(prompts), 80
    )

  monkeypatch.setattr(sampling, "sample", say)
  rows = [{"domain": "math", "prompt": "p", "answer": "4", "metadata": {}}] * 2
  judged, texts = before_after.answer_rows(policy, rows, before_after.Check("tags", 80, 4, 0, "on"))
  assert judged["format"] == format_rate and judged["pass@1"] == judged["maj@4"] == right


def test_updates_that_are_not_finite(data_dir, tmp_path, monkeypatch):
  """They are skipped and counted; three in a row stop the run, the last good checkpoint stays."""
  bad = (3, 4, 6, 7, 8)
  inner, seen = train_sft.pack, []

  def poisoned(batch, rows, width):
    arrays, count = inner(batch, rows, width)
    if len(batch) == 16:  # an update, not an evaluation
      seen.append(1)
      if len(seen) in bad:
        arrays["weights"][0, 0, -1] = np.nan
    return arrays, count

  monkeypatch.setattr(train_sft, "pack", poisoned)
  flag = SFT | dict(data_dir=data_dir, out_dir=tmp_path, max_steps=10, save_every=2)
  one_line_error(run(train_sft, **flag), "three updates in a row", "lower --learning_rate")
  metrics = jsonl.read_rows(tmp_path / "metrics.jsonl")
  finite = [row["loss"] is not None for row in metrics]
  assert finite == [step not in bad for step in range(1, 9)]
  assert [row["skipped"] for row in metrics] == [0, 0, 1, 2, 0, 1, 2, 3]
  # A skipped update does not advance the schedule.
  schedule = optimization.make_schedule(SFT["learning_rate"], 10, final_ratio=0.1)
  used = [float(schedule(n)) for n in np.cumsum([0, *finite[:-1]])]
  np.testing.assert_allclose([row["learning_rate"] for row in metrics], used, rtol=1e-6)
  saved = restore(tmp_path / "checkpoints" / "6" / "params")
  assert all(np.isfinite(x).all() for x in saved.values())


def test_dual_stream_targets_are_learned(dual_data_dir, dual_sft_dir):
  config = folders.read_config(dual_sft_dir, "train_sft.py")
  assert config["style"] == "dual_stream" and config["prompt_hash"] == contract.prompt_hash(
    "dual_stream"
  )
  metrics = jsonl.read_rows(f"{dual_sft_dir}/metrics.jsonl")
  assert metrics[-1]["loss"] < 0.6 * metrics[0]["loss"]
  for row in jsonl.read_rows(f"{dual_data_dir}/train.jsonl"):
    assert "target" not in row or contract.parse_response(row["target"], "dual_stream"), row[
      "target"
    ]


# bad input.
BAD = [
  (dict(max_steps=0), "--max_steps=0: expected a positive number"),
  (dict(max_steps="many"), "--max_steps=many"),
  (dict(max_steps="auto"), "auto together with --max_hours"),
  (dict(max_length=8), "longer than --max_length=8"),
  (dict(model="gemma-7"), "neither a folder nor one of"),
  (dict(mesh="3y1"), "--mesh=3y1: expected auto, or FSDPxTP such as 4x2"),
  (dict(mesh="4x1"), "needs 4 devices, there are"),
  (dict(dtype="int8"), "--dtype=int8: expected auto, float32 or bfloat16"),
  (dict(learning_rate="nan"), "--learning_rate=nan: expected a finite number"),
  (dict(weight_decay=-1), "--weight_decay=-1.0: expected 0 or more"),
  (dict(max_grad_norm=0), "--max_grad_norm=0.0: expected a number above 0"),
  (dict(max_hours=-1), "--max_hours=-1.0: expected 0 or more; 0 is no limit"),
  (dict(seed=-1), "--seed=-1: expected 0 or more"),
  (dict(data_dir="nowhere"), "nowhere does not exist; make it with prepare_data.py"),
  (dict(resume_from="nowhere"), "holds no run.json"),
  (
    dict(patience=2, eval_every=0),
    "--patience=2 counts validations: it needs --eval_every above 0",
  ),
]


@pytest.mark.parametrize(
  "change,words", BAD, ids=[next(iter(change)) + str(i) for i, (change, _) in enumerate(BAD)]
)
def test_bad_flags(data_dir, tmp_path, change, words):
  one_line_error(run(train_sft, **SFT | dict(data_dir=data_dir, out_dir=tmp_path) | change), words)


def test_absl_keeps_its_own_code(tmp_path):
  for flag in (dict(lora_rank=-1), dict(check_rows=-1), dict(batch_size="x"), dict(no_such_flag=1)):
    result = run(train_sft, out_dir=tmp_path, **flag)
    assert result.code == 1 and "FATAL Flags parsing error" in result.err


def test_bad_data(data_dir, tmp_path):
  data = shutil.copytree(data_dir, tmp_path / "data")

  def attempt(**change):
    flag = SFT | dict(data_dir=data, out_dir=tmp_path / "out", max_steps=1)
    return run(train_sft, **flag | change)

  def save(rows):
    jsonl.write_rows(data / "train.jsonl", rows)

  one_line_error(attempt(out_dir=data), "is complete and of data, expected a new folder")
  one_line_error(attempt(data_dir=data / "train.jsonl"), "train.jsonl is no folder")
  rows = jsonl.read_rows(data / "train.jsonl")
  save([{k: v for k, v in row.items() if k != "target"} for row in rows])
  one_line_error(attempt(), "has a `target`; SFT needs worked solutions")
  save([])
  one_line_error(attempt(), "has a `target`")
  save([{"target": "42"}])
  one_line_error(attempt(), "train.jsonl:1 has no id, domain, question, prompt")
  save(rows)
  config = json.loads((data / "config.json").read_text())
  jsonl.write_text(data / "config.json", json.dumps(config | {"prompt_hash": "0123456789abcdef"}))
  one_line_error(attempt(), "was made with prompt 0123456789abcdef", "--allow_prompt_mismatch")
  validation_rows = jsonl.read_rows(data / "val.jsonl")
  long = [row | {"target": row["target"] * 99} for row in validation_rows if "target" in row]
  jsonl.write_text(data / "val.jsonl", "".join(json.dumps(row) + "\n" for row in long))
  one_line_error(
    attempt(allow_prompt_mismatch=True, max_length=200),
    f"all {len(long)} rows",
    "longer than --max_length=200",
  )
  shutil.rmtree(tmp_path / "out")
  jsonl.write_text(data / "val.jsonl", "")  # nothing held out: it trains all the same
  assert "1 steps" in run_well(
    train_sft,
    **SFT | dict(data_dir=data, out_dir=tmp_path / "out", max_steps=1, allow_prompt_mismatch=True),
  )
  assert (
    folders.read_config(tmp_path / "out", "")["prompt_hash"] == "0123456789abcdef"
  )  # what it was trained with, not the code's
  (data / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1")
  spoiled = attempt(allow_prompt_mismatch=True, out_dir=tmp_path / "other")
  one_line_error(spoiled, "is not a sentencepiece model")
  (data / "config.json").unlink()
  one_line_error(attempt(), "is incomplete: it has no config.json")


def test_tokenizer_of_another_model(data_dir, tmp_path):
  """A folder whose tokenizer has more pieces than its model has words, or other turn tokens than
  Gemma's.
  """
  shutil.copy(f"{data_dir}/tokenizer.model", tmp_path)
  config = dict(
    model_type="gemma3_text",
    num_hidden_layers=1,
    vocab_size=256,
    hidden_size=16,
    intermediate_size=16,
    num_attention_heads=2,
    query_pre_attn_scalar=16,
    head_dim=16,
    num_key_value_heads=1,
    sliding_window=64,
  )
  (tmp_path / "config.json").write_text(json.dumps(config))
  (tmp_path / "model.safetensors").write_bytes(b"")
  attempt = functools.partial(
    run, train_sft, **SFT | dict(data_dir=data_dir, model=tmp_path, out_dir=tmp_path / "out")
  )
  one_line_error(attempt(), "they do not belong together")
  (tmp_path / "config.json").write_text(json.dumps(config | dict(vocab_size=2**14)))
  proto = sentencepiece_model_pb2.ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes())
  proto.pieces[106].piece = "<end_of_something_else>"
  (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
  one_line_error(attempt(), "<end_of_turn> is number 3; the model has 16384 and 106")
