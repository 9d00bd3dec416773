"""Faults against a cluster of its own, then the verdict.

history   what the driver did and heard, in a file of its own; nothing the system says is believed
workload  whom the driver plays: pure, by seed
scenarios and plan    which faults come when: pure, by scenario, seed and duration
harm      one function for each kind of fault
nemesis   does what the plan says, and writes down what it did
checks    pure functions over everything that was gathered, each returning findings
harness   one scenario from its load to its verdict; `shared` keeps a cluster for several
"""
