"""How the workers of a trial find each other on one machine: by a file. Torch's own server listens to the network."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


@dataclass
class FileTorchConfig(TorchConfig):  # type: ignore[misc]
    """Torch's process group, by a file.

    Attributes:
        folder: of the file; on a file system that all workers see.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type[_FileBackend]:
        return _FileBackend


class _FileBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: FileTorchConfig) -> None:
        """As the parent's, with another address."""
        folder = Path(backend_config.folder)
        folder.mkdir(parents=True, exist_ok=True)
        address = f"file://{folder / f'rendezvous_{uuid.uuid4().hex}'}"  # one for each start of the workers
        worker_group.execute(_set_torch_distributed_env_vars)
        workers = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(worker_group),
                init_method=address,
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(workers)
