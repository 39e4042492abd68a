"""Gemma 3: pictures whose tokens see each other and sliding layers, pruned, against a decoder that writes masks out."""

import pytest
import torch
from helpers.families import FAMILIES, PROMPTS, fixed_keep, fixed_stage
from helpers.families_gemma import WINDOW, plain_gemma_decode, random_gemma
from helpers.family import generate
from helpers.support import Fixed

import nuwa
from nuwa.models import family_class
from nuwa.pruners import KeepAll

FAMILY = FAMILIES["gemma3"]


@pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["middle", "two"])
def test_cached_generation_equals_masks_written_out(name, attention, position):
    """Stages in a sliding and in a full layer; the answer grows beyond the window."""
    model, ids, steps = random_gemma(attention, window=WINDOW), FAMILY.ids(name), 16
    assert len(ids) + steps > 1.5 * WINDOW
    stages = {layer: fixed_stage(FAMILY, name, 2, stage) for layer, stage in ((2, 2), (4, 3))}
    with torch.no_grad():
        features = list(model.model.get_image_features(**FAMILY.pictures(*PROMPTS[name][1])).pooler_output)
    keep = fixed_keep(FAMILY, name, 2)
    tokens, logits = plain_gemma_decode(model, ids, features, keep, stages, position, steps)
    options = {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": steps}
    out = generate(model, FAMILY.inputs(name), Fixed(2, (2, 4)), position, **options)
    torch.testing.assert_close(torch.cat(out.logits), logits, atol=5e-5, rtol=0)
    assert out.sequences[0, len(ids) :].tolist() == tokens


def test_without_marks_a_picture_would_be_read_as_text_and_is_refused():
    inputs = FAMILY.inputs("first")
    del inputs["token_type_ids"]
    for attention in ("sdpa", "eager"):
        model = FAMILY.model(attention)
        with (
            torch.no_grad(),
            nuwa.prune(model, KeepAll()),
            pytest.raises(ValueError, match="pass token_type_ids"),
        ):
            model(**inputs)


def test_members_of_the_family_that_are_not_supported_are_named():
    for name in ("gemma3n", "gemma4", "paligemma"):
        with pytest.raises(ValueError, match=f"model family '{name}' is not supported; supported: .*gemma3"):
            family_class(name)
