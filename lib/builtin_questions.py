"""The questions of the built-in pool: a function for each kind, grouped by domain.

Each takes a random.Random and returns a Problem. The order of the random draws in it is part of the
pool: the default run's figures were measured with it.
"""

import itertools
import operator
import random
from collections.abc import Callable
from typing import NamedTuple


# What a kind's function returns; lib/builtin_pool.py makes a row of it.
class Problem(NamedTuple):
  asks: tuple[str, ...]  # wordings of the question, one of which is drawn
  worked: str
  terse: str
  answer: object
  # Mathematics: an equation that gives the answer and one that checks it, for the dual-stream
  # monologue's Evidence and Sanity_check.
  equations: tuple[str, str] = ()
  tests: dict = {}


# Words.

# All in lower case and few: the tiny model's tokenizer has one token for each word.
NAMES = ("tom", "ana", "ben", "mia", "leo", "eva", "sam", "zoe")
COUNTED = ("apples", "pens", "books", "coins", "cups", "eggs")
THINGS = (
  "moon",
  "river",
  "lamp",
  "road",
  "wind",
  "stone",
  "leaf",
  "snow",
  "boat",
  "drum",
  "bell",
  "garden",
)
TRAVELLERS = ("boat", "bird", "dog", "car", "bee")
METALS = {
  "iron": "Fe",
  "gold": "Au",
  "silver": "Ag",
  "lead": "Pb",
  "tin": "Sn",
  "copper": "Cu",
  "zinc": "Zn",
  "nickel": "Ni",
}
GASES = {"helium": "He", "neon": "Ne", "oxygen": "O", "argon": "Ar"}
# Facts to recall: they stand in no question, so SFT has to show them.
LEGS = {"spider": 8, "ant": 6, "dog": 4, "bird": 2, "cat": 4, "bee": 6, "cow": 4, "hen": 2}
PLANETS = ["mercury", "venus", "earth", "mars", "jupiter", "saturn", "uranus", "neptune"]
# {"mercury": 1, "venus": 2, …}: the place counted from the sun.
ORBITS = {planet: place for place, planet in enumerate(PLANETS, 1)}
# (big unit, small one, how many of these it holds).
UNITS = (
  ("m", "cm", 100),
  ("kg", "g", 1000),
  ("km", "m", 1000),
  ("hours", "minutes", 60),
  ("minutes", "seconds", 60),
  ("weeks", "days", 7),
)
# Indexed by a truth value: NO_YES[3 > 2] is "yes".
NO_YES = ("no", "yes")


def sign_of(sign: int) -> str:
  return "+" if sign > 0 else "-"


def running_total(numbers, sign: int = 1) -> tuple[str, int]:
  """The total written out, [3, 5, 4] → "3+5=8,8+4=12", and its end.

  Each step needs only the last result and one number.
  """
  steps = []
  total = numbers[0]
  for number in numbers[1:]:
    # sign: 1 adds, -1 takes away.
    after = total + sign * number
    steps.append(f"{total}{sign_of(sign)}{number}={after}")
    total = after
  return ",".join(steps), total


def few_digits(r) -> list[int]:
  """Three or four digits, mostly three."""
  return [r.randint(1, 9) for _ in range(r.choice((3, 3, 4)))]


# Mathematics.


def math_total(r) -> Problem:
  numbers = few_digits(r)
  who = r.choice(NAMES)
  what = r.choice(COUNTED)
  worked, total = running_total(numbers)
  plus = "+".join(map(str, numbers))
  # The last first, the way back: of 3+5+4=12, 12-4-5=3.
  minus = "-".join(map(str, numbers[:0:-1]))
  asks = (
    f"{plus}=?",
    f"add {plus}",
    f"what is {plus}?",
    f"find the sum of {plus}",
    f"{who} has {plus} {what}. how many {what}?",
    f"{who} gets {plus} {what} more. how many more?",
    f"bags of {plus} {what}: how many {what}?",
  )
  equations = (f"{plus}={total}", f"{total}-{minus}={numbers[0]}")
  return Problem(asks, worked, "add them", total, equations)


def math_groups(r) -> Problem:
  n = r.randint(2, 4)
  k = r.randint(2, 9)
  what = r.choice(COUNTED)
  asks = (
    f"{n} boxes hold {k} {what} each. how many {what}?",
    f"{k} {what} in each of {n} bags: how many {what}?",
    f"{n} bags of {k} {what}: how many {what}?",
    f"what is {n} times {k}?",
  )
  worked, _ = running_total([k] * n)
  equations = (f"{n}*{k}={n * k}", f"{n * k}/{k}={n}")
  return Problem(asks, worked, "add them", n * k, equations)


def math_difference(r) -> Problem:
  a = r.randint(20, 49)
  b = r.randint(1, 9)
  c = r.randint(1, 9)
  who = r.choice(NAMES)
  what = r.choice(COUNTED)
  # [30, 4, 2] → "30-4=26,26-2=24"; at least 20 less at most 18: never below 0.
  worked, left = running_total([a, b, c], -1)
  asks = (
    f"{a}-{b}-{c}=?",
    f"take {b} and {c} from {a}",
    f"what is {a} minus {b} minus {c}?",
    f"{who} has {a} {what} and gives {b} and {c} away. how many {what} now?",
  )
  # The check goes back in reverse: 24+2+4=30.
  equations = (f"{a}-{b}-{c}={left}", f"{left}+{c}+{b}={a}")
  return Problem(asks, worked, "take away", left, equations)


def math_compare(r) -> Problem:
  # Two digits each and never equal, so that one is more.
  a, b = r.sample(range(10, 100), 2)
  # The word and what it means: "more" is answered by max, "less" by min.
  word, pick = r.choice((("more", max), ("less", min)))
  asks = (
    f"which is {word}: {a} or {b}?",
    f"{a} or {b}: which is {word}?",
    f"which of {a} and {b} is {word}?",
  )
  worked = f"{a}{'>' if a > b else '<'}{b}"
  less, more = sorted((a, b))
  # The difference shows which is more: 47-38=9 is above 0.
  equations = (f"{more}-{less}={more - less}", f"{less}+{more - less}={more}")
  return Problem(asks, worked, "compare", pick(a, b), equations)


def math_sequence(r) -> Problem:
  first = r.randint(1, 20)
  # At least 2: by ones there is nothing to find.
  step = r.randint(2, 9)
  # 7 10 13 16 for first 7 and step 3: three are shown, the fourth is asked.
  a, b, c, d = range(first, first + 4 * step, step)
  asks = (
    f"what is next: {a} {b} {c}?",
    f"find the next number: {a} {b} {c}",
    f"{a} {b} {c} and then?",
  )
  worked = f"{b}-{a}={step},{c}+{step}={d}"
  return Problem(asks, worked, "next", d, (f"{c}+{step}={d}", f"{d}-{step}={c}"))


# Coding: each kind makes a Program, which `code_problem` turns into a question with tests.


class Program(NamedTuple):
  parameters: str
  words: str  # what it does
  expression: str  # what it returns, as Python
  rule: Callable  # the same, without reading the expression
  inputs: list[tuple]  # arguments to test
  worked: str


# A decorator: the kinds below say what is computed, this says how it is asked and tested.
def code_problem(make: Callable[[random.Random], Program]) -> Callable[[random.Random], Problem]:
  def problem(r) -> Problem:
    program = make(r)
    name = r.choice("fgh")
    tests = []
    for arguments in program.inputs:
      # Without spaces, as all calculations of the pool are written.
      given = ",".join(map(repr, arguments)).replace(" ", "")
      # What is expected comes from the rule and not from the expression: two ways, one result.
      tests.append(f"assert {name}({given})=={program.rule(*arguments)!r}")
    # The random argument may be one of the fixed: the same test twice says nothing new.
    tests = list(dict.fromkeys(tests))
    # "f(x)", the header that the tests call.
    head = f"{name}({program.parameters})"
    # One test in the question tells how the function is called; the others score.
    shown = tests[0]
    asks = (
      f"write {head}: {program.words}. {shown}",
      f"{program.words}. write {head}. {shown}",
      f"{head} is {program.words}. {shown}",
    )
    # One line, as an answer of the tiny model is a few tokens.
    answer = f"def {head}: return {program.expression}"
    facts = {"test_cases": tests, "shown_test": shown, "entry_point": name}
    return Problem(asks, program.worked, "write it", answer, tests=facts)

  return problem


@code_problem
def code_merge(r) -> Program:
  # "add 3+5+4 to x" → "3+5=8,8+4=12" → return x+12: the same sums as `math_total`.
  numbers = few_digits(r)[:3]
  words, sign = r.choice(
    (("add {} to x", 1), ("take {} from x", -1), ("x and {} more", 1), ("x but {} less", -1))
  )
  worked, total = running_total(numbers)
  return Program(
    "x",
    words.format("+".join(map(str, numbers))),
    f"x{sign_of(sign)}{total}",
    lambda x: x + sign * total,
    [(r.randint(1, 9),), (0,), (17,), (60,)],
    worked,
  )


@code_problem
def code_repeat(r) -> Program:
  n = r.randint(2, 3)
  k = r.randint(2, 19)
  # "add 4 to x 3 times" → "4+4=8,8+4=12" → return x+12.
  word, to, sign = r.choice((("add", "to", 1), ("take", "from", -1)))
  worked, _ = running_total([k] * n)
  return Program(
    "x",
    f"{word} {k} {to} x {n} times",
    f"x{sign_of(sign)}{n * k}",
    lambda x: x + sign * n * k,
    [(r.randint(1, 9),), (0,), (17,), (60,)],
    worked,
  )


@code_problem
def code_example(r) -> Program:
  """The number in the code is not in the question: the shown test tells it."""
  x = r.randint(1, 9)
  k = r.randint(1, 9)
  words, expression, rule, worked, shown = r.choice(
    (
      ("add a number to x", f"x+{k}", lambda v: v + k, f"{x + k}-{x}={k}", x),
      ("take x from a number", f"{x + k}-x", lambda v: x + k - v, f"{k}+{x}={x + k}", x),
      ("take a number from x", f"x-{k}", lambda v: v - k, f"{x + k}-{x}={k}", x + k),
    )
  )
  return Program("x", words, expression, rule, [(shown,), (0,), (17,), (k + 50,)], worked)


@code_problem
def code_steps(r) -> Program:
  a = r.randint(2, 9)
  b = r.randint(2, 29)
  # Words where there are some: "double x", "triple x", "x times 4".
  first = {2: "double x", 3: "triple x"}.get(a, f"x times {a}")
  # Taken out for the width of the table below alone.
  before = f"from x then times {a}"
  words, expression, rule, worked = r.choice(
    (
      (f"{first} then add {b}", f"x*{a}+{b}", lambda x: x * a + b, f"x*{a} then +{b}"),
      (f"{first} then take {b} away", f"x*{a}-{b}", lambda x: x * a - b, f"x*{a} then -{b}"),
      (f"add {b} to x then times {a}", f"(x+{b})*{a}", lambda x: (x + b) * a, f"x+{b} then *{a}"),
      (f"take {b} {before}", f"(x-{b})*{a}", lambda x: (x - b) * a, f"x-{b} then *{a}"),
    )
  )
  return Program("x", words, expression, rule, [(r.randint(1, 3),), (0,), (5,), (11,)], worked)


@code_problem
def code_check(r) -> Program:
  n = r.randint(2, 79)
  words, expression, rule = r.choice(
    (
      (f"is x more than {n}", f"x>{n}", lambda x: x > n),
      (f"is x less than {n}", f"x<{n}", lambda x: x < n),
      (f"is x not {n}", f"x!={n}", lambda x: x != n),
      (f"can x be shared by {n}", f"x%{n}==0", lambda x: x % n == 0),
    )
  )
  # Both sides of the border and the border itself, where "more" and "not less" differ.
  inputs = [(x,) for x in r.sample((n - 1, n, n + 1, 3 * n), 4)]
  return Program("x", words, expression, rule, inputs, expression)


@code_problem
def code_list(r) -> Program:
  n = r.randint(2, 29)
  # "most of s minus 4" → return max(s)-4.
  op, sign = r.choice((("plus", 1), ("minus", -1)))
  word, call, part = r.choice(
    (
      ("sum", "sum(s)", sum),
      ("most", "max(s)", max),
      ("least", "min(s)", min),
      ("length", "len(s)", len),
      ("first", "s[0]", lambda s: s[0]),
      ("last", "s[-1]", lambda s: s[-1]),
    )
  )
  return Program(
    "s",
    f"{word} of s {op} {n}",
    f"{call}{sign_of(sign)}{n}",
    lambda s: part(s) + sign * n,
    # In [8, 1, 9, 3] first, last, most and least are four different numbers.
    [(r.sample(range(1, 10), 2),), ([8, 1, 9, 3],), ([4],), ([6, 3],)],
    f"{word} is {call}",
  )


@code_problem
def code_pair(r) -> Program:
  n = r.randint(2, 19)
  # In either order, so that f(a, b) cannot be guessed from where a letter stands.
  u, v = r.sample("ab", 2)
  # of u, of v, and what is added
  words, expression, (times_u, times_v, more) = r.choice(
    (
      (f"{u} plus {n} times {v}", f"{u}+{n}*{v}", (1, n, 0)),
      (f"{u} minus {v} plus {n}", f"{u}-{v}+{n}", (1, -1, n)),
      (f"{n} times {u} minus {v}", f"{n}*{u}-{v}", (n, -1, 0)),
    )
  )

  def rule(a, b):
    # The arguments come as a, b, the rule speaks of u, v.
    first, second = (a, b) if u == "a" else (b, a)
    return times_u * first + times_v * second + more

  inputs = [(r.randint(1, 9), r.randint(1, 9)), (0, 5), (4, 9), (7, 2)]
  return Program("a,b", words, expression, rule, inputs, f"{u} then {v}")


# Science.


def science_journey(r) -> Problem:
  parts = few_digits(r)
  who = r.choice(TRAVELLERS)
  way = f"{'+'.join(map(str, parts))} km"
  asks = (
    f"a {who} goes {way}. how far?",
    f"how far is {way}?",
    f"{way}: how far did the {who} go?",
    f"a road of {way} is how far?",
  )
  worked, total = running_total(parts)
  return Problem(asks, worked, "add them", total)


def science_heat(r) -> Problem:
  # A temperature first, then digits to add, so the steps are those of the other sums.
  parts = [r.randint(10, 29), *few_digits(r)[1:]]
  what = r.choice(("water", "iron", "snow", "stone", "lead"))
  more = "+".join(map(str, parts[1:]))
  asks = (
    f"{what} at {parts[0]} degrees warms by {more}. how warm is it?",
    f"how warm is {what} at {parts[0]} degrees that warms by {more}?",
  )
  worked, total = running_total(parts)
  return Problem(asks, worked, "add them", total)


def science_motion(r) -> Problem:
  speed = r.randint(2, 9)
  hours = r.randint(2, 4)
  who = r.choice(TRAVELLERS)
  asks = (
    f"a {who} goes {speed} km each hour. how far in {hours} hours?",
    f"how far does a {who} go in {hours} hours at {speed} km each hour?",
    f"in {hours} hours at {speed} km each hour a {who} goes how far?",
  )
  worked, total = running_total([speed] * hours)
  return Problem(asks, worked, "add them", total)


def science_legs(r) -> Problem:
  # "a spider a dog and a hen" → 8+4=12,12+2=14: recall, then the same sums.
  animals = r.choices(list(LEGS), k=r.choice((3, 3, 4)))
  worked, total = running_total([LEGS[animal] for animal in animals])
  named = f"a {' a '.join(animals[:-1])} and a {animals[-1]}"
  asks = (
    f"how many legs have {named}?",
    f"{named} have how many legs?",
    f"find the legs of {named}",
  )
  return Problem(asks, worked, "add legs", total)


def science_fact(r) -> Problem:
  # Metals and gases in one table: both have a symbol.
  fact, table = r.choice((("symbol", METALS | GASES), ("legs", LEGS), ("orbit", ORBITS)))
  what = r.choice(list(table))
  asks = (
    f"what is the {fact} of {what}?",
    f"tell me the {fact} of {what}",
    f"{what} has which {fact}?",
    f"give the {fact} for {what}",
    f"find {fact} of {what}",
  )
  # No terse solution: these kinds are not in STATEFUL, so theirs is never shown.
  return Problem(asks, f"{fact} of {what}", "", table[what])


def science_kind(r) -> Problem:
  metal = r.choice(list(METALS))
  gas = r.choice(list(GASES))
  word = r.choice(("metal", "gas"))
  answer = metal if word == "metal" else gas
  pair = [metal, gas]
  r.shuffle(pair)
  x, y = pair
  asks = (
    f"which is a {word}: {x} or {y}?",
    f"{x} or {y}: which is a {word}?",
    f"find the {word} of {x} and {y}",
  )
  # "iron metal neon gas": each is classed before one is chosen.
  worked = " ".join(f"{what} {'metal' if what in METALS else 'gas'}" for what in pair)
  return Problem(asks, worked, "", answer)


def science_rank(r) -> Problem:
  words, table, pick = r.choice(
    (
      ("has more legs", LEGS, max),
      ("has less legs", LEGS, min),
      ("is nearer to the sun", ORBITS, min),
      ("is further from the sun", ORBITS, max),
    )
  )
  x = r.choice(list(table))
  # Never equal, so that exactly one is right: a dog and a cat have four legs each.
  y = r.choice([other for other in table if table[other] != table[x]])
  asks = (
    f"which {words}: {x} or {y}?",
    f"{x} or {y}: which {words}?",
    f"of {x} and {y} which {words}?",
  )
  # "spider 8 dog 4": the two figures first, then the choice.
  return Problem(asks, f"{x} {table[x]} {y} {table[y]}", "", pick(x, y, key=table.get))


def science_units(r) -> Problem:
  big, small, size = r.choice(UNITS)
  n = r.randint(2, 9)
  asks = (
    f"how many {small} in {n} {big}?",
    f"{n} {big} are how many {small}?",
    f"give {n} {big} in {small}",
    f"find {n} {big} in {small}",
  )
  return Problem(asks, f"{n}*{size}", "", n * size)


# Logic.


def logic_parity(r) -> Problem:
  words = r.choice((("no", "yes"), ("blue", "red"), ("off", "on")))
  # Both are asked, so that "yes" alone is right half the time.
  ask = r.choice(("even", "odd"))
  # 1 stands for the word that is counted: red, on or yes.
  bits = r.choices((0, 1), k=r.randint(3, 7))
  shown = [words[bit] for bit in bits]
  # Of 1 1 0 1 the counts so far are 1 2 2 3: odd even even odd.
  # A state of one bit, carried along: the last is the answer.
  parities = [("even", "odd")[count % 2] for count in itertools.accumulate(bits)]
  said = " ".join(shown)
  word = words[1]
  asks = (
    f"is the number of {word} {ask}: {said}?",
    f"{said}: is {word} {ask}?",
    f"count {word} in {said}. is it {ask}?",
  )
  steps = [f"{word} {parity}" for word, parity in zip(shown, parities, strict=True)]
  return Problem(asks, " ".join(steps), "count", NO_YES[parities[-1] == ask])


def logic_switch(r) -> Problem:
  who = r.choice(NAMES)
  what = r.choice(("lamp", "drum", "bell"))
  ask = r.choice((0, 1))
  start = r.choice((0, 1))
  # Press twice as often as wait, as only presses change something.
  acts = r.choices((0, 1, 1), k=r.randint(3, 5))
  # From off (0), press wait press: 0 1 1 0; the first is before any act.
  states = list(itertools.accumulate(acts, operator.xor, initial=start))
  done = [("wait", "press")[act] for act in acts]
  words = ("off", "on")
  asks = (
    f"the {what} is {words[start]}. {who} does {' '.join(done)}. is it {words[ask]}?",
    f"a {what} that is {words[start]} gets {' '.join(done)}. is it {words[ask]}?",
  )
  steps = [f"{act} {words[state]}" for act, state in zip(done, states[1:], strict=True)]
  return Problem(asks, " ".join(steps), "count", NO_YES[states[-1] == ask])


def logic_swap(r) -> Problem:
  """Where a coin is after two to four swaps of three cups."""
  # Cups are single letters, so that a swap is two tokens and its result one more.
  start = r.choice("pqr")
  at = start
  moves = []
  steps = []
  for _ in range(r.randint(2, 4)):
    x, y = r.sample("pqr", 2)
    # The coin moves where its cup is one of the two, else it stays.
    at = {x: y, y: x}.get(at, at)
    moves.append(f"{x} {y}")
    steps.append(f"{x} {y} {at}")
  asked = at
  # Half of the questions ask for the right cup, so "yes" alone is right half the time.
  if r.random() >= 0.5:
    asked = r.choice([cup for cup in "pqr" if cup != at])
  swaps = ", ".join(moves)
  asks = (
    f"a coin is in {start}. swap {swaps}. is it in {asked}?",
    f"the egg in {start}: swap {swaps}. is it now in {asked}?",
  )
  return Problem(asks, ",".join(steps), "count", NO_YES[at == asked])


def logic_order(r) -> Problem:
  # From most to least; the worked solution writes it as "tom>mia>leo".
  chain = r.sample(NAMES, 3)
  word = r.choice(("older", "taller", "faster"))
  # Two facts about neighbours; the question may need both: a > b, b > c, so a > c.
  facts = [f"{x} is {word} than {y}." for x, y in itertools.pairwise(chain)]
  # In either order, so that the chain must be put together.
  r.shuffle(facts)
  # The chain runs from most to least, so the earlier is the older, taller or faster.
  i, j = r.sample(range(3), 2)
  question = f"{' '.join(facts)} is {chain[i]} {word} than {chain[j]}?"
  return Problem((question,), ">".join(chain), "", NO_YES[i < j])


def logic_rule(r) -> Problem:
  who = r.choice(NAMES)
  one, other = r.sample(("dog", "bird", "cow", "hen", "bee"), 2)
  first, second = r.sample(("old", "red", "cold", "small", "fast"), 2)
  each = f"each {one} is {first}"
  # (what is said, what is asked of `who`, the steps, the answer).
  facts, asked, worked, answer = r.choice(
    (
      (f"{each}. {who} is a {one}", first, f"{one} {first}", "yes"),
      (f"no {one} is {first}. {who} is a {one}", first, f"{one} not {first}", "no"),
      (
        f"only a {one} is {first}. {who} is a {other}",
        first,
        f"{other} not {one} not {first}",
        "no",
      ),
      (f"only a {one} is {first}. {who} is {first}", f"a {one}", f"{first} {one}", "yes"),
      (
        f"{each}. all {first} are {second}. {who} is a {one}",
        second,
        f"{one} {first} {second}",
        "yes",
      ),
      (
        f"{each}. no {first} is {second}. {who} is a {one}",
        second,
        f"{one} {first} not {second}",
        "no",
      ),
    )
  )
  return Problem((f"{facts}. is {who} {asked}?",), f"{who} {worked}", "", answer)


def logic_truth(r) -> Problem:
  """The truth of a formula of three letters, such as (not p and q) or r."""
  # "p yes q no r yes: is (not p and q) or r?"
  letters = r.sample("pqrs", 3)
  values = r.choices((0, 1), k=3)
  # One letter in three stands under a "not".
  negated = r.choices((0, 0, 1), k=3)
  op, last = r.choices(("and", "or"), k=2)
  given = " ".join(f"{x} {NO_YES[v]}" for x, v in zip(letters, values, strict=True))
  x, y, z = (("not " if no else "") + letter for no, letter in zip(negated, letters, strict=True))
  # XOR with 1 negates: not yes is no.
  a, b, c = (value ^ no for value, no in zip(values, negated, strict=True))
  # The bracket first, then its value with the third letter.
  half = a & b if op == "and" else a | b
  whole = half & c if last == "and" else half | c
  worked = (
    f"{NO_YES[a]} {op} {NO_YES[b]} {NO_YES[half]},{NO_YES[half]} {last} {NO_YES[c]} {NO_YES[whole]}"
  )
  return Problem((f"{given}: is ({x} {op} {y}) {last} {z}?",), worked, "", NO_YES[whole])


# Creative domains.

# A text is one clause and one end: few words, yet 24 pairs before the things are filled in.
CLAUSES = (
  "the {a} sings to the {b}",
  "a quiet {a} waits for the {b}",
  "the old {a} dreams of one {b}",
  "a small {a} met the {b}",
  "no {a} can find the red {b}",
  "the {b} gave a name to the {a}",
)
ENDS = (
  "and then the {c} sleeps",
  "but at night the {c} sings",
  "while one cold {c} waits",
  "so in the end the {c} met snow",
)
USES = (
  "sing to the {b}",
  "paint it red",
  "give it a name",
  "hide it in a garden",
  "race it down the road",
  "put it in a boat",
  "count each {b} at night",
  "write a letter to the {b}",
  "make a small game",
  "trade it for a bell",
)


def creative_summary(r) -> Problem:
  who = r.choice(NAMES)
  what = r.choice(("lamp", "boat", "drum", "leaf"))
  place = r.choice(("river", "road", "garden", "bell"))
  mood = r.choice(("cold", "quiet", "old", "red"))
  verb = r.choice(("lost", "found", "saw", "sold", "hid"))
  end = r.choice(("went home", "told a story", "sleeps there", "was cold"))
  # Three sentences, which the summary joins in one.
  facts = f"{who} went to the {mood} {place}. there {who} {verb} a {what}. then {who} {end}."
  asks = (f"sum up: {facts}", f"tell this in short: {facts}", f"give the main point: {facts}")
  worked = f"main point: at the {place} {who} {verb} a {what} then {end}"
  answer = f"{who} {verb} the {what} at the {mood} {place} and then {end}"
  return Problem(asks, worked, f"about {who}", answer)


def creative_ideas(r) -> Problem:
  a, b = r.sample(THINGS, 2)
  question = r.choice(
    (
      f"name two uses for a {a} and a {b}",
      f"give two ideas with a {a} and a {b}",
      f"list two new games for a {a} and a {b}",
      f"what can one do with a {a} and a {b}? name two ideas",
    )
  )
  uses = ", ".join(use.format(b=b) for use in r.sample(USES, 2))
  worked = f"find two small games for the {a} first then with the {b}"
  return Problem((question,), worked, "two ideas", f"with the {a} {uses}")


def creative_prose(r, kind: str) -> Problem:
  """A poem or a story, as `kind` says, about three things."""
  a, b, c = r.sample(THINGS, 3)
  question = r.choice(
    (
      f"write a {kind} with the words {a} {b} and {c}",
      f"tell a short {kind} about {a} {b} and {c}",
      f"make a {kind} that has {a} {b} and {c}",
    )
  )
  worked = f"a {kind} first about the {a} and {b} then the {c}"
  answer = f"{r.choice(CLAUSES).format(a=a, b=b)} {r.choice(ENDS).format(c=c)}"
  return Problem((question,), worked, f"a {kind}", answer)
