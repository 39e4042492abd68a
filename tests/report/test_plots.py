"""Plots show the numbers of the runs, in files that are the same every time."""

import sys

import pytest
from helpers.made_up import result, runs_of, write

from nuwa.report.__main__ import main
from nuwa.report.figures import points as points_module
from nuwa.report.figures.charts import charts
from nuwa.report.figures.plots import _figure, _plots, write_plots
from nuwa.report.figures.points import METHOD_PARTS, varied_points
from nuwa.report.figures.style import COLOURS, PlotsError, looks


def points_of(results):
    return points_module.points_of(runs_of(results))


SCORES = {"vqa/exact_match": 0.8, "vg/acc@0.5": 0.4, "vg/miou": 0.3}


def scenes(method, average=None, value=0.8, **extra):
    scores = SCORES | {"vqa/exact_match": value}
    return result(method, scores, dataset="scenes", model="tiny_llava", average=average, **extra)


@pytest.fixture
def runs():
    return [
        scenes("none", value=0.9),
        *(scenes("fastv", average, average / 400) for average in (64, 128, 192)),
        *(scenes("nuwa", 64, options={"d_thresh": d}) for d in (18.0, 148.0, 280.0)),
        *(scenes("nuwa", 128, options={"region": r, "random": c}) for r in (True, False) for c in (True, False)),
        scenes("visionzip", 64, status="failed"),
    ]


def test_points(runs):
    points = points_of(runs)
    assert {point.panel for point in points} == {("scenes", "vqa/exact_match"), ("scenes", "vg/acc@0.5")}
    fastv = next(
        p for p in points if p.choices.method == "fastv" and p.tokens == 128 and p.panel[1] == "vqa/exact_match"
    )
    assert (fastv.value, fastv.tflops) == (pytest.approx(32), 1.28)
    assert fastv.errors == (pytest.approx(1.96), pytest.approx(1.96))
    assert {p.choices.options["d_thresh"] for p in varied_points(points, "d_thresh")} == {18, 148, 280}
    parts = varied_points(points, *METHOD_PARTS)
    assert {p.tokens for p in parts} == {128} and len(parts) == 8


def test_seeds_become_one_point():
    runs = [scenes("nuwa", 64, v, run_key=str(v), seed=seed) for seed, v in enumerate((0.5, 0.6, 0.7))]
    point = next(p for p in points_of(runs) if p.panel[1] == "vqa/exact_match")
    both = (19.6**2 + 1.96**2) ** 0.5  # 1.96 of their standard deviation, 10, and of a standard error, 1
    assert point.value == pytest.approx(60) and point.errors == (pytest.approx(both), pytest.approx(both))


def test_seeds_that_agree_are_no_surer_than_one():
    """A method that draws nothing gives the same with every seed; its samples are as few as before."""
    runs = [scenes("grid", 64, 0.99, run_key=str(seed), seed=seed) for seed in range(3)]
    point, single = (next(p for p in points_of(some) if p.panel[1] == "vqa/exact_match") for some in (runs, runs[:1]))
    assert point.errors == pytest.approx(single.errors) and single.errors == pytest.approx((1.96, 1.0))


def test_runs_without_costs_are_not_shown(runs):
    del runs[1]["llm_tflops"], runs[2]["tokens_entering"]
    assert {point.tokens for point in points_of(runs) if point.choices.method == "fastv"} == {192}


def test_runs_on_other_samples_are_no_seeds():
    one, other = scenes("nuwa", 64, 0.5, run_key="a"), scenes("nuwa", 64, 0.7, run_key="b", limit=10)
    newer = scenes("nuwa", 64, 0.9, run_key="c") | {"protocol": 2}
    assert sorted(p.value for p in points_of([one, other, newer]) if p.panel[1] == "vqa/exact_match") == [50, 70, 90]


def test_intervals_stay_within_what_a_share_can_be():
    """Wilson's where the result has it: 8 of 10 are 49.0 to 94.3 %; else standard errors, cut at 0 and 100."""
    with_interval = scenes("nuwa", 64, intervals={"vqa/exact_match": [0.490, 0.943]})
    cut = scenes("nuwa", 64, value=0.99, standard_errors={"vqa/exact_match": 0.02})
    for run, errors in ((with_interval, (31.0, 14.3)), (cut, (3.92, 1.0))):
        point = next(p for p in points_of([run]) if p.panel[1] == "vqa/exact_match")
        assert point.errors == (pytest.approx(errors[0]), pytest.approx(errors[1]))


def drawn(runs, name):
    """The panel of a plot that shows answers to questions."""
    points = points_of(runs)
    whole = [point for point in points if point.choices.method == "none"]
    chosen, draw = next((chosen, draw) for plot, chosen, draw in _plots(points) if plot == name)
    pytest.importorskip("matplotlib")
    figure = _figure(chosen, whole, draw, "")
    return next(axes for axes in figure.axes if axes.get_title() == "scenes: questions, exact match")


def test_what_is_drawn(runs):
    vqa = drawn(runs, "accuracy_tokens")
    lines = {container.get_label(): container.lines[0].get_xydata().tolist() for container in vqa.containers}
    assert lines["FastV, PESP"] == [[64, 16], [128, 32], [192, 48]]
    assert lines["Nüwa, PESP"] == [[64, 80], [128, 80]]
    assert [line.get_ydata() for line in vqa.lines if line.get_label() == "unpruned"] == [[90, 90]]
    curve = drawn(runs, "d_thresh").containers[0]
    assert curve.lines[0].get_xdata().tolist() == [18, 148, 280]
    ours, at_random = (c for c in drawn(runs, "ablation").containers if len(c) == 2)
    assert [bar.get_height() for bar in ours] == [80, 80] and ours.get_label() == "Nüwa, PESP, 128 tokens"
    assert at_random[0].get_hatch() == "//"
    assert drawn(runs, "accuracy_tflops").get_xscale() == "log"


def test_a_method_has_one_colour_and_its_ids_a_filling(runs):
    """Small models cost GFLOPs; ticks stand at the budgets."""
    runs = [run | {"llm_tflops": run["llm_tflops"] / 1000} for run in [*runs, scenes("fastv", 64, position="rpme")]]
    axes = drawn(runs, "accuracy_tflops")
    looks = {container.get_label(): container.lines[0] for container in axes.containers}
    native, stretched = looks["FastV, PESP"], looks["FastV, RPME"]
    assert native.get_color() == stretched.get_color() != looks["Nüwa, PESP"].get_color()
    assert (native.get_fillstyle(), stretched.get_fillstyle()) == ("full", "none")
    assert axes.get_xlabel().startswith("LLM GFLOPs") and native.get_xdata().tolist() == [0.64, 1.28, 1.92]
    tokens = drawn(runs, "accuracy_tokens")
    assert tokens.get_xticks().tolist() == [64, 128, 192] and tokens.get_xlim()[0] < 60 and tokens.get_xlim()[1] > 196


def test_one_budget_is_a_row_of_dots_by_method():
    """The best method on top, every position strategy named and in a colour of its own."""
    runs = [scenes("none", value=0.9)]
    values = {"fastv": (0.1, 0.5), "nuwa": (0.2, 0.8), "visionzip": (0.3, 0.6)}
    for method, (renumbered, original) in values.items():
        runs += [scenes(method, 64, renumbered, position="perc"), scenes(method, 64, original, position="pesp")]
    axes = drawn(runs, "accuracy_methods")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["FastV", "VisionZip", "Nüwa"]
    dots = {container.get_label(): container.lines[0] for container in axes.containers}
    assert set(dots) == {"PERC", "PESP"} and dots["PERC"].get_color() != dots["PESP"].get_color()
    assert sorted(dots["PESP"].get_xdata()) == [50, 60, 80] and sorted(dots["PERC"].get_xdata()) == [10, 20, 30]
    places = dict(zip(dots["PESP"].get_xdata(), dots["PESP"].get_ydata(), strict=True))
    assert [round(places[value]) for value in (50, 60, 80)] == [0, 1, 2]
    assert axes.get_xlabel() == "percent, budget 64 tokens"
    points = points_of(runs)
    assert not any(chosen for name, chosen, _ in _plots(points) if name in ("accuracy_tokens", "accuracy_tflops"))


def test_methods_at_a_budget_each_say_which():
    runs = [scenes("none", value=0.9), scenes("fastv", 64, 0.5), scenes("nuwa", 128, 0.8, position="perc")]
    axes = drawn([*runs, scenes("nuwa", 64, 0.7)], "accuracy_methods")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["FastV, 64 tokens", "Nüwa, 64 tokens", "Nüwa, 128 tokens"] and axes.get_xlabel() == "percent"


def test_lines_stand_in_the_order_of_their_results(runs):
    """In the legend, too; and the axis says what its numbers are."""
    axes = drawn(runs, "accuracy_tokens")
    assert [container.get_label() for container in axes.containers] == ["Nüwa, PESP", "FastV, PESP"]
    assert axes.get_ylabel() == "percent"


def test_colours_do_not_repeat():
    drawn_as = [*looks(279)]
    assert len({look["color"] for look in drawn_as[:31]}) == 31
    assert len({(look["color"], look["marker"]) for look in drawn_as}) == 279


@pytest.mark.parametrize(("count", "gap"), [(7, 0.1), (31, 0.045)])
def test_colours_are_told_apart(count, gap):
    """Any two differ in lightness or hue as seen without red-green vision (Machado 2009, deuteranopia)."""
    seen = []
    for colour in COLOURS[:count]:
        r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        seen.append(
            (0.367 * r + 0.861 * g - 0.228 * b, 0.280 * r + 0.673 * g + 0.047 * b, -0.012 * r + 0.043 * g + 0.969 * b)
        )
    gaps = [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5 for i, x in enumerate(seen) for y in seen[:i]]
    assert min(gaps) > gap


def test_files(runs, tmp_path, capsys):
    names = [f"{plot}_tiny_llava.{form}" for plot in ("accuracy_tokens", "accuracy_tflops", "d_thresh", "ablation")
             for form in ("png", "svg")]  # fmt: skip
    assert main([str(write(tmp_path / "runs", runs)), "--plots", str(tmp_path / "one")]) == 0
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == sorted(names)


def test_the_same_numbers_give_the_same_files(runs, tmp_path):
    """Whatever the order of folders."""
    assert points_of(runs) == points_of(reversed(runs))
    first, second = (
        write_plots(runs_of(part), tmp_path / str(len(part))) for part in (runs[:2], [runs[0], runs[1], runs[-1]])
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_without_matplotlib(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotsError, match=r"\[plots\]"):
        write_plots(runs_of(runs), tmp_path)
    assert main([str(write(tmp_path / "runs", runs))]) == 0  # tables need none


def shown(figure):
    """Names in the order of a chart's legend, and by name what its points are in the panel of questions."""
    row = [note.text for note in figure.layout.annotations].index("scenes: questions, exact match") + 1
    axis = f"x{row if row > 1 else ''}"
    own = [trace for trace in figure.data if trace.xaxis == axis]
    points = {trace.name: [*zip(trace.x, trace.y, strict=True)] for trace in own}
    return [trace.name for trace in figure.data if trace.showlegend], points, own[0]


def test_charts_over_several_budgets(runs):
    timed = [run | {"timings": {"seconds_per_sample": 0.5}} for run in runs]
    found = charts(runs_of(timed))
    assert set(found) == {f"{cost}_tiny_llava" for cost in ("tokens", "tflops", "seconds")}
    legend, points, unpruned = shown(found["tokens_tiny_llava"])
    assert legend == ["Unpruned", "Nüwa, PESP", "FastV, PESP"]
    assert points["FastV, PESP"] == [(64, pytest.approx(16)), (128, pytest.approx(32)), (192, pytest.approx(48))]
    assert points["Unpruned"] == [(576, pytest.approx(90))] and unpruned.error_y.array == pytest.approx([1.96])
    assert unpruned.text[0] == "none all pesp scenes"
    assert shown(found["seconds_tiny_llava"])[1]["Unpruned"] == [(0.5, pytest.approx(90))]
    assert "seconds_tiny_llava" not in charts(runs_of(runs))


def test_a_chart_of_one_budget():
    runs = [scenes("none", value=0.9), scenes("fastv", 64, 0.2), scenes("nuwa", 64, 0.7, position="perc")]
    found = charts(runs_of(runs))
    assert set(found) == {"methods_tiny_llava", "tflops_tiny_llava"}
    _, points, _ = shown(found["methods_tiny_llava"])
    assert points == {"PESP": [(pytest.approx(20), "FastV")], "PERC": [(pytest.approx(70), "Nüwa")]}
    assert found["methods_tiny_llava"].layout.yaxis.categoryarray == ("FastV", "Nüwa")
    layout = found["methods_tiny_llava"].layout
    axes = [layout.xaxis, layout.xaxis2]  # the same limits, whatever the values
    assert {(axis.title.text, *axis.range) for axis in axes} == {("percent, budget 64 tokens", -3, 103)}
    assert charts(runs_of([scenes("nuwa", 64, status="failed")])) == {}


def test_nothing_to_plot(tmp_path):
    with pytest.raises(PlotsError, match="no finished run"):
        write_plots(runs_of([scenes("nuwa", 64, status="failed")]), tmp_path)


def test_a_table_without_plots(tmp_path, capsys):
    """Runs that cannot be plotted stand in the table all the same."""
    place = write(tmp_path / "runs", [scenes("nuwa", 64, status="failed", reason="no luck")])
    assert main([str(place), "--plots", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "no luck" in printed.out and "no finished run to plot" in printed.err
