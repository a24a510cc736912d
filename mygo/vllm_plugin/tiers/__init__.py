"""Host memory and disk behind the device's KV cache, and who stays where.

The policy is the knowledge tree's (``mygo.tree``); the mechanics are vLLM's offloading, through its
extension points: its scheduler half told what is worth loading (``scheduler``), its worker half with
loads that overlap the computation (``worker``, ``copier``), its managers with our replacement
(``host_policy``, ``disk_order``, ``device_queue``). A full disk holds what host memory does not, and gets it
before host memory lets go (``demotion``). What a waiting request would take is told by
``appraisal``. ``tiers.Tiers`` is what the connector talks to.
"""
