"""Writes RESOURCES.md: what each kernel takes on each GPU, as the compiler has decided it.

usage: resources.py LIBRARY [CUOBJDUMP]     from libfluxd_cuda.so, by `cuobjdump` of the CUDA toolkit
"""

import datetime
import pathlib
import re
import subprocess
import sys

passes = ["kStore", "kAmax", "kQuantize"]  # enum Pass of merge.cu


def shorten(name):
    """`quantizeRowsKernel<8>` for a demangled signature."""
    name = re.sub(r"^void |fluxd::cuda::|\(anonymous namespace\)::|\(int\)", "", name)
    name = re.sub(r"\(Pass\)(\d)", lambda match: passes[int(match[1])], name)
    name = name.replace("(bool)0", "false").replace("(bool)1", "true")
    return re.sub(r"\([^()]*\)$", "", name)


library = sys.argv[1]
cuobjdump = sys.argv[2] if len(sys.argv) > 2 else "cuobjdump"
listing = subprocess.run(
    [cuobjdump, "--dump-resource-usage", library], capture_output=True, text=True, check=True
).stdout
listing = subprocess.run(["c++filt"], input=listing, capture_output=True, text=True).stdout

# kernel -> arch -> numbers
table = {}
arch = function = None
for line in listing.splitlines():
    if match := re.match(r"arch = (\S+)", line):
        arch = match[1]
    elif match := re.match(r"\s*Function (.*):$", line):
        function = shorten(match[1])
    elif "REG:" in line and function:
        numbers = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", line))
        table.setdefault(function, {})[arch] = numbers

archs = list(dict.fromkeys(a for kernel in table.values() for a in kernel))
cell = lambda n: n["REG"] + (f" + {n['STACK']} B stack" if n["STACK"] != "0" else "")
rows = [
    f"| `{name}` | {next(iter(kernel.values()))['SHARED']} | "
    + " | ".join(cell(kernel[a]) for a in archs) + " |"
    for name, kernel in sorted(table.items())
]
spilling = [name for name, kernel in table.items() if any(n["STACK"] != "0" for n in kernel.values())]
version = re.search(r"release (\S+),", subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout)
text = f"""# Resources of the kernels

Registers per thread (and stack, where there is any) on each GPU, and static shared memory per block in bytes.
Written by `resources.py` on {datetime.date.today()} from a build by nvcc {version[1] if version else '?'}. {
"No kernel has a stack, so none spills." if not spilling else "With a stack: " + ", ".join(spilling) + "."}

| kernel | shared | {" | ".join(archs)} |
|---|---|{"---|" * len(archs)}
""" + "\n".join(rows) + "\n"
(pathlib.Path(__file__).parent / "RESOURCES.md").write_text(text)
