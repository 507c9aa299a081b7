"""Wrong input ends in one sentence and status 2; a fault of the program keeps its traceback."""

import traceback

import numpy as np
import pytest
from torch.multiprocessing import ProcessRaisedException
from torch.utils.data import DataLoader, Dataset

from weakseg.engine import load_config, run_command
from weakseg.safe_io import read_json

SENTENCE = "Options: expected pairs KEY VALUE; found 1 words (SEED). Add what is missing."


def wrong_options(*_) -> None:
    load_config("", ["SEED"])


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise wrong_options()


def ended(main, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_success_is_silent(capsys):
    run_command(lambda: None)
    assert capsys.readouterr() == ("", "")


def test_wrong_value_is_one_sentence(capsys):
    assert ended(wrong_options, capsys) == f"error: {SENTENCE}\n"


def test_missing_file_is_one_sentence(capsys, tmp_path):
    text = ended(lambda: read_json(tmp_path / "labels.json"), capsys)
    assert text.startswith(f"error: {tmp_path}/labels.json: expected a JSON file; found nothing")
    assert text.count("\n") == 1


def test_error_of_a_worker_of_the_loader_is_one_sentence(capsys):
    assert ended(lambda: list(DataLoader(Broken(), num_workers=1)), capsys) == f"error: {SENTENCE}\n"


def test_error_of_a_process_is_one_sentence(capsys):
    def main():
        try:
            list(DataLoader(Broken(), num_workers=1))
        except ValueError as error:
            text = "".join(traceback.format_exception(error))
            raise ProcessRaisedException(
                f"\n\n-- Process 1 terminated with the following error:\n{text}", 1, 7
            ) from None

    assert ended(main, capsys) == f"error: {SENTENCE}\n"


def test_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ValueError, match="broadcast"):
        run_command(lambda: np.zeros(2) + np.zeros(3))
    with pytest.raises(TypeError):
        run_command(lambda: load_config(3, 4))


def test_fault_in_a_process_keeps_its_traceback():
    text = 'Traceback (most recent call last):\n  File "/other/place.py", line 3, in f\nValueError: no\n'
    with pytest.raises(ProcessRaisedException, match="other/place"):
        run_command(lambda: _raise(ProcessRaisedException(text, 1, 7)))


def _raise(error: Exception) -> None:
    raise error
