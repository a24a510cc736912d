"""What reused documents cost: prefill CPU seconds and TTFT, and what running decodes notice of it."""
