"""Names and layouts: every tensor goes to Hugging Face's and PEFT's form and back unchanged."""

import numpy as np
import pytest
from flax import nnx

from lib import devices, gemma, hugging_face, parameters
from lib.errors import InputError

RANK = 3


@pytest.fixture(scope="module")
def config() -> gemma.ModelConfig:
  """Two layers in which every size is another number: a transposed tensor has another shape."""
  return gemma.ModelConfig(
    num_layers=2,
    num_embed=96,
    embed_dim=40,
    hidden_dim=28,
    num_heads=4,
    head_dim=6,
    num_kv_heads=2,
    sliding_window_size=8,
    param_dtype=np.float32,
  )


@pytest.fixture(scope="module")
def weights(config) -> dict[str, np.ndarray]:
  return {
    name: np.asarray(x) for name, x in parameters.flat_params(gemma.create_tiny(config)).items()
  }


@pytest.fixture(scope="module")
def lora(config) -> dict[str, np.ndarray]:
  """qwix's factors by dotted name, all random."""
  base = gemma.create_tiny(config)
  tuned = parameters.apply_lora(base, devices.make_mesh("1x1"), RANK, 2.0 * RANK)
  draw = np.random.default_rng(0)
  places = parameters.flat_params(tuned, nnx.LoRAParam)
  return {name: draw.normal(size=x.shape).astype(np.float32) for name, x in places.items()}


def test_every_weight_goes_to_hugging_face_and_back(config, weights):
  names = hugging_face.hf_names(config)
  shapes = hugging_face.hf_shapes(config)
  assert names.keys() == shapes.keys()
  assert {parameter for parameter, _ in names.values()} == weights.keys()
  for name, (parameter, part) in names.items():
    stored = hugging_face.to_hf(name, weights[parameter], part)
    assert stored.shape == shapes[name], name
    mine = weights[parameter] if part is None else weights[parameter][part]
    np.testing.assert_array_equal(hugging_face.from_hf(name, stored, config), mine)


def test_peft_factors_are_the_policys_delta(config, lora):
  """B·A of PEFT is A·B of qwix in Hugging Face's layout, for every projection."""
  adapter = hugging_face.to_peft(lora, config)
  assert len(adapter) == 2 * 7 * config.num_layers
  for name, (path, part) in hugging_face.hf_names(config).items():
    if "_proj." not in name:
      continue
    delta = parameters.lora_delta(path, lora[f"{path}_lora_a"], lora[f"{path}_lora_b"])
    key = "base_model.model." + name.removesuffix(".weight")
    found = adapter[f"{key}.lora_B.weight"] @ adapter[f"{key}.lora_A.weight"]
    expected = hugging_face.to_hf(name, np.asarray(delta), part)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("place", ["model.", "model.language_model.", "language_model.model."])
def test_adapters_go_there_and_back(config, lora, place):
  """Under the names of the text model and of the multimodal ones, with PEFT's adapter name or
  without.
  """
  adapter = hugging_face.to_peft(lora, config)
  named = {}
  for name, value in adapter.items():
    name = name.replace("base_model.model.model.", f"base_model.model.{place}")
    named[name.replace("lora_A.weight", "lora_A.default.weight")] = value
  back = hugging_face.from_peft(named, config)
  assert back.keys() == lora.keys()
  for name, value in lora.items():
    np.testing.assert_array_equal(back[name], value)


def test_keys_and_values_with_factors_of_their_own_take_twice_the_rank(config, lora):
  adapter = hugging_face.to_peft(lora, config)
  draw = np.random.default_rng(1)
  name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
  adapter[name] = draw.normal(size=adapter[name].shape).astype(np.float32)
  found = hugging_face.from_peft(adapter, config)
  assert {x.shape[-1] for name, x in found.items() if name.endswith("_lora_a")} == {2 * RANK}
  again = hugging_face.to_peft(found, config)
  for a in (name for name in adapter if ".lora_A." in name):
    b = a.replace("lora_A", "lora_B")
    np.testing.assert_allclose(again[b] @ again[a], adapter[b] @ adapter[a], atol=1e-5)


def test_an_adapter_of_some_projections_leaves_the_others_out(config, lora):
  adapter = hugging_face.to_peft(lora, config)
  values = {name: x for name, x in adapter.items() if "layers.0.self_attn.v_proj" in name}
  found = hugging_face.from_peft(values, config)
  b = found["layers.0.attn.kv_einsum.w_lora_b"]  # (r, 2, K, H)
  assert len(found) == 2 and not b[:, 0].any() and b[:, 1].any()


def test_the_images_part_of_an_adapter_is_left_out(config, lora):
  adapter = hugging_face.to_peft(lora, config)
  images = "base_model.model.model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
  wide = {
    f"{images}.lora_A.weight": np.ones((RANK, 16)),
    f"{images}.lora_B.weight": np.ones((16, RANK)),
  }
  found = hugging_face.from_peft(adapter | wide, config)
  assert found.keys() == lora.keys()
  with pytest.raises(InputError, match="changes nothing in the text model"):
    hugging_face.from_peft(wide, config)


UP = "base_model.model.model.layers.0.mlp.up_proj"
STRANGE = [
  ({"base_model.model.lm_head.lora_A.weight": np.ones((3, 40))}, "lm_head.lora_A.weight"),
  ({"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((3, 96))}, "embed_tokens"),
  ({UP.replace("layers.0", "layers.2") + ".lora_A.weight": np.ones((3, 40))}, "layers.2.mlp"),
  ({f"{UP}.lora_A.weight": np.ones((3, 40))}, "lacks lora_B"),
  ({f"{UP}.lora_magnitude_vector": np.ones(28)}, "lora_magnitude_vector"),
  (
    {f"{UP}.lora_A.weight": np.ones((3, 64)), f"{UP}.lora_B.weight": np.ones((28, 3))},
    "pass the --model it was trained on",
  ),
]


@pytest.mark.parametrize("tensors,message", STRANGE)
def test_what_is_no_factor_of_this_model_is_named(config, tensors, message):
  with pytest.raises(InputError, match=message.replace(".", r"\.")) as error:
    hugging_face.from_peft(tensors, config)
  assert "\n" not in str(error.value)
