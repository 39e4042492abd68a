"""The other methods against golden data of their authors' published code."""

import functools

import pytest
import torch
from helpers.golden_cases import Golden, after, golden_runs, prompt, vision_context
from torch.nn import functional

import nuwa
from nuwa.models.llava import Llava
from nuwa.pruners import Dart, Feather, HiPrune, HoloV, PruMerge, PruMergePlus, PyramidDrop, SparseVLM, VisPruner
from nuwa.pruners.cdpruner import greedy_map, unit_range
from nuwa.pruners.dart import in_order_of_a_set
from nuwa.pruners.divprune import max_min
from nuwa.pruners.feather import unrotated_scores
from nuwa.pruners.prumerge import one_head_attention, outliers
from nuwa.pruners.sparsevlm import rank_of, ratings, split_recycled, text_raters
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.scores import llm_attention_rows

GRID = (24, 24)


def test_sparsevlm_raters():
    case = Golden("sparsevlm_layer")
    visual, text = case.inputs["visual_embeds"], case.inputs["text_embeds"]
    score, rater = text_raters(visual, visual[..., 0].isfinite(), text, text[..., 0].isfinite())
    case.check("raters", score=score, rater_indices=rater[0].nonzero()[:, 0])


def sparse_context(case):
    """The prompt of the golden case: 576 visual tokens, then text; on entry of layer 3, looking back at layer 2."""
    text = case.inputs["text_embeds"].shape[1]
    rows = case.inputs["attention_text_to_visual"]
    first = prompt(0, 576, text, hidden=torch.cat([case.inputs["visual_embeds"], case.inputs["text_embeds"]], 1))
    filler = torch.zeros(1, text, case.inputs["hidden_states"].shape[-1])
    before = prompt(0, 576, text, hidden=torch.cat([case.inputs["hidden_states"], filler], 1), layer=2)
    before.attention = lambda query: functional.pad(rows[:, :, query - 576], (0, text))
    return after(before, first=first)


@pytest.mark.parametrize(("name", "run"), golden_runs("sparsevlm_layer", only=lambda run: run.endswith("layer2")))
def test_sparsevlm(name, run):
    case = Golden(name)
    params = case.params(run)
    pruner = nuwa.load_pruner("sparsevlm", budget=params["retain"], counting="authors")
    count = pruner.schedule(576, 32).llm[0][1]
    assert count == params["out_visual"]
    context = sparse_context(case)
    decision = pruner.prune_llm(context, torch.tensor([[count]]))
    _, rows, weight = ratings(context)
    case.check(run, score=(weight[:, None] @ rows.mean(1))[:, 0, :576])
    places = decision.keep[0, :576].nonzero()[:, 0]
    in_order = places[decision.order[0, places].argsort()]
    merged = decision.hidden[:, in_order[params["keep"] :]]
    case.check(run, kept=in_order[: params["keep"]], merged=merged)
    case.check(run, merged_sorted_by_norm=merged[0, merged[0].norm(dim=-1).argsort()])
    stay, recycled = split_recycled((weight[:, None] @ rows.mean(1))[0, 0, :576], count)
    case.check(run, kept=stay, recycled=recycled)
    assert torch.isin(in_order[params["keep"] :], recycled).all()
    untouched = in_order[: params["keep"]]
    assert torch.equal(decision.hidden[0, untouched], context.hidden[0, untouched])


def test_sparsevlm_rank_rule():
    case = Golden("sparsevlm_layer")
    attention = case.inputs["rank_attention"]
    raters, count = attention.shape[2:]
    case.check("rank_rule", rank=torch.tensor(rank_of(attention[0].mean(0))))
    # raters that all resemble the image a little more than the first text token does
    embeddings = torch.cat([torch.ones(1, count, 2), torch.zeros(1, 1, 2), torch.ones(1, raters, 2)], 1)
    before = prompt(0, count, 1 + raters, hidden=embeddings, layer=2)
    before.attention = lambda query: functional.pad(attention[:, :, query - count - 1], (0, 1 + raters))
    context = after(before, first=before)
    decision = SparseVLM(adaptive=True, recycle=False).prune_llm(context, torch.tensor([[count]]))
    kept = decision.keep[0, :count].nonzero()[:, 0]
    assert sorted(case.tensors["out.rank_rule.kept"][0].tolist()) == kept.tolist()


@pytest.mark.parametrize("options", [{"recycle": False}, {"tie_noise": True}])
def test_sparsevlm_options(options):
    case = Golden("sparsevlm_layer")
    decision = SparseVLM(**options).prune_llm(sparse_context(case), torch.tensor([[82]]))
    assert decision.keep[0, :576].sum() == 82
    changed = (decision.hidden != sparse_context(case).hidden).any(-1).sum()
    assert changed == (0 if "recycle" in options else 16)


class Projections(torch.nn.Module):
    """What the attention of a decoder layer needs, with given weights and no norm."""

    def __init__(self, q, k, heads):
        super().__init__()
        self.self_attn = self
        self.head_dim = q.shape[0] // heads
        self.scaling = self.head_dim**-0.5
        self.input_layernorm = torch.nn.Identity()
        self.q_proj, self.k_proj = (lambda x: x @ q.T), (lambda x: x @ k.T)


@pytest.mark.parametrize(("name", "run"), golden_runs("pdrop_stage"))
def test_pyramiddrop(name, run):
    case = Golden(name)
    params, stage = case.params(run), run[-1]
    hidden = case.inputs[f"hidden_{stage}"]
    context = prompt(params["visual_start"], params["n_current"], params["num_text_after"], hidden=hidden)
    layer = Projections(case.inputs[f"wq_{stage}"], case.inputs[f"wk_{stage}"], params["heads"])
    half = layer.head_dim // 2
    angle = torch.arange(hidden.shape[1])[:, None] * params["rope_base"] ** (-torch.arange(half) / half)
    rotary = tuple(torch.cat([f(angle), f(angle)], -1)[None] for f in (torch.cos, torch.sin))
    queries_keys = functools.partial(Llava.queries_keys, None)
    context.attention = lambda query: llm_attention_rows(queries_keys, layer, hidden, rotary, context.valid, query)
    last = torch.tensor([hidden.shape[1] - 1])
    torch.testing.assert_close(context.attention(last)[:, :, 0], case.inputs[f"last_row_{stage}"], atol=1e-6, rtol=1e-4)
    visual = slice(params["visual_start"], params["visual_start"] + params["n_current"])
    kept = PyramidDrop().prune_llm(context, torch.tensor([[params["keep"]]]))[0, visual]
    case.check(run, score=context.last_attention()[0, visual], kept_visual=kept.nonzero()[:, 0])
    case.check(run, features=hidden[:, visual][:, kept])


@pytest.mark.parametrize("name", ["prumerge_mild", "prumerge_peaky"])
def test_prumerge_attention(name):
    case = Golden(name)
    attention = one_head_attention(case.inputs["q_cls"][:, None], case.inputs["keys"])
    share = (outliers(attention).double() / 576)[0]
    case.check("cls_attn", cls_attention=attention, outlier_ratio=share)


@pytest.mark.parametrize(
    ("name", "run"), golden_runs("prumerge_mild", "prumerge_peaky", only=lambda run: run != "cls_attn")
)
def test_prumerge(name, run):
    case = Golden(name)
    params = case.params(run)
    pruner = (PruMergePlus if "plus" in run else PruMerge)(adaptive=params["adaptive"], variant="release")
    taps = {"query": case.inputs["q_cls"][:, None], "keys": case.inputs["keys"]}
    decision = pruner.prune_vision(vision_context(GRID, case.inputs["features"], taps), params["total"])
    assert decision.counts.tolist() == [params["total"]]
    case.check(run, indices=decision.keep[:, :-1], tokens=decision.features)
    assert decision.keep.unique().numel() == params["total"]


@pytest.mark.parametrize(("name", "run"), golden_runs("feather"))
def test_feather(name, run):
    case = Golden(name)
    params = case.params(run)
    grid, pruner = tuple(params["grid"]), Feather(stride=params["stride"])
    q1, k1, q2, k2 = (case.inputs[f"{run}_{key}"] for key in ("q1", "k1", "q2", "k2"))
    kept1 = case.tensors[f"out.{run}.kept1"]

    def context_of(query, keys, **more):
        count = keys.shape[2]
        before = prompt(1, count, 1)

        def attention(last, rotary, among):
            assert (last.tolist(), rotary) == ([count + 1], False)
            logits = functional.pad(query @ keys.mT / keys.shape[-1] ** 0.5, (1, 1))
            return logits.masked_fill(~among[:, None, None], float("-inf")).softmax(-1)

        before.attention = attention
        context = after(before, layouts=[[ImageLayout.single(grid)]], **more)
        context.earlier.setdefault("first", context)
        return context

    stage1 = context_of(q1, k1)
    kept = pruner.prune_llm(stage1, torch.tensor([[len(kept1)]]))[0, 1:-1].nonzero()[:, 0]
    case.check(run, score1=unrotated_scores(stage1.previous)[0, 1:-1], kept1=kept)

    stage2 = context_of(q2, k2, first=stage1)
    stage2.token[0, 1:-1] = kept1
    kept = pruner.prune_llm(stage2, torch.tensor([[params["keep_second"]]]))[0, 1:-1].nonzero()[:, 0]
    case.check(run, score2=unrotated_scores(stage2.previous)[0, 1:-1], kept2_local=kept, kept2=kept1[kept])


@pytest.mark.parametrize(("name", "run"), golden_runs("divprune"))
def test_divprune(name, run):
    case = Golden(name)
    features, keep = case.inputs["features"], case.params(run)["keep"]
    case.check(run, order=max_min(features, keep))
    if run != "ratio0.098":
        decision = nuwa.load_pruner("divprune").prune_vision(vision_context(GRID, features[None], {}), keep)
        case.check(run, kept=decision.keep[0])


@pytest.mark.parametrize(("name", "run"), golden_runs("cdpruner_b2"))
def test_cdpruner_selection(name, run):
    """With the published relevance, from CLIP's joint space and stretched over the batch, the published tokens."""
    case = Golden(name)
    image, text = (functional.normalize(case.inputs[f"{key}_embeds"], dim=-1) for key in ("image", "text"))
    relevance = -(image @ text.T).mean(-1)
    stretched = unit_range(relevance.flatten()).view_as(relevance)
    case.check(run, kept=greedy_map(case.inputs["features"], stretched, case.params(run)["keep"]).sort().values)


@pytest.mark.parametrize(("name", "run"), golden_runs("vispruner_b1_g12", "vispruner_b1_g24", "vispruner_b2_g12"))
def test_vispruner(name, run):
    case = Golden(name)
    params = case.params(run)
    context = vision_context(
        tuple(params["grid"]), case.inputs["features"], {"attention": case.inputs["cls_attention"]}
    )
    pruner = VisPruner(important=params["important_ratio"])
    case.check(run, kept=pruner.prune_vision(context, params["keep"]).keep)


@pytest.mark.parametrize(("name", "run"), golden_runs("hiprune_b1"))
def test_hiprune(name, run):
    case = Golden(name)
    params = case.params(run)
    pruner = HiPrune(anchor_share=params["alpha"], object_layer=params["object_layer"] / 24, variant="release")
    received = (case.inputs["shallow_received"], case.inputs["deep_received"])
    context = vision_context(GRID, torch.zeros(1, 576, 2), dict(zip(pruner.taps, received, strict=True)))
    case.check(run, kept=pruner.prune_vision(context, params["keep"]).keep)


@pytest.mark.parametrize(("name", "run"), golden_runs("dart"))
def test_dart(name, run):
    case = Golden(name)
    params = case.params(run)
    pruner = nuwa.load_pruner("dart", budget=params["max_num"], counting="authors", variant="release")
    assert pruner.schedule(576, 32).llm == ((2, params["kept"]),)
    start, count = params["image_start"], params["image_len"]
    hidden, keys = case.inputs["hidden_normed"], case.inputs["keys"].transpose(1, 2).flatten(2)
    before = prompt(start, count, hidden.shape[1] - start - count, hidden=hidden, keys=lambda: keys)
    context = after(before, final_norm=lambda x: x)
    kept = pruner.prune_llm(context, torch.tensor([[params["kept"]]]))[0, start : start + count]
    case.check(run, kept=kept.nonzero()[:, 0])
    places = torch.arange(hidden.shape[1])[None]
    visual, text = (places >= start) & (places < start + count), places >= start + count
    parts = keys.norm(p=1, dim=-1), visual, text, torch.tensor([params["kept"]])
    own, every = pruner.pivots(*parts)
    every = in_order_of_a_set(every, torch.tensor([0]))
    case.check(run, image_pivots=own.places[0] - start, pivot_order=every.places[0])
    image_first, in_turn = Dart().pivots(*parts)
    case.check(run, text_pivots=in_turn.places[0, 4:])
    assert torch.equal(image_first.places, own.places) and torch.equal(own.places[0], in_turn.places[0, :4])
    own_order = Dart().prune_llm(context, torch.tensor([[params["kept"]]]))[0, start : start + count]
    assert own_order.sum() == params["kept"]
    assert not torch.equal(own_order, kept)  # the order of pivots matters


@pytest.mark.parametrize(("name", "run"), golden_runs("holov_b1"))
def test_holov(name, run):
    case = Golden(name)
    params = case.params(run)
    features = case.inputs["features"]
    context = vision_context(GRID, features, {"attention": case.inputs["cls_attention"][:, None]})
    pruner = HoloV(crops=params["num_crops"], alpha=params["alpha"], variant="release")
    keep = pruner.prune_vision(context, params["keep"]).keep
    case.check(run, indices=keep, tokens=features.gather(1, keep[..., None].expand(-1, -1, features.shape[-1])))
