"""The text that SFT teaches for a row: a worked solution in the format, with calculations checked.

`make_target` is what prepare_data.py calls. For mathematics it reads the equations of a solution
(`equations`, `calculate`) and keeps only solutions whose equations all hold; in the dual-stream
style it writes the four sections from them (`monologue`).
"""

import ast
import itertools
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from lib import contract, overlap

# GSM8K's calculator marks: "48/2 = <<48/2=24>>24".
CALCULATOR_MARK = re.compile(r"<<([^<>]*)>>")
# The calculation that ends what stands left of "=", as in "She pays 3 x $5".
CALCULATION_END = re.compile(r"[-−]?\s*[$€£(.\d][\d\s.,$€£%()+*/xX×÷−–-]*$")
# The value or calculation that begins what stands right of it.
CALCULATION_START = re.compile(
  r"""\s*[-−]?[$€£(\s]*[.\d][\d.,]*\)*%?                  # a number
      (?:\s*[-+*/xX×÷−–]\s*[$€£(]*[.\d][\d.,]*\)*%?)*     # operator, number, again and again
  """,
  re.VERBOSE,
)
# A unit after a number: up to four words before an operator or the end, "5 apples per day * 3".
UNIT_AFTER_NUMBER = re.compile(
  r"(?<=[\d)%])\s*[A-Za-z][A-Za-z'’]*(?:[ /-][A-Za-z'’]+){0,3}\s*(?=[-+*/×÷]|\s[xX]\s|$)"
)
# The comma in "3 + 4 = 7, 7 * 2 = 14" ends a calculation; that in "1,200" groups thousands.
COMMA_BETWEEN = re.compile(r",(?!\d{3}(?!\d))")
ENDS_IN_OPERATOR = ("+", "-", "*", "/", "×", "÷")


class Operator(NamedTuple):
  apply: Callable
  inverse: str  # what undoes it
  wording: str  # of (left, right), for the plan


OPERATORS = {
  ast.Add: Operator(operator.add, "-", "add {0} and {1}"),
  ast.Sub: Operator(operator.sub, "+", "subtract {1} from {0}"),
  ast.Mult: Operator(operator.mul, "/", "multiply {0} by {1}"),
  ast.Div: Operator(operator.truediv, "*", "divide {0} by {1}"),
}


class Calculation(NamedTuple):
  tree: ast.expr
  value: Fraction


# Reading calculations.


def calculate(text: str) -> Calculation | None:
  """The exact value of +, -, *, / over numbers, brackets, currency and percent signs.

  "$1,200 × 15%" → 180. None for anything else.
  """
  # "1,200" → "1200", then signs from print: × ÷ − – become Python's.
  text = re.sub(r"[$€£,]", "", text).translate(str.maketrans("×÷−–", "*/--"))
  # "3 x 5" is a product; the x of "x+2" stays a letter and is refused below.
  text = re.sub(r"(?<=[\d)\s.])[xX](?=[\s\d(.])", "*", text)
  # "15%" → "(15/100)".
  text = re.sub(r"(\d*\.?\d+)\s*%", r"(\1/100)", text).strip()
  if not re.fullmatch(r"[\d\s.()+*/-]*", text):  # no letters, so no exponents
    return None
  try:
    # Python's own parser, for precedence and brackets; eval is never called.
    tree = ast.parse(text, mode="eval").body
    return Calculation(tree, value_of(tree, text))
  except (SyntaxError, ValueError, ArithmeticError, RecursionError, TypeError, LookupError):
    return None


def value_of(node: ast.expr, text: str) -> Fraction:
  # Fractions throughout: 0.1 + 0.2 equals 0.3, as in floats it does not.
  if isinstance(node, ast.BinOp):
    return OPERATORS[type(node.op)].apply(value_of(node.left, text), value_of(node.right, text))
  if isinstance(node, ast.UnaryOp):
    return -value_of(node.operand, text)
  return Fraction(ast.get_source_segment(text, node))  # "0.1" is a tenth, not the nearest float


def decimal(value: Fraction) -> str | None:
  """A terminating decimal of at most six digits, written exactly; None for others."""
  # 1/8 → "0.125", 1/3 → None: SFT must not teach 0.333 as its value.
  for digits in range(7):
    if (value * 10**digits).denominator == 1:
      return f"{float(value):.{digits}f}" if abs(value) < 2**52 else None
  return None


def equations(text: str) -> list[Calculation] | None:
  """The left sides of all equations in a solution.

  None where one is wrong, or is algebra or prose that cannot be checked.
  """
  found = []
  for line in COMMA_BETWEEN.sub(";", text).split("\n"):
    # "2*3 = 6 = 12/2" holds two equations, each "=" between its neighbours.
    for before, after in itertools.pairwise(line.split("=")):
      left = checked_left_side(before, after)
      if left is None:
        return None
      found.append(left)
  return found


def checked_left_side(before: str, after: str) -> Calculation | None:
  """What is calculated left of an "=", where it equals what begins right of it."""
  before = UNIT_AFTER_NUMBER.sub(" ", before.rstrip())
  left = CALCULATION_END.search(before)
  right = CALCULATION_START.match(after)
  if not left or not right:
    return None
  if before[: left.start()].rstrip().endswith(ENDS_IN_OPERATOR):
    return None  # "x + 3 = 5": what was found is only the end of an expression
  left_value = calculate(left[0])
  right_value = calculate(right[0].strip().rstrip(".,"))
  if left_value is None or right_value is None:
    return None
  scales = (1,)
  if "%" in before + after:
    scales = (1, 100, Fraction(1, 100))  # "20/80 = 25%" and "20/80 * 100 = 25%"
  # Exactly equal: a rounded "10/3 = 3.33" costs the target, not the truth.
  if any(left_value.value * scale == right_value.value for scale in scales):
    return left_value
  return None


# Writing targets.


def monologue(solution: str, answer: str) -> dict | None:
  """The four dual-stream sections of a worked solution, by heading.

  Plan names each step's operation, Evidence holds the calculations with values computed here, and
  Sanity_check undoes the last. None where its calculations do not end in the answer.
  """
  text = CALCULATOR_MARK.sub("", solution)
  steps = read_steps(solution, text)
  final = calculate(answer)
  if not steps or not final or steps[-1].value != final.value:
    return None
  # Computed here and not copied: Evidence is right even where the solution's text rounds.
  values = [decimal(step.value) for step in steps]
  check = undo(steps[-1])
  if check is None or None in values:
    return None

  plan = []
  evidence = []
  known = {}  # a value → what the plan calls it from then on
  for number, (step, value) in enumerate(zip(steps, values, strict=True), 1):
    sides = [ast.unparse(step.tree.left), ast.unparse(step.tree.right)]
    # "48 + 24" after 48/2 = 24 → "add 48 and the result of step 1": steps hang together.
    named = [known.get(side, side) for side in sides]
    plan.append(f"{number}) {OPERATORS[type(step.tree.op)].wording.format(*named)}")
    evidence.append(f"{ast.unparse(step.tree)} = {value}")
    known[value] = f"the result of step {number}"
  return {
    "Plan": "; ".join(plan),
    "Reasoning": text.strip(),
    "Evidence": "; ".join(evidence),
    "Sanity_check": check,
  }


def read_steps(solution: str, text: str) -> list[Calculation] | None:
  """The operations of a solution, from its calculator marks, else from its equations."""
  marks = CALCULATOR_MARK.findall(solution)
  if marks:
    # Left of the last "=": "48/2=24" → 48/2.
    found = [calculate(mark.rpartition("=")[0]) for mark in marks]
  else:
    found = equations(text)
  if not found or None in found:
    return None
  # "5 = 5" states a value; without an operation there is no step to plan.
  return [step for step in found if isinstance(step.tree, ast.BinOp)]


def undo(step: Calculation) -> str | None:
  """The last step backwards: of 48/2 = 24, "24 * 2 = 48, so undoing …".

  None where a number has no short decimal, or where undoing would divide by 0.
  """
  left = calculate(ast.unparse(step.tree.left))
  right = calculate(ast.unparse(step.tree.right))
  start, by, end = decimal(left.value), decimal(right.value), decimal(step.value)
  if None in (start, by, end):
    return None
  inverse = OPERATORS[type(step.tree.op)].inverse
  if inverse == "/" and not right.value:
    return None
  # "7 - -2" reads badly: "7 - (-2)".
  if by.startswith("-"):
    by = f"({by})"
  return f"{end} {inverse} {by} = {start}, so undoing the last step leads back to {start}."


def make_target(row: dict, style: str) -> str | None:
  """The SFT target, where a solution is known, its equations are right, and the format can hold it.

  None for rows of the built-in pool that are kept for GRPO: SFT must not see them.
  """
  if row["metadata"].get("use") == "grpo":
    return None
  solution, sections = worked_solution(row, style)
  if style == "dual_stream":
    solution = ""
    if sections:
      lines = [f"{name}: {sections.get(name, '')}\n" for name in contract.SECTIONS]
      solution = "\n" + "".join(lines)
  if not solution:
    return None
  target = contract.format_response(solution, row["answer"])
  # A solution that holds a tag of its own would teach a form that earns nothing.
  return target if contract.parse_response(target, style) else None


def worked_solution(row: dict, style: str) -> tuple[str | None, dict | None]:
  """(the reasoning to teach, its dual-stream sections), either None where there is none."""
  solution = row["reasoning"]
  sections = row["sections"]
  metadata = row["metadata"]
  # The generator writes its own sections; published solutions are checked first.
  if row["domain"] == "math" and solution and not overlap.is_builtin(row):
    text = CALCULATOR_MARK.sub("", solution)
    if equations(text) is None:
      return None, None
    if style == "dual_stream":
      sections = monologue(solution, row["answer"])
    return text, sections
  # StrategyQA's facts lead to the answer; they are all the reasoning that is known.
  if row["domain"] == "logic" and not solution:
    return " ".join(map(str, metadata.get("facts") or [])), sections
  # MBPP has no reasoning: at least the name and the test are taken up before the code.
  if row["domain"] == "coding" and not solution and metadata.get("shown_test"):
    asked = f"The function to write is `{metadata['entry_point']}`."
    return f"{asked} It must satisfy: {metadata['shown_test']}", sections
  return solution, sections
