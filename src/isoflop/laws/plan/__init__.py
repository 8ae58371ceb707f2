"""What to run: questions asked of fitted laws, one a file, each answered with an interval and what carries it.

``fit.plan(compute=1e23)`` asks them in Python, ``isoflop plan`` on the command line.

A module imports from those before it in this list, never the other way:

- ``answer``: what every question returns.
- ``cost``, ``limits``, ``draws``, ``minimum``: FLOPs of a run, how far a law reaches, what its constants may be, the
  best size at a budget.
- ``best``, ``point``, ``reach``, ``off``, ``repeats``, ``lifetime``: the questions asked of a law of size and tokens.
- ``ask``: which of them a call means; ``isoflop.laws.law`` offers it as a method.
- ``batch``, ``qat``, ``sparse``, ``score``, ``pools``, ``transfer``: questions asked of the laws that know the answer.
- ``design``, ``next_runs``, ``rehearsal``, ``candidates``: what runs would teach; which to make next; the same from
  files, and played on known results (``candidates`` stands above ``verb``).
- ``transfer_runs``: which runs on new data carry a law over to them.
- ``machines``, ``sketch``: hours and energy of a plan; what its page draws.
- ``other_laws``, ``verb``: the same under other laws; what the command line does.
"""
