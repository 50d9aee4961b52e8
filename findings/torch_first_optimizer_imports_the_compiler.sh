#!/bin/sh
# The first optimizer of a process makes torch 2.13.0 import its compiler (torch._dynamo, torch._inductor, sympy).
#
# `import torch` does not import the compiler, which is imported later, when something is compiled. But methods of
# torch.optim.Optimizer have a wrapper that keeps the compiler from tracing them. This wrapper imports torch._dynamo
# when it is first called, which happens in the constructor (add_param_group). A process that only trains eagerly
# therefore imports the compiler too. Every short training job and every data-parallel worker spends this time without
# compiling anything.
#
# Expected: constructing torch.optim.SGD imports a few modules, if any. Observed: 829 modules, in about as much time as
# `import torch` takes (3.3 s and 3.1 s on two busy cores).
# Exits with 1 if the result changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
install="python3 -m pip install --quiet --disable-pip-version-check --target $folder numpy==2.4.6"
# The CPU build has its own version label and is much smaller.
$install torch==2.13.0+cpu 2>/dev/null || $install torch==2.13.0
PYTHONPATH="$folder" python3 -W ignore - <<'PYTHON'
import sys
import time

start = time.perf_counter()
import torch

import_s = time.perf_counter() - start
compiler = ("torch._dynamo", "torch._inductor", "sympy")
before, num_before = [name for name in compiler if name in sys.modules], len(sys.modules)
start = time.perf_counter()
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
optimizer_s = time.perf_counter() - start
after, num_new = [name for name in compiler if name in sys.modules], len(sys.modules) - num_before
print("torch", torch.__version__, "imported in", round(import_s, 1), "s; of the compiler:", before)
print("first SGD in", round(optimizer_s, 1), "s,", num_new, "more modules; of the compiler:", after)
sys.exit(not (before == [] and after == list(compiler) and num_new > 300))
PYTHON
