"""Set up `.venv` and run one part of the project: `python start.py demo`, `lab` or `test`.

Needs Python 3.11 or newer and nothing else, on Linux, macOS and Windows; `make TARGET` calls it. Each target installs
only what it needs, the first time and again when its requirements change. pyproject.toml names the packages (the
dependencies and one extra per purpose); requirements.txt pins PyTorch.

Without an index, from a folder of wheels:

    python start.py wheels lab              download what `lab` needs into wheels/
    python start.py --wheels wheels lab     install from that folder alone
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".installed"  # the requirements that are installed, one per line
GPU_TRIED = VENV / ".gpu-tried"
WHEELS = ROOT / "wheels"
# Files of notebooks/ that JupyterLab does not list.
NOT_LESSONS = ("__pycache__", "*.py", "*.json", "diagrams", "drawing", "page", "settings", "src", "TEACHING.md")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"

# The extras of pyproject.toml that each target needs, beside the dependencies.
EVERYTHING = ("app", "notebooks", "train", "tensorboard", "data", "dev")
EXTRAS = {
    "demo": ("app",),
    "lab": ("notebooks",),
    "lessons": ("notebooks",),
    "lessons-html": ("notebooks",),
    "notebooks": ("notebooks",),
    "bench": ("app",),
    "page": ("onnx",),
    "gpu": ("app",),
    "test": EVERYTHING,
    "test-gpu": EVERYTHING,
    "lint": EVERYTHING,
}
HELP = {
    "demo": "open the app on a bundled checkpoint",
    "lab": "open the lessons in JupyterLab",
    "test": "lint, then run every test that this machine can run",
    "test-gpu": "run the tests that need a GPU, after `gpu`",
    "lint": "ruff (check and format) and pyright",
    "bench": "print the speed and memory tables of this machine",
    "page": "build the page that runs a model in the browser",
    "gpu": "add the CUDA kernels (NVIDIA only)",
    "lessons": "run the lessons whole and measure the minutes (01 04: only these)",
    "lessons-html": "export the lessons, run, as web pages that open offline",
    "notebooks": "rebuild the notebooks from their sources in notebooks/src",
    "install": "only install what the targets that follow need (default: demo lab)",
    "wheels": "only download what the targets that follow need, into wheels/ (default: demo lab)",
    "clean": "remove .venv and everything that was generated",
}
PAGE_MODELS = ("tales-blocks-diffuapriel", "tales-blocks-diffutran")  # the first one writes, both race
REPORT = (
    "import torch; from diffuapriel.ops.ssd import report; "
    'print(*report(torch.empty(0, device="cuda", dtype=torch.bfloat16)), sep="\\n")'
)


def main(arguments: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (an older Python runs this file up to here)
        version = ".".join(str(part) for part in sys.version_info[:3])
        sys.exit(f"start.py: this is Python {version}; Python 3.11 or newer is needed")
    os.chdir(ROOT)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, every start would compile PyTorch again
    os.environ.setdefault("PYTHONUTF8", "1")  # on Windows too, for files and pipes
    if arguments[:1] == ["--wheels"] and len(arguments) > 1:
        folder = Path(arguments[1])
        if not folder.is_dir():
            sys.exit(f"start.py: {folder} is not a folder; `python start.py wheels` makes one")
        os.environ.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder.resolve()))
        arguments = arguments[2:]
    target, *rest = arguments or ["help"]
    if target in ("help", "-h", "--help"):
        print("python start.py TARGET [arguments]\n")
        print(*(f"  {name:13} {text}" for name, text in HELP.items()), sep="\n")
    elif target not in HELP:
        sys.exit(f"start.py: there is no target {target!r}; choose one of {', '.join(HELP)}")
    elif target == "clean":
        clean()
    elif target in ("install", "wheels"):
        unknown = [name for name in rest if name not in EXTRAS]
        if unknown:
            sys.exit(f"start.py: there is no target {unknown[0]!r}; choose from {', '.join(EXTRAS)}")
        (install if target == "install" else download)(*(rest or ["demo", "lab"]))
    else:
        install(target)
        run_target(target, rest)


def run_target(target: str, arguments: list[str]) -> None:
    """Run an installed target, with the arguments that follow it on the command line."""
    if target == "demo":
        if not GPU_TRIED.exists() and has_gpu():
            add_kernels_once()
        become("app/main.py", *arguments)
    elif target == "lab":
        # A lesson may load PyTorch before the package, which sets this otherwise: how long idle threads spin.
        os.environ["GOMP_SPINCOUNT"] = "20000"
        hidden = [f"--ContentsManager.hide_globs={name}" for name in NOT_LESSONS]
        folder = "notebooks"
        if os.environ.get("DIFFUAPRIEL_QUICK") == "1":
            folder = "runs/shortened"
            python("notebooks/build.py", "--shortened", folder)
        # The whole project can be opened, so that links to its code work; the list shows the lessons alone.
        options = [f"--ServerApp.root_dir={ROOT}", f"--LabApp.app_settings_dir={ROOT / 'notebooks' / 'settings'}"]
        become("-m", "jupyter", "lab", f"{folder}/00_start_here.ipynb", *options, *hidden, *arguments)
    elif target == "test":
        lint()
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        become("-m", "pytest", "-n", "2", "--dist", "worksteal", *arguments)
    elif target == "test-gpu":
        require_cuda(target)
        become("-m", "pytest", "tests/gpu", "-m", "gpu", "-n", "8", "--dist", "loadgroup", *arguments)
    elif target == "lint":
        lint()
    elif target == "gpu":
        add_kernels()
    elif target == "bench":
        become("-m", "diffuapriel", "bench", *arguments)
    elif target == "page":
        become("-m", "diffuapriel", "export", *PAGE_MODELS, "--page", *arguments)
    else:
        script = {"notebooks": "build", "lessons": "execute", "lessons-html": "export"}[target]
        become(f"notebooks/{script}.py", *arguments)


def lint() -> None:
    python("-m", "ruff", "check", ".")
    python("-m", "ruff", "format", "--check", ".")
    python("-m", "pyright")


# Installation


def needs(*targets: str) -> list[str]:
    """The requirements of some targets, without repetition, PyTorch's pin first."""
    import tomllib

    with open(ROOT / "pyproject.toml", "rb") as stream:
        settings = tomllib.load(stream)
    project = settings["project"]
    pin = re.search(r"^torch==\S+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)
    if not pin:
        sys.exit("start.py: requirements.txt does not pin torch")
    lines = [pin.group(), *settings["build-system"]["requires"]]
    lines += [line for line in project["dependencies"] if not line.startswith("torch>")]
    for target in targets:
        for extra in EXTRAS[target]:
            lines += project["optional-dependencies"][extra]
    return list(dict.fromkeys(lines))


def version_line() -> str:
    """A comment for the stamp, so that the editable install is renewed with the version."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return "# " + " ".join(re.findall(r'^(?:name|version) = "(.*)"', text, re.M))


def install(*targets: str) -> None:
    """Make .venv where it is missing or broken, and install into it what the targets need and it lacks."""
    wanted = [*needs(*targets), version_line()]
    if PYTHON.exists() and set(wanted) <= set(installed()):
        return
    if subprocess.run([sys.executable, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL).returncode:
        sys.exit(
            f"start.py: {sys.executable} cannot make virtual environments "
            "(on Debian and Ubuntu: apt install python3-venv)"
        )
    if not works():
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
    # What other targets have installed is resolved again, so that their bounds hold too.
    current = set(needs(*EXTRAS))
    wanted += [line for line in installed() if line in current and line not in wanted]
    pin, *others = [line for line in wanted if not line.startswith("#")]
    # PyTorch first and alone: a resolver that sees it among the rest may fetch another version, with gigabytes of CUDA.
    # Nothing is compiled beforehand: Python compiles what it imports, and keeps it; all 16,000 modules take minutes.
    pip("install", "--no-compile", *cpu_wheels(), pin)
    remove_test_programs()
    pip("install", "--no-compile", pin, *others)
    pip("install", "--no-compile", "--no-deps", "--no-build-isolation", "-e", ".")
    STAMP.write_text("\n".join(wanted) + "\n", encoding="utf-8")


def download(*targets: str) -> None:
    """Fill wheels/ with what the targets need on machines like this one."""
    if not works():
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
    pin, *others = needs(*targets)
    pip("download", "-d", str(WHEELS), *cpu_wheels(), pin)
    pip("download", "-d", str(WHEELS), "--find-links", str(WHEELS), pin, *others)


def installed() -> list[str]:
    return STAMP.read_text(encoding="utf-8").splitlines() if STAMP.exists() else []


def works() -> bool:
    """Whether .venv has a Python that runs pip."""
    try:
        return not subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode
    except OSError:
        return False


def cpu_wheels() -> list[str]:
    """Options that let pip find PyTorch without CUDA, where PyPI's brings gigabytes of it for no GPU.

    None where the user has told pip where to look.
    """
    if not sys.platform.startswith("linux") or has_gpu():
        return []
    configured = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    chosen = re.search(r"(index-url|find-links|no-index)=", configured)
    return [] if chosen else ["--extra-index-url", CPU_WHEELS]


def remove_test_programs() -> None:
    """Delete the compiled tests of PyTorch's Linux wheel: 125 MB that nothing runs."""
    for package in VENV.glob("lib/python3*/site-packages/torch"):
        tests = package / "test"
        if not any(tests.rglob("*.py")):
            shutil.rmtree(tests, ignore_errors=True)
        for program in (*package.glob("bin/test_*"), *package.glob("bin/*Test")):
            program.unlink()


def clean() -> None:
    for pattern in (
        ".venv",
        "build",
        "dist",
        "*.egg-info",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        "test-artifacts",
        "lessons-html",
    ):
        for path in ROOT.glob(pattern):
            path.unlink() if path.is_symlink() else shutil.rmtree(path)


# The CUDA kernels


def has_gpu() -> bool:
    try:
        return not subprocess.run(["nvidia-smi"], capture_output=True).returncode
    except OSError:
        return False


def require_cuda(target: str) -> None:
    if not has_gpu():
        sys.exit(
            f"start.py {target}: nvidia-smi does not answer, so there is no NVIDIA GPU to use. "
            "Everything else runs on the CPU."
        )
    if not answers("import sys, torch; sys.exit(not torch.cuda.is_available())"):
        sys.exit(
            f"start.py {target}: the torch in .venv sees no CUDA device: a CPU build, or the driver is too old for "
            f"it. Remove .venv, install a CUDA build of {needs()[0]} and try again."
        )


def add_kernels_once() -> None:
    """For `demo` on a machine with a GPU: try once, and go on without the kernels where that fails."""
    print(
        "start.py demo: adding the CUDA kernels for this machine's GPU, once; it may take ten minutes.",
        flush=True,
    )
    try:
        add_kernels()
    except (SystemExit, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        print("start.py demo: going on without the CUDA kernels; `gpu` tries again.", file=sys.stderr)
    GPU_TRIED.touch()


def add_kernels() -> None:
    """Install mamba-ssm as pure Python (its Triton kernels need no build) and compile causal-conv1d if possible."""
    require_cuda("gpu")
    lines = (ROOT / "requirements-gpu.txt").read_text(encoding="utf-8").splitlines()
    kernels = {line.partition("==")[0]: line for line in lines if line.startswith(("mamba-ssm", "causal-conv1d"))}
    pip("install", *(line for line in lines if line and line[0] != "#" and line not in kernels.values()))
    unbuilt = ("--no-deps", "--no-build-isolation")
    pip("install", *unbuilt, kernels["mamba-ssm"], MAMBA_SKIP_CUDA_BUILD="TRUE", MAMBA_FORCE_BUILD="TRUE")
    try:
        build_causal_conv1d(kernels["causal-conv1d"])
    except (RuntimeError, subprocess.CalledProcessError) as error:
        print(f"start.py gpu: {error}", file=sys.stderr)
        print(
            "start.py gpu: causal-conv1d was not built; "
            "the short convolution of the mamba_ssm backend stays in PyTorch.",
            file=sys.stderr,
        )
    python("-c", REPORT)
    GPU_TRIED.touch()


def build_causal_conv1d(requirement: str) -> None:
    """Compile it for the cards of this machine. RuntimeError without nvcc."""
    if not answers("import sys; from torch.utils.cpp_extension import CUDA_HOME; sys.exit(CUDA_HOME is None)"):
        raise RuntimeError("there is no nvcc (the CUDA toolkit) to compile causal-conv1d with")
    print("start.py gpu: compiling causal-conv1d for this GPU, about five minutes.", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = ("-q", "--no-deps", "--no-build-isolation")
        skip = {"CAUSAL_CONV1D_SKIP_CUDA_BUILD": "TRUE", "CAUSAL_CONV1D_FORCE_BUILD": "TRUE"}
        pip("download", *source, "--no-binary", ":all:", "-d", name, requirement, **skip)
        shutil.unpack_archive(next(folder.glob("*.tar.gz")), name)
        setup = next(folder.glob("*/setup.py"))
        # Its setup.py names seven architectures, five minutes of nvcc each. Without them torch names the cards it sees.
        text = re.sub(r"cc_flag\.append\(.*\)", "pass", setup.read_text(encoding="utf-8"))
        setup.write_text(text, encoding="utf-8")
        pip("install", *source, str(setup.parent), CAUSAL_CONV1D_FORCE_BUILD="TRUE")


# Processes


def run(*command: str, **variables: str) -> None:
    print(*command, flush=True)
    subprocess.run(command, check=True, env={**os.environ, **variables})


def python(*arguments: str) -> None:
    run(str(PYTHON), *arguments)


def pip(*arguments: str, **variables: str) -> None:
    run(str(PYTHON), "-m", "pip", *arguments, PIP_DISABLE_PIP_VERSION_CHECK="1", **variables)


def answers(code: str) -> bool:
    return not subprocess.run([PYTHON, "-c", code]).returncode


def become(*arguments: str) -> None:
    """Hand over to the Python of .venv, as the last thing done."""
    command = [str(PYTHON), *arguments]
    print(*command, flush=True)
    if os.name != "nt":
        os.execv(command[0], command)
    child = subprocess.Popen(command)  # on Windows the shell would not wait for a replaced process
    while child.returncode is None:
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C reaches the child too, which ends when it is ready
            child.wait()
    sys.exit(child.returncode)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as failed:
        sys.exit(f"start.py: this command failed: {subprocess.list2cmdline([str(part) for part in failed.cmd])}")
    except KeyboardInterrupt:
        sys.exit(130)
