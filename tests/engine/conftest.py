"""How engines run in tests that look inside of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chunk_prompts import Engines


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Engines of the module compute with one thread unless told otherwise.

    Threads of such small steps mostly wait for each other, ten times as long where a core is busy.
    """
    import torch

    threads = os.environ.get("OMP_NUM_THREADS", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("OMP_NUM_THREADS", threads)
        before = torch.get_num_threads()
        torch.set_num_threads(int(threads))  # it read the environment when it was imported
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def engine_in_process(one_thread: None) -> Iterator[None]:
    """Engines of the module live in the tests' own process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield


@pytest.fixture(scope="module")
def engines(engine_in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Of a model whose answers depend on all of the prompt."""
    from chunk_prompts import Engines, save_keen_model  # it takes seconds, and few modules need it

    engines = Engines(save_keen_model(tmp_path_factory.mktemp("keen-model")))
    yield engines
    engines.close()
