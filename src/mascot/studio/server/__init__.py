"""What stands between the browser and the studio: the password, files, live parts.

`password` guards every address but this machine's, `protection` sets the headers that keep requests
on this machine, and `routes` serves images, reports, downloads and the live parts of `fragments`.
Nothing is served by a path of a user's.
"""
