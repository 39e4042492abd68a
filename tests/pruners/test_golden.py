"""Methods against golden data: the authors' own code where it was published, the paper's formulas elsewhere."""

import pytest
import torch
from helpers.golden_cases import Golden, after, golden_runs, prompt, vision_context

from nuwa.pruners.fastv import FastV
from nuwa.pruners.nuwa import Nuwa, key_salience
from nuwa.pruners.nuwa_release import NuwaRelease, release_weights
from nuwa.pruners.pooling import pool
from nuwa.pruners.visionzip import VisionZip
from nuwa.pruning.budget import Budget
from nuwa.pruning.merging import distance_weight
from nuwa.pruning.positions import remap
from nuwa.pruning.selection import regions, text_relevance, top_in_regions, top_quantile, top_tokens

GRID = (24, 24)


def release_context(case):
    layers = case.inputs["hidden_states_16_24"]
    taps = {
        "attention": case.inputs["cls_attention"],
        "states": layers.mean(0),
    }
    return vision_context(GRID, layers[7], taps)


@pytest.mark.parametrize(("name", "run"), golden_runs("nuwa_stage1_b1"))
def test_release_stage1_functions(name, run):
    case = Golden(name)
    params = case.params(run)
    salience = case.inputs["cls_attention"].sum(1)
    layers = case.inputs["hidden_states_16_24"]
    keep = top_in_regions(salience, regions(GRID, 2), params["top_n_per_region"], params["num_keep_per_image"])
    pillar = top_quantile(salience, keep, params["pillar_quantile"])
    weights = release_weights(layers.mean(0), keep, pillar, GRID, params["d_thresh_sq"])
    case.check(run, indices=keep, pillar_mask=pillar, tokens=weights @ layers[7])
    if "weights" in case.runs[run]["outputs"]:
        case.check(run, weights=weights)


@pytest.mark.parametrize(("name", "run"), golden_runs("nuwa_stage1_b1"))
def test_release_stage1(name, run):
    case = Golden(name)
    params = case.params(run)
    pruner = NuwaRelease(d_thresh=params["d_thresh_sq"], budget=Budget(average=params["maintain"]))
    assert pruner.schedule(576, 32).vision == params["stage1_budget"]
    decision = pruner.prune_vision(release_context(case), params["num_keep_per_image"])
    case.check(run, indices=decision.keep, pillar_mask=decision.extras["pillar"], tokens=decision.features)


@pytest.mark.parametrize(("name", "run"), golden_runs("nuwa_ablation_region_l2norm"))
def test_release_ablation_class(name, run):
    case = Golden(name)
    params = case.params(run)
    pruner = NuwaRelease(region=params["use_region"], pillar=params["l2norm_pillars"], ablation_class=True)
    decision = pruner.prune_vision(release_context(case), params["num_keep_per_image"])
    case.check(run, indices=decision.keep, tokens=decision.features)


@pytest.mark.parametrize(("name", "run"), golden_runs("nuwa_distance_penalty"))
def test_distance_weight(name, run):
    case = Golden(name)
    grid, d_thresh = tuple(case.params(run)["grid"]), case.params(run)["d_thresh_sq"]
    if run.startswith("full"):
        case.check(run, penalty=distance_weight(grid, torch.arange(grid[0] * grid[1]), d_thresh))
    else:
        case.check(run, penalty_rows=distance_weight(grid, case.inputs["rows"], d_thresh))


@pytest.mark.parametrize(("name", "run"), golden_runs("nuwa_paper_stage1", only=lambda run: run != "salience"))
def test_paper_stage1(name, run):
    case = Golden(name)
    params = case.params(run)
    taps = {
        "attention": case.inputs["cls_attention"],
        "keys": case.inputs["keys"].transpose(1, 2).flatten(2),
    }
    pruner = Nuwa(d_thresh=params["d_thresh_sq"])
    decision = pruner.prune_vision(vision_context(GRID, case.inputs["features"], taps), params["num_keep"])
    case.check(run, indices=decision.keep, pillar_mask=decision.extras["pillar"], tokens=decision.features)


def test_paper_salience():
    case = Golden("nuwa_paper_stage1")
    salience, norm = key_salience(case.inputs["cls_attention"], case.inputs["keys"].transpose(1, 2).flatten(2))
    case.check("salience", salience=salience, key_norm=norm)


@pytest.mark.parametrize(("name", "run"), golden_runs("nuwa_paper_stage2"))
def test_paper_stage2(name, run):
    case = Golden(name)
    visual, text = case.inputs[f"visual_{run[1:]}"], case.inputs[f"text_{run[1:]}"]
    hidden = torch.cat([visual, text], 1)
    count, keep = visual.shape[1], case.params(run)["keep"]
    score = text_relevance(hidden, torch.arange(hidden.shape[1])[None] >= count)[:, :count]
    case.check(run, score=score, kept=top_tokens(score, keep))
    context = prompt(0, count, text.shape[1], hidden=hidden)
    kept = Nuwa().prune_llm(context, torch.tensor([[keep]]))
    case.check(run, kept=kept[:, :count].nonzero()[None, :, 1])


@pytest.mark.parametrize(("name", "run"), golden_runs("nuwa_stage2_llava"))
def test_release_stage2(name, run):
    case = Golden(name)
    params = case.params(run)
    count, start, original = params["n_visual"], params["visual_start"], params["original_visual"]
    context = after(prompt(start, count, params["num_text_after"], rows=case.inputs[f"last_row_{count}"]))
    kept = NuwaRelease().prune_llm(context, torch.tensor([[params["keep"]]]))[0]
    index = (kept | context.text[0]).nonzero()[:, 0]
    case.check(run, keep_sequence_indices=index, kept_local=kept[start : start + count].nonzero()[:, 0])

    whole = torch.arange(start + original + params["num_text_after"])
    first = torch.cat([whole[:start], start + case.inputs[f"keep_idx_{count}"], whole[start + original :]])
    spans = torch.tensor([start, start + original - 1]).view(2, 1, 1, 1)
    next_id = torch.tensor([[len(whole)]])
    stage1, after1 = remap("pesp", first.view(1, 1, -1), context.image, context.valid, spans, next_id)
    stage2, after2 = remap(
        "pesp", first[index].view(1, 1, -1), context.image[:, index], context.valid[:, index], spans, next_id
    )
    case.check(run, position_ids_stage1=stage1[0], position_ids_stage2=stage2[0])
    assert after1.item() == after2.item() == len(whole)


@pytest.mark.parametrize(("name", "run"), golden_runs("position_strategies"))
def test_positions(name, run):
    case = Golden(name)
    params = case.params(run)
    start, count = params["s"], params["k"]
    whole = start + params["N"] + 3
    visual = start + case.inputs[f"kept_{run[1:]}"]
    ids = torch.cat([torch.arange(start), visual, torch.arange(whole - 3, whole)]).view(1, 1, -1)
    image = torch.full(ids.shape[1:], -1)
    image[:, start : start + count] = 0
    valid = torch.ones_like(image, dtype=torch.bool)
    spans = torch.tensor([start, params["e"]]).view(2, 1, 1, 1)
    for strategy, text_after in (("perc", start + count), ("pesp", whole - 3), ("rpme", whole - 3)):
        new, next_id = remap(strategy, ids, image, valid, spans, torch.tensor([[whole]]))
        case.check(run, **{strategy: new[0, 0, start : start + count]})
        assert new[0, 0, :start].tolist() == list(range(start))
        assert new[0, 0, -3:].tolist() == [text_after, text_after + 1, text_after + 2]
        assert next_id.item() == text_after + 3
        if strategy != "rpme":
            case.check(run, **{f"text_after_{strategy}": new[0, 0, -3]})


@pytest.mark.parametrize(("name", "run"), golden_runs("adaptive_pool"))
def test_pool(name, run):
    case = Golden(name)
    case.check(run, tokens=pool(case.inputs["features"], GRID, tuple(case.params(run)["out"])))


@pytest.mark.parametrize(("name", "run"), golden_runs("visionzip_b2"))
def test_visionzip(name, run):
    case = Golden(name)
    params = case.params(run)
    hidden = case.inputs["hidden_states"]
    taps = {
        "attention": case.inputs["cls_attention"],
        "keys": case.inputs["keys"][:, :, 1:].transpose(1, 2).flatten(2),
        "cls": hidden[:, :1],
    }
    pruner = VisionZip(budget=Budget(average=params["total"]), variant="release")
    assert pruner.schedule(576, 32).vision == params["total"]
    decision = pruner.prune_vision(vision_context(GRID, hidden[:, 1:], taps), params["total"])
    dominant = decision.keep[:, 1 : params["dominant"]] + 1
    cls = torch.zeros(len(hidden), 1, dtype=torch.long)
    case.check(run, tokens=decision.features, dominant_indices=torch.cat([cls, dominant], 1))


@pytest.mark.parametrize(("name", "run"), golden_runs("fastv_selection"))
def test_fastv(name, run):
    case = Golden(name)
    params = case.params(run)
    start, count = params["sys_len"], params["image_len"]
    rows = case.inputs[f"last_row_{params['keep']}"]
    context = after(prompt(start, count, params["seq_len"] - start - count, rows=rows))
    kept = FastV().prune_llm(context, torch.tensor([[params["keep"]]]))[0]
    case.check(
        run,
        score=context.previous.last_attention()[0, start : start + count],
        keep_sequence_indices=(kept | context.text[0]).nonzero()[:, 0],
        kept_visual=kept[start : start + count].nonzero()[:, 0],
    )
