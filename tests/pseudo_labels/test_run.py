"""Runs over a data set: what is there is left alone, whatever ended the run before; processes share the work."""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from detectron2.utils import comm

from engine.processes import run_processes
from hostile import refused
from pseudo_labels.stub import MADE_BY, NameModel, make, share
from weakseg.proposals.map_folder import declare_provenance, read_provenance
from weakseg.pseudo_labels import RESULT_FILES, files, run
from weakseg.safe_io import read_label_png, read_npz

ALL = tuple(RESULT_FILES)


def times(folder):
    """Path below `folder` -> when it was written, of all files."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def names(count, *folders):
    suffixes = {kind.folder: kind.suffix for kind in RESULT_FILES.values()}
    files = {f"{folder}/{number}{suffixes[folder]}" for folder in folders for number in range(count)}
    return files | {f"{folder}/provenance.json" for folder in folders}


def check_content(folder, count):
    for number in range(count):
        # House classes cat, background, dog: 1, 0 and 2 in a label PNG.
        assert (read_label_png(folder / f"semantic/{number}.png") == [1, 0, 2][number % 3]).all()
        prototypes = read_npz(folder / f"prototypes/{number}.npz")
        assert prototypes["prototype"][0, 0] == number / 8 and prototypes["prototype_label"] == [number]


def test_every_image_has_its_files(tmp_path):
    model = NameModel(ALL)
    assert make(model, tmp_path, 5) == (5, 0)
    assert model.mode is False and model.seen == [0, 1, 2, 3, 4]
    assert set(times(tmp_path)) == names(5, "semantic", "prototypes", "cams")
    check_content(tmp_path, 5)
    assert np.unique(read_npz(tmp_path / "cams/3.npz")["0"]) == np.float16(0.03)
    assert {read_provenance(tmp_path / kind.folder) for kind in RESULT_FILES.values()} == {MADE_BY}


def test_what_is_there_is_left_alone(tmp_path):
    make(NameModel(ALL), tmp_path, 4)
    before = times(tmp_path)
    model = NameModel(ALL)
    assert make(model, tmp_path, 4) == (0, 4) and model.seen == []
    assert times(tmp_path) == before
    (tmp_path / "cams/1.npz").unlink()
    assert make(model, tmp_path, 6) == (3, 3) and model.seen == [1, 4, 5]
    assert set(times(tmp_path)) == names(6, "semantic", "prototypes", "cams")
    kept = {name for name in before if Path(name).stem != "1"}
    assert {name: time for name, time in times(tmp_path).items() if name in kept} == {n: before[n] for n in kept}


def test_the_workers_of_the_loader(tmp_path):
    assert make(NameModel(), tmp_path, 3, workers=1) == (3, 0)
    assert set(times(tmp_path)) == names(3, "semantic")


def test_a_run_that_ended_within_an_image(tmp_path, monkeypatch):
    """Between the files of an image, or between the declarations of their folders."""

    def stop(*_):
        raise KeyboardInterrupt

    for name in ("_write_npz", "write_png"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(files, name, stop)
            make(NameModel(ALL), tmp_path / name, 2)
        model = NameModel(ALL)
        assert make(model, tmp_path / name, 2) == (2, 0) and model.seen == [0, 1]
        check_content(tmp_path / name, 2)
    declare_provenance(tmp_path / "declared/semantic", MADE_BY, what="maps")
    assert make(NameModel(ALL), tmp_path / "declared", 2) == (2, 0)
    assert set(times(tmp_path / "declared")) == names(2, "semantic", "prototypes", "cams")


def test_half_files_are_removed(tmp_path):
    make(NameModel(("prototypes",)), tmp_path, 1)
    foreign = tmp_path / "semantic/.0.abc.png"
    for path in (tmp_path / "prototypes/.1.abc.npz", foreign):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    make(NameModel(("prototypes",)), tmp_path, 2)
    assert set(times(tmp_path)) == {*names(2, "prototypes"), "semantic/.0.abc.png"}


def test_files_of_another_origin_are_not_mixed_in(tmp_path):
    make(NameModel(("sem_seg",)), tmp_path, 2)
    before = times(tmp_path)
    message = refused(
        "expected pseudo labels made by another; found a stub. Choose another folder",
        *(make, NameModel(("sem_seg",)), tmp_path, 3, "another"),
    )
    assert message.startswith(f"{tmp_path}/semantic: ")
    assert times(tmp_path) == before
    # Another kind of file has a folder of its own.
    assert make(NameModel(("prototypes",)), tmp_path, 3, "another") == (3, 0)
    assert make(NameModel(("sem_seg",)), tmp_path, 3) == (1, 2)
    assert set(times(tmp_path)) == names(3, "semantic", "prototypes")


@pytest.mark.parametrize(("keys", "found"), [((), "none"), (("panoptic_seg", "boundary"), "panoptic_seg, boundary")])
def test_a_result_without_a_known_key_is_refused(keys, found, tmp_path):
    refused(
        rf"photos/0\.jpg: expected pseudo labels of the kinds sem_seg, prototypes, cams; found {found}\. Choose a head",
        *(make, NameModel(keys), tmp_path, 1),
    )
    assert times(tmp_path) == {}


def test_results_of_other_keys_than_before_are_refused(tmp_path):
    make(NameModel(("sem_seg", "cams")), tmp_path, 1)
    refused(
        r"photos/1\.jpg: expected cams, sem_seg, as of the images before; found sem_seg\. Write to an empty folder",
        *(make, NameModel(("sem_seg",)), tmp_path, 2),
    )


def test_an_image_that_fails_ends_the_run_and_keeps_the_others(tmp_path):
    with pytest.raises(FileNotFoundError, match="2: expected evidence"):
        make(NameModel(fails_at=2), tmp_path, 4)
    assert set(times(tmp_path)) == names(2, "semantic")
    assert make(NameModel(), tmp_path, 4) == (2, 2)


def test_folders_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "photos/../photos"):
        refused("--output: expected another folder than that of the images", make, NameModel(), Path(folder), 1)
    (tmp_path / "file").write_text("")
    refused("--output: expected a folder at .*file", make, NameModel(), tmp_path / "file", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/semantic").symlink_to(tmp_path / "photos")
    (tmp_path / "photos").mkdir()
    refused("--output: expected another folder than that of the images", make, NameModel(), tmp_path / "out", 1)


def test_two_images_of_one_name_are_refused(tmp_path, monkeypatch):
    def twice(count, workers):
        loader = original(count, workers)
        loader.dataset.records = [{"file_name": "a/x.jpg"}, {"file_name": "b/x.png"}]
        return loader

    original = make.__globals__["name_loader"]
    monkeypatch.setitem(make.__globals__, "name_loader", twice)
    refused(r"pseudo labels are named after them; found a/x\.jpg and b/x\.png", make, NameModel(), tmp_path, 2)
    assert times(tmp_path) == {}


def test_the_bar_counts_all_images(tmp_path, monkeypatch):
    """The main one of three processes: 10 images, of which 2 are there; the others lie with the other processes."""
    bars = []

    class Bar(run.tqdm):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            bars.append((arguments["initial"], arguments["total"], []))

        def update(self, n):
            super().update(n)
            bars[-1][2].append(self.n)

    monkeypatch.setattr(run, "tqdm", Bar)
    make(NameModel(), tmp_path, 2)
    assert bars.pop() == (0, 2, [1, 2])
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    monkeypatch.setattr(comm, "all_gather", lambda data: [data, None, None])
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    model = NameModel()
    assert make(model, tmp_path, 10) == (8, 2)
    assert model.seen == [2, 5, 8] and bars == [(2, 10, [5, 8, 10])]


def test_a_process_goes_by_what_the_main_one_has_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "all_gather", lambda missing: [[0, 2, 3, 5], missing])
    model = NameModel()
    assert make(model, tmp_path, 6) == (4, 2)
    assert model.seen == [2, 5]


def test_two_processes_share_the_images(tmp_path):
    make(NameModel(("sem_seg", "prototypes")), tmp_path / "out", 2)
    before = times(tmp_path / "out")
    shares = run_processes(share, 2, tmp_path, tmp_path / "out", 9)
    assert shares == [([2, 4, 6, 8], (7, 2)), ([3, 5, 7], (7, 2))]
    after = times(tmp_path / "out")
    assert set(after) == names(9, "semantic", "prototypes") and before.items() <= after.items()
    check_content(tmp_path / "out", 9)


def test_a_killed_run_goes_on(tmp_path):
    """SIGKILL at three moments, one after the other."""
    folder, count = tmp_path / "out", 60
    for target in (3, 17, 31):
        before = times(folder) if folder.exists() else {}
        model = NameModel(ALL, delay=0.03)
        process = multiprocessing.get_context("fork").Process(target=make, args=(model, folder, count))
        process.start()
        deadline = time.monotonic() + 60
        while len(list(folder.glob("cams/[!.p]*"))) < target and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.join()
        after = {name: time for name, time in times(folder).items() if not Path(name).name.startswith(".")}
        assert before.items() <= after.items()
        done = len([name for name in after if name.startswith("cams/") and name.endswith(".npz")])
        assert target <= done < count
        check_content(folder, done)
    assert make(NameModel(ALL), folder, count) == (count - done, done)
    finished = times(folder)
    assert set(finished) == names(count, "semantic", "prototypes", "cams")
    kept = {name for name in after if Path(name).stem in {str(k) for k in range(done)}}
    assert len(kept) == 3 * done and all(finished[name] == after[name] for name in kept)
    check_content(folder, count)
