"""The weights of a Hugging Face folder: which files hold them, and what may be wrong with them.

As transformers does, model.safetensors decides, else the index of its shards: a second model beside
it, an adapter or an optimizer's state is never mixed in. `tensor_files` finds every tensor,
`text_tensors` gives those of the text model their plain names, `check_tensors` compares them with
what the model expects, `read_tensor` reads one.
"""

import os
import re
from typing import NamedTuple

import numpy as np
import safetensors

from lib import model_json
from lib.errors import InputError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FLOATS = ("BF16", "F16", "F32", "F64")
# What git leaves in a file's place without git-lfs: 130 bytes of text that name the file's digest.
LFS_POINTER = b"version https://git-lfs"
# What 4B and up put in front of the text model's names: transformers' first releases, then later
# ones.
PREFIXES = ("language_model.model.", "model.language_model.", "model.")
NOT_TEXT = re.compile(
  r"(?:model\.)?(?:vision_tower|multi_modal_projector)\..*"  # images, which no stage here sees
  r"|.*rotary_emb\.inv_freq"  # old files store what follows from rope_theta
)
HEADS = ("lm_head.weight", "language_model.lm_head.weight")


class Tensor(NamedTuple):
  file: str
  name: str  # in that file
  shape: tuple[int, ...]
  dtype: str  # safetensors' spelling: "BF16"


def weight_files(folder: str) -> list[str]:
  """Paths of the safetensors files that make up the folder's model."""
  index = os.path.join(folder, INDEX)
  single = os.path.join(folder, SINGLE)
  if os.path.isfile(single):  # transformers prefers it to an index
    return [single]
  if os.path.isfile(index):
    weight_map = model_json.read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
      raise InputError(f"{index} has no weight_map; download it again")
    return [os.path.join(folder, name) for name in sorted(set(weight_map.values()))]
  found = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
  # An adapter may lie beside its model; it is none.
  if "adapter_model.safetensors" in found:
    found.remove("adapter_model.safetensors")
  if not found:
    raise InputError(f"{folder} has no *.safetensors; {model_json.NOT_A_MODEL}")
  if len(found) == 1:  # a model under another name
    return [os.path.join(folder, found[0])]
  raise InputError(
    f"{folder} has {len(found)} safetensors files ({found[0]}, …) and neither {SINGLE} nor "
    f"{INDEX}, which says what they hold; download it"
  )


def tensor_files(folder: str) -> dict[str, Tensor]:
  """{name as stored: Tensor} of a folder's model, from the files' headers."""
  files = weight_files(folder)
  # All are named at once: a download is finished in one go.
  missing = [os.path.basename(path) for path in files if not os.path.isfile(path)]
  if missing:
    raise InputError(
      f"{folder} lacks {', '.join(missing)} of its {len(files)} weight files; finish its download"
    )
  found = {}
  for path in files:
    found.update(read_header(path))
  return found


def read_header(path: str) -> dict[str, Tensor]:
  """{name: Tensor} of one safetensors file, of which nothing is read but its header."""
  # First, as safetensors would only say that the header is too large.
  with open(path, "rb") as file:
    if file.read(len(LFS_POINTER)) == LFS_POINTER:
      raise InputError(
        f"{path} is a git-lfs pointer, not the weights; run `git lfs pull` there, or download the "
        "file itself"
      )
  tensors = {}
  try:
    with safetensors.safe_open(path, "np") as file:  # checks that the data are all there
      for name in file.keys():  # noqa: SIM118 - no mapping
        part = file.get_slice(name)
        tensors[name] = Tensor(path, name, tuple(part.get_shape()), part.get_dtype())
  except safetensors.SafetensorError as error:
    raise InputError(
      f"{path} is damaged or cut short ({first_line(error)}); download it again"
    ) from error
  return tensors


def read_tensor(tensor: Tensor) -> np.ndarray:
  with safetensors.safe_open(tensor.file, "np") as file:
    return file.get_tensor(tensor.name)


def text_tensors(folder: str) -> dict[str, Tensor]:
  """{name in Gemma3ForCausalLM: Tensor} of a folder, without the tensors that see images."""
  found = {}
  for name, tensor in tensor_files(folder).items():
    if NOT_TEXT.fullmatch(name):
      continue
    plain = "lm_head.weight" if name in HEADS else plain_name(name)
    # Both of a folder's spellings at once: whichever were read last would win.
    if plain in found:
      raise InputError(f"{folder} holds {plain} twice: as {found[plain].name} and as {name}")
    found[plain] = tensor
  return found


def plain_name(name: str) -> str:
  """A text tensor without its prefix: language_model.model.norm.weight → model.norm.weight."""
  prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
  # Longest prefix first in PREFIXES: "model." alone would leave "language_model." in the name.
  return f"model.{name.removeprefix(prefix)}" if prefix else name


def check_tensors(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], folder: str):
  """Refuses weights other than those that config.json means, `expected`: {name: shape}."""
  config = os.path.join(folder, "config.json")
  # bitsandbytes and GPTQ keep packed integers under the same names, with further tensors beside
  # them.
  compressed = sorted(t.name for t in tensors.values() if t.dtype not in FLOATS)
  if compressed:
    tensor = next(t for t in tensors.values() if t.name == compressed[0])
    raise InputError(
      f"{folder} is quantized ({compressed[0]} is {tensor.dtype}); pass the model with bfloat16 "
      "or float32 weights"
    )
  strange = sorted(tensors.keys() - expected.keys() - {"lm_head.weight"})
  if strange:
    raise InputError(
      f"{folder} holds {len(strange)} tensors that no Gemma 3 text model of its config.json has, "
      f"such as {strange[0]}; expected names such as model.layers.0.self_attn.q_proj.weight"
    )
  missing = sorted(expected.keys() - tensors.keys())
  if missing:
    raise InputError(
      f"{folder} lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]}; finish "
      f"its download, or correct {config}"
    )
  for name, shape in expected.items():
    if tensors[name].shape != shape:
      raise InputError(
        f"{folder} has {name} of shape {tensors[name].shape}, its config.json means {shape}; they "
        "do not belong together"
      )
  # Not expected, as Gemma's head is its embedding (tied), and yet some tools store it.
  if "lm_head.weight" in tensors:
    check_tied_head(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"], folder)


def check_tied_head(head: Tensor, embedding: Tensor, folder: str):
  """Some tools store the head although it is the embedding; another one would be lost here."""
  # Values, not names: 1B's head is 0.6 GB, read only where a file holds one.
  same = head.shape == embedding.shape and np.array_equal(read_tensor(head), read_tensor(embedding))
  if not same:
    raise InputError(
      f"{folder} has an lm_head.weight that is not its embedding; Tunix's Gemma 3 computes only "
      "tied ones"
    )


def first_line(error: Exception) -> str:
  # Some exceptions have no text, only a type.
  return (str(error).strip() or type(error).__name__).splitlines()[0]
