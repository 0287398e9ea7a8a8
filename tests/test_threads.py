"""How the number of threads is decided: cgroups on made-up trees, environment variables, scopes, errors."""

from __future__ import annotations

import threading

import pytest

import fastconv
from fastconv import threads
from fastconv._convolution import plan, window
from fastconv._kernels import dispatch, team


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    """As in a fresh process without the variables; what a test sets ends with it."""
    for variable in ("FASTCONV_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(threads, "_process", None)
    monkeypatch.setattr(team, "OPENMP_VERSION", team.OPENMP_VERSION or 1)
    threads._default.cache_clear()
    yield
    threads._default.cache_clear()


# ------------------------------------------------------------ cgroups


def tree(root, cgroup, files):
    """A root folder with /proc/self/cgroup and the given files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ("0::/\n", {"cpu.max": ""}, None),
        # the whole path counts: a folder without a limit inside one with a limit, and the least of several
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "100000 50000\n"}, 2),
        ("0::/a/b\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/a/b\n", {"a/c/cpu.max": "100000 100000\n"}, None),
        # version 1
        (
            "5:memory:/m\n4:cpu,cpuacct:/d\n",
            {"cpu/d/cpu.cfs_quota_us": "250000\n", "cpu/d/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        ("4:cpu:/d\n", {"cpu/d/cpu.cfs_quota_us": "-1\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, None),
        (
            "4:cpuset:/d\n",
            {"cpu/d/cpu.cfs_quota_us": "100000\n", "cpu/d/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("4:cpu:/docker/x\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 2),
        # both versions mounted
        (
            "1:cpu:/d\n0::/d\n",
            {
                "cpu/d/cpu.cfs_quota_us": "400000\n",
                "cpu/d/cpu.cfs_period_us": "100000\n",
                "d/cpu.max": "max 100000\n",
            },
            4,
        ),
        ("", {}, None),
    ],
)
def test_cgroup_quota(cgroup, files, quota, tmp_path):
    assert threads.cgroup_quota(tree(tmp_path, cgroup, files)) == quota


def test_a_machine_without_cgroups_has_no_quota(tmp_path):
    assert threads.cgroup_quota(tmp_path) is None


def test_the_quota_lowers_the_affinity_and_never_raises_it(monkeypatch):
    monkeypatch.setattr(threads, "PROCESSORS", 8)
    for quota, expected in [
        (None, (8, "processor affinity")),
        (9, (8, "processor affinity")),
        (8, (8, "processor affinity")),
        (3, (3, "cgroup CPU quota")),
    ]:
        monkeypatch.setattr(threads, "cgroup_quota", lambda quota=quota: quota)
        threads._default.cache_clear()
        assert threads.decide() == expected


# ------------------------------------------------------------ environment


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FASTCONV_NUM_THREADS": "3"}, (3, "environment variable FASTCONV_NUM_THREADS")),
        (
            {"FASTCONV_NUM_THREADS": " 3 ", "OMP_NUM_THREADS": "5"},
            (3, "environment variable FASTCONV_NUM_THREADS"),
        ),
        ({"OMP_NUM_THREADS": "5"}, (5, "environment variable OMP_NUM_THREADS")),
        ({"OMP_NUM_THREADS": "5,2"}, (5, "environment variable OMP_NUM_THREADS")),
        ({"FASTCONV_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, (5, "environment variable OMP_NUM_THREADS")),
    ],
)
def test_environment_variables(variables, expected, monkeypatch):
    for variable, text in variables.items():
        monkeypatch.setenv(variable, text)
    assert threads.decide() == expected
    assert fastconv.get_num_threads() == expected[0]


@pytest.mark.parametrize("text", ["0", "-2", "1.5", "many", "2 3", "0x2"])
def test_a_wrong_environment_variable(text, monkeypatch):
    monkeypatch.setenv("FASTCONV_NUM_THREADS", text)
    with pytest.raises(ValueError, match="FASTCONV_NUM_THREADS") as caught:
        fastconv.get_num_threads()
    assert text in str(caught.value)
    monkeypatch.delenv("FASTCONV_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", text)  # OpenMP's own affair
    assert threads.decide()[1] in ("processor affinity", "cgroup CPU quota")


# ------------------------------------------------------------ scopes


def test_the_innermost_choice_wins():
    outside = fastconv.get_num_threads()
    fastconv.set_num_threads(5)
    assert threads.decide() == (5, "fastconv.set_num_threads")
    with fastconv.num_threads(3):
        assert threads.decide() == (3, "with fastconv.num_threads")
        with fastconv.num_threads(4):
            assert fastconv.get_num_threads() == 4
            fastconv.set_num_threads(6)
            assert fastconv.get_num_threads() == 4
            assert threads.resolve(2, 1 << 40) == 2
        assert fastconv.get_num_threads() == 3
    assert fastconv.get_num_threads() == 6
    fastconv.set_num_threads(None)
    assert fastconv.get_num_threads() == outside


def test_an_error_inside_a_scope_ends_it():
    outside = fastconv.get_num_threads()
    with pytest.raises(KeyError), fastconv.num_threads(outside + 1):
        raise KeyError
    assert fastconv.get_num_threads() == outside


def test_a_scope_holds_for_its_own_python_thread():
    fastconv.set_num_threads(2)
    seen, inside, leave = {}, threading.Barrier(3), threading.Barrier(3)

    def work(n):
        with fastconv.num_threads(n):
            inside.wait(30)
            seen[n] = fastconv.get_num_threads()
            leave.wait(30)

    workers = [threading.Thread(target=work, args=(n,)) for n in (3, 4)]
    for worker in workers:
        worker.start()
    inside.wait(30)
    seen["main"] = fastconv.get_num_threads()
    leave.wait(30)
    for worker in workers:
        worker.join(30)
    assert seen == {3: 3, 4: 4, "main": 2}


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)]
)
def test_wrong_numbers_of_threads(value, error):
    before = fastconv.get_num_threads()
    with pytest.raises(error, match="n must be") as caught:
        fastconv.set_num_threads(value)
    assert str(value) in str(caught.value)
    with pytest.raises(error, match="n must be"), fastconv.num_threads(value):
        pass
    with pytest.raises(error, match="num_threads must be"):
        threads.resolve(value, 1 << 40)
    assert fastconv.get_num_threads() == before


def test_small_work_is_serial_and_more_takes_more():
    grain = threads.GRAIN
    assert [threads.resolve(4, work) for work in (0, 1, grain, 2 * grain - 1)] == [1] * 4
    assert [threads.resolve(4, n * grain) for n in (2, 3, 4, 5, 1000)] == [2, 3, 4, 4, 4]
    assert threads.resolve(1, 1000 * grain) == 1


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_a_convolution_is_as_much_work_as_its_algorithm_multiplies(algorithm):
    # 2x2 tiles of 6x6 points each take 4 results a side of 8.
    found = plan((3, 8, 8, 5), (3, 3, 5, 7), window(1, "SAME", 1, algorithm))
    products = {"direct": 8 * 8, "winograd": 4 * 36 / 9 * (1 + 1 / 3)}[algorithm]
    for computes in ("forward", "input_gradient"):
        assert found._pass(computes).work == (int(3 * products) + threads.PASS) * 3 * 3 * 5 * 7


def test_a_forked_child_and_a_build_without_openmp_take_one(monkeypatch):
    monkeypatch.setattr(threads, "_home", -1)
    assert threads.resolve(4, 1 << 40) == 1
    assert threads.decide() == (1, "forked child")
    monkeypatch.undo()
    monkeypatch.setattr(team, "OPENMP_VERSION", None)
    assert threads.resolve(4, 1 << 40) == 1
    assert threads.decide() == (1, "built without OpenMP")


def test_show_config_says_why(capsys, monkeypatch):
    monkeypatch.setenv("FASTCONV_NUM_THREADS", "3")
    fastconv.show_config()
    printed = capsys.readouterr().out
    assert "threads   3 (from: environment variable FASTCONV_NUM_THREADS)" in printed
    assert fastconv.__version__ in printed and dispatch.selected() in printed and "OpenMP" in printed
