"""TODO-DOC public_sources."""

import ast
import bisect
import collections
import contextlib
import pathlib
import re

from lib import readers
from lib.errors import InputError


# ------------------------------------------------------------------------------------------------------------ public sets
# One function a set: a record as published -> {"prompt", "answer", ...}, or the reason why it is no use.
def from_gsm8k(record):
  solution, mark, final = record["answer"].rpartition("####")
  if not mark:
    return "no final answer"
  return {
    "prompt": record["question"],
    "answer": final.strip().replace(",", ""),
    "reasoning": solution.strip(),
  }


def from_mbpp(record):
  """The function's name stands in the tests only. Sanitized records carry imports for the tests, full ones set-up code."""
  setup = "\n".join(
    [*(record.get("test_imports") or []), record.get("test_setup_code") or ""]
  ).strip()
  task = int(record["task_id"])
  part = ("prompt", "test", "validation", "train")[
    bisect.bisect_left((10, 510, 600), task)
  ]  # the paper's split
  return {
    "prompt": (record.get("prompt") or record["text"]).strip(),
    "answer": record["code"].replace("\r\n", "\n"),
    "metadata": {
      "id": task,
      "test_cases": list(record["test_list"]),
      "test_setup_code": setup.replace("\r\n", "\n"),
      "challenge_tests": list(record.get("challenge_test_list") or []),
      "split": part,
    },
  }


def from_sciq(record):
  return {
    "prompt": record["question"],
    "answer": record.get("correct_answer") or record["answer"],
    "reasoning": (record.get("support") or "").strip() or None,
  }


def from_arc(record):
  choices = record["choices"]
  if isinstance(choices, str):  # a CSV holds Python's text of it
    choices = ast.literal_eval(
      re.sub(r"\barray\((\[.*?\]), dtype=\w+\)", r"\1", choices, flags=re.S)
    )
  texts = list(choices["text"] if isinstance(choices, dict) else choices)
  if len({text.strip().casefold() for text in texts}) < len(texts):
    return "an option twice"
  gold = (
    int(record["gold"]) if "gold" in record else list(choices["label"]).index(record["answerKey"])
  )
  question = (record.get("question") or record["query"]).removeprefix("Question: ")
  listed = "".join(f"\n{chr(65 + i)}) {text}" for i, text in enumerate(texts))
  return {
    "prompt": question + listed,
    "answer": chr(65 + gold),
    "metadata": {"choices": texts, "answer_text": texts[gold]},
  }


def from_strategyqa(record):
  facts, said = record.get("facts") or [], str(record["answer"]).strip().lower()
  return {
    "prompt": record["question"],
    "answer": {"true": "yes", "yes": "yes", "false": "no", "no": "no"}.get(said),
    "reasoning": " ".join(fact.strip() for fact in ([facts] if isinstance(facts, str) else facts))
    or None,
    "metadata": {"id": record.get("qid")},
  }


def untokenise(text: str) -> str:
  """Text that was split for a language model, as people write it: `` do n't '' -> "don't"."""
  text = re.sub(r"\s*<newline>\s*", "\n", re.sub("``|''", '"', text))
  text = re.sub(r" (n't|'(?:s|m|d|ll|re|ve))\b", r"\1", text, flags=re.I)
  text = re.sub(r"[ \t]+([.,!?;:%)\]])", r"\1", re.sub(r"([(\[])[ \t]+", r"\1", text))
  text = re.sub(r'"[ \t]*([^"\n]*?)[ \t]*"', r'"\1"', text)
  text = re.sub(
    r"\b(got(?= ta\b)|(?:gon|wan)(?= na\b)|can(?= not\b)|(?:gim|lem)(?= me\b)) ", r"\1", text
  )
  return re.sub(r"[ \t]*\n[ \t\n]*", "\n", re.sub(r"[ \t]+", " ", text)).strip()


def from_writingprompts(record):
  tag = re.match(r"\s*\[ ?(\w\w) ?\]", record["prompt"])
  if tag and tag[1].upper() not in ("WP", "SP", "EU", "CW", "TT", "RF", "PI", "FF", "MP", "IP"):
    return "no story prompt"
  prompt = untokenise(re.sub(r"^(?:\s*\[ ?\w\w ?\])+|\[ ?[A-Z]{2} ?\]", "", record["prompt"]))
  story = untokenise(record["story"])
  if len(prompt) < 10 or len(story.split()) < 30:
    return "too short"
  return {"prompt": f"Write a short story based on this prompt: {prompt}", "answer": story}


KINDS = {
  "brainstorming": "creative_ideation",
  "Brainstorm": "creative_ideation",
  "creative_writing": "creative_writing",
  "Generation": "creative_writing",
  "summarization": "summarization",
  "Summarize": "summarization",
}
IDEAS = re.compile(
  r"\b(?:ideas?|suggest\w*|brainstorm|list|name (?:some|a few|\w+ \w+s)|give (?:me )?(?:some|a list|\w+ ways)|"
  r"ways to|tips|come up with|what are some|recommend\w*)\b",
  re.I,
)
WRITING = re.compile(
  r"^(?:please )?(?:write|compose|tell|create|imagine|pretend)\b.*\b(?:story|poem|haiku|limerick|song|lyrics|"
  r"scene|letter|speech|dialogue|paragraph|essay|email|review|blog|script|tale)\b",
  re.I | re.S,
)
ABSENT = re.compile(
  r"\b(?:passage|paragraph|text|article|reference)\b|^(?:extract|classify|categorize|identify|order)\b",
  re.I,
)
APOSTROPHE = re.compile(
  r"\b(\w+n(?= t\b)|I(?= (?:m|d|ll|ve)\b)|(?:[Ww]e|[Yy]ou|[Tt]hey)(?= (?:re|ll|ve|d)\b)|"
  r"[A-Za-z]\w+(?= s\b)) "
)


def from_dolly(record):
  """Ideas, stories and summaries. One published copy has neither categories nor apostrophes nor the texts that some instructions
  speak of: there the instruction's words decide."""
  question, answer, context = (
    record["instruction"],
    record.get("response") or record.get("text") or "",
    record.get("context"),
  )
  if "category" in record:
    domain = KINDS.get(record["category"])
  else:
    question, answer = APOSTROPHE.sub(r"\1'", question), APOSTROPHE.sub(r"\1'", answer)
    domain = "creative_writing" if WRITING.search(question) else None
    if domain is None and IDEAS.search(question) and not ABSENT.search(question):
      domain = "creative_ideation"
  if domain is None:
    return "another kind of task"
  if not answer or len(answer) > 300 and not re.search(r"[.!?\"')\]:]\s*$", answer):
    return "cut off"
  return {"domain": domain, "prompt": f"{question}\n\n{context or ''}", "answer": answer}


def from_no_robots(record):
  domain, turns = (
    KINDS.get(record["category"]),
    [turn for turn in record["messages"] if turn["role"] != "system"],
  )
  if domain is None or len(turns) != 2:
    return "another kind of task"
  question, answer = (turn["content"] for turn in turns)
  return {
    "domain": domain,
    "prompt": question,
    "answer": answer,
    "metadata": {"id": record.get("prompt_id")},
  }


BYLINE = re.compile(
  r"^(?:By \. [^.]{1,60} \. (?:and (?:\. )?[^.]{1,60} \. )?)?(?:Last updated at [^.]{1,50} \. )?"
  r"(?:PUBLISHED: \. [^.]{1,50} \. )?(?:\| \. )?(?:UPDATED: \. [^.]{1,50} \. )?"
  r"(?:[A-Z][^()]{0,60}\(CNN\)\s*-- |\(CNN\)\s*(?:-- )?)?"
)


def from_cnn(record):
  return {
    "prompt": f"Summarize the following article:\n\n{untokenise(BYLINE.sub('', record['article']))}",
    "answer": re.sub(r" \.(?=\s|$)", ".", record["highlights"]),
  }


def from_xsum(record):
  article, summary = (
    record.get("document") or record["article"],
    record.get("summary") or record.get("summary_gt"),
  )
  # One published copy puts other articles before the row's own, an instruction after it, and reads UTF-8 as Windows-1252 ("Â£5").
  article = (
    re.split(r"###\s*Article: ", article)[-1]
    .partition("\n\nSummarize the above article")[0]
    .strip()
  )
  if not summary or len(article.split()) < 30:
    return "too short"
  with contextlib.suppress(UnicodeError):
    article = article.encode("cp1252").decode()
  return {
    "prompt": f"Summarize the following article in one sentence:\n\n{article}",
    "answer": summary,
  }


SOURCES = {  # name -> domain, function, what a file's path holds (lower-case letters and digits), set and files on Hugging Face,
  #         and the set on Kaggle for where that cannot be reached
  "gsm8k": (
    "math",
    from_gsm8k,
    "gsm8k|gradeschoolmath",
    "openai/gsm8k",
    "main/*.parquet",
    "thedevastator/grade-school-math-8k-q-a",
  ),
  "mbpp": ("coding", from_mbpp, "mbpp", "google-research-datasets/mbpp", "*/*.parquet", ""),
  "sciq": (
    "science",
    from_sciq,
    "sciq",
    "allenai/sciq",
    "data/*.parquet",
    "thedevastator/sciq-a-dataset-for-science-question-answering",
  ),
  "arc_easy": ("science", from_arc, "arceasy", "allenai/ai2_arc", "ARC-Easy/*.parquet", ""),
  "arc_challenge": (
    "science",
    from_arc,
    "arcchallenge",
    "allenai/ai2_arc",
    "ARC-Challenge/*.parquet",
    "",
  ),
  "strategyqa": (
    "logic",
    from_strategyqa,
    "strategyqa",
    "ChilleD/StrategyQA",
    "data/*.parquet",
    "",
  ),
  "writingprompts": (
    "creative_writing",
    from_writingprompts,
    "writingprompts",
    "euclaise/writingprompts",
    "data/*.parquet",
    "",
  ),
  "dolly": (
    "creative_ideation",
    from_dolly,
    "dolly",
    "databricks/databricks-dolly-15k",
    "*.jsonl",
    "",
  ),
  "no_robots": (
    "creative_ideation",
    from_no_robots,
    "norobots",
    "HuggingFaceH4/no_robots",
    "data/*.parquet",
    "",
  ),
  "cnn_dailymail": (
    "summarization",
    from_cnn,
    "cnndailymail",
    "abisee/cnn_dailymail",
    "3.0.0/*.parquet",
    "gowrishankarp/newspaper-text-summarization-cnn-dailymail",
  ),
  "xsum": ("summarization", from_xsum, "xsum", "EdinburghNLP/xsum", "data/*.parquet", ""),
}


def find_files(root, wanted: str) -> list[pathlib.Path]:
  paths = {
    str(path.relative_to(root)): path
    for path in pathlib.Path(root).rglob("*")
    if path.suffix in readers.READABLE
  }
  return [
    paths[p]
    for p in sorted(paths)
    if paths[p].is_file()
    and re.search(wanted, re.sub(r"[\W_]", "", p.lower()))
    and not re.search(r"socratic|distract|\.hidden|readme|license|dataset_info", p, re.I)
  ]


def locate(name: str, raw_dir: str) -> list[pathlib.Path]:
  """The set's files under --raw_dir, else under /kaggle/input, else downloaded."""
  if raw_dir and not pathlib.Path(raw_dir).is_dir():
    raise InputError(
      f"--raw_dir={raw_dir} is not a folder; expected one with public sets in it, or nothing"
    )
  (*_, wanted, hub, files, kaggle), failures = SOURCES[name], []
  if found := raw_dir and find_files(raw_dir, wanted) or find_files("/kaggle/input", wanted):
    return found
  for handle in filter(None, (hub, kaggle)):
    readers.say(
      f"{name}: not under {raw_dir or '--raw_dir'} nor /kaggle/input; downloading {handle}"
    )
    try:  # both hubs show their progress
      if handle == hub:
        import huggingface_hub

        folder = huggingface_hub.snapshot_download(
          handle, repo_type="dataset", allow_patterns=files
        )
      else:
        import kagglehub

        folder = kagglehub.dataset_download(handle)
      if found := find_files(folder, ""):
        return found
      failures.append(f"{handle}: no readable file")
    except (
      Exception
    ) as error:  # the hubs raise a dozen unrelated kinds for "offline", "no such set" and "log in"
      failures.append(f"{handle}: {type(error).__name__}")
  folder = raw_dir or "FOLDER"
  raise InputError(
    f"{name} could not be downloaded ({', '.join(failures)}); put its files (JSONL, JSON, CSV, parquet or zip) "
    f"into {folder}/{name} and pass --raw_dir={folder}, or attach the set on Kaggle"
  )


def read_source(name: str, raw_dir: str, limit: int, digests: dict) -> list[dict]:
  """The set's rows in the unified schema, at most `limit`; prints what was left out and why."""
  (domain, convert, _, hub, *_), rows, left_out = SOURCES[name], {}, collections.Counter()
  both = lambda record: (record, convert(record))
  for path in sorted(
    locate(name, raw_dir), key=lambda path: "train" not in path.name.lower()
  ):  # else test rows use up `limit`
    found = readers.read_file(path, both, f"a {name} record as {hub} publishes it", digests, name)
    for number, (place, (record, row)) in enumerate(found):
      if len(rows) >= limit:
        break
      if isinstance(row, str) or not all(
        str(row[key] or "").strip() for key in ("prompt", "answer")
      ):
        left_out[row if isinstance(row, str) else "no question or answer"] += 1
        continue
      part = re.search("train|test|dev|val", f"{place.rpartition('/')[2]} {path.name}".lower())
      metadata = {"source": name, "split": part[0] if part else "unknown"} | row.get("metadata", {})
      if metadata.get("id") is None:
        metadata["id"] = (
          record["id"] if isinstance(record.get("id"), str) else f"{path.stem}-{number}"
        )
      # MBPP: the sanitized record, read later, replaces the full one.
      rows[metadata["id"]] = readers.unified({"domain": domain, **row, "metadata": metadata}, place)
  readers.say(
    f"{name}: {len(rows):,} rows"
    + "".join(f"; {n:,} left out: {reason}" for reason, n in sorted(left_out.items()))
  )
  return list(rows.values())
