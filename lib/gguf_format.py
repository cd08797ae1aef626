"""GGUF through llama.cpp's own converter, convert_hf_to_gguf.py, where its repository lies.

No maintained converter is on PyPI, so the user names the repository. `find_converter` tries it
before anything is trained or written, `write_gguf` runs it on merged/.
"""

import os
import subprocess

from lib import jsonl, parity, tokenizer_files
from lib.errors import InputError

SCRIPT = "convert_hf_to_gguf.py"
# Ollama's and llama.cpp's habit: the number format is part of the name.
FILE = "model-bf16.gguf"


def find_converter(llama_cpp: str) -> str:
  """Path of the converter in llama.cpp's repository; its folder may be given, or itself."""
  if not llama_cpp:
    raise InputError(
      f"--formats=gguf needs --llama_cpp=DIR with llama.cpp's {SCRIPT}; get it with "
      "`git clone --depth=1 https://github.com/ggml-org/llama.cpp`"
    )
  # `llama.cpp` or `llama.cpp/convert_hf_to_gguf.py`.
  path = llama_cpp if os.path.basename(llama_cpp) == SCRIPT else os.path.join(llama_cpp, SCRIPT)
  if not os.path.isfile(path):
    raise InputError(f"--llama_cpp={llama_cpp} has no {SCRIPT}; give llama.cpp's repository")
  return os.path.abspath(path)


def check_converter(converter: str, python: str):
  """Refuses a Python that lacks what the converter imports, some of it only in the middle."""
  # The repository brings its own; only a lone script needs the package.
  imports = "import gguf" if not os.path.isdir(local_gguf(converter)) else ""
  for command in (
    # The first finds what is missing early, the second what the script itself demands.
    ["-c", f"import torch, transformers, sentencepiece; {imports}"],
    [converter, "--help"],
  ):
    done = run([python, *command])
    if done.returncode:
      raise InputError(
        f"{python} does not run {converter} ({parity.last_line(done.stderr)}); run `pip install "
        "-r requirements-parity.txt` there, or name another Python with --verify_python"
      )


def local_gguf(converter: str) -> str:
  """The repository's own copy of the package gguf, which the converter prefers."""
  return os.path.join(os.path.dirname(converter), "gguf-py", "gguf")


def write_gguf(folder: str, merged: str, converter: str, python: str, style: str, title: str):
  """folder/model-bf16.gguf of a Hugging Face folder, and the Modelfile that Ollama makes it of."""
  os.makedirs(folder)
  # bf16, as merged/ is: quantizing is llama-quantize's business, and loses digits.
  command = [python, converter, merged, f"--outfile={folder}/{FILE}", "--outtype=bf16"]
  # Else the name that programs show is the folder's, "Merged".
  command.append(f"--model-name={title}")
  done = run(command)
  # Status 0 alone is no proof that the file is there.
  if done.returncode or not os.path.isfile(f"{folder}/{FILE}"):
    raise InputError(
      f"{converter} could not convert the merged model: {parity.last_line(done.stderr)}"
    )
  write_modelfile(folder, f"./{FILE}", style)


def run(command: list[str]) -> subprocess.CompletedProcess:
  try:
    return subprocess.run(command, capture_output=True, text=True)
  except OSError as error:
    raise InputError(f"{command[0]} does not run ({error.strerror}); give a Python") from error


def write_modelfile(folder: str, source: str, style: str):
  """What `ollama create NAME` reads: the weights, the trained prompt, where a response ends."""
  template = tokenizer_files.ollama_template(style)
  # A response ends at the turn's end, as in training, and not only at <eos>.
  text = f'FROM {source}\nTEMPLATE """{template}"""\nPARAMETER stop "<end_of_turn>"\n'
  jsonl.write_text(os.path.join(folder, "Modelfile"), text)
