"""A YAML file of settings as a mapping, where YAML itself is too lax: no key twice, no variable unset."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from mygo.errors import ConfigError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value} stands twice; put all of it under one of them",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a file; ``${NAME}`` in its keys and values is taken from the environment.

    Raises ConfigError that names the file, the place and what to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8; give a YAML file") from error
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: must hold sections, such as `workers:` with `replicas: 2` under it, "
            f"not a {type(data).__name__}"
        )
    try:
        expanded: dict[str, Any] = _expand(data)
    except KeyError as unset:
        name = unset.args[0]
        raise ConfigError(
            f"{path}: ${{{name}}}: the environment has no {name}; set it, or write what it stands for"
        ) from None
    return expanded


def _expand(value: Any) -> Any:
    """With variables replaced; raises KeyError with the name of one that is not set."""
    match value:
        case str():
            return _VARIABLE.sub(lambda name: os.environ[name[1]], value)
        case dict():
            return {_expand(key): _expand(entry) for key, entry in value.items()}
        case list():
            return [_expand(entry) for entry in value]
        case _:
            return value


def _explain(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"is not valid YAML: {error}"
    mark = error.problem_mark
    hint = "; indent with spaces" if "'\\t'" in (error.problem or "") else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}{hint}"
