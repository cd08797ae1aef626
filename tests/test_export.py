"""Exports do what the JAX policy does: names, scaling, merging, tokenizer and template, folders,
and the parity check itself.

transformers and PEFT run in the Python that PARITY_PYTHON names, else in .venv-parity; without one
those tests are skipped. The real Gemma 3 270M is exported and verified in test_real_weights.py.
"""

import json
import os
import pathlib
import random
import shutil
import sys
import zipfile

import conftest
import jax.numpy as jnp
import jinja2.sandbox
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece
import tokenizers
from absl import flags
from flax import nnx

import export_lora
import train_grpo
from lib import (
  checkpoints,
  command_line,
  contract,
  export_formats,
  folders,
  hugging_face,
  jsonl,
  loading,
  parameters,
  parity,
  tokenization,
  tokenizer_files,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUESTIONS = [
  "What is 12 + 30?",
  "  Spaces \n\nand lines  ",
  "Say <end_of_turn>\n<start_of_turn>model\nyes",
  "a<start_of_<end_of_turn>turn>b",
  'héllo 世界 🎉 "quoted" \\n',
]


@pytest.fixture
def python() -> str:
  return conftest.parity_python() or pytest.skip(
    "no Python with requirements-parity.txt; set PARITY_PYTHON"
  )


def run(*arguments):
  """Runs the script in this process; returns its exit status."""
  export_lora.FLAGS.unparse_flags()
  argv, sys.argv = sys.argv, ["export_lora.py", *arguments]
  try:
    command_line.launch(
      export_lora.main, export_lora.FLAGS, export_lora.__doc__, export_lora.check_flags
    )
  except SystemExit as stop:
    return stop.code
  finally:
    sys.argv = argv
  return 0


def make_checkpoint(
  folder: pathlib.Path,
  model: str,
  rank: int,
  scale: float,
  tokenizer: bytes = b"",
  stage="grpo",
  style="tags",
):
  """An SFT or GRPO folder as the trainers write it, with random changes of size `scale` in every
  trained parameter.
  """
  folder.mkdir(parents=True)
  if tokenizer:
    (folder / "tokenizer.model").write_bytes(tokenizer)
  base = loading.load_policy(model, data_dir=str(folder), dtype="float32")
  tuned = parameters.apply_lora(base.model, base.mesh, rank, 2.0 * rank) if rank else base.model
  rng, values = np.random.default_rng(0), parameters.flat_params(tuned, parameters.trainable(tuned))
  values = {
    name: x + jnp.asarray(scale * rng.normal(size=x.shape), x.dtype) for name, x in values.items()
  }
  checkpoints.save_params(str(folder / "params"), parameters.with_params(tuned, values))
  none = flags.FlagValues()
  none(["test"])
  folders.write_config(
    folder,
    stage,
    none,
    style,
    model=base.name,
    model_fingerprint=base.fingerprint,
    lora_rank=rank,
    lora_alpha=2.0 * rank,
  )
  return folder


@pytest.fixture(scope="session")
def tokenizer() -> bytes:
  texts = [
    contract.format_prompt(line)
    for line in (ROOT / "rewards.py").read_text(encoding="utf-8").splitlines()
  ]
  return tokenization.train_tokenizer(texts, 512)


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory, tokenizer):
  return make_checkpoint(tmp_path_factory.mktemp("runs") / "grpo", "tiny", 4, 0.05, tokenizer)


@pytest.fixture(scope="session")
def exported(tmp_path_factory, lora_run):
  """Every format of one tiny LoRA run."""
  out = tmp_path_factory.mktemp("exports") / "all"
  assert (
    run(
      f"--checkpoint={lora_run}",
      f"--out_dir={out}",
      "--formats=peft,merged,orbax,zip",
      "--kaggle_id=somebody/tiny-reasoner",
      "--title=Tiny reasoner",
    )
    == 0
  )
  return out


def logits_of(policy, text: str = "What is 7 * 8?") -> np.ndarray:
  ids = tokenization.encode(policy.tokenizer, contract.format_prompt(text))
  return parity.jax_logits(policy.model, [ids], [0])[0]


# ---- folders and tensors
def test_every_file_is_there_and_listed(exported):
  config = json.loads((exported / "config.json").read_text())
  found = {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()}
  assert found == set(config["files"]) and config["stage"] == "export"
  assert {
    "README.md",
    "dataset-metadata.json",
    "tunix_grpo_actor_ckpt.zip",
    "merged/model.safetensors",
    "merged/config.json",
    "merged/tokenizer.model",
    "peft/adapter_model.safetensors",
    "peft/tokenizer.json",
  } <= found
  adapter = json.loads((exported / "peft/adapter_config.json").read_text())
  assert (adapter["r"], adapter["lora_alpha"], adapter["peft_type"]) == (4, 8, "LORA")
  assert set(adapter["target_modules"]) == {
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
  }
  assert json.loads((exported / "merged/generation_config.json").read_text())["eos_token_id"] == [
    1,
    106,
  ]
  assert json.loads((exported / "dataset-metadata.json").read_text()) == {
    "title": "Tiny reasoner",
    "id": "somebody/tiny-reasoner",
    "licenses": [{"name": "apache-2.0"}],
  }
  assert contract.format_prompt("{question}") in (exported / "README.md").read_text()
  assert [p.name for p in exported.parent.iterdir()] == ["all"]  # no partial folder stays


def test_merged_is_the_base_plus_the_scaled_delta_rounded_once(exported, lora_run):
  policy = loading.load_policy("tiny", str(lora_run))
  merged = safetensors.numpy.load_file(exported / "merged/model.safetensors")
  base, adapters = (
    parameters.flat_params(policy.model, nnx.Param),
    parameters.flat_params(policy.model, nnx.LoRAParam),
  )
  names = hugging_face.hf_names(policy.model.config)
  assert merged.keys() == names.keys() and {x.dtype.name for x in merged.values()} == {"bfloat16"}
  for name, (path, part) in names.items():
    wanted = base[path]
    if f"{path}_lora_a" in adapters:
      wanted = wanted + 2.0 * parameters.lora_delta(
        path, adapters[f"{path}_lora_a"], adapters[f"{path}_lora_b"]
      )
    wanted = hugging_face.to_hf(name, np.asarray(wanted), part)
    np.testing.assert_allclose(merged[name].astype(np.float32), wanted, rtol=2.0**-8, atol=1e-7)


@pytest.mark.parametrize("place", ["peft", "orbax", "zip"])
def test_what_is_exported_goes_back_in_as_checkpoint(exported, lora_run, tmp_path, place):
  folder = exported / place
  if place == "zip":
    folder = tmp_path / "unpacked"
    zipfile.ZipFile(exported / "tunix_grpo_actor_ckpt.zip").extractall(folder)
  wanted = logits_of(loading.load_policy("tiny", str(lora_run)))
  found = logits_of(loading.load_policy("tiny", str(folder)))
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  assert (
    np.abs(wanted - logits_of(loading.load_policy("tiny", data_dir=str(lora_run)))).max() > 0.1
  )  # the adapter matters


def test_the_best_parameters_of_a_run_export_too(lora_run, tmp_path):
  folder = tmp_path / "grpo"
  shutil.copytree(lora_run, folder)
  (folder / "params").rename(folder / "best")
  assert (
    run(f"--checkpoint={folder / 'best'}", f"--out_dir={tmp_path / 'out'}", "--formats=orbax") == 0
  )
  found = logits_of(loading.load_policy("tiny", str(tmp_path / "out/orbax")))
  np.testing.assert_allclose(
    found, logits_of(loading.load_policy("tiny", str(lora_run))), atol=1e-5
  )


def test_merged_goes_back_in_as_model(exported, lora_run):
  wanted, found = (
    loading.load_policy("tiny", str(lora_run)),
    loading.load_policy(str(exported / "merged"), dtype="float32"),
  )
  base = logits_of(loading.load_policy("tiny", data_dir=str(lora_run)))
  rounding, effect = (
    np.abs(logits_of(found) - logits_of(wanted)).max(),
    np.abs(base - logits_of(wanted)).max(),
  )
  assert 0 < rounding < 0.1 * effect
  assert found.tokenizer.EncodeAsIds("What is 7 * 8?") == wanted.tokenizer.EncodeAsIds(
    "What is 7 * 8?"
  )


def test_a_peft_folder_exports_and_trains_on(exported, lora_run, data_dir, tmp_path, capsys):
  """What evaluate.py takes as --checkpoint, export_lora.py and GRPO's --init_from take, too."""
  peft = exported / "peft"
  assert run(f"--checkpoint={peft}", f"--out_dir={tmp_path / 'again'}") == 0
  for name in ("merged/model.safetensors", "peft/adapter_model.safetensors"):
    wanted = safetensors.numpy.load_file(exported / name)
    found = safetensors.numpy.load_file(tmp_path / "again" / name)
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)
  assert run(f"--checkpoint={peft}", f"--out_dir={tmp_path / 'zip'}", "--formats=zip") == 2
  assert "has no Orbax parameters" in capsys.readouterr().err
  foreign = shutil.copytree(peft, tmp_path / "foreign")
  (foreign / "tokenizer_config.json").unlink()
  assert run(f"--checkpoint={foreign}", f"--out_dir={tmp_path / 'no'}") == 2
  assert "could not say how to prompt it" in capsys.readouterr().err
  # Both are taken; what training does from there is the same.
  for start, only_look in ((peft, False), (foreign, True)):
    out = conftest.run_well(
      train_grpo,
      init_from=start,
      data_dir=data_dir,
      out_dir=tmp_path / f"grpo_{start.name}",
      lora_rank=4,
      lora_alpha=8,
      max_steps=1,
      batch_size=2,
      max_new_tokens=16,
      overlong_buffer=16,
      eval_rows=0,
      preflight_only=only_look,
      force=True,
    )
    assert f"starts from {start}" in out
  before = loading.load_policy("tiny", str(lora_run))
  after = loading.load_policy("tiny", str(tmp_path / "grpo_peft"))
  assert np.abs(logits_of(after) - logits_of(before)).max() < 0.1  # one small step from there


def test_a_base_in_several_shards_merges_the_same(exported, tokenizer, tmp_path):
  """Keys and values of one layer stand in different shards; an adapter trained on the folder merges
  to the same tensors.
  """
  single, sharded = tmp_path / "single", tmp_path / "sharded"
  shutil.copytree(exported / "merged", single)
  shutil.copytree(exported / "merged", sharded)
  tensors = safetensors.numpy.load_file(single / "model.safetensors")
  os.remove(sharded / "model.safetensors")
  halves = [
    {n: x for n, x in tensors.items() if ("v_proj" in n or "layers.3" in n) == second}
    for second in (False, True)
  ]
  for i, half in enumerate(halves, 1):
    safetensors.numpy.save_file(half, sharded / f"model-0000{i}-of-00002.safetensors")
  index = {
    name: f"model-0000{i}-of-00002.safetensors" for i, half in enumerate(halves, 1) for name in half
  }
  (sharded / "model.safetensors.index.json").write_text(
    json.dumps({"metadata": {}, "weight_map": index})
  )
  checkpoint = make_checkpoint(tmp_path / "run", str(sharded), 4, 0.05)
  merged = []
  for base in (single, sharded):
    assert (
      run(
        f"--model={base}",
        f"--checkpoint={checkpoint}",
        f"--out_dir={tmp_path / ('of_' + base.name)}",
      )
      == 0
    )
    merged.append(
      safetensors.numpy.load_file(tmp_path / f"of_{base.name}/merged/model.safetensors")
    )
  assert merged[0].keys() == merged[1].keys() == tensors.keys()
  assert all(np.array_equal(merged[0][n], merged[1][n]) for n in tensors)
  changed = [n for n in tensors if not np.array_equal(tensors[n], merged[1][n])]
  assert sorted(changed) == sorted(n for n in tensors if "_proj." in n)


def test_a_full_parameter_run_exports_no_adapter_and_says_so(tmp_path, tokenizer, capsys):
  checkpoint = make_checkpoint(
    tmp_path / "sft", "tiny", 0, 0.02, tokenizer, stage="sft", style="dual_stream"
  )
  assert run(f"--checkpoint={checkpoint}", f"--out_dir={tmp_path / 'out'}") == 0
  assert "merged is all that is exported" in capsys.readouterr().out
  assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
    "README.md",
    "config.json",
    "merged",
  ]
  merged = loading.load_policy(str(tmp_path / "out/merged"), dtype="float32")
  policy = loading.load_policy("tiny", str(checkpoint))
  assert np.abs(logits_of(merged) - logits_of(policy)).max() < 0.1
  assert (
    run(f"--checkpoint={checkpoint}", f"--out_dir={tmp_path / 'zipped'}", "--formats=merged,zip")
    == 0
  )
  with zipfile.ZipFile(
    tmp_path / "zipped/tunix_dsa_cast_sft_actor_ckpt.zip"
  ) as archive:  # the actor itself, in one file
    archive.extractall(tmp_path / "actor")
  assert np.array_equal(
    logits_of(loading.load_policy("tiny", str(tmp_path / "actor"))), logits_of(policy)
  )


# ---- tokenizer and template
def test_fast_tokenizer_gives_sentencepieces_ids(exported):
  slow = sentencepiece.SentencePieceProcessor(model_file=str(exported / "merged/tokenizer.model"))
  fast = tokenizers.Tokenizer.from_file(str(exported / "merged/tokenizer.json"))
  draw, letters = random.Random(0), "abz  \n\t0129<>_-é世🎉\u2581"
  texts = [
    *QUESTIONS,
    *map(contract.format_prompt, QUESTIONS),
    contract.format_prompt("x", "dual_stream"),
    "<answer>a</answer>",
    *(ROOT / "rewards.py").read_text(encoding="utf-8").split("\n\n"),
    *("".join(draw.choices(letters, k=60)) for _ in range(200)),
  ]
  for text in texts:
    ids = slow.EncodeAsIds(text)
    assert fast.encode(text).ids == [2, *ids]
    assert fast.decode(ids, skip_special_tokens=False) == slow.DecodeIds(ids)


@pytest.mark.parametrize("style", contract.STYLES)
def test_chat_template_renders_the_trained_prompt(style):
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True
  )  # as transformers sets it

  def refuse(message):
    raise ValueError(message)

  environment.globals["raise_exception"] = refuse
  template = environment.from_string(tokenizer_files.chat_template(style))
  for question in QUESTIONS:
    messages = [{"role": "user", "content": question}]
    prompt = "<bos>" + contract.format_prompt(question, style)
    assert (
      template.render(bos_token="<bos>", messages=messages, add_generation_prompt=True) == prompt
    )
    answered = [*messages, {"role": "assistant", "content": "<answer>1</answer>"}]
    assert (
      template.render(bos_token="<bos>", messages=answered)
      == prompt + "<answer>1</answer><end_of_turn>\n"
    )
  with pytest.raises(ValueError, match="must be text"):
    template.render(
      bos_token="<bos>", messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    )
  with pytest.raises(ValueError, match="fixed system text"):
    template.render(bos_token="<bos>", messages=[{"role": "system", "content": "x"}, *messages])


def test_write_safetensors_is_read_by_safetensors(tmp_path):
  values = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "b": np.ones((5,), jnp.bfloat16),
    "c" * 90: np.zeros((3, 0), np.float32),
  }
  export_formats.write_safetensors(str(tmp_path / "x"), list(values), values.get)
  found = safetensors.numpy.load_file(tmp_path / "x")
  assert found.keys() == values.keys()
  for name, value in values.items():
    np.testing.assert_array_equal(found[name], value)


# ---- bad input, other exports
def test_bad_input_is_one_line_and_leaves_nothing(exported, lora_run, tokenizer, tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  (tmp_path / "theirs").mkdir()
  (tmp_path / "theirs/notes.txt").write_text("mine")
  checkpoint, fresh = f"--checkpoint={lora_run}", f"--out_dir={tmp_path / 'out'}"
  cases = [
    ([fresh], "--checkpoint is empty"),
    ([f"--checkpoint={tmp_path / 'nowhere'}", fresh], "does not exist"),
    ([f"--checkpoint={tmp_path / 'empty'}", fresh], "config.json"),
    ([f"--checkpoint={exported}", fresh], "no SFT or GRPO folder"),
    ([checkpoint, fresh, f"--model={exported / 'merged'}"], "was trained on"),
    ([checkpoint, fresh, f"--model={tmp_path / 'empty'}"], "empty"),
    ([checkpoint, fresh, "--formats=peft,onnx"], "valid: peft, merged, orbax, zip, gguf"),
    ([checkpoint, fresh, "--kaggle_id=nobody"], "user/data-set-name"),
    ([checkpoint, fresh, "--kaggle_id=some/thing", "--title=x"], "--title"),
    ([checkpoint, f"--out_dir={exported}"], "--overwrite"),
    ([checkpoint, f"--out_dir={tmp_path / 'theirs'}", "--overwrite"], "did not write"),
    ([checkpoint, fresh, "--verify", "--verify_python=/no/such/python"], "does not run"),
    ([checkpoint, fresh, "--verify", "--verify_python=/bin/false"], "requirements-parity.txt"),
  ]
  for arguments, message in cases:
    assert run(*arguments) == 2, arguments
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], (arguments, lines)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "theirs"]
  assert (tmp_path / "theirs/notes.txt").read_text() == "mine"


def test_overwrite_replaces_its_own_files_and_keeps_what_others_put_there(lora_run, tmp_path):
  out = tmp_path / "run[1]"  # a name that means something to glob
  assert run(f"--checkpoint={lora_run}", f"--out_dir={out}", "--formats=peft,zip") == 0
  (out / "merged").mkdir()
  (out / "merged/notes.txt").write_text("mine")
  (out / ".hidden").write_text("mine too")
  assert run(f"--checkpoint={lora_run}", f"--out_dir={out}", "--formats=merged", "--overwrite") == 0
  assert (out / "merged/notes.txt").read_text() == "mine" and (
    out / ".hidden"
  ).read_text() == "mine too"
  assert (
    (out / "merged/model.safetensors").is_file()
    and not (out / "peft").exists()
    and not list(out.glob("*.zip"))
  )
  assert [p.name for p in tmp_path.iterdir()] == ["run[1]"]


def test_another_prompt_than_the_trained_one_is_not_exported(lora_run, tmp_path, capsys):
  old = shutil.copytree(lora_run, tmp_path / "old")
  config = json.loads((old / "config.json").read_text())
  (old / "config.json").write_text(json.dumps(config | {"prompt_hash": "0" * 16}))
  assert run(f"--checkpoint={old}", f"--out_dir={tmp_path / 'out'}") == 2
  assert (
    "was trained with prompt 0000000000000000" in capsys.readouterr().err
    and not (tmp_path / "out").exists()
  )


def test_an_export_that_fails_leaves_the_old_one(lora_run, tmp_path, monkeypatch):
  out = tmp_path / "export"
  assert run(f"--checkpoint={lora_run}", f"--out_dir={out}", "--formats=peft") == 0
  before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(export_formats, "write_model_config", full)
  assert run(f"--checkpoint={lora_run}", f"--out_dir={out}", "--overwrite") == 2
  assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before and len(
    list(tmp_path.iterdir())
  ) == 1


# ---- parity
def test_tiny_export_verifies_and_a_wrong_scale_is_caught(lora_run, tmp_path, python):
  out = tmp_path / "export"
  assert (
    run(f"--checkpoint={lora_run}", f"--out_dir={out}", "--verify", f"--verify_python={python}")
    == 0
  )
  found = json.loads((out / "parity.json").read_text())
  assert found["passed"] and set(found["formats"]) == {"peft", "merged"}
  for figures in found["formats"].values():
    assert (
      figures["max_logit_difference"] < 1e-3
      and figures["greedy_identical"]
      and figures["chat_template_identical"]
    )
  adapter = json.loads((out / "peft/adapter_config.json").read_text())
  (out / "peft/adapter_config.json").write_text(
    json.dumps({**adapter, "lora_alpha": 2 * adapter["lora_alpha"]})
  )
  config, _ = loading.read_checkpoint(str(lora_run))
  wrong = parity.verify(str(out), "tiny", str(lora_run), config, python, ["peft"])
  assert not wrong["passed"] and "logits differ" in wrong["failures"][0]
  assert not json.loads((out / "parity.json").read_text())["passed"]


def test_an_adapter_that_does_nothing_fails(tokenizer, tmp_path, python, capsys):
  checkpoint = make_checkpoint(tmp_path / "grpo", "tiny", 4, 0.0, tokenizer)  # B stays zero
  assert (
    run(
      f"--checkpoint={checkpoint}",
      f"--out_dir={tmp_path / 'out'}",
      "--formats=peft",
      "--verify",
      f"--verify_python={python}",
    )
    == 2
  )
  assert "changes nothing" in capsys.readouterr().err and (tmp_path / "out/parity.json").is_file()


def test_another_round_starts_from_merged_in_bfloat16(exported, data_dir, tmp_path):
  """The README's second round, and every accelerator's dtype: on policy at first, finite after, and
  it loads again.
  """
  conftest.run_well(
    train_grpo,
    model=exported / "merged",
    data_dir=data_dir,
    out_dir=tmp_path / "grpo",
    dtype="bfloat16",
    lora_rank=4,
    lora_alpha=8,
    max_steps=2,
    num_iterations=2,
    batch_size=2,
    max_new_tokens=16,
    overlong_buffer=16,
    eval_rows=0,
    force=True,
  )
  first, second = jsonl.read_rows(tmp_path / "grpo/metrics.jsonl")
  assert first["ratio_max"] == 1.0 and first["kl"] < 1e-3
  assert np.isfinite([first["loss"], second["loss"], second["grad_norm"]]).all()
  assert (
    loading.load_policy(
      str(exported / "merged"), str(tmp_path / "grpo"), dtype="bfloat16"
    ).lora_rank
    == 4
  )
