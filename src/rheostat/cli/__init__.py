"""The command line: parse, call, print. What a command needs is imported when it runs.

One file a group of commands; `app.py` holds what they share, `__main__.py` runs them. To add a
command, write a function under ``@app.command`` in the file of its group; a new group is a new
file, which `__main__.py` imports.
"""
