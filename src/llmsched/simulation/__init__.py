"""One run: a workload and a policy become arrays, an engine runs rounds, a result comes out."""
