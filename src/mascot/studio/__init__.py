"""The studio: a page in the browser on the same verbs as the command line.

It knows the public verbs and the library of runs, and nothing of diffusion. `page` puts the tabs
together, `app` serves them with the routes of `server`, and `jobs` runs trainings, each in a
process of its own. Only the command line imports this room, and only when the page is opened.
"""
