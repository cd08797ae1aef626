"""The folders of an export, each written from one trained policy.

`read_trained` opens the policy and keeps what writing needs; `write_formats` writes what was asked
for: `write_adapter` for PEFT, `write_model` for transformers (base + scale · B·A, one tensor in
memory at a time), `write_orbax` for this project's own scripts.

A multimodal base (4B and up) stays one: its vision tower is copied, and the text model's tensors
get the names that such a folder has.
"""

import json
import os
import pathlib
import shutil
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from lib import (
  gemma_config,
  hugging_face,
  jsonl,
  loading,
  model_names,
  parameters,
  tokenization,
  tokenizer_files,
  weight_files,
)

FORMATS = ("peft", "merged", "orbax", "zip", "gguf")
# PEFT takes a pattern for target_modules: bare names would match the vision tower's q_proj, too.
TEXT_LAYERS = r"(?:.*\.)?{module}\.layers\.\d+\.(?:self_attn|mlp)\.(?:{projections})"
DTYPE_CODES = {"bfloat16": "BF16", "float32": "F32"}  # safetensors' spelling


class Trained(NamedTuple):
  """A policy as far as its export needs it: numpy arrays, and no more memory than that."""

  policy: loading.Policy  # without its model
  shape: gemma_config.ModelConfig
  style: str
  base: dict  # Tunix parameters; {} where the base folder's tensors are the base
  adapter: dict[str, np.ndarray]  # PEFT's tensors by the text model's own names; {} without LoRA


def read_trained(model: str, checkpoint: str, style: str) -> Trained:
  """The trained policy. Another base than the one trained on is refused."""
  policy = loading.load_policy(model, checkpoint, dtype="bfloat16")  # adapters stay float32
  shape = policy.model.config
  adapter = {}
  if policy.lora_rank:
    factors = parameters.flat_params(policy.model, nnx.LoRAParam)
    adapter = hugging_face.to_peft({name: np.asarray(x) for name, x in factors.items()}, shape)
  base = {}
  if policy.name == "tiny" or not adapter:  # no folder has these weights
    base = parameters.flat_params(policy.model, nnx.Param)
  return Trained(policy._replace(model=None), shape, style, base, adapter)


def bytes_needed(trained: Trained, params: str, formats: list[str]) -> int:
  """Disk that `write_formats` takes, a tenth more; params: the folder of Orbax's parameters."""
  # From shapes alone: nothing is read for it.
  tensors = hugging_face.hf_shapes(trained.shape).values()
  count = sum(int(np.prod(shape)) for shape in tensors)
  # The vision tower is copied along.
  if is_multimodal(trained.policy.name):
    for tensor in weight_files.tensor_files(trained.policy.name).values():
      if weight_files.NOT_TEXT.fullmatch(tensor.name):
        count += int(np.prod(tensor.shape))
  copies = [path for path in pathlib.Path(params).rglob("*") if path.is_file()]
  orbax = sum(path.stat().st_size for path in copies)
  needed = sum(x.nbytes for x in trained.adapter.values())
  if "peft" in formats and trained.policy.name == "tiny":
    needed += 4 * count  # base/, float32
  if "merged" in formats or "gguf" in formats:
    needed += 2 * count  # bfloat16
  if "gguf" in formats:
    needed += 2 * count
  if "orbax" in formats or "zip" in formats:
    needed += orbax
  if "zip" in formats:
    needed += orbax
  # Headers, tokenizers, and what a file system rounds up.
  return int(1.1 * needed)


def write_formats(out: str, trained: Trained, config: dict, params: str, formats: list[str]):
  """Writes all of `formats` but gguf, which is made of merged/. config: the checkpoint's."""
  if "peft" in formats:
    write_adapter(f"{out}/peft", trained)
    if trained.policy.name == "tiny":  # what the adapter sits on is nowhere else
      write_model(f"{out}/base", trained._replace(adapter={}), np.float32)
  if "merged" in formats or "gguf" in formats:
    write_model(f"{out}/merged", trained, jnp.bfloat16)
  if "orbax" in formats or "zip" in formats:
    write_orbax(f"{out}/orbax", trained, config, params)
  if "zip" in formats:
    recipe = "dsa_cast_" if trained.style == "dual_stream" else ""  # that write-up's file name
    archive = f"{out}/tunix_{recipe}{config['stage']}_actor_ckpt"
    shutil.make_archive(archive, "zip", f"{out}/orbax")
    if "orbax" not in formats:
      # It was made for the archive alone.
      shutil.rmtree(f"{out}/orbax")


# PEFT.
def write_adapter(folder: str, trained: Trained):
  """PEFT's two files, with a tokenizer.

  Both libraries scale A·B by alpha / rank, so the numbers pass as they are. The names are those of
  the modules that AutoModelForCausalLM makes of the base: PEFT skips a tensor that names another,
  and the adapter would do nothing.
  """
  os.makedirs(folder)
  policy = trained.policy
  tiny = policy.name == "tiny"
  module = text_module(policy.name)
  alpha = policy.lora_alpha
  settings = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": policy.lora_rank,
    # 32 rather than 32.0, as PEFT's own files have it.
    "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
    "lora_dropout": 0.0,
    "target_modules": target_modules(trained.adapter, module),
    "bias": "none",
    # Weights are (out, in), as in torch's Linear; GPT-2's Conv1D is the other way round.
    "fan_in_fan_out": False,
    # rsLoRA scales by alpha / √r, which is not what was trained.
    "use_rslora": False,
    "use_dora": False,
    "base_model_name_or_path": "base" if tiny else model_names.hub_name(policy.name),
    "inference_mode": True,
  }
  jsonl.write_text(f"{folder}/adapter_config.json", json.dumps(settings, indent=1) + "\n")
  tensors = {}
  for name, value in trained.adapter.items():
    within = name.removeprefix("base_model.model.model.")  # layers.0.mlp.up_proj.lora_A.weight
    tensors[f"base_model.model.{module}.{within}"] = value
  path = f"{folder}/adapter_model.safetensors"
  safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
  tokenizer_files.write_tokenizer(folder, policy, trained.style)


def target_modules(adapter: dict[str, np.ndarray], module: str) -> list[str] | str:
  """Which modules get an adapter: names, or a pattern where a vision tower has the same names."""
  # layers.0.mlp.up_proj.lora_A.weight → up_proj.
  projections = sorted({name.split(".")[-3] for name in adapter})
  if module == "model":
    return projections
  return TEXT_LAYERS.format(module="language_model", projections="|".join(projections))


def is_multimodal(model: str) -> bool:
  """Whether a base is a folder with a vision tower beside the text model: 4B and up."""
  return model != "tiny" and gemma_config.read_config(model).get("model_type") == "gemma3"


def text_module(model: str) -> str:
  """Where the text model stands in what transformers (4.52 and later) loads of a base."""
  return "model.language_model" if is_multimodal(model) else "model"


# A Hugging Face folder.
def write_model(folder: str, trained: Trained, dtype):
  """A folder that transformers loads: the base, its adapter merged in, in `dtype`."""
  os.makedirs(folder)
  read = tensor_reader(trained)
  names = written_names(trained)

  # Rounded once, after base and adapter are added in float32.
  def tensor(name: str) -> np.ndarray:
    return read(names[name]).astype(dtype)

  write_safetensors(f"{folder}/model.safetensors", sorted(names), tensor)
  write_model_config(folder, trained, np.dtype(dtype).name)
  tokenizer_files.write_tokenizer(folder, trained.policy, trained.style)
  tokenizer_files.copy_processor(folder, trained.policy.name)


def written_names(trained: Trained) -> dict[str, str]:
  """{tensor to write: what `tensor_reader` calls it}.

  A multimodal folder gets Google's published names, which every tool knows, whichever release of
  transformers wrote the base: language_model.model.…, vision_tower.…, multi_modal_projector.….
  No head is written: it is the embedding.
  """
  text = hugging_face.hf_names(trained.shape)
  if not is_multimodal(trained.policy.name):
    return {name: name for name in text}
  names = {f"language_model.{name}": name for name in text}
  for name in weight_files.tensor_files(trained.policy.name):
    # inv_freq follows from the config; only old files store it.
    images = weight_files.NOT_TEXT.fullmatch(name) and not name.endswith("inv_freq")
    if images:
      names[name.removeprefix("model.")] = name
  return names


def tensor_reader(trained: Trained):
  """A function from a name, as `written_names` gives it, to the trained tensor."""
  places = hugging_face.hf_names(trained.shape)
  plain = {}
  stored = {}
  if trained.policy.name != "tiny":
    plain = weight_files.text_tensors(trained.policy.name)
    stored = weight_files.tensor_files(trained.policy.name)

  def read(name: str) -> np.ndarray:
    if name not in places:  # it sees images, and is as it was
      return weight_files.read_tensor(stored[name])
    # Trained in full, or tiny: the parameters of the run, in Tunix's layouts.
    if trained.base:
      parameter, part = places[name]
      value = hugging_face.to_hf(name, np.asarray(trained.base[parameter]), part)
    else:
      value = weight_files.read_tensor(plain[name])
    return merged(name, value, trained)

  return read


def merged(name: str, value: np.ndarray, trained: Trained) -> np.ndarray:
  """W + alpha / r · B·A in float32 (Hu et al. 2021, §4.1), where the adapter has that module."""
  # model.layers.0.mlp.up_proj.weight → base_model.model.model.layers.0.mlp.up_proj.
  module = f"base_model.model.{name.removesuffix('.weight')}"
  if f"{module}.lora_A.weight" not in trained.adapter:
    return value
  a = trained.adapter[f"{module}.lora_A.weight"].astype(np.float32)  # (r, in)
  b = trained.adapter[f"{module}.lora_B.weight"].astype(np.float32)  # (out, r)
  scale = np.float32(trained.policy.lora_alpha / trained.policy.lora_rank)
  # Added before it is rounded to bfloat16: B·A may be smaller than the last bit of W.
  return value.astype(np.float32) + scale * (b @ a)


def write_safetensors(path: str, names: list[str], tensor):
  """Writes tensor(name) of every name, one in memory at a time; safetensors' own writer wants all.

  The format: the header's length, a JSON header, the raw data. The header ends in spaces, so its
  room can be kept before the sizes are known.
  """
  # 128 bytes a tensor hold dtype, shape and two offsets; a multiple of 8 aligns the data.
  room = (512 + sum(len(name) + 128 for name in names)) // 8 * 8
  header = {"__metadata__": {"format": "pt"}}
  start = 0
  with open(path, "wb") as f:
    f.seek(8 + room)
    for name in names:
      value = np.ascontiguousarray(tensor(name))
      # As bytes: numpy's own buffers know no bfloat16.
      f.write(value.view(np.uint8).data)
      end = start + value.nbytes
      header[name] = {
        "dtype": DTYPE_CODES[value.dtype.name],
        "shape": value.shape,
        "data_offsets": [start, end],
      }
      start = end
    f.seek(0)
    f.write(room.to_bytes(8, "little") + json.dumps(header).encode().ljust(room))


def write_model_config(folder: str, trained: Trained, dtype: str):
  """config.json of the base, and a generation_config.json with both stop ids."""
  if trained.policy.name == "tiny":
    settings = tiny_settings(trained.shape)
  else:
    settings = gemma_config.read_config(trained.policy.name)
  # 4B and up repeat it in both parts.
  for part in (settings, settings.get("text_config", {}), settings.get("vision_config", {})):
    part.pop("dtype", None)  # transformers 5's spelling
    part["torch_dtype"] = dtype
  generation = {
    "bos_token_id": tokenization.BOS_ID,
    "eos_token_id": list(tokenization.STOP_IDS),
    "pad_token_id": tokenization.PAD_ID,
  }
  jsonl.write_text(f"{folder}/config.json", json.dumps(settings, indent=1) + "\n")
  jsonl.write_text(f"{folder}/generation_config.json", json.dumps(generation, indent=1) + "\n")


def tiny_settings(shape: gemma_config.ModelConfig) -> dict:
  """Hugging Face's config.json of the tiny model."""
  pattern = []
  for layer in range(shape.num_layers):
    # Five sliding layers and a full one (Gemma 3 report, §2).
    pattern.append("full_attention" if layer % 6 == 5 else "sliding_attention")
  return {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": shape.num_embed,
    "hidden_size": shape.embed_dim,
    "intermediate_size": shape.hidden_dim,
    "num_hidden_layers": shape.num_layers,
    "num_attention_heads": shape.num_heads,
    "num_key_value_heads": shape.num_kv_heads,
    "head_dim": shape.head_dim,
    "query_pre_attn_scalar": shape.head_dim,
    "sliding_window": shape.sliding_window_size,
    "layer_types": pattern,
    "rope_theta": float(shape.global_base_frequency),
    "rope_local_base_freq": float(shape.local_base_frequency),
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "bos_token_id": tokenization.BOS_ID,
    "eos_token_id": tokenization.EOS_ID,
    "pad_token_id": tokenization.PAD_ID,
  }


# Orbax.
def write_orbax(folder: str, trained: Trained, config: dict, params: str):
  """The trained parameters as the run saved them, with what is known of the run."""
  shutil.copytree(params, f"{folder}/params")
  jsonl.write_text(f"{folder}/config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")
  if trained.policy.name == "tiny":
    # Trained on the run's own data; without it the ids mean nothing.
    proto = trained.policy.tokenizer.serialized_model_proto()
    pathlib.Path(folder, "tokenizer.model").write_bytes(proto)
