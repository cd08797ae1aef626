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
import gc
import glob
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import flags
from flax import nnx

import model as gemma
import rewards
from rewards import InputError

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", "tiny", "tiny, gemma-3-270m-it, gemma-3-1b-it, or a Hugging Face folder of a Gemma 3 text model.",
                    flag_values=FLAGS)
flags.DEFINE_string("checkpoint", "", "SFT or GRPO folder to export, or its best/ folder.", flag_values=FLAGS)
flags.DEFINE_string("out_dir", "artifacts/run/export", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_list("formats", ["peft", "merged"], "Any of peft, merged, orbax, zip.", flag_values=FLAGS)
flags.DEFINE_string("title", "", "Name on the model card and on Kaggle (6 to 50 characters); empty: from model and stage.",
                    flag_values=FLAGS)
flags.DEFINE_string("kaggle_id", "", "user/data-set-name for Kaggle's dataset-metadata.json; empty: none.", flag_values=FLAGS)
flags.DEFINE_boolean("verify", False, "Reload the export with transformers and PEFT on CPU and compare it with the JAX policy.",
                     flag_values=FLAGS)
flags.DEFINE_string("verify_python", "", "Python that has requirements-parity.txt; empty: .venv-parity beside this script "
                    "where it exists, else this Python.", flag_values=FLAGS)
flags.DEFINE_boolean("overwrite", False, "Replace what out_dir holds from an earlier run.", flag_values=FLAGS)

FORMATS = ("peft", "merged", "orbax", "zip")
LOGIT_TOLERANCE, GREEDY_STEPS = 1e-3, 64  # float32 on both sides
QUESTIONS = ("A farmer has 17 sheep, buys 25 and sells 9. How many sheep are left?", "Why does ice float on water?",
             "Write a Python function that returns the n-th Fibonacci number.")  # where the training data is gone


LICENCES = {"gsm8k": "MIT", "mbpp": "CC BY 4.0", "sciq": "CC BY-NC 3.0", "arc_easy": "CC BY-SA 4.0",
            "arc_challenge": "CC BY-SA 4.0", "strategyqa": "MIT", "dolly": "CC BY-SA 3.0", "no_robots": "CC BY-NC 4.0"}


def main():
  formats, out_dir, checkpoint = [f.strip() for f in FLAGS.formats], FLAGS.out_dir.rstrip("/"), FLAGS.checkpoint.rstrip("/")
  title = FLAGS.title or f"{os.path.basename(FLAGS.model.rstrip('/'))} reasoning {os.path.basename(checkpoint)}"
  check_flags(formats, checkpoint, FLAGS.kaggle_id, title)
  check_out_dir(out_dir, FLAGS.overwrite)
  python = find_python(FLAGS.verify_python) if FLAGS.verify else None
  config, params = gemma.read_checkpoint(checkpoint)
  if config.get("prompt_hash") != rewards.prompt_hash(config["style"]):  # the chat template comes from this code
    raise InputError(f"{checkpoint} was trained with prompt {config.get('prompt_hash')}, this code renders "
                     f"{rewards.prompt_hash(config['style'])}; export it with the code that trained it (commit "
                     f"{config.get('git_commit')})")
  if not config["lora_rank"] and "peft" in formats:
    formats = [name for name in formats if name != "peft"] or ["merged"]
    print(f"this run trained all parameters: there is no adapter, so {' and '.join(formats)} is all that is exported", flush=True)
  parent = os.path.dirname(os.path.abspath(out_dir))
  os.makedirs(parent, exist_ok=True)
  policy, shape, base, adapter = open_policy(FLAGS.model, checkpoint, parent)
  partial = tempfile.mkdtemp(prefix=f".{os.path.basename(out_dir)}.partial.", dir=parent)
  os.chmod(partial, 0o755)
  try:
    write_formats(partial, policy, shape, base, adapter, config, params, formats)
    base = None
    parity = verify(partial, FLAGS.model, checkpoint, config, python, formats) if FLAGS.verify else None
    licence = "apache-2.0" if policy.name == "tiny" else "gemma"
    rewards.write_text(f"{partial}/README.md", model_card(title, FLAGS.model, checkpoint, config, formats, licence, parity))
    if FLAGS.kaggle_id:
      metadata = {"title": title, "id": FLAGS.kaggle_id, "licenses": [{"name": licence if licence != "gemma" else "other"}]}
      rewards.write_text(f"{partial}/dataset-metadata.json", json.dumps(metadata, indent=1) + "\n")
    found = glob.glob(f"{glob.escape(partial)}/**", recursive=True)
    files = sorted(os.path.relpath(f, partial) for f in found if os.path.isfile(f))
    rewards.write_config(partial, "export", FLAGS, config["style"], formats=formats, files=[*files, "config.json"],
                         base_fingerprint=config["model_fingerprint"], parity_passed=parity and parity["passed"])
    swap(partial, out_dir)
  finally:
    shutil.rmtree(partial, ignore_errors=True)  # there only after an error: this run's own folder
  print(f"exported {', '.join(formats)} to {out_dir}", flush=True)
  if parity and not parity["passed"]:
    raise InputError(f"the export does not match the JAX policy ({'; '.join(parity['failures'])}); see {out_dir}/parity.json "
                     "and do not publish it")


def check_flags(formats: list[str], checkpoint: str, kaggle_id: str, title: str):
  unknown = [f for f in formats if f not in FORMATS]
  if unknown or not formats:
    raise InputError(f"--formats has {', '.join(unknown) or 'nothing'}; valid: {', '.join(FORMATS)}")
  if not checkpoint:
    raise InputError("--checkpoint is empty; give the folder that train_sft.py or train_grpo.py wrote")
  if kaggle_id and not re.fullmatch(r"[\w-]{3,50}/[a-zA-Z0-9-]{3,50}", kaggle_id):
    raise InputError(f"--kaggle_id={kaggle_id} is not user/data-set-name (letters, digits and hyphens, 3 to 50 of them)")
  if kaggle_id and not 6 <= len(title) <= 50:
    raise InputError(f"Kaggle wants a title of 6 to 50 characters, {title!r} has {len(title)}; pass --title")


def check_out_dir(out_dir: str, overwrite: bool):
  """out_dir must be new, empty, or an export that --overwrite may replace."""
  if os.path.isfile(out_dir):
    raise InputError(f"--out_dir={out_dir} is a file; give a folder")
  if os.path.isdir(out_dir) and os.listdir(out_dir):
    ours = os.path.isfile(f"{out_dir}/config.json") and rewards.read_config(out_dir, "export_lora.py").get("stage") == "export"
    if not ours:
      raise InputError(f"{out_dir} holds files that export_lora.py did not write; choose an empty or new --out_dir")
    if not overwrite:
      raise InputError(f"{out_dir} already holds an export; pass --overwrite to replace it or choose another --out_dir")


def swap(partial: str, out_dir: str):
  """Puts the finished folder in place. Of an older export only the files it listed go; what others put there stays."""
  if not os.path.isdir(out_dir):
    return os.rename(partial, out_dir)
  listed = rewards.read_config(out_dir, "export_lora.py")["files"] if os.listdir(out_dir) else []
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
  gemma.check_one_process()
  policy = gemma.load_policy(model, checkpoint, dtype="bfloat16")  # adapters stay float32
  lora = {}
  if policy.lora_rank:
    lora = {name: np.asarray(x) for name, x in gemma.flat_params(policy.model, nnx.LoRAParam).items()}
  base = gemma.flat_params(policy.model, nnx.Param) if policy.name == "tiny" or not lora else {}
  gemma.check_disk(disk, 10 * sum(x.size for x in jax.tree.leaves(nnx.state(policy.model, nnx.Param))))
  shape = policy.model.config
  return policy._replace(model=None), shape, base, gemma.to_peft(lora, shape)


def write_formats(out: str, policy, shape, base: dict, adapter: dict, config: dict, params: str, formats: list[str]):
  if "peft" in formats:
    write_adapter(f"{out}/peft", adapter, policy)
    write_tokenizer(f"{out}/peft", policy, config["style"])
    if policy.name == "tiny":
      write_model(f"{out}/base", policy, shape, config["style"], base, {}, 0.0, np.float32)
  if "merged" in formats:
    scale = policy.lora_alpha / policy.lora_rank if adapter else 0.0
    write_model(f"{out}/merged", policy, shape, config["style"], base, adapter, scale, jnp.bfloat16)
  if "orbax" in formats or "zip" in formats:
    shutil.copytree(params, f"{out}/orbax/params")
    rewards.write_text(f"{out}/orbax/config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")
    if policy.name == "tiny":
      pathlib.Path(f"{out}/orbax/tokenizer.model").write_bytes(policy.tokenizer.serialized_model_proto())
  if "zip" in formats:
    recipe = "dsa_cast_" if config["style"] == "dual_stream" else ""  # seed 002's file name
    shutil.make_archive(f"{out}/tunix_{recipe}{config['stage']}_actor_ckpt", "zip", f"{out}/orbax")
    if "orbax" not in formats:
      shutil.rmtree(f"{out}/orbax")


def hub_name(model: str) -> str:
  """Hugging Face's name of a known model, wherever its folder lies (Kaggle adds a version); any other folder keeps its own."""
  known = re.search(rf"(?:^|/)({'|'.join(gemma.KAGGLE_HANDLES)})(?:/\d+)?/?$", model)
  return f"google/{known[1]}" if known else model


def write_adapter(folder: str, adapter: dict[str, np.ndarray], policy):
  """PEFT's two files. Both libraries scale A·B by alpha / rank, so the numbers pass as they are."""
  os.makedirs(folder)
  alpha = int(policy.lora_alpha) if float(policy.lora_alpha).is_integer() else policy.lora_alpha
  targets = sorted({name.split(".")[-3] for name in adapter})
  settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": policy.lora_rank, "lora_alpha": alpha, "lora_dropout": 0.0,
              "target_modules": targets, "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False,
              "base_model_name_or_path": "base" if policy.name == "tiny" else hub_name(policy.name), "inference_mode": True}
  rewards.write_text(f"{folder}/adapter_config.json", json.dumps(settings, indent=1) + "\n")
  safetensors.numpy.save_file(adapter, f"{folder}/adapter_model.safetensors", metadata={"format": "pt"})


def write_model(folder: str, policy, shape, style: str, base: dict, adapter: dict, scale: float, dtype):
  """A Hugging Face folder: base + scale · B·A, one tensor in memory at a time.

  base: its Tunix parameters (tiny model, full-parameter run); empty: read from the shards in the base folder.
  """
  os.makedirs(folder)
  if base:
    names = gemma.hf_names(shape)
    read = lambda name: gemma.to_hf(name, np.asarray(base[names[name][0]]), names[name][1])
  else:
    names = {}
    for shard in sorted(glob.glob(f"{glob.escape(policy.name)}/*.safetensors")):
      with safetensors.safe_open(shard, "np") as f:
        names.update(dict.fromkeys(f.keys(), shard))

    def read(name):
      with safetensors.safe_open(names[name], "np") as f:
        return f.get_tensor(name)
  used = set()

  def tensor(name):
    value = read(name)
    layer = re.search(r"layers\.\d+\.(self_attn|mlp)\.\w+_proj(?=\.weight)", name)
    key = f"base_model.model.model.{layer[0]}" if layer and "vision" not in name else None
    if f"{key}.lora_A.weight" in adapter:
      used.add(key)
      delta = adapter[f"{key}.lora_B.weight"].astype(np.float32) @ adapter[f"{key}.lora_A.weight"].astype(np.float32)
      value = value.astype(np.float32) + np.float32(scale) * delta
    return value.astype(dtype)
  write_safetensors(f"{folder}/model.safetensors", sorted(names), tensor)
  if len(used) != len(adapter) // 2:
    raise InputError(f"{policy.name} has {len(used)} of the {len(adapter) // 2} projections that the adapter changes; its "
                     "safetensors are incomplete or carry other names")
  write_model_config(folder, policy, shape, np.dtype(dtype).name)
  write_tokenizer(folder, policy, style)


def write_safetensors(path: str, names: list[str], tensor):
  """Writes tensor(name) for every name, holding one at a time: safetensors' own writer holds the whole file twice.

  The format is the header's length, a JSON header (padded with spaces, so its room can be kept before the sizes are known)
  and the raw data.
  """
  room = (512 + sum(len(name) + 128 for name in names)) // 8 * 8
  header, start, codes = {"__metadata__": {"format": "pt"}}, 0, {"bfloat16": "BF16", "float32": "F32"}
  with open(path, "wb") as f:
    f.seek(8 + room)
    for name in names:
      value = np.ascontiguousarray(tensor(name))
      f.write(value.view(np.uint8).data)
      end = start + value.nbytes
      header[name], start = {"dtype": codes[value.dtype.name], "shape": value.shape, "data_offsets": [start, end]}, end
    f.seek(0)
    f.write(room.to_bytes(8, "little") + json.dumps(header).encode().ljust(room))


def write_model_config(folder: str, policy, shape, dtype: str):
  """config.json of the base (or of the tiny model) and a generation_config.json with both stop ids."""
  if policy.name == "tiny":
    pattern = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(shape.num_layers)]
    settings = {
      "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": shape.num_embed,
      "hidden_size": shape.embed_dim, "intermediate_size": shape.hidden_dim, "num_hidden_layers": shape.num_layers,
      "num_attention_heads": shape.num_heads, "num_key_value_heads": shape.num_kv_heads, "head_dim": shape.head_dim,
      "query_pre_attn_scalar": shape.head_dim, "sliding_window": shape.sliding_window_size, "layer_types": pattern,
      "rope_theta": float(shape.global_base_frequency), "rope_local_base_freq": float(shape.local_base_frequency),
      "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768,
      "tie_word_embeddings": True, "bos_token_id": gemma.BOS_ID, "eos_token_id": gemma.EOS_ID,
      "pad_token_id": gemma.PAD_ID}
  else:
    settings = json.loads(pathlib.Path(policy.name, "config.json").read_text(encoding="utf-8"))
  settings["torch_dtype"] = dtype
  generation = {"bos_token_id": gemma.BOS_ID, "eos_token_id": list(gemma.STOP_IDS), "pad_token_id": gemma.PAD_ID}
  rewards.write_text(f"{folder}/config.json", json.dumps(settings, indent=1) + "\n")
  rewards.write_text(f"{folder}/generation_config.json", json.dumps(generation, indent=1) + "\n")


# --------------------------------------------------------------------------------------- the tokenizer and the chat template
def chat_template(style: str) -> str:
  """Jinja that renders one user message exactly as `rewards.format_prompt` did in training, with <bos> in front."""
  before, after = rewards.CHAT_TEMPLATE.format(system=rewards.SYSTEM_PROMPTS[style], question="\0").split("\0")
  end, start = after.split(rewards.TURN_START)  # "<end_of_turn>\n", "model\n"
  question = "message['content']" + "".join(f" | replace('{t}', ' ')" for t in (rewards.TURN_START, rewards.TURN_END)) + " | trim"
  shown = {"before": before, "end": end, "start": rewards.TURN_START + start}
  shown = {name: json.dumps(text) for name, text in shown.items()}
  return (
    "{{ bos_token }}{% for message in messages %}{% if message['content'] is not string %}"
    "{{ raise_exception('the content of a message must be text') }}{% endif %}"
    f"{{% if message['role'] == 'user' %}}{{{{ {shown['before']} + ({question}) + {shown['end']} }}}}"
    f"{{% elif message['role'] == 'assistant' %}}{{{{ {shown['start']} + message['content'] + {shown['end']} }}}}"
    "{% else %}{{ raise_exception('trained with one fixed system text: put instructions into the user message') }}{% endif %}"
    f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {shown['start']} }}}}{{% endif %}}")


def write_tokenizer(folder: str, policy, style: str):
  """tokenizer.model and the files that make transformers' AutoTokenizer give the same ids."""
  proto, kept = policy.tokenizer.serialized_model_proto(), {}
  if policy.name != "tiny":
    for name in ("tokenizer.json", "special_tokens_map.json", "added_tokens.json"):
      if os.path.isfile(f"{policy.name}/{name}"):
        shutil.copy(f"{policy.name}/{name}", folder)
    if os.path.isfile(f"{policy.name}/tokenizer_config.json"):
      kept = json.loads(pathlib.Path(policy.name, "tokenizer_config.json").read_text(encoding="utf-8"))
  pathlib.Path(folder, "tokenizer.model").write_bytes(proto)
  if not os.path.isfile(f"{folder}/tokenizer.json"):
    rewards.write_text(f"{folder}/tokenizer.json", json.dumps(fast_tokenizer(proto), ensure_ascii=False))
  special = {f"{role}_token": policy.tokenizer.IdToPiece(i) for i, role in enumerate(("pad", "eos", "bos", "unk"))}
  kept = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "clean_up_tokenization_spaces": False, **special, **kept,
          "chat_template": chat_template(style)}
  rewards.write_text(f"{folder}/tokenizer_config.json", json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def fast_tokenizer(proto: bytes) -> dict:
  """tokenizer.json of a sentencepiece BPE model. transformers can convert one itself, but only where protobuf is installed.

  sentencepiece joins the neighbours whose union has the best score: a merge list of every split of every piece, by score.
  User-defined symbols match first, longest first, on text whose spaces are already "▁".
  """
  from sentencepiece import sentencepiece_model_pb2 as pb
  pieces, kind = pb.ModelProto.FromString(proto).pieces, pb.ModelProto.SentencePiece
  vocab = {piece.piece: i for i, piece in enumerate(pieces)}
  scores = {piece.piece: piece.score for piece in pieces if piece.type in (kind.NORMAL, kind.USER_DEFINED)}
  splits = [(-score, vocab[text], vocab[text[:k]], text[:k], text[k:]) for text, score in scores.items()
            for k in range(1, len(text)) if text[:k] in scores and text[k:] in scores]
  added = [{"id": i, "content": piece.piece, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": piece.type == kind.USER_DEFINED,
            "special": piece.type != kind.USER_DEFINED or piece.piece in (rewards.TURN_START, rewards.TURN_END)}
           for i, piece in enumerate(pieces) if piece.type in (kind.CONTROL, kind.UNKNOWN, kind.USER_DEFINED)]
  bos, unknown = pieces[gemma.BOS_ID].piece, next(piece.piece for piece in pieces if piece.type == kind.UNKNOWN)
  first, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
  return {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "pre_tokenizer": None,
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    "post_processor": {"type": "TemplateProcessing", "single": [first, text],
                       "pair": [first, text, {"Sequence": {"id": "B", "type_id": 0}}],
                       "special_tokens": {bos: {"id": bos, "ids": [gemma.BOS_ID], "tokens": [bos]}}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                 {"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocab,
              "merges": [[left, right] for *_, left, right in sorted(splits)]}}


# ---------------------------------------------------------------------------------------------------------------- parity
def find_python(path: str) -> str:
  """An interpreter that can run `torch_outputs`; asked before the export starts."""
  beside = rewards.HERE / ".venv-parity" / "bin" / "python"
  python = path or (str(beside) if beside.is_file() else sys.executable)
  try:
    found = subprocess.run([python, "-c", "import torch, transformers, peft"], capture_output=True, text=True)
  except OSError as error:
    raise InputError(f"--verify_python={python} does not run ({error.strerror}); give a Python interpreter") from error
  if found.returncode:
    reason = (found.stderr.strip().splitlines() or ["no message"])[-1]
    raise InputError(f"--verify needs torch, transformers and peft, {python} says {reason!r}; "
                     "run `pip install -r requirements-parity.txt` there, or name another Python with --verify_python")
  return python


def verification_prompts(config: dict, tokenizer, count: int = 4, longest: int = 384) -> tuple[list[tuple[str, str]], str]:
  """Up to `count` (question, prompt) of held-out rows, one a domain first, and where they are from."""
  data_dir = config.get("flags", {}).get("data_dir") or ""
  for path in filter(os.path.isfile, (f"{data_dir}/test.jsonl", f"{data_dir}/val.jsonl")):
    rows = [row for row in rewards.read_rows(path)[:400] if len(gemma.encode(tokenizer, row["prompt"])) <= longest]
    first = {row["domain"]: row for row in reversed(rows)}
    chosen = [*first.values(), *(row for row in rows if row is not first[row["domain"]])][:count]
    if chosen:
      return [(row["question"], row["prompt"]) for row in chosen], path
  return [(q, rewards.format_prompt(q, config["style"])) for q in QUESTIONS], "built-in questions"


def jax_logits(model: nnx.Module, sequences: list[list[int]], starts: list[int]) -> list[np.ndarray]:
  """float32 logits (T_i - start_i, V) of each sequence, without a cache."""
  width = gemma.bucket(max(map(len, sequences)))
  positions, mask = jnp.arange(width)[None], jnp.tril(jnp.ones((1, width, width), bool))
  run = nnx.jit(lambda model, tokens: model(tokens, positions, None, mask)[0])
  return [np.asarray(run(model, gemma.pad_right([ids], width))[0, start:len(ids)]) for ids, start in zip(sequences, starts)]


def jax_greedy(policy, prompts: list[list[int]]) -> list[list[int]]:
  """Greedy completions of at most GREEDY_STEPS tokens, the stop token kept."""
  out = gemma.sample(policy, prompts, width=gemma.bucket(max(map(len, prompts))), max_new_tokens=GREEDY_STEPS,
                         temperature=0.0)
  ends = [next((i + 1 for i, token in enumerate(row) if token in gemma.STOP_IDS), len(row)) for row in out]
  return [row[:end].tolist() for row, end in zip(out, ends)]


def torch_outputs(folder):
  """The same from transformers and PEFT. Its source runs in another Python, so it uses nothing of this file but its argument:
  a folder with request.json, where it writes logits and result.json."""
  import json

  import numpy as np
  import peft
  import torch
  import transformers
  with open(f"{folder}/request.json") as f:
    request = json.load(f)
  result = {"versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)}}
  for name, (base, adapter) in request["models"].items():
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = (peft.PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(adapter or base)
    chats = [[{"role": "user", "content": question}] for question in request["questions"]]
    found = result[name] = {"greedy": [], "stop_ids": model.generation_config.eos_token_id, "chat_ids": [
      tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False) for chat in chats]}
    with torch.no_grad():
      for i, (ids, start) in enumerate(zip(request["sequences"], request["starts"])):
        np.save(f"{folder}/{name}_{i}.npy", model(torch.tensor([ids])).logits[0, start:].numpy())
        if adapter:
          with model.disable_adapter():
            np.save(f"{folder}/without_adapter_{i}.npy", model(torch.tensor([ids])).logits[0, start:].numpy())
      for ids in request["prompts"]:
        prompt = torch.tensor([ids])
        out = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=request["steps"],
                             do_sample=False, eos_token_id=request["stop_ids"], pad_token_id=0)
        found["greedy"].append(out[0, len(ids):].tolist())
    del model
  with open(f"{folder}/result.json", "w") as f:
    json.dump(result, f)


def verify(out: str, model: str, checkpoint: str, config: dict, python: str, formats: list[str]) -> dict:
  """Compares peft/ and merged/, as transformers and PEFT load them, with the JAX policy; writes and returns parity.json.

  peft/ is compared with the policy itself. merged/ holds bfloat16, so it is compared with the JAX model that loads it, and
  what the rounding moved is reported apart: it must be nearer to the policy than the untrained base is. All in float32.
  """
  print("verifying: JAX first, then transformers and PEFT in their own process", flush=True)
  policy = gemma.load_policy(model, checkpoint, dtype="float32")
  chosen, source = verification_prompts(config, policy.tokenizer)
  prompts = [gemma.encode(policy.tokenizer, prompt) for _, prompt in chosen]
  name, tokenizer, mesh = policy.name, policy.tokenizer, policy.mesh
  models = {"peft": (f"{out}/base" if name == "tiny" else name, f"{out}/peft")} if "peft" in formats else {}
  with jax.default_matmul_precision("highest"):  # else a TPU multiplies float32 in bfloat16, a GPU in TF32
    greedy = {"peft": jax_greedy(policy, prompts)}
    sequences, starts = [p + c for p, c in zip(prompts, greedy["peft"])], [max(0, len(p) - 16) for p in prompts]
    logits = {"peft": jax_logits(policy.model, sequences, starts)}
    if "merged" in formats:
      policy = None  # one float32 model at a time
      logits["base"] = jax_logits(gemma.load_base(name, tokenizer, mesh, "float32"), sequences, starts)
      policy = gemma.load_policy(f"{out}/merged", dtype="float32")
      greedy["merged"], logits["merged"] = jax_greedy(policy, prompts), jax_logits(policy.model, sequences, starts)
      models["merged"] = (f"{out}/merged", None)
  policy = None
  jax.clear_caches()
  gc.collect()
  with tempfile.TemporaryDirectory() as folder:
    request = {"models": models, "sequences": sequences, "starts": starts, "prompts": prompts, "steps": GREEDY_STEPS,
               "questions": [q for q, _ in chosen], "stop_ids": list(gemma.STOP_IDS)}
    rewards.write_text(f"{folder}/request.json", json.dumps(request))
    code = f"{inspect.getsource(torch_outputs)}\nimport sys\ntorch_outputs(sys.argv[1])"
    done = subprocess.run([python, "-c", code, folder], capture_output=True, text=True)
    if done.returncode:
      lines = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
      raise InputError(f"transformers or PEFT cannot load the export: {lines[0]}")
    result = json.loads(pathlib.Path(folder, "result.json").read_text())
    load = lambda name: [np.load(f"{folder}/{name}_{i}.npy") for i in range(len(prompts))]
    theirs = {name: load(name) for name in [*models, *(["without_adapter"] if "peft" in models else [])]}
  parity = compare(list(models), logits, greedy, theirs, result, prompts)
  parity.update({"prompts": len(prompts), "prompts_from": source, "versions": result["versions"]})
  rewards.write_text(f"{out}/parity.json", json.dumps(parity, indent=1) + "\n")
  print(json.dumps(parity["formats"]), flush=True)
  return parity


def compare(names: list[str], logits: dict, greedy: dict, theirs: dict, result: dict, prompts: list[list[int]]) -> dict:
  """The verdicts: {"passed", "failures", "formats": {name: figures}}."""
  gap = lambda a, b: max(float(np.abs(x - y).max()) for x, y in zip(a, b))
  failures, figures = [], {}
  for name in names:
    same = [sum(a == b for a, b in zip(x, y)) for x, y in zip(greedy[name], result[name]["greedy"])]
    found = figures[name] = {
      "max_logit_difference": gap(logits[name], theirs[name]), "greedy_tokens": sum(map(len, greedy[name])),
      "greedy_same": sum(same), "greedy_identical": greedy[name] == result[name]["greedy"],
      "chat_template_identical": result[name]["chat_ids"] == prompts}
    checks = {f"logits differ by {found['max_logit_difference']:.2g}": not found["max_logit_difference"] <= LOGIT_TOLERANCE,
              "greedy tokens differ": not found["greedy_identical"],
              "the chat template gives other tokens than training used": not found["chat_template_identical"]}  # NaN fails too
    if name == "peft":
      found["adapter_effect"] = gap(theirs["peft"], theirs["without_adapter"])
      checks["the adapter changes nothing"] = not found["adapter_effect"] > found["max_logit_difference"]
    else:
      found["bfloat16_rounding"] = gap(logits["merged"], logits["peft"])
      found["training_effect"] = gap(logits["base"], logits["peft"])
      checks["rounding to bfloat16 lost what training changed"] = not found["bfloat16_rounding"] < found["training_effect"]
      checks["generation_config lacks a stop id"] = result[name]["stop_ids"] != list(gemma.STOP_IDS)
    failures += [f"{name}: {text}" for text, failed in checks.items() if failed]
  return {"passed": not failures, "failures": failures, "logit_tolerance": LOGIT_TOLERANCE, "formats": figures}


# ------------------------------------------------------------------------------------------------------------ model card
CARD = """---
license: {licence}
base_model: {base}
library_name: transformers
tags: [gemma3, reasoning, {stage}, jax, tunix]
---
# {title}

{base}, trained to reason before it answers ({stage}, {adapter}).

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
{code}
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "What is 12 * 7?"}}], add_generation_prompt=True,
                                    return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=512, eos_token_id={stops})[0]))
```

## Prompt
The chat template renders exactly this text, with `<bos>` in front. Another wording or spacing costs accuracy. The response
ends at `<end_of_turn>`.
```
{prompt}
```

## Recipe
| setting | value |
|---|---|
{recipe}

Code commit `{commit}`, prompt hash `{prompt_hash}`, base fingerprint `{fingerprint}`.

## Data
{data}

## Results
{results}

## Parity with the JAX model
{parity}

## Licence
{terms}
"""
TERMS = {
  "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. This is a modified "
           "Gemma: pass those terms and the Prohibited Use Policy on with it.",
  "apache-2.0": "This model was trained from random weights and is released under Apache-2.0."}


def model_card(title: str, model: str, checkpoint: str, config: dict, formats: list[str], licence: str, parity) -> str:
  """README.md: how to load it, what it was trained on, how well it does, and under which terms it may be used."""
  settings = config.get("flags", {})
  base = hub_name(model) if hub_name(model) != model else os.path.basename(model.rstrip("/"))
  under = "base" if model == "tiny" else hub_name(model)
  code = "# pass orbax/ (or the unpacked zip) as --checkpoint= to this project's scripts"
  if "merged" in formats:
    code = 'model, tokenizer = AutoModelForCausalLM.from_pretrained("merged"), AutoTokenizer.from_pretrained("merged")'
  elif "peft" in formats:
    code = (f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{under}"), "peft")\n'
            'tokenizer = AutoTokenizer.from_pretrained("peft")')
  checked = "Not verified; export_lora.py --verify does."
  if parity:
    checked = f"{'Passed' if parity['passed'] else 'FAILED'} on {parity['prompts']} prompts (parity.json). " + "; ".join(
      f"{name}: largest float32 logit difference {x['max_logit_difference']:.1e}, {x['greedy_same']} of {x['greedy_tokens']} "
      "greedy tokens the same" for name, x in parity["formats"].items()) + "."
  return CARD.format(
    title=title, licence=licence, base=base, stage=config["stage"], code=code, stops=list(gemma.STOP_IDS), parity=checked,
    adapter=f"LoRA rank {config['lora_rank']}, alpha {config['lora_alpha']:g}" if config["lora_rank"] else "all parameters",
    prompt=rewards.format_prompt("{question}", config["style"]), commit=config.get("git_commit"), terms=TERMS[licence],
    prompt_hash=config.get("prompt_hash"), fingerprint=config["model_fingerprint"], results=results_section(checkpoint),
    recipe="\n".join(f"| {key} | `{value}` |" for key, value in sorted(settings.items()) if value not in ("", None)),
    data=data_section(settings.get("data_dir") or ""))


def data_section(data_dir: str) -> str:
  """Rows a domain and the sources with their licences, as far as the data folder still tells."""
  try:
    domains = json.loads(pathlib.Path(data_dir, "stats.json").read_text(encoding="utf-8"))["domains"]
    settings = json.loads(pathlib.Path(data_dir, "config.json").read_text(encoding="utf-8"))["flags"]
  except (OSError, ValueError, KeyError):
    return f"Prepared in `{data_dir}`, which this export could not read."
  sources = [f"{name} ({LICENCES.get(name, 'licence: see its source')})" for name in settings.get("sources") or []]
  sources += [f"{os.path.basename(path)} (licence: see its source)" for path in settings.get("pool") or []]
  return "\n".join([f"Sources: {', '.join(sources) or 'the built-in pool (Apache-2.0)'}. Training rows:", "",
                    *(f"- {name}: {x['train']:,}" for name, x in domains.items() if x.get("train"))])


def results_section(checkpoint: str) -> str:
  """A table of every eval_*/results.json beside the checkpoint."""
  keys, lines = ("n", "format_rate", "accuracy", "mean_reward"), []
  for path in sorted(pathlib.Path(checkpoint).resolve().parent.glob("eval_*/results.json")):
    overall = json.loads(path.read_text(encoding="utf-8")).get("overall", {})
    shown = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in map(overall.get, keys)]
    lines.append(f"| {path.parent.name} | {' | '.join(shown)} |")
  if not lines:
    return "No evaluation stands beside the checkpoint; evaluate.py makes one."
  return "\n".join(["| model | rows | format | accuracy | mean reward |", "|---|---|---|---|---|", *lines])


if __name__ == "__main__":
  rewards.launch(main, FLAGS, __doc__)
