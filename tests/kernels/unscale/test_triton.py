import importlib.util
import sys
from pathlib import Path

import pytest


def test_the_kernel_compiles_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter accepts code that the compiler refuses; compiling needs no GPU."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is an optional extra; without it there is only the reference")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton

    kernel = importlib.import_module("kernels.unscale.triton")._unscale_kernel
    del sys.modules["kernels.unscale.triton"]
    pointers = dict.fromkeys(("addresses", "sizes", "starts"), "*i64")
    pointers |= dict.fromkeys(("inverse_scale", "squares", "found"), "*fp32")
    source = triton.compiler.ASTSource(kernel, {**pointers, "BLOCK": "constexpr"}, {"BLOCK": 4096})
    compiled = triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", 80, 32))
    assert "ld.global" in compiled.asm["ptx"]
    assert compiled.asm["cubin"]
