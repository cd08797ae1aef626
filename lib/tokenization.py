"""Text to token ids and back, and rows of ids to arrays.

Gemma's tokenizer is a sentencepiece model. The tiny model has one of its own, trained on its data
by `train_tokenizer`, with Gemma's ids for all that is special.
"""

import io
import json
import os
import pathlib
from collections.abc import Iterable

import numpy as np
import sentencepiece as spm

from lib import contract, hosts, jsonl, model_json, tokenizer_json
from lib.errors import InputError

# Gemma's own ids, which the tiny tokenizer takes over.
PAD_ID = 0
EOS_ID = 1
BOS_ID = 2
UNKNOWN_ID = 3
START_OF_TURN_ID = 105
END_OF_TURN_ID = 106
STOP_IDS = (EOS_ID, END_OF_TURN_ID)  # a base model ends with the first, a tuned one with the second

# Padded lengths: few, since each is a compilation; near to each other, since padding is work.
LENGTH_BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> bytes:
  """A sentencepiece model for the tiny Gemma 3, learned from `texts`.

  Ids 4 to 104 hold what never changes as single symbols (`fixed_symbols`), so that the fixed text
  of a row costs a handful of positions, not half of them. Then come the turn tokens and learned
  pieces.
  """
  # Gone through twice: for the characters, and by the trainer.
  texts = list(texts)
  fixed = fixed_symbols()
  # Fills up to id 104, so that the turn tokens get Gemma's 105 and 106.
  unused = [f"<unused{i}>" for i in range(START_OF_TURN_ID - 4 - len(fixed))]
  characters = set().union(*texts)
  buffer = io.BytesIO()
  spm.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=buffer,
    model_type="bpe",
    # Every character of a pool must fit, beside the symbols and the 256 bytes.
    vocab_size=max(vocab_size, 512 + len(characters)),
    # Few texts have few pieces: a smaller vocabulary then, not an error.
    hard_vocab_limit=False,
    # A character that no text had becomes its UTF-8 bytes, not <unk>, and so can be decoded.
    byte_fallback=True,
    character_coverage=1.0,
    split_digits=True,  # as Gemma's: "128" is three tokens, so arithmetic can be read off them
    pad_id=PAD_ID,
    eos_id=EOS_ID,
    bos_id=BOS_ID,
    unk_id=UNKNOWN_ID,
    user_defined_symbols=[*fixed, *unused, contract.TURN_START, contract.TURN_END],
    # Text goes through as it is, so that decoding gives it back.
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    normalization_rule_name="identity",
    # The same texts give the same model, on any machine.
    num_threads=1,
    input_sentence_size=20000,
    shuffle_input_sentence=False,
    minloglevel=2,
  )
  return buffer.getvalue()


def fixed_symbols() -> list[str]:
  """Each style's prompt header, the tags and the section headings."""
  headers = []
  for style in contract.STYLES:
    # From the prompt itself, so that another wording needs no change here.
    user_turn = contract.format_prompt("", style).split(contract.TURN_END)[0]
    headers.append(user_turn.removeprefix(contract.TURN_START).rstrip())  # "user\n…\n\nTask:"
  tags = ["<reasoning>", "</reasoning>", "</reasoning>\n<answer>", "<answer>", "</answer>"]
  headings = [f"{name}:" for name in contract.SECTIONS]
  symbols = [*headers, *tags, "\n", "user\n", "model\n", *headings]
  # Sentencepiece looks for symbols after it has written spaces as U+2581.
  return [symbol.replace(" ", tokenizer_json.SPACE) for symbol in symbols]


def load_tokenizer(
  model: str, data_dir: str = "", checkpoint: str = ""
) -> spm.SentencePieceProcessor:
  """The tokenizer of a model folder; the tiny model's stands in its checkpoint or data folder.

  Data that was prepared without one (any pool, any flags) works with the tiny model too: its
  tokenizer is then trained on train.jsonl, as prepare_data.py would have.
  """
  if not hosts.several():
    return find_tokenizer(model, data_dir, checkpoint)

  def found_by_lead() -> bytes:
    return find_tokenizer(model, data_dir, checkpoint).serialized_model_proto()

  return spm.SentencePieceProcessor(model_proto=hosts.on_lead(found_by_lead))


def find_tokenizer(model: str, data_dir: str, checkpoint: str) -> spm.SentencePieceProcessor:
  """`load_tokenizer` on the host that has the folders."""
  if model != "tiny":
    # Real models bring theirs, and the data folder's would not fit their embedding.
    return load_from([model]) or refuse_model(model)
  places = [data_dir]
  if checkpoint:
    # A checkpoint may be RUN/params or RUN/best: its tokenizer then lies in RUN.
    places = [checkpoint, os.path.dirname(checkpoint.rstrip("/")), data_dir]
  if tokenizer := load_from(places):
    return tokenizer
  if not data_dir:
    looked = " or ".join(filter(None, places)) or "any folder"
    raise InputError(
      f"no tokenizer.model in {looked} for --model=tiny; give --checkpoint or --data_dir"
    )
  rows = jsonl.read_rows(os.path.join(data_dir, "train.jsonl"))
  # A row without a target is for GRPO alone; its answer stands in.
  texts = (row["prompt"] + row.get("target", row["answer"]) for row in rows)
  return spm.SentencePieceProcessor(model_proto=train_tokenizer(texts))


def load_from(folders: list[str]) -> spm.SentencePieceProcessor | None:
  """The tokenizer of the first of `folders` that has one."""
  for folder in folders:
    if folder and (tokenizer := read_tokenizer(folder)):
      return tokenizer
  return None


def read_tokenizer(folder: str) -> spm.SentencePieceProcessor | None:
  """tokenizer.model of a folder; where transformers 5 left that out, the same of tokenizer.json."""
  path = os.path.join(folder, "tokenizer.model")
  if os.path.isfile(path):
    try:
      return spm.SentencePieceProcessor(model_file=path)
    except RuntimeError as error:
      raise InputError(f"{path} is not a sentencepiece model ({error}); make it again") from error
  path = os.path.join(folder, "tokenizer.json")
  if not os.path.isfile(path):
    return None
  try:
    fast = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"{path} is not JSON ({error}); download it again") from error
  proto = tokenizer_json.sentencepiece_model(fast, path)
  return spm.SentencePieceProcessor(model_proto=proto)


def refuse_model(model: str):
  """Says what a folder without a tokenizer is, if it can be told."""
  if os.path.isdir(os.path.join(model, "merged")):
    raise InputError(f"{model} is an export, no model itself; pass {model}/merged as --model")
  raise InputError(f"{model} has no tokenizer.model; {model_json.NOT_A_MODEL}")


def encode(tokenizer, text: str) -> list[int]:
  """<bos> and the ids of a prompt's chat text."""
  return [BOS_ID, *tokenizer.EncodeAsIds(text)]


def encode_target(tokenizer, text: str) -> list[int]:
  """The ids of a response with its stop token, as the model must produce them."""
  return [*tokenizer.EncodeAsIds(text), END_OF_TURN_ID]


def decode(tokenizer, ids) -> str:
  """Text of a completion, without padding and stop tokens.

  Ids past the vocabulary have no text: the tiny model's head is rounded up to a multiple of 64.
  """
  size = tokenizer.GetPieceSize()
  left_out = (PAD_ID, *STOP_IDS)
  return tokenizer.DecodeIds([int(i) for i in ids if i not in left_out and i < size])


def bucket(length: int, limit: int | None = None) -> int:
  """The smallest padded length that holds `length`, `limit` at most."""
  # 100 → 128; longer than all buckets: its own length.
  size = next((size for size in LENGTH_BUCKETS if size >= length), length)
  return min(size, limit) if limit else size


def choose_widths(lengths: list[int], limit: int) -> tuple[int, ...]:
  """Two padded widths, multiples of 16, for three quarters of `lengths` and for all of them.

  A width costs a compilation, and padding costs work. limit: the largest width; 0 for none.
  """
  # Two are enough on real prompts: one for the many short ones, one for the few long ones.
  widths = set()
  for share in (0.75, 1.0):
    length = int(np.quantile(lengths, share))
    # Rounded up: 100 → 112.
    width = -(-length // 16) * 16
    widths.add(min(width, limit) if limit else width)
  return tuple(sorted(widths))


def fit(length: int, widths: tuple[int, ...]) -> int:
  """The smallest of `widths` that holds `length`."""
  return next(width for width in widths if width >= length)


def pad_left(ids: list[list[int]], width: int) -> np.ndarray:
  """Prompts (B, width): padding in front, so that every completion starts at the same position."""
  padded = np.full((len(ids), width), PAD_ID, np.int32)
  # [[7, 8], [9]] to width 3 → [[0, 7, 8], [0, 0, 9]].
  for row, tokens in zip(padded, ids, strict=True):
    row[width - len(tokens) :] = tokens
  return padded


def pad_right(ids: list[list[int]], width: int) -> np.ndarray:
  """Rows (B, width): padding behind."""
  padded = np.full((len(ids), width), PAD_ID, np.int32)
  # [[7, 8], [9]] to width 3 → [[7, 8, 0], [9, 0, 0]].
  for row, tokens in zip(padded, ids, strict=True):
    row[: len(tokens)] = tokens
  return padded
