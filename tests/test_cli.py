"""`python -m fastconv` and examples/train_mnist.py: what they print, refuse, save and draw."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import _train, models, plotting
from fastconv.__main__ import main
from fastconv.datasets import mnist
from fastconv.training import Classifier, History

ROOT = Path(__file__).resolve().parent.parent
MODULE = [sys.executable, "-m", "fastconv", "train"]
EXAMPLE = [sys.executable, str(ROOT / "examples" / "train_mnist.py")]
SMALL = ["--model", "simple", "--threads", "1"]
PNG = b"\x89PNG\r\n\x1a\n"


def environment() -> dict[str, str]:
    """For another interpreter to find this fastconv, installed or not."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def part(data: mnist.DataSet, count: int) -> mnist.DataSet:
    return mnist.DataSet(data.images[:count], data.labels[:count])


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """An empty working folder, no data set of the machine, no mirrors, and a sample of 60 digits."""
    train, _, test = mnist.load_sample()
    few = mnist.DataSets(part(train, 60), part(train, 0), part(test, 100))
    monkeypatch.setattr(mnist, "load_sample", lambda: few)
    monkeypatch.delenv("FASTCONV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "MIRRORS", ())
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def train(capsys):
    """train(*options): the lines that training the smallest network for an epoch prints."""

    def run(*options: str) -> list[str]:
        assert main(["train", *SMALL, "--epochs", "1", *options]) == 0
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def refused(capsys, monkeypatch):
    """refused(*arguments): the one line with which they are refused, before anything is trained."""

    def fit(*_args, **_options):
        raise AssertionError("trained")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(Classifier, "fit", fit)
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        out, err = capsys.readouterr()
        assert (exit_.value.code, err.count("\n")) == (2, 1) and "Learning" not in out
        return err

    return run


def save_idx(folder: Path, height: int, width: int, classes: int) -> Path:
    """The four files of a data set of noise: 5,000 images for validation, 100 to train and 100 to test."""
    folder.mkdir()
    for name in mnist.SHA256:
        shape = (5100 if "train" in name else 100, height, width)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        array = noise if "images" in name else (np.arange(len(noise)) % classes).astype(np.uint8)
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / name).write_bytes(head + array.tobytes())
    return folder


# ---- what is printed ------------------------------------------------------------------------------


def test_the_lines_are_the_documents(train):
    lines = train("--sample", "--no-figure", "--epochs", "2")
    patterns = [
        r"Sample: 60 training images, each also moved by a pixel to the four sides",
        r"SimpleCNN, 50,090 parameters\. Training images: 300, epochs: 2, threads: 1, accuracy on 100 .*",
        r"Learning started\. It takes sometime\.",
        r"Epoch: 0001 cost = \d+\.\d{9} accuracy = [01]\.\d{4}",
        r"Epoch: 0002 cost = \d+\.\d{9} accuracy = [01]\.\d{4}",
        r"Learning Finished!",
        r"Accuracy: [01]\.\d{4}",
        r"Label:  \[\d\]",
        r"Prediction:  \[\d\]",
        r"Speed: [\d,]+ images/s \(600 images in \d+\.\d s\)",
    ]
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    assert lines[4].split()[-1] == lines[6].split()[-1]  # the watched images are the test's


@pytest.mark.usefixtures("eager_threads")
def test_one_seed_gives_the_same_lines_with_any_number_of_threads(train):
    one, two, other = (
        train("--sample", "--no-figure", "--threads", threads, "--seed", seed)[3:-1]
        for threads, seed in (("1", "3"), ("2", "3"), ("2", "4"))
    )
    assert one == two != other


def test_both_entries_are_one_program(tmp_path):
    options = ["--data", str(save_idx(tmp_path / "set", 28, 28, 10)), "--epochs", "1", "--no-figure"]
    printed = []
    for command in (MODULE, EXAMPLE):
        done = subprocess.run(
            [*command, *options, *SMALL], env=environment(), capture_output=True, text=True, timeout=100
        )
        assert (done.returncode, done.stderr) == (0, "")
        printed.append(done.stdout.splitlines()[:-1])  # the last has the seconds
    assert printed[0] == printed[1]
    assert printed[0][-3].startswith("Accuracy: ")


@pytest.mark.parametrize(
    ("name", "parameters"), [("deep", "1,379,"), ("layers", "1,379,"), ("lenet", "61,706")]
)
def test_other_models(capsys, name, parameters):
    arguments = ["train", "--sample", "--no-figure", "--epochs", "1", "--threads", "1"]
    assert main([*arguments, "--model", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{_train.MODELS[name]().name}, {parameters}")
    assert lines[5].startswith("Accuracy: ")


def test_info(capsys):
    assert main(["info"]) == 0
    assert f"fastconv  {fastconv.__version__}" in capsys.readouterr().out


# ---- data -----------------------------------------------------------------------------------------


def test_offline_trains_on_the_sample_and_says_so(train):
    line = train("--no-figure")[1]
    assert line.startswith("Training on the sample of MNIST that fastconv ships: MNIST is neither in ")
    assert all(way in line for way in ("--data DIR", "FASTCONV_DATA=DIR", 'pip install "fastconv[examples]"'))


def test_data_of_a_folder(tmp_path, train):
    line = train("--no-figure", "--data", str(save_idx(tmp_path / "set", 28, 28, 10)))[0]
    assert "Training images: 100," in line and "accuracy on 5,000 validation images" in line


def test_data_that_do_not_fit(tmp_path, refused, monkeypatch):
    small, letters = save_idx(tmp_path / "small", 3, 4, 10), save_idx(tmp_path / "letters", 28, 28, 26)
    assert "the data have 12 and 10" in refused("train", "--data", str(small))
    assert "the data have 784 and 26" in refused("train", "--data", str(letters))
    monkeypatch.setenv("FASTCONV_DATA", str(letters))
    assert "the data have 784 and 26" in refused("train")
    (small / "t10k-labels-idx1-ubyte").write_bytes(b"nonsense")
    assert "t10k-labels-idx1-ubyte" in refused("train", "--data", str(small))
    (small / "t10k-labels-idx1-ubyte").unlink()
    assert "lacks t10k-labels-idx1-ubyte" in refused("train", "--data", str(small))


def test_shifts_of_the_whole(tmp_path, train):
    folder = str(save_idx(tmp_path / "set", 28, 28, 10))
    assert "Training images: 500," in train("--no-figure", "--shifts", "--data", folder)[0]
    assert "Training images: 300," in train("--no-figure", "--shifts", "--sample")[1]  # once is enough


def test_the_samples_shifts():
    image = np.zeros((1, 28, 28), np.float32)
    image[0, 0, 5] = image[0, 10, 27] = 1  # at the borders: shifted out, not around
    moved = _train.with_shifts(mnist.DataSet(image.reshape(1, 784), np.eye(10)[[3]]))
    places = [np.argwhere(picture).tolist() for picture in moved.images.reshape(-1, 28, 28)]
    assert sorted(places) == sorted(
        [[[0, 5], [10, 27]], [[1, 5], [11, 27]], [[9, 27]], [[0, 6]], [[0, 4], [10, 26]]]
    )
    assert moved.labels.argmax(axis=1).tolist() == [3] * 5


# ---- refusals and interrupts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "'fly'"),
        (["train", "extra"], "extra"),
        (["train", "--epochs", "0"], "--epochs: must be a whole number, at least 1, not '0'"),
        (["train", "--epochs", "1.5"], "--epochs: .*'1.5'"),
        (["train", "--batch-size", "-1"], "--batch-size: .*'-1'"),
        (["train", "--threads", "0"], "--threads: .*'0'"),
        (["train", "--seed", "-1"], "--seed: .*'-1'"),
        (["train", "--model", "huge"], "--model: .*'huge'"),
        (["train", "--sample", "--data", "."], "--data: not allowed with .*--sample"),
        (["train", "--data", "nowhere"], "--data: .*'nowhere' holds none"),
        (["train", "--save", "nowhere/x"], "--save: there is no folder '.*nowhere'"),
        (["train", "--save", "."], "--save: '.' is a folder"),
        (["train", "--figure", "nowhere/x.png"], "--figure: there is no folder '.*nowhere'"),
        (["train", "--figure", "x.png", "--no-figure"], "--no-figure: not allowed with .*--figure"),
    ],
)
def test_refusals(refused, arguments, message):
    assert re.search(message, refused(*arguments))


def test_interrupt(capsys, monkeypatch):
    def step(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "_step", step)
    assert main(["train", "--sample", "--save", "model", "--no-figure"]) == 130
    assert capsys.readouterr().err == "Interrupted: nothing was saved\n"
    assert os.listdir() == []


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c(tmp_path):
    options = ["--data", str(save_idx(tmp_path / "set", 28, 28, 10)), "--epochs", "100000"]
    command = [*MODULE, *options, *SMALL]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not process.stdout.readline().startswith("Epoch: 0001"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "Interrupted: nothing was saved\n")


# ---- what is written ------------------------------------------------------------------------------


def test_the_saved_file_loads(train):
    lines = train("--sample", "--no-figure", "--save", "model")
    assert lines[-1] == "Parameters: model" and os.listdir() == ["model"]
    model = models.SimpleCNN(seed=9)
    model.load("model")
    test = mnist.load_sample().test
    assert f"Accuracy: {model.get_accuracy(test.images, test.labels):.4f}" in lines


def test_without_matplotlib(train, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert train("--sample")[0] == ('No figure: it needs matplotlib: pip install "fastconv[examples]"')
    assert "it needs matplotlib" in refused("train", "--sample", "--figure", "x.png")


def test_the_figure_of_a_run(train):
    pytest.importorskip("matplotlib")
    assert train("--sample")[-1] == f"Figure: {_train.FIGURE}"
    assert train("--sample", "--figure", "other.svg")[-1] == "Figure: other.svg"
    assert sorted(os.listdir()) == ["other.svg", _train.FIGURE]
    assert Path(_train.FIGURE).read_bytes().startswith(PNG)


def test_a_figure_of_an_unknown_kind(refused):
    pytest.importorskip("matplotlib")
    assert re.search(r"--figure: 'x.exe' must end in .*\.png", refused("train", "--figure", "x.exe"))


def history(epochs: int, validated: bool = True) -> History:
    curve = np.linspace(0.9, 0.99, epochs).tolist()
    watched = curve if validated else []
    return History(curve, curve, watched, watched, [1.0] * epochs, [300.0] * epochs)


@pytest.mark.parametrize(
    ("epochs", "validated", "wrong", "headline"),
    [
        (5, True, 0, "100 of 100 test images right (100.00%)"),
        (1, False, 3, "97 of 100 test images right (97.00%)"),
        (2, True, 100, "0 of 100 test images right (0.00%)"),
    ],
)
def test_training_figure(tmp_path, epochs, validated, wrong, headline):
    pytest.importorskip("matplotlib")
    test = mnist.load_sample().test
    labels = test.labels.argmax(axis=1)
    predictions = labels.copy()
    predictions[:wrong] = (predictions[:wrong] + 1) % 10
    figure = plotting.training_figure(history(epochs, validated), test.images, test.labels, predictions)
    figure.savefig(tmp_path / "x.png")
    assert figure.get_suptitle() == headline
    loss, accuracy, confusion, *mistakes = figure.axes
    assert [len(axes.lines) for axes in (loss, accuracy)] == [1 + validated] * 2
    cells = [(*text.get_position(), int(text.get_text())) for text in confusion.texts]
    assert sum(count for *_, count in cells) == 100
    assert sum(count for column, row, count in cells if column == row) == 100 - wrong
    titles = [axes.get_title() for axes in mistakes if axes.get_title()]
    assert len(titles) == min(wrong, plotting.MISTAKES)
    arrow = "\N{RIGHTWARDS ARROW}"
    assert titles == [f"{label} {arrow} {(label + 1) % 10}" for label in labels[: len(titles)]]


def test_training_figure_refuses_sizes_that_disagree():
    pytest.importorskip("matplotlib")
    test = mnist.load_sample().test
    with pytest.raises(ValueError, match="equally many, not 100, 100 and 7"):
        plotting.training_figure(history(1), test.images, test.labels, np.zeros(7, int))
    with pytest.raises(ValueError, match=r"images must hold at least one, not shape \(0, 784\)"):
        plotting.training_figure(history(1), np.zeros((0, 784)), [], [])


def test_training_figure_draws_images_of_any_sides():
    pytest.importorskip("matplotlib")
    figure = plotting.training_figure(history(1), np.ones((2, 5, 7)), [0, 1], [1, 1])
    assert figure.axes[3].images[0].get_array().shape == (5, 7)


def test_drawing_leaves_pyplot_alone(python):
    pytest.importorskip("matplotlib")
    code = (
        "import sys, numpy as np\n"
        "from fastconv import plotting, training\n"
        "history, images = training.History([1.0], [0.5]), np.zeros((2, 784))\n"
        "plotting.training_figure(history, images, [0, 1], [0, 0]).savefig(sys.stdout.buffer, format='svg')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert "<svg" in python(code)
