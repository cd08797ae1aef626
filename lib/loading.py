"""TODO-DOC loading."""

import glob
import os
from typing import NamedTuple

import jax
import numpy as np
import sentencepiece as spm
from flax import nnx

from lib import checkpoints, devices, folders, gemma, hugging_face, parameters, tokenization
from lib.errors import InputError


class Policy(NamedTuple):
  model: nnx.Module  # Tunix Gemma3, with LoRA where lora_rank > 0
  tokenizer: spm.SentencePieceProcessor
  mesh: jax.sharding.Mesh
  name: str  # "tiny" or the folder
  fingerprint: str  # of the base weights: an adapter on another base is refused
  lora_rank: int  # 0: no adapter
  lora_alpha: float


def resolve_model(model: str) -> str:
  """--model to "tiny" or a local folder; known names come from /kaggle/input or kagglehub."""
  if model == "tiny" or os.path.isdir(model):
    return model
  if model not in gemma.KAGGLE_HANDLES:
    raise InputError(
      f"{model} is neither a folder nor one of: tiny, {', '.join(gemma.KAGGLE_HANDLES)}"
    )
  attached = sorted(glob.glob(f"/kaggle/input/**/{model}/**/config.json", recursive=True))
  if attached:
    return os.path.dirname(attached[-1])
  import kagglehub  # only here: everything else works without a network

  try:
    return kagglehub.model_download(gemma.KAGGLE_HANDLES[model])
  except Exception as error:  # kagglehub raises its own, requests' and the OS's errors
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise InputError(
      f"could not fetch {gemma.KAGGLE_HANDLES[model]} from Kaggle ({first_line}); accept the licence on the model's page, set "
      "KAGGLE_USERNAME and KAGGLE_KEY (kaggle.com, Settings, API) or attach the model to the notebook; "
      "MODEL=tiny ./run.sh needs no account"
    ) from error


def load_policy(
  model: str, checkpoint: str = "", data_dir: str = "", mesh: str = "auto", dtype: str = "auto"
) -> Policy:
  """The base model and, where `checkpoint` is given, what an SFT or GRPO run (or a PEFT adapter) changed in it."""
  folder, on = resolve_model(model), devices.make_mesh(mesh)
  tokenizer = tokenization.load_tokenizer(folder, data_dir, checkpoint)
  base = gemma.load_base(folder, tokenizer, on, dtype)
  mark = gemma.fingerprint(base)
  if not checkpoint:
    return Policy(base, tokenizer, on, folder, mark, 0, 0.0)
  if os.path.isfile(os.path.join(checkpoint, "adapter_config.json")):
    tuned, rank, alpha = load_peft_adapter(base, checkpoint, on)
    return Policy(tuned, tokenizer, on, folder, mark, rank, alpha)
  config, params = read_checkpoint(checkpoint)
  if config["model_fingerprint"] != mark:
    raise InputError(
      f"{checkpoint} was trained on {config['model']} ({config['model_fingerprint']}), --model={model} is "
      f"{mark}; pass the --model it was trained on"
    )
  rank, alpha = config["lora_rank"], config["lora_alpha"]
  tuned = parameters.apply_lora(base, on, rank, alpha) if rank else base
  return Policy(checkpoints.load_params(params, tuned), tokenizer, on, folder, mark, rank, alpha)


def read_checkpoint(folder: str) -> tuple[dict, str]:
  """(config.json, parameter folder) of a finished SFT or GRPO folder, or of a best/ or params/ in one, finished or not."""
  folder = folder.rstrip("/")
  inner = os.path.basename(folder) in ("best", "params")
  params, run = (
    folder if inner else os.path.join(folder, "params"),
    os.path.dirname(folder) if inner else folder,
  )
  broken_off = inner and not os.path.isfile(os.path.join(run, "config.json"))
  config = (
    broken_off
    and folders.read_run(run).get("made")
    or folders.read_config(run, "train_sft.py or train_grpo.py")
  )
  if "model_fingerprint" not in config or not os.path.isdir(params):
    raise InputError(
      f"{folder} is no SFT or GRPO folder (no params/ inside, stage {config.get('stage')!r}); "
      "make one with train_sft.py or train_grpo.py"
    )
  return config, params


def load_peft_adapter(base: nnx.Module, folder: str, mesh) -> tuple[nnx.Module, int, float]:
  """`base` with a PEFT LoRA adapter (ours or another tool's) as qwix LoRA, its rank and alpha."""
  tensors, trained_rank, alpha = hugging_face.read_peft(folder)
  adapters = hugging_face.from_peft(tensors, base.config)
  rank = next(value.shape[-1] for name, value in adapters.items() if name.endswith("_lora_a"))
  alpha = alpha / trained_rank * rank
  model = parameters.apply_lora(base, mesh, rank, alpha)
  places = parameters.flat_params(model, nnx.LoRAParam)
  values = {
    name: jax.device_put(value.astype(np.float32), places[name].sharding)
    for name, value in adapters.items()
  }
  return parameters.with_params(model, values), rank, alpha
