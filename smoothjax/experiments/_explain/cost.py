"""How often an explanation calls its networks, which is known before it starts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..._jax.blocks import blocks_of
from .classes import LabelledPoints, Model


class Calls(NamedTuple):
    """Calls of a network for one part of the job, of one noisy point each, those that fill up a batch included.

    Attributes:
        network: its name.
        use: what they are for, in words.
        part: what the part is kept as, or "" where it is never kept.
        num: how many.
    """

    network: str
    use: str
    part: str
    num: int


def calls_of_samples(
    model: Model, num: int, steps: int, labels: LabelledPoints | None, batch_size: int
) -> int:
    """Of `num` samples of `steps` calls each, of which labels are known where there are any."""
    if num == 0:
        return 0
    if isinstance(model, dict) and labels is not None:
        groups = [blocks_of(count, size) for count, size in labels.groups(batch_size)]
    else:
        groups = [blocks_of(num, batch_size)]
    return steps * sum(count * block for count, block in groups)


def in_words(calls: Sequence[Calls], is_done: Callable[[str], bool]) -> str:
    """A sentence for each network."""
    sentences = []
    for network in dict.fromkeys(one.network for one in calls):
        own = [one for one in calls if one.network == network and one.num]
        uses = dict.fromkeys(dict.fromkeys(one.use for one in own), 0)
        for one in own:
            uses[one.use] += one.num
        total = sum(uses.values())
        done = sum(one.num for one in own if one.part and is_done(one.part))
        each = ", ".join(f"{num:,} {use}" for use, num in uses.items())
        already = f"; {done:,} of them are done already" if done else ""
        sentences.append(f"Calls of the {network}, of one point each: {total:,} ({each}){already}.")
    return "\n".join(sentences)
