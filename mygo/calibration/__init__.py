"""How good blended answers are, measured on a user's own documents and questions by the real engine.

Reading order: ``questions`` (what is asked, from a question set or made of documents), ``groups`` (which
prompts that makes), ``engine`` (vLLM in this process, answering as it is told to), ``measure`` (each question
exactly and by every repair), ``records`` (what came of it, on disk as it comes), ``report`` (which repair to
choose, by ``mygo.blend.calibrate``), ``paired`` (what choosing tokens in another way changes) and ``plots``.
"""
