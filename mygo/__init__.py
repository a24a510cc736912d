"""MyGO: serve retrieval-augmented generation and pay for every document's prefill once.

Start reading at ``mygo/serve/app.py`` (how the parts are wired), then ``mygo/types.py`` (the nouns).
"""

__version__ = "0.1.0"
