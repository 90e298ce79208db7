"""The program `mascot`: its commands, and what a person sees in the terminal.

`app.py` is the program, with its exit codes and refusals. Each other file holds one command or two,
which parse their options, call a verb of `api/` and print tables. `options.py` has the options that
commands share. `console.py` renders the typed events of `progress.py` by one table, `RENDERERS`.

Nothing is computed here, and heavy libraries are imported only inside the commands, so that
`--help` is quick. No other room may import this one.
"""
