"""The host code of the device layer, end to end: the library loads a stand-in for NVIDIA's driver, which runs the
kernels in the emulation. `lc.selftest(device="cuda")` launches all of them."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llmjp_core as lc
from cuda_on_cpu.emulator import Kernels
from cuda_on_cpu.runner import Runner
from llmjp_core import _core

COMPILER, TARGETS, OPS, KERNELS = _core.cuda.built()
pytestmark = pytest.mark.skipif(not OPS, reason=f"this build has no CUDA kernels: {lc.cuda.missing()}")

# What cuBLASLt multiplies.
PRODUCTS = {"linear", "linear_cross_entropy"}

SELFTEST = "import llmjp_core as lc; lc.selftest(device='cuda')"
TARGET = "from llmjp_core import _core; print(_core.cuda.target(0, 'rms_norm'))"


def selftest_of(kernel: str) -> str:
    """The ops alone that launch a kernel: attention takes as long as all others."""
    ops = PRODUCTS if kernel == "matmul" else {op for op in OPS if kernel.startswith(f"{op}_")}
    return f"from llmjp_core import _core; assert all(check[3] for check in _core.cuda.selftest(0, {sorted(ops)}))"


def test_every_kernel_is_launched_and_right(run: Runner) -> None:
    done = run("llmjp_core", "selftest", "--device", "cuda", "--verbose")
    assert done.code == 0, done.out + done.error
    assert "WRONG" not in done.out and "(cuda:0 (Stand-in 0) sm_90 kernels)" in done.out
    assert done.launched == set(KERNELS)
    tested = {line.split()[1].partition(".")[0] for line in done.out.splitlines() if line.startswith("ok ")}
    assert tested == {*OPS, *PRODUCTS}
    assert done.log[-1] == "alive 0", "memory of the device was not freed"


def test_the_ptx_has_all_of_them_too(run: Runner) -> None:
    done = run(SELFTEST, LLMJP_CUDA_CODE="ptx")
    assert done.code == 0, done.error
    assert {line.split()[1] for line in done.log if line.startswith("module")} == {"compute_80"}
    assert done.launched == set(KERNELS)


@pytest.mark.parametrize(
    ("variables", "target"),
    [
        ({"CUDA_ON_CPU_CAPABILITY": "80"}, "sm_80"),
        ({"CUDA_ON_CPU_CAPABILITY": "86"}, "sm_86"),
        ({"CUDA_ON_CPU_CAPABILITY": "87"}, "sm_86"),
        ({"CUDA_ON_CPU_CAPABILITY": "89"}, "sm_89"),
        ({"CUDA_ON_CPU_CAPABILITY": "90"}, "sm_90"),
        ({"CUDA_ON_CPU_CAPABILITY": "120"}, "compute_80"),
        ({"CUDA_ON_CPU_NO_BINARY": "1"}, "compute_80"),
        ({"LLMJP_CUDA_CODE": "ptx"}, "compute_80"),
    ],
    ids=str,
)
def test_the_code_that_fits_is_loaded(run: Runner, variables: dict[str, str], target: str) -> None:
    done = run(TARGET, **variables)
    assert done.out == target, done.error
    assert [line.split()[1] for line in done.log if line.startswith("module")] == [target]


@pytest.mark.parametrize(
    ("variables", "texts"),
    [
        ({"CUDA_ON_CPU_DEVICES": "0"}, ["CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"]),
        ({"CUDA_ON_CPU_DRIVER": "11080"}, ["too old", "CUDA 11.8", "12.0 is needed", "driver 525"]),
        ({"CUDA_ON_CPU_CAPABILITY": "75"}, ["compute capability 7.5", "8.0 (Ampere) or later"]),
        ({"CUDA_ON_CPU_POOLS": "0"}, ["no pools of memory"]),
        ({"CUDA_ON_CPU_MEMORY": "6000"}, ["OUT_OF_MEMORY", "of 6000 bytes are free", "make the batch smaller"]),
        ({"CUDA_ON_CPU_BLAS": "3"}, ["starting cuBLASLt", "CUBLAS_STATUS_ALLOC_FAILED", "make the batch smaller"]),
        ({"LLMJP_CUDA_CODE": "sass"}, ["LLMJP_CUDA_CODE must be `ptx`", "`sass`"]),
        (
            {"CUDA_ON_CPU_CAPABILITY": "120", "CUDA_ON_CPU_NO_PTX": "1"},
            ["loading the kernels of embedding (compute_80)", "UNSUPPORTED_PTX_VERSION", "newer NVIDIA driver"],
        ),
        (
            {"CUDA_ON_CPU_FAIL": "rms_norm_fwd_f32:701"},
            ["rms_norm_fwd_f32 of shape [5, 33]", "Stand-in 0", "grid [5, 1], block [32, 1]", "OUT_OF_RESOURCES"],
        ),
        (
            {"CUDA_ON_CPU_FAIL_LATER": "rms_norm_fwd_f32:700"},
            ["waiting for the kernels", "ILLEGAL_ADDRESS", "CUDA_LAUNCH_BLOCKING=1"],
        ),
        (
            {"CUDA_ON_CPU_FAIL_LATER": "rms_norm_fwd_f32:719", "CUDA_LAUNCH_BLOCKING": "1"},
            ["launching rms_norm_fwd_f32 of shape [5, 33]", "LAUNCH_FAILED"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_goes_wrong_is_said(run: Runner, variables: dict[str, str], texts: list[str]) -> None:
    run(SELFTEST, **variables).failed_with(*texts)


def test_without_a_device(run: Runner) -> None:
    program = "import llmjp_core as lc; print(lc.cuda.is_available(), lc.cuda.device_count(), lc.cuda.missing())"
    assert run(program, CUDA_ON_CPU_DEVICES="0").out.startswith("False 0 starting the NVIDIA driver: CUDA_ERROR_NO_DEV")
    done = run("llmjp_core", "selftest", "--device", "cuda", CUDA_ON_CPU_DEVICES="0")
    assert done.code == 1 and done.error.startswith("llmjp-core selftest: starting the NVIDIA driver"), done.error


def test_several_devices(run: Runner) -> None:
    names = "lc.cuda.device_count(), lc.cuda.get_device_name(), lc.cuda.get_device_name('cuda:1')"
    done = run(f"import llmjp_core as lc; print(lc.cuda.is_available(), {names})", CUDA_ON_CPU_DEVICES="2")
    assert done.out == "True 2 Stand-in 0 Stand-in 1"
    done = run("llmjp_core", "selftest", "--device", "cuda:1", CUDA_ON_CPU_DEVICES="2")
    assert done.code == 0 and "(cuda:1 (Stand-in 1) sm_90 kernels)" in done.out, done.error
    run("import llmjp_core as lc; lc.cuda.get_device_name(2)", CUDA_ON_CPU_DEVICES="2").failed_with("there are 2")


def test_info_tells_the_devices(run: Runner) -> None:
    done = run("llmjp_core", "info", "--json", CUDA_ON_CPU_DEVICES="2", CUDA_ON_CPU_CAPABILITY="86")
    devices = json.loads(done.out)["devices"]
    assert devices["cuda:1"] == "Stand-in 1 (compute capability 8.6, 0 GiB), kernels for sm_86"
    assert not [line for line in done.log if line.startswith(("module", "launch"))], "asking must load nothing"


def test_a_forked_process_is_told(run: Runner) -> None:
    program = "import os, llmjp_core as lc; assert lc.cuda.is_available(); os.fork() or lc.selftest(device='cuda')"
    done = run(program)
    assert "DeviceError" in done.error and "start it with the method `spawn`" in done.error


def test_two_threads_at_once(run: Runner) -> None:
    """Each thread must turn to the device itself."""
    done = run("""
import threading, llmjp_core as lc
results = {}
def test(i): results[i] = lc.selftest(device="cuda")
threads = [threading.Thread(target=test, args=(i,)) for i in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(results), results[0] == results[1])
""")
    assert done.out == "2 True", done.error


@pytest.fixture
def without_blas(driver: Path, tmp_path: Path) -> Runner:
    """The driver alone."""
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "libcuda.so.1").symlink_to((driver / "libcuda.so.1").resolve())
    return Runner(folder, tmp_path)


# Python's folders without those that hold packages of NVIDIA, and one more.
FOLDERS = f"""
import os, sys, numpy
os.symlink({str(Path(lc.__file__).parent)!r}, os.environ["FOLDER"] + "/llmjp_core")
sys.path = [os.environ["FOLDER"], *[path for path in sys.path if not os.path.isdir(path + "/nvidia")]]
"""


def test_without_cublaslt(without_blas: Runner, tmp_path: Path) -> None:
    done = without_blas(FOLDERS + SELFTEST, FOLDER=str(tmp_path))
    done.failed_with("libcublasLt.so.12", "pip install nvidia-cublas-cu12", "LD_LIBRARY_PATH")
    assert "launch rms_norm_fwd_f32" in "".join(done.log), "kernels need no cuBLASLt"


def test_cublaslt_of_pip_is_found(without_blas: Runner, driver: Path, tmp_path: Path) -> None:
    place = tmp_path / "nvidia/cublas/lib"
    place.mkdir(parents=True)
    (place / "libcublasLt.so.12").symlink_to((driver / "libcublasLt.so.12").resolve())
    done = without_blas(FOLDERS + SELFTEST, FOLDER=str(tmp_path))
    assert done.code == 0 and [line for line in done.log if line.startswith("heuristic")], done.error


# Where the grid has to do with the result, and arguments that look alike.
MISTAKES = [
    "rms_norm_bwd_f32 grid 4 1",
    "layer_norm_bwd_f32 grid 4 1",
    "column_sums_f32 grid 1 1",
    "column_sums_f32 grid 2 2",
    "column_sums_f32 block 32 4",
    "embedding_bwd_f32 grid 9 1",
    "embedding_order block 128 1",
    "grad_norm_squares grid 2 1",
    "rms_norm_fwd_f32 block 48 1",
    "gated_mlp_fwd_f32 swap 4 5",
    "rms_norm_fwd_f32 swap 7 8",
    "rotary_f32 swap 1 2",
    "rotary_f32 set 11 0",
    "adamw_f32 set 16 1000",
    "cross_entropy_f32 swap 6 7",
    "embedding_fwd_f32 set 2 0",
    "attention_fwd_f32_d64 grid 1 1",
    "attention_fwd_f32_d80 word 4 0",
    "attention_fwd_f32_d80 word 22 0",
    "attention_fwd_f32_d80 word 49 1",
    "attention_fwd_f32_d80 word 52 5",
    "attention_bwd_kv_f32_d80 word 38 0",
    "attention_bwd_q_f32_d80 word 53 0",
    "attention_delta_f32 word 24 0",
    "attention_spans set 3 18",
    "attention_decode_f32_d64 word 21 200",
    "attention_decode_f32_d64 word 23 1",
    "attention_combine_f32 set 4 1",
    "matmul beta",
    "matmul alpha",
    "matmul bias",
    "matmul swap",
    "matmul transposed",
    "matmul line",
    "matmul type",
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_host_is_seen(run: Runner, mistake: str) -> None:
    done = run(selftest_of(mistake.split()[0]), CUDA_ON_CPU_PLANT=mistake)
    assert "planted" in done.log and done.code == 1, done.out + done.error


def test_an_op_that_has_no_kernels(run: Runner) -> None:
    done = run("from llmjp_core import _core; _core.cuda.selftest(0, ['add', 'addd'])")
    assert "UnsupportedInputError: selftest: no op with CUDA kernels is named `addd`" in done.error
    assert not done.launched


# Sums and products do not care.
SAME = {"add_fwd_f32 swap 1 2", "attention_delta_f32 swap 1 2"}


@pytest.mark.slow
def test_no_two_arguments_can_change_places(driver: Path, tmp_path: Path, kernels: Kernels) -> None:
    """Neighbours of one kind, of the kernels in f32 and of those without a dtype; of attention the smallest width."""
    mistakes = []
    for kernel in KERNELS:
        letters = kernels.signature(kernel)
        left_out = "16" in kernel or kernel.endswith(("_d80", "_d96", "_d128", "_d256"))
        pairs = range(0 if left_out else len(letters) - 1)
        mistakes += [f"{kernel} swap {i} {i + 1}" for i in pairs if letters[i] == letters[i + 1]]

    def survives(mistake: str) -> bool:
        folder = tmp_path / mistake.replace(" ", "_")
        folder.mkdir()
        done = Runner(driver, folder)(selftest_of(mistake.split()[0]), CUDA_ON_CPU_PLANT=mistake)
        assert "planted" in done.log, done.error
        return done.code == 0

    with ThreadPoolExecutor(2) as pool:
        survivors = {mistake for mistake, yes in zip(mistakes, pool.map(survives, mistakes), strict=True) if yes}
    assert len(mistakes) > 50 and survivors == SAME


# --- the stand-in itself

STAND_IN = """
import ctypes, os
cuda = ctypes.CDLL("libcuda.so.1")
pool, stream, context, address = (ctypes.c_void_p() for _ in range(4))
def check(code): assert code == 0, code
check(cuda.cuInit(0)); check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)); check(cuda.cuCtxSetCurrent(context))
check(cuda.cuStreamCreate(ctypes.byref(stream), 1))
wanted = (ctypes.c_int * 22)(1, 0, 1, 0)
check(cuda.cuMemPoolCreate(ctypes.byref(pool), wanted))
def alloc(n):
    check(cuda.cuMemAllocFromPoolAsync(ctypes.byref(address), ctypes.c_size_t(n), pool, stream))
alloc(8)
"""


def test_nothing_happens_before_it_is_waited_for(run: Runner) -> None:
    done = run(
        STAND_IN
        + """
out = ctypes.c_uint64(5)
check(cuda.cuMemsetD8Async(address, 0x77, ctypes.c_size_t(8), stream))
check(cuda.cuMemcpyDtoHAsync_v2(ctypes.byref(out), address, ctypes.c_size_t(8), stream))
early = out.value
check(cuda.cuStreamSynchronize(stream))
print(hex(early), hex(out.value))
"""
    )
    assert done.out == f"0x{'f' * 16} 0x{'7' * 16}", done.error


def test_the_host_cannot_touch_the_devices_memory(run: Runner) -> None:
    done = run(STAND_IN + "print(ctypes.c_uint64.from_address(address.value).value)")
    refused = done.code == -signal.SIGSEGV or "AddressSanitizer" in done.error
    assert refused and not done.out


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("cuda.cuMemsetD8Async(address, 7, ctypes.c_size_t(9), stream)", 700),
        ("cuda.cuMemFreeAsync(address, stream), cuda.cuMemsetD8Async(address, 7, ctypes.c_size_t(8), stream)", 700),
        ("cuda.cuMemFreeAsync(ctypes.c_void_p(address.value + 4), stream)", 1),
    ],
)  # fmt: skip
def test_memory_that_is_not_there_is_refused(run: Runner, call: str, code: int) -> None:
    done = run(f"{STAND_IN}\n{call}\nprint(cuda.cuStreamSynchronize(stream), cuda.cuStreamSynchronize(stream))")
    assert done.out == f"{code} {code}", done.error
