"""Equal batches: every batch has the same size, so that one program is compiled for all."""


def filled(batch: list, size: int) -> list:
  """`size` items, the last of the batch repeated: [3] to 2 → [3, 3].

  What comes back for the repeats is cut off by the caller, `[: len(batch)]`.
  """
  # A real item fills up: a blank one would be a prompt without tokens, a case of its own.
  return batch + batch[-1:] * (size - len(batch))


def filled_batches(items: list, size: int) -> list[list]:
  """Batches of exactly `size` items, the last filled up: [1, 2, 3] by 2 → [[1, 2], [3, 3]]."""
  batches = []
  for start in range(0, len(items), size):
    batches.append(filled(items[start : start + size], size))
  return batches
