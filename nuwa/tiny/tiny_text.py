"""The tiny LLaVA that reads: as the tiny LLaVA, with 8 layers behind a tower on a 16 x 16 grid."""

from functools import partial

from nuwa.tiny.plates import TinyPlateModel
from nuwa.tiny.tiny_llava import LlavaNetwork
from nuwa.tiny.vocabulary import READER, llava_tokenizer


class TinyText(LlavaNetwork, TinyPlateModel):
    """It is asked about plates with numbers."""

    name = "text"
    vocabulary = READER
    layers = 8
    vision_layers = 3
    tokenizer = staticmethod(partial(llava_tokenizer, READER))
