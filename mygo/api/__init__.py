"""The HTTP face: OpenAI's conventions in, ``service.Service`` calls out.

Purpose: users' clients (the official ``openai`` one first) work unchanged against MyGO.
Contract: ``create_app(config, service)`` gives an ASGI application. It validates, authenticates,
renders and cancels; what an answer is made of lies behind ``Service``, which the serve room implements.
Why apart: the face can be tested against a real HTTP server in milliseconds, without Ray or an engine.

Reading order: ``service.py`` (the contract) -> ``app.py`` (the wiring) -> ``edge.py`` (what every request
passes) -> ``chat.py`` and ``responses.py`` (requests and renderers) -> ``answering.py`` (how tokens leave).
"""

from mygo.api.app import create_app
from mygo.api.service import Service

__all__ = ["Service", "create_app"]
