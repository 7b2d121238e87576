"""A soak of the simulated fleet: one small story per seed, faults at every turn, and what has to hold after each.

A story has three or four hosts, two or three guests and as many controllers as die. Guests are moved and re-pinned at
random while faults strike: the fleet's named ones, calls that fail, controllers that die or are stopped for longer than
their lease and go on later, steps that fail or run twice, a ledger that is locked, full, away or loses an answer. Then
the world heals, new controllers recover, a person answers where one has to; and the tables and the hosts are read.

Everything is drawn from the seed, and all controllers run in one thread, in turns: a seed tells the same story again.
"""
