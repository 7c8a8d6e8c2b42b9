"""What the package promises about failures, each promise counted.

table.py lists the promises: how often each is tried in a plain run, how often in full, and which tests try it. A test
here gets its number from there, so that the table printed by `python -m tests.promises` equals what ran. small.py has
the run that is killed, stopped and damaged; workers.py the two processes that do it; crash.py what goes wrong in them.
"""
