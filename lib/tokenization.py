"""TODO-DOC tokenization."""

import io
import os
from collections.abc import Iterable

import numpy as np
import sentencepiece as spm

from lib import contract, jsonl
from lib.errors import InputError

PAD_ID, EOS_ID, BOS_ID, END_OF_TURN_ID = 0, 1, 2, 106  # Gemma's; the tiny tokenizer uses the same
STOP_IDS = (EOS_ID, END_OF_TURN_ID)
LENGTH_BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


# ------------------------------------------------------------------------------------------------------------- tokenizer
def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> bytes:
  """A sentencepiece model for the tiny Gemma 3, with Gemma's control, turn-token and padding ids.

  Ids 4–104 hold what never changes as single symbols: each style's whole prompt header, the tags and the section headings,
  so that the fixed text costs a handful of positions, not half of a row; then <start_of_turn> 105, <end_of_turn> 106, then
  pieces learned from `texts`.
  """
  headers = [
    contract.format_prompt("", style)
    .split(contract.TURN_END)[0]
    .removeprefix(contract.TURN_START)
    .rstrip()
    for style in contract.STYLES
  ]  # "user\n…\n\nTask:"
  fixed = [
    *headers,
    "<reasoning>",
    "</reasoning>",
    "</reasoning>\n<answer>",
    "<answer>",
    "</answer>",
    "\n",
    "user\n",
    "model\n",
    *(f"{name}:" for name in contract.SECTIONS),
  ]
  fixed = [
    symbol.replace(" ", "\u2581") for symbol in fixed
  ]  # sentencepiece matches after escaping spaces
  symbols = (
    fixed
    + [f"<unused{i}>" for i in range(101 - len(fixed))]
    + [contract.TURN_START, contract.TURN_END]
  )
  texts, buffer = list(texts), io.BytesIO()
  vocab_size = max(
    vocab_size, 512 + len(set().union(*texts))
  )  # every character of a pool, beside the symbols and 256 bytes
  spm.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=buffer,
    vocab_size=vocab_size,
    model_type="bpe",
    byte_fallback=True,
    pad_id=PAD_ID,
    eos_id=EOS_ID,
    bos_id=BOS_ID,
    unk_id=3,
    user_defined_symbols=symbols,
    split_digits=True,
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    normalization_rule_name="identity",
    hard_vocab_limit=False,
    character_coverage=1.0,
    num_threads=1,
    input_sentence_size=20000,
    shuffle_input_sentence=False,
    minloglevel=2,
  )
  return buffer.getvalue()


def load_tokenizer(
  model: str, data_dir: str = "", checkpoint: str = ""
) -> spm.SentencePieceProcessor:
  """The tokenizer of a model folder; the tiny model's stands in its checkpoint or data folder.

  Data that was prepared without one (any pool, any flags) still works with the tiny model: its tokenizer is then trained on
  train.jsonl, the same way prepare_data.py would have.
  """
  places = (
    [checkpoint, os.path.dirname(checkpoint.rstrip("/")) if checkpoint else "", data_dir]
    if model == "tiny"
    else [model]
  )
  tokenizer = spm.SentencePieceProcessor()
  for place in filter(None, places):
    path = os.path.join(place, "tokenizer.model")
    if os.path.isfile(path):
      tokenizer.Load(path)
      return tokenizer
  if model != "tiny":
    raise InputError(
      f"{model} has no tokenizer.model; --model must be a Hugging Face folder of a Gemma 3 text model"
    )
  if not data_dir:
    raise InputError(
      f"no tokenizer.model in {' or '.join(filter(None, places)) or 'any folder'} for --model=tiny; "
      "give --checkpoint or --data_dir"
    )
  rows = jsonl.read_rows(os.path.join(data_dir, "train.jsonl"))
  tokenizer.LoadFromSerializedProto(
    train_tokenizer(row["prompt"] + row.get("target", row["answer"]) for row in rows)
  )
  return tokenizer


def encode(tokenizer, text: str) -> list[int]:
  """<bos> and the ids of a prompt's chat text."""
  return [BOS_ID, *tokenizer.EncodeAsIds(text)]


def encode_target(tokenizer, text: str) -> list[int]:
  """The ids of a response with its stop token, as the model must produce them."""
  return [*tokenizer.EncodeAsIds(text), END_OF_TURN_ID]


def decode(tokenizer, ids) -> str:
  """Text of a completion, without padding, stop tokens, and ids past the vocabulary (the tiny model's head is rounded up)."""
  size = tokenizer.GetPieceSize()
  return tokenizer.DecodeIds(
    [int(i) for i in ids if i != PAD_ID and i not in STOP_IDS and i < size]
  )


def bucket(length: int, limit: int | None = None) -> int:
  """The smallest bucket that holds `length`: few distinct shapes (compilations), little padding."""
  size = next((b for b in LENGTH_BUCKETS if b >= length), length)
  return min(size, limit) if limit else size


def choose_widths(lengths: list[int], limit: int) -> tuple[int, ...]:
  """Two padded widths, multiples of 16, for three quarters of `lengths` and for all: a width costs a compilation, padding work.

  limit: largest width; 0 for none.
  """
  sizes = {-(-int(np.quantile(lengths, q)) // 16) * 16 for q in (0.75, 1.0)}
  return tuple(sorted({min(size, limit or size) for size in sizes}))


def fit(length: int, widths: tuple[int, ...]) -> int:
  """The smallest of `widths` that holds `length`."""
  return next(width for width in widths if width >= length)


def pad_left(ids: list[list[int]], width: int) -> np.ndarray:
  """Prompts (B, width): padding in front, so that every completion starts at the same position."""
  return np.array([[PAD_ID] * (width - len(row)) + list(row) for row in ids], np.int32).reshape(
    len(ids), width
  )


def pad_right(ids: list[list[int]], width: int) -> np.ndarray:
  return np.array([list(row) + [PAD_ID] * (width - len(row)) for row in ids], np.int32).reshape(
    len(ids), width
  )
