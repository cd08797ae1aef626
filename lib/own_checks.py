"""How answers in a domain of the user's own are checked: as its rows or --check say.

math, coding, science and logic have checkers of their own. A row of any other domain may say in
metadata["check"]:

  exact   the truth, character for character, but for white space around it
  number  the truth's value: "1,234.0" for 1234
  choice  an option of metadata["choices"], by its letter or its text
  judge   no right answer: a judge or heuristics say how good it is, as without a check

--check=chess=exact,poetry=judge says so for all rows of a domain. It may also name a function,
`def right(answer, truth, metadata) -> bool`, as chess=my_check.py:right. A row may not: data from
elsewhere must not choose what runs here.
"""

from lib import contract, own_rewards
from lib.errors import InputError

WAYS = ("exact", "number", "choice", "judge")
# domain → way or FILE.py:FUNCTION, of this process's --check.
BY_DOMAIN: dict[str, str] = {}


def use(items: list[str]):
  """Takes the items of --check, ["chess=exact", "poetry=my_check.py:right"], for this process."""
  # A notebook calls a script's main again and again: an earlier call's checks must not stay.
  BY_DOMAIN.clear()
  for item in items:
    # "chess=exact" → chess, exact; a function's path may hold an "=" of its own.
    domain, _, way = item.partition("=")
    if domain in contract.VERIFIABLE_DOMAINS or not domain or not known(way):
      raise InputError(
        f"--check has {item!r}; expected DOMAIN={'|'.join(WAYS)}|FILE.py:FUNCTION, for a domain "
        f"other than {', '.join(contract.VERIFIABLE_DOMAINS)}"
      )
    if ":" in way:
      load(way)  # refused now if it is not there
    BY_DOMAIN[domain] = way


def recorded(items: list[str]) -> dict[str, list[str]]:
  """{"check": items}, {} without any: what makes one evaluation's verdicts another's."""
  # Sorted: the order of the flag's items changes no verdict.
  return {"check": sorted(items)} if items else {}


def known(way: str) -> bool:
  return way in WAYS or ".py:" in way


def way_of(domain: str, metadata: dict) -> str:
  """How a row's answer is checked; "" where it has no right answer.

  A verifiable domain's own name, else exact, number, choice or FILE.py:FUNCTION.
  """
  if domain in contract.VERIFIABLE_DOMAINS:
    return domain
  # The command line before the row: it is the user's latest word.
  if domain in BY_DOMAIN:
    way = BY_DOMAIN[domain]
  else:
    way = (metadata or {}).get("check") or "judge"
    if way not in WAYS:
      raise InputError(
        f"a row of domain {domain} has the check {way!r}; expected {', '.join(WAYS)}, or allow "
        f"a function of yours with --check={domain}=FILE.py:FUNCTION"
      )
  return "" if way == "judge" else way


def check_rows(rows: list[dict]):
  """Refuses, before anything long, rows whose check is unknown or has no truth to compare with."""
  for row in rows:
    way = way_of(row["domain"], row.get("metadata") or {})
    if way in WAYS and not row.get("answer"):
      raise InputError(f"row {row.get('id')} has the check {way!r} but no answer to check against")


def same_text(answer: str, truth: str) -> bool:
  """The check `exact`: the same characters, white space around them aside."""
  # Two empty texts are equal and say nothing, so they are not right.
  return answer.strip() == truth.strip() != ""


def ask(way: str, answer: str, truth: str, metadata: dict) -> bool:
  """What a function of the user's says about an answer."""
  return bool(load(way)(answer, truth, metadata))


def load(way: str):
  # The last ":", as a path may hold one.
  path, _, name = way.rpartition(":")
  return own_rewards.load_function(path, name)
