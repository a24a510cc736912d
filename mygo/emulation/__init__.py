"""An engine that takes time in place of computing: vLLM's own scheduler and cache with MyGO's plugin,
and T seconds where the model's forward pass would be. For load tests of the control plane and for
simulation; whatever it answers is no language, and every face of it says that it is emulated.
"""
