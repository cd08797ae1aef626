"""A folder whose tokenizer is only in transformers' form."""

import json
import random

import pytest
import sentencepiece

from lib import contract, tokenization, tokenizer_check, tokenizer_files, tokenizer_json
from lib.errors import InputError


def test_a_tokenizer_json_alone_gives_the_same_ids(tmp_path):
  """transformers 5 saves no tokenizer.model; a fine-tune that it saved is a --model too."""
  words = tokenization.train_tokenizer([contract.format_prompt("What is 3 + 4?")], 512)
  fast = tokenizer_files.fast_tokenizer(words)
  (tmp_path / "tokenizer.json").write_text(json.dumps(fast))
  tokenizer_check.check_tokenizer_files(str(tmp_path))
  found = tokenization.load_tokenizer(str(tmp_path))
  wanted = sentencepiece.SentencePieceProcessor(model_proto=words)
  letters = random.Random(0)
  texts = [contract.format_prompt("What is 3 + 4?"), contract.format_prompt("x", "dual_stream")]
  texts += ["".join(letters.choices("What is 3+ \n\té世\u2581<>", k=60)) for _ in range(100)]
  for text in texts:
    ids = wanted.EncodeAsIds(text)
    assert found.EncodeAsIds(text) == ids
    assert found.DecodeIds(ids) == wanted.DecodeIds(ids)
  for number in range(wanted.GetPieceSize()):
    assert found.IdToPiece(number) == wanted.IdToPiece(number)
    assert found.IsControl(number) == wanted.IsControl(number)
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(InputError, match="is not JSON"):
    tokenizer_check.check_tokenizer_files(str(tmp_path))
  # A token behind the vocabulary is one that the model would not get.
  fast["added_tokens"].append({"id": len(fast["model"]["vocab"]), "content": "<think>"})
  (tmp_path / "tokenizer.json").write_text(json.dumps(fast))
  with pytest.raises(InputError, match="added token '<think>'"):
    tokenizer_check.check_tokenizer_files(str(tmp_path))


def test_the_order_of_merges_decides():
  # "abc" is ab + c or a + bc: whichever merge comes first, in either spelling of the file.
  assert tokenizer_json.merge_scores([["b", "c"], "a b"]) == {"bc": 0.0, "ab": -1.0}
  assert tokenizer_json.merge_scores(["a bc", ["ab", "c"]]) == {"abc": 0.0}
