"""The benchmarks run, check that both forms agree, and write their tables."""

import argparse
import importlib
import runpy
from pathlib import Path

import pytest
import torch
from detectron2.structures import ImageList

from tiny import SHRINK
from weakseg.safe_io import read_json

TOOLS = Path(__file__).parents[2] / "tools"
TINY_MODEL = [
    str(word)
    for key, value in SHRINK.items()
    if key.startswith("MODEL.") and not key.endswith((".DEVICE", ".TOPK", ".WEIGHTS"))
    for word in (key, value)
]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import benchmarks

    return benchmarks


@pytest.fixture
def module(benchmarks):
    """A benchmark's module by name."""
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def arguments(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_pq_prints_and_writes_a_row_a_size(benchmarks, tmp_path, monkeypatch, capsys):
    arguments = "pq --heights 24 48 --images 3 --pairs 2 --output".split()
    monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments, str(tmp_path / "pq.json")])
    runpy.run_path(TOOLS / "benchmark.py", run_name="__main__")
    printed = capsys.readouterr().out
    assert "| pq 64x48" in printed and "median_ratio" in printed
    rows = read_json(tmp_path / "pq.json")
    assert [row["name"] for row in rows] == ["pq 32x24", "pq 64x48"]
    assert [row["met"] for row in rows] == ["", ""] and "| met" in printed
    for row in rows:
        assert row["pairs"] == 2 and 0 < row["min_ratio"] <= row["median_ratio"] <= row["max_ratio"]
    assert {"literal_exponent", "our_exponent"} <= rows[-1].keys()


@pytest.fixture
def command(benchmarks, monkeypatch, capsys):
    """command(words) -> (exit status, stderr) of the script."""

    def run(words):
        monkeypatch.setattr("sys.argv", [str(TOOLS / "benchmark.py"), *words.split()])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(TOOLS / "benchmark.py", run_name="__main__")
        return end.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("boundary_loss --pairs 0", "--pairs: expected 1 or more; found 0."),
        ("graph_distance --things 0", "--things: expected 1 or more; found 0."),
        ("pq --heights 24 -1", "--heights: expected 1 or more; found -1."),
        ("step --runs 0", "--runs: expected 1 or more; found 0."),
        ("inference --device cuda:99", "--device: expected cpu, or a CUDA device of this machine; found 'cuda:99'."),
        ("memory --device meta", "--device: expected cpu, or a CUDA device of this machine; found 'meta'."),
        ("boundary_loss --heights 4 --things 40", "found one hidden among 40 things at 5x4."),
        ("pq --heights 24 --segments 1", "--segments: expected things and stuff; found one kind only."),
    ],
)
def test_wrong_arguments_end_in_one_sentence(words, sentence, command):
    status, error = command(words)
    assert status == 2 and sentence in error and error.startswith("error: --") and error.count("\n") == 1


def test_a_failed_equality_ends_in_one_sentence(command, module, monkeypatch):
    monkeypatch.setattr(module("boundary_loss"), "_RELATIVE_ERROR", -1.0)
    status, error = command("boundary_loss --heights 48 --things 3")
    assert status == 2 and error.count("\n") == 1
    assert error.startswith("error: boundary loss, 64x48: expected loss and gradient equal")


@pytest.mark.parametrize(
    ("row", "met"),
    [
        ({"median_ratio": 3.0}, ""),
        ({"median_ratio": 4.0, "required_ratio": 4}, "yes"),
        ({"median_ratio": 3.9, "max_ratio": 5.0, "required_ratio": 4}, "no"),
        ({"median_ratio": float("nan"), "required_ratio": 4}, "no"),
        ({"median_ratio": 1.8, "allowed_ratio": 1.8}, "yes"),
        ({"median_ratio": 1.9, "allowed_ratio": 1.8}, "no"),
        ({"share": 0.25, "largest_share": 0.3, "allowed_share": 0.25}, "yes"),
        ({"share": 0.26, "allowed_share": 0.25}, "no"),
        ({"saved_gib": 12.0, "resident_peak_gib": 20.0, "allowed_gib": 12}, "yes"),
        ({"saved_gib": 12.1, "allowed_gib": 12}, "no"),
        ({"saved_gib": 11.0, "allocated_peak_gib": 12.1, "allowed_gib": 12}, "no"),
    ],
)
def test_rows_say_whether_they_meet_their_requirement(row, met, benchmarks):
    assert benchmarks.met(row) == met


def test_every_benchmark_is_a_command(benchmarks, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(TOOLS / "benchmark.py", run_name="__main__")
    printed = capsys.readouterr().out
    files = {path.stem for path in (TOOLS / "benchmarks").glob("*.py") if "HELP = " in path.read_text()}
    assert len(files) >= 8 and all(f"\n    {name} " in printed for name in files)


def test_runs_alternate_after_a_checked_warm_up(benchmarks):
    calls = []
    row = benchmarks.compare(
        "x", lambda: calls.append("a"), lambda: calls.append("b"), lambda a, b: calls.append("c"), pairs=3
    )
    assert "".join(calls) == "abc" + "ab" * 3
    assert row["name"] == "x" and row["pairs"] == 3


def test_the_ratio_is_of_the_pair(benchmarks, monkeypatch):
    clock = iter([0, 6, 6, 8, 10, 14, 14, 15, 20, 22, 22, 23])  # pairs of 6 / 2, 4 / 1 and 2 / 1 seconds
    monkeypatch.setattr(benchmarks.time, "perf_counter", lambda: next(clock))
    row = benchmarks.compare("x", lambda: 1, lambda: 1, lambda a, b: None, pairs=3)
    assert (row["median_ratio"], row["min_ratio"], row["max_ratio"]) == (3, 2, 4)
    assert (row["literal_seconds"], row["our_seconds"]) == (4, 1)


def test_forms_that_disagree_are_not_timed(benchmarks):
    def refuse(literal, ours):
        raise ValueError(f"{literal} is not {ours}")

    with pytest.raises(benchmarks.BenchmarkError, match="x: 1 is not 2"):
        benchmarks.compare("x", lambda: 1, lambda: 2, refuse)


def test_growth_is_the_exponent(benchmarks):
    assert benchmarks.growth([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    rows = [{"literal_seconds": s**2, "our_seconds": 3 * s} for s in (1, 2, 4)]
    assert "literal_exponent" not in rows[0]
    last = benchmarks.add_growth(rows, [1, 2, 4])[-1]
    assert last["literal_exponent"] == pytest.approx(2) and last["our_exponent"] == pytest.approx(1)


def test_a_scene_has_every_object_its_points_and_the_classes_asked_for(module):
    scene = module("scenes").make_scene(96, 128, images=2, things=5, num_things=80, num_stuff=53, stuff_classes=2)
    assert scene.logits.shape == (2, 133, 12, 16) and scene.embedding.shape == (2, 128, 12, 16)
    for b in range(2):
        assert scene.owner[b].unique().tolist() == [-1, 0, 1, 2, 3, 4]
        instance, y, x = scene.points[b].unbind(1)
        assert instance.tolist() == [0, 1, 2, 3, 4] and torch.equal(scene.owner[b, y, x], instance)
        assert torch.equal(scene.point_map[b, y, x], scene.classes[b])
        stuff = scene.semantic[b][scene.owner[b] < 0].unique()
        assert len(stuff) == 2 and stuff.min() >= 80
    assert torch.equal(scene.first().logits, scene.logits[:1]) and len(scene.first().points) == 1
    blocks = module("scenes").make_scene(96, 128, things=5, points_per_target=10, block=2).points[0]
    assert len(blocks) == 5 * 10 * 4


@pytest.mark.parametrize(
    ("name", "rows", "requirements"),
    [
        ("pseudo_labels", 6, [20, 4]),
        ("graph_distance", 3, [5, 5, 5]),
        ("color_losses", 4, [4, 4]),
        ("boundary_loss", 1, [10]),
    ],
)
def test_both_forms_agree_on_small_scenes(name, rows, requirements, module):
    benchmark = module(name)
    table = benchmark.run(arguments(benchmark, "--heights", 48, "--things", 3, "--pairs", 1))
    assert len(table) == rows and all(row["median_ratio"] > 0 and row["pairs"] == 1 for row in table)
    required = [row["required_ratio"] for row in table if "required_ratio" in row]
    assert required == requirements and not any("allowed_ratio" in row for row in table)


@pytest.mark.parametrize(
    ("name", "required"),
    [("pseudo_labels", [10, 10]), ("graph_distance", []), ("color_losses", []), ("boundary_loss", [])],
)
def test_a_gpu_has_its_own_requirements(name, required, module, monkeypatch):
    benchmark, make_scene = module(name), module("scenes").make_scene
    monkeypatch.setattr(benchmark, "make_scene", lambda *size, device, **options: make_scene(*size, **options))
    monkeypatch.setattr(benchmark, "compare", lambda *_, **timing: {"literal_seconds": 1, "our_seconds": 1})
    table = benchmark.run(arguments(benchmark, "--heights", 48, "--things", 3, "--device", "cuda"))
    assert [row["required_ratio"] for row in table if "required_ratio" in row] == required
    assert [row["allowed_ratio"] for row in table if "allowed_ratio" in row] == [1.8] * len(required)


@pytest.fixture
def tiny(module):
    """Arguments of a benchmark of a whole model, with a tiny one."""

    def build(name, *words):
        sizes = ["--height", 96, "--width", 96, "--things", 3]
        return arguments(module(name), *sizes, *words, "--opts", *TINY_MODEL)

    return build


def test_shares_of_a_step_sum_to_one(module, tiny):
    rows = module("step").run(tiny("step", "--runs", 1))
    parts, together = rows[:6], rows[6]
    assert sum(row["share"] for row in parts) == pytest.approx(1)
    assert together["allowed_share"] == 0.25
    assert together["share"] == pytest.approx(sum(row["share"] for row in parts[1:4]))
    assert [row["name"].split(":")[0] for row in rows] == ["phase 1"] * 7 + ["phase 2"] * 7
    assert all(row["seconds"] > 0 for row in rows)


def test_cut_step_has_the_gradients_of_a_plain_one(module, tiny):
    args = tiny("step")
    model_module = module("model")
    model = model_module.build_model(args).train()
    batch = model_module.training_batch(model_module.scene_of(args), model)
    sum(model(batch).values()).backward()
    plain = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    module("step").Step(model, batch, "cpu").gradients()
    for parameter, expected in zip(model.parameters(), plain):
        if expected is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_saved_tensors_are_counted_once_and_parameters_not_at_all(module):
    linear = torch.nn.Linear(8, 4)
    x = torch.zeros(2, 8, requires_grad=True)
    saved = module("memory").SavedTensors(linear)
    with saved:
        ((x * x).sum() + linear(x).sum()).backward()
    assert saved.bytes == 2 * 8 * 4


def test_memory_of_a_step(module, tiny):
    (row,) = module("memory").run(tiny("memory", "--images", 1, "--classes", "voc"))
    (twice,) = module("memory").run(tiny("memory", "--images", 2, "--classes", "voc"))
    assert 1.5 < twice["saved_gib"] / row["saved_gib"] < 2.5 and row["allowed_gib"] == 12
    assert row["resident_peak_gib"] > row["saved_gib"]


def test_inference_paints_the_objects_of_the_scene(module, tiny):
    args = tiny("inference", "--runs", 1)
    rows = module("inference").run(args)
    assert sum(row["share"] for row in rows[:-1]) == pytest.approx(1)
    assert rows[-1]["images_per_second"] == pytest.approx(1 / rows[-1]["seconds"])

    model_module = module("model")
    model, scene = model_module.build_model(args).eval(), model_module.scene_of(args)
    batch = model_module.training_batch(scene, model)
    (result,) = module("inference").predict(model, batch, scene, model_module.PartTimer())
    segments = result["panoptic_seg"][1]
    assert sorted(s["category_id"] for s in segments if s["isthing"]) == sorted(scene.classes[0].tolist())


def test_batch_shows_the_scene(module, tiny):
    model_module = module("model")
    args = tiny("step")
    model, scene = model_module.build_model(args), model_module.scene_of(args)
    batch = model_module.training_batch(scene, model)
    images: ImageList = model.preprocess(batch)
    torch.testing.assert_close(images.tensor[:, :, :96, :96], scene.image, rtol=0.0, atol=0.02)
    weak = batch[0]["weak"]
    x, y = weak.points.long().unbind(1)
    assert torch.equal(scene.point_map[0, y, x], weak.classes) and len(weak) == 3 + 1


def test_parts_are_timed_by_call(module, monkeypatch):
    model_module = module("model")
    clock = iter([0, 2, 5, 6, 6, 9])
    monkeypatch.setattr(model_module.time, "perf_counter", lambda: next(clock))
    timer = model_module.PartTimer()
    owner = argparse.Namespace(work=lambda x: x + 1)
    timer.wrap(owner, "work", "work", change=lambda result: 10 * result)
    timer.start_run()
    assert owner.work(1) == 20 and owner.work(2) == 30  # 2 and 1 seconds
    with timer.measure("rest"):
        pass  # 3 seconds
    assert timer.runs == [{"work": 3, "rest": 3}]
    timer.runs.append({"work": 1})
    work, rest = timer.shares("a ", ["work", "rest"])
    assert work == {"name": "a work", "runs": 2, "seconds": 2, "share": 0.75, "largest_share": 1}
    assert rest["seconds"] == 1.5 and rest["share"] == 0.25 and rest["largest_share"] == 0.5
