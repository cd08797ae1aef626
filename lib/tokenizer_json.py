"""A sentencepiece model out of tokenizer.json, for folders that have nothing else.

transformers 5 saves no tokenizer.model. Of a Gemma tokenizer the JSON says the same: pieces, their
order and which merge comes first. `sentencepiece_model` writes it down; tokenizer_files.py does the
opposite.
"""

import re

from sentencepiece import sentencepiece_model_pb2 as pb

from lib.errors import InputError

SPACE = "\u2581"  # how sentencepiece spells one
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
KINDS = pb.ModelProto.SentencePiece
CONTROL_IDS = (0, 1, 2)  # Gemma's <pad>, <eos> and <bos>: never found in a text


def sentencepiece_model(fast: dict, path: str) -> bytes:
  """The model of tokenizer.json's content; InputError where it is none of Gemma's kind.

  Tokens behind the vocabulary are left out: `tokenizer_check` says what to do about them.
  """
  fast = fast if isinstance(fast, dict) else {}
  model = fast.get("model") or {}
  vocabulary = model.get("vocab")
  gemmas = model.get("type") == "BPE" and model.get("byte_fallback")
  spaces = (fast.get("normalizer") or {}).get("content") == SPACE
  if not gemmas or not spaces or sorted(vocabulary.values()) != list(range(len(vocabulary))):
    raise InputError(
      f"{path} is no tokenizer of Gemma's kind (BPE with byte fallback, spaces as U+2581); "
      "copy tokenizer.model from the base model it was made of"
    )
  added = {token["content"] for token in fast.get("added_tokens") or []}
  scores = merge_scores(model["merges"])
  proto = pb.ModelProto()
  for text, number in sorted(vocabulary.items(), key=lambda item: item[1]):
    piece = proto.pieces.add(piece=text, score=scores.get(text, -float(len(scores))))
    if text == model.get("unk_token"):
      piece.type = KINDS.UNKNOWN
    elif number in CONTROL_IDS:
      piece.type = KINDS.CONTROL
    elif BYTE.fullmatch(text):
      piece.type = KINDS.BYTE
    elif text in added or text.replace(SPACE, " ") in added:
      piece.type = KINDS.USER_DEFINED
  proto.trainer_spec.model_type = pb.TrainerSpec.BPE
  proto.trainer_spec.byte_fallback = True
  ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": vocabulary[model["unk_token"]]}
  for name, number in ids.items():
    setattr(proto.trainer_spec, name, number)
  # Text goes through as it is, but for its spaces.
  proto.normalizer_spec.name = "identity"
  proto.normalizer_spec.add_dummy_prefix = False
  proto.normalizer_spec.remove_extra_whitespaces = False
  proto.normalizer_spec.escape_whitespaces = True
  return proto.SerializeToString()


def merge_scores(merges: list) -> dict[str, float]:
  """{piece: score}: the earlier its first merge, the higher, which is all that counts."""
  scores = {}
  for rank, merge in enumerate(merges):
    # ["th", "e"], in older files "th e"
    left, right = merge if isinstance(merge, list) else merge.split(" ")
    scores.setdefault(left + right, -float(rank))
  return scores
