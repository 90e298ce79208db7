"""What stands between the browser and the studio: sessions, the password, files, fragments.

`sessions` gives each browser a folder of its own, `password` guards every address but this
machine's, `protection` sets the headers that keep requests on this machine, and `routes` serves
images, reports, downloads and the live parts of the page. Nothing is served by a path of a user's.
"""
