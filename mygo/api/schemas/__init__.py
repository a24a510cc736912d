"""What clients may send, as strict pydantic models: one file per resource."""
