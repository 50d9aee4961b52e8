import subprocess
import sys

import pytest

from deepseek.processor import classify, instruction_set
from tests.harness.processors import Processor

HASWELL = {"SSE2", "AVX", "AVX2"}
CASCADE_LAKE = HASWELL | {"AVX512F", "AVX512BW", "AVX512VNNI"}
CASCADE_LAKE_FLAGS = {"sse2", "avx", "avx2", "avx512f", "avx512bw", "avx512_vnni"}


def test_an_emulated_processor_is_not_mistaken_for_the_host(processor: Processor) -> None:
    found = processor.python("-c", "from deepseek.processor import instruction_set; print(instruction_set())").strip()
    assert found == ("avx2" if processor.kind == "haswell" else instruction_set())


@pytest.mark.parametrize(
    ("cpuid", "cpuinfo", "expected"),
    [
        (CASCADE_LAKE, CASCADE_LAKE_FLAGS, "avx512_vnni"),
        (CASCADE_LAKE | {"AVX512BF16"}, CASCADE_LAKE_FLAGS | {"avx512_bf16"}, "avx512_bf16_vnni"),
        (CASCADE_LAKE, CASCADE_LAKE_FLAGS | {"amx_int8", "amx_bf16"}, "amx"),
        (CASCADE_LAKE - {"AVX512VNNI"}, CASCADE_LAKE_FLAGS - {"avx512_vnni"}, "avx512"),
        (HASWELL, {"sse2", "avx", "avx2", "avx_vnni"}, "avx_vnni"),
        (HASWELL, {"sse2", "avx", "avx2"}, "avx2"),
        (HASWELL, set(), "avx2"),
        (HASWELL, CASCADE_LAKE_FLAGS | {"amx_int8", "amx_bf16"}, "avx2"),
        (HASWELL - {"AVX2"}, {"sse2", "avx"}, "avx"),
        ({"SSE2"}, {"sse2"}, "sse"),
        ({"ASIMD", "ASIMDDP"}, {"asimd", "asimddp", "i8mm"}, "neon_i8mm"),
        ({"ASIMD", "ASIMDDP"}, {"asimd", "asimddp"}, "neon_dotprod"),
        ({"ASIMD"}, set(), "neon"),
    ],
)
def test_the_most_capable_instruction_set_is_named(cpuid: set[str], cpuinfo: set[str], expected: str) -> None:
    assert classify(cpuid, cpuinfo) == expected


def test_it_is_determined_without_torch() -> None:
    program = "import sys, deepseek.processor as p; p.instruction_set(); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )
