"""Promises beyond right results: the same bits, large arrays, forks, threads, memory, a quiet import."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastconv
from fastconv import _convolution, models, nn
from fastconv._kernels import team

needs_openmp = pytest.mark.skipif(not team.OPENMP_VERSION, reason="built without OpenMP")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="no /proc here")


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


# ------------------------------------------------------------ the same bits


def every_operation(n, dtype=np.float32):
    """Results of all operations on n images that need borders, cut tiles, several panels and pieces."""
    x, w, bias = normal(n, 15, 13, 9, dtype=dtype), normal(3, 3, 9, 70, dtype=dtype), normal(70, dtype=dtype)
    for (strides, dilations), algorithm in itertools.product([(1, 1), (2, 1), (1, 2)], ["direct", "auto"]):
        how = (strides, "SAME", dilations)
        y = nn.conv2d(x, w, *how, bias=bias, activation="relu", algorithm=algorithm)
        yield y
        yield nn.conv2d_backprop_input(x.shape, w, y, *how, algorithm=algorithm)
        yield nn.conv2d_backprop_filter(x, w.shape, y, *how, algorithm=algorithm)
    few_pixels, kernel = normal(1, 2, n % 2 + 1, 131, dtype=dtype), normal(3, 3, 131, 70, dtype=dtype)
    yield nn.conv2d(few_pixels, kernel, 1, "SAME")
    for groups, filters in ((3, 69), (9, 18)):
        how, kernel = (1, "SAME"), normal(3, 3, 9 // groups, filters, dtype=dtype)
        y = nn.conv2d(x, kernel, *how, groups=groups)
        yield y
        yield nn.conv2d_backprop_input(x.shape, kernel, y, *how, groups=groups)
        yield nn.conv2d_backprop_filter(x, kernel.shape, y, *how, groups=groups)
    yield nn.conv2d_transpose(x, normal(3, 3, 5, 9, dtype=dtype), (n, 29, 25, 5), 2, bias=bias[:5])
    pooled, argmax = nn.max_pool_with_argmax(x, 3, 2, "SAME")
    yield from (pooled, argmax, nn.max_pool_grad(x, pooled, pooled, 3, 2, "SAME"))
    averages = nn.avg_pool2d(x, 3, 2, "SAME")
    yield from (averages, nn.avg_pool_grad(x.shape, averages, 3, 2, "SAME"))
    yield from (nn.relu(x), nn.relu_grad(x, x), nn.bias_add(x, bias[:9]), nn.bias_add_grad(x))
    yield nn.dropout(x, 0.4, seed=5)
    yield from (nn.sigmoid(x), nn.sigmoid_grad(x, x), nn.tanh(x), nn.tanh_grad(x, x))
    for beta in (0.5, 0.75, 0.6):
        response = nn.local_response_normalization(x, 2, 1, 0.3, beta)
        yield from (response, nn.lrn_grad(x[::-1], x, response, 2, 1, 0.3, beta))
    mean, variance = nn.moments(x)
    yield from (mean, variance, nn.batch_normalization(x, mean, variance, bias[:9], bias[9:18], 1e-3))
    for is_training in (True, False):
        yield from nn.batch_normalization_grad(x[::-1], x, mean, variance, bias[:9], 1e-3, is_training)
        behind = {"offset": bias[9:18], "activation": "relu"}
        yield from nn.batch_normalization_grad(x, x, mean, variance, bias[:9], 1e-3, is_training, **behind)
    yield nn.add(x, x[::-1])
    yield from (nn.concat([x, y, x]), *nn.split(x, (2, 7)))
    flat, kernel = x.reshape(n, -1), normal(15 * 13 * 9, 33, dtype=dtype)
    y = nn.dense(flat, kernel, bias[:33], "relu")
    yield from (y, nn.dense_backprop_input(kernel, y), nn.dense_backprop_kernel(flat, y))
    yield from (nn.softmax(y), nn.softmax_cross_entropy_with_logits(nn.softmax(y), y))


def digest(results):
    h = hashlib.sha256()
    for result in results:
        h.update(result.tobytes())
    return h.hexdigest()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 5, 37])
def test_the_same_bits_for_any_number_of_threads(n, dtype, eager_threads):
    digests = set()
    for count in (1, 2, 3, 4, 7):
        with fastconv.num_threads(count):
            digests.add(digest(every_operation(n, dtype)))
    assert len(digests) == 1


def test_the_same_bits_on_every_run(eager_threads):
    with fastconv.num_threads(4):
        assert len({digest(every_operation(3)) for _ in range(20)}) == 1


def test_the_same_bits_on_work_that_is_parallel_by_itself():
    x, w = normal(16, 28, 28, 32), normal(3, 3, 32, 64)
    dy = normal(16, 28, 28, 64)
    flat, kernel = normal(101, 3000), normal(3000, 10)
    digests = {
        digest(
            [
                nn.dense(flat, kernel, num_threads=count),
                nn.conv2d(x, w, 1, "SAME", num_threads=count),
                nn.conv2d_backprop_input(x.shape, w, dy, 1, "SAME", num_threads=count),
                nn.conv2d_backprop_filter(x, w.shape, dy, 1, "SAME", num_threads=count),
            ]
        )
        for count in (1, 2, 3)
    }
    assert len(digests) == 1


def test_the_same_bits_of_a_whole_training(eager_threads):
    x, y = np.abs(normal(48, 784)) / 4, np.arange(48) % 10

    def train(count):
        with fastconv.num_threads(count):
            model = models.DeepCNN(seed=11)
            costs = [model.train(x[i : i + 16], y[i : i + 16])[0] for i in (0, 16, 32)]
            return costs, model.predict(x).tobytes()

    assert train(1) == train(2)


# ------------------------------------------------------------ 64-bit indices

SIDE = 46341  # SIDE**2 is the first square above 2**31


@pytest.fixture(scope="module")
def huge():
    """8.6 GB of zeros that are never written, but for the last pixel, and so take next to no memory."""
    try:
        x = np.zeros((1, SIDE, SIDE, 1), np.float32)
    except MemoryError:
        pytest.skip("no 8.6 GB of address space")
    x[0, -1, -1, 0] = 2
    return x


@pytest.mark.parametrize("threads", [1, 2])
def test_indices_are_64_bits_wide(huge, threads):
    taps = np.arange(25, dtype=np.float32).reshape(
        5, 5, 1, 1
    )  # (SIDE - 5) % 64 == 0: the last window ends at the last pixel
    y = nn.conv2d(huge, taps, 64, "VALID", num_threads=threads)
    assert y.shape == (1, 725, 725, 1)
    assert y[0, -1, -1, 0] == 48 and y.sum() == 48
    dw = nn.conv2d_backprop_filter(huge, taps.shape, np.ones_like(y), 64, "VALID", num_threads=threads)
    assert dw[4, 4, 0, 0] == 2 and dw.sum() == 2
    pooled, argmax = nn.max_pool_with_argmax(huge, 5, 64, "VALID", num_threads=threads)
    assert nn.avg_pool2d(huge, 5, 64, "VALID", num_threads=threads)[0, -1, -1, 0] == np.float32(2 / 25)
    assert pooled[0, -1, -1, 0] == 2 and argmax[0, -1, -1, 0] == SIDE * SIDE - 1


# ------------------------------------------------------------ forks

FORK = """
import multiprocessing, os, time
import numpy as np, fastconv
from fastconv import nn

x, w = np.ones((8, 32, 32, 32), np.float32), np.ones((3, 3, 32, 32), np.float32)

def compute():
    return [float(a.sum()) for a in (
        nn.conv2d(x, w, 1, "SAME"),
        nn.conv2d_backprop_filter(x, w.shape, x, 1, "SAME"),
        nn.max_pool2d(x, 2, 2, "SAME"),
        nn.dropout(x, 0.5, seed=1),
    )]

def same_in_child(queue=None):
    return compute() == expected and fastconv.get_num_threads() == 1

fastconv.set_num_threads(2)
expected = compute()
"""
OS_FORK = (
    FORK
    + """
child = os.fork()
if child == 0:
    os._exit(0 if same_in_child() else 3)
deadline = time.monotonic() + 30
while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
    assert time.monotonic() < deadline, "the child hangs"
    time.sleep(0.01)
assert done[1] == 0, done
assert compute() == expected  # the parent goes on
print("equal")
"""
)
MULTIPROCESSING_FORK = (
    FORK
    + """
def work(queue):
    queue.put(same_in_child())

context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=work, args=(queue,), daemon=True)
child.start()
assert queue.get(timeout=30)
child.join(30)
assert child.exitcode == 0
print("equal")
"""
)


@needs_fork
@pytest.mark.parametrize("code", [OS_FORK, MULTIPROCESSING_FORK], ids=["os.fork", "multiprocessing"])
def test_a_forked_child_computes_the_same_and_does_not_hang(code, python):
    assert python("import warnings; warnings.simplefilter('ignore')\n" + code) == "equal"


# ------------------------------------------------------------ Python threads


def test_python_threads_may_call_at_once(eager_threads):
    expected = [digest(every_operation(n)) for n in range(1, 5)]
    _convolution._found.cache_clear()  # so that the threads plan, too
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda n: digest(every_operation(n)), range(1, 5)))

    def on_two(n):
        with fastconv.num_threads(2):
            return digest(every_operation(n))

    with ThreadPoolExecutor(4) as pool:
        on_teams = list(pool.map(on_two, range(1, 5)))
    assert alone == on_teams == expected


def test_other_python_threads_run_meanwhile():
    x, w = normal(8, 64, 64, 64), normal(3, 3, 64, 64)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        start = time.perf_counter()
        for _ in range(3):
            nn.conv2d(x, w, 1, "SAME", algorithm="direct", num_threads=1)
        quarter = (time.perf_counter() - start) / 4
    finally:
        stop.set()
        ticker.join()
    # Each call takes tens of milliseconds; were the lock held, only the gaps between the calls would show.
    assert sum(start + quarter < t < start + 3 * quarter for t in ticks) > 5


# ------------------------------------------------------------ how many threads

CHOICE = """
import os
if {affinity}:
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
import fastconv
from fastconv import threads
if {process}:
    fastconv.set_num_threads({process})
scope = fastconv.num_threads({scope}) if {scope} else __import__("contextlib").nullcontext()
with scope:
    print(threads.resolve({argument}, 1 << 40), *threads.decide())
"""


@needs_openmp
@pytest.mark.parametrize(
    ("argument", "scope", "process", "fastconv_variable", "omp_variable", "expected"),
    [
        (6, 5, 4, "3", "2", "6 5 with fastconv.num_threads"),
        (None, 5, 4, "3", "2", "5 5 with fastconv.num_threads"),
        (None, None, 4, "3", "2", "4 4 fastconv.set_num_threads"),
        (None, None, None, "3", "2", "3 3 environment variable FASTCONV_NUM_THREADS"),
        (None, None, None, None, "2", "2 2 environment variable OMP_NUM_THREADS"),
    ],
)
def test_who_decides_the_number_of_threads(
    argument, scope, process, fastconv_variable, omp_variable, expected, python
):
    code = CHOICE.format(affinity=False, argument=argument, scope=scope, process=process)
    assert python(code, FASTCONV_NUM_THREADS=fastconv_variable, OMP_NUM_THREADS=omp_variable) == expected


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_the_affinity_decides_last(python):
    code = CHOICE.format(affinity=True, argument=None, scope=None, process=None)
    assert python(code) == "1 1 processor affinity"


@needs_openmp
@pytest.mark.parametrize("variable", ["OMP_PROC_BIND", "OMP_PLACES"])
def test_a_runtime_that_binds_its_threads_takes_no_processor_away(variable, python):
    code = CHOICE.format(affinity=False, argument=None, scope=None, process=None)
    value = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}[variable]
    assert python(code, **{variable: value}) == python(code)


@needs_openmp
def test_fewer_threads_than_asked_for_do_all_of_the_work(python):
    code = """
import numpy as np
from fastconv import nn
x, w = np.random.default_rng(0).random((8, 64, 64, 8)), np.ones((3, 3, 8, 8))
for n in 1, 4:
    y = nn.conv2d(x, w, 1, "SAME", num_threads=n), nn.max_pool_grad(x, x, x, 2, 1, "SAME", num_threads=n)
    print(*(a.sum() for a in y))
"""
    alone = python(code, OMP_THREAD_LIMIT="1")
    assert alone == python(code) and len({*alone.splitlines()}) == 1


def test_small_work_is_serial():
    resolved = []
    decide = fastconv.threads.resolve

    def watch(argument, work):
        resolved.append(decide(argument, work))
        return resolved[-1]

    with pytest.MonkeyPatch.context() as patch, fastconv.num_threads(4):
        patch.setattr(fastconv.threads, "resolve", watch)
        nn.conv2d(normal(1, 8, 8, 3), normal(3, 3, 3, 8), 1, "SAME")
        nn.max_pool2d(normal(1, 8, 8, 3), 2, 2, "SAME")
        nn.relu(normal(100))
        nn.dense(normal(10, 100), normal(100, 10))
    assert resolved == [1] * 4


# ------------------------------------------------------------ memory


@needs_proc
def test_what_is_kept_per_shape_stays_small(python):
    """1,000 shapes may cost 20 MB; these 300 cost next to nothing, long filters and strides or not."""
    grown = python(
        """
import os, random
import numpy as np
from fastconv import nn

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def shapes(n):
    for _ in range(n):
        h, w, c, k = (random.randint(1, 30) for _ in range(4))
        x, f = np.ones((random.randint(1, 4), h, w, c), np.float32), np.ones((3, 3, c, k), np.float32)
        y = nn.conv2d(x, f, 1, "SAME")
        nn.conv2d_backprop_input(x.shape, f, y, 1, "SAME")
        nn.conv2d_backprop_filter(x, f.shape, y, 1, "SAME")
        nn.max_pool_grad(y, nn.max_pool2d(y, 2, 2, "SAME"), y[:, ::2, ::2], 2, 2, "SAME")
        long = np.ones((1, random.randint(1000, 9000), 1, 1), np.float32)
        nn.conv2d(x[..., :1], long, 1, "SAME")
        nn.conv2d_backprop_input((1, w, 99, 1), np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 1)), 99, "SAME")

random.seed(1)
shapes(100)
before = resident()
shapes(300)
print(resident() - before)
"""
    )
    assert int(grown) < 6e6


# ------------------------------------------------------------ importing

IMPORT = """
import os, sys
import numpy as np

def state():
    threads = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
    tiny = np.float32(1e-40) * np.float32(1)
    environment = dict(os.environ), os.popen("env").read()  # Python's copy, and what children get
    return threads, bool(tiny > 0), bool(np.float64(5e-324) * 1 > 0), environment

before = state()
modules = set(sys.modules)
import fastconv
after = state()
assert after == before, (before, after)
print(*sorted(name.split(".")[0] for name in set(sys.modules) - modules))
"""


def test_importing_is_quiet(python):
    """No thread, no environment variable, no floating-point mode; nothing large is loaded."""
    loaded = set(python(IMPORT).split())
    assert not loaded & {"asyncio", "concurrent", "multiprocessing", "subprocess", "urllib"}
    others = loaded - sys.stdlib_module_names - {"fastconv", "numpy", "cython_runtime"}
    assert {name for name in others if not name.startswith("_cython_")} == set()


def test_the_floating_point_mode_stays_the_callers(eager_threads):
    def subnormal():
        return bool(np.float32(1e-40) * np.float32(1) > 0), bool(np.float64(5e-324) * np.float64(1) > 0)

    assert subnormal() == (True, True)
    x = np.full((4, 9, 9, 9), 1e-40, np.float32)
    y = nn.conv2d(x, np.ones((1, 1, 9, 9), np.float32), 1, "SAME", num_threads=2)
    assert subnormal() == (True, True)
    assert (y > 0).all()  # and the kernels compute in that mode


@needs_openmp
def test_the_runtime_is_told_to_spin_briefly_unless_the_user_says_otherwise(python):
    """libgomp's idle threads would keep NumPy's from running; see fastconv._build."""
    code = "import os, sys; os.dup2(1, 2); import fastconv"
    shown = python(
        code, OMP_DISPLAY_ENV="verbose", GOMP_SPINCOUNT=None, OMP_WAIT_POLICY=None, KMP_BLOCKTIME=None
    )
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("not libgomp")
    assert f"GOMP_SPINCOUNT = '{fastconv._build.SPIN_ROUNDS}'" in shown
    shown = python(
        code, OMP_DISPLAY_ENV="verbose", GOMP_SPINCOUNT="777", OMP_WAIT_POLICY=None, KMP_BLOCKTIME=None
    )
    assert "GOMP_SPINCOUNT = '777'" in shown
