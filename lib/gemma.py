"""TODO-DOC gemma."""

import glob
import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.models.gemma3 import model as gemma3
from tunix.models.gemma3 import params_safetensors

from lib import devices, tokenization
from lib.errors import InputError

KAGGLE_HANDLES = {
  name: f"google/gemma-3/transformers/{name}" for name in ("gemma-3-270m-it", "gemma-3-1b-it")
}


# ----------------------------------------------------------------------------------------------------------------- model
class ModelConfig(gemma3.ModelConfig):
  """Tunix's, hashable: jax.jit keys its programs on a model's structure, of which the config is part."""

  __hash__ = object.__hash__


def gemma_config(folder: str, dtype) -> ModelConfig:
  """Tunix's config from a Hugging Face config.json, so that any Gemma 3 text size works, our exports included."""
  path = os.path.join(folder, "config.json")
  if not os.path.isfile(path):
    raise InputError(
      f"{folder} has no config.json; --model must be a Hugging Face folder of a Gemma 3 text model"
    )
  with open(path, encoding="utf-8") as f:
    hf = json.load(f)
  hf = hf.get("text_config", hf)
  if hf.get("model_type") != "gemma3_text":
    raise InputError(
      f"{folder} holds model_type {hf.get('model_type')!r}; expected 'gemma3_text' (Gemma 3 270M, 1B, or the "
      "text part of 4B and up)"
    )
  if missing := [
    key
    for key in ("vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    if key not in hf
  ]:
    raise InputError(
      f"{path} lacks {', '.join(missing)}; add them (Google's 4B and up leave out what transformers takes for "
      "granted: 262208, 8, 4 and 256 for 4B)"
    )
  rope = hf.get("rope_parameters") or {}  # transformers 5 groups what 4 kept flat
  full, sliding = rope.get("full_attention", {}), rope.get("sliding_attention", {})
  scaling = hf.get("rope_scaling") or full
  return ModelConfig(
    num_layers=hf["num_hidden_layers"],
    num_embed=hf["vocab_size"],
    embed_dim=hf["hidden_size"],
    hidden_dim=hf["intermediate_size"],
    num_heads=hf["num_attention_heads"],
    head_dim=hf["head_dim"],
    num_kv_heads=hf["num_key_value_heads"],
    sliding_window_size=hf["sliding_window"],
    global_base_frequency=int(full.get("rope_theta") or hf.get("rope_theta", 1_000_000)),
    local_base_frequency=int(sliding.get("rope_theta") or hf.get("rope_local_base_freq", 10_000)),
    global_scale_factor=float(scaling.get("factor", 1.0)),
    param_dtype=dtype,
  )


def tiny_config(vocab_size: int) -> ModelConfig:
  """0.9M parameters of the real architecture: learns the built-in pool in minutes on two cores."""
  return ModelConfig(
    num_layers=4,
    num_embed=-(-vocab_size // 64) * 64,
    embed_dim=128,
    hidden_dim=384,
    num_heads=4,
    head_dim=32,
    num_kv_heads=1,
    sliding_window_size=512,
    local_base_frequency=10_000,
    global_base_frequency=10_000,
    param_dtype=jnp.float32,
  )


def create_tiny(config: ModelConfig) -> nnx.Module:
  """Random weights that can train: Tunix starts MLP kernels at zero, where every gradient is zero, so all matrices are
  drawn. The draw ignores --seed: the base model must be the same for SFT, GRPO and evaluation."""
  model = gemma3.Gemma3(config, rngs=nnx.Rngs(0))
  leaves, tree = jax.tree.flatten(nnx.state(model))
  draw = lambda i, x: (
    0.06 * jax.random.normal(jax.random.fold_in(jax.random.key(0), i), x.shape, x.dtype)
  )
  nnx.update(
    model,
    jax.tree.unflatten(tree, [x if x.ndim == 1 else draw(i, x) for i, x in enumerate(leaves)]),
  )
  return model


def load_base(model: str, tokenizer, mesh, dtype: str = "auto") -> nnx.Module:
  """The pretrained (or tiny) model, sharded over `mesh`; the tiny one is float32 always."""
  dtype = devices.compute_dtype(dtype)
  config = tiny_config(tokenizer.GetPieceSize()) if model == "tiny" else gemma_config(model, dtype)
  for axis, what, size in (("fsdp", "width", config.embed_dim), ("tp", "heads", config.num_heads)):
    if size % mesh.shape[axis]:
      raise InputError(
        f"--mesh has {mesh.shape[axis]} devices on {axis}, which do not divide the model's {what}, {size}; "
        "choose another, such as 1x1"
      )
  if model == "tiny":
    with mesh:
      return shard(nnx.jit(lambda: create_tiny(config))())
  if not glob.glob(os.path.join(model, "*.safetensors")):
    raise InputError(
      f"{model} has no *.safetensors; --model must be a Hugging Face folder of a Gemma 3 text model"
    )
  turn = tokenizer.PieceToId("<end_of_turn>")
  if tokenizer.GetPieceSize() > config.num_embed or turn != tokenization.END_OF_TURN_ID:
    raise InputError(
      f"the tokenizer in {model} has {tokenizer.GetPieceSize()} pieces, <end_of_turn> is number {turn}; the model "
      f"has {config.num_embed} and {tokenization.END_OF_TURN_ID}; they do not belong together"
    )
  return params_safetensors.create_model_from_safe_tensors(
    model, config, mesh=mesh, dtype=config.param_dtype
  )


def shard(model: nnx.Module) -> nnx.Module:
  """Lays a model's parameters out as their partition specs say; call inside `with mesh:`."""
  state = nnx.state(model)
  nnx.update(model, jax.lax.with_sharding_constraint(state, nnx.get_partition_spec(state)))
  return model


def fingerprint(model: nnx.Module) -> str:
  """16 hex digits of a base model: its shape and some of its weights in bfloat16 (equal for either --dtype)."""
  config, embedding = model.config, model.embedder.input_embedding.get_value()
  some = [
    embedding[:8],
    model.layers[0].attn.kv_einsum.w.get_value(),
    model.final_norm.scale.get_value(),
  ]
  shape = (
    config.num_layers,
    config.num_embed,
    config.embed_dim,
    config.hidden_dim,
    config.num_heads,
    config.head_dim,
  )
  digest = hashlib.sha256(repr(shape).encode())
  for x in some:
    digest.update(np.asarray(x.astype(jnp.bfloat16)).tobytes())
  return digest.hexdigest()[:16]
