"""Reading the user's examples, cleaning, deduplicating, splitting and describing them.

``prepare.prepare`` makes a folder of splits with a data card, ``load`` reads it, ``inspect.inspect`` looks
at a file before there is a task.
"""
