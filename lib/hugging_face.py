"""TODO-DOC hugging_face."""

import json
import math
import pathlib
import re

import numpy as np
from safetensors.numpy import load_file

from lib.errors import InputError

# ------------------------------------------------------------------------------------- names: Tunix, Hugging Face, PEFT
# A projection of a Hugging Face layer -> the Tunix parameter that holds it and, where keys and values share one, the slice.
PROJECTIONS = {
  "self_attn.q_proj": ("attn.q_einsum.w", None),  # (N, D, H)
  "self_attn.k_proj": ("attn.kv_einsum.w", 0),  # (2, K, D, H)
  "self_attn.v_proj": ("attn.kv_einsum.w", 1),
  "self_attn.o_proj": ("attn.attn_vec_einsum.w", None),  # (N, H, D)
  "mlp.gate_proj": ("mlp.gate_proj.kernel", None),  # (D, F)
  "mlp.up_proj": ("mlp.up_proj.kernel", None),  # (D, F)
  "mlp.down_proj": ("mlp.down_proj.kernel", None),  # (F, D)
}
NORMS = {
  "input_layernorm": "pre_attention_norm.scale",
  "post_attention_layernorm": "post_attention_norm.scale",
  "pre_feedforward_layernorm": "pre_ffw_norm.scale",
  "post_feedforward_layernorm": "post_ffw_norm.scale",
  "self_attn.q_norm": "attn._query_norm.scale",
  "self_attn.k_norm": "attn._key_norm.scale",
}
PEFT_NAME = re.compile(
  r"(?:.*\.)?layers\.(\d+)\.((?:self_attn|mlp)\.\w+)\.lora_([AB])(?:\.default)?\.weight"
)


def hf_names(config) -> dict[str, tuple[str, int | None]]:
  """Every tensor of Hugging Face's Gemma3ForCausalLM -> (Tunix parameter, slice of it or None)."""
  names = {
    "model.embed_tokens.weight": ("embedder.input_embedding", None),
    "model.norm.weight": ("final_norm.scale", None),
  }
  for layer in range(config.num_layers):
    for module, (parameter, part) in PROJECTIONS.items():
      names[f"model.layers.{layer}.{module}.weight"] = (f"layers.{layer}.{parameter}", part)
    for module, parameter in NORMS.items():
      names[f"model.layers.{layer}.{module}.weight"] = (f"layers.{layer}.{parameter}", None)
  return names


def to_hf(name: str, value: np.ndarray, part: int | None) -> np.ndarray:
  """A Tunix parameter as the Hugging Face tensor `name`: a matrix is (out, in), norms and embedding stay as they are."""
  if name.endswith((".q_proj.weight", ".k_proj.weight", ".v_proj.weight")):
    value = value if part is None else value[part]  # (N, D, H)
    return value.swapaxes(1, 2).reshape(-1, value.shape[1])  # (N·H, D)
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
      a, b = (
        np.asarray(lora[f"{path}_lora_a"]),
        np.asarray(lora[f"{path}_lora_b"]),
      )  # (in..., r), (r, out...)
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
      raise InputError(
        f"adapter tensor {name} {value.shape} is no LoRA factor of this Gemma 3 text model's attention "
        "or MLP projections; train the adapter on those layers only"
      )
    pairs.setdefault((int(match[1]), match[2]), {})[match[3]] = np.asarray(value)
  keys = {
    layer: pair["A"] for (layer, module), pair in pairs.items() if module == "self_attn.k_proj"
  }
  split = any(
    module == "self_attn.v_proj" and layer in keys and not np.array_equal(pair["A"], keys[layer])
    for (layer, module), pair in pairs.items()
  )
  lora = {}
  for (layer, module), pair in pairs.items():
    parameter, part = PROJECTIONS[module]
    a, b = pair["A"].T, pair["B"].T  # (in, r), (r, out)
    path, rank = f"layers.{layer}.{parameter}", a.shape[1]
    mine = (
      slice(rank, 2 * rank) if split and part == 1 else slice(rank)
    )  # this pair's columns among the r or 2r
    heads = {
      "attn.q_einsum.w": (config.num_heads, config.head_dim),
      "attn.kv_einsum.w": (2, config.num_kv_heads, config.head_dim),
    }.get(parameter, (b.shape[1],))
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
    raise InputError(
      f"{folder} has adapter_config.json but no adapter_model.safetensors; save it again with peft"
    )
  unset = {
    "use_dora": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "layer_replication": None,
    "lora_bias": False,
    "alora_invocation_tokens": None,
  }
  found = [
    f"{key}={config[key]!r}"
    for key, plain in unset.items()
    if config.get(key, plain) not in (plain, None)
  ]
  if config.get("peft_type") != "LORA" or found:
    raise InputError(
      f"{folder} is a {config.get('peft_type')} adapter with {', '.join(found) or 'no LoRA'}, expected "
      "plain LoRA; merge it into its base model with peft and pass the result as --model"
    )
  rank, alpha = config["r"], float(config["lora_alpha"])
  return load_file(weights), rank, alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
