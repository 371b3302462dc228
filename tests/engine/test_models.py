from pathlib import Path

import pytest
import torch

from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import ModelConfig
from altpo_ds.engine.models import load_scorer
from tests.conftest import Tiny


def test_kernels_for_gpus_are_refused_without_one(tiny: Tiny, tmp_path: Path) -> None:
    model = ModelConfig(path=str(tiny.model), liger=True)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match=r"^model.liger: Liger's kernels run on GPUs, and there is none"):
            load_scorer(model.path, model, {}, torch.device("cpu"))
    finally:
        torch.distributed.destroy_process_group()
