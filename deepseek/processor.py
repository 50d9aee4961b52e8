"""Determines the instruction set of this machine's processor.

The processor's features are read from CPUID through NumPy. They are therefore correct even under an emulator, where
/proc/cpuinfo shows the host's flags. Features that NumPy does not report (AMX, VNNI without AVX-512, int8 matrix
products on ARM) are read from /proc/cpuinfo, but only if that file agrees with CPUID.
"""

import functools
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from numpy._core._multiarray_umath import __cpu_features__ as _NUMPY_FEATURES  # type: ignore[import-not-found]

_X86 = (
    ("amx", {"amx_int8", "amx_bf16"}),
    ("avx512_bf16_vnni", {"avx512_bf16", "avx512_vnni"}),
    ("avx512_vnni", {"avx512_vnni"}),
    ("avx_vnni", {"avx_vnni"}),
    ("avx512", {"avx512f", "avx512bw"}),
    ("avx2", {"avx2"}),
    ("avx", {"avx"}),
    ("sse", {"sse2"}),
)
_ARM = (("neon_i8mm", {"i8mm"}), ("neon_dotprod", {"asimddp"}), ("neon", {"asimd"}))
_CPUID_NAMES = {
    "sse2": "SSE2",
    "avx": "AVX",
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx512bw": "AVX512BW",
    "avx512_vnni": "AVX512VNNI",
    "avx512_bf16": "AVX512BF16",
    "vaes": "VAES",
    "gfni": "GFNI",
    "asimd": "ASIMD",
    "asimddp": "ASIMDDP",
}
"""NumPy's name for each flag that NumPy reports, keyed by the flag's name in Linux."""


@functools.cache
def instruction_set() -> str:
    """Returns the most capable instruction set of this processor.

    Only instruction sets that affect a model's speed or accuracy are distinguished. On x86-64, from best to worst:

    - `amx`: AMX tiles for int8 and bfloat16, and AVX-512 with BF16 and VNNI.
    - `avx512_bf16_vnni`: fast bfloat16; 8-bit products are summed in 32 bits, without saturation.
    - `avx512_vnni`: like `avx512_bf16_vnni`, but without fast bfloat16.
    - `avx_vnni`: like `avx512_vnni`, but with vectors of 256 instead of 512 bits.
    - `avx512`, `avx2`, `avx`, `sse`: pairs of 8-bit products are summed in 16 bits, which may saturate; no fast
      bfloat16.

    On ARM: `neon_i8mm`, `neon_dotprod`, `neon`. On any other processor, the machine's name, e.g. `riscv64`.
    """
    return classify({name for name, present in _NUMPY_FEATURES.items() if present}, _cpuinfo_flags())


def saturates(name: str) -> bool:
    """Returns whether sums of 8-bit products may saturate.

    Args:
        name: Name of an instruction set, as returned by `instruction_set`.
    """
    return name in ("avx512", "avx2", "avx", "sse")


def haswell() -> Sequence[str] | None:
    """Returns the command prefix that runs a program as if the processor had AVX2 and nothing newer.

    The prefix is empty if this processor has nothing newer. Otherwise, the prefix starts Debian's qemu-user, which
    emulates a Haswell processor. Emulation shows whether results are correct, but says nothing about speed. The result
    is None if qemu-user is not installed or this machine is not x86-64.
    """
    if platform.machine() != "x86_64":
        return None
    if instruction_set() in ("avx2", "avx", "sse"):
        return ()
    emulator = shutil.which("qemu-x86_64")
    # Disables features that qemu cannot emulate and would warn about at each start; none of them affects a result.
    return (emulator, "-cpu", "Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid") if emulator else None


def classify(cpuid: set[str], cpuinfo: set[str]) -> str:
    """Returns the name of a processor's instruction set.

    Args:
        cpuid: Features that CPUID reports, under NumPy's names for them.
        cpuinfo: Flags from /proc/cpuinfo; empty if there is no such file.
    """
    known = {flag for flag, name in _CPUID_NAMES.items() if name in cpuid}
    comparable = {flag for flag, name in _CPUID_NAMES.items() if name in _NUMPY_FEATURES}
    flags = known | cpuinfo if cpuinfo & comparable == known else known
    for name, needed in (*_X86, *_ARM):
        if needed <= flags:
            return name
    return platform.machine().lower()


def _cpuinfo_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    # The first processor's line: `flags` on x86, `Features` on ARM.
    line = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return set(line.partition(":")[2].split())
