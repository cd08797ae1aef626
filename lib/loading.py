"""A policy: the base model and what an SFT or GRPO run, or a PEFT adapter, changed in it.

Every stage starts with `load_policy`; `read_checkpoint` tells what a checkpoint is before any
weight is read, and `load_peft_adapter` brings PEFT's factors into qwix's.
"""

import os
from typing import NamedTuple

import jax
import numpy as np
import sentencepiece as spm
from flax import nnx

from lib import (
  checkpoints,
  command_line,
  devices,
  folders,
  gemma,
  hosts,
  hugging_face,
  model_names,
  parameters,
  peft_folder,
  tokenization,
  tokenizer_check,
)
from lib.errors import InputError

MADE_BY = "train_sft.py or train_grpo.py"


class Policy(NamedTuple):
  model: nnx.Module  # Tunix Gemma3, with LoRA where lora_rank > 0
  tokenizer: spm.SentencePieceProcessor
  mesh: jax.sharding.Mesh
  name: str  # "tiny" or the folder
  fingerprint: str  # of the base weights: an adapter on another base is refused
  lora_rank: int  # 0: no adapter
  lora_alpha: float


def load_policy(
  model: str, checkpoint: str = "", data_dir: str = "", mesh: str = "auto", dtype: str = "auto"
) -> Policy:
  """The base model, with what the run or the PEFT adapter in `checkpoint` changed in it."""
  folder = model_names.resolve_model(model)  # may download
  # A shell leaves the ~ of --checkpoint=~/run as it is.
  checkpoint = os.path.expanduser(checkpoint)
  on = devices.make_mesh(mesh)
  devices.use_arithmetic(dtype)
  # Before the weights: a wrong tokenizer is told in a second, a large model loads in minutes.
  if folder != "tiny":
    tokenizer_check.check_tokenizer_files(folder)
  tokenizer = tokenization.load_tokenizer(folder, data_dir, checkpoint)
  base = gemma.load_base(folder, tokenizer, on, dtype)
  mark = gemma.fingerprint(base)
  if not checkpoint:
    return Policy(base, tokenizer, on, folder, mark, lora_rank=0, lora_alpha=0.0)
  if hosts.on_lead(peft_folder.is_adapter, checkpoint):
    tuned, rank, alpha = load_peft_adapter(base, checkpoint, on)
    return Policy(tuned, tokenizer, on, folder, mark, rank, alpha)
  config, params = read_checkpoint(checkpoint)
  # On another base an adapter would load without an error and answer nonsense.
  if config["model_fingerprint"] != mark:
    raise InputError(
      f"{checkpoint} was trained on {config['model']} ({config['model_fingerprint']}), "
      f"--model={model} is {mark}; pass the --model it was trained on"
    )
  rank = config["lora_rank"]  # 0: the run trained all parameters
  alpha = config["lora_alpha"]
  tuned = parameters.apply_lora(base, on, rank, alpha) if rank else base
  # Adapters go into the LoRA parameters just made, full parameters over the base's own.
  tuned = checkpoints.load_params(params, tuned)
  return Policy(tuned, tokenizer, on, folder, mark, rank, alpha)


def read_checkpoint(folder: str) -> tuple[dict, str]:
  """(what is known of a checkpoint, folder of its parameters), before anything large is read.

  A finished SFT or GRPO folder gives its config.json; its best/ or params/ works, too, and then the
  run may be unfinished. A PEFT folder gives the same keys, None for what a foreign adapter does not
  tell: style, prompt_hash, model_fingerprint.
  """
  return hosts.on_lead(read_checkpoint_here, folder)


def read_checkpoint_here(folder: str) -> tuple[dict, str]:
  """`read_checkpoint` on the host that has the folder."""
  folder = os.path.expanduser(folder).rstrip("/")
  if peft_folder.is_adapter(folder):
    return describe_adapter(folder), folder
  config, params = read_run_config(folder)
  # A folder of data or of an export has a config.json, too.
  if "model_fingerprint" not in config or not os.path.isdir(params):
    hint = "pass it as --model" if "model_type" in config else f"make one with {MADE_BY}"
    raise InputError(
      f"{folder} is no SFT or GRPO folder (no params/ inside, stage {config.get('stage')!r}); "
      f"{hint}"
    )
  return config, params


def read_run_config(folder: str) -> tuple[dict, str]:
  """(config.json, parameter folder) of a run's folder, or of the best/ or params/ in it."""
  if os.path.basename(folder) not in ("best", "params"):
    return folders.read_config(folder, MADE_BY), os.path.join(folder, "params")
  run = os.path.dirname(folder)
  # config.json comes last; run.json has the same facts of a run that was broken off.
  unfinished = not folders.is_complete(run)
  made = folders.read_run(run).get("made") if unfinished else None
  return made or folders.read_config(run, MADE_BY), folder


def describe_adapter(folder: str) -> dict:
  """`read_checkpoint`'s facts of a PEFT folder; our exports' chat template tells their style."""
  settings = peft_folder.read_settings(folder)
  style, prompt_hash = tokenizer_check.trained_style(folder)
  return {
    "stage": "peft",
    "model": settings.get("base_model_name_or_path"),
    "model_fingerprint": None,
    "lora_rank": settings["r"],
    "lora_alpha": settings["lora_alpha"],
    "style": style,
    "prompt_hash": prompt_hash,
    "flags": {},
  }


def load_peft_adapter(base: nnx.Module, folder: str, mesh) -> tuple[nnx.Module, int, float]:
  """`base` with a PEFT LoRA adapter (ours or another tool's) as qwix LoRA, its rank and alpha."""
  adapter = hosts.on_lead(peft_folder.read_peft, folder)
  factors = hugging_face.from_peft(adapter.tensors, base.config)
  images = [name for name in adapter.tensors if hugging_face.PEFT_OF_IMAGES.fullmatch(name)]
  if images:
    command_line.say(
      f"note: {folder} also changes how images are seen ({len(images)} tensors); that part is "
      "left out"
    )
  # qwix keeps A as (in, r): the last axis is the rank.
  rank = next(value.shape[-1] for name, value in factors.items() if name.endswith("_lora_a"))
  if rank not in (adapter.rank, 2 * adapter.rank):  # twice: see `from_peft`
    raise InputError(
      f"{folder} says r = {adapter.rank}, its factors have rank {rank}; save it again with peft"
    )
  # E.g. alpha 16 at r 8, loaded as rank 16: alpha 32, so that the scale stays 2.
  alpha = adapter.alpha / adapter.rank * rank  # the scale, alpha / rank, is the adapter's
  model = parameters.apply_lora(base, mesh, rank, alpha)
  places = parameters.flat_params(model, nnx.LoRAParam)
  # Projections that the adapter leaves alone keep `apply_lora`'s B of zeros.
  values = {}
  for name, factor in factors.items():
    # float32 like all adapters here, and on the devices where `apply_lora` put its own.
    values[name] = hosts.spread(factor.astype(np.float32), places[name].sharding)
  return parameters.with_params(model, values), rank, alpha
