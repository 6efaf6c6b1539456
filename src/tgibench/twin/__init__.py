"""The performance twin: hardware, model shapes and engines as values, and what they make of a deployment's speed. No I/O, no clock."""
