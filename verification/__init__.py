"""Statistical comparisons of the simulator with theory: `python -m verification` in the repository's top folder.

A topic is a module with a `run(quick)` that returns a Report. Exact statements (identities, queueing formulas) pass or
fail. Limits pass when the confidence interval contains them; where it does not, the report says so and by how much:
that is a finding about the theory at that size, not a failure of the program.
"""
