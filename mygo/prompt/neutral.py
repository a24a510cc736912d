"""Neutral documents: text about nothing that anybody asks for, behind which documents may be computed.

A document's first place in a prompt, and the neighbours that it happens to have there, leave their marks in
its KV. Two documents that are the same everywhere leave marks that all copies share, and nobody's secrets.
"""

from __future__ import annotations

import hashlib

TEXTS = (
    "\n\nA meadow is a field with grasses, herbs and other plants that are not woody. It may be mown for hay "
    "or grazed by animals, and without either it turns into woodland in the course of years. Many kinds of "
    "flowers grow there, among them clover, daisies and buttercups, which draw bees and butterflies in "
    "summer. In early spring the ground is wet, and in late summer it is dry and yellow.",
    "\n\nA teapot is a vessel in which tea leaves are steeped in hot water. It has a body, a lid, a handle "
    "and a spout; the lid has a small hole that lets air in while tea is poured. Most are made of clay, "
    "porcelain, glass or metal. Warming the pot beforehand keeps the tea hot for longer, and a cover of "
    "cloth helps.",
)
"""Each with the gap before it that documents of prompts have."""
VERSION = hashlib.blake2b("".join(TEXTS).encode(), digest_size=8).hexdigest()
"""Names these texts: a copy behind others is another copy."""
