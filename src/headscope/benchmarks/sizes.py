"""The size of a context that fills a length, by bisection on the measured text."""

from collections.abc import Callable

from headscope.errors import LengthError

# A haystack's units (lines, words) are longer than this on average, in tokens, whatever the tokenizer.
SHORTEST_UNIT = 1 / 16


def fitting_size(tokens: Callable[[int], int], minimum: int, least: float, most: float, start: int) -> int:
    """Return a size whose text has `least` to `most` tokens; if there is none, the largest that has at most `most`.

    From `start` the size grows or shrinks by a quarter until the target lies between two sizes, then bisection.

    Args:
        tokens: measures the text at a size; it grows with the size, up to small steps back where draws differ.
        minimum: the smallest size allowed; returned if even its text is too long.
        least, most: the lengths accepted, in tokens; equal ones ask for the largest size that fits.
        start: the size to try first.

    Raises:
        LengthError: the text does not grow with its size.
    """
    fits, exceeds = minimum - 1, 0
    size = max(start, minimum)
    while not exceeds or exceeds - fits > 1:
        measured = tokens(size)
        if least <= measured <= most:
            return size
        if measured <= most:
            fits = size
        else:
            exceeds = size
        if not exceeds:
            size = size * 5 // 4 + 1
        elif fits < minimum:
            size = max(minimum, size * 4 // 5)
        else:
            size = (fits + exceeds) // 2
        if size * SHORTEST_UNIT > most + minimum:
            raise LengthError(
                f"{fits} units of context have at most {most:.0f} tokens: the text does not grow with them"
            )
    return max(fits, minimum)
