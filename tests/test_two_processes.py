"""Two gloo processes train and evaluate Point2Mask as one process with the same global batch does."""

import json
from multiprocessing import util
from pathlib import Path

import torch

from tiny import CONFIGS, scenes, shrunk_config
from weakseg.engine.launch import launch
from weakseg.engine.trainer import Trainer

STEPS, MICRO_BATCHES = 3, 2


def note_threads(file):
    names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
    file.write_text(json.dumps(names))


def train_and_test(label_file, folder):
    """Losses of every micro-batch, to losses.json; evaluation of what the single process trained, to results.json."""
    cfg = shrunk_config(
        CONFIGS / "point2mask/voc_r50.yaml",
        label_file,
        folder,
        SOLVER__MAX_ITER=STEPS,
        SOLVER__IMS_PER_BATCH=4,
        SOLVER__ACCUMULATE=MICRO_BATCHES,
        SOLVER__STEPS=(),
        SOLVER__BASE_LR=1e-3,
        INPUT__RANDOM_FLIP="none",
        MODEL__POINT2MASK__OT__WARMUP_ITERS=2,
        MODEL__POINT2MASK__TEST__QUALITY_THRESH_STUFF=0.0,
        MODEL__POINT2MASK__TEST__QUALITY_THRESH_THING=0.0,
    )
    if torch.distributed.is_initialized():
        file = folder / f"threads_{torch.distributed.get_rank()}.json"
        util.Finalize(None, note_threads, (file,), exitpriority=1)
    trainer = Trainer(cfg)
    sums = []
    original = trainer.loss_log.add

    def noted(losses, *others):
        values = torch.stack([losses[name].detach() for name in sorted(losses)])
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(values)
            values /= torch.distributed.get_world_size()
        sums.append(values.tolist())
        return original(losses, *others)

    trainer.loss_log.add = noted
    trainer.train()
    cfg.MODEL.WEIGHTS = str(folder.parent / "one/model_final.pth")
    results = Trainer.evaluate(cfg)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        (folder / "losses.json").write_text(json.dumps(sums))
        (folder / "results.json").write_text(json.dumps(results))


def test_two_processes_equal_one(tmp_path):
    label_file = scenes(tmp_path, count=5)
    for name, processes in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        launch(
            train_and_test,
            processes,
            dist_url=f"file://{tmp_path}/rendezvous",
            args=(label_file, tmp_path / name),
        )
    one, two = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("one", "two"))
    assert len(one) == STEPS * MICRO_BATCHES
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-5, atol=1e-5)
    # Later steps start from updated weights: they agree only if the gradients did.
    assert all(a != b for a, b in zip(one, one[1:]))
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert set(results[0]) == {"panoptic_seg", "sem_seg"}
    assert results[0] == results[1]
    # A thread of gloo that outlives its group can abort the process at its end.
    for rank in (0, 1):
        threads = json.loads((tmp_path / f"two/threads_{rank}.json").read_text())
        assert threads and not [name for name in threads if "gloo" in name]
