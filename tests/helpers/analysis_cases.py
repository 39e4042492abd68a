"""Prompts with answers for every family, and what eager models say about their attention."""

import torch
from helpers.families import PROMPTS, Family
from helpers.support import batch

from nuwa import prune
from nuwa.pruners.none import KeepAll

ANSWERS = ((9, 13, 22), (31,))
"""Answers to the first and the second prompt of a batch."""
PAIR = ("middle", "two")


def answered(family: Family, prompts=PAIR, answers=ANSWERS):
    """What a model reads of left-padded prompts and their answers, all ids (B, L + 1), and the answers' lengths."""
    rows = [family.ids(prompt) + list(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    whole = batch(*rows)
    inputs = {name: values[:, :-1] for name, values in whole.items()}
    numbers = [number for prompt in prompts for number in PROMPTS[prompt][1]]
    inputs = family.finish(inputs | family.pictures(*numbers))
    return inputs, whole["input_ids"], torch.tensor([len(answer) for answer in answers])


def eager_attention(family: Family, inputs) -> list[torch.Tensor]:
    """Every layer's attention weights (B, H, L, L) of the plain model."""
    with torch.no_grad():
        return list(family.model("eager")(**inputs, output_attentions=True).attentions)


def written_groups(family: Family, prompt: str, answer: int = 0) -> list[int]:
    """The group of every token of a prompt and of an answer but its last token, one by one from its ids."""
    ids = family.ids(prompt)
    image = family.model().config.image_token_id
    first = ids.index(image)
    groups = [1 if token == image else 0 if place < first else 2 for place, token in enumerate(ids)]
    if ids[-1] != image:
        groups[-1] = 3
    return groups + [3] * max(answer - 1, 0)


def session_of(family: Family, *attention: str):
    """A session that prunes nothing; arguments as of `Family.model`, which caches by them."""
    return prune(family.model(*attention), KeepAll())
