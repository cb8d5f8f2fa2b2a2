"""Devices as NVIDIA's driver tells them: a library with its functions, compiled here, stands in for one that knows two devices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = r"""
#include <stdint.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)(uintptr_t)(index + 1); return 0; }
int nvmlDeviceGetMemoryInfo(void *handle, memory *info) {
  info->total = (uintptr_t)handle * 1000; info->free = (uintptr_t)handle * 900; info->used = 0; return 0;
}
static int is_old(void *handle) { return handle == (void *)1; }
int nvmlDeviceGetName(void *handle, char *name, unsigned length) { strncpy(name, is_old(handle) ? "Old" : "New", length); return 0; }
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) { strncpy(uuid, is_old(handle) ? "GPU-aa" : "GPU-bb", length); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) { *major = is_old(handle) ? 7 : 9; *minor = 0; return 0; }
"""
ASK = """
import json
from mlload.loader.nvml import cuda_devices
print(json.dumps([[device.name, device.free_bytes, device.bfloat16] for device in cuda_devices()]))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", folder / "driver.c"], check=True)
    return folder


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["Old", "New"]), ("1", ["New"]), ("1,0", ["New", "Old"]), ("GPU-bb", ["New"]), ("", []), ("0,7,1", ["Old"])],
)
def test_devices_that_cuda_would_see(driver: Path, visible: str | None, names: list[str]) -> None:
    env = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | {"LD_LIBRARY_PATH": str(driver)}
    env |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [name for name, _, _ in found] == names
    assert all((free, bfloat16) == ({"Old": 900, "New": 1800}[name], name == "New") for name, free, bfloat16 in found)


def test_without_a_driver_there_are_none() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], env=os.environ | {"LD_LIBRARY_PATH": ""}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [] or shutil.which("nvidia-smi")
