"""TODO-DOC tokenizer_files."""

import json
import os
import pathlib
import shutil

from lib import contract, jsonl, tokenization


# --------------------------------------------------------------------------------------- the tokenizer and the chat template
def chat_template(style: str) -> str:
  """Jinja that renders one user message exactly as `contract.format_prompt` did in training, with <bos> in front."""
  before, after = contract.CHAT_TEMPLATE.format(
    system=contract.SYSTEM_PROMPTS[style], question="\0"
  ).split("\0")
  end, start = after.split(contract.TURN_START)  # "<end_of_turn>\n", "model\n"
  question = (
    "message['content']"
    + "".join(f" | replace('{t}', ' ')" for t in (contract.TURN_START, contract.TURN_END))
    + " | trim"
  )
  shown = {"before": before, "end": end, "start": contract.TURN_START + start}
  shown = {name: json.dumps(text) for name, text in shown.items()}
  return (
    "{{ bos_token }}{% for message in messages %}{% if message['content'] is not string %}"
    "{{ raise_exception('the content of a message must be text') }}{% endif %}"
    f"{{% if message['role'] == 'user' %}}{{{{ {shown['before']} + ({question}) + {shown['end']} }}}}"
    f"{{% elif message['role'] == 'assistant' %}}{{{{ {shown['start']} + message['content'] + {shown['end']} }}}}"
    "{% else %}{{ raise_exception('trained with one fixed system text: put instructions into the user message') }}{% endif %}"
    f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {shown['start']} }}}}{{% endif %}}"
  )


def write_tokenizer(folder: str, policy, style: str):
  """tokenizer.model and the files that make transformers' AutoTokenizer give the same ids."""
  proto, kept = policy.tokenizer.serialized_model_proto(), {}
  if policy.name != "tiny":
    for name in ("tokenizer.json", "special_tokens_map.json", "added_tokens.json"):
      if os.path.isfile(f"{policy.name}/{name}"):
        shutil.copy(f"{policy.name}/{name}", folder)
    if os.path.isfile(f"{policy.name}/tokenizer_config.json"):
      kept = json.loads(
        pathlib.Path(policy.name, "tokenizer_config.json").read_text(encoding="utf-8")
      )
  pathlib.Path(folder, "tokenizer.model").write_bytes(proto)
  if not os.path.isfile(f"{folder}/tokenizer.json"):
    jsonl.write_text(
      f"{folder}/tokenizer.json", json.dumps(fast_tokenizer(proto), ensure_ascii=False)
    )
  special = {
    f"{role}_token": policy.tokenizer.IdToPiece(i)
    for i, role in enumerate(("pad", "eos", "bos", "unk"))
  }
  kept = {
    "tokenizer_class": "GemmaTokenizer",
    "add_bos_token": True,
    "clean_up_tokenization_spaces": False,
    **special,
    **kept,
    "chat_template": chat_template(style),
  }
  jsonl.write_text(
    f"{folder}/tokenizer_config.json", json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
  )


def fast_tokenizer(proto: bytes) -> dict:
  """tokenizer.json of a sentencepiece BPE model. transformers can convert one itself, but only where protobuf is installed.

  sentencepiece joins the neighbours whose union has the best score: a merge list of every split of every piece, by score.
  User-defined symbols match first, longest first, on text whose spaces are already "▁".
  """
  from sentencepiece import sentencepiece_model_pb2 as pb

  pieces, kind = pb.ModelProto.FromString(proto).pieces, pb.ModelProto.SentencePiece
  vocab = {piece.piece: i for i, piece in enumerate(pieces)}
  scores = {
    piece.piece: piece.score for piece in pieces if piece.type in (kind.NORMAL, kind.USER_DEFINED)
  }
  splits = [
    (-score, vocab[text], vocab[text[:k]], text[:k], text[k:])
    for text, score in scores.items()
    for k in range(1, len(text))
    if text[:k] in scores and text[k:] in scores
  ]
  added = [
    {
      "id": i,
      "content": piece.piece,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": piece.type == kind.USER_DEFINED,
      "special": piece.type != kind.USER_DEFINED
      or piece.piece in (contract.TURN_START, contract.TURN_END),
    }
    for i, piece in enumerate(pieces)
    if piece.type in (kind.CONTROL, kind.UNKNOWN, kind.USER_DEFINED)
  ]
  bos, unknown = (
    pieces[tokenization.BOS_ID].piece,
    next(piece.piece for piece in pieces if piece.type == kind.UNKNOWN),
  )
  first, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": added,
    "pre_tokenizer": None,
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    "post_processor": {
      "type": "TemplateProcessing",
      "single": [first, text],
      "pair": [first, text, {"Sequence": {"id": "B", "type_id": 0}}],
      "special_tokens": {bos: {"id": bos, "ids": [tokenization.BOS_ID], "tokens": [bos]}},
    },
    "decoder": {
      "type": "Sequence",
      "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
      ],
    },
    "model": {
      "type": "BPE",
      "dropout": None,
      "unk_token": unknown,
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": True,
      "byte_fallback": True,
      "ignore_merges": False,
      "vocab": vocab,
      "merges": [[left, right] for *_, left, right in sorted(splits)],
    },
  }
