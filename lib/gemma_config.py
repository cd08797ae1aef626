"""A Hugging Face config.json of Gemma 3 → Tunix's ModelConfig, or one line that says why not.

A key that is read wrongly changes the arithmetic without an error, so no key goes unseen: each one
is used, checked to have the value that Tunix's model has built in, or known to change no logit.
Numbers that a file leaves out are transformers' defaults, as Google's own files of 4B and up
expect. `read_config`, `text_settings` and `tunix_config` follow that order.
"""

import os

from tunix.models.gemma3 import model as gemma3

from lib.errors import InputError
from lib.model_json import NOT_A_MODEL, is_number, read_json, short

# transformers' Gemma3TextConfig: what a missing key means. Google's 4B leaves out four sizes.
SIZES = {
  "vocab_size": 262_208,
  "hidden_size": 2304,
  "intermediate_size": 9216,
  "num_hidden_layers": 26,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  # Not width / heads: 1B has 4 heads of 256 over a width of 1152.
  "head_dim": 256,
  "sliding_window": 4096,
}
DEFAULTS = SIZES | {
  "query_pre_attn_scalar": 256,
  # Gemma 3 report, §2: raised from 10,000 for long contexts, in the layers that see all of them.
  "rope_theta": 1_000_000.0,  # of the full layers
  "rope_local_base_freq": 10_000.0,  # of the sliding ones
}

# What tunix.models.gemma3.model has built in: the only value of these keys that it computes.
BUILT_IN = {
  "tie_word_embeddings": True,
  "hidden_activation": "gelu_pytorch_tanh",
  "hidden_act": "gelu_pytorch_tanh",
  "rms_norm_eps": 1e-6,
  "attention_bias": False,  # Tunix's projections have none, and its own loader would drop them
  "use_bidirectional_attention": False,  # EmbeddingGemma has it
  "final_logit_softcapping": None,  # Gemma 2 had both caps; norms of q and k took their place
  "attn_logit_softcapping": None,
  "sliding_window_pattern": 6,  # every sixth layer is a full one
  "_sliding_window_pattern": 6,
  "partial_rotary_factor": 1.0,
  "quantization_config": None,
}
ADVICE = {
  "tie_word_embeddings": "; with a head of its own the logits would differ",
  "quantization_config": "; pass the unquantized model (bfloat16 or float32 weights)",
  "use_bidirectional_attention": "; this is an embedding model, not a generator",
}
READ = {*DEFAULTS, *BUILT_IN, "layer_types", "rope_scaling", "rope_parameters"}

# Labels, ids, generation and training settings: they change no logit of a given sequence.
HARMLESS = set(
  """
  architectures attention_dropout attn_implementation auto_map bos_token_id cache_implementation
  chunk_size_feed_forward dtype eos_token_id id2label initializer_range label2id
  max_position_embeddings model_type name_or_path pad_token_id problem_type return_dict
  tokenizer_class torch_dtype transformers_version unsloth_fixed unsloth_version use_cache
  boi_token_id boi_token_index eoi_token_id eoi_token_index image_token_id image_token_index
  mm_tokens_per_image text_config vision_config
  begin_suppress_tokens diversity_penalty do_sample early_stopping length_penalty max_length
  max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
  repetition_penalty temperature top_k top_p typical_p
  """.split()  # noqa: SIM905 - one a line would fill a page
)
UNSET = (None, False, "", [], {})
ROPE_KEYS = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"}


class ModelConfig(gemma3.ModelConfig):
  """Tunix's, hashable: jax.jit keys programs on a model's structure, the config included."""

  __hash__ = object.__hash__


def read_config(folder: str) -> dict:
  """config.json of a model's folder; says what the folder is where it is no model."""
  path = os.path.join(folder, "config.json")
  if not os.path.isfile(path):
    # The commonest mix-up: what was trained looks like a model.
    if os.path.isfile(os.path.join(folder, "adapter_config.json")):
      raise InputError(
        f"{folder} holds a PEFT adapter and no model; pass it as --checkpoint (--init_from for "
        "GRPO) and its base model as --model"
      )
    raise InputError(f"{folder} has no config.json; {NOT_A_MODEL}")
  config = read_json(path)
  if "stage" in config and "model_type" not in config:
    raise InputError(
      f"{folder} is an output of this project (stage {config['stage']!r}), not a model; pass it as "
      "--checkpoint, or an export's merged/ folder as --model"
    )
  return config


def gemma_config(folder: str, dtype) -> ModelConfig:
  """The config of any Gemma 3 text model, or of the text part of a multimodal one."""
  path = os.path.join(folder, "config.json")
  return tunix_config(text_settings(read_config(folder), path), path, dtype)


def text_settings(config: dict, path: str) -> dict:
  """The text model's settings: at the top in 270M and 1B, under "text_config" in 4B and up."""
  kind = config.get("model_type")
  if kind == "gemma3":
    check_keys(config, path)  # a quantized or untied model says so up here
    config = config.get("text_config") or {}
    kind = config.get("model_type", "gemma3_text")
  if kind != "gemma3_text":
    raise InputError(
      f"{path} has model_type {kind!r}; expected 'gemma3_text' (Gemma 3 270M, 1B) or 'gemma3' (4B "
      "and up)"
    )
  check_keys(config, path)
  return config


def check_keys(config: dict, path: str):
  """Refuses a value that Tunix does not compute, and an unknown key unless it is switched off."""
  for key, value in config.items():
    # A null means transformers' default, which is the value built in.
    if key in BUILT_IN and value is not None and value != BUILT_IN[key]:
      raise InputError(
        f"{path} has {key} = {short(value)}; Tunix's Gemma 3 computes only {BUILT_IN[key]!r}"
        + ADVICE.get(key, "")
      )
    # transformers keeps its own notes under "_…": where it loaded from, which attention it chose.
    if key in READ or key in HARMLESS or key.startswith("_") or value in UNSET:
      continue
    raise InputError(
      f"{path} has {key} = {short(value)}, which Gemma 3 as computed here does not know; delete "
      "it from config.json if it changes no logit"
    )


def tunix_config(text: dict, path: str, dtype) -> ModelConfig:
  """Tunix's config from `text_settings`; dtype: of the arithmetic."""
  given = {key: text[key] for key in DEFAULTS if text.get(key) is not None}
  value = DEFAULTS | given
  for key in SIZES:
    # By type(): True is an int to isinstance.
    if type(value[key]) is not int or value[key] < 1:
      raise InputError(f"{path} has {key} = {short(value[key])}, expected a positive whole number")
  check_heads(value, path)
  check_layer_types(text.get("layer_types"), value["num_hidden_layers"], path)
  local, whole = rope_settings(text, value, path)
  return ModelConfig(
    num_layers=value["num_hidden_layers"],
    num_embed=value["vocab_size"],
    embed_dim=value["hidden_size"],
    hidden_dim=value["intermediate_size"],
    num_heads=value["num_attention_heads"],
    head_dim=value["head_dim"],
    num_kv_heads=value["num_key_value_heads"],
    sliding_window_size=value["sliding_window"],
    local_base_frequency=local["rope_theta"],
    global_base_frequency=whole["rope_theta"],
    local_scale_factor=local["factor"],
    global_scale_factor=whole["factor"],
    query_pre_attn_norm=query_scaling(value, path),
    param_dtype=dtype,
  )


def check_heads(value: dict, path: str):
  """Where each head has its own keys, Tunix fuses q, k and v: no LoRA or export here does."""
  heads = value["num_attention_heads"]
  groups = value["num_key_value_heads"]
  # Grouped-query attention: each key-value head serves heads / groups queries, 4 / 1 in 1B.
  if heads % groups or heads == groups:
    raise InputError(
      f"{path} has {heads} attention heads over {groups} key-value heads; expected a multiple, at "
      "least two"
    )
  if value["head_dim"] % 2:
    raise InputError(
      f"{path} has head_dim = {value['head_dim']}; rotary positions need an even number"
    )


def check_layer_types(found: list | None, layers: int, path: str):
  """Tunix repeats five sliding layers and a full one (Gemma 3 report, §2: "5:1")."""
  expected = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)]
  if found is None or found == expected:
    return
  if not isinstance(found, list) or len(found) != layers:
    raise InputError(
      f"{path} has layer_types for other than its {layers} layers; expected one each"
    )
  # The first one that differs tells a reader more than two lists of 26.
  wrong = next(i for i in range(layers) if found[i] != expected[i])
  raise InputError(
    f"{path} has layer_types[{wrong}] = {short(found[wrong])}; Tunix's Gemma 3 computes only five "
    "sliding layers and a full one in turn"
  )


def query_scaling(value: dict, path: str) -> gemma3.QueryPreAttentionNormalisation:
  """Queries are divided by √query_pre_attn_scalar: √head_dim, but √(width / heads) in 27B."""
  scalar = value["query_pre_attn_scalar"]
  choices = gemma3.QueryPreAttentionNormalisation
  per_head = value["hidden_size"] // value["num_attention_heads"]  # 27B: 5376 / 32 = 168
  if scalar == value["head_dim"]:
    return choices.BY_ONE_OVER_SQRT_HEAD_DIM
  if scalar == per_head:
    return choices.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS
  raise InputError(
    f"{path} has query_pre_attn_scalar = {short(scalar)}; Tunix's Gemma 3 computes only head_dim "
    f"({value['head_dim']}) or hidden_size / num_attention_heads ({per_head})"
  )


def rope_settings(text: dict, value: dict, path: str) -> tuple[dict, dict]:
  """(sliding, full): {"rope_theta", "factor"} of each kind of layer, in either spelling.

  transformers 4: rope_theta, rope_local_base_freq, and rope_scaling of the full layers, all flat
  transformers 5: rope_parameters = {"full_attention": {"rope_theta": …, "rope_type": …,
    "factor": …}, "sliding_attention": {…}}
  """
  grouped = text.get("rope_parameters") or {}
  if strange := set(grouped) - {"full_attention", "sliding_attention"}:
    raise InputError(
      f"{path} has rope_parameters with {', '.join(sorted(strange))}; expected full_attention and "
      "sliding_attention"
    )
  scaling = text.get("rope_scaling") or {}
  # The two releases would compute different logits from one file.
  if "type" in scaling and "rope_type" not in scaling:
    raise InputError(
      f"{path} has rope_scaling with the old key type, which transformers 4 obeys and 5 ignores; "
      "call it rope_type"
    )
  sliding = grouped.get("sliding_attention") or {}
  # Old spelling over new: a file holds one of them, as a rule.
  full = {**(grouped.get("full_attention") or {}), **scaling}
  return (
    one_rope(sliding, value["rope_local_base_freq"], f"{path}, sliding layers"),
    one_rope(full, value["rope_theta"], f"{path}, full layers"),
  )


def one_rope(rope: dict, theta: float, where: str) -> dict:
  """One kind of layer. Of all scalings, Tunix has the linear one: positions divided by `factor`."""
  kind = rope.get("rope_type", rope.get("type", "default"))
  # 1.0 is no scaling, whatever it is called.
  unknown = [key for key in rope if key not in ROPE_KEYS and rope[key] not in (*UNSET, 1.0)]
  # yarn, llama3 and the like change each frequency in its own way.
  if kind not in ("default", "linear") or unknown:
    raise InputError(
      f"{where}: rotary positions of type "
      f"{kind!r}{' with ' + ', '.join(unknown) if unknown else ''}; Tunix's Gemma 3 computes only "
      "'default' and 'linear'"
    )
  theta = rope.get("rope_theta", theta)
  factor = rope.get("factor") if kind == "linear" else 1.0  # "default" ignores a factor
  if not is_number(theta) or theta <= 1 or not is_number(factor) or factor < 1:
    raise InputError(
      f"{where}: rope_theta {short(theta)}, factor {short(factor)}; expected numbers, at least 1"
    )
  # Tunix raises it to a power: an int and the float of the same value compile to one program only
  # as ints.
  whole = int(theta) if theta == int(theta) else theta
  return {"rope_theta": whole, "factor": float(factor)}
