"""The command line: what it does, what it says, and how it ends."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fastmaml
from fastmaml.cli import main, parser
from fastmaml.recipes import RECIPES
from fastmaml.recipes.options import options_of
from fastmaml.recipes.run import CHECKPOINTS
from fastmaml.runs import checkpoint
from fastmaml.runs.run_folder import RunFolder

TINY = ["--iterations", "4", "--test-tasks", "6", "--test-steps", "2", "--no-progress"]


def test_train_then_evaluate(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "sinusoid", "--out", out, *TINY, "--shots", "3"]) == 0
    said = capsys.readouterr().out
    assert "6 test tasks, mean ± 95% confidence interval" in said
    assert main(["evaluate", out, "--csv", str(tmp_path / "again.csv")]) == 0
    assert table_of(capsys.readouterr().out) == table_of(said)
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "run" / "evaluation.csv").read_text()


def test_evaluate_on_other_tasks(tmp_path, capsys):
    out = str(tmp_path / "run")
    main(["train", "sinusoid", "--out", out, *TINY])
    capsys.readouterr()
    assert main(["evaluate", out, "--test-shots", "20", "--test-tasks", "9", "--test-steps", "4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("9 test tasks")
    assert len(table_of(said)) == 5


def test_evaluate_takes_one_checkpoint(tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "sinusoid", "--out", str(out), *TINY, "--checkpoint-every", "2"])
    first, last = checkpoint.numbered(out / CHECKPOINTS)
    capsys.readouterr()
    tables = []
    for path in (first, last, out):
        assert main(["evaluate", str(path)]) == 0
        tables.append(table_of(capsys.readouterr().out))
    assert tables[1] == tables[2] != tables[0]


def test_a_finished_run_is_not_trained_again_and_says_so(tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "sinusoid", "--out", str(out), *TINY])
    assert "training: 4 iterations of 25 tasks" in capsys.readouterr().out
    before = checkpoint.numbered(out / CHECKPOINTS)[-1].read_bytes()
    main(["train", "sinusoid", "--out", str(out), *TINY])
    assert f"nothing is trained: the run in {out} has all its 4 iterations" in capsys.readouterr().out
    assert checkpoint.numbered(out / CHECKPOINTS)[-1].read_bytes() == before


def test_fewer_iterations_than_a_run_has_are_said_to_train_nothing(tmp_path, capsys):
    out = str(tmp_path / "run")
    main(["train", "sinusoid", "--out", out, *TINY])
    capsys.readouterr()
    assert main(["train", "sinusoid", "--out", out, *TINY, "--iterations", "3"]) == 0
    said = capsys.readouterr().out
    assert f"nothing is trained: the run in {out} has 4 iterations already, more than the 3 asked for" in said
    main(["train", "sinusoid", "--out", out, *TINY, "--iterations", "6"])
    assert f"training: from iteration 4, where {out} was left, to 6" in capsys.readouterr().out


def test_a_diverged_run_warns_and_ends_with_code_1(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "sinusoid", "--out", out, *TINY, "--inner-lr", "100"]) == 1
    warning = capsys.readouterr().err
    assert warning.startswith("fastmaml: warning: the network diverges: after 1 inner step the mean loss is ")
    assert "6 of 6 tasks" in warning
    assert warning.count("\n") == 1
    assert main(["evaluate", out]) == 1
    assert "diverges" in capsys.readouterr().err


def test_a_diverged_reproduction_draws_warns_and_ends_with_code_1(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    tiny = ["--iterations", "3", "--test-tasks", "4", "--test-queries", "5", "--no-progress", "--inner-lr", "100"]
    assert main(["reproduce", "sinusoid", "--only", "maml", "--out", str(tmp_path), *tiny]) == 1
    assert "warning: MAML at K=5 diverges" in capsys.readouterr().err
    assert (tmp_path / "overview.png").exists()


@pytest.mark.parametrize("experiment", ["sinusoid", "nav2d"])
def test_figures_are_known_to_fail_before_the_work(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["reproduce", experiment, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    assert "pip install 'fastmaml[plots]'; or give --no-figures" in said.err
    assert said.err.count("\n") == 1
    assert "training" not in said.out
    assert not (tmp_path / "run").exists()


def test_without_figures_there_are_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    tiny = ["--iterations", "3", "--test-tasks", "4", "--test-queries", "5", "--no-progress", "--only", "maml"]
    assert main(["reproduce", "sinusoid", "--no-figures", "--out", str(tmp_path), *tiny]) == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        *("figure2.csv", "figure3.csv", "figure6.csv", "table.txt")
    ]
    assert "figure6.csv" in capsys.readouterr().out


def test_places_that_cannot_be_written_are_known_before_the_work(tmp_path, capsys):
    file, out = tmp_path / "file", tmp_path / "run"
    file.touch()
    for name in (file, file / "deep"):
        assert main(["train", "sinusoid", "--out", str(name), *TINY]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"fastmaml: error: --out {name}: ")
        assert "training" not in said.out
    main(["train", "sinusoid", "--out", str(out), *TINY])
    capsys.readouterr()
    assert main(["evaluate", str(out), "--csv", str(out)]) == 2
    said = capsys.readouterr()
    assert f"--csv {out}: is a folder; give the name of a file" in said.err
    assert said.out == ""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_others_is_refused(tmp_path, capsys):
    (tmp_path / "theirs").mkdir(mode=0o500)
    assert main(["train", "sinusoid", "--out", str(tmp_path / "theirs" / "run"), *TINY]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_reproduce_draws_everything(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figures"
    tiny = ["--iterations", "3", "--test-tasks", "4", "--test-queries", "5", "--tuning-tasks", "4", "--no-progress"]
    assert main(["reproduce", "sinusoid", "--out", str(out), *tiny]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if "±" in line and "mean" not in line]
    assert [row[0] for row in rows] == 3 * ["MAML"] + 3 * ["pretrained"] + ["oracle"]
    assert [row[1:4] for row in rows[:3]] == [["1", "0.67", "0.01"], ["5", "0.38", "0.01"], ["10", "0.35", "0.01"]]
    assert [row[-1] for row in rows[:3]] == 3 * ["0.002"]  # ours
    assert rows[5][1:4] == ["10", "2.19", "0.01"]
    for name in ("overview", "figure2", "figure3", "figure6"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    rows = list(csv.DictReader((out / "figure6.csv").open()))
    counted = {(row["method"], row["shots"]) for row in rows}
    assert counted == {(name, k) for name in ("MAML", "pretrained", "oracle") for k in ("5", "10", "20")}
    assert [row["steps"] for row in rows if (row["method"], row["shots"]) == ("MAML", "5")] == [
        str(s) for s in range(11)
    ]
    paper = [row["mse_paper"] for row in rows if row["method"] == "pretrained" and row["mse_paper"]]
    assert paper == ["2.41", "2.23", "2.19"]
    assert (out / "table.txt").read_text().strip() in said


def test_reproduce_maml_alone(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figures"
    tiny = ["--iterations", "3", "--test-tasks", "4", "--test-queries", "5", "--no-progress"]
    assert main(["reproduce", "sinusoid", "--only", "maml", "--out", str(out), *tiny]) == 0
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["maml"]
    assert "0.67" in capsys.readouterr().out
    assert (out / "figure3.png").exists()


def test_verify_and_its_exit_code(capsys, monkeypatch):
    assert main(["verify", "--only", "3-9-2 relu mse T7", "--engine", "functional"]) == 0
    assert "2 of 2 checks passed, 0 failed" in capsys.readouterr().out
    monkeypatch.setattr("fastmaml.verify.verdict.Truth.bound", lambda *arguments: 0.0)
    assert main(["verify", "--only", "3-9-2 relu mse T7", "--engine", "functional"]) == 1
    assert "FAIL functional" in capsys.readouterr().out


def test_doctor_names_versions_and_engines(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("python", "torch", "compiled core", "threads", "sinusoid (1-40-40-1", "omniglot-mlp"):
        assert word in said


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_names_every_option_of_a_recipe(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # argparse breaks lines at hyphens
    with pytest.raises(SystemExit) as ended:
        main(["train", recipe, "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for item in options_of(RECIPES[recipe]):
        assert f"--{item.name.replace('_', '-')} " in said or f"--{item.name.replace('_', '-')}," in said
        assert " ".join(item.help.partition(" [")[0].split()) in said


def test_every_option_can_be_set():
    options = [
        "--ways",
        "3",
        "--shots",
        "2",
        "--inner-lr",
        "0.7",
        "--split",
        "vinyals",
        "--no-test-rotations",
        "--queries",
        "4",
    ]
    parsed = parser().parse_args(["train", "omniglot-mlp", *options])
    assert (parsed.ways, parsed.shots, parsed.inner_lr, parsed.split) == (3, 2, 0.7, "vinyals")
    assert parsed.test_rotations is False
    assert not hasattr(parsed, "meta_batch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "sinusoid", "--meta-batch", "0"], "--meta-batch 0: must be at least 1"),
        (["train", "sinusoid", "--inner-lr", "-1"], "--inner-lr -1.0: must be at least 0"),
        (["train", "omniglot-mlp", "--meta-lr-decay", "30"], "--meta-lr-decay 30.0: must be from 0 to 1"),
        (["train", "sinusoid", "--threads", "0"], "--threads 0: must be at least 1"),
        (["train", "omniglot-mlp", "--data", "nowhere-at-all"], "nowhere-at-all is not a folder"),
        (["evaluate", "no-such-run"], "no-such-run does not exist"),
        (["verify", "--only", "no such case"], "no network's description holds it"),
        (["verify", "--engine", "warp"], "engine: given 'warp'"),
    ],
)
def test_user_errors_are_one_sentence(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("fastmaml: error: ")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "sinusoid", "--meta-batch", "many"], "invalid int value: 'many'"),
        (["train", "sinusoid", "--meta-lr-decay", "cosine"], "invalid float value: 'cosine'"),
        (["train", "sinusoid", "--engine", "warp"], "invalid choice: 'warp'"),
        (["train", "mnist"], "invalid choice: 'mnist'"),
        (["train", "sinusoid", "--out", ""], "argument --out: given an empty name"),
        ([], "arguments are required: COMMAND"),
    ],
)
def test_arguments_that_do_not_parse_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_a_damaged_checkpoint(tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "sinusoid", "--out", str(out), *TINY])
    path = checkpoint.numbered(out / CHECKPOINTS)[-1]
    path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 2
    assert "cut short" in capsys.readouterr().err


def test_a_folder_that_another_run_writes_to(tmp_path, capsys):
    with RunFolder(tmp_path, keep=2):
        assert main(["train", "sinusoid", "--out", str(tmp_path), *TINY]) == 2
    said = capsys.readouterr().err
    assert f"error: log_dir: another run is writing to {tmp_path}; wait for it" in said
    assert said.count("\n") == 1


def test_an_option_of_another_recipe(tmp_path, capsys):
    out = str(tmp_path / "run")
    main(["train", "sinusoid", "--out", out, *TINY])
    capsys.readouterr()
    assert main(["evaluate", out, "--split", "vinyals"]) == 2
    assert "--split is no option of a run of sinusoid" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_with_code_1(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "sinusoid", "--out", out, *TINY, "--inner-lr", "1e30", "--train-steps", "9"]) == 1
    assert "not finite" in capsys.readouterr().err


def test_tracebacks_on_demand(monkeypatch):
    monkeypatch.setenv("FASTMAML_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["evaluate", "no-such-run"])


def test_ctrl_c_saves_and_ends_with_130(tmp_path):
    command = [
        sys.executable,
        "-m",
        "fastmaml",
        "train",
        "sinusoid",
        "--out",
        str(tmp_path),
        "--no-progress",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    wait_until(lambda: (tmp_path / "train.csv").exists() and (tmp_path / "train.csv").read_text().count("\n") > 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    assert checkpoint.numbered(tmp_path / CHECKPOINTS)


def test_a_reader_that_goes_away_is_no_traceback():
    command = f"{sys.executable} -m fastmaml verify --only T7 | head -1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=os.environ
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("Relative error")


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def table_of(said: str) -> list[str]:
    """The rows of the table that start with a number of steps."""
    return [line for line in said.splitlines() if line.strip()[:1].isdigit() and "test tasks" not in line]


def test_version_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith(f"fastmaml {fastmaml.__version__}, torch {torch.__version__}, C++ core for ")


def test_version_of_a_core_that_does_not_load():
    environment = os.environ | {"FASTMAML_ISA": "nonsense"}
    command = [sys.executable, "-m", "fastmaml", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment)
    assert done.returncode == 0
    assert "a C++ core that does not load (" in done.stdout
    assert "nonsense" in done.stdout
    assert done.stdout.count("\n") == 1


def test_version_without_the_core(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastmaml._core", None)
    monkeypatch.delattr(fastmaml, "_core")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.endswith(", no C++ core\n")
