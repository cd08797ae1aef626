"""Gemma 3's parameters under the names and in the layouts of Tunix, of Hugging Face and of PEFT.

Tunix keeps a projection as an einsum's tensor, Hugging Face as a matrix (out, in), PEFT as two
factors of that matrix. `hf_names` and `hf_shapes` list the model's tensors; `to_hf` and `from_hf`
turn one into the other; `to_peft` and `from_peft` do the same for LoRA. Letters: D width, F MLP
width, N heads, K key-value heads, H head size, V vocabulary, r LoRA rank.
"""

import re

import numpy as np

from lib.errors import InputError

# A projection of a Hugging Face layer → the Tunix parameter that holds it and, where keys and
# values share one, the slice.
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
IN_HEADS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # their output is heads

# PEFT's name of a factor in the text model; 4B and up have "language_model" in it, before or after
# "model".
PEFT_NAME = re.compile(
  r"(?:base_model\.model\.)?(?:model\.|language_model\.)*"
  r"layers\.(\d+)\.((?:self_attn|mlp)\.\w+)\.lora_([AB])(?:\.default)?\.weight"
)
PEFT_OF_IMAGES = re.compile(r"(?:.*\.)?(?:vision_tower|multi_modal_projector)\..*")


def hf_names(config) -> dict[str, tuple[str, int | None]]:
  """Every tensor of Hugging Face's Gemma3ForCausalLM → (Tunix parameter, slice of it or None)."""
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


def hf_shapes(config) -> dict[str, tuple[int, ...]]:
  """The shape of every tensor that `hf_names` lists."""
  width = config.embed_dim
  shapes = {"model.embed_tokens.weight": (config.num_embed, width), "model.norm.weight": (width,)}
  for layer in range(config.num_layers):
    for module, shape in projection_shapes(config).items():  # (out, in)
      shapes[f"model.layers.{layer}.{module}.weight"] = shape
    for module in NORMS:
      # Norms of queries and keys act on each head, the others on the whole width.
      size = config.head_dim if module.startswith("self_attn.") else width
      shapes[f"model.layers.{layer}.{module}.weight"] = (size,)
  return shapes


def projection_shapes(config) -> dict[str, tuple[int, int]]:
  """{projection: (out, in)} of one layer, as Hugging Face stores it."""
  width = config.embed_dim
  queries = config.num_heads * config.head_dim
  keys = config.num_kv_heads * config.head_dim
  return {
    "self_attn.q_proj": (queries, width),
    "self_attn.k_proj": (keys, width),
    "self_attn.v_proj": (keys, width),
    "self_attn.o_proj": (width, queries),
    "mlp.gate_proj": (config.hidden_dim, width),
    "mlp.up_proj": (config.hidden_dim, width),
    "mlp.down_proj": (width, config.hidden_dim),
  }


def to_hf(name: str, value: np.ndarray, part: int | None) -> np.ndarray:
  """A Tunix parameter as the Hugging Face tensor `name`; part: the slice of it, see PROJECTIONS."""
  module = module_of(name)
  if module not in PROJECTIONS:
    return value
  if module in IN_HEADS:
    heads = value if part is None else value[part]  # (N, D, H)
    return heads.swapaxes(1, 2).reshape(-1, heads.shape[1])  # (N·H, D)
  return value.reshape(
    -1, value.shape[-1]
  ).T  # o_proj: (N, H, D) → (D, N·H); MLP: (in, out) → (out, in)


def from_hf(name: str, value: np.ndarray, config) -> np.ndarray:
  """Inverse of `to_hf`; of keys and values the slice that Tunix stacks."""
  module = module_of(name)
  if module not in PROJECTIONS:
    return value
  if module in IN_HEADS:
    heads = value.reshape(-1, config.head_dim, config.embed_dim)  # (N·H, D) → (N, H, D)
    return heads.swapaxes(1, 2)  # (N, D, H)
  if module == "self_attn.o_proj":
    return value.T.reshape(-1, config.head_dim, config.embed_dim)  # (D, N·H) → (N, H, D)
  return value.T


def module_of(name: str) -> str:
  """The projection in model.layers.3.mlp.up_proj.weight is mlp.up_proj; "" outside the layers."""
  match = re.fullmatch(r"model\.layers\.\d+\.(.+)\.weight", name)
  return match[1] if match else ""


def to_peft(lora: dict[str, np.ndarray], config) -> dict[str, np.ndarray]:
  """qwix's factors ("layers.0.attn.q_einsum.w_lora_a") → PEFT's lora_A (r, in) and lora_B (out, r).

  Both libraries scale the product by alpha / rank, so the factors pass unscaled. qwix splits a
  weight into its contracted axes (A) and the rest (B): the fused key-value einsum has one A (D, r)
  and one B (r, 2, K, H), which is exactly two PEFT pairs that share A.
  """
  tensors = {}
  for layer in range(config.num_layers):
    for module, (parameter, part) in PROJECTIONS.items():
      path = f"layers.{layer}.{parameter}"
      if f"{path}_lora_a" not in lora:
        continue
      a = np.asarray(lora[f"{path}_lora_a"])  # (in axes…, r)
      b = np.asarray(lora[f"{path}_lora_b"])  # (r, out axes…)
      if part is not None:
        b = b[:, part]  # (r, 2, K, H) → (r, K, H)
      down = a.reshape(-1, a.shape[-1]).T  # (r, in)
      up = b.reshape(b.shape[0], -1).T  # (out, r)
      name = f"base_model.model.model.layers.{layer}.{module}"
      tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down)
      tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(up)
  return tensors


def from_peft(tensors: dict[str, np.ndarray], config) -> dict[str, np.ndarray]:
  """Inverse of `to_peft`. Projections that the adapter lacks are left out: qwix's own zero B makes
  them do nothing.

  An adapter trained elsewhere has its own A for keys and its own for values, where Tunix has one
  for both. Two pairs of rank r are then one of rank 2r, exactly: A side by side, B block-diagonal.
  Every other factor is padded with zeros to that rank, so read the rank off the result and give
  qwix alpha = lora_alpha / r · rank.
  """
  pairs = read_pairs(tensors, config)
  split = any(
    module == "self_attn.v_proj" and not shares_factor(pairs, layer) for layer, module in pairs
  )
  lora = {}
  for (layer, module), (down, up) in pairs.items():
    add_pair(lora, layer, module, down, up, split, config)
  return lora


def read_pairs(tensors, config) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
  """{(layer, projection): (A (r, in), B (out, r))}; what is no factor of the model is refused."""
  found = {}
  for name, value in tensors.items():
    if PEFT_OF_IMAGES.fullmatch(name):  # text never passes through there
      continue
    match = PEFT_NAME.fullmatch(name)
    if not match or match[2] not in PROJECTIONS or int(match[1]) >= config.num_layers:
      raise InputError(
        f"adapter tensor {name} {value.shape} is no LoRA factor of this Gemma 3 text model's "
        "attention or MLP projections; train the adapter on those layers only"
      )
    found.setdefault((int(match[1]), match[2]), {})[match[3]] = np.asarray(value)
  if not found:
    raise InputError("the adapter changes nothing in the text model; expected its attention or MLP")
  # With one rank for all: PEFT's rank_pattern is refused before.
  ranks = {pair["A"].shape[0] for pair in found.values() if "A" in pair}
  for (layer, module), pair in found.items():
    name = f"adapter of layers.{layer}.{module}"
    if pair.keys() != {"A", "B"}:
      raise InputError(f"{name} lacks lora_{'B' if 'A' in pair else 'A'}; save it again with peft")
    shapes = (pair["A"].shape, pair["B"].shape)
    out, inner = projection_shapes(config)[module]
    rank = min(ranks)
    if shapes != ((rank, inner), (out, rank)):
      raise InputError(
        f"{name} has lora_A {shapes[0]} and lora_B {shapes[1]}, the model expects {(rank, inner)} "
        f"and {(out, rank)}; pass the --model it was trained on"
      )
  return {place: (pair["A"], pair["B"]) for place, pair in found.items()}


def shares_factor(pairs, layer: int) -> bool:
  """Whether one A (D, r) holds for a layer's keys and values: equal, or one has none."""
  if (layer, "self_attn.k_proj") not in pairs:
    return True
  keys, _ = pairs[layer, "self_attn.k_proj"]
  values, _ = pairs[layer, "self_attn.v_proj"]
  return np.array_equal(keys, values)


def add_pair(lora: dict, layer: int, module: str, down, up, split: bool, config):
  """Writes a PEFT pair, A (r, in) and B (out, r), into qwix's factors; split: into rank 2r."""
  parameter, part = PROJECTIONS[module]
  path = f"layers.{layer}.{parameter}"
  r = down.shape[0]
  rank = 2 * r if split else r
  mine = slice(r, 2 * r) if split and part == 1 else slice(r)  # this pair's share of the rank
  into, out = factor_shapes(parameter, rank, config)
  a = lora.setdefault(f"{path}_lora_a", np.zeros(into, down.dtype))  # (in axes…, rank)
  b = lora.setdefault(f"{path}_lora_b", np.zeros(out, up.dtype))  # (rank, out axes…)
  # Zeros elsewhere: they add nothing to A·B.
  a[..., mine] = down.T.reshape(*into[:-1], r)
  if part is None:
    b[mine] = up.T.reshape(r, *out[1:])
  else:
    b[mine, part] = up.T.reshape(r, *out[2:])  # (r, K, H) of (rank, 2, K, H)


def factor_shapes(parameter: str, rank: int, config) -> tuple[tuple, tuple]:
  """qwix's shapes of A and B for a Tunix parameter."""
  width = config.embed_dim
  head = config.head_dim
  return {
    "attn.q_einsum.w": ((width, rank), (rank, config.num_heads, head)),
    "attn.kv_einsum.w": ((width, rank), (rank, 2, config.num_kv_heads, head)),
    "attn.attn_vec_einsum.w": ((config.num_heads, head, rank), (rank, width)),
    "mlp.gate_proj.kernel": ((width, rank), (rank, config.hidden_dim)),
    "mlp.up_proj.kernel": ((width, rank), (rank, config.hidden_dim)),
    "mlp.down_proj.kernel": ((config.hidden_dim, rank), (rank, width)),
  }[parameter]
