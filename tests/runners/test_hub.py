"""On a hub: headers for what is printed, small files for the parts made of them, and one shard for a tensor in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hub_server import hub

CODE = """
import sys, mlload
from pathlib import Path
def files():
    return sorted(path.name for path in Path(sys.argv[1]).rglob("*") if path.is_file() and "snapshots" in path.parts)
checkpoint = mlload.PreTrainedCausalLM.from_pretrained("org/llama", device="cpu")
assert "(parameters): 1,352" in repr(checkpoint), repr(checkpoint)
print(files())
assert checkpoint.config.hidden_size == 8
print(files())
assert checkpoint.state["lm_head.weight"].shape == (10, 8)
print(files())
assert checkpoint.model.num_parameters() == 1352
print(files())
"""


def test_only_what_is_needed_is_downloaded(llama: Path, tmp_path: Path) -> None:
    small = ["config.json", "model.safetensors.index.json"]
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    with hub() as server:
        server.add("org/llama", llama)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
        env = clean | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", CODE, tmp_path / "hf"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(sorted(names)) for names in ([], small, [*small, shards[1]], [*small, *shards])]
