import random

import numpy as np
import pytest
import torch

from nextword import runtime


def test_preset_follows_the_environment(monkeypatch):
    for name in ("smoke", "cpu"):
        monkeypatch.setenv("NEXTWORD_PRESET", name)
        assert runtime.preset() == name
        assert runtime.by_preset(smoke=1, cpu=2, gpu=3) == {"smoke": 1, "cpu": 2}[name]


def test_preset_without_the_variable_follows_the_machine(monkeypatch):
    monkeypatch.delenv("NEXTWORD_PRESET")
    assert runtime.preset() == ("gpu" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    "variable, value, says", [("NEXTWORD_PRESET", "big", "smoke"), ("NEXTWORD_SEED", "-1", "whole")]
)
def test_wrong_settings_say_what_fits(monkeypatch, variable, value, says):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=says):
        runtime.preset()
        runtime.seed()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that the error speaks of")
def test_gpu_preset_needs_a_gpu(monkeypatch):
    monkeypatch.setenv("NEXTWORD_PRESET", "gpu")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        runtime.preset()


def test_seed_everything_repeats_all_three_generators():
    draws = []
    for _ in range(2):
        runtime.seed_everything(7)
        draws.append((np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]
    with pytest.raises(ValueError, match="seed=-1"):
        runtime.seed_everything(-1)


def test_bf16_can_be_forced_and_autocast_obeys(monkeypatch):
    a = torch.ones(2, 2)
    for value, dtype in (("1", torch.bfloat16), ("0", torch.float32)):
        monkeypatch.setenv("NEXTWORD_BF16", value)
        with runtime.autocast():
            assert (a @ a).dtype == dtype


def test_progress_yields_everything_and_prints_to_stdout(capsys):
    assert list(runtime.progress([3, 1, 2], desc="count")) == [3, 1, 2]
    captured = capsys.readouterr()
    assert "count" in captured.out and "3/3" in captured.out
    assert captured.err == "", "a warning-free book writes nothing to standard error"


def test_busy_compares_load_with_cores(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (64.0, 0, 0), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert runtime.busy()
    monkeypatch.setattr("os.getloadavg", lambda: (0.3, 0, 0), raising=False)
    assert not runtime.busy()


def test_threads_are_set_once(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("NEXTWORD_THREADS", "2")
    assert runtime.set_threads() == 2 == torch.get_num_threads()
    runtime.set_threads(before)
    with pytest.raises(ValueError, match="at least 1"):
        runtime.set_threads(-1)


def test_a_forked_block_leaves_the_random_numbers_outside_as_they_were():
    def draw():
        return random.random(), np.random.randn(), torch.rand(()).item()

    runtime.seed_everything(3)
    draw()  # NumPy keeps the second of a pair of normal numbers for the next call: that must survive too
    before = [draw(), draw()]
    runtime.seed_everything(3)
    draw()
    with runtime.fork_rng(5):
        inside = draw()
    with pytest.raises(KeyError), runtime.fork_rng(5):
        assert draw() == inside
        raise KeyError
    assert [draw(), draw()] == before


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    runtime.replace_file(path, lambda file: file.write(b"old"))

    def breaks(file):
        file.write(b"half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        runtime.replace_file(path, breaks)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]
    with path.open("rb") as reader:  # renamed, not copied: who reads the old file keeps it
        runtime.replace_file(path, lambda file: file.write(b"new"))
        assert reader.read() == b"old" and path.read_bytes() == b"new"
