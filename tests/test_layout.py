"""The tree holds: arrows point down, each op stands in all its places, files are short, `unsafe` is explained."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUST = ROOT / "rust/src"
PYTHON = ROOT / "python/llmjp_core"
KERNELS = ROOT / "kernels"
ON_CPU = ROOT / "tests/cuda_on_cpu"
FILE_LIMIT = 500

BASE = {"dtype", "error", "files", "interrupt", "memory", "philox", "tensor"}
# What each layer may name with `crate::`; its own files always, `py` everything.
MAY_USE = {
    **dict.fromkeys(BASE, BASE),
    "cpu": BASE,
    "cuda": BASE,
    "ops": BASE | {"cpu", "cuda"},
    "model": BASE | {"ops"},
    "tokenizer": BASE,
    "data": BASE | {"tokenizer"},
    "train": BASE | {"ops", "model", "data", "tokenizer"},
}
# Splitting over threads is everybody's; the kernels beside it are not.
COMMON = "cpu::parallel"
# These are named in one place only.
ONLY_IN = {
    "matrixmultiply": "cpu/matmul/widened.rs",
    "is_x86_feature_detected": "cpu/isa.rs",
    "pyo3": "py/",
    "cudarc": "cuda/driver.rs",
}
OPS = {
    "activation", "adamw", "attention", "cross_entropy", "embedding", "gated_mlp", "grad_norm", "layer_norm",
    "linear", "linear_cross_entropy", "rms_norm", "rotary",
}  # fmt: skip

# Ops that are products of matrices and another op.
WITHOUT_KERNEL = {"linear", "linear_cross_entropy"}
# Kernels that are a part of several ops.
PARTS = {"add", "cast", "column_sums"}


def rust_files() -> list[Path]:
    return sorted(RUST.rglob("*.rs"))


def cuda_files() -> list[Path]:
    return sorted(
        [ROOT / "build.rs", *KERNELS.iterdir(), *ON_CPU.glob("*.cu"), *ON_CPU.rglob("*.h"), *ON_CPU.glob("*.cpp")]
    )


def python_files() -> list[Path]:
    return sorted(PYTHON.rglob("*.py"))


def layer(path: Path) -> str:
    """The first folder below rust/src, or the file's own name."""
    return path.relative_to(RUST).parts[0].removesuffix(".rs")


def code(text: str) -> str:
    """Rust without comments and the contents of string literals; lines keep their numbers."""
    text = re.sub(r'b?r#*"(?s:.*?)"#*|"(?:\\(?s:.)|[^"\\])*"', lambda m: '"' + "\n" * m[0].count("\n") + '"', text)
    return re.sub(r"//[^\n]*", "", text)


def crate_paths(text: str) -> Iterator[str]:
    """`a::b` for each `crate::a::b` in Rust code, each branch of `use crate::{a, b::c}` included."""
    yield from re.findall(r"\bcrate::(\w+(?:::\w+)?)", text)
    for group in re.findall(r"\bcrate::\{([^;]*)\};", text):
        depth, item = 0, ""
        for c in group + ",":
            if c == "," and depth == 0:
                if item.strip():
                    yield re.sub(r"::[{*].*", "", "".join(item.split()))
                item = ""
            else:
                depth += (c == "{") - (c == "}")
                item += c


def wrong_arrows(path: Path, text: str) -> list[str]:
    own = layer(path)
    if own in {"lib", "py"}:
        return []
    allowed = MAY_USE[own] | {own}
    return [p for p in crate_paths(code(text)) if p.split("::")[0] not in allowed and not p.startswith(COMMON)]


def test_rust_arrows_point_down() -> None:
    wrong = {str(p.relative_to(ROOT)): w for p in rust_files() if (w := wrong_arrows(p, p.read_text()))}
    assert not wrong


@pytest.mark.parametrize(
    "line",
    ["use crate::train::Trainer;", "use crate::{error::Error, py::Batch};", "let a = crate::model::hf::export();"],
)
def test_a_wrong_arrow_is_seen(line: str) -> None:
    assert wrong_arrows(RUST / "ops/linear.rs", "use crate::error::Error;\n" + line)


def test_a_right_arrow_is_left_alone() -> None:
    text = "use crate::{cpu::{self, isa}, error::Result};\nuse crate::ops::Heads; // crate::train\n"
    assert not wrong_arrows(RUST / "ops/linear.rs", text)


@pytest.mark.parametrize(("name", "place"), ONLY_IN.items())
def test_named_in_one_place(name: str, place: str) -> None:
    users = {str(p.relative_to(RUST)) for p in rust_files() if re.search(rf"\b{name}\b", code(p.read_text()))}
    assert {u for u in users if not u.startswith(place)} == set()


def test_each_op_stands_in_all_its_places() -> None:
    missing = []
    for op in sorted(OPS):
        places = [RUST / f"ops/{op}.rs", RUST / f"cpu/{op}.rs", ROOT / f"tests/test_{op}.py"]
        missing += [str(p.relative_to(ROOT)) for p in places if not p.is_file()]
    assert not missing


def test_each_kernel_stands_beside_its_op_and_its_test() -> None:
    names = {path.stem for path in KERNELS.glob("*.cu")}
    assert names == OPS - WITHOUT_KERNEL | PARTS
    assert not {name for name in names if not (ON_CPU / f"test_{name}.py").is_file()}


# Kernels whose launches another op asks for.
ASKED_BY = {"column_sums": "linear"}
# What the launches stand on.
DEVICE_LAYER = {"mod", "blas", "device", "driver", "images", "launch", "matmul", "memory", "stream"}


def test_each_kernel_has_its_launches_and_an_op_that_asks_for_them() -> None:
    kernels = {path.stem for path in KERNELS.glob("*.cu")}
    assert {path.stem for path in (RUST / "cuda").glob("*.rs")} == kernels | DEVICE_LAYER
    for name in kernels:
        op = (RUST / f"ops/{ASKED_BY.get(name, name)}.rs").read_text()
        assert re.search(r"^pub mod cuda \{", op, re.M) and f"{name} as device" in op, name


def test_launches_are_nothing_but_launches() -> None:
    """An op's file under cuda/ knows no other op of the CPU or the contract, and asks the driver for nothing else."""
    for path in (RUST / "cuda").glob("*.rs"):
        if path.stem not in DEVICE_LAYER:
            assert not re.search(r"\bsys::|\bdriver\b|crate::(ops|cpu)", code(path.read_text())), path


def test_kernels_know_nothing_but_each_other() -> None:
    """And the types of half the width."""
    for path in KERNELS.iterdir():
        assert path.suffix in {".cu", ".cuh"}, path
        for name in re.findall(r"#include (\S+)", path.read_text()):
            own = (KERNELS / name.strip('"')).is_file() and name.endswith('.cuh"')
            assert own or name in {"<cuda_fp16.h>", "<cuda_bf16.h>"}, f"{path}: {name}"


def test_kernels_leave_the_extraordinary_to_one_file() -> None:
    """Assembly and the word of the emulation; and no sum has an order of chance."""
    for path in KERNELS.iterdir():
        text = re.sub(r"//[^\n]*", "", path.read_text())
        if path.name != "device_ops.cuh":
            assert not re.search(r"\basm\b|CUDA_ON_CPU|__shared__", text), path
        assert "atomicAdd" not in text, path


def test_the_reference_stands_first() -> None:
    """`pub mod reference` comes before any other item of an op's CPU file that computes."""
    late = []
    for op in sorted(OPS):
        items = re.findall(r"^pub(?:\(crate\))? (?:mod (\w+)|fn \w+)", code((RUST / f"cpu/{op}.rs").read_text()), re.M)
        if not items or items[0] != "reference":
            late.append(op)
    assert not late


def test_files_are_short() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    files = rust_files() + python_files() + cuda_files() + tests
    assert not {str(p.relative_to(ROOT)): n for p in files if (n := lines(p)) > FILE_LIMIT}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def unexplained(text: str) -> list[int]:
    """Numbers of the lines with `unsafe` and no `SAFETY:` or `# Safety` on it or in the comment above."""
    plain, found = text.splitlines(), []
    for number, line in enumerate(code(text).splitlines()):
        if not re.search(r"\bunsafe\b", line):
            continue
        above = number
        while above and plain[above - 1].lstrip().startswith(("//", "#[")):
            above -= 1
        if not re.search("SAFETY:|# Safety", "\n".join(plain[above : number + 1])):
            found.append(number + 1)
    return found


def test_every_unsafe_is_explained() -> None:
    wrong = {str(p.relative_to(ROOT)): w for p in rust_files() if (w := unexplained(p.read_text()))}
    assert not wrong


def test_an_unexplained_unsafe_is_seen() -> None:
    assert unexplained("// why\nlet a = unsafe { f() };\n") == [2]
    assert not unexplained("// SAFETY: f has no precondition.\nlet a = unsafe { f() };\n")


def test_the_core_prints_nothing() -> None:
    printing = re.compile(r"\b(e?println|e?print|dbg|todo|unimplemented)!")
    assert [str(p) for p in rust_files() if printing.search(code(p.read_text()))] == []


def test_environment_variables_are_read_in_one_place_each() -> None:
    readers: defaultdict[str, set[str]] = defaultdict(set)
    reading = re.compile(r"""(?:env::var(?:_os)?|environ(?:\.get)?|getenv)\s*[(\[]\s*["'](LLMJP_\w+)["']""")
    for path in rust_files() + python_files():
        for name in reading.findall(path.read_text()):
            readers[name].add(str(path.relative_to(ROOT)))
    assert {name: places for name, places in readers.items() if len(places) > 1} == {}


def imported(path: Path, *, only_at_import: bool) -> set[str]:
    """Modules named by import statements: absolute ones by their first part, our own as `.name`."""
    tree = ast.parse(path.read_text())
    inside = {
        child for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda) for child in ast.walk(node)
    }
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only or (only_at_import and node in inside):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            found |= {"." + (node.module or alias.name).split(".")[0] for alias in node.names}
    return found


def test_only_the_commands_know_the_command_line() -> None:
    for path in python_files():
        if path.parent.name == "commands" or path.name in {"cli.py", "__main__.py"}:
            continue
        assert not imported(path, only_at_import=False) & {".cli", ".commands"}, path


def test_torch_is_imported_in_its_own_room_only() -> None:
    """And the rest of the library does not enter that room."""
    for path in python_files():
        names = imported(path, only_at_import=False)
        if path.parent.name == "torch":
            assert "transformers" not in imported(path, only_at_import=True), path
        else:
            assert not names & {"torch", "transformers", ".torch"}, path


def test_each_op_of_torch_stands_beside_its_kernel() -> None:
    """One name: a block in torch/ops.py or torch/losses.py, and a file of the op."""
    text = "".join((PYTHON / f"torch/{name}.py").read_text() for name in ("ops", "losses"))
    names = set(re.findall(r"^(\w+) = Op\(\s*\"(\w+)\"", text, re.M))
    assert names and all(variable == name for variable, name in names)
    assert {name for _, name in names} <= OPS


def test_import_is_light() -> None:
    """Numpy and the standard library, nothing else: those take a third of the 0.3 s that an import may take."""
    program = (
        "import sys; before = set(sys.modules); import llmjp_core; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    foreign = set(output.split()) - sys.stdlib_module_names
    assert foreign == {"numpy", "llmjp_core"}


def test_the_version_stands_in_one_place() -> None:
    version = re.search(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.M)
    assert version
    for path in [*python_files(), ROOT / "pyproject.toml"]:
        assert version[1] not in re.findall(r"\b\d+\.\d+\.\d+\b", path.read_text()), path


def test_the_shipped_config_is_the_one_in_configs() -> None:
    assert (ROOT / "configs/quickstart-neox.yml").resolve() == PYTHON / "quickstart/data/quickstart.yml"
