"""`make gpu`, `make demo` and `make test-gpu` on machines of several kinds, with nvidia-smi and Python faked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the faked programs are shell scripts")

# Answers for a Python of the .venv: logs its arguments, fails where a file named after the call stands.
PYTHON = """#!/bin/sh
case "$*" in
  *cuda.is_available*) call=torch ;;
  *CUDA_HOME*) call=nvcc ;;
  *"pip install"*mamba-ssm*) call=mamba ;;
  *"pip download"*) call=download ;;
  *"pip install"*causal_conv1d-*) call=conv ;;
  *"pip install"*einops*) call=requirements ;;
  *report*) call=report ;;
  *app/main.py*) call=app ;;
  *pytest*) call=pytest ;;
  *) call=other ;;
esac
printf '%s\n' "$call $*" >>"$LOG/calls"
if [ "$call" = download ]; then
  while [ "$1" != -d ]; do shift; done
  cp "$LOG/causal_conv1d-1.7.0.tar.gz" "$2"
fi
if [ "$call" = conv ]; then
  for last; do :; done
  cp "$last/setup.py" "$LOG/setup.py"
fi
[ ! -e "$LOG/no-$call" ]
"""
SETUP = 'cc_flag = []\nif True:\n    cc_flag.append("-gencode")\n    cc_flag.append("arch=compute_75,code=sm_75")\n'


class Machine:
    """A clone with an installed .venv. `lacks` are the calls that fail on it."""

    def __init__(self, folder: Path, gpu: bool) -> None:
        self.folder = folder
        for name in ("Makefile", "start.py", "requirements.txt", "requirements-gpu.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        (folder / "bin").mkdir()
        (folder / ".venv" / "bin").mkdir(parents=True)
        self._program(folder / "bin" / "nvidia-smi", f"#!/bin/sh\nexit {0 if gpu else 9}\n")
        self._program(folder / ".venv" / "bin" / "python", PYTHON)
        installed = [sys.executable, "start.py", "install", "demo", "test"]
        subprocess.run(installed, cwd=folder, env={**os.environ, "LOG": str(folder)}, check=True)
        source = folder / "causal_conv1d-1.7.0"
        source.mkdir()
        (source / "setup.py").write_text(SETUP)
        with tarfile.open(folder / "causal_conv1d-1.7.0.tar.gz", "w:gz") as archive:
            archive.add(source, source.name)

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def lacks(self, *calls: str) -> None:
        for call in calls:
            (self.folder / f"no-{call}").touch()

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls").unlink(missing_ok=True)
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        environment = {**os.environ, "MAKEFLAGS": "", "PATH": path, "LOG": str(self.folder)}
        return subprocess.run(["make", *arguments], cwd=self.folder, env=environment, capture_output=True, text=True)

    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def gpu(tmp_path: Path) -> Machine:
    return Machine(tmp_path, gpu=True)


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    return Machine(tmp_path, gpu=False)


INSTALLS = ["torch", "requirements", "mamba", "nvcc", "download", "conv", "report"]


def test_make_gpu_installs_everything(gpu: Machine) -> None:
    done = gpu.make("gpu")
    assert done.returncode == 0, done.stderr
    assert gpu.calls() == INSTALLS


def test_causal_conv1d_is_compiled_for_the_card_that_is_there(gpu: Machine) -> None:
    gpu.make("gpu")
    setup: dict[str, list[str]] = {}
    exec((gpu.folder / "setup.py").read_text(), setup)
    assert setup["cc_flag"] == [], "torch names the architecture when the setup names none"


@pytest.mark.parametrize(("lacking", "reason"), [("nvcc", "there is no nvcc"), ("conv", "was not built")])
def test_a_failed_build_leaves_a_line_and_goes_on(gpu: Machine, lacking: str, reason: str) -> None:
    gpu.lacks(lacking)
    done = gpu.make("gpu")
    assert done.returncode == 0
    assert reason in done.stderr and "stays in PyTorch" in done.stderr
    assert gpu.calls()[-1] == "report"


@pytest.mark.parametrize("target", ["gpu", "test-gpu"])
def test_without_a_gpu_or_a_torch_that_sees_it_the_reason_is_said(gpu: Machine, target: str) -> None:
    gpu.lacks("torch")
    done = gpu.make(target)
    assert done.returncode == 2
    assert "the torch in .venv sees no CUDA device" in done.stderr
    Machine._program(gpu.folder / "bin" / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    done = gpu.make(target)
    assert done.returncode == 2
    assert f"start.py {target}: nvidia-smi does not answer" in done.stderr
    assert gpu.calls() == []


def test_make_test_gpu_runs_the_gpu_tests(gpu: Machine) -> None:
    assert gpu.make("test-gpu").returncode == 0
    assert gpu.calls() == ["torch", "pytest"]
    assert "-m pytest tests/gpu -m gpu" in (gpu.folder / "calls").read_text()


def test_make_demo_on_a_laptop_opens_the_app_and_does_nothing_else(laptop: Machine) -> None:
    assert laptop.make("demo").returncode == 0
    assert laptop.calls() == ["app"]


def test_make_demo_with_a_gpu_installs_the_kernels_first_and_once(gpu: Machine) -> None:
    assert gpu.make("demo").returncode == 0
    assert gpu.calls() == [*INSTALLS, "app"]
    gpu.make("demo")
    assert gpu.calls() == ["app"]


def test_make_demo_after_make_gpu_does_not_install_again(gpu: Machine) -> None:
    gpu.make("gpu")
    gpu.make("demo")
    assert gpu.calls() == ["app"]


def test_make_demo_goes_on_when_the_kernels_cannot_be_installed_and_tries_once(gpu: Machine) -> None:
    gpu.lacks("mamba")
    done = gpu.make("demo")
    assert done.returncode == 0
    assert "going on without the CUDA kernels" in done.stderr
    assert gpu.calls()[-1] == "app"
    gpu.make("demo")
    assert gpu.calls() == ["app"]


def test_a_dry_run_of_make_demo_installs_nothing(gpu: Machine) -> None:
    assert gpu.make("-n", "demo").returncode == 0
    assert gpu.calls() == []
    assert not (gpu.folder / ".venv" / ".gpu-tried").exists()
