"""Tokens of words, by a model's own tokenizer, for methods that compare words with visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nuwa.files import local_path
from nuwa.models.checkpoint import ModelError, find_folder

TOKENIZER = "pruner.tokenizer"


@lru_cache(maxsize=1)
def read_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder, or of a Hugging Face id, ``id@revision`` for another revision than the newest.

    Raises:
        ModelError: there is none.
    """
    if not path:
        raise ModelError(f"{TOKENIZER}: this model was loaded from no folder; say where its tokenizer is")
    name, _, revision = (path, "", "") if local_path(path).exists() else path.partition("@")
    folder = find_folder(name, revision or None, TOKENIZER)
    if not (folder / "tokenizer.json").exists():
        raise ModelError(f"{TOKENIZER}={path} lacks tokenizer.json")
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def token_ids(path: str, texts: Sequence[Sequence[str]]) -> list[Tensor]:
    """The ids (m,) of the words of each text, without special tokens, by the tokenizer at ``path``."""
    tokenizer = read_tokenizer(path)
    asked = [list(words) for words in texts]
    found = tokenizer(asked, is_split_into_words=True, add_special_tokens=False)["input_ids"]
    return [torch.tensor(ids, dtype=torch.long) for ids in found]
