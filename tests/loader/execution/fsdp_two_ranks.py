"""Two ranks under torchrun: rank 0 loads, the others get its weights through FSDP; every rank's logits are the whole model's."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import fully_shard

import mlload
from mlload.loader.loading import load


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    settings = mlload.ModelLoadingConfig(
        "tiny", low_memory=True, rank=rank, world_size=dist.get_world_size(), device="cpu", dtype="float32"
    )
    model = load(settings).model
    state = model.state_dict() if rank == 0 else {}
    for layer in model.get_submodule("model.layers").children():
        fully_shard(layer)
    fully_shard(model)
    for module in model.modules() if rank else ():  # not the tables, which are there already
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty_like(parameter, device="cpu"))
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    ids = torch.arange(65, 85)[None]
    with torch.no_grad():
        logits = model(ids).logits
    wanted = load(mlload.ModelLoadingConfig("tiny", device="cpu", dtype="float32")).model(ids).logits
    sys.stdout.write(f"rank {rank}: {torch.allclose(logits, wanted, atol=1e-5)}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
