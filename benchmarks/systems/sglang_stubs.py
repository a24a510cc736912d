"""Lets SGLang start on a CPU without sgl_kernel and torchvision, which only GPUs and images need.

scripts/install_sglang.sh puts this module into SGLang's own environment, where a .pth file imports it at
every start. Whatever is asked of the two packages is there to be named, and raises when it is called.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

ABSENT = ("sgl_kernel", "torchvision")


class _AbsentClass(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(f"{cls.__name__}.{name}")

    def __call__(cls, *args: Any, **options: Any) -> Any:
        raise RuntimeError(f"{cls.__name__} is not installed, and a text model on a CPU should not need it")


def _absent(name: str) -> _AbsentClass:
    return _AbsentClass(name, (), {})


class _AbsentModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Any, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _AbsentModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__version__"] = "0"


sys.meta_path.append(_Finder())
