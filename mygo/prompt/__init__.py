"""PURE. From messages and passages to token ids, cut into segments that can be cached apart.

The contract: a segment's ids depend on its own text only, a segment's key on the path up to it only,
and text from outside never becomes a control token. So changing the question changes no key before
it, and a document has the same ids wherever it is ranked.

- ``template.py``: the model's chat template, split into literals and slots.
- ``encoding.py``: literals and text from outside to ids.
- ``order.py``: in which order documents stand.
- ``build.py``: the two layouts, within the context.
- ``conversation.py``: earlier turns as ids, so that a next turn can be appended.
"""

from mygo.prompt.build import PromptBuilder
from mygo.prompt.conversation import Conversations, Earlier
from mygo.prompt.order import CacheOrder, DocumentOrder, retrieval_order
from mygo.prompt.template import ChatTemplate, Message

__all__ = [
    "CacheOrder",
    "ChatTemplate",
    "Conversations",
    "DocumentOrder",
    "Earlier",
    "Message",
    "PromptBuilder",
    "retrieval_order",
]
