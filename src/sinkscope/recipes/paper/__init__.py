"""Tables and figures of "Attention Sinks in Diffusion Transformers: A Causal Analysis" (arXiv 2605.09313).

One file per table. "as_released" is what the released scripts do for that table, as far as a study can say
it; "corrected" asks the same question without the known faults of the release (D1, D2, ...). What cannot be
repeated is said in `differs`.
"""
