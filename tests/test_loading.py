"""A model's folder is read as transformers reads it, or refused in one line.

The layouts of every published Gemma 3, at a small random size, give the logits of transformers;
then each way in which a config.json, the weights or the tokenizer can say something that Tunix
would compute wrongly.
"""

import dataclasses
import inspect
import json
import pathlib
import shutil
import subprocess

import conftest
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tunix.models.gemma3 import model as gemma3

from lib import (
  contract,
  gemma_config,
  hugging_face,
  loading,
  parity,
  tokenization,
  tokenizer_files,
  weight_files,
)
from lib.errors import InputError

TOKENS = [2, 105, *range(200, 222)]  # three times the small sliding window

# Of the published models the ratios, in small: heads, key-value heads, width / heads, scaling, and
# where 4B's text part lies.
SMALL = {
  "vocab_size": 600,
  "intermediate_size": 48,
  "num_hidden_layers": 7,
  "head_dim": 16,
  "sliding_window": 8,
  "query_pre_attn_scalar": 16,
}
LINEAR = {"rope_type": "linear", "factor": 8.0}
LAYOUTS = {
  "270m": {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 1},
  "1b": {"hidden_size": 72, "num_attention_heads": 4, "num_key_value_heads": 1},
  "4b": {"hidden_size": 80, "num_attention_heads": 8, "num_key_value_heads": 4, "scaling": LINEAR},
  "12b": {
    "hidden_size": 96,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "scaling": LINEAR,
  },
  "27b": {
    "hidden_size": 168,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 21,
    "scaling": LINEAR,
  },
  "scaled_sliding": {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 1},
}
ONLY_TEXT = ("270m", "1b", "scaled_sliding")


def transformers_4(layout: str) -> dict:
  """config.json of a layout as transformers 4 wrote it: rotary settings flat, the layers' pattern a
  number.
  """
  text = {"model_type": "gemma3_text", **SMALL, **LAYOUTS[layout], "sliding_window_pattern": 6}
  text["rope_theta"] = 1_000_000.0
  text["rope_local_base_freq"] = 10_000.0
  text["rope_scaling"] = text.pop("scaling", None)
  if layout in ONLY_TEXT:
    return {"architectures": ["Gemma3ForCausalLM"], **text, "cache_implementation": "hybrid"}
  images = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
  }
  return {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": text,
    "vision_config": images,
    "mm_tokens_per_image": 4,
    "image_token_index": 599,
  }


def torch_models(folder):
  """Writes a random model for each {folder}/NAME/config.json, as transformers saves it, and
  {folder}/NAME.npy, its logits.

  Its source runs in the Python that has torch, so it uses nothing of this file but its argument.
  """
  import json
  import pathlib

  import numpy as np
  import torch
  import transformers

  torch.manual_seed(0)
  tokens = torch.tensor([json.loads(pathlib.Path(folder, "tokens.json").read_text())])
  for path in sorted(pathlib.Path(folder).glob("*/config.json")):
    config = transformers.AutoConfig.from_pretrained(path.parent)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
      for weight in model.parameters():
        weight.copy_(torch.randn_like(weight) * (0.2 if weight.ndim > 1 else 0.3))
      logits = model(tokens).logits[0].numpy()
    name = path.parent.name
    model.save_pretrained(pathlib.Path(folder, f"{name}_5"))
    again = transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/{name}_5")
    with torch.no_grad():
      assert np.allclose(again(tokens).logits[0].numpy(), logits, atol=1e-4)
    np.save(f"{folder}/{name}.npy", logits)


def run_torch(function, *arguments: str):
  python = conftest.parity_python()
  if not python:
    pytest.skip("no Python with requirements-parity.txt; set PARITY_PYTHON")
  code = f"{inspect.getsource(function)}\nimport sys\n{function.__name__}(*sys.argv[1:])"
  done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def words() -> bytes:
  """A tokenizer.model with Gemma's control ids, of 523 pieces."""
  return tokenization.train_tokenizer([contract.format_prompt("What is 3 + 4?")], 512)


@pytest.fixture(scope="session")
def published(tmp_path_factory, words) -> pathlib.Path:
  """Folders NAME_4 and NAME_5, one model in both spellings, and NAME.npy, what transformers
  computes.
  """
  root = tmp_path_factory.mktemp("published")
  for layout in LAYOUTS:
    config = transformers_4(layout)
    if layout == "scaled_sliding":  # no one publishes it; transformers 5 can say it
      for key in ("rope_theta", "rope_local_base_freq", "rope_scaling"):
        del config[key]
      config["rope_parameters"] = {
        "full_attention": {"rope_type": "default", "rope_theta": 5e5, "factor": 3.0},
        "sliding_attention": {"rope_type": "linear", "rope_theta": 2e4, "factor": 2.0},
      }
    (root / layout).mkdir()
    (root / layout / "config.json").write_text(json.dumps(config))
  (root / "tokens.json").write_text(json.dumps(TOKENS))
  run_torch(torch_models, str(root))
  for layout in LAYOUTS:
    (root / f"{layout}_5/tokenizer.model").write_bytes(words)
    shutil.copytree(root / f"{layout}_5", root / f"{layout}_4")
    shutil.copy(root / layout / "config.json", root / f"{layout}_4")
  return root


def logits_of(folder) -> np.ndarray:
  policy = loading.load_policy(str(folder), dtype="float32")
  return parity.jax_logits(policy.model, [TOKENS], [0])[0]  # (T, V)


@pytest.mark.parametrize("spelling", ["4", "5"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_gives_the_logits_of_transformers(published, layout, spelling):
  expected = np.load(published / f"{layout}.npy")  # (T, V)
  found = logits_of(published / f"{layout}_{spelling}")
  assert np.std(expected) > 0.5
  np.testing.assert_allclose(found, expected, atol=2e-3 * np.std(expected))


def test_names_of_every_release_of_the_multimodal_folder(published, tmp_path):
  """language_model.model.…, model.language_model.… and the text model's own names hold the same
  tensors.
  """
  stored = safetensors.numpy.load_file(published / "4b_5/model.safetensors")
  plain = {weight_files.plain_name(name): x for name, x in stored.items() if "layers.0.mlp" in name}
  assert "model.layers.0.mlp.up_proj.weight" in plain
  expected = np.load(published / "4b.npy")
  for prefix in weight_files.PREFIXES:
    folder = shutil.copytree(published / "4b_5", tmp_path / prefix)
    renamed = {}
    for name, value in stored.items():
      if not weight_files.NOT_TEXT.fullmatch(name):
        name = prefix + weight_files.plain_name(name).removeprefix("model.")
      renamed[name] = value
    safetensors.numpy.save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    np.testing.assert_allclose(logits_of(folder), expected, atol=0.01)


# ---- config.json
# What config.json of google/gemma-3-4b-it, 12b and 27b says of the text model; the rest is
# transformers' defaults.
GOOGLES_TEXT = {
  "4b": {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "model_type": "gemma3_text",
    "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
  },
  "12b": {
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "model_type": "gemma3_text",
    "num_attention_heads": 16,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
  },
  "27b": {
    "head_dim": 128,
    "hidden_size": 5376,
    "intermediate_size": 21504,
    "model_type": "gemma3_text",
    "num_attention_heads": 32,
    "num_hidden_layers": 62,
    "num_key_value_heads": 16,
    "query_pre_attn_scalar": 168,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
  },
}


@pytest.mark.parametrize("size", GOOGLES_TEXT)
def test_googles_own_config_is_tunix_own(tmp_path, size):
  """The files leave out what transformers takes for granted; Tunix knows the sizes by heart, but
  for 64 more words.
  """
  config = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": GOOGLES_TEXT[size],
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
  }
  (tmp_path / "config.json").write_text(json.dumps(config))
  found = dataclasses.asdict(gemma_config.gemma_config(str(tmp_path), jnp.bfloat16))
  expected = dataclasses.asdict(getattr(gemma3.ModelConfig, f"gemma3_{size}_it")())
  assert found == expected | {"num_embed": 262_208}


BROKEN_CONFIGS = [
  ({"tie_word_embeddings": False}, "tie_word_embeddings = false"),
  ({"query_pre_attn_scalar": 24}, "query_pre_attn_scalar = 24; Tunix's Gemma 3 computes only"),
  ({"layer_types": ["full_attention"] * 7}, "layer_types[0]"),
  ({"layer_types": ["sliding_attention"] * 3}, "other than its 7 layers"),
  ({"sliding_window_pattern": 3}, "sliding_window_pattern = 3"),
  ({"_sliding_window_pattern": 2}, "_sliding_window_pattern = 2"),
  ({"attention_bias": True}, "attention_bias = true"),
  ({"use_bidirectional_attention": True}, "this is an embedding model"),
  ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
  ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
  ({"rms_norm_eps": 1e-5}, "rms_norm_eps = 1e-05"),
  ({"hidden_activation": "gelu"}, 'hidden_activation = "gelu"'),
  ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rotary positions of type 'yarn'"),
  ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "call it rope_type"),
  ({"rope_scaling": {"rope_type": "linear"}}, "factor null"),
  ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor 0.5"),
  ({"rope_parameters": {"rope_theta": 1e6}}, "expected full_attention and sliding_attention"),
  (
    {"rope_parameters": {"sliding_attention": {"rope_type": "dynamic", "factor": 2.0}}},
    "sliding layers: rotary positions of type 'dynamic'",
  ),
  ({"rope_theta": "1e6"}, 'rope_theta "1e6"'),
  ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
  ({"quantization_config": {"quant_method": "bitsandbytes"}}, "pass the unquantized model"),
  ({"num_key_value_heads": 4}, "4 attention heads over 4 key-value heads"),
  ({"head_dim": 15}, "need an even number"),
  ({"hidden_size": "72"}, 'hidden_size = "72", expected a positive whole number'),
  ({"num_experts": 8}, "num_experts = 8, which Gemma 3 as computed here does not know"),
  ({"model_type": "gemma2"}, "model_type 'gemma2'; expected 'gemma3_text'"),
]


def refusal(call, *arguments) -> str:
  """The one line of an InputError."""
  with pytest.raises(InputError) as error:
    call(*arguments)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("change,message", BROKEN_CONFIGS)
def test_a_config_that_would_be_computed_wrongly_is_refused(tmp_path, change, message):
  (tmp_path / "config.json").write_text(json.dumps(transformers_4("1b") | change))
  assert message in refusal(gemma_config.gemma_config, str(tmp_path), jnp.float32)


@pytest.mark.parametrize("change", [{"attention_bias": True}, {"num_experts": 8}])
def test_the_text_part_of_a_multimodal_config_is_read_as_closely(tmp_path, change):
  config = transformers_4("4b")
  config["text_config"] |= change
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert next(iter(change)) in refusal(gemma_config.gemma_config, str(tmp_path), jnp.float32)


def test_what_changes_no_logit_is_taken(tmp_path):
  config = transformers_4("1b")
  before = gemma_config.tunix_config(config, "config.json", jnp.float32)
  config |= {
    "attention_dropout": 0.1,
    "attn_logit_softcapping": None,
    "eos_token_id": [1, 106],
    "id2label": {"0": "LABEL_0"},
    "_name_or_path": "google/gemma-3-1b-it",
    "unsloth_version": "2025.3",
    "use_something_new": False,
    "something_else": None,
    "rms_norm_eps": 1e-6,
  }
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert gemma_config.gemma_config(str(tmp_path), jnp.float32) == before


# ---- weights, files
@pytest.fixture(scope="session")
def small_folder(tmp_path_factory, words) -> pathlib.Path:
  """A text model of random weights, written without torch."""
  folder = tmp_path_factory.mktemp("small")
  config = transformers_4("1b")
  (folder / "config.json").write_text(json.dumps(config))
  (folder / "tokenizer.model").write_bytes(words)
  shape = gemma_config.gemma_config(str(folder), jnp.float32)
  draw = np.random.default_rng(0)
  tensors = {}
  for name, size in hugging_face.hf_shapes(shape).items():
    tensors[name] = draw.normal(0, 0.1, size).astype(np.float32)
  safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
  return folder


@pytest.fixture
def folder(small_folder, tmp_path) -> pathlib.Path:
  return shutil.copytree(small_folder, tmp_path / "model")


def tensors_in(folder) -> dict[str, np.ndarray]:
  return safetensors.numpy.load_file(folder / "model.safetensors")


def write_tensors(folder, tensors, name="model.safetensors"):
  safetensors.numpy.save_file(tensors, folder / name, {"format": "pt"})


def in_shards(folder):
  """The folder with its weights in two files and an index."""
  tensors = tensors_in(folder)
  (folder / "model.safetensors").unlink()
  where = {}
  for number in (0, 1):
    name = f"model-0000{number + 1}-of-00002.safetensors"
    part = dict(sorted(tensors.items())[number::2])
    write_tensors(folder, part, name)
    where.update(dict.fromkeys(part, name))
  (folder / weight_files.INDEX).write_text(json.dumps({"weight_map": where}))


def test_only_the_files_of_the_model_are_read(folder):
  expected = logits_of(folder)
  others = {name: 0 * value for name, value in tensors_in(folder).items()}
  write_tensors(folder, others, "old_model.safetensors")
  np.testing.assert_array_equal(logits_of(folder), expected)
  in_shards(folder)
  np.testing.assert_array_equal(logits_of(folder), expected)
  (folder / weight_files.INDEX).unlink()
  assert "neither model.safetensors nor" in refusal(loading.load_policy, str(folder))


def missing_shard(folder):
  in_shards(folder)
  (folder / "model-00002-of-00002.safetensors").unlink()


def lfs_pointer(folder):
  text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
  (folder / "model.safetensors").write_text(text)


def cut_short(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-1000])


def no_weights(folder):
  (folder / "model.safetensors").unlink()


def empty_file(folder):
  (folder / "model.safetensors").write_bytes(b"")


def quantized(folder):
  tensors = tensors_in(folder)
  name = "model.layers.0.mlp.up_proj.weight"
  write_tensors(folder, tensors | {name: tensors[name].astype(np.uint8)})


def foreign_names(folder):
  renamed = {f"transformer.{name}": value for name, value in tensors_in(folder).items()}
  write_tensors(folder, renamed)


def with_biases(folder):
  bias = {"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}
  write_tensors(folder, tensors_in(folder) | bias)


def without_a_layer(folder):
  kept = {name: x for name, x in tensors_in(folder).items() if "layers.6." not in name}
  write_tensors(folder, kept)


def another_size(folder):
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))


def own_head(folder):
  tensors = tensors_in(folder)
  head = {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}
  write_tensors(folder, tensors | head)


def twice(folder):
  tensors = tensors_in(folder)
  again = {"language_model.model.norm.weight": tensors["model.norm.weight"]}
  write_tensors(folder, tensors | again)


def bad_tokenizer(folder):
  (folder / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")


def foreign_tokenizer_alone(folder):
  (folder / "tokenizer.model").unlink()
  (folder / "tokenizer.json").write_text("{}")


def added_token(folder):
  added = [{"id": 523, "content": "<think>"}]
  (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))


def renamed_token(folder):
  (folder / "added_tokens.json").write_text(json.dumps({"<think>": 90}))


def bad_json(folder):
  (folder / "config.json").write_text('{"model_type": "gemma3_text",')


def adapter_alone(folder):
  (folder / "config.json").unlink()
  (folder / "adapter_config.json").write_text("{}")


def our_output(folder):
  (folder / "config.json").write_text(json.dumps({"stage": "grpo"}))


BROKEN_FOLDERS = [
  (missing_shard, "lacks model-00002-of-00002.safetensors of its 2 weight files"),
  (lfs_pointer, "git-lfs pointer"),
  (cut_short, "damaged or cut short"),
  (empty_file, "damaged or cut short"),
  (no_weights, "has no *.safetensors"),
  (quantized, "is quantized (model.layers.0.mlp.up_proj.weight is U8)"),
  (foreign_names, "such as transformer.model.embed_tokens.weight"),
  (with_biases, "such as model.layers.0.self_attn.q_proj.bias"),
  (without_a_layer, "lacks 13 of 93 tensors, such as model.layers.6.input_layernorm.weight"),
  (another_size, "of shape (48, 72), its config.json means (64, 72)"),
  (own_head, "lm_head.weight that is not its embedding"),
  (twice, "holds model.norm.weight twice"),
  (bad_tokenizer, "is not a sentencepiece model"),
  (foreign_tokenizer_alone, "copy tokenizer.model from the base model"),
  (added_token, "added token '<think>' (number 523)"),
  (renamed_token, "added token '<think>' (number 90)"),
  (bad_json, "config.json is not JSON"),
  (adapter_alone, "holds a PEFT adapter and no model; pass it as --checkpoint"),
  (our_output, "is an output of this project (stage 'grpo')"),
]


@pytest.mark.parametrize("damage,message", BROKEN_FOLDERS)
def test_a_folder_that_is_not_what_it_seems_is_one_line(folder, damage, message):
  damage(folder)
  assert message in refusal(loading.load_policy, str(folder))


def test_a_stored_copy_of_the_tied_head_is_taken(folder):
  expected = logits_of(folder)
  tensors = tensors_in(folder)
  write_tensors(folder, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})
  np.testing.assert_array_equal(logits_of(folder), expected)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_weights_of_any_float_are_read(folder, dtype):
  stored = {name: value.astype(dtype) for name, value in tensors_in(folder).items()}
  write_tensors(folder, stored)
  policy = loading.load_policy(str(folder), dtype="float32")
  found = np.asarray(policy.model.layers[3].mlp.up_proj.kernel.get_value())  # (D, F)
  assert found.dtype == np.float32
  name = "model.layers.3.mlp.up_proj.weight"
  np.testing.assert_array_equal(found, stored[name].astype(np.float32).T)


# ---- PEFT adapters
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {  # name: (layout, peft's LoraConfig)
  "all": ("1b", {"target_modules": ALL}),
  "scale": ("1b", {"target_modules": ALL, "lora_alpha": 10, "r": 6}),
  "rank_stabilised": ("1b", {"target_modules": ["k_proj", "up_proj"], "use_rslora": True}),
  "some_layers": ("1b", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1, 5]}),
  "gaussian": ("1b", {"target_modules": ALL, "init_lora_weights": "gaussian"}),
  "text_of_4b": ("4b", {"target_modules": r".*language_model.*\.(q|k|v|o|up)_proj"}),
  "images_too": ("4b", {"target_modules": ["q_proj", "v_proj"]}),
  "pissa": ("1b", {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}),
  "olora": ("1b", {"target_modules": ["q_proj"], "init_lora_weights": "olora"}),
  "dora": ("1b", {"target_modules": ["q_proj"], "use_dora": True}),
  "ranks": ("1b", {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 8}}),
  "alphas": ("1b", {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"q_proj": 8}}),
  "bias": ("1b", {"target_modules": ["q_proj"], "lora_bias": True}),
  "head": ("1b", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
  "embedding": ("1b", {"target_modules": ["q_proj", "embed_tokens"]}),
  "tokens": ("1b", {"target_modules": ["q_proj"], "trainable_token_indices": [300]}),
}
REFUSED = {
  "pissa": "init_lora_weights = 'pissa', which changes the base weights",
  "olora": "init_lora_weights = 'olora', which changes the base weights",
  "dora": "use_dora = true, which plain LoRA cannot express",
  "ranks": 'rank_pattern = {"q_proj": 8}',
  "alphas": 'alpha_pattern = {"q_proj": 8}',
  "bias": "lora_bias = true",
  "head": "modules_to_save = [",
  "embedding": "adapter tensor base_model.model.model.embed_tokens",
  "tokens": "trainable_token_indices = [300]",
}


def torch_adapters(folder):
  """Makes the adapters that {folder}/adapters.json asks for, random, on the models saved there;
  NAME.npy: their logits.
  """
  import json
  import pathlib

  import numpy as np
  import peft
  import torch
  import transformers

  torch.manual_seed(0)
  tokens = torch.tensor([json.loads(pathlib.Path(folder, "tokens.json").read_text())])
  for name, (layout, settings) in json.loads(
    pathlib.Path(folder, "adapters.json").read_text()
  ).items():
    base = transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/{layout}_5")
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings})
    model = peft.get_peft_model(base, config)
    for key, weight in model.named_parameters():
      if "lora_" in key:
        weight.data = weight.data + 0.1 * torch.randn_like(weight)
    with torch.no_grad():
      np.save(f"{folder}/adapter_{name}.npy", model.eval()(tokens).logits[0].numpy())
    model.save_pretrained(f"{folder}/adapter_{name}")


@pytest.fixture(scope="session")
def adapters(published) -> pathlib.Path:
  (published / "adapters.json").write_text(json.dumps(ADAPTERS))
  run_torch(torch_adapters, str(published))
  return published


@pytest.mark.parametrize("name", sorted(ADAPTERS.keys() - REFUSED.keys()))
def test_an_adapter_made_elsewhere_gives_the_logits_of_peft(adapters, name, capsys):
  layout, _ = ADAPTERS[name]
  expected = np.load(adapters / f"adapter_{name}.npy")  # (T, V)
  folder = str(adapters / f"adapter_{name}")
  policy = loading.load_policy(str(adapters / f"{layout}_5"), folder, dtype="float32")
  found = parity.jax_logits(policy.model, [TOKENS], [0])[0]
  np.testing.assert_allclose(found, expected, atol=2e-3 * np.std(expected))
  assert np.abs(expected - np.load(adapters / f"{layout}.npy")).max() > 0.1  # it does something
  assert ("that part is left out" in capsys.readouterr().out) == (name == "images_too")
  config, params = loading.read_checkpoint(folder)
  assert (config["stage"], config["style"], params) == ("peft", None, folder)


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_plain_lora_cannot_express_is_refused(adapters, name):
  layout, _ = ADAPTERS[name]
  message = refusal(
    loading.load_policy, str(adapters / f"{layout}_5"), str(adapters / f"adapter_{name}")
  )
  assert REFUSED[name] in message


@pytest.fixture
def adapter(small_folder, tmp_path) -> pathlib.Path:
  """A PEFT folder of one projection, written without peft."""
  folder = tmp_path / "adapter"
  folder.mkdir()
  settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
  (folder / "adapter_config.json").write_text(json.dumps(settings))
  draw = np.random.default_rng(0)
  name = "base_model.model.model.layers.0.mlp.up_proj"
  tensors = {
    f"{name}.lora_A.weight": draw.normal(size=(2, 72)).astype(np.float32),
    f"{name}.lora_B.weight": draw.normal(size=(48, 2)).astype(np.float32),
  }
  write_tensors(folder, tensors, "adapter_model.safetensors")
  return folder


def change_settings(adapter, **settings):
  path = adapter / "adapter_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | settings))


BROKEN_ADAPTERS = [
  ({"peft_type": "IA3"}, "is a IA3 adapter, expected LORA"),
  ({"init_lora_weights": "pissa_niter_4"}, "which changes the base weights"),
  ({"init_lora_weights": "loftq"}, "which changes the base weights"),
  ({"some_new_variant": True}, "some_new_variant = true, which plain LoRA cannot express"),
  ({"target_parameters": ["mlp.weight"]}, "target_parameters"),
  ({"bias": "all"}, 'bias = "all"'),
  ({"r": None}, "r = None"),
  ({"r": 3}, "says r = 3, its factors have rank 2"),
]


@pytest.mark.parametrize("settings,message", BROKEN_ADAPTERS)
def test_settings_of_an_adapter_are_all_looked_at(small_folder, adapter, settings, message):
  change_settings(adapter, **settings)
  assert message in refusal(loading.load_policy, str(small_folder), str(adapter))


def test_a_damaged_adapter_is_one_line(small_folder, adapter):
  path = adapter / "adapter_model.safetensors"
  whole = path.read_bytes()
  path.write_bytes(whole[:-8])
  assert "damaged or cut short" in refusal(loading.load_policy, str(small_folder), str(adapter))
  path.unlink()
  assert "no adapter_model.safetensors" in refusal(
    loading.load_policy, str(small_folder), str(adapter)
  )


@pytest.mark.parametrize("style", contract.STYLES)
def test_an_exported_adapter_tells_its_prompt(adapter, style):
  template = {"chat_template": tokenizer_files.chat_template(style)}
  (adapter / "tokenizer_config.json").write_text(json.dumps(template))
  config, _ = loading.read_checkpoint(str(adapter))
  assert (config["style"], config["prompt_hash"]) == (style, contract.prompt_hash(style))


def test_a_model_given_as_checkpoint_is_sent_to_the_right_flag(small_folder):
  assert "pass it as --model" in refusal(loading.read_checkpoint, str(small_folder))


# ---- checkpoints
def without_config(run):
  (run / "config.json").unlink()


def on_another_base(run):
  config = json.loads((run / "config.json").read_text())
  (run / "config.json").write_text(json.dumps(config | {"model_fingerprint": "0" * 16}))


def without_parameters(run):
  shutil.rmtree(run / "params")


def gone(run):
  shutil.rmtree(run)


BROKEN_RUNS = [
  (without_config, "is incomplete: it has no config.json"),
  (on_another_base, "pass the --model it was trained on"),
  (without_parameters, "is no SFT or GRPO folder (no params/ inside, stage 'sft')"),
  (gone, "does not exist; make it with train_sft.py or train_grpo.py"),
]


@pytest.mark.parametrize("damage,message", BROKEN_RUNS)
def test_a_checkpoint_that_does_not_fit_is_one_line(sft_dir, data_dir, tmp_path, damage, message):
  run = shutil.copytree(sft_dir, tmp_path / "sft")
  damage(run)
  assert message in refusal(loading.load_policy, "tiny", str(run), data_dir)


def test_what_is_no_model_at_all_is_one_line(tmp_path, words):
  assert "neither a folder nor one of: tiny" in refusal(loading.load_policy, "gemma-9")
  assert "no tokenizer.model in any folder" in refusal(loading.load_policy, "tiny")
  assert "has no tokenizer.model" in refusal(loading.load_policy, str(tmp_path))
  (tmp_path / "merged").mkdir()
  assert "/merged as --model" in refusal(loading.load_policy, str(tmp_path))
  (tmp_path / "tokenizer.model").write_bytes(words)
  assert "has no config.json" in refusal(loading.load_policy, str(tmp_path))
