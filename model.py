"""What produces a response: devices, Gemma 3, tokenizer, LoRA, sampling, lean log-probs; and what keeps a training run.

Everything here is shared by the stages that need JAX. The model classes, LoRA and the trainer, which holds model, optimizer and
loss, are Tunix's and qwix's; ours are `sample`, `token_logps` and `make_step`, which do the work of Tunix's with far less memory,
and the few functions that make a run exact to resume. Nothing here reads flags.
"""
import contextlib
import fcntl
import functools
import glob
import hashlib
import io
import json
import math
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import qwix
import sentencepiece as spm
from absl import logging
from flax import nnx
from jax.interpreters import pxla
from orbax.checkpoint._src.multihost import multihost
from safetensors.numpy import load_file
from tunix.models.gemma3 import model as gemma3
from tunix.models.gemma3 import params_safetensors
from tunix.sft import peft_trainer
from tunix.sft import utils as sft_utils

import rewards
from rewards import InputError

logging.set_verbosity(logging.FATAL)  # Tunix and Orbax narrate at lower levels, and log with its stack what they raise anyway
warnings.filterwarnings("ignore", message=".*with mesh:.*")  # Tunix reads the mesh from that context; jax.set_mesh leaves it unset

PAD_ID, EOS_ID, BOS_ID, END_OF_TURN_ID = 0, 1, 2, 106  # Gemma's; the tiny tokenizer uses the same
STOP_IDS = (EOS_ID, END_OF_TURN_ID)
KAGGLE_HANDLES = {name: f"google/gemma-3/transformers/{name}" for name in ("gemma-3-270m-it", "gemma-3-1b-it")}
LORA_MODULES = ".*q_einsum|.*kv_einsum|.*gate_proj|.*down_proj|.*up_proj|.*attn_vec_einsum"  # the seeds' choice: all of them
LENGTH_BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
LOCKS = {}  # folder → the open file that holds it
HEAD_CHUNK = 128  # positions whose logits exist at once on a CPU, four times as many elsewhere, which a chip's matrix unit wants:
# 512 × 262,144 float32 = 537 MB, divided by the devices, and as much for their probabilities


# --------------------------------------------------------------------------------------------------------------- devices
def enable_compilation_cache():
  """Compiled programs survive the process. All three settings are needed, else small programs are compiled again."""
  default = pathlib.Path(__file__).resolve().parent / ".cache" / "jax"
  jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(default)))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def make_mesh(spec: str = "auto") -> jax.sharding.Mesh:
  """Devices as an (fsdp, tp) mesh; "auto" puts all on fsdp, so no chip idles (the seeds' (1, 4) left half of 8 unused)."""
  try:
    count = jax.device_count()
  except RuntimeError as error:  # such as a TPU that another process holds
    raise InputError(f"JAX starts on no device ({str(error).splitlines()[0]}); end the process or restart the kernel that uses it, "
                     "or set JAX_PLATFORMS=cpu") from error
  try:
    shape = (count, 1) if spec == "auto" else tuple(int(n) for n in spec.lower().split("x"))
  except ValueError:
    shape = ()
  if len(shape) != 2 or min(shape) < 1:
    raise InputError(f"--mesh={spec} is not FSDPxTP; write for example --mesh={count}x1, or auto")
  if shape[0] * shape[1] > count:
    raise InputError(f"--mesh={spec} needs {shape[0] * shape[1]} devices, there are {count}; use --mesh=auto or a smaller one")
  try:
    return jax.make_mesh(shape, ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2,
                         devices=jax.devices()[:shape[0] * shape[1]])
  except AssertionError as error:  # a TPU's links join only some sets of chips
    raise InputError(f"--mesh={spec}: no {shape[0] * shape[1]} of these chips form a slice; use a power of two, or auto") from error


def device_line(mesh) -> str:
  """What runs this, for the log: "8 × TPU v5 lite, mesh 8x1"."""
  return f"{mesh.size} × {mesh.devices.flat[0].device_kind}, mesh {mesh.shape['fsdp']}x{mesh.shape['tp']}"


def compute_dtype(dtype: str = "auto"):
  """float32 on CPU, bfloat16 on TPU and GPU; trainable parameters stay float32 either way (see `compute_view`)."""
  if dtype == "auto":
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
  if dtype not in ("float32", "bfloat16"):
    raise InputError(f"--dtype={dtype} is unknown; valid: auto, float32, bfloat16")
  return jnp.dtype(dtype)


# ------------------------------------------------------------------------------------------------------------- tokenizer
def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> bytes:
  """A sentencepiece model for the tiny Gemma 3, with Gemma's control, turn-token and padding ids.

  Ids 4–104 hold what never changes as single symbols: each style's whole prompt header, the tags and the section headings,
  so that the fixed text costs a handful of positions, not half of a row; then <start_of_turn> 105, <end_of_turn> 106, then
  pieces learned from `texts`.
  """
  headers = [rewards.format_prompt("", style).split(rewards.TURN_END)[0].removeprefix(rewards.TURN_START).rstrip()
             for style in rewards.STYLES]  # "user\n…\n\nTask:"
  fixed = [*headers, "<reasoning>", "</reasoning>", "</reasoning>\n<answer>", "<answer>", "</answer>", "\n", "user\n", "model\n",
           *(f"{name}:" for name in rewards.SECTIONS)]
  fixed = [symbol.replace(" ", "\u2581") for symbol in fixed]  # sentencepiece matches after escaping spaces
  symbols = fixed + [f"<unused{i}>" for i in range(101 - len(fixed))] + [rewards.TURN_START, rewards.TURN_END]
  texts, buffer = list(texts), io.BytesIO()
  vocab_size = max(vocab_size, 512 + len(set().union(*texts)))  # every character of a pool, beside the symbols and 256 bytes
  spm.SentencePieceTrainer.train(
      sentence_iterator=iter(texts), model_writer=buffer, vocab_size=vocab_size, model_type="bpe", byte_fallback=True,
      pad_id=PAD_ID, eos_id=EOS_ID, bos_id=BOS_ID, unk_id=3, user_defined_symbols=symbols, split_digits=True,
      add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity", hard_vocab_limit=False,
      character_coverage=1.0, num_threads=1, input_sentence_size=20000, shuffle_input_sentence=False, minloglevel=2)
  return buffer.getvalue()


def load_tokenizer(model: str, data_dir: str = "", checkpoint: str = "") -> spm.SentencePieceProcessor:
  """The tokenizer of a model folder; the tiny model's stands in its checkpoint or data folder.

  Data that was prepared without one (any pool, any flags) still works with the tiny model: its tokenizer is then trained on
  train.jsonl, the same way prepare_data.py would have.
  """
  places = [checkpoint, os.path.dirname(checkpoint.rstrip("/")) if checkpoint else "", data_dir] if model == "tiny" else [model]
  tokenizer = spm.SentencePieceProcessor()
  for place in filter(None, places):
    path = os.path.join(place, "tokenizer.model")
    if os.path.isfile(path):
      tokenizer.Load(path)
      return tokenizer
  if model != "tiny":
    raise InputError(f"{model} has no tokenizer.model; --model must be a Hugging Face folder of a Gemma 3 text model")
  if not data_dir:
    raise InputError(f"no tokenizer.model in {' or '.join(filter(None, places)) or 'any folder'} for --model=tiny; "
                     "give --checkpoint or --data_dir")
  rows = rewards.read_rows(os.path.join(data_dir, "train.jsonl"))
  tokenizer.LoadFromSerializedProto(train_tokenizer(row["prompt"] + row.get("target", row["answer"]) for row in rows))
  return tokenizer


def encode(tokenizer, text: str) -> list[int]:
  """<bos> and the ids of a prompt's chat text."""
  return [BOS_ID, *tokenizer.EncodeAsIds(text)]


def encode_target(tokenizer, text: str) -> list[int]:
  """The ids of a response with its stop token, as the model must produce them."""
  return [*tokenizer.EncodeAsIds(text), END_OF_TURN_ID]


def decode(tokenizer, ids) -> str:
  """Text of a completion, without padding, stop tokens, and ids past the vocabulary (the tiny model's head is rounded up)."""
  size = tokenizer.GetPieceSize()
  return tokenizer.DecodeIds([int(i) for i in ids if i != PAD_ID and i not in STOP_IDS and i < size])


def bucket(length: int, limit: int | None = None) -> int:
  """The smallest bucket that holds `length`: few distinct shapes (compilations), little padding."""
  size = next((b for b in LENGTH_BUCKETS if b >= length), length)
  return min(size, limit) if limit else size


def choose_widths(lengths: list[int], limit: int) -> tuple[int, ...]:
  """Two padded widths, multiples of 16, for three quarters of `lengths` and for all: a width costs a compilation, padding work.

  limit: largest width; 0 for none.
  """
  sizes = {-(-int(np.quantile(lengths, q)) // 16) * 16 for q in (0.75, 1.0)}
  return tuple(sorted({min(size, limit or size) for size in sizes}))


def fit(length: int, widths: tuple[int, ...]) -> int:
  """The smallest of `widths` that holds `length`."""
  return next(width for width in widths if width >= length)


def pad_left(ids: list[list[int]], width: int) -> np.ndarray:
  """Prompts (B, width): padding in front, so that every completion starts at the same position."""
  return np.array([[PAD_ID] * (width - len(row)) + list(row) for row in ids], np.int32).reshape(len(ids), width)


def pad_right(ids: list[list[int]], width: int) -> np.ndarray:
  return np.array([list(row) + [PAD_ID] * (width - len(row)) for row in ids], np.int32).reshape(len(ids), width)


# ----------------------------------------------------------------------------------------------------------------- model
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
  if model not in KAGGLE_HANDLES:
    raise InputError(f"{model} is neither a folder nor one of: tiny, {', '.join(KAGGLE_HANDLES)}")
  attached = sorted(glob.glob(f"/kaggle/input/**/{model}/**/config.json", recursive=True))
  if attached:
    return os.path.dirname(attached[-1])
  import kagglehub  # only here: everything else works without a network
  try:
    return kagglehub.model_download(KAGGLE_HANDLES[model])
  except Exception as error:  # kagglehub raises its own, requests' and the OS's errors
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise InputError(
        f"could not fetch {KAGGLE_HANDLES[model]} from Kaggle ({first_line}); accept the licence on the model's page, set "
        "KAGGLE_USERNAME and KAGGLE_KEY (kaggle.com, Settings, API) or attach the model to the notebook; "
        "MODEL=tiny ./run.sh needs no account") from error


class ModelConfig(gemma3.ModelConfig):
  """Tunix's, hashable: jax.jit keys its programs on a model's structure, of which the config is part."""
  __hash__ = object.__hash__


def gemma_config(folder: str, dtype) -> ModelConfig:
  """Tunix's config from a Hugging Face config.json, so that any Gemma 3 text size works, our exports included."""
  path = os.path.join(folder, "config.json")
  if not os.path.isfile(path):
    raise InputError(f"{folder} has no config.json; --model must be a Hugging Face folder of a Gemma 3 text model")
  with open(path, encoding="utf-8") as f:
    hf = json.load(f)
  hf = hf.get("text_config", hf)
  if hf.get("model_type") != "gemma3_text":
    raise InputError(f"{folder} holds model_type {hf.get('model_type')!r}; expected 'gemma3_text' (Gemma 3 270M, 1B, or the "
                     "text part of 4B and up)")
  if missing := [key for key in ("vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim") if key not in hf]:
    raise InputError(f"{path} lacks {', '.join(missing)}; add them (Google's 4B and up leave out what transformers takes for "
                     "granted: 262208, 8, 4 and 256 for 4B)")
  rope = hf.get("rope_parameters") or {}  # transformers 5 groups what 4 kept flat
  full, sliding = rope.get("full_attention", {}), rope.get("sliding_attention", {})
  scaling = hf.get("rope_scaling") or full
  return ModelConfig(
      num_layers=hf["num_hidden_layers"], num_embed=hf["vocab_size"], embed_dim=hf["hidden_size"],
      hidden_dim=hf["intermediate_size"], num_heads=hf["num_attention_heads"], head_dim=hf["head_dim"],
      num_kv_heads=hf["num_key_value_heads"], sliding_window_size=hf["sliding_window"],
      global_base_frequency=int(full.get("rope_theta") or hf.get("rope_theta", 1_000_000)),
      local_base_frequency=int(sliding.get("rope_theta") or hf.get("rope_local_base_freq", 10_000)),
      global_scale_factor=float(scaling.get("factor", 1.0)), param_dtype=dtype)


def tiny_config(vocab_size: int) -> ModelConfig:
  """0.9M parameters of the real architecture: learns the built-in pool in minutes on two cores."""
  return ModelConfig(
      num_layers=4, num_embed=-(-vocab_size // 64) * 64, embed_dim=128, hidden_dim=384, num_heads=4, head_dim=32,
      num_kv_heads=1, sliding_window_size=512, local_base_frequency=10_000, global_base_frequency=10_000,
      param_dtype=jnp.float32)


def create_tiny(config: ModelConfig) -> nnx.Module:
  """Random weights that can train: Tunix starts MLP kernels at zero, where every gradient is zero, so all matrices are
  drawn. The draw ignores --seed: the base model must be the same for SFT, GRPO and evaluation."""
  model = gemma3.Gemma3(config, rngs=nnx.Rngs(0))
  leaves, tree = jax.tree.flatten(nnx.state(model))
  draw = lambda i, x: 0.06 * jax.random.normal(jax.random.fold_in(jax.random.key(0), i), x.shape, x.dtype)
  nnx.update(model, jax.tree.unflatten(tree, [x if x.ndim == 1 else draw(i, x) for i, x in enumerate(leaves)]))
  return model


def load_base(model: str, tokenizer, mesh, dtype: str = "auto") -> nnx.Module:
  """The pretrained (or tiny) model, sharded over `mesh`; the tiny one is float32 always."""
  dtype = compute_dtype(dtype)
  config = tiny_config(tokenizer.GetPieceSize()) if model == "tiny" else gemma_config(model, dtype)
  for axis, what, size in (("fsdp", "width", config.embed_dim), ("tp", "heads", config.num_heads)):
    if size % mesh.shape[axis]:
      raise InputError(f"--mesh has {mesh.shape[axis]} devices on {axis}, which do not divide the model's {what}, {size}; "
                       "choose another, such as 1x1")
  if model == "tiny":
    with mesh:
      return shard(nnx.jit(lambda: create_tiny(config))())
  if not glob.glob(os.path.join(model, "*.safetensors")):
    raise InputError(f"{model} has no *.safetensors; --model must be a Hugging Face folder of a Gemma 3 text model")
  turn = tokenizer.PieceToId("<end_of_turn>")
  if tokenizer.GetPieceSize() > config.num_embed or turn != END_OF_TURN_ID:
    raise InputError(f"the tokenizer in {model} has {tokenizer.GetPieceSize()} pieces, <end_of_turn> is number {turn}; the model "
                     f"has {config.num_embed} and {END_OF_TURN_ID}; they do not belong together")
  return params_safetensors.create_model_from_safe_tensors(model, config, mesh=mesh, dtype=config.param_dtype)


def shard(model: nnx.Module) -> nnx.Module:
  """Lays a model's parameters out as their partition specs say; call inside `with mesh:`."""
  state = nnx.state(model)
  nnx.update(model, jax.lax.with_sharding_constraint(state, nnx.get_partition_spec(state)))
  return model


def fingerprint(model: nnx.Module) -> str:
  """16 hex digits of a base model: its shape and some of its weights in bfloat16 (equal for either --dtype)."""
  config, embedding = model.config, model.embedder.input_embedding.get_value()
  some = [embedding[:8], model.layers[0].attn.kv_einsum.w.get_value(), model.final_norm.scale.get_value()]
  shape = (config.num_layers, config.num_embed, config.embed_dim, config.hidden_dim, config.num_heads, config.head_dim)
  digest = hashlib.sha256(repr(shape).encode())
  for x in some:
    digest.update(np.asarray(x.astype(jnp.bfloat16)).tobytes())
  return digest.hexdigest()[:16]


@jax.custom_vjp
def settled(x):
  """x, whose cotangent is computed once. LoRA's gradients need it transposed, and XLA on a CPU would work out the MLP's backward
  pass again inside that strided copy, at 0.2 s of processor time a layer. It fuses nothing through a branch: here is one."""
  return x


def settle(_, slope):
  first = slope[(0,) * slope.ndim]
  return (jax.lax.cond(jnp.isnan(first) | (jnp.abs(first) <= jnp.inf), lambda x: x, jnp.zeros_like, slope),)  # always the first


settled.defvjp(lambda x: (x, None), settle)


class SettledLora(qwix.LoraProvider):
  """qwix's LoRA with `settled` outputs: a third less processor time for a gradient on a CPU."""

  def dot_general(self, *args, **options):
    return settled(super().dot_general(*args, **options))

  def einsum(self, *args, **options):
    return settled(super().einsum(*args, **options))


def apply_lora(base: nnx.Module, mesh, rank: int, alpha: float, seed: int = 0) -> nnx.Module:
  """`base` with LoRA on every projection (A random, B zero); `base` itself stays as it is and serves as the reference.

  The adapters are float32 whatever the base: at the seeds' learning rate of 3e-6 a bfloat16 weight does not move.
  """
  kind = SettledLora if jax.default_backend() == "cpu" and mesh.size == 1 else qwix.LoraProvider
  provider = kind(module_path=LORA_MODULES, rank=rank, alpha=alpha)
  model = qwix.apply_lora_to_model(base, provider, **base.get_model_input(), rngs=nnx.Rngs(seed))
  model = with_params(model, flat_params(base))  # qwix returns copies of the base weights: share them again
  adapters = jax.tree.map(lambda x: x.astype(jnp.float32), nnx.state(model, nnx.LoRAParam))
  with mesh:
    nnx.update(model, jax.lax.with_sharding_constraint(adapters, nnx.get_partition_spec(adapters)))
  return model


def float32_masters(base: nnx.Module) -> nnx.Module:
  """A model of its own to train in full: float32 parameters, arithmetic still in the base's dtype (see `compute_view`)."""
  return with_params(base, {name: jnp.array(x, jnp.float32) for name, x in flat_params(base).items()})


def merge_lora(model: nnx.Module, base: nnx.Module, alpha: float) -> nnx.Module:
  """A float32 model without adapters: the weights of `base` plus those of `model`'s, W + (alpha / rank) · A·B per projection."""
  flat, adapters = flat_params(base, nnx.Param), flat_params(model, nnx.LoRAParam)
  merged = {name: x.astype(jnp.float32) for name, x in flat.items() if "_lora_" not in name}
  for name in [n.removesuffix("_lora_a") for n in adapters if n.endswith("_lora_a")]:
    a, b = adapters[name + "_lora_a"], adapters[name + "_lora_b"]
    with jax.default_matmul_precision("highest"):  # a TPU would multiply float32 in bfloat16
      merged[name] = merged[name] + lora_delta(name, a, b) * (alpha / a.shape[-1])
  return with_params(nnx.eval_shape(lambda: gemma3.Gemma3(base.config, rngs=nnx.Rngs(0))), merged)


def lora_delta(name: str, a, b):
  """A·B in the weight's own layout; qwix factors each einsum at the axes it contracts."""
  if "kv_einsum" in name:  # a (D, r), b (r, 2, K, H) -> (2, K, D, H)
    return jnp.einsum("dr,rckh->ckdh", a, b)
  if "q_einsum" in name:  # a (D, r), b (r, N, H) -> (N, D, H)
    return jnp.einsum("dr,rnh->ndh", a, b)
  if "attn_vec_einsum" in name:  # a (N, H, r), b (r, D) -> (N, H, D)
    return jnp.einsum("nhr,rd->nhd", a, b)
  return a @ b  # MLP kernels: a (in, r), b (r, out)


def flat_params(model: nnx.Module, kind=nnx.Param) -> dict[str, jax.Array]:
  """{"layers.0.attn.q_einsum.w": array, …}: the stable names under which parameters are saved and exported."""
  return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(model, kind))}


def with_params(model: nnx.Module, flat: dict[str, jax.Array]) -> nnx.Module:
  """A new model with the structure of `model` and the values of `flat` (names missing from it keep theirs)."""
  graph, state = nnx.split(model)
  value = lambda path, leaf: flat.get(".".join(map(str, path)), leaf.get_value())
  copies = [(path, leaf.replace(value(path, leaf))) for path, leaf in nnx.to_flat_state(state)]
  return nnx.merge(graph, nnx.from_flat_state(copies))


def trainable(model: nnx.Module):
  """The variable type that training changes: the adapters where there are any, else everything."""
  return nnx.LoRAParam if jax.tree.leaves(nnx.state(model, nnx.LoRAParam)) else nnx.Param


def load_policy(model: str, checkpoint: str = "", data_dir: str = "", mesh: str = "auto", dtype: str = "auto") -> Policy:
  """The base model and, where `checkpoint` is given, what an SFT or GRPO run (or a PEFT adapter) changed in it."""
  folder, devices = resolve_model(model), make_mesh(mesh)
  tokenizer = load_tokenizer(folder, data_dir, checkpoint)
  base = load_base(folder, tokenizer, devices, dtype)
  mark = fingerprint(base)
  if not checkpoint:
    return Policy(base, tokenizer, devices, folder, mark, 0, 0.0)
  if os.path.isfile(os.path.join(checkpoint, "adapter_config.json")):
    tuned, rank, alpha = load_peft_adapter(base, checkpoint, devices)
    return Policy(tuned, tokenizer, devices, folder, mark, rank, alpha)
  config, params = read_checkpoint(checkpoint)
  if config["model_fingerprint"] != mark:
    raise InputError(f"{checkpoint} was trained on {config['model']} ({config['model_fingerprint']}), --model={model} is "
                     f"{mark}; pass the --model it was trained on")
  rank, alpha = config["lora_rank"], config["lora_alpha"]
  tuned = apply_lora(base, devices, rank, alpha) if rank else base
  return Policy(load_params(params, tuned), tokenizer, devices, folder, mark, rank, alpha)


def read_checkpoint(folder: str) -> tuple[dict, str]:
  """(config.json, parameter folder) of a finished SFT or GRPO folder, or of a best/ or params/ in one, finished or not."""
  folder = folder.rstrip("/")
  inner = os.path.basename(folder) in ("best", "params")
  params, run = folder if inner else os.path.join(folder, "params"), os.path.dirname(folder) if inner else folder
  broken_off = inner and not os.path.isfile(os.path.join(run, "config.json"))
  config = broken_off and read_run(run).get("made") or rewards.read_config(run, "train_sft.py or train_grpo.py")
  if "model_fingerprint" not in config or not os.path.isdir(params):
    raise InputError(f"{folder} is no SFT or GRPO folder (no params/ inside, stage {config.get('stage')!r}); "
                     "make one with train_sft.py or train_grpo.py")
  return config, params


# ------------------------------------------------------------------------------------- names: Tunix, Hugging Face, PEFT
# A projection of a Hugging Face layer -> the Tunix parameter that holds it and, where keys and values share one, the slice.
PROJECTIONS = {
  "self_attn.q_proj": ("attn.q_einsum.w", None),         # (N, D, H)
  "self_attn.k_proj": ("attn.kv_einsum.w", 0),           # (2, K, D, H)
  "self_attn.v_proj": ("attn.kv_einsum.w", 1),
  "self_attn.o_proj": ("attn.attn_vec_einsum.w", None),  # (N, H, D)
  "mlp.gate_proj": ("mlp.gate_proj.kernel", None),       # (D, F)
  "mlp.up_proj": ("mlp.up_proj.kernel", None),           # (D, F)
  "mlp.down_proj": ("mlp.down_proj.kernel", None),       # (F, D)
}
NORMS = {
  "input_layernorm": "pre_attention_norm.scale", "post_attention_layernorm": "post_attention_norm.scale",
  "pre_feedforward_layernorm": "pre_ffw_norm.scale", "post_feedforward_layernorm": "post_ffw_norm.scale",
  "self_attn.q_norm": "attn._query_norm.scale", "self_attn.k_norm": "attn._key_norm.scale",
}
PEFT_NAME = re.compile(r"(?:.*\.)?layers\.(\d+)\.((?:self_attn|mlp)\.\w+)\.lora_([AB])(?:\.default)?\.weight")


def hf_names(config) -> dict[str, tuple[str, int | None]]:
  """Every tensor of Hugging Face's Gemma3ForCausalLM -> (Tunix parameter, slice of it or None)."""
  names = {"model.embed_tokens.weight": ("embedder.input_embedding", None), "model.norm.weight": ("final_norm.scale", None)}
  for layer in range(config.num_layers):
    for module, (parameter, part) in PROJECTIONS.items():
      names[f"model.layers.{layer}.{module}.weight"] = (f"layers.{layer}.{parameter}", part)
    for module, parameter in NORMS.items():
      names[f"model.layers.{layer}.{module}.weight"] = (f"layers.{layer}.{parameter}", None)
  return names


def to_hf(name: str, value: np.ndarray, part: int | None) -> np.ndarray:
  """A Tunix parameter as the Hugging Face tensor `name`: a matrix is (out, in), norms and embedding stay as they are."""
  if name.endswith((".q_proj.weight", ".k_proj.weight", ".v_proj.weight")):
    value = value if part is None else value[part]                        # (N, D, H)
    return value.swapaxes(1, 2).reshape(-1, value.shape[1])               # (N·H, D)
  return value.reshape(-1, value.shape[-1]).T if "_proj." in name else value


def to_peft(lora: dict[str, np.ndarray], config) -> dict[str, np.ndarray]:
  """qwix LoRA factors by dotted name ("layers.0.attn.q_einsum.w_lora_a") -> PEFT's lora_A (r, in) and lora_B (out, r).

  Both libraries scale the product by alpha / rank, so the factors pass unscaled. qwix splits a weight into its contracted
  axes (A) and the rest (B): the fused key-value einsum has one A (D, r) and one B (r, 2, K, H), which is exactly two PEFT
  pairs that share A.
  """
  tensors = {}
  for layer in range(config.num_layers):
    for module, (parameter, part) in PROJECTIONS.items():
      path = f"layers.{layer}.{parameter}"
      if f"{path}_lora_a" not in lora:
        continue
      a, b = np.asarray(lora[f"{path}_lora_a"]), np.asarray(lora[f"{path}_lora_b"])  # (in..., r), (r, out...)
      b = b if part is None else b[:, part]
      name = f"base_model.model.model.layers.{layer}.{module}"
      tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a.reshape(-1, a.shape[-1]).T)
      tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b.reshape(b.shape[0], -1).T)
  return tensors


def from_peft(tensors: dict[str, np.ndarray], config) -> dict[str, np.ndarray]:
  """Inverse of `to_peft`. Projections that the adapter lacks are left out: qwix's own zero B makes them do nothing.

  An adapter trained elsewhere has different A for keys and values; two rank-r pairs are then one of rank 2r, exactly: A side
  by side, B block-diagonal. Every other factor is padded with zeros to that rank, so read the rank off the result and give
  qwix alpha = lora_alpha / r * rank. Raises InputError for a tensor that is no LoRA factor of a Gemma 3 text projection.
  """
  pairs = {}
  for name, value in tensors.items():
    match = PEFT_NAME.fullmatch(name)
    if not match or match[2] not in PROJECTIONS or int(match[1]) >= config.num_layers:
      raise InputError(f"adapter tensor {name} {value.shape} is no LoRA factor of this Gemma 3 text model's attention "
                               "or MLP projections; train the adapter on those layers only")
    pairs.setdefault((int(match[1]), match[2]), {})[match[3]] = np.asarray(value)
  keys = {layer: pair["A"] for (layer, module), pair in pairs.items() if module == "self_attn.k_proj"}
  split = any(module == "self_attn.v_proj" and layer in keys and not np.array_equal(pair["A"], keys[layer])
              for (layer, module), pair in pairs.items())
  lora = {}
  for (layer, module), pair in pairs.items():
    parameter, part = PROJECTIONS[module]
    a, b = pair["A"].T, pair["B"].T                                       # (in, r), (r, out)
    path, rank = f"layers.{layer}.{parameter}", a.shape[1]
    mine = slice(rank, 2 * rank) if split and part == 1 else slice(rank)  # this pair's columns among the r or 2r
    heads = {"attn.q_einsum.w": (config.num_heads, config.head_dim),
             "attn.kv_einsum.w": (2, config.num_kv_heads, config.head_dim)}.get(parameter, (b.shape[1],))
    full_a = lora.setdefault(f"{path}_lora_a", np.zeros((a.shape[0], rank * (1 + split)), a.dtype))
    full_b = lora.setdefault(f"{path}_lora_b", np.zeros((rank * (1 + split), *heads), b.dtype))
    full_a[:, mine] = a
    if part is None:
      full_b[mine] = b.reshape(rank, *heads)
    else:
      full_b[mine, part] = b.reshape(rank, *heads[1:])
  for name in [n for n in lora if n.endswith("attn_vec_einsum.w_lora_a")]:
    lora[name] = lora[name].reshape(config.num_heads, config.head_dim, -1)
  return lora


def read_peft(folder) -> tuple[dict[str, np.ndarray], int, float]:
  """(tensors, r, lora_alpha) of a PEFT LoRA folder; rank-stabilised scaling is turned into the plain alpha / r.

  What plain LoRA cannot express is refused: the model would silently differ.
  """
  folder = pathlib.Path(folder)
  config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
  weights = folder / "adapter_model.safetensors"
  if not weights.is_file():
    raise InputError(f"{folder} has adapter_config.json but no adapter_model.safetensors; save it again with peft")
  unset = {"use_dora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}, "fan_in_fan_out": False,
           "modules_to_save": None, "layer_replication": None, "lora_bias": False, "alora_invocation_tokens": None}
  found = [f"{key}={config[key]!r}" for key, plain in unset.items() if config.get(key, plain) not in (plain, None)]
  if config.get("peft_type") != "LORA" or found:
    raise InputError(f"{folder} is a {config.get('peft_type')} adapter with {', '.join(found) or 'no LoRA'}, expected "
                             "plain LoRA; merge it into its base model with peft and pass the result as --model")
  rank, alpha = config["r"], float(config["lora_alpha"])
  return load_file(weights), rank, alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def load_peft_adapter(base: nnx.Module, folder: str, mesh) -> tuple[nnx.Module, int, float]:
  """`base` with a PEFT LoRA adapter (ours or another tool's) as qwix LoRA, its rank and alpha."""
  tensors, trained_rank, alpha = read_peft(folder)
  adapters = from_peft(tensors, base.config)
  rank = next(value.shape[-1] for name, value in adapters.items() if name.endswith("_lora_a"))
  alpha = alpha / trained_rank * rank
  model = apply_lora(base, mesh, rank, alpha)
  places = flat_params(model, nnx.LoRAParam)
  values = {name: jax.device_put(value.astype(np.float32), places[name].sharding) for name, value in adapters.items()}
  return with_params(model, values), rank, alpha


# -------------------------------------------------------------------------------------------- forward, sample, log-probs
def compute_view(model: nnx.Module):
  """(graph, state) of `model` in its compute dtype: float32 masters, bfloat16 arithmetic; gradients flow through the cast."""
  graph, state = nnx.split(model)
  cast = lambda x: x.astype(model.config.param_dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
  return graph, jax.tree.map(cast, state)


def forward(view, tokens, positions, mask, cache=None, remat=False):
  """Final hidden states (B, T, D) and the new cache.

  Goes through model.__call__, because qwix adds LoRA by intercepting exactly that method: calling model.layers by hand
  silently runs without the adapters. The logits that __call__ also builds are unused, so XLA drops them. Tunix's
  rematerialisation breaks any call with a cache, so it is switched on for this trace alone.
  """
  model = nnx.merge(*view)
  before = model.config.remat_config
  model.config.remat_config = gemma3.RematConfig.DECODER if remat else gemma3.RematConfig.NONE
  try:
    _, cache = model(tokens, positions, cache, mask, output_hidden_states=True)
  finally:
    model.config.remat_config = before
  return nnx.pop(model, nnx.Intermediate)["all_hidden_states"].get_value()[-1], cache


def jit_reading(static_argnames: tuple[str, ...] = (), donate: bool = False):
  """jax.jit for functions of (model, …) that only read the model. donate: they may reuse the memory of their second argument.

  nnx.jit returns every variable it was given, for the caller's model to be updated: a copy of all weights with each call.
  """
  def wrap(function):
    compiled = jax.jit(lambda graph, state, *args, **options: function(nnx.merge(graph, state), *args, **options),
                       static_argnums=0, static_argnames=static_argnames, donate_argnums=(2,) if donate else ())
    call = lambda model, *args, **options: compiled(*nnx.split(model), *args, **options)
    call.lower = lambda model, *args, **options: compiled.lower(*nnx.split(model), *args, **options)  # ahead of time
    return call
  return wrap


def lay_out(x, *axes):
  """x laid out so over the mesh of the context (`with mesh:`); as it is where that is one device or none."""
  mesh = pxla.thread_resources.env.physical_mesh
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))


def vocabulary_head(view):
  """The head (V, D), cut along V over all devices: each finds the logits of its words, and what is left to reduce is small.

  Cut along D, as Tunix stores it, a chunk's logits (V, C) would be summed over the links, or the head itself collected.
  """
  return lay_out(view[1]["embedder"]["input_embedding"].get_value(), ("fsdp", "tp"), None)


def whole_layers(view):
  """The view with its layers whole along fsdp, for a loop that reads all of them at each turn.

  Left as they are stored, XLA collects the slices inside decoding's loop: 2 GB over the links a token with 1B and its head. Whole
  layers cost 1.2 GB a chip there.
  """
  graph, state = view
  free = jax.sharding.PartitionSpec.UNCONSTRAINED
  whole = lambda spec, x: lay_out(x, *(None if axis == "fsdp" else free for axis in spec))
  state["layers"] = jax.tree.map(whole, nnx.get_partition_spec(state["layers"]), state["layers"])
  return graph, state


def blocks_of(logits):
  """logits (V, N) in equal blocks of at most 512 words, (K, V / K, N): XLA reduces the whole of V at once on one core of a CPU.

  No padding: it would break the cut over devices where V is no multiple of 512 (4B: 262,208 = 544 × 482)."""
  size = max(n for n in range(1, 513) if len(logits) % n == 0)
  return logits.reshape(-1, size, logits.shape[1])


def draw(logits, keys, t, temperature: float):
  """One exact draw (N,) from softmax(logits / temperature), logits (V, N): inverse CDF over blocks, two uniforms a row.

  Untruncated: with top-p or top-k the sampler's distribution would differ from the one the loss assumes. `keys` (N, 2)
  belong to the row, so the noise does not depend on how rows are batched.
  """
  blocks = blocks_of(logits)
  top = blocks.max(1).max(0)
  weights = lambda x: jnp.exp((x - top) / temperature)
  u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, t), (2,)), out_axes=1)(keys)  # (2, N)

  def pick(w, u):  # w (K, N): the first index whose cumulative weight exceeds u · total
    c = jnp.cumsum(w, 0)
    return jnp.sum(c <= jnp.minimum(u * c[-1], jnp.nextafter(c[-1], -1.0)), 0)
  block = pick(weights(blocks).sum(1), u[0])
  return block * blocks.shape[1] + pick(weights(blocks[block, :, jnp.arange(len(keys))].T), u[1])


def first_max(logits):
  """argmax (N,) of logits (V, N)."""
  blocks = blocks_of(logits)
  block = blocks.max(1).argmax(0)
  return block * blocks.shape[1] + blocks[block, :, jnp.arange(logits.shape[1])].argmax(-1)


def join_heads(x):
  """A cache between decoded tokens, (N, S, K · H): kept as Tunix has it, (N, S, K, H), XLA copies all of it four times a token
  on a CPU instead of once, as it fuses the update twice, into attention and into the next state."""
  return x.reshape(*x.shape[:2], -1) if x.ndim == 4 else x


@jit_reading(static_argnames=("generations", "slots", "new"))
def _prefill(model, prefix, prompts, keys, *, generations: int, slots: int, new: int) -> dict:
  """State of `_decode` before the first of `new` tokens, of B·G rows: `prefix` (F, S; equal rows), then a row of `prompts` (B, P).

  slots: S + P, and more left padding where other rows are longer. The prefix runs once for all. Its keys and values then move
  behind the left padding of each row, next to the row's own tokens, because Tunix's sliding window counts slots.
  """
  view, (rows, width), shared = compute_view(model), prompts.shape, prefix.shape[1]
  positions, causal = sft_utils.build_positions_from_mask, sft_utils.make_causal_attn_mask
  kv = lambda: jnp.zeros((len(prefix), shared, model.config.num_kv_heads, model.config.head_dim), model.config.param_dtype)
  cache = {f"layer_{i}": {"k": kv(), "v": kv(), "end_index": jnp.zeros(len(prefix), jnp.int32)}
           for i in range(model.config.num_layers)}
  if shared:
    everywhere = jnp.ones(prefix.shape, bool)
    _, cache = forward(view, prefix, positions(everywhere), causal(everywhere), cache)
  enlarge = lambda x, left, right: jnp.pad(x, ((0, 0), (left, right), (0, 0), (0, 0))) if x.ndim == 4 else x + left
  cache = jax.tree.map(lambda x: enlarge(jnp.repeat(x[:1], rows, 0), 0, width), cache)
  own = prompts != PAD_ID
  mask = jnp.pad(causal(own), ((0, 0), (0, 0), (shared, 0)), constant_values=True)  # (B, P, S + P)
  h, cache = forward(view, prompts, positions(own) + shared, mask, cache)
  slot, padding = jnp.arange(shared + width), (~own).sum(-1, keepdims=True)
  if shared:
    source = jnp.where(slot < shared + padding, jnp.maximum(slot - padding, 0), slot)  # (B, S + P)
    cache = jax.tree.map(lambda x: jax.vmap(lambda x, i: x[i])(x, source) if x.ndim == 4 else x, cache)
  spread = lambda x: jnp.repeat(x, generations, axis=0)
  rows, left = rows * generations, slots - shared - width
  cache = jax.tree.map(lambda x: join_heads(enlarge(spread(x), left, new)), cache)
  return {"t": 0, "h": spread(h[:, -1]), "cache": cache, "keys": keys,
          "real": jnp.pad(spread(slot >= padding), ((0, 0), (left, new))), "out": jnp.full((rows, new), PAD_ID, jnp.int32),
          "done": jnp.zeros(rows, bool)}


@jit_reading(static_argnames=("temperature",), donate=True)
def _decode(model, state: dict, few, *, temperature: float) -> dict:
  """`state` at the end of all its rows (N,), or once no more than `few` of them are still writing."""
  view, new = whole_layers(compute_view(model)), state["out"].shape[1]
  head = vocabulary_head(view)
  stops, slot = jnp.array(STOP_IDS), jnp.arange(state["real"].shape[1])
  keys, real = state.pop("keys"), state.pop("real")
  split_heads = lambda x: x.reshape(*x.shape[:2], model.config.num_kv_heads, -1) if x.ndim == 3 else x

  def step(s):
    logits = jnp.einsum("vd,nd->vn", head, lay_out(s["h"]), preferred_element_type=jnp.float32)  # "nd,vd->nv": slower on a CPU
    token = first_max(logits) if temperature == 0 else draw(logits, keys, s["t"], temperature)
    token = jnp.where(s["done"], PAD_ID, token).astype(jnp.int32)
    seen = real | ((slot >= len(slot) - new) & (slot <= len(slot) - new + s["t"]))  # the prompt, the completion up to this token
    h, cache = forward(view, token[:, None], real.sum(-1, keepdims=True) + s["t"], seen[:, None],
                       jax.tree.map(split_heads, s["cache"]))
    return {"t": s["t"] + 1, "h": h[:, 0], "cache": jax.tree.map(join_heads, cache), "out": s["out"].at[:, s["t"]].set(token),
            "done": s["done"] | jnp.isin(token, stops)}

  return jax.lax.while_loop(lambda s: (s["t"] < new) & ((~s["done"]).sum() > few), step, state) | {"keys": keys, "real": real}


def sample(policy: Policy, prompts: list[list[int]], *, width: int, generations: int = 1, max_new_tokens: int,
           temperature: float, keys=None, shared: int = 0) -> np.ndarray:
  """Completions (B·G, max_new_tokens) of B prompts of token ids: the stop token is kept, padding follows it.

  width: padded prompt length, at least the longest prompt (`bucket`, or `fit` over `choose_widths`). keys: (B, G, 2) uint32,
  unused when greedy. shared: how many tokens all prompts begin with; those run once. On several devices the rows are padded to a
  multiple of the fsdp axis and each generation prefills its own prompt. A CPU is bound by arithmetic: there prompts of like
  length, so sorted by the caller, are prefilled 8 at a time without much padding, and rows that are done leave.
  """
  longest, new = max(map(len, prompts)), max_new_tokens
  if longest > width:
    raise InputError(f"a prompt has {longest} tokens, the limit is {width}; prepare the data with --max_prompt_tokens={width}")
  if width > policy.model.config.sliding_window_size:
    shared = 0  # Tunix's prefill counts its window from the first slot
  keys = np.zeros((len(prompts), generations, 2), np.uint32) if keys is None else np.asarray(keys)
  own, keys, wanted = [row[shared:] for row in prompts], keys.reshape(-1, 2), len(prompts) * generations
  fsdp, lean = policy.mesh.shape["fsdp"], jax.default_backend() == "cpu" and policy.mesh.size == 1
  if policy.mesh.size > 1:
    own, generations = [row for row in own for _ in range(generations)], 1
    own += own[:1] * (-len(own) % fsdp)
    keys = np.concatenate([keys, keys[:1].repeat(len(own) - wanted, 0)])
  prefix, rows = np.array([prompts[0][:shared]] * fsdp, np.int32).reshape(fsdp, shared), np.arange(len(keys))
  out, states = np.full((len(rows), new), PAD_ID, np.int32), []
  with policy.mesh:
    at_once = 8 if lean else len(own)
    for i in range(0, len(own), at_once):
      part = own[i:i + at_once]
      tight = bucket(max(map(len, part)), width - shared) if lean else width - shared
      states.append(_prefill(policy.model, prefix, pad_left(part, tight), keys[i * generations:(i + len(part)) * generations],
                             generations=generations, slots=width, new=new))
    state = jax.tree.map(lambda *x: jnp.concatenate(x) if x[0].ndim else x[0], *states) if len(states) > 1 else states[0]
    del states
    while True:
      few = len(rows) // 2 if lean and len(rows) > 8 else 0
      state = _decode(policy.model, state, few, temperature=float(temperature))
      done, out[rows] = np.asarray(state["done"]), np.asarray(state["out"])
      if done.all() or int(state["t"]) == new:
        return out[:wanted]
      stay = np.argsort(done, kind="stable")[:few]  # those still writing, then others to fill up
      rows, state = rows[stay], jax.tree.map(lambda x, stay=stay: x[stay] if x.ndim else x, state)


def completion_lengths(completions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """completions (N, L) of `sample` -> (tokens up to and with the stop token (N,), ended with a stop token (N,) bool)."""
  stops = np.isin(completions, STOP_IDS)
  stopped = stops.any(-1)
  return np.where(stopped, stops.argmax(-1) + 1, completions.shape[-1]), stopped


def completion_hidden(view, sliding_window: int, prompts, completions, generations: int, remat: bool):
  """Hidden states that predict each completion token, (N, L, D); prompts (N / G, P), completions (N, L).

  Answers to one prompt share its sequence, [prompt | c1 | c2 | …], so that the prompt runs once for them: each sees the prompt
  and itself, and positions restart at each. As many share as fit in the sliding window, because Tunix's local mask goes by
  index: there it hides nothing. A sequence longer than the window holds one answer.
  """
  length = completions.shape[1]
  share = max(g for g in range(1, generations + 1)
              if generations % g == 0 and (g == 1 or prompts.shape[1] + g * length <= sliding_window))
  prompts = jnp.repeat(prompts, generations // share, 0)
  rows, width = prompts.shape
  tokens = jnp.concatenate([prompts, completions.reshape(rows, share * length)], 1)  # (N / share, T)
  # Every completion position is real, not only "id != 0": a policy can draw the padding id, and what follows the stop token is
  # masked in the loss and seen by nothing before it.
  real = jnp.pad(prompts != PAD_ID, ((0, 0), (0, share * length)), constant_values=True)
  owner = jnp.concatenate([jnp.full(width, -1), jnp.repeat(jnp.arange(share), length)])
  same = (owner[:, None] == owner[None]) | (owner[None] == -1)  # (T, T): same completion, or a key in the prompt
  mask = jnp.tril(same)[None] & real[:, None]
  start = real[:, :width].sum(-1, keepdims=True)
  positions = jnp.concatenate([sft_utils.build_positions_from_mask(real[:, :width]),
                               start + jnp.tile(jnp.arange(length), share)], 1)
  h, _ = forward(view, tokens, positions, mask, remat=remat)
  last = jnp.repeat(h[:, width - 1:width], share, 0)  # (N, 1, D), the prompt's last token
  return jnp.concatenate([last, h[:, width:].reshape(rows * share, length, -1)[:, :-1]], 1)


def head_logps(h, ids, head, temperature: float):
  """h (C, D), ids (C,), head (V, D) -> log p(id) and entropy (C,), and p (V, C) without its gradient.

  The vocabulary leads, as in `_decode`: on a CPU the product itself, its softmax and p · head take 30% less time so.
  """
  logits = jnp.einsum("vd,cd->vc", head, h, preferred_element_type=jnp.float32) / temperature
  log_z = jax.nn.logsumexp(logits, 0)
  free, free_z = jax.lax.stop_gradient((logits, log_z))
  p = jnp.exp(free - free_z)
  return jnp.take_along_axis(logits, ids[None], 0)[0] - log_z, free_z - jnp.sum(p * free, 0), p


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def frozen_head(h, ids, head, temperature: float):
  """`head_logps` without p, for a head that does not train: the forward pass finds d log p / d h = (head[id] − p · head) / T
  while it has the logits, so the backward pass needs neither them nor the head."""
  return head_logps(h, ids, head, temperature)[:2]


def frozen_head_forward(h, ids, head, temperature):
  logps, entropy, p = head_logps(h, ids, head, temperature)
  expected = jnp.einsum("vd,vc->dc", head, p.astype(head.dtype), preferred_element_type=jnp.float32).T
  return (logps, entropy), ((head[ids] - expected) / temperature).astype(h.dtype)


frozen_head.defvjp(frozen_head_forward, lambda temperature, slope, cotangent: (
    (cotangent[0][:, None] * slope).astype(slope.dtype), None, None))


def chunked_head(model, view, h, ids, live, temperature: float):
  """h (N, L, D), ids and live (N, L) -> log p(id) and entropy (N, L), 0 where not live.

  HEAD_CHUNK live positions at a time, and chunks without one are skipped, so padding costs nothing. No chunk's logits are
  kept: where the head trains, the backward pass rebuilds them (with LoRA it needs none).
  """
  head, shape = vocabulary_head(view), ids.shape
  chunk = min(HEAD_CHUNK * (1 if jax.default_backend() == "cpu" else 4), ids.size)
  flat = lambda x: jnp.pad(x.reshape(ids.size, -1), ((0, -ids.size % chunk), (0, 0)))
  h, ids, live = flat(h), flat(ids)[:, 0], flat(live)[:, 0]
  order = jnp.argsort(~live)  # stable: live positions first
  frozen = trainable(model) is nnx.LoRAParam
  score = frozen_head if frozen else lambda *x: head_logps(*x)[:2]

  def part(x):
    h, ids, live = x
    return jax.lax.cond(live.any(), lambda: score(lay_out(h), ids, head, temperature), lambda: (jnp.zeros(chunk), jnp.zeros(chunk)))
  split = lambda x: x[order].reshape(-1, chunk, *x.shape[1:])
  parts = jax.lax.map(part if frozen else jax.checkpoint(part), (split(h), split(ids), split(live)))
  back = lambda x: jnp.where(live, jnp.zeros(len(order)).at[order].set(x.ravel()), 0)[:math.prod(shape)].reshape(shape)
  return tuple(map(back, parts))


def token_logps(model: nnx.Module, prompts, completions, *, temperature: float = 1.0, generations: int = 1,
                remat: bool = False, live=None):
  """log p(token) of each completion token at `temperature` and the entropy there, both (N, L) float32.

  For old, reference and current policy alike; the vocabulary head runs on completion positions only.
  prompts (N / G, P) left-padded, each followed by its G rows of completions (N, L). live (N, L): where the result is wanted,
  0 elsewhere; None: everywhere.
  """
  view = compute_view(model)
  h = completion_hidden(view, model.config.sliding_window_size, prompts, completions, generations, remat)
  return chunked_head(model, view, h, completions, jnp.ones(completions.shape, bool) if live is None else live, temperature)


def packed_logps(model: nnx.Module, tokens, positions, live, *, remat: bool = False):
  """log p(token | the tokens of its row before it), (B, T) float32, of rows packed end to end; 0 where `live` is False.

  tokens, positions (B, T): positions restart at 0 with each row and stay 0 on padding; live (B, T) marks the tokens to score,
  never a row's first. A row sees itself alone, and lies in one piece, so Tunix's sliding window (by index) is exact too.
  """
  view = compute_view(model)
  row = jnp.cumsum(positions == 0, -1)
  h, _ = forward(view, tokens, positions, jnp.tril(row[:, :, None] == row[:, None]), remat=remat)
  logps, _ = chunked_head(model, view, h[:, :-1], tokens[:, 1:], live[:, 1:], 1.0)
  return jnp.pad(logps, ((0, 0), (1, 0)))


# ---------------------------------------------------------------------------------------------------------------- update
def make_schedule(learning_rate: float, max_steps: int, final_ratio: float, warmup_ratio: float = 0.1) -> optax.Schedule:
  """Updates made before -> learning rate: linear warm-up, cosine to final_ratio × peak.

  Read one step ahead and ending one step late: no batch is thrown away at a rate of zero. Compiled: op by op it rounds otherwise.
  """
  warmup = max(1, round(warmup_ratio * max_steps))
  ramp = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, max(max_steps, warmup) + 1, learning_rate * final_ratio)
  return jax.jit(lambda count: ramp(count + 1))


def make_optimizer(*, b1: float, b2: float, weight_decay: float, max_grad_norm: float) -> optax.GradientTransformationExtraArgs:
  """AdamW with clipping, whose update takes the learning rate as an argument; a non-finite update leaves all as it was.

  With the rate inside, as Optax and Tunix have it, another --learning_rate or --max_steps, auto's own answer too, would be another
  program to compile: minutes on a TPU.
  """
  at_rate = optax.GradientTransformationExtraArgs(
      lambda params: optax.EmptyState(),
      lambda updates, state, params=None, *, learning_rate: (jax.tree.map(lambda x: learning_rate * x, updates), state))
  adamw = optax.adamw(1.0, b1=b1, b2=b2, eps=1e-8, weight_decay=weight_decay)
  return optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(max_grad_norm), adamw, at_rate), 2**30)


def make_step(trainer: peft_trainer.PeftTrainer):
  """The compiled part of an update: f(parameters, optimizer state, frozen weights, micro-batches (M, rows, …), count, learning
  rate) -> (parameters, optimizer state, loss, aux (M, …), gradient norm); micro-batches from `count` on are skipped.

  Micro-batches are summed inside one compiled step, and old parameters and optimizer state are donated. Tunix's own step
  keeps both and returns a copy of the frozen weights, and its optax.MultiSteps stays NaN for ever after one bad micro-batch.
  The loss function must give each micro-batch its share of the whole loss. Of `trainer` only the structure is read, so its
  arrays may be abstract: `make_step(…).lower(…).compile()` says what an update needs before there is a machine for it.
  """
  kind = trainable(trainer.model)
  graph, _, _ = nnx.split(trainer.model, kind, ...)
  optimizer_graph, _ = nnx.split(trainer.optimizer)

  devices = jax.tree.leaves(nnx.state(trainer.model))[0].sharding.device_set
  # XLA's CPU pipeline drops the barriers of rematerialisation before it merges equal work: --remat would save nothing there.
  options = {"xla_disable_hlo_passes": "cse_barrier_expander"} if {d.platform for d in devices} == {"cpu"} else None

  @functools.partial(jax.jit, donate_argnums=(0, 1), compiler_options=options)
  def step(params, optimizer_state, frozen, micro_batches, count, learning_rate):
    def loss(params, micro_batch):
      return trainer.loss_fn(nnx.merge(graph, params, frozen), **trainer.gen_model_input_fn(micro_batch))

    def one(i):
      return jax.value_and_grad(loss, has_aux=True)(params, jax.tree.map(lambda x: x[i], micro_batches))

    def add(i, total):
      (value, aux), gradient = one(i)
      aux = jax.tree.map(lambda rows, x: rows.at[i].set(x), total[1], aux)
      return total[0] + value, aux, jax.tree.map(jnp.add, total[2], gradient)

    size = jax.tree.leaves(micro_batches)[0].shape[0]
    if size == 1:  # no loop, no accumulator
      (value, aux), gradient = one(0)
      aux = jax.tree.map(lambda x: x[None], aux)
    else:
      (_, aux), _ = jax.eval_shape(one, 0)
      rows = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), aux)
      value, aux, gradient = jax.lax.fori_loop(0, count, add, (jnp.zeros(()), rows, jax.tree.map(jnp.zeros_like, params)))
    model, optimizer = nnx.merge(graph, params, frozen), nnx.merge(optimizer_graph, optimizer_state)
    optimizer.update(model, gradient, learning_rate=learning_rate)
    return nnx.state(model, kind), nnx.state(optimizer), value, aux, optax.global_norm(gradient)
  return step


def make_update(trainer: peft_trainer.PeftTrainer, mesh):
  """The update of a Tunix trainer, f(micro-batches (M, rows, …), learning rate, count=M) -> (loss, aux (M, …), gradient norm);
  changes its model."""
  kind = trainable(trainer.model)
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  lay = lambda x: x if isinstance(x.sharding, jax.sharding.NamedSharding) else jax.device_put(x, everywhere)
  nnx.update(trainer.optimizer, jax.tree.map(lay, nnx.state(trainer.optimizer)))  # as the step returns it: else it compiles twice
  step = make_step(trainer)
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))

  def update(micro_batches, learning_rate: float, count=None):
    _, params, frozen = nnx.split(trainer.model, kind, ...)
    with mesh:
      params, state, loss, aux, norm = step(params, nnx.state(trainer.optimizer), frozen,
                                            jax.tree.map(lambda x: jax.device_put(x, rows), micro_batches),
                                            len(jax.tree.leaves(micro_batches)[0]) if count is None else count,
                                            np.float32(learning_rate))
    nnx.update(trainer.model, params)
    nnx.update(trainer.optimizer, state)
    return float(loss), jax.tree.map(np.asarray, aux), float(norm)
  return update


@contextlib.contextmanager
def rehearsal(optimizer: nnx.Optimizer):
  """Updates at a learning rate of 0 inside leave nothing behind: the optimizer's state is put back."""
  before = jax.tree.map(jnp.copy, flat_params(optimizer, nnx.optimizer.OptState))
  yield
  update_flat(optimizer, before, nnx.optimizer.OptState)


# --------------------------------------------------------------------------------------------------------- keeping a run
# Orbax times its own threads by the wall clock and fails a save during which that is set forward; nothing here can deadlock.
multihost._DEFAULT_BARRIER_TIMEOUT = 10**9  # seconds
NO_TIMEOUT = ocp.AsyncOptions(timeout_secs=10**9)


def save_params(folder: str, model: nnx.Module):
  """Writes the trainable parameters (adapters, or all) as one Orbax tree {name: array}; whole or not at all."""
  folder = os.path.abspath(folder)
  partial = folder + ".partial"
  shutil.rmtree(partial, ignore_errors=True)
  with ocp.StandardCheckpointer(async_options=NO_TIMEOUT) as saver:
    saver.save(partial, flat_params(model, trainable(model)))
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(partial, folder)


def load_params(folder: str, model: nnx.Module) -> nnx.Module:
  """`model` with the parameters that `save_params` wrote, on its own devices: the mesh may differ from the writer's."""
  target = flat_params(model, trainable(model))
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding), target)
  with ocp.StandardCheckpointer() as loader:
    saved = loader.restore(os.path.abspath(folder), abstract)
  return with_params(model, saved)


@contextlib.contextmanager
def open_checkpoints(out_dir: str, keep: int = 2):
  """Asynchronous, atomic step folders under out_dir/checkpoints, as an Orbax manager. A full disk inside is one clear line."""
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True,
                                         async_options=NO_TIMEOUT, cleanup_tmp_directories=True)
  try:
    with ocp.CheckpointManager(os.path.abspath(os.path.join(out_dir, "checkpoints")), options=options) as manager:
      yield manager
  except (OSError, ValueError) as error:  # ValueError is TensorStore's
    if "No space left" not in str(error):
      raise
    raise InputError(f"the disk of {out_dir} is full (no space left); free some and run the same command: it goes on from the "
                     "last checkpoint that was written whole") from error


def save_checkpoint(manager: ocp.CheckpointManager, step: int, model, optimizer: nnx.Optimizer, progress: dict):
  """Everything a resumed run needs: parameters, optimizer state and `progress` (plain JSON)."""
  if step in manager.all_steps():
    return
  copy = functools.partial(jax.tree.map, jnp.copy)  # the save goes on while the next update donates these buffers
  manager.save(step, args=ocp.args.Composite(
      params=ocp.args.StandardSave(copy(flat_params(model, trainable(model)))),
      optimizer=ocp.args.StandardSave(copy(flat_params(optimizer, nnx.optimizer.OptState))),
      progress=ocp.args.JsonSave(progress)))


def restore_checkpoint(out_dir: str, model, optimizer: nnx.Optimizer) -> tuple[int, dict]:
  """Puts the newest whole checkpoint of `out_dir` into model and optimizer; (0, {}) where there is none.

  A damaged step is set aside under its name + ".damaged", said, and the one before it is used.
  """
  root = os.path.abspath(os.path.join(out_dir, "checkpoints"))
  steps = sorted((int(name) for name in os.listdir(root) if name.isdigit()), reverse=True) if os.path.isdir(root) else []
  abstract = lambda flat: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), flat)
  params, state = flat_params(model, trainable(model)), flat_params(optimizer, nnx.optimizer.OptState)
  damaged = []
  for step in steps:
    try:
      with ocp.CheckpointManager(root) as manager:
        found = manager.restore(step, args=ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract(params)), optimizer=ocp.args.StandardRestore(abstract(state)),
            progress=ocp.args.JsonRestore()))
    except Exception as error:  # Orbax, TensorStore, JSON and the OS each raise their own for a damaged step
      reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
      say(f"checkpoint {root}/{step} is damaged ({reason}); using the one before it")
      damaged.append(os.path.join(root, str(step)))
      continue
    for folder in damaged:
      shutil.rmtree(folder + ".damaged", ignore_errors=True)
      os.replace(folder, folder + ".damaged")
    update_flat(model, found["params"], trainable(model))
    update_flat(optimizer, found["optimizer"], nnx.optimizer.OptState)
    return step, found["progress"]
  if steps:
    raise InputError(f"no checkpoint under {root} can be read; move the folder away to start again")
  return 0, {}


def update_flat(module, flat: dict, kind):
  """Sets variables of `module` in place from {name: array}."""
  for path, leaf in nnx.to_flat_state(nnx.state(module, kind)):
    nnx.update(module, nnx.from_flat_state([(path, leaf.replace(flat[".".join(map(str, path))]))]))


def check_one_process():
  """Refuses to be one of several controllers: each would train alone, and all would write."""
  if jax.process_count() > 1:
    raise InputError(f"this is process {jax.process_index()} of {jax.process_count()} under jax.distributed, expected one that "
                     "sees all devices; several hosts run under Pathways, see docs/scale.md")


def lock_folder(out_dir: str):
  """Makes `out_dir` and holds it for this process; a second run on it is refused. Returns the open lock: keep it.

  The same process may take it again: a notebook keeps the frame, and so the lock, of the cell that failed before.
  """
  check_one_process()
  if held := LOCKS.pop(os.path.abspath(out_dir), None):
    held.close()
  try:
    os.makedirs(out_dir, exist_ok=True)
    lock = open(os.path.join(out_dir, ".lock"), "w")  # noqa: SIM115 - held until the process ends
  except OSError as error:
    raise InputError(f"--out_dir={out_dir} cannot be written ({error.strerror}); choose a folder that can") from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    raise InputError(f"another run is writing {out_dir}; wait for it or choose another --out_dir") from error
  LOCKS[os.path.abspath(out_dir)] = lock
  return lock


def check_disk(out_dir: str, needed: int):
  """Refuses to start what cannot be saved. needed: bytes."""
  free = shutil.disk_usage(out_dir).free
  if free < needed:
    raise InputError(f"{out_dir} has {free / 1e9:.1f} GB free, this run writes up to {needed / 1e9:.1f} GB; free some space")


def check_run_fits(out_dir: str, trained: int):
  """Refuses a new run of `trained` parameters that the disk cannot hold; one that goes on has written most of this already."""
  check_disk(out_dir, (2 * 12 + 2 * 4 + 8) * trained)  # two checkpoints with moments, params/ and best/, and what is half-written


def count_parameters(model, kind=nnx.Param) -> int:
  return sum(x.size for x in jax.tree.leaves(nnx.state(model, kind)))


def say(text: str):
  """Prints a line at once. A lost terminal, a dead pipe or a full disk under it must not end a run: later lines go nowhere."""
  try:
    print(text, flush=True)
  except OSError:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process


def pace(marks) -> float:
  """Seconds a step, from the last marks (step, time); nan before the second, as the first step compiles."""
  (first, began), (last, now) = marks[0], marks[-1]
  return (now - began) / (last - first) if last > first else math.nan


def read_run(folder: str) -> dict:
  """run.json of a folder; {} where there is none."""
  path = pathlib.Path(folder, "run.json")
  return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def begin_run(out_dir: str, resume_from: str, flags: dict, may_change: tuple[str, ...], begun: str = "max_steps") -> dict:
  """What run.json of a started run records beyond its flags; {} for a new run. A resume with other flags is refused.

  resume_from: folder of a run to continue here (a copy, a read-only Kaggle input); it is copied and left as it is.
  begun: the fact in run.json that says something was done. Before it a run may start over with other flags: most refusals name one.
  """
  path = os.path.join(out_dir, "run.json")
  if resume_from and not os.path.isfile(path):
    if not os.path.isfile(os.path.join(resume_from, "run.json")):
      raise InputError(f"--resume_from={resume_from} holds no run.json, so no run of this script; give the folder of one")
    skip = shutil.ignore_patterns(".lock", "run.json", "config.json", "*.partial")
    shutil.copytree(resume_from, out_dir, dirs_exist_ok=True, ignore=skip, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(out_dir):  # copytree keeps the folders' modes, and an attached input's are read-only
      os.chmod(folder, 0o755)
    rewards.write_text(path, pathlib.Path(resume_from, "run.json").read_text(encoding="utf-8"))  # last: a cut copy starts over
  started = read_run(out_dir)
  if begun not in started:
    rewards.write_text(path, json.dumps({"flags": flags}, indent=1) + "\n")
    return {}
  changed = [f"--{k} was {started['flags'].get(k)!r}, is {v!r}" for k, v in flags.items()
             if k not in may_change and started["flags"].get(k) != v]
  if changed:
    raise InputError(f"{out_dir} holds a run with other flags ({'; '.join(changed)}); use them, or another --out_dir")
  return started


def read_max_steps(max_steps: str, max_hours: float) -> int | None:
  """--max_steps as a number; None for auto, which needs --max_hours."""
  if max_steps.isdigit() and int(max_steps):
    return int(max_steps)
  if max_steps != "auto" or not max_hours:
    raise InputError(f"--max_steps={max_steps}: expected a positive number, or auto together with --max_hours, the time to fill")
  return None


def check_finished(stop, step: int, max_steps: int, out_dir: str):
  """Ends a run that was stopped early, with its own exit code: the same command goes on."""
  if stop and step < max_steps:
    raise rewards.Stopped(f"{stop.reason} after step {step} of {max_steps}; saved in {out_dir}; run the same command to go on")


def describe_run(policy: Policy, out_dir: str, stage: str, data: dict) -> dict:
  """Writes the tokenizer and, into run.json, what a reader of best/ or params/ needs, so that a run that never ends is of use too.

  data: config of the data that it trains on. Returns the facts of the model, for config.json.
  """
  facts = dict(model=policy.name, model_fingerprint=policy.fingerprint, lora_rank=policy.lora_rank, lora_alpha=policy.lora_alpha,
               prompt_hash=data.get("prompt_hash"))  # of the data: under --allow_prompt_mismatch it is not this code's
  pathlib.Path(out_dir, "tokenizer.model").write_bytes(policy.tokenizer.serialized_model_proto())
  record_run(out_dir, made=dict(stage=stage, style=data["style"], **facts))
  return facts


def save_run(model: nnx.Module, out_dir: str, panels):
  """Parameters and curves of a training run that ends here, for now or for good."""
  save_params(os.path.join(out_dir, "params"), model)
  metrics = os.path.join(out_dir, "metrics.jsonl")
  if os.path.isfile(metrics):  # not where the time was up before the first update
    plot_curves(rewards.read_rows(metrics), panels, os.path.join(out_dir, "curves.png"))


def record_run(out_dir: str, **facts):
  """Adds facts (resolved step count, …) to run.json, so that a resume keeps them."""
  rewards.write_text(os.path.join(out_dir, "run.json"), json.dumps(read_run(out_dir) | facts, indent=1) + "\n")


def digest(path: str) -> str:
  """16 hex digits of the content of a file, or of all files of a folder and their names in it; where it lies does not matter."""
  files = [path] if os.path.isfile(path) else sorted(glob.glob(os.path.join(glob.escape(path), "**"), recursive=True))
  total = hashlib.sha256()
  for name in filter(os.path.isfile, files):
    with open(name, "rb") as f:
      total.update(f"{os.path.relpath(name, path)}\n{hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode())
  return total.hexdigest()[:16]


def check_inputs(out_dir: str, started: dict, **inputs: str):
  """Notes in run.json what the run reads, as flag → `digest`; a resume on other content is refused. started: of `begin_run`."""
  before = started.get("inputs", inputs)
  changed = [f"--{name}" for name in inputs if before.get(name) != inputs[name]]
  if changed:
    raise InputError(f"{out_dir} holds a run that began with other content in {' and '.join(changed)}; put that back, or start "
                     "again in another --out_dir")
  if "inputs" not in started:
    record_run(out_dir, inputs=inputs)


def append_rows(path, rows: list[dict]):
  """Appends JSON lines; NaN and infinity, which JSON has no word for, become null."""
  valid = lambda row: json.loads(json.dumps(row), parse_constant=lambda name: None)
  with open(path, "a", encoding="utf-8") as f:
    f.write("".join(json.dumps(valid(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def trim_rows(path, last_step: int):
  """Drops rows after `last_step` and a half-written last line, so that a resumed run repeats none and loses none."""
  path = pathlib.Path(path)
  if not path.is_file():
    return
  kept = []
  for line in path.read_bytes().splitlines(keepends=True):
    try:
      row = json.loads(line)
    except ValueError:
      continue  # the line that a kill cut short
    if line.endswith(b"\n") and row["step"] <= last_step:
      kept.append(line.decode())
  rewards.write_text(path, "".join(kept))


class StopSignal:
  """True once SIGTERM or Ctrl-C arrived or the deadline passed; the loop finishes its step, saves and exits.

  The clock is monotonic: a jump of the wall clock neither stops nor prolongs a run. A second Ctrl-C stops at once.
  """

  def __init__(self, max_hours: float):
    self.start, self.max_seconds, self.reason = time.monotonic(), max_hours * 3600 or float("inf"), ""
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # under nohup a lost terminal stops nothing
          signal.signal(number, self._received)

  def _received(self, number, _):
    if number == signal.SIGINT and self.reason:
      raise KeyboardInterrupt
    self.reason = self.reason or signal.Signals(number).name

  @property
  def seconds(self) -> float:
    return time.monotonic() - self.start

  def __bool__(self) -> bool:
    if not self.reason and self.seconds > self.max_seconds:
      self.reason = "the deadline"
    return bool(self.reason)


def plot_curves(metrics: list[dict], panels: list[tuple[str, tuple[str, ...]]], path: str, columns: int = 3):
  """A PNG of one panel per (title, metric names) over the optimizer step, from rows of metrics.jsonl; bold: running means."""
  from matplotlib.figure import Figure  # not pyplot: a notebook's own backend stays
  lines = -(-len(panels) // columns)
  figure = Figure(figsize=(4.8 * columns, 2.2 * lines + 0.3), dpi=200, layout="constrained")
  axes = figure.subplots(lines, columns, squeeze=False)
  for axis, (title, names) in zip(axes.flat, panels):
    for name, color, dash in zip(names, ("#0072B2", "#D55E00", "#009E73"), ("-", "--", ":")):  # Okabe-Ito: every reader's
      points = [(row["step"], row[name]) for row in metrics if isinstance(row.get(name), (int, float)) and math.isfinite(row[name])]
      if points:
        steps, values = np.array(points, float).T
        span = 1 if name == "learning_rate" else max(1, len(values) // 20)  # a schedule has no noise to smooth
        total, last = np.append(0, values.cumsum()), np.arange(1, len(values) + 1)
        smooth = (total[last] - total[np.maximum(last - span, 0)]) / np.minimum(last, span)
        axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axis.plot(steps, smooth, dash, color=color, label=name, linewidth=1.6, marker="." if len(values) < 40 else None)
    axis.set_title(title, fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if len(names) > 1 and axis.lines:
      axis.legend(fontsize=8, frameon=False)
  for axis in list(axes.flat)[len(panels):]:
    axis.axis("off")
  figure.supxlabel("optimizer step", fontsize=9)
  figure.savefig(path)
