"""The unified schema: what every row must hold, whatever it was read from.

A row is {"domain", "prompt", "answer", "metadata": {"source", "id", …}, "reasoning"?}. `unified`
checks one and gives it the names that the rest of the data stage uses.
"""

import hashlib

from lib import contract, own_checks
from lib.errors import InputError

# What a row, or its metadata, may hold beside what it must, and of which type.
OPTIONAL = {
  "reasoning": str,
  "solution": str,
  "sections": dict,
  "facts": list,
  "test_cases": list,
  "test_setup_code": str,
  "entry_point": str,
}


def unified(row, place: str) -> dict:
  """A checked row of the unified schema. Raises InputError, naming the place in its file.

  Returns {"id", "domain", "question", "answer", "metadata", "reasoning", "sections", "place"}; the
  answer is text: True → "yes", 4 → "4".
  """
  if not isinstance(row, dict):
    raise InputError(
      f'{place}: expected a JSON object with "domain", "prompt", "answer", '
      f"found {type(row).__name__}"
    )
  domain = spelled(row.get("domain"))
  question = row.get("prompt")
  metadata = row.get("metadata") or {}
  answer = answer_text(row.get("answer"))
  if not isinstance(metadata, dict):
    raise InputError(f'{place}: "metadata" is {type(metadata).__name__}; expected an object')
  # Before the answer is looked at: whether one is needed depends on the domain.
  check_domain(domain, metadata, place)
  # A creative prompt needs no reference to be graded by a judge.
  if answer is None and not has_right_answers(domain, metadata):
    answer = ""  # only SFT would read it
  if not isinstance(question, str) or not question.strip():
    raise InputError(f'{place}: "prompt" is {question!r:.60}; expected the question\'s text')
  # A creative row may have "", never a list or an object.
  empty = not isinstance(answer, str) or not answer.strip()
  if not isinstance(answer, str) or empty and has_right_answers(domain, metadata):
    raise InputError(
      f'{place}: "answer" is missing or empty ({answer!r:.60}); a {domain} row needs a reference '
      "answer as text"
    )
  for name, kind in OPTIONAL.items():
    # Here, with the row's place, and not hours later as a TypeError in a reward.
    found = row.get(name) or metadata.get(name)
    if found and not isinstance(found, kind):
      raise InputError(
        f'{place}: "{name}" is {found!r:.60}; expected a {kind.__name__}, or nothing'
      )
  return {
    "id": row_id(row, metadata, domain, question),
    "domain": domain,
    "question": question.strip(),
    "answer": answer.strip(),
    "metadata": metadata,
    # Two common places for the worked solution; None where there is none.
    "reasoning": row.get("reasoning") or metadata.get("solution"),
    "sections": row.get("sections"),
    "place": place,
  }


def spelled(domain):
  """One of the seven as it is spelled here: "Creative Writing" → "creative_writing"."""
  near = str(domain).strip().lower().replace(" ", "_")
  return near if near in contract.DOMAINS else domain


def check_domain(domain, metadata: dict, place: str):
  """One of the seven, or a domain of the user's own that says how its answers are checked."""
  if domain in contract.DOMAINS:
    return
  if isinstance(domain, str) and domain in own_checks.BY_DOMAIN:
    return
  check = metadata.get("check")
  if not isinstance(domain, str) or not domain.strip() or check is None:
    raise InputError(
      f"{place}: unknown domain {domain!r}; valid: {', '.join(contract.DOMAINS)}, or another name "
      f"with its check as --check=NAME={'|'.join(own_checks.WAYS)}"
    )
  if check not in own_checks.WAYS:
    raise InputError(
      f'{place}: metadata "check" is {check!r:.60}; expected one of {", ".join(own_checks.WAYS)}'
    )


def has_right_answers(domain: str, metadata: dict) -> bool:
  # --check may give even a creative domain a right answer.
  if domain in contract.CREATIVE_DOMAINS and domain not in own_checks.BY_DOMAIN:
    return False
  return own_checks.way_of(domain, metadata) != ""


def answer_text(answer):
  """Numbers and booleans as text; 4.0, as a column with empty cells makes of 4, is "4"."""
  # Before the numbers: to Python, True is an int too, and would become "True".
  if isinstance(answer, bool):
    return "yes" if answer else "no"
  # Above 2^53 a float skips whole numbers, so its digits would be invented.
  if isinstance(answer, float) and answer.is_integer() and abs(answer) < 2**53:
    return str(int(answer))
  if isinstance(answer, int | float):
    return str(answer)
  return answer


def row_id(row: dict, metadata: dict, domain: str, question: str) -> str:
  """The source's name and the row's own id, or a hash of its question."""
  source = str(metadata.get("source") or domain)
  own = row.get("id", metadata.get("id"))
  if own is None:
    # Not the row's number: that would change where a row is added before it.
    own = hashlib.blake2b(question.encode(), digest_size=8).hexdigest()
  # "builtin-0-00007" names its source already.
  return str(own) if str(own).startswith(source) else f"{source}-{own}"
