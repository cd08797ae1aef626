"""A checkpoint → files that transformers, PEFT, vLLM and llama.cpp load, with a proof that they do the same.

Reads   an SFT or GRPO folder (or its best/), and the base model it was trained on.
Writes  out_dir/peft/     LoRA adapter with its tokenizer (adapter_config.json, adapter_model.safetensors)
        out_dir/merged/   Hugging Face folder, bf16; goes back in as --model=
        out_dir/orbax/    the trained parameters and their metadata; goes back in as --checkpoint=
        out_dir/tunix_*_actor_ckpt.zip (the same in one file), dataset-metadata.json (with --kaggle_id), README.md (model card),
        parity.json (with --verify), base/ (tiny model only: what the adapter sits on), and config.json last.
A full-parameter run (lora_rank 0) has no adapter, so no peft/. There is no GGUF here, because no maintained
converter is on PyPI; llama.cpp's convert_hf_to_gguf.py reads merged/ as it is.

  python export_lora.py --checkpoint=artifacts/run/grpo --out_dir=artifacts/run/export --verify
"""

import glob
import json
import os
import pathlib
import re
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import flags
from flax import nnx

from lib import (
  command_line,
  contract,
  folders,
  hugging_face,
  jsonl,
  loading,
  model_card,
  model_names,
  parameters,
  parity,
  runs,
  tokenization,
  tokenizer_files,
  weight_files,
)
from lib.errors import InputError

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "model",
  "tiny",
  "tiny, a name (gemma-3-1b-it, google/gemma-3-4b-it, hf:…, kaggle:…) or a folder of Gemma 3.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "checkpoint", "", "SFT or GRPO folder to export, or its best/ folder.", flag_values=FLAGS
)
flags.DEFINE_string("out_dir", "artifacts/run/export", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_list(
  "formats", ["peft", "merged"], "Any of peft, merged, orbax, zip.", flag_values=FLAGS
)
flags.DEFINE_string(
  "title",
  "",
  "Name on the model card and on Kaggle (6 to 50 characters); empty: from model and stage.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "kaggle_id",
  "",
  "user/data-set-name for Kaggle's dataset-metadata.json; empty: none.",
  flag_values=FLAGS,
)
flags.DEFINE_boolean(
  "verify",
  False,
  "Reload the export with transformers and PEFT on CPU and compare it with the JAX policy.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "verify_python",
  "",
  "Python that has requirements-parity.txt; empty: .venv-parity beside this script "
  "where it exists, else this Python.",
  flag_values=FLAGS,
)
flags.DEFINE_boolean(
  "overwrite", False, "Replace what out_dir holds from an earlier run.", flag_values=FLAGS
)

FORMATS = ("peft", "merged", "orbax", "zip")


def main():
  formats, out_dir, checkpoint = (
    [f.strip() for f in FLAGS.formats],
    FLAGS.out_dir.rstrip("/"),
    FLAGS.checkpoint.rstrip("/"),
  )
  title = (
    FLAGS.title
    or f"{os.path.basename(FLAGS.model.rstrip('/'))} reasoning {os.path.basename(checkpoint)}"
  )
  check_export(formats, checkpoint, FLAGS.kaggle_id, title)
  check_out_dir(out_dir, FLAGS.overwrite)
  python = parity.find_python(FLAGS.verify_python) if FLAGS.verify else None
  config, params = loading.read_checkpoint(checkpoint)
  check_adapter(config, checkpoint, formats)
  if config.get("prompt_hash") != contract.prompt_hash(
    config["style"]
  ):  # the chat template comes from this code
    raise InputError(
      f"{checkpoint} was trained with prompt {config.get('prompt_hash')}, this code renders "
      f"{contract.prompt_hash(config['style'])}; export it with the code that trained it (commit "
      f"{config.get('git_commit')})"
    )
  if not config["lora_rank"] and "peft" in formats:
    formats = [name for name in formats if name != "peft"] or ["merged"]
    print(
      f"this run trained all parameters: there is no adapter, so {' and '.join(formats)} is all that is exported",
      flush=True,
    )
  parent = os.path.dirname(os.path.abspath(out_dir))
  os.makedirs(parent, exist_ok=True)
  policy, shape, base, adapter = open_policy(FLAGS.model, checkpoint, parent)
  config = config | {"model_fingerprint": policy.fingerprint}  # a PEFT folder does not tell it
  partial = tempfile.mkdtemp(prefix=f".{os.path.basename(out_dir)}.partial.", dir=parent)
  os.chmod(partial, 0o755)
  try:
    write_formats(partial, policy, shape, base, adapter, config, params, formats)
    base = None
    compared = (
      parity.verify(partial, FLAGS.model, checkpoint, config, python, formats)
      if FLAGS.verify
      else None
    )
    licence = "apache-2.0" if policy.name == "tiny" else "gemma"
    jsonl.write_text(
      f"{partial}/README.md",
      model_card.model_card(title, FLAGS.model, checkpoint, config, formats, licence, compared),
    )
    if FLAGS.kaggle_id:
      metadata = {
        "title": title,
        "id": FLAGS.kaggle_id,
        "licenses": [{"name": licence if licence != "gemma" else "other"}],
      }
      jsonl.write_text(f"{partial}/dataset-metadata.json", json.dumps(metadata, indent=1) + "\n")
    found = glob.glob(f"{glob.escape(partial)}/**", recursive=True)
    files = sorted(os.path.relpath(f, partial) for f in found if os.path.isfile(f))
    folders.write_config(
      partial,
      "export",
      FLAGS,
      config["style"],
      formats=formats,
      files=[*files, "config.json"],
      base_fingerprint=config["model_fingerprint"],
      parity_passed=compared and compared["passed"],
    )
    swap(partial, out_dir)
  finally:
    shutil.rmtree(partial, ignore_errors=True)  # there only after an error: this run's own folder
  print(f"exported {', '.join(formats)} to {out_dir}", flush=True)
  if compared and not compared["passed"]:
    raise InputError(
      f"the export does not match the JAX policy ({'; '.join(compared['failures'])}); see {out_dir}/parity.json "
      "and do not publish it"
    )


def check_export(formats: list[str], checkpoint: str, kaggle_id: str, title: str):
  unknown = [f for f in formats if f not in FORMATS]
  if unknown or not formats:
    raise InputError(
      f"--formats has {', '.join(unknown) or 'nothing'}; valid: {', '.join(FORMATS)}"
    )
  if not checkpoint:
    raise InputError(
      "--checkpoint is empty; give the folder that train_sft.py or train_grpo.py wrote"
    )
  if kaggle_id and not re.fullmatch(r"[\w-]{3,50}/[a-zA-Z0-9-]{3,50}", kaggle_id):
    raise InputError(
      f"--kaggle_id={kaggle_id} is not user/data-set-name (letters, digits and hyphens, 3 to 50 of them)"
    )
  if kaggle_id and not 6 <= len(title) <= 50:
    raise InputError(
      f"Kaggle wants a title of 6 to 50 characters, {title!r} has {len(title)}; pass --title"
    )


def check_adapter(config: dict, checkpoint: str, formats: list[str]):
  """A PEFT folder exports, too, where its prompt is known; Orbax's parameters it never had."""
  if config.get("stage") != "peft":
    return
  if not config["style"]:
    raise InputError(
      f"{checkpoint} is an adapter with another tool's chat template, so the export could not say how to prompt it; "
      "merge it into its base model with peft"
    )
  if {"orbax", "zip"} & set(formats):
    raise InputError(
      f"{checkpoint} is a PEFT folder, which has no Orbax parameters; valid --formats: peft, merged"
    )


def check_out_dir(out_dir: str, overwrite: bool):
  """out_dir must be new, empty, or an export that --overwrite may replace."""
  if os.path.isfile(out_dir):
    raise InputError(f"--out_dir={out_dir} is a file; give a folder")
  if os.path.isdir(out_dir) and os.listdir(out_dir):
    ours = (
      os.path.isfile(f"{out_dir}/config.json")
      and folders.read_config(out_dir, "export_lora.py").get("stage") == "export"
    )
    if not ours:
      raise InputError(
        f"{out_dir} holds files that export_lora.py did not write; choose an empty or new --out_dir"
      )
    if not overwrite:
      raise InputError(
        f"{out_dir} already holds an export; pass --overwrite to replace it or choose another --out_dir"
      )


def swap(partial: str, out_dir: str):
  """Puts the finished folder in place. Of an older export only the files it listed go; what others put there stays."""
  if not os.path.isdir(out_dir):
    return os.rename(partial, out_dir)
  listed = folders.read_config(out_dir, "export_lora.py")["files"] if os.listdir(out_dir) else []
  for found in glob.glob(f"{glob.escape(out_dir)}/**", recursive=True, include_hidden=True):
    name = os.path.relpath(found, out_dir)
    if os.path.isfile(found) and name not in listed and not os.path.lexists(f"{partial}/{name}"):
      os.makedirs(os.path.dirname(f"{partial}/{name}"), exist_ok=True)
      shutil.copy2(found, f"{partial}/{name}")
  old = tempfile.mkdtemp(prefix=f".{os.path.basename(out_dir)}.old.", dir=os.path.dirname(partial))
  os.rename(out_dir, f"{old}/export")
  os.rename(partial, out_dir)
  shutil.rmtree(old)


# ----------------------------------------------------------------------------------------------------------- the formats
def open_policy(model: str, checkpoint: str, disk: str):
  """(policy without its model, Gemma config, base parameters, PEFT tensors): what writing needs, and no more memory than that.

  The base parameters are kept only where no Hugging Face folder holds them: tiny model, full-parameter run. Another base than
  the one trained on is refused, and a disk too small for the export.
  """
  runs.check_one_process()
  policy = loading.load_policy(model, checkpoint, dtype="bfloat16")  # adapters stay float32
  lora = {}
  if policy.lora_rank:
    lora = {
      name: np.asarray(x) for name, x in parameters.flat_params(policy.model, nnx.LoRAParam).items()
    }
  base = (
    parameters.flat_params(policy.model, nnx.Param) if policy.name == "tiny" or not lora else {}
  )
  runs.check_disk(
    disk, 10 * sum(x.size for x in jax.tree.leaves(nnx.state(policy.model, nnx.Param)))
  )
  shape = policy.model.config
  return policy._replace(model=None), shape, base, hugging_face.to_peft(lora, shape)


def write_formats(
  out: str, policy, shape, base: dict, adapter: dict, config: dict, params: str, formats: list[str]
):
  if "peft" in formats:
    write_adapter(f"{out}/peft", adapter, policy)
    tokenizer_files.write_tokenizer(f"{out}/peft", policy, config["style"])
    if policy.name == "tiny":
      write_model(f"{out}/base", policy, shape, config["style"], base, {}, 0.0, np.float32)
  if "merged" in formats:
    scale = policy.lora_alpha / policy.lora_rank if adapter else 0.0
    write_model(f"{out}/merged", policy, shape, config["style"], base, adapter, scale, jnp.bfloat16)
  if "orbax" in formats or "zip" in formats:
    shutil.copytree(params, f"{out}/orbax/params")
    jsonl.write_text(
      f"{out}/orbax/config.json", json.dumps(config, indent=1, sort_keys=True) + "\n"
    )
    if policy.name == "tiny":
      pathlib.Path(f"{out}/orbax/tokenizer.model").write_bytes(
        policy.tokenizer.serialized_model_proto()
      )
  if "zip" in formats:
    recipe = "dsa_cast_" if config["style"] == "dual_stream" else ""  # as dual_stream's write-up
    shutil.make_archive(f"{out}/tunix_{recipe}{config['stage']}_actor_ckpt", "zip", f"{out}/orbax")
    if "orbax" not in formats:
      shutil.rmtree(f"{out}/orbax")


def write_adapter(folder: str, adapter: dict[str, np.ndarray], policy):
  """PEFT's two files. Both libraries scale A·B by alpha / rank, so the numbers pass as they are."""
  os.makedirs(folder)
  alpha = int(policy.lora_alpha) if float(policy.lora_alpha).is_integer() else policy.lora_alpha
  targets = sorted({name.split(".")[-3] for name in adapter})
  settings = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": policy.lora_rank,
    "lora_alpha": alpha,
    "lora_dropout": 0.0,
    "target_modules": targets,
    "bias": "none",
    "fan_in_fan_out": False,
    "use_rslora": False,
    "use_dora": False,
    "base_model_name_or_path": "base"
    if policy.name == "tiny"
    else model_names.hub_name(policy.name),
    "inference_mode": True,
  }
  jsonl.write_text(f"{folder}/adapter_config.json", json.dumps(settings, indent=1) + "\n")
  safetensors.numpy.save_file(
    adapter, f"{folder}/adapter_model.safetensors", metadata={"format": "pt"}
  )


def write_model(
  folder: str, policy, shape, style: str, base: dict, adapter: dict, scale: float, dtype
):
  """A Hugging Face folder: base + scale · B·A, one tensor in memory at a time.

  base: its Tunix parameters (tiny model, full-parameter run); empty: read from the shards in the base folder.
  """
  os.makedirs(folder)
  if base:
    names = hugging_face.hf_names(shape)
    read = lambda name: hugging_face.to_hf(name, np.asarray(base[names[name][0]]), names[name][1])
  else:
    names = weight_files.tensor_files(policy.name)

    def read(name):
      return weight_files.read_tensor(names[name])

  used = set()

  def tensor(name):
    value = read(name)
    layer = re.search(r"layers\.\d+\.(self_attn|mlp)\.\w+_proj(?=\.weight)", name)
    key = f"base_model.model.model.{layer[0]}" if layer and "vision" not in name else None
    if f"{key}.lora_A.weight" in adapter:
      used.add(key)
      delta = adapter[f"{key}.lora_B.weight"].astype(np.float32) @ adapter[
        f"{key}.lora_A.weight"
      ].astype(np.float32)
      value = value.astype(np.float32) + np.float32(scale) * delta
    return value.astype(dtype)

  write_safetensors(f"{folder}/model.safetensors", sorted(names), tensor)
  if len(used) != len(adapter) // 2:
    raise InputError(
      f"{policy.name} has {len(used)} of the {len(adapter) // 2} projections that the adapter changes; its "
      "safetensors are incomplete or carry other names"
    )
  write_model_config(folder, policy, shape, np.dtype(dtype).name)
  tokenizer_files.write_tokenizer(folder, policy, style)


def write_safetensors(path: str, names: list[str], tensor):
  """Writes tensor(name) for every name, holding one at a time: safetensors' own writer holds the whole file twice.

  The format is the header's length, a JSON header (padded with spaces, so its room can be kept before the sizes are known)
  and the raw data.
  """
  room = (512 + sum(len(name) + 128 for name in names)) // 8 * 8
  header, start, codes = (
    {"__metadata__": {"format": "pt"}},
    0,
    {"bfloat16": "BF16", "float32": "F32"},
  )
  with open(path, "wb") as f:
    f.seek(8 + room)
    for name in names:
      value = np.ascontiguousarray(tensor(name))
      f.write(value.view(np.uint8).data)
      end = start + value.nbytes
      header[name], start = (
        {"dtype": codes[value.dtype.name], "shape": value.shape, "data_offsets": [start, end]},
        end,
      )
    f.seek(0)
    f.write(room.to_bytes(8, "little") + json.dumps(header).encode().ljust(room))


def write_model_config(folder: str, policy, shape, dtype: str):
  """config.json of the base (or of the tiny model) and a generation_config.json with both stop ids."""
  if policy.name == "tiny":
    pattern = [
      "full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(shape.num_layers)
    ]
    settings = {
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
  else:
    settings = json.loads(pathlib.Path(policy.name, "config.json").read_text(encoding="utf-8"))
  settings["torch_dtype"] = dtype
  generation = {
    "bos_token_id": tokenization.BOS_ID,
    "eos_token_id": list(tokenization.STOP_IDS),
    "pad_token_id": tokenization.PAD_ID,
  }
  jsonl.write_text(f"{folder}/config.json", json.dumps(settings, indent=1) + "\n")
  jsonl.write_text(f"{folder}/generation_config.json", json.dumps(generation, indent=1) + "\n")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)
